"""Propensities and feedback in Parquet, for off-policy evaluation; the schema is in docs/online.md."""

from __future__ import annotations

import datetime
import secrets
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rankpg._utils.files import atomic_write
from rankpg._utils.paths import expanded

__all__ = ["Log", "read_log"]

if TYPE_CHECKING:
    from rankpg.data.ids import IdMap
    from rankpg.online.pending import Draw

SCHEMA = "1"
DRAWS, FEEDBACK = "draws", "feedback"


class Log:
    """A log of draws and feedback in Parquet files of `rows_per_file` rows.

    Files are written atomically. Rows in memory are lost when the process dies; `flush`, which
    `Retriever.save` calls, writes them.
    """

    def __init__(self, folder: Path | str, rows_per_file: int = 10_000):
        """Creates the folder.

        Raises:
          ValueError: rows_per_file below 1.
          ModuleNotFoundError: pyarrow is not installed.
        """
        arrow, _ = _arrow()
        if rows_per_file < 1:
            raise ValueError(f"rows_per_file={rows_per_file}; expected at least 1")
        self.folder, self.rows_per_file = expanded(folder), rows_per_file
        self.folder.mkdir(parents=True, exist_ok=True)
        self._rows: dict[str, list[dict[str, Any]]] = {DRAWS: [], FEEDBACK: []}
        self._method = ""
        self._types: dict[str, Any] = {"context": arrow.int64(), "item": arrow.int64()}

    def declare(self, contexts: IdMap, items: IdMap) -> None:
        """Declares whose ids will be written, before the first of them is.

        Raises:
          ValueError: an id that Parquet cannot hold.
        """
        for name, ids in (("context", contexts), ("item", items)):
            self._types[name] = _id_type(ids, name)

    def log_draw(self, draw: Draw, inclusion_method: str) -> None:
        """Logs a draw, one row for each context."""
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

    def log_feedback(
        self, token: str, rows: np.ndarray, ranking: np.ndarray, rewards: np.ndarray, step: int
    ) -> None:
        """Logs feedback, one row for each row of a draw."""
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
        """Writes the rows in memory.

        Raises:
          OSError: the disk cannot be written; the rows stay in memory.
        """
        for name in self._rows:
            self._write(name)

    def _write_if_full(self, name: str) -> None:
        """Writes when a file is full; rows stay in memory if the disk fails, so that serving continues."""
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
        table = pyarrow.Table.from_pylist(rows, _schema(name, self._types, self._method))
        stem = f"{name}-{_now():%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
        file = self.folder / f"{stem}.parquet"
        with atomic_write(file) as partial, partial.open("wb") as content:
            parquet.write_table(table, content)  # a path with some names would be read as a URL
        rows.clear()


def read_log(folder: Path | str) -> tuple[Any, Any]:
    """Reads all draws and all feedback of a folder as two pyarrow tables; None for a missing file.

    Join them by `token` and `row`.
    """
    pyarrow, parquet = _arrow()

    def read(name: str) -> Any:
        files = sorted(expanded(folder).glob(f"{name}-*.parquet"))
        return pyarrow.concat_tables(map(parquet.read_table, files)) if files else None

    return read(DRAWS), read(FEEDBACK)


def _id_type(known: IdMap, name: str) -> Any:
    """The type of these ids in Parquet."""
    pyarrow, _ = _arrow()
    if known.is_range:
        return pyarrow.int64()
    ids = known.ids
    try:
        found = pyarrow.array(ids[:1]).type
        if ids.dtype.kind == "U":
            pyarrow.array(ids)
    except UnicodeError:
        half = next(x for x in ids.tolist() if any("\ud800" <= c <= "\udfff" for c in x))
        raise ValueError(
            f"the {name} id {half!r} is not valid Unicode (it has a lone surrogate), which Parquet "
            "cannot hold; change it, or use no log"
        ) from None
    except pyarrow.ArrowException as error:
        raise ValueError(f"the {name} ids ({ids.dtype}) cannot be logged: {error}") from error
    return pyarrow.int64() if pyarrow.types.is_signed_integer(found) else found


def _schema(name: str, types: dict[str, Any], method: str) -> Any:
    pyarrow, _ = _arrow()
    item = types["item"]
    common = [
        ("token", pyarrow.string()),
        ("row", pyarrow.int32()),
        ("time", pyarrow.timestamp("us", tz="UTC")),
        ("step", pyarrow.int64()),
    ]
    if name == FEEDBACK:
        fields = [("ranking", pyarrow.list_(item)), ("rewards", pyarrow.list_(pyarrow.float32()))]
    else:
        fields = [
            ("context", types["context"]),
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
