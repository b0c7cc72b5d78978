"""Propensities and feedback in Parquet, for off-policy evaluation; the schema is in docs/online.md."""

from __future__ import annotations

import atexit
import contextlib
import datetime
import secrets
import warnings
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rankpg._utils.files import atomic_write
from rankpg._utils.paths import expanded
from rankpg.online.write_queue import WriteQueue

__all__ = ["Log", "read_log"]

if TYPE_CHECKING:
    from rankpg.data.ids import IdMap
    from rankpg.online.pending import Draw

SCHEMA = "2"
DRAWS, FEEDBACK = "draws", "feedback"
_PATIENCE = 10.0
"""Seconds for which `flush` waits for the disk."""


class Log:
    """A log of draws and feedback in Parquet files of `rows_per_file` rows, written by a thread of its own.

    Neither a draw nor a save waits for the disk. Rows wait in memory, up to `rows_in_memory` of draws and as
    many of feedback; from half of that on, rows that cannot be written go to `spill`, if one is given; rows
    beyond the bound are dropped and counted in `dropped`. Every one of these is a warning once.

    Files are written atomically. Rows in memory are lost when the process is killed; `flush`, which
    `Retriever.save` and the end of the process call, writes them.
    """

    def __init__(
        self,
        folder: Path | str,
        rows_per_file: int = 10_000,
        *,
        rows_in_memory: int = 1_000_000,
        spill: Path | str | None = None,
        retry_after: float = 10.0,
    ):
        """Creates the folders.

        Args:
          folder: the files go here.
          rows_per_file: rows of a file.
          rows_in_memory: bound of the rows that wait, of draws and of feedback each.
          spill: another folder, on another disk, for rows that `folder` does not take.
          retry_after: seconds before a write that failed is tried again, above 0. The next row that is
            logged after this time tries it.

        Raises:
          ValueError: rows_per_file below 1, rows_in_memory below rows_per_file, or retry_after not above 0.
          ModuleNotFoundError: pyarrow is not installed.
        """
        arrow, _ = _arrow()
        if rows_per_file < 1:
            raise ValueError(f"rows_per_file={rows_per_file}; expected at least 1")
        if rows_in_memory < rows_per_file:
            raise ValueError(
                f"rows_in_memory={rows_in_memory}; expected at least rows_per_file={rows_per_file}"
            )
        if not 0 < retry_after < float("inf"):
            raise ValueError(
                f"retry_after={retry_after:g}; expected a number of seconds above 0, such as 10: with 0, a "
                "disk that fails is tried again for every row"
            )
        self.folder, self.rows_per_file = expanded(folder), rows_per_file
        self.spill = None if spill is None else expanded(spill)
        for each in (self.folder, self.spill):
            if each is not None:
                each.mkdir(parents=True, exist_ok=True)
        self._method = ""
        self._types: dict[str, Any] = {"context": arrow.int64(), "item": arrow.int64()}
        self._queues = {
            name: WriteQueue(
                partial(self._write, self.folder, name),
                rows_per_write=rows_per_file,
                most_rows=rows_in_memory,
                spill=None if self.spill is None else partial(self._write, self.spill, name),
                retry_after=retry_after,
            )
            for name in (DRAWS, FEEDBACK)
        }
        atexit.register(_flush_at_exit, weakref.ref(self))

    def declare(self, contexts: IdMap, items: IdMap) -> None:
        """Declares whose ids will be written, before the first of them is.

        Raises:
          ValueError: an id that Parquet cannot hold.
        """
        for name, ids in (("context", contexts), ("item", items)):
            self._types[name] = _id_type(ids, name)

    @property
    def waiting(self) -> int:
        """Rows in memory."""
        return sum(queue.waiting for queue in self._queues.values())

    @property
    def dropped(self) -> int:
        """Rows that were dropped because the disk took none for too long."""
        return sum(queue.dropped for queue in self._queues.values())

    @property
    def spilled(self) -> int:
        """Rows that were written to `spill`."""
        return sum(queue.spilled for queue in self._queues.values())

    def log_draw(self, draw: Draw, inclusion_method: str) -> None:
        """Logs a draw, one row for each context."""
        self._method = inclusion_method
        # Copies: the caller may change what it was given before it is written.
        rows = [
            column.copy()
            for column in (draw.contexts, draw.candidates, draw.log_propensity, draw.log_inclusion)
        ]
        self._put(DRAWS, _Drawn(draw.token, _now(), draw.step, draw.stream, *rows), len(rows[0]))

    def log_feedback(
        self,
        token: str,
        rows: np.ndarray,
        ranking: list[list[Any]],
        rewards: list[list[float]],
        step: int,
    ) -> None:
        """Logs feedback, one row for each row of a draw: the shown items and their rewards."""
        self._put(FEEDBACK, _Feedback(token, _now(), step, rows, ranking, rewards), len(rows))

    def flush(self, timeout: float = _PATIENCE) -> None:
        """Writes the rows in memory.

        Raises:
          OSError: the disk cannot be written, or not within `timeout` seconds; the rows stay in memory.
        """
        for queue in self._queues.values():
            queue.flush(timeout)

    def spill_waiting(self) -> None:
        """Writes the rows in memory to `spill`, if there is one; those that it does not take stay."""
        for queue in self._queues.values():
            with contextlib.suppress(OSError):
                queue.spill_waiting()

    def _put(self, name: str, part: _Drawn | _Feedback, rows: int) -> None:
        queue = self._queues[name]
        queue.put(part, rows)
        news = queue.take_news()
        if news is not None:
            warnings.warn(
                f"the log of {name} in {self.folder}: {news}. {queue.waiting} rows wait, "
                f"{queue.dropped} were dropped",
                stacklevel=4,
            )

    def _write(self, folder: Path, name: str, parts: list[Any]) -> None:
        pyarrow, parquet = _arrow()
        rows = [row for part in parts for row in part.rows()]
        table = pyarrow.Table.from_pylist(rows, _schema(name, self._types, self._method))
        stem = f"{name}-{_now():%Y%m%dT%H%M%S%f}-{secrets.token_hex(4)}"
        file = folder / f"{stem}.parquet"
        with atomic_write(file) as partial_file, partial_file.open("wb") as content:
            parquet.write_table(table, content)  # a path with some names would be read as a URL


