"""Tables that describe contexts or items, a row an id: whatever they came in, their columns as NumPy arrays.

pandas, polars, pyarrow | mapping of arrays | path  ->  Frame  ->  ids, numbers, categories, vectors
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from rankpg.environments.arrow_table import arrow, decoded, is_table, to_arrow
from rankpg.environments.csv_table import read_text
from rankpg.environments.frame import Frame, objects
from rankpg.environments.ids import exact_array
from rankpg.environments.tables import check_file, load_arrays, open_parquet
from rankpg.environments.triples import TableError, in_one_line

__all__ = ["frame_of"]

_FILES = (".csv", ".tsv", ".parquet", ".npz")


def frame_of(table: Any, source: str) -> Frame:
    """A table of pandas, polars or pyarrow, a mapping of NumPy arrays, or the path of a file, as a Frame.

    Args:
      table: a csv, tsv, parquet or npz file, where it is a path.
      source: its name in messages.

    Raises:
      FileNotFoundError: there is no such file.
      TableError: what cannot be read as columns of one length, or is empty.
      TypeError: none of these kinds.

    >>> frame_of({"id": ["a", "b"], "price": [1.5, 2]}, "items").numbers("price")
    array([1.5, 2. ])
    """
    if isinstance(table, Frame):
        return table
    if isinstance(table, str | os.PathLike):
        return _from_path(table)
    if isinstance(table, Mapping):
        return _checked(Frame({str(k): _array(v) for k, v in table.items()}, source))
    if is_table(table):
        found = to_arrow(table, source)
        return _checked(Frame({name: found[name] for name in found.column_names}, source))
    raise TypeError(
        f"{source} is a {type(table).__name__}; expected a table of pandas, polars or pyarrow, a mapping of "
        "names to NumPy arrays, or the path of a csv, parquet or npz file"
    )


def _from_path(path: str | os.PathLike[str]) -> Frame:
    path = check_file(path, _FILES)
    source, suffix = str(path), path.suffix.lower()
    try:
        if suffix == ".npz":
            return _checked(Frame(load_arrays(path)[0], source))
        if suffix == ".parquet":
            with open_parquet(path) as file:
                table = to_arrow(file.read(), source)
            return _checked(Frame({name: table[name] for name in table.column_names}, source))
        columns, place = read_text(path)
        return _checked(Frame({k: _text(v) for k, v in columns.items()}, source, place, True))
    except OSError as cause:
        raise TableError(f"{source}: the file cannot be read: {in_one_line(cause)}") from cause


def _array(values: Any) -> np.ndarray:
    try:
        return exact_array(values)
    except ValueError:  # lists of different lengths, or some of them missing
        return objects(list(values))


def _text(column: Any) -> np.ndarray:
    pyarrow = arrow("pyarrow")
    return objects([text.strip() for text in decoded(pyarrow.chunked_array([column])).to_pylist()])


def _checked(frame: Frame) -> Frame:
    lengths = {name: len(column) for name, column in frame.columns.items() if _dim(column)}
    if len(lengths) < len(frame.columns) or len(set(lengths.values())) != 1:
        found = ", ".join(f"{name!r} of {lengths.get(name, 1)}" for name in frame.columns)
        raise TableError(
            f"{frame.source}: expected columns of one length, got {found or 'none at all'}"
        )
    if not len(frame):
        raise TableError(f"{frame.source}: no rows: a table needs at least one")
    return frame


def _dim(column: Any) -> int:
    return getattr(column, "ndim", 1)
