"""Ratings in text files: triples with or without a header line, or a matrix."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rankpg.data.columns import positions
from rankpg.data.id_types import AUTO, IdTypes
from rankpg.data.ids import TableError
from rankpg.data.ratings_table import Matrix, Triples, text_ids
from rankpg.data.text_lines import DATE, NUMBER
from rankpg.data.text_table import TextLayout, layout_of

__all__ = ["read_csv"]

_WHOLE = re.compile(r"\s*[+-]?\d+\s*")


def read_csv(
    path: Path,
    columns: Sequence[str] | None,
    header: bool = True,
    id_types: IdTypes = AUTO,
) -> Triples | Matrix:
    """Reads triples, or a matrix from a file without header.

    A file has no header line if `header` is False, or if its separator is `::` and its first line names no
    columns.

    Raises:
      TableError: the file has neither form, or a line of it is wrong.
      ImportError: pyarrow is not installed.
    """
    layout = layout_of(path)
    first, guessed = layout.names, columns is None
    if header and columns is None and all(map(NUMBER.fullmatch, first)):
        if layout.separator != "::":
            return _read_matrix(layout)
        header = False  # as the files of MovieLens are
    source = str(path)
    if not header:
        layout = layout.without_header()
        columns = _by_place(layout, first, columns)
        where = [int(name) for name in columns]
    else:
        _check_header(layout, columns)
        where = positions(source, first, columns, hint=_header_hint(layout))
    (users, items, *values), lines = layout.parse(where[:2], where[2:])
    rows = len(users)
    shown = [layout.names[i] for i in where] if header else [f"column {i}" for i in where]
    shown += ["(no value)"] * (3 - len(shown))
    return Triples.build(
        text_ids(users, source, shown[0]),
        text_ids(items, source, shown[1]),
        _floats(values[0]) if values else np.ones(rows),
        source,
        (shown[0], shown[1], shown[2]),
        layout.place,
        id_types=id_types,
        is_text=True,
        has_values=bool(values),
        lines=lines,
        guessed=guessed and header,
        unused=[n for i, n in enumerate(layout.names) if i not in where],
    )


def _read_matrix(layout: TextLayout) -> Matrix:
    path = layout.path
    _check_matrix_start(path, layout.names)
    layout = layout.without_header(by_place=False)
    numbers, lines = layout.parse([], range(len(layout.names)))
    values = np.stack([_floats(column) for column in numbers], axis=1)
    where = {"source": str(path), "column": path.stem, "place": layout.cell, "lines": lines}
    return Matrix.build(values, **where)


# --- the first line -------------------------------------------------------------------------------


def _looks_like_data(first: Sequence[str]) -> bool:
    return any(NUMBER.fullmatch(field) or DATE.fullmatch(field) for field in first)


def _header_hint(layout: TextLayout) -> str:
    """Returns what to do about a first line that may be data; else nothing."""
    if not _looks_like_data(layout.names):
        return ""
    return (
        "; the first line looks like data: if the file has no header line, give header=False, and columns "
        "by their places from 0 unless they are user, item, value"
    )


def _check_header(layout: TextLayout, columns: Sequence[str] | None) -> None:
    """Rejects columns that are named by the values of a first row."""
    places = [str(i) for i in range(len(layout.names))]
    if columns is None or layout.names == places:
        return
    numbers = [name for name in columns if name in layout.names and NUMBER.fullmatch(name)]
    if numbers:
        raise TableError(
            f"{layout.path}, line 1: the column {numbers[0]!r} is a number, so that the first line looks "
            "like a row, which would be lost: if the file has no header line, give header=False, and columns "
            "by their places, columns=('0', '1', '2')"
        )


def _by_place(
    layout: TextLayout, first: Sequence[str], columns: Sequence[str] | None
) -> Sequence[str]:
    """Returns the places of user, item and value in a file without header."""
    count, path = len(layout.names), layout.path
    if columns is None:
        if not 2 <= count <= 4:
            raise TableError(
                f"{path}: no header line and {count} columns; expected user, item, value and perhaps a time: "
                "give their places, columns=('0', '1', '2')"
            )
        columns = layout.names[: min(3, count)]
        if count >= 3 and _is_time(first[2]):
            raise TableError(
                f"{path}, line 1: no header line, and {first[2]!r} in the place of the value looks like a "
                "time: give the places, columns=('0', '1', '2') if it is a value, or columns=('0', '1'), so "
                "that every row has the value 1"
            )
    for name in columns:
        if name not in layout.names:
            raise TableError(
                f"{path}: no column {name!r}; without a header line, columns are named by their places, 0 to "
                f"{count - 1}: give columns=('0', '1', '2') for instance"
            )
    return columns


def _is_time(field: str) -> bool:
    return bool(DATE.fullmatch(field) or (NUMBER.fullmatch(field) and abs(float(field)) >= 1e8))


def _check_matrix_start(path: Path, first: list[str]) -> None:
    """Rejects a first line of numbers that may be triples without header, or column numbers."""
    saved = (
        "save a matrix as .npy or .npz (numpy.save); triples need header=False, or a header line such as "
        "user,item,value"
    )
    if len(first) < 2:
        raise TableError(f"{path}: one column of numbers is neither triples nor a matrix: {saved}")
    if first == [str(i) for i in range(len(first))]:
        raise TableError(
            f"{path}, line 1: these may be column numbers or the first row of a matrix: {saved}"
        )
    if 2 <= len(first) <= 8 and all(map(_WHOLE.fullmatch, first[:2])):
        raise TableError(
            f"{path}, line 1: no header, and {len(first)} numbers that could be a row of a matrix or user, "
            f"item and value: {saved}"
        )


# --- columns --------------------------------------------------------------------------------------


def _floats(column: Any) -> np.ndarray:
    return column.to_numpy(zero_copy_only=False)  # a copy where there are nulls, which become NaN
