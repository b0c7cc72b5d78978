"""Propensities and feedback in Parquet, for off-policy evaluation; the schema is in docs/live.md."""

from __future__ import annotations

import datetime
import os
import secrets
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from rankpg.live.retriever import Draw

__all__ = ["Log", "read_log"]

SCHEMA = "1"
DRAWS, FEEDBACK = "draws", "feedback"


class Log:
    """Rows in memory, written as a new file of at most `rows_per_file` rows whenever so many are together.

    A file is there whole or not at all. What has not been written when the process dies is lost; `flush`
    (which `Retriever.save` calls) writes it.
    """

    def __init__(self, folder: Path | str, rows_per_file: int = 10_000):
        """Make the folder.

        Raises:
          ValueError: rows_per_file below 1.
          ModuleNotFoundError: no pyarrow.
        """
        _arrow()
        if rows_per_file < 1:
            raise ValueError(f"rows_per_file is {rows_per_file}; expected at least 1")
        self.folder, self.rows_per_file = Path(folder), rows_per_file
        self.folder.mkdir(parents=True, exist_ok=True)
        self._rows: dict[str, list[dict[str, Any]]] = {DRAWS: [], FEEDBACK: []}
        self._method = ""

    def drew(self, draw: Draw, inclusion_method: str) -> None:
        """One row a context."""
        self._method, now = inclusion_method, _now()
        columns = draw.contexts, draw.candidates, draw.log_propensity, draw.log_inclusion
        self._rows[DRAWS] += [
            {
                "token": draw.token,
                "row": row,
                "time": now,
                "step": draw.step,
                "context": context,
                "candidates": candidates,
                "log_propensity": log_propensity,
                "log_inclusion": log_inclusion,
            }
            for row, (context, candidates, log_propensity, log_inclusion) in enumerate(
                zip(*(column.tolist() for column in columns), strict=True)
            )
        ]
        self._write_if_full(DRAWS)

    def learnt(
        self, token: str, rows: np.ndarray, ranking: np.ndarray, rewards: np.ndarray, step: int
    ) -> None:
        """One row for each row of a draw that was told."""
        now = _now()
        self._rows[FEEDBACK] += [
            {
                "token": token,
                "row": row,
                "time": now,
                "step": step,
                "ranking": shown,
                "rewards": earned,
            }
            for row, shown, earned in zip(
                rows.tolist(), ranking.tolist(), rewards.tolist(), strict=True
            )
        ]
        self._write_if_full(FEEDBACK)

    def flush(self) -> None:
        """Write what is in memory.

        Raises:
          OSError: it cannot be written; it stays in memory.
        """
        for name in self._rows:
            self._write(name)

    def _write_if_full(self, name: str) -> None:
        """Serving goes on where the disk does not: what could not be written stays in memory."""
        if len(self._rows[name]) < self.rows_per_file:
            return
        try:
            self._write(name)
        except OSError as error:
            warnings.warn(
                f"{len(self._rows[name])} rows of {name} stay in memory: {self.folder} cannot be written "
                f"({error})",
                stacklevel=4,
            )

    def _write(self, name: str) -> None:
        rows = self._rows[name]
        if not rows:
            return
        pyarrow, parquet = _arrow()
        table = pyarrow.Table.from_pylist(rows, _schema(name, rows[0], self._method))
        stem = f"{name}-{_now():%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
        partial = self.folder / f"{stem}.partial"
        try:
            parquet.write_table(table, partial)
            os.replace(partial, self.folder / f"{stem}.parquet")
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        rows.clear()


def read_log(folder: Path | str) -> tuple[Any, Any]:
    """All draws and all feedback of a folder, as two pyarrow tables; None for one of which there is no file.

    They belong together by `token` and `row`.
    """
    pyarrow, parquet = _arrow()

    def read(name: str) -> Any:
        files = sorted(Path(folder).glob(f"{name}-*.parquet"))
        return pyarrow.concat_tables(map(parquet.read_table, files)) if files else None

    return read(DRAWS), read(FEEDBACK)


def _schema(name: str, example: dict[str, Any], method: str) -> Any:
    pyarrow, _ = _arrow()
    items = example["candidates" if name == DRAWS else "ranking"]
    item = pyarrow.string() if isinstance(items[0], str) else pyarrow.int64()
    common = [
        ("token", pyarrow.string()),
        ("row", pyarrow.int32()),
        ("time", pyarrow.timestamp("us", tz="UTC")),
        ("step", pyarrow.int64()),
    ]
    if name == FEEDBACK:
        fields = [("ranking", pyarrow.list_(item)), ("rewards", pyarrow.list_(pyarrow.float32()))]
    else:
        context = pyarrow.string() if isinstance(example["context"], str) else pyarrow.int64()
        fields = [
            ("context", context),
            ("candidates", pyarrow.list_(item)),
            ("log_propensity", pyarrow.float32()),
            ("log_inclusion", pyarrow.list_(pyarrow.float32())),
        ]
    about = {"rankpg.schema": SCHEMA, "rankpg.table": name, "rankpg.inclusion_method": method}
    return pyarrow.schema([*common, *fields], metadata=about)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the log needs pyarrow: pip install 'rankpg[data]'") from error
    return pyarrow, pyarrow.parquet
