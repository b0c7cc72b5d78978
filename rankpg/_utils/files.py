"""Atomic writes, file locks, and text that may be packed."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import io
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Held", "Taken", "acquire", "atomic_write", "atomic_write_text", "lock", "open_text"]


@contextlib.contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """Yields a temporary path that replaces `file` at the end of the block, unless the block raises.

    Several writers of one file each have a temporary path of their own; the last one to end stays.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "metadata"
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
    """Writes text, as UTF-8, or bytes.

    Raises:
      OSError: it cannot be written, on a full disk for instance; the former content stays.
    """
    with atomic_write(file) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


class Taken(Exception):
    """A lock that another process holds; the message names it."""


class Held:
    """A lock, held until it is released, this object is deleted, or the process ends."""

    def __init__(self, descriptor: int):
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        self.release()


def acquire(file: Path) -> Held:
    """Locks `file`.

    Raises:
      Taken: a process holds it already: this one, or another one here or on a host that shares the folder.
      OSError: it cannot be written, or its file system does not support locks.

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
    """Locks `file` for the duration of the block.

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


def open_text(path: Path) -> io.TextIOWrapper:
    """Opens a file as text, unpacked if its name ends in .gz; the caller closes it."""
    content = gzip.GzipFile(path) if path.suffix.lower() == ".gz" else path.open("rb")
    return io.TextIOWrapper(content, newline="", encoding="utf-8-sig", errors="replace")
