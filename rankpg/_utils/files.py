"""Atomic writes, file locks, and text that may be packed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import socket
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from rankpg._utils.own_files import open_own

__all__ = [
    "Held",
    "Taken",
    "acquire",
    "atomic_write",
    "atomic_write_all",
    "atomic_write_text",
    "lock",
    "remove_partials",
    "sync",
    "sync_folder",
    "sync_tree",
]

_PARTIAL = ".partial"


@contextlib.contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """Yields a temporary path that replaces `file` at the end of the block, unless the block raises.

    The file is on the disk before it gets its name. Several writers of one file each have a temporary path of
    their own; the last one to end stays. A process that is killed may leave a temporary path behind.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "metadata"
    >>> with atomic_write(file) as partial:
    ...     _ = partial.write_text("all of it")
    >>> file.read_text(), partial.exists()
    ('all of it', False)
    """
    partial = _new_partial(file)
    try:
        yield partial
        sync(partial)
        os.replace(partial, file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(file.parent)


def atomic_write_text(file: Path, content: str | bytes) -> None:
    """Writes text, as UTF-8, or bytes.

    Raises:
      OSError: it cannot be written, on a full disk for instance; the former content stays.
    """
    with atomic_write(file) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def atomic_write_all(contents: Mapping[Path, bytes]) -> None:
    """Writes several files, none of which is replaced before all are on the disk.

    A process that is killed between two of the renames leaves some of the former files; each is whole.

    Args:
      contents: content by file.

    Raises:
      OSError: they cannot be written; the former files stay.
    """
    partials: dict[Path, Path] = {}
    try:
        for file, content in contents.items():
            partials[file] = _new_partial(file)
            partials[file].write_bytes(content)
            sync(partials[file])
        for file, partial in partials.items():
            os.replace(partial, file)
    except BaseException:
        for partial in partials.values():
            partial.unlink(missing_ok=True)
        raise
    for folder in {file.parent for file in contents}:
        sync_folder(folder)


def _new_partial(file: Path) -> Path:
    """Returns a new, empty file, which will take the name of `file`."""
    partial = file.with_name(f"{file.name}.{secrets.token_hex(4)}{_PARTIAL}")
    os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
    return partial


def remove_partials(file: Path) -> None:
    """Removes temporary paths of `file` that killed processes left; no other process may be writing it."""
    ours = re.compile(re.escape(file.name) + r"\.[0-9a-f]{8}" + re.escape(_PARTIAL))
    for other in file.parent.iterdir() if file.parent.is_dir() else ():
        if ours.fullmatch(other.name) and not other.is_dir():
            other.unlink(missing_ok=True)


def sync(file: Path) -> None:
    """Waits until the content of a file is on the disk.

    Raises:
      OSError: it cannot be written.
    """
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot wait
            raise
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Waits until the names in a folder are on the disk, where the file system can wait for that."""
    with contextlib.suppress(OSError):  # the rename has happened: it can no longer fail
        sync(folder)


def sync_tree(folder: Path) -> None:
    """Waits until all files below a folder are on the disk, and gives them the permissions of new files.

    Some libraries create files that only their owner can read, whatever the umask is.

    Raises:
      OSError: a file cannot be written.
    """
    mode = _mode_of_new_files(folder)
    for place, _, names in os.walk(folder):
        for file in (Path(place, name) for name in names):
            if stat.S_IMODE(file.stat().st_mode) != mode:
                file.chmod(mode)
            sync(file)
        sync_folder(Path(place))


def _mode_of_new_files(folder: Path) -> int:
    """Returns the permissions of a new file; reading the umask itself would change it for other threads."""
    probe = folder / f"mode.{secrets.token_hex(4)}{_PARTIAL}"
    descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        return stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)
        probe.unlink()


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
      OSError: it cannot be written, is a link, or its file system does not support locks.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "row"
    >>> held = acquire(file)
    >>> held.release()
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = open_own(file, os.O_RDWR | os.O_CREAT)
    held = Held(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        held.release()
        raise Taken(file.read_text().strip() or "another process") from None
    with contextlib.suppress(OSError):  # on a full disk it is locked, but does not say by whom
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
