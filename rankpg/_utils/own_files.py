"""Files of this program in a folder that may come from anyone: links in it are refused, not followed."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from rankpg.errors import ConfigError

__all__ = ["open_own", "refuse_links", "refuse_links_below"]


def refuse_links(paths: Iterable[Path]) -> None:
    """Rejects a path that is neither a file nor a folder: a symbolic link, or a device.

    Args:
      paths: places that this program reads or writes; those that do not exist are left out.

    Raises:
      ConfigError: names the first such path.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "log").symlink_to("/etc/hostname")
    >>> refuse_links([folder, folder / "absent"])
    >>> refuse_links([folder / "log"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    rankpg.errors.ConfigError: .../log is a symbolic link, and a link in a folder of rankpg is not ...
    """
    for path in paths:
        try:
            mode = path.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        if stat.S_ISLNK(mode):
            raise ConfigError(
                f"{path} is a symbolic link, and a link in a folder of rankpg is not followed; put the "
                "file or folder itself in its place, or move the link away"
            )
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise ConfigError(f"{path} is neither a file nor a folder; move it away")


def refuse_links_below(folder: Path) -> None:
    """Rejects a folder that is a link, or has one at any depth.

    Raises:
      ConfigError: names the first link.
    """
    waiting = [folder]
    while waiting:
        path = waiting.pop()
        refuse_links([path])
        if path.is_dir():
            waiting += path.iterdir()


def open_own(file: Path, flags: int) -> int:
    """Returns a descriptor of a file that is changed in place; a new one has the permissions of the umask.

    Args:
      file: a regular file, or none.
      flags: those of `os.open`.

    Raises:
      OSError: it cannot be opened, or writing it would change another place: it is a symbolic link, or has
        other names.
    """
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe would wait for its other end
    try:
        descriptor = os.open(file, flags, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise OSError(
            errno.ELOOP, "it is a symbolic link, which is not followed", str(file)
        ) from None
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(descriptor)
        what = (
            "it has another name, by a hard link"
            if found.st_nlink > 1
            else "it is not a regular file"
        )
        raise OSError(errno.EMLINK, what, str(file))
    return descriptor
