"""CSV and TSV files, parsed by pyarrow column by column.

A file that pyarrow rejects is read again, line by line, to find the invalid line.
"""

from __future__ import annotations

import csv
import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rankpg._utils.files import open_text
from rankpg.data.arrow import arrow
from rankpg.data.columns import positions
from rankpg.data.ids import Columns, TableError, whole_numbers
from rankpg.data.ratings_table import Encoded, Matrix, Triples, in_one_line, sorted_ids

__all__ = ["read_csv", "read_text"]

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_WHOLE = re.compile(r"[+-]?\d+")
_NOT_FINITE = re.compile(r"|[+-]?(nan|inf|infinity)|n/?a|null", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class _Csv:
    """Layout of a CSV file; `skip` physical lines come before the first row of data."""

    path: Path
    delimiter: str
    first: list[str]
    skip: int

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yields (line number as in an editor, fields) of every row of data."""
        return (
            (start, row) for start, end, row in _scan(self.path, self.delimiter) if end > self.skip
        )

    def place(self, *numbers: int) -> str:
        """Returns text such as `line 8` for rows of data, counted from 0."""
        lines = {n: line for n, (line, _) in enumerate(self.rows()) if n in numbers}
        return f"line{'s' * (len(numbers) > 1)} {' and '.join(str(lines[n]) for n in numbers)}"

    def cell(self, row: int, column: int) -> str:
        return f"{self.place(row)}, field {column + 1}"


def _scan(path: Path, delimiter: str) -> Iterator[tuple[int, int, list[str]]]:
    """Yields (first line, last line, fields) of every row that is not blank."""
    with open_text(path) as file:
        reader = csv.reader(file, delimiter=delimiter)
        start = 1
        try:
            for row in reader:
                if row:
                    yield start, reader.line_num, row
                start = reader.line_num + 1
        except csv.Error as cause:
            raise TableError(
                f"{path}, line {start}: {cause}: close the quote, if one is open"
            ) from cause


def read_csv(path: Path, columns: Columns | None) -> Triples | Matrix:
    """Reads triples, or a matrix from a file without header.

    Raises:
      TableError: the file has neither form, or a line of it is wrong.
      ImportError: pyarrow is not installed.
    """
    layout = _layout(path)
    names = [name.strip() for name in layout.first]
    if columns is None and all(map(_NUMBER.fullmatch, names)):
        _check_matrix_start(path, names)
        layout = dataclasses.replace(layout, skip=0)
        numbers = _parse_csv(layout, [], range(len(names)))
        values = np.stack([_floats(column) for column in numbers], axis=1)
        return Matrix.build(values, source=str(path), column=path.stem, place=layout.cell)
    where = positions(str(path), names, columns)
    columns = (names[where[0]], names[where[1]], names[where[2]])
    users, items, values = _parse_csv(layout, where[:2], where[2:])
    return Triples.build(
        _text_ids(users, str(path), columns[0]),
        _text_ids(items, str(path), columns[1]),
        _floats(values),
        str(path),
        columns,
        layout.place,
    )


def read_text(path: Path) -> tuple[dict[str, Any], Callable[[int], str]]:
    """Reads every column of a CSV or TSV with a header as Arrow text, with a function from row to line.

    Raises:
      TableError: a line is wrong, a name occurs twice, or there are no rows.
    """
    layout = _layout(path)
    names = [name.strip() for name in layout.first]
    for name in names:
        if names.count(name) > 1:
            raise TableError(f"{path}: more than one column {name!r}: rename or drop one")
    columns = _parse_csv(layout, range(len(names)), [])
    if not len(columns[0]):
        raise TableError(f"{path}: no rows after the header")
    return dict(zip(names, columns, strict=True)), layout.place


def _layout(path: Path) -> _Csv:
    """Returns the layout of a file with a header."""
    with open_text(path) as file:
        head = next((line for line in file if line.strip()), "")
    delimiter = next((d for d in ",\t;" if d in head), ",")
    _, end, first = next(_scan(path, delimiter), (0, 0, []))
    if not first:
        raise TableError(f"{path}: the file is empty")
    return _Csv(path, delimiter, first, end)


def _check_matrix_start(path: Path, first: list[str]) -> None:
    """Rejects a first line of numbers that may be triples without header, or column numbers."""
    saved = "save a matrix as .npy or .npz (numpy.save); triples need a header line such as user,item,value"
    if len(first) < 2:
        raise TableError(f"{path}: one column of numbers is neither triples nor a matrix: {saved}")
    if first == [str(i) for i in range(len(first))]:
        raise TableError(
            f"{path}, line 1: these may be column numbers or the first row of a matrix: {saved}"
        )
    if 3 <= len(first) <= 8 and all(map(_WHOLE.fullmatch, first[:2])):
        raise TableError(
            f"{path}, line 1: no header, and {len(first)} numbers that could be a row of a matrix or user, "
            f"item and value: {saved}"
        )


def _parse_csv(layout: _Csv, ids: Sequence[int], numbers: Sequence[int]) -> list[Any]:
    """Parses columns: ids as dictionaries of text, numbers as float64 with NaN for an empty field."""
    pyarrow, reader = arrow("pyarrow"), arrow("pyarrow.csv")
    text = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
    names = [str(i) for i in range(len(layout.first))]
    types = {names[i]: text for i in ids} | {names[i]: pyarrow.float64() for i in numbers}
    try:
        table = reader.read_csv(
            layout.path,
            reader.ReadOptions(column_names=names, skip_rows=layout.skip),
            reader.ParseOptions(delimiter=layout.delimiter, newlines_in_values=True),
            reader.ConvertOptions(column_types=types, include_columns=list(types)),
        )
    except pyarrow.ArrowException as cause:
        raise _csv_fault(layout, numbers, cause) from cause
    return [column.combine_chunks() for column in table.unify_dictionaries().columns]


def _csv_fault(layout: _Csv, numbers: Sequence[int], cause: Exception) -> TableError:
    """Returns the error for the first line that pyarrow rejects, found by reading the file again."""
    empty = True
    for line, fields in layout.rows():
        empty = False
        if len(fields) != len(layout.first):
            return TableError(
                f"{layout.path}, line {line}: {len(fields)} fields where the first line has "
                f"{len(layout.first)}: correct or remove the line"
            )
        for i in numbers:
            text = fields[i].strip()
            if not (_NUMBER.fullmatch(text) or _NOT_FINITE.fullmatch(text)):
                column = layout.first[i].strip() if layout.skip else f"field {i + 1}"
                return TableError(
                    f"{layout.path}, line {line}, column {column!r}: {fields[i]!r} is not a number: "
                    "correct or remove the line"
                )
    if empty:
        return TableError(f"{layout.path}: no rows after the header")
    return TableError(
        f"{layout.path}: not readable as CSV in UTF-8: {in_one_line(cause)}. A file in another encoding: "
        "save it as UTF-8"
    )


def _floats(column: Any) -> np.ndarray:
    return column.to_numpy(zero_copy_only=False)  # a copy where there are nulls, which become NaN


def _text_ids(column: Any, source: str, name: str) -> Encoded:
    labels = whole_numbers(np.asarray(column.dictionary.to_pylist(), dtype=str))
    return sorted_ids(labels, column.indices.to_numpy(), source, name)
