"""A disk that fails, and a process that dies, at a chosen operation on files.

`faults(folder, at, how)` counts every operation that changes something below a folder: opening for writing,
each write, truncating, fsync, mkdir, chmod, rename and removal. Operation number `at` goes wrong:

"fail"         it raises OSError, once
"full"         it and all later ones that need space raise OSError; renames and removals go on to work
"kill before"  it is not done, and neither is any later one: nothing can be cleaned up
"kill after"   as before, but the operation itself is done
"kill within"  as before, but half of a write is done
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from rankpg.errors import ConfigError

HOW = ("fail", "full", "kill before", "kill after", "kill within")
_NEED_SPACE = {"open", "write", "mkdir", "fsync"}
_ON_PATHS = (
    "mkdir",
    "rename",
    "replace",
    "unlink",
    "remove",
    "rmdir",
    "chmod",
    "symlink",
    "truncate",
)
_ON_DESCRIPTORS = ("fsync", "fdatasync", "ftruncate", "pwrite")


class Killed(BaseException):
    """The end of the process: raised by every operation from here on."""


class Faults:
    """Counter of the operations below a folder, one of which goes wrong."""

    def __init__(self, folder: Path, at: int | None, how: str):
        self.folder, self.at, self.how = os.path.realpath(folder), at, how
        self.count, self.happened, self.last = 0, False, ""

    def watches(self, path: object) -> bool:
        if not isinstance(path, str | os.PathLike):
            return False
        return os.path.realpath(os.path.dirname(os.path.abspath(path))).startswith(self.folder)

    def operation(self, name: str, act: Callable[[], Any], half: Callable[[], Any] | None = None):
        if self.happened and self.how.startswith("kill"):
            raise Killed
        if self.happened and self.how == "full" and name in _NEED_SPACE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        number, self.count = self.count, self.count + 1
        if number != self.at:
            return act()
        self.happened, self.last = True, name
        if self.how in ("fail", "full"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.how == "kill within" and half is not None:
            half()
        if self.how == "kill after":
            act()
        raise Killed


class _File:
    """An open file, whose writes are operations."""

    def __init__(self, file: Any, faults: Faults):
        self._file, self._faults = file, faults

    def write(self, content: Any) -> int:
        def half():
            self._file.write(content[: len(content) // 2])
            self._file.flush()

        def act():
            written = self._file.write(content)
            self._file.flush()  # a process that is killed later has written it
            return written

        return self._faults.operation("write", act, half)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def truncate(self, size: int | None = None) -> int:
        return self._faults.operation("ftruncate", lambda: self._file.truncate(size))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self):
        self._file.__enter__()
        return self

    def __exit__(self, *error):
        return self._file.__exit__(*error)

    def __iter__(self):
        return iter(self._file)


@contextlib.contextmanager
def faults(folder: Path, at: int | None = None, how: str = "fail") -> Iterator[Faults]:
    """Lets operation number `at` below a folder go wrong; None only counts."""
    found = Faults(folder, at, how)
    real_open, real_os_open, real_fdopen = io.open, os.open, os.fdopen

    def open_file(file, mode="r", *arguments, **options):
        if not set(mode) & set("wax+") or not found.watches(file):
            return real_open(file, mode, *arguments, **options)
        opened = found.operation("open", lambda: real_open(file, mode, *arguments, **options))
        return _File(opened, found)

    def os_open(path, flags, *arguments, **options):
        if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) or not found.watches(path):
            return real_os_open(path, flags, *arguments, **options)
        return found.operation("open", lambda: real_os_open(path, flags, *arguments, **options))

    def fdopen(descriptor, *arguments, **options):
        return _File(real_fdopen(descriptor, *arguments, **options), found)

    def on_paths(name):
        real = getattr(os, name)

        def act(path, *arguments, **options):
            if not (options.get("dir_fd") or found.watches(path)):
                return real(path, *arguments, **options)
            return found.operation(name, lambda: real(path, *arguments, **options))

        return act

    def on_descriptors(name):
        real = getattr(os, name)
        return lambda *arguments: found.operation(name, lambda: real(*arguments))

    with contextlib.ExitStack() as patches:
        patches.enter_context(mock.patch.object(io, "open", open_file))
        patches.enter_context(mock.patch.object(builtins, "open", open_file))
        patches.enter_context(mock.patch.object(os, "open", os_open))
        patches.enter_context(mock.patch.object(os, "fdopen", fdopen))
        for name in _ON_PATHS:
            patches.enter_context(mock.patch.object(os, name, on_paths(name)))
        for name in _ON_DESCRIPTORS:
            patches.enter_context(mock.patch.object(os, name, on_descriptors(name)))
        yield found


def each_fault(base: Path, start: Path | None, act: Callable[[Path], object], hows=HOW, stride=1):
    """Yields a copy of a folder after each fault in `act`, and how it was interrupted."""
    with faults(base / "count") as counted:
        act(begin(base / "count", start))
    assert counted.count > 5
    for how in hows:
        for number in range(0, counted.count, stride):
            path = begin(base / "run", start)
            error: BaseException | None = None
            with faults(path, number, how) as fault:
                try:
                    act(path)
                except (Killed, OSError, ConfigError) as raised:
                    error = raised.with_traceback(
                        None
                    )  # which would hold the lock of a dead process
            if fault.happened:  # else what differs from one time to the next made fewer operations
                yield path, f"{how} at {number}, {fault.last}", error


def begin(path: Path, start: Path | None) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    if start is not None:
        shutil.copytree(start, path)
    return path


class PlainCheckpointer:
    """Writes the arrays of a checkpoint as Orbax does, in a folder of its own, in a hundredth of the time."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def save(self, folder: Path, arrays: dict) -> None:
        writing = folder.with_name(f"{folder.name}.orbax-checkpoint-tmp")
        (writing / "d").mkdir(parents=True)
        with (writing / "d" / "arrays.npz").open("wb") as file:
            np.savez(file, **arrays)
        writing.rename(folder)

    def restore(self, folder: Path) -> dict:
        with np.load(folder / "d" / "arrays.npz") as arrays:
            return dict(arrays)
