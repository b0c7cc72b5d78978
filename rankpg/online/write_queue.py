"""Rows that wait to be written by a thread of their own, so that a slow or full disk delays no one else."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["WriteQueue"]

Part = TypeVar("Part")


class WriteQueue(Generic[Part]):
    """A queue in memory, of bounded size, in front of a function that writes.

    `put` never waits for the disk. A thread writes once `rows_per_write` rows wait, and ends when there is
    nothing left to write. If a write fails, the rows stay, and the next `put` after `retry_after` seconds
    tries again. Meanwhile, from half of the bound on, rows go to `spill`, if there is one. Rows beyond the
    bound are dropped and counted.

    >>> written = []
    >>> queue = WriteQueue(written.append, rows_per_write=2, most_rows=3)
    >>> queue.put("a", 1)
    >>> queue.flush(60.0)
    >>> written
    [['a']]
    """

    def __init__(
        self,
        write: Callable[[list[Part]], None],
        *,
        rows_per_write: int,
        most_rows: int,
        spill: Callable[[list[Part]], None] | None = None,
        retry_after: float = 10.0,
    ):
        """Starts no thread yet.

        Args:
          write: writes some parts; raises OSError if the disk fails.
          rows_per_write: rows that wait before a write.
          most_rows: bound of the rows in memory.
          spill: writes to another place.
          retry_after: seconds before a write that failed is tried again.
        """
        self._write, self._spill = write, spill
        self._rows_per_write, self._most_rows = rows_per_write, most_rows
        self._retry_after, self._retry_at = retry_after, 0.0
        self._parts: deque[tuple[Part, int]] = deque()
        self._changed = threading.Condition()
        self._running = False
        self._wanted = self._flushed = 0  # flushes
        self._news: str | None = None
        self.waiting = 0
        """Rows in memory."""
        self.dropped = 0
        """Rows that were dropped: beyond the bound, or impossible to write."""
        self.spilled = 0
        """Rows that were written to the other place."""
        self.error: Exception | None = None
        """The reason why the last write failed; None if it did not."""

    def put(self, part: Part, rows: int) -> None:
        """Adds a part that holds this many rows, or drops it if the queue is full."""
        with self._changed:
            if self.waiting + rows > self._most_rows:
                if not self.dropped:
                    self._news = (
                        "the memory holds the most rows that it may: further rows are dropped"
                    )
                self.dropped += rows
            else:
                self._parts.append((part, rows))
                self.waiting += rows
            if self.waiting >= self._rows_per_write and time.monotonic() >= self._retry_at:
                self._start()

    def flush(self, timeout: float) -> None:
        """Writes the rows that wait now.

        Raises:
          OSError: the disk cannot be written, or not within `timeout` seconds; the rows stay in memory.
        """
        with self._changed:
            if not self._parts:
                return
            self._wanted += 1
            wanted = self._wanted
            self._start()
            in_time = self._changed.wait_for(lambda: self._flushed >= wanted, timeout)
            if not in_time:
                raise TimeoutError(f"the disk has not responded within {timeout:g} s")
            if self._parts and self.error is not None:
                raise self.error

    def spill_waiting(self) -> None:
        """Writes what waits to the other place, if there is one: before the process ends.

        Raises:
          OSError: the other place cannot be written either.
        """
        with self._changed:
            if self._spill is None or not self._parts:
                return
            self._spill([part for part, _ in self._parts])
            self.spilled += self.waiting
            self._parts.clear()
            self.waiting = 0

    def take_news(self) -> str | None:
        """Returns the problem since the last call, in words; None if there is none."""
        news, self._news = self._news, None
        return news

    def _start(self) -> None:
        if not self._running:
            self._running = True
            threading.Thread(target=self._work, name="rankpg-log", daemon=True).start()

    def _work(self) -> None:
        try:
            self._write_waiting()
        except BaseException as failure:
            with self._changed:  # the next write starts a thread again
                self.error = OSError(f"the thread that writes has ended: {failure!r}")
                self._flushed, self._running = self._wanted, False
                self._changed.notify_all()
            raise

    def _write_waiting(self) -> None:
        while True:
            with self._changed:
                wanted, parts, rows = self._wanted, [], 0
                enough = 1 if wanted > self._flushed else self._rows_per_write
                if self.waiting >= enough:
                    for part, size in self._parts:
                        parts.append(part)
                        rows += size
                        if rows >= self._rows_per_write:
                            break
                if not parts or (wanted == self._flushed and time.monotonic() < self._retry_at):
                    self._flushed, self._running = wanted, False
                    self._changed.notify_all()
                    return
            failure = self._tried(parts, rows)
            with self._changed:
                if failure is None:
                    for _ in parts:
                        self._parts.popleft()
                    self.waiting -= rows
                else:
                    self._retry_at = time.monotonic() + self._retry_after
                    self._flushed = wanted
                    self._changed.notify_all()

    def _tried(self, parts: list[Part], rows: int) -> Exception | None:
        """Writes parts; returns why they must stay, None if they are done with."""
        try:
            self._write(parts)
        except OSError as error:
            if self.error is None:
                self._news = f"rows stay in memory: {error}"
            self.error = error
        except Exception as error:
            self.dropped += rows
            self._news = f"{rows} rows cannot be written and are dropped: {error}"
            return None
        else:
            self.error = None
            return None
        if self._spill is None or self.waiting < self._most_rows / 2:
            return self.error
        try:
            self._spill(parts)
        except Exception as error:
            self._news = f"the spill fails as well: {error}"
            return error
        self.spilled += rows
        return None
