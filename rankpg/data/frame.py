"""Tables with one row per context or item, whose columns become NumPy arrays on access."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rankpg.data.arrow import decoded, is_table, to_arrow
from rankpg.data.columns import category, column_role
from rankpg.data.faults import in_one_line
from rankpg.data.files import Table, check_file, load_arrays, read_parquet
from rankpg.data.id_types import typed_ids
from rankpg.data.ids import TableError, exact_array, is_empty, objects
from rankpg.data.optional import arrow
from rankpg.data.text_lines import TEXT_SUFFIXES
from rankpg.data.text_table import read_text

__all__ = ["Frame", "frame_of", "kind_of"]

_NO_NUMBER = ("", "nan", "na", "n/a", "null", "none")
"""Texts that mean an empty cell of a CSV."""


def _row_from_zero(row: int) -> str:
    return f"row {row} (counted from 0)"


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """Columns of one length by name: NumPy arrays, or Arrow columns until they are read."""

    columns: Mapping[str, Any]
    source: str
    place: Callable[[int], str] = _row_from_zero
    """Returns the place of a row, for messages."""
    is_text: bool = False
    """True for a table from a CSV, whose numbers are still text."""
    lines: int | None = None
    """Number of lines of a text file that hold the rows."""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def where(self, row: int, name: str) -> str:
        """Returns text such as `items, row 3 (counted from 0), column 'price'`."""
        return f"{self.source}, {self.place(row)}, column {name!r}"

    def find_id(self, role: str, hint: str | None = None) -> str:
        """Returns the name of the id column of a role: one named as `hint`, as the role, or `id`."""
        tries = (
            [name for name in self.columns if name == hint],
            [name for name in self.columns if column_role(name) == role],
            [name for name in self.columns if name.strip("_").lower() == "id"],
        )
        for found in tries:
            if len(found) == 1:
                return found[0]
        raise TableError(
            f"{self.source}: the column of {role} ids is ambiguous; found "
            f"{self._listed()}: name it, Features(id=...)"
        )

    def _listed(self) -> str:
        return ", ".join(map(repr, self.columns))

    def array(self, name: str) -> np.ndarray:
        """Returns a column in its own dtype, or as objects where a value is missing."""
        if name not in self.columns:
            raise TableError(f"{self.source}: no column {name!r}; found {self._listed()}")
        column = self.columns[name]
        if isinstance(column, np.ndarray):
            return column
        pyarrow = arrow("pyarrow")
        types, plain = pyarrow.types, decoded(column)
        kind = plain.type
        if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
            if not plain.null_count:
                return plain.to_numpy(zero_copy_only=False)
        elif types.is_temporal(kind) and not plain.null_count:
            return plain.to_numpy(zero_copy_only=False)
        return objects(plain.to_pylist())

    def ids(self, name: str, id_type: str = "auto") -> np.ndarray:
        """Returns the ids in a column, each of which occurs once: text, whole numbers, or dates.

        Args:
          name: the name of the column.
          id_type: declared type of the ids; see `data.id_types`.

        Raises:
          TableError: the column is missing, or an id is empty or occurs twice.
        """
        ids = self.array(name)
        if ids.ndim != 1:
            raise TableError(f"{self.source}: column {name!r} cannot hold ids: {kind_of(ids)}")
        empty = is_empty(ids)
        if empty.any():
            raise TableError(
                f"{self.where(int(np.argmax(empty)), name)}: the id is empty: fill it in or remove the row"
            )
        if ids.dtype.kind == "S":
            raise TableError(f"{self.source}: column {name!r} cannot hold ids: {kind_of(ids)}")
        where = f"{self.source}, column {name!r}"
        ids = typed_ids(ids, id_type, where, is_text=self.is_text)
        _, first, count = np.unique(ids, return_index=True, return_counts=True)
        if len(first) < len(ids):
            one = int(np.min(first[count > 1]))
            again = np.flatnonzero(ids == ids[one])
            raise TableError(
                f"{self.source}, {self.place(one)} and {self.place(int(again[1]))}: the id "
                f"{ids[one : one + 1].tolist()[0]!r} occurs twice in column {name!r}: keep one row per id"
            )
        return ids

    def numbers(self, name: str) -> np.ndarray:
        """Returns a column as float64[n], NaN where a number is missing.

        Raises:
          TableError: the column is missing, or a cell is not a number, is infinite or too large for float32.
        """
        column = self.array(name)
        if column.ndim != 1 or (column.dtype.kind not in "fiub" and column.dtype != object):
            raise TableError(
                f"{self.source}: column {name!r} is not a column of numbers: {kind_of(column)}"
            )
        if column.dtype == object:
            column = np.array([self._number(x, row, name) for row, x in enumerate(column)])
        numbers = column.astype(np.float64)
        wrong = np.abs(numbers) > np.finfo(np.float32).max
        if wrong.any():
            row = int(np.argmax(wrong))
            raise TableError(
                f"{self.where(row, name)}: {numbers[row]} is not a finite float32: correct it or "
                "remove the row"
            )
        return numbers

    def _number(self, value: Any, row: int, name: str) -> float:
        if value is None or (self.is_text and value.lower() in _NO_NUMBER):
            return np.nan
        try:
            if not isinstance(value, str) or (self.is_text and "_" not in value):
                return float(value)
        except (TypeError, ValueError):
            pass
        raise TableError(
            f"{self.where(row, name)}: {value!r} is not a number: correct it, or declare "
            "the column categorical"
        )

    def categories(self, name: str) -> list[str | None]:
        """Returns the category of every row as text, the same for every kind of table, or None."""
        column = self.array(name)
        if column.ndim != 1:
            raise TableError(
                f"{self.source}: column {name!r} is not a column of categories: {kind_of(column)}"
            )
        if column.dtype.kind in "Mm":
            column = _times_as_text(column)
        known: dict[Any, str | None] = {}
        found = []
        for row, value in enumerate(column.tolist()):
            try:
                key = type(value), value  # True equals 1, but is another category
                if key not in known:
                    known[key] = category(value)
                found.append(known[key])
            except TypeError:  # a list
                raise TableError(
                    f"{self.where(row, name)}: {value!r} is not a category: declare the column an embedding"
                ) from None
        return found


def _times_as_text(column: np.ndarray) -> np.ndarray:
    """Returns dates and times as ISO text, durations as timedelta, and None where one is missing."""
    missing = np.isnat(column)
    if column.dtype.kind == "m":
        found = column.astype("m8[us]").astype(object)
    else:  # a day in full, also where the unit is a month
        found = np.datetime_as_string(np.where(missing, np.datetime64(0, "D"), column)).astype(
            object
        )
    found[missing] = None
    return found


def kind_of(array: np.ndarray) -> str:
    """Returns the dtype and the shape of an array, for messages."""
    return f"{array.dtype} of shape {list(array.shape)}"


_FILES = (*TEXT_SUFFIXES, ".gz", ".parquet", ".npz")


def frame_of(table: Table, source: str) -> Frame:
    """Returns a table as a Frame.

    Args:
      table: a table of pandas, polars or pyarrow, a mapping of names to NumPy arrays, or the path of a text
        file (csv, tsv, dat, txt, also packed, as .gz), a parquet or npz file, or a folder of Parquet files.
      source: the name of the table in messages.

    Raises:
      FileNotFoundError: the file does not exist.
      TableError: the columns have different lengths, or no rows.
      TypeError: the table is of another kind.

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
        "names to NumPy arrays, or the path of a csv, tsv, parquet or npz file"
    )


def _from_path(path: str | os.PathLike[str]) -> Frame:
    path = check_file(path, _FILES)
    source, suffix = str(path), path.suffix.lower()
    try:
        if suffix == ".npz":
            return _checked(Frame(load_arrays(path)[0], source))
        if suffix == ".parquet" or path.is_dir():
            table = to_arrow(read_parquet(path), source)
            return _checked(Frame({name: table[name] for name in table.column_names}, source))
        columns, place, lines = read_text(path)
        held = {name: _text(column) for name, column in columns.items()}
        return _checked(Frame(held, source, place, True, lines))
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
            f"{frame.source}: expected columns of one length, got {found or 'no column'}"
        )
    if not len(frame):
        raise TableError(f"{frame.source}: no rows: a table needs at least one")
    return frame


def _dim(column: Any) -> int:
    return getattr(column, "ndim", 1)
