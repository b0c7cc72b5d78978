"""Ratings as NumPy arrays: triples (user, item, value), or a dense matrix.

Both are checked when they are built; errors name the source, the place in it, and the remedy.
`data.read.read` builds one from a file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from rankpg.data.ids import Columns, IdMap, TableError, id_array, is_empty

__all__ = [
    "Compressed",
    "Encoded",
    "Matrix",
    "Triples",
    "compress",
    "encode",
    "in_one_line",
    "numpy_fault",
    "sorted_ids",
    "unusable",
]

Encoded: TypeAlias = tuple[np.ndarray, np.ndarray]
"""A column of ids as (labels, codes): row r holds labels[codes[r]], and every label occurs."""


def numpy_fault(source: object, cause: Exception) -> TableError:
    """Returns the error for a NumPy file that `numpy.load` rejected."""
    if "allow_pickle" in str(cause):
        return TableError(
            f"{source}: holds pickled Python objects, which are never loaded because they can run code: "
            "save numbers or strings (array.astype(str)) instead"
        )
    return TableError(f"{source}: damaged NumPy file: {in_one_line(cause)}")


def in_one_line(cause: Exception) -> str:
    """Returns the message of another library on one line."""
    return " ".join(str(cause).split())


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

    @classmethod
    def build(
        cls,
        users: Encoded,
        items: Encoded,
        values: np.ndarray,
        source: str = "triples",
        columns: Columns = ("users", "items", "values"),
        place: Callable[..., str] = _rows_from_zero,
    ) -> Triples:
        """Returns checked triples.

        Raises:
          TableError: there are no rows, an id is empty, or a value is not a finite number.
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
        user_ids, item_ids = IdMap(users[0], "user"), IdMap(items[0], "item")
        numbers = [codes.astype(np.int32, copy=False) for _, codes in (users, items)]
        floats = values.astype(np.float64, copy=False)
        return cls(numbers[0], numbers[1], floats, user_ids, item_ids, source, columns, place)


@dataclasses.dataclass(frozen=True, eq=False)
class Matrix:
    """Ratings as a matrix: values[num_users, N], finite numbers."""

    values: np.ndarray
    user_ids: IdMap
    item_ids: IdMap
    source: str = "matrix"
    column: str = "matrix"
    place: Callable[[int, int], str] = _cell_from_zero

    @classmethod
    def build(
        cls, values: np.ndarray, users: Any = None, items: Any = None, **where: Any
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
        matrix = cls(values, IdMap(ids[0], "user"), IdMap(ids[1], "item"), **where)
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


def compress(table: Triples, missing: str, duplicates: str) -> Compressed:
    """Sorts triples by (user, item) and merges the rows of one pair.

    Args:
      table: the triples.
      missing: `zero` keeps only the pairs that occur; `error` requires all pairs.
      duplicates: `error` rejects several rows of one pair; `mean` averages them; `last` keeps the last.

    Raises:
      TableError: a pair occurs twice, or is missing, where that is an error.
      ValueError: an option has an unknown value.
    """
    _check("missing", missing, ("zero", "error"))
    _check("duplicates", duplicates, ("mean", "last", "error"))
    num_users, num_items = len(table.user_ids), len(table.item_ids)
    pairs = table.users.astype(np.int64) * num_items + table.items
    order = np.argsort(pairs, kind="stable")
    pairs, values = pairs[order], table.values[order]
    firsts = np.flatnonzero(np.diff(pairs, prepend=-1))
    if len(firsts) < len(pairs):
        values = _merged(table, values, order, firsts, duplicates)
        pairs = pairs[firsts]
    if missing == "error" and len(pairs) < num_users * num_items:
        _check_no_gap(table, pairs)
    if len(pairs) > np.iinfo(np.int32).max:
        raise TableError(f"{table.source}: {len(pairs)} ratings; expected at most 2**31 - 1")
    starts = np.searchsorted(pairs, np.arange(num_users + 1) * num_items).astype(np.int32)
    share = 1.0 - len(pairs) / (num_users * num_items)
    return Compressed(starts, (pairs % num_items).astype(np.int32), values, share)


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
    several = np.flatnonzero(counts > 1)
    first = firsts[several[0]]
    rows = [int(row) for row in order[first : first + 2]]
    user = table.user_ids.one(table.users[rows[0]])
    item = table.item_ids.one(table.items[rows[0]])
    raise TableError(
        f"{table.source}, {table.place(*rows)}: the pair user {user!r}, item {item!r} occurs "
        f"{counts[several[0]]} times ({len(several) - 1} other pairs repeat as well): keep one row "
        "each, or give duplicates='mean' or duplicates='last'"
    )


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
