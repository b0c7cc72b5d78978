"""Files that are there whole or not at all: written beside their place, then moved to it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Held", "Taken", "acquire", "atomic_write", "atomic_write_text", "lock"]


@contextlib.contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """Where to write what becomes `file` at the end of the block; nothing is left of a block that raises.

    Of several that write one file at once each has a place of its own, and the last to end stays.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "notes"
    >>> with atomic_write(file) as partial:
    ...     _ = partial.write_text("all of it")
    >>> file.read_text(), partial.exists()
    ('all of it', False)
    """
    partial = file.with_name(f"{file.name}.{os.getpid()}.{threading.get_ident()}.partial")
    try:
        yield partial
        os.replace(partial, file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def atomic_write_text(file: Path, content: str | bytes) -> None:
    """Write text, as UTF-8, or bytes.

    Raises:
      OSError: the disk does not take it; what was there stays.
    """
    with atomic_write(file) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


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
