"""Paths as they are given."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["expanded"]


def expanded(path: str | os.PathLike[str]) -> Path:
    """Returns a path whose leading ~ is the home directory.

    >>> expanded("runs/first")
    PosixPath('runs/first')
    >>> expanded("~/runs") == Path.home() / "runs"
    True
    """
    return Path(os.path.expanduser(path))