class _Drawn(NamedTuple):
    """A draw that waits to be written."""

    token: str
    time: datetime.datetime
    step: int
    stream: int
    contexts: np.ndarray
    candidates: np.ndarray
    log_propensity: np.ndarray
    log_inclusion: np.ndarray

    def rows(self) -> Iterator[dict[str, Any]]:
        for row, (context, candidates, log_propensity, log_inclusion) in enumerate(
            zip(*(column.tolist() for column in self[4:]), strict=True)
        ):
            yield {
                "token": self.token,
                "row": row,
                "time": self.time,
                "step": self.step,
                "stream": self.stream,
                "context": context,
                "candidates": candidates,
                "log_propensity": log_propensity,
                "log_inclusion": log_inclusion,
            }


class _Feedback(NamedTuple):
    """Feedback that waits to be written."""

    token: str
    time: datetime.datetime
    step: int
    places: np.ndarray
    ranking: list[list[Any]]
    rewards: list[list[float]]

    def rows(self) -> Iterator[dict[str, Any]]:
        for row, shown, earned in zip(
            self.places.tolist(), self.ranking, self.rewards, strict=True
        ):
            yield {
                "token": self.token,
                "row": row,
                "time": self.time,
                "step": self.step,
                "ranking": shown,
                "rewards": earned,
            }


def _flush_at_exit(log: weakref.ref[Log]) -> None:
    """Writes what waits when the process ends."""
    found = log()
    if found is None or not found.waiting:
        return
    try:
        found.flush()
    except OSError as error:
        found.spill_waiting()
        if not found.waiting:
            return
        warnings.warn(f"{found.waiting} rows of the log are lost: {error}", stacklevel=1)


def read_log(*folders: Path | str) -> tuple[Any, Any]:
    """Reads all draws and all feedback of folders as two pyarrow tables; None for a missing file.

    Join them by `token` and `row`. Give the folder of the log, and that of its spill if there is one.
    """
    pyarrow, parquet = _arrow()

    def read(name: str) -> Any:
        files = sorted(
            file for each in folders for file in expanded(each).glob(f"{name}-*.parquet")
        )
        tables = map(parquet.read_table, files)
        return pyarrow.concat_tables(tables, promote_options="default") if files else None

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
            ("stream", pyarrow.int64()),
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
