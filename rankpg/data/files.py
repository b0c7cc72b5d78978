"""Files of tables and arrays: they exist, are of a known format, and hold no Python objects."""

from __future__ import annotations

import contextlib
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from rankpg._utils.files import expanded
from rankpg.data.arrow import arrow
from rankpg.data.ids import TableError
from rankpg.data.ratings_table import in_one_line, numpy_fault

__all__ = ["Table", "check_file", "load_arrays", "open_parquet"]

Table: TypeAlias = Any
"""A table of pandas, polars, pyarrow or another library that supports Arrow, a mapping of names to NumPy
arrays, or the path of a file; `frame_of` checks it."""


def check_file(path: str | os.PathLike[str], extensions: Iterable[str]) -> Path:
    """Returns the path of a file after checking that it exists and has one of these extensions.

    Raises:
      FileNotFoundError: the file does not exist.
      TableError: it is empty, is not a file, or has another extension.
    """
    path = expanded(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if not path.is_file() or path.stat().st_size == 0:
        raise TableError(f"{path}: " + ("the file is empty" if path.is_file() else "not a file"))
    if path.suffix.lower() not in extensions:
        raise TableError(
            f"{path}: unknown extension {path.suffix!r}: expected one of {', '.join(extensions)} "
            "(unpack a compressed file first)"
        )
    return path


@contextlib.contextmanager
def open_parquet(path: Path) -> Iterator[Any]:
    """Opens a pyarrow.parquet.ParquetFile; a fault of the file is raised as a TableError."""
    pyarrow, parquet = arrow("pyarrow"), arrow("pyarrow.parquet")
    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except pyarrow.ArrowException as cause:
        raise TableError(f"{path}: not a Parquet file, or damaged: {in_one_line(cause)}") from cause


def load_arrays(
    path: Path, wanted: Sequence[str] | None = None
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns arrays of an .npz by name (all by default) and all its names, or the one array of a .npy.

    Raises:
      TableError: the file is not a NumPy file, is damaged, or holds Python objects.
    """
    with open(path, "rb") as file:
        magic = file.read(6)
    if not magic.startswith((b"PK", b"\x93NUMPY")):
        raise TableError(
            f"{path}: not a NumPy file (an .npz is a zip archive; this starts with {magic!r}): "
            "write it with numpy.savez or numpy.save"
        )
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {path.stem: loaded}, [path.stem]
        with loaded:
            names = [name for name in wanted or loaded.files if name in loaded.files]
            return {name: loaded[name] for name in names}, loaded.files
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as cause:
        raise numpy_fault(path, cause) from cause
