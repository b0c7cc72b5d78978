"""One worker a row: a lock that dies with its process.

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

__all__ = ["Taken", "lock"]


class Taken(Exception):
    """Somebody else works on it; the message says who."""


@contextlib.contextmanager
def lock(file: Path) -> Iterator[None]:
    """Hold `file` for the length of the block.

    Raises:
      Taken: another process, here or on a host that shares the folder, holds it.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "row"
    >>> with lock(file):
    ...     print("mine")
    mine
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Taken(file.read_text().strip() or "another process") from None
        held.truncate(0)
        held.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        held.flush()
        yield
