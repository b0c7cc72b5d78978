"""One worker at a time: a lock that dies with its process.

The kernel holds the lock, so a process that was killed leaves none behind. The file says who has it, for the
others to read; it stays when the lock is given back.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Held", "Taken", "acquire", "lock"]


class Taken(Exception):
    """Somebody else works on it; the message says who."""


class Held:
    """A lock until it is released, or nobody has this object any more, or the process ends."""

    def __init__(self, descriptor: int):
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        self.release()


def acquire(file: Path) -> Held:
    """Take `file`.

    Raises:
      Taken: another process, here or on a host that shares the folder, holds it; or this one does already.
      OSError: it cannot be written, or its file system knows no locks.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "row"
    >>> held = acquire(file)
    >>> held.release()
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    held = Held(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        held.release()
        raise Taken(file.read_text().strip() or "another process") from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return held


@contextlib.contextmanager
def lock(file: Path) -> Iterator[None]:
    """Hold `file` for the length of the block.

    Raises:
      Taken, OSError: as `acquire`.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "row"
    >>> with lock(file):
    ...     print("mine")
    mine
    """
    held = acquire(file)
    try:
        yield
    finally:
        held.release()
