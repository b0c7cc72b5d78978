"""Files of tables and arrays: they exist, are of a known format, and hold no Python objects."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from rankpg._utils.paths import expanded
from rankpg.data.faults import in_one_line, numpy_fault
from rankpg.data.ids import TableError
from rankpg.data.optional import arrow

__all__ = [
    "Table",
    "check_array_size",
    "check_file",
    "load_arrays",
    "open_parquet",
    "parquet_names",
    "read_parquet",
]

Table: TypeAlias = Any
"""A table of pandas, polars, pyarrow or another library that supports Arrow, a mapping of names to NumPy
arrays, or the path of a file; `frame_of` checks it."""


def check_file(path: str | os.PathLike[str], extensions: Iterable[str]) -> Path:
    """Returns the path of a file after checking that it exists and has one of these extensions.

    A folder of Parquet files is one table, if Parquet is among the extensions.

    Raises:
      FileNotFoundError: the file does not exist.
      TableError: it is empty, is not a file, has another extension, or shows by its first bytes that it is of
        another kind.
    """
    path = expanded(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.is_dir() and ".parquet" in extensions and parquet_parts(path):
        return path
    if path.is_dir():
        raise TableError(f"{path}: not a file, but a folder without Parquet files (*.parquet)")
    if not path.is_file() or path.stat().st_size == 0:
        raise TableError(f"{path}: " + ("the file is empty" if path.is_file() else "not a file"))
    _check_kind(path)
    if path.suffix.lower() not in extensions:
        raise TableError(
            f"{path}: unknown extension {path.suffix!r}: expected one of {', '.join(extensions)} "
            "(unpack a compressed file first)"
        )
    return path


_KINDS = {
    b"version https://git-lfs": "a Git LFS pointer, not the data: fetch it with git lfs pull",
    b"PK\x03\x04": "a zip archive or an Excel workbook (xlsx): unpack it, or save it as CSV in UTF-8",
    b"\xd0\xcf\x11\xe0": "an Excel workbook (xls), not text: save it as CSV in UTF-8",
    b"PAR1": "a Parquet file: rename it to .parquet",
    b"\x93NUMPY": "a NumPy array: rename it to .npy",
    b"SQLite format": "an SQLite database: write its table as CSV or Parquet",
    b"\x28\xb5\x2f\xfd": "packed with zstd: unpack it first",
    b"BZh": "packed with bzip2: unpack it first",
    b"\xfd7zXZ": "packed with xz: unpack it first",
    b"<!DOCTYPE": "a web page: save the file that it links to",
    b"<html": "a web page: save the file that it links to",
}
"""First bytes of a file -> what it is, and what to do about it."""
_OWN = {
    ".npz": b"PK",
    ".npy": b"\x93NUMPY",
    ".parquet": b"PAR1",
    ".pt": b"PK",
    ".pth": b"PK",
}
"""Extension -> the first bytes that fit it."""


def _check_kind(path: Path) -> None:
    """Rejects a file whose first bytes are those of another kind than its extension says."""
    with path.open("rb") as file:
        start = file.read(32)
    own = _OWN.get(path.suffix.lower())
    if own is not None and start.startswith(own):
        return
    for first, what in _KINDS.items():
        if start.startswith(first):
            raise TableError(f"{path}: this is {what}")


def parquet_parts(folder: Path) -> list[Path]:
    """Returns the Parquet files of a folder and its folders, sorted, without hidden ones."""
    parts = sorted(folder.rglob("*.parquet"))
    return [
        x
        for x in parts
        if x.is_file()
        and not any(name.startswith((".", "_")) for name in x.relative_to(folder).parts)
    ]


@contextlib.contextmanager
def open_parquet(path: Path) -> Iterator[Any]:
    """Opens a pyarrow.parquet.ParquetFile; a fault of the file is raised as a TableError."""
    pyarrow, parquet = arrow("pyarrow"), arrow("pyarrow.parquet")
    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except TableError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, UnicodeDecodeError) as cause:
        raise TableError(f"{path}: not a Parquet file, or damaged: {in_one_line(cause)}") from cause


def parquet_names(path: Path) -> tuple[list[str], list[Any]]:
    """Returns names and types of the columns of a Parquet file, or of the files of a folder.

    Raises:
      TableError: a file is damaged, or files of a folder have other columns than the first.
    """
    parts = parquet_parts(path) if path.is_dir() else [path]
    schema = None
    for part in parts:
        with open_parquet(part) as file:
            found = file.schema_arrow
        schema = found if schema is None else schema
        if found.names != schema.names:
            raise TableError(
                f"{part}: its columns are {', '.join(found.names)}, and those of {parts[0]} are "
                f"{', '.join(schema.names)}: keep files of one table in a folder"
            )
    assert schema is not None
    return list(schema.names), list(schema.types)


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> Any:
    """Returns columns of a Parquet file, or of all files of a folder, as one pyarrow.Table.

    Raises:
      TableError: a file is damaged, or the files have other types than the first.
    """
    pyarrow = arrow("pyarrow")
    tables = []
    for part in parquet_parts(path) if path.is_dir() else [path]:
        with open_parquet(part) as file:
            tables.append(file.read(columns=None if columns is None else list(columns)))
    try:
        return pyarrow.concat_tables(tables) if len(tables) > 1 else tables[0]
    except pyarrow.ArrowException as cause:
        raise TableError(
            f"{path}: its files have columns of several types: {in_one_line(cause)}"
        ) from cause


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
        check_array_size(path)
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {path.stem: loaded}, [path.stem]
        with loaded:
            names = [name for name in wanted or loaded.files if name in loaded.files]
            return {name: loaded[name] for name in names}, loaded.files
    except (TableError, FileNotFoundError):
        raise
    except MemoryError as cause:
        raise TableError(f"{path} is damaged, or too large for memory") from cause
    except Exception as cause:  # NumPy parses headers as Python, and zip archives fail in many ways
        raise numpy_fault(path, cause) from cause


def check_array_size(path: Path) -> None:
    """Rejects a .npy file whose header names more bytes than the file has, before memory is taken.

    Raises:
      TableError: the file was cut off, or its header is damaged.
    """
    with path.open("rb") as file:
        if file.read(6) != b"\x93NUMPY":
            return
        file.seek(0)
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
            version, np.lib.format.read_array_header_2_0
        )
        shape, _, kind = read(file)
        wanted = int(np.prod([int(n) for n in shape], dtype=object)) * kind.itemsize
        left = path.stat().st_size - file.seek(0, os.SEEK_CUR)
    if kind.hasobject:
        return  # np.load says why it is not loaded
    if wanted > left or min(shape, default=0) < 0:
        raise TableError(
            f"{path} is damaged, or too large for memory: its header names {wanted} bytes, and it "
            f"has {left}"
        )
