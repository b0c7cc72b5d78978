"""Ratings as NumPy arrays: triples (user, item, value), or a dense matrix.

Both are checked when they are built; errors name the source, the place in it, and the remedy.
`data.read.read` builds one from a file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from rankpg.data.columns import column_role
from rankpg.data.id_types import AUTO, IdTypes, typed_ids
from rankpg.data.ids import Columns, IdMap, TableError, id_array, id_kind, is_empty, text_array
from rankpg.data.look_alikes import note_of_look_alikes, note_of_stripped

__all__ = [
    "Compressed",
    "Encoded",
    "Matrix",
    "Triples",
    "compress",
    "encode",
    "sorted_ids",
    "text_ids",
    "unusable",
]

_EARLIEST = 1e8
"""Whole numbers from here on look like times: 1e8 seconds after 1970 is in 1973."""
_FEW = 5
"""Least number of rows in which 0, 1, 2, ... are taken for row numbers."""
Encoded: TypeAlias = tuple[np.ndarray, np.ndarray]
"""A column of ids as (labels, codes): row r holds labels[codes[r]], and every label occurs."""


def _rows_from_zero(*rows: int) -> str:
    return f"row{'s' * (len(rows) > 1)} {' and '.join(map(str, rows))} (counted from 0)"


def _cell_from_zero(row: int, column: int) -> str:
    return f"row {row}, column {column} (both counted from 0)"


@dataclasses.dataclass(frozen=True, eq=False)
class Triples:
    """Ratings as R rows (user, item, value).

    users, items: int32[R], row numbers into `user_ids` and `item_ids`; values: float64[R], finite.
    `source`, `columns` and `place(*rows)` are for messages: the file, its columns, the place of rows.
    """

    users: np.ndarray
    items: np.ndarray
    values: np.ndarray
    user_ids: IdMap
    item_ids: IdMap
    source: str
    columns: Columns
    place: Callable[..., str]
    notes: tuple[str, ...] = ()
    """Sentences about what was read, and what was taken for what."""
    has_values: bool = True
    """False if the table has no value column; every row then has the value 1."""
    id_notes: tuple[str, ...] = ()
    """Sentences about ids that were changed, or that look alike; `notes` holds them too."""

    def about_ids(self) -> str:
        """Returns the sentences about ids in parentheses, for the end of a message; "" without any."""
        return f" ({' '.join(self.id_notes)})" if self.id_notes else ""

    @classmethod
    def build(
        cls,
        users: Encoded,
        items: Encoded,
        values: np.ndarray,
        source: str = "triples",
        columns: Columns = ("users", "items", "values"),
        place: Callable[..., str] = _rows_from_zero,
        *,
        id_types: IdTypes = AUTO,
        is_text: bool = False,
        has_values: bool = True,
        lines: int | None = None,
        unused: Sequence[str] = (),
        guessed: bool = False,
    ) -> Triples:
        """Returns checked triples.

        Args:
          users, items, values, source, columns, place: as the fields, ids as labels and codes.
          id_types: declared types of the ids.
          is_text: True for ids that were read as text, in which whole numbers are recognised.
          has_values: False if every value is 1 for want of a column.
          lines: number of lines of a text file that hold the rows.
          unused: names of other columns, for the notes.
          guessed: True if the caller did not name the columns; times and row numbers are then no value.

        Raises:
          TableError: there are no rows, an id is empty or of another type, or a value is not a finite number.
        """
        if len(values) == 0:
            raise TableError(f"{source}: no rows: a table needs at least one (user, item, value)")
        if values.dtype.kind not in "fiub":
            raise TableError(f"{source}: column {columns[2]!r} holds {values.dtype}, not numbers")
        for (labels, codes), column in zip((users, items), columns[:2], strict=True):
            empty = np.flatnonzero(is_empty(labels))
            if len(empty):
                row = int(np.argmax(np.isin(codes, empty)))
                raise TableError(
                    f"{source}, {place(row)}, column {column!r}: the id is empty: "
                    "fill it in or remove the row"
                )
        wrong = unusable(values)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise TableError(
                f"{source}, {place(row)}, column {columns[2]!r}: {_describe(values[row])}: "
                "correct the value or remove the row"
            )
        if guessed and has_values and column_role(columns[2]) is None:
            _check_guess(values, source, columns)
        about_ids: list[str] = []
        if is_text:
            users, items = (
                _stripped(ids, kind, source, column, about_ids)
                for ids, kind, column in zip(
                    (users, items), ("user", "item"), columns[:2], strict=True
                )
            )
        users, items = (
            _typed(ids, kind, source, column, is_text)
            for ids, kind, column in zip((users, items), id_types, columns[:2], strict=True)
        )
        for (labels, _), kind in zip((users, items), ("user", "item"), strict=True):
            about_ids += note_of_look_alikes(labels, kind)
        user_ids, item_ids = IdMap(users[0], "user"), IdMap(items[0], "item")
        numbers = [codes.astype(np.int32, copy=False) for _, codes in (users, items)]
        floats = values.astype(np.float64, copy=False)
        table = cls(numbers[0], numbers[1], floats, user_ids, item_ids, source, columns, place)
        notes = (*_notes_of(table, has_values, lines, unused), *about_ids)
        return dataclasses.replace(
            table, notes=notes, has_values=has_values, id_notes=tuple(about_ids)
        )


def _check_guess(values: np.ndarray, source: str, columns: Columns) -> None:
    """Rejects a column that became the value since it was left over, and holds times or row numbers."""
    first = int(values[0])
    numbers = len(values) >= _FEW and first in (0, 1)
    numbers = numbers and np.array_equal(values, np.arange(first, first + len(values)))
    times = bool(np.all((values >= _EARLIEST) & (values == np.floor(values))))
    if numbers or times:
        what = "row numbers" if numbers else "times"
        user, item, value = columns
        raise TableError(
            f"{source}: the column {value!r} holds what look like {what}: give columns={columns!r} if it is "
            f"the value, or columns={(user, item)!r}, so that every row has the value 1"
        )


def _stripped(ids: Encoded, kind: str, source: str, column: str, notes: list[str]) -> Encoded:
    """Returns ids of text without blanks at their ends, and adds a note where there were some."""
    labels = np.char.strip(ids[0])
    note = note_of_stripped(ids[0], labels, kind, column)
    if not note:
        return ids
    notes += note
    return sorted_ids(labels, ids[1], source, column)


def _typed(ids: Encoded, id_type: str, source: str, column: str, is_text: bool) -> Encoded:
    labels = typed_ids(ids[0], id_type, f"{source}, column {column!r}", is_text=is_text)
    if labels is ids[0]:
        return ids
    return sorted_ids(labels, ids[1], source, column)


def _notes_of(
    table: Triples, has_values: bool, lines: int | None, unused: Sequence[str]
) -> tuple[str, ...]:
    """Returns sentences about the rows, the columns and the types of the ids."""
    of_lines = "" if lines is None else f" of {lines} lines"
    user, item, value = table.columns
    taken = f"user from {user!r} ({_kind_of(table.user_ids)})"
    taken += f", item from {item!r} ({_kind_of(table.item_ids)})"
    taken += f", value from {value!r}" if has_values else ""
    notes = [f"Read {len(table.values)} rows{of_lines} of {table.source}: {taken}."]
    if not has_values:
        notes.append("Without a value column, every row has the value 1.")
    if unused:
        notes.append(f"Columns that are not used: {', '.join(map(repr, unused))}.")
    return tuple(notes)


def _kind_of(ids: IdMap) -> str:
    return {"text": "text", "number": "whole numbers", "date": "dates"}[id_kind(ids.ids)]


@dataclasses.dataclass(frozen=True, eq=False)
class Matrix:
    """Ratings as a matrix: values[num_users, N], finite numbers."""

    values: np.ndarray
    user_ids: IdMap
    item_ids: IdMap
    source: str = "matrix"
    column: str = "matrix"
    place: Callable[[int, int], str] = _cell_from_zero
    notes: tuple[str, ...] = ()

    @classmethod
    def build(
        cls,
        values: np.ndarray,
        users: Any = None,
        items: Any = None,
        lines: int | None = None,
        **where: Any,
    ) -> Matrix:
        """Returns a checked matrix, whose ids are the row and column numbers by default.

        Raises:
          TableError: the values are not a matrix of finite numbers, or the ids do not fit its shape.
        """
        source = where.get("source", "matrix")
        if values.ndim != 2 or values.size == 0 or values.dtype.kind not in "fiub":
            raise TableError(
                f"{source}: expected numbers in a matrix [num_contexts, num_items] that is not empty, "
                f"got {values.dtype} of shape {values.shape}"
            )
        ids = [
            np.arange(n) if x is None else id_array(x, kind)
            for n, x, kind in zip(values.shape, (users, items), ("user", "item"), strict=True)
        ]
        if (len(ids[0]), len(ids[1])) != values.shape:
            turned = (len(ids[1]), len(ids[0])) == values.shape
            remedy = ": it looks transposed, pass matrix.T" if turned else ""
            raise TableError(
                f"{source}: {len(ids[0])} user ids and {len(ids[1])} item ids "
                f"for a matrix of {values.shape}{remedy}"
            )
        of_lines = "" if lines is None else f" of {lines} lines"
        shape = f"{len(ids[0])} rows{of_lines}, which are users, and {len(ids[1])} columns, which are items"
        notes = (f"Read a matrix from {source}: {shape}.",)
        matrix = cls(values, IdMap(ids[0], "user"), IdMap(ids[1], "item"), notes=notes, **where)
        wrong = unusable(values)
        if wrong.any():
            row, column = (int(i) for i in np.unravel_index(np.argmax(wrong), values.shape))
            what = _describe(values[row, column])
            raise TableError(f"{source}, {matrix.place(row, column)}: {what}: put a number there")
        return matrix


def encode(ids: np.ndarray, source: str, column: str) -> Encoded:
    """Returns (sorted labels, code of every row) of a column of ids."""
    try:
        labels, codes = np.unique(ids, return_inverse=True)
    except TypeError:
        raise TableError(
            f"{source}: column {column!r} mixes ids of several types, or some are missing: "
            "make them all strings"
        ) from None
    return labels, codes


def sorted_ids(labels: np.ndarray, codes: np.ndarray, source: str, column: str) -> Encoded:
    """Returns a column of ids with its labels sorted, each of which occurs once."""
    if is_empty(labels).any():
        return labels, codes  # rejected later; None cannot be sorted
    labels, position = encode(labels, source, column)
    return labels, position.astype(np.int32)[codes]


def text_ids(column: Any, source: str, name: str) -> Encoded:
    """Returns a column of text as ids, with their blanks; `source` and `name` are for messages."""
    labels = text_array(column.dictionary.to_pylist(), f"{source}, column {name!r}")
    return sorted_ids(labels, column.indices.to_numpy(), source, name)


def unusable(values: np.ndarray) -> np.ndarray:
    """Returns True where a value is NaN, infinite, or too large for float32."""
    return ~(np.abs(values.astype(np.float64, copy=False)) <= np.finfo(np.float32).max)


def _describe(value: Any) -> str:
    if np.isnan(value):
        return "the value is missing or NaN"
    return (
        f"the value {value} is infinite" if np.isinf(value) else f"{value} is too large for float32"
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Compressed:
    """Ratings by user: those of user u are items[starts[u] : starts[u + 1]], ascending, likewise `values`."""

    starts: np.ndarray
    """int32[num_users + 1]"""
    items: np.ndarray
    """int32[num_ratings]"""
    values: np.ndarray
    """float64[num_ratings]"""
    missing_share: float
    notes: tuple[str, ...] = ()


def compress(table: Triples, missing: str, duplicates: str) -> Compressed:
    """Sorts triples by (user, item) and merges the rows of one pair.

    Args:
      table: the triples.
      missing: `zero` keeps only the pairs that occur; `error` requires all pairs.
      duplicates: `error` rejects several rows of one pair; `mean` averages them; `sum` adds them up; `last`
        keeps the last.

    Raises:
      TableError: a pair occurs twice, or is missing, where that is an error.
      ValueError: an option has an unknown value.
    """
    _check("missing", missing, ("zero", "error"))
    _check("duplicates", duplicates, ("mean", "sum", "last", "error"))
    num_users, num_items = len(table.user_ids), len(table.item_ids)
    pairs = table.users.astype(np.int64) * num_items + table.items
    order = np.argsort(pairs, kind="stable")
    pairs, values = pairs[order], table.values[order]
    firsts = np.flatnonzero(np.diff(pairs, prepend=-1))
    notes: tuple[str, ...] = ()
    if len(firsts) < len(pairs):
        merged = len(pairs) - len(firsts)
        notes = (f"{merged} of {len(pairs)} rows repeat a pair: duplicates='{duplicates}'.",)
        values = _merged(table, values, order, firsts, duplicates)
        pairs = pairs[firsts]
    if missing == "error" and len(pairs) < num_users * num_items:
        _check_no_gap(table, pairs)
    if len(pairs) > np.iinfo(np.int32).max:
        raise TableError(f"{table.source}: {len(pairs)} ratings; expected at most 2**31 - 1")
    starts = np.searchsorted(pairs, np.arange(num_users + 1) * num_items).astype(np.int32)
    share = 1.0 - len(pairs) / (num_users * num_items)
    items = (pairs % num_items).astype(np.int32)
    return Compressed(starts, items, values, share, notes)


def _check(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name}={value!r}; expected {' or '.join(known)}")


def _merged(
    table: Triples, values: np.ndarray, order: np.ndarray, firsts: np.ndarray, duplicates: str
) -> np.ndarray:
    """Returns one value per pair; `values` are sorted by pair, and pair i starts at `firsts[i]`."""
    counts = np.diff(firsts, append=len(values))
    if duplicates == "mean":
        return np.add.reduceat(values, firsts) / counts
    if duplicates == "last":
        return values[firsts + counts - 1]
    if duplicates == "sum":
        return _summed(table, values, order, firsts)
    several = np.flatnonzero(counts > 1)
    first = firsts[several[0]]
    rows = [int(row) for row in order[first : first + 2]]
    user = table.user_ids.one(table.users[rows[0]])
    item = table.item_ids.one(table.items[rows[0]])
    raise TableError(
        f"{table.source}, {table.place(*rows)}: the pair user {user!r}, item {item!r} occurs "
        f"{counts[several[0]]} times ({len(several) - 1} other pairs repeat as well): keep one row "
        "each, or give duplicates='sum' where every row counts (plays, clicks), duplicates='mean' or "
        f"duplicates='last'{table.about_ids()}"
    )


def _summed(
    table: Triples, values: np.ndarray, order: np.ndarray, firsts: np.ndarray
) -> np.ndarray:
    added = np.add.reduceat(values, firsts)
    wrong = unusable(added)
    if wrong.any():
        row = int(order[firsts[np.argmax(wrong)]])
        raise TableError(
            f"{table.source}, {table.place(row)}: the sum of the values of this pair is too large for "
            "float32: divide all values by one number"
        )
    return added


def _check_no_gap(table: Triples, pairs: np.ndarray) -> None:
    """Rejects a table with a pair without rating; `pairs` are sorted and occur once each."""
    num_pairs, num_items = len(table.user_ids) * len(table.item_ids), len(table.item_ids)
    gaps = np.flatnonzero(pairs != np.arange(len(pairs)))
    user, item = divmod(int(gaps[0]) if len(gaps) else len(pairs), num_items)
    raise TableError(
        f"{table.source}: {num_pairs - len(pairs)} of {num_pairs} (user, item) pairs have no rating, the "
        f"first is user {table.user_ids.one(user)!r}, item {table.item_ids.one(item)!r}: add them, or "
        "give missing='zero', so that they earn 0"
    )
