"""Ratings in memory as NumPy arrays: triples (user, item, value), or a dense matrix. No JAX here.

A table checks itself when it is built, so that what comes out of it needs no second look; its errors name
the source, the place in it, and what to do. `tables.read` builds one from a file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from rankpg.data.ids import IdMap, TableError, id_array, is_empty

__all__ = [
    "Columns",
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

Columns: TypeAlias = tuple[str, str, str]
"""The names of the user, the item and the value column."""
Encoded: TypeAlias = tuple[np.ndarray, np.ndarray]
"""A column of ids as (labels, codes): row r holds labels[codes[r]], and every label occurs."""


def numpy_fault(source: Any, cause: Exception) -> TableError:
    """What is wrong with a NumPy file that `numpy.load` refused."""
    if "allow_pickle" in str(cause):
        return TableError(
            f"{source}: holds pickled Python objects, which are never loaded because they can run code: "
            "save numbers or strings (array.astype(str)) instead"
        )
    return TableError(f"{source}: a damaged NumPy file: {in_one_line(cause)}")


def in_one_line(cause: Exception) -> str:
    """What another library said, for the end of a message of ours."""
    return " ".join(str(cause).split())


def _rows_from_zero(*rows: int) -> str:
    return f"row{'s' * (len(rows) > 1)} {' and '.join(map(str, rows))} (counted from 0)"


def _cell_from_zero(row: int, column: int) -> str:
    return f"row {row}, column {column} (both counted from 0)"


@dataclasses.dataclass(frozen=True, eq=False)
class Triples:
    """R rows (user, item, value): what a ratings file holds.

    users, items: int32[R], row numbers into `user_ids` and `item_ids`; values: float64[R], finite.
    `source`, `columns` and `place(*rows)` are for messages: the file, its columns, where rows stand.
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
        """Checked: at least one row, no empty id, finite values. Raises TableError otherwise."""
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
                "mend the value or remove the row"
            )
        user_ids, item_ids = IdMap(users[0], "user"), IdMap(items[0], "item")
        numbers = [codes.astype(np.int32, copy=False) for _, codes in (users, items)]
        floats = values.astype(np.float64, copy=False)
        return cls(numbers[0], numbers[1], floats, user_ids, item_ids, source, columns, place)


@dataclasses.dataclass(frozen=True, eq=False)
class Matrix:
    """One value for every user (row) and item (column): values[num_users, N], finite numbers.

    Raises:
      TableError: not two-dimensional, empty, not numbers, or a cell that is NaN or infinite.
    """

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
        """The ids are the row and column numbers unless given."""
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
            mend = ": it looks transposed, pass matrix.T" if turned else ""
            raise TableError(
                f"{source}: {len(ids[0])} user ids and {len(ids[1])} item ids "
                f"for a matrix of {values.shape}{mend}"
            )
        matrix = cls(values, IdMap(ids[0], "user"), IdMap(ids[1], "item"), **where)
        wrong = unusable(values)
        if wrong.any():
            row, column = (int(i) for i in np.unravel_index(np.argmax(wrong), values.shape))
            what = _describe(values[row, column])
            raise TableError(f"{source}, {matrix.place(row, column)}: {what}: put a number there")
        return matrix


def encode(ids: np.ndarray, source: str, column: str) -> Encoded:
    """(sorted labels, code of every row) of a column of ids."""
    try:
        labels, codes = np.unique(ids, return_inverse=True)
    except TypeError:
        raise TableError(
            f"{source}: column {column!r} mixes ids of several types, or lacks some: "
            "make them all strings"
        ) from None
    return labels, codes


def sorted_ids(labels: np.ndarray, codes: np.ndarray, source: str, column: str) -> Encoded:
    """The same column of ids with its labels sorted, each of them once."""
    if is_empty(labels).any():
        return labels, codes  # on its way to an error, and None does not sort
    labels, position = encode(labels, source, column)
    return labels, position.astype(np.int32)[codes]


def unusable(values: np.ndarray) -> np.ndarray:
    """True where a value is NaN, infinite, or too large for float32."""
    return ~(np.abs(values.astype(np.float64, copy=False)) <= np.finfo(np.float32).max)


def _describe(value: Any) -> str:
    if np.isnan(value):
        return "the value is missing or NaN"
    return (
        f"the value {value} is infinite" if np.isinf(value) else f"{value} is too large for float32"
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Compressed:
    """The ratings of user u are items[starts[u] : starts[u + 1]], ascending, and the same of `values`."""

    starts: np.ndarray
    """int32[num_users + 1]"""
    items: np.ndarray
    """int32[num_ratings]"""
    values: np.ndarray
    """float64[num_ratings]"""
    missing_share: float


def compress(table: Triples, missing: str, duplicates: str) -> Compressed:
    """Sort by (user, item) and merge what occurs twice.

    Args:
      missing: `zero` keeps only the pairs that occur; `error` demands them all.
      duplicates: of several rows of one pair, refuse them, keep the `mean`, or the `last`.

    Raises:
      TableError: a pair occurs twice, or not at all, where that is an error.
      ValueError: an option that does not exist.
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
        _refuse_missing(table, pairs)
    if len(pairs) > np.iinfo(np.int32).max:
        raise TableError(f"{table.source}: {len(pairs)} ratings, but at most 2**31 - 1 fit")
    starts = np.searchsorted(pairs, np.arange(num_users + 1) * num_items).astype(np.int32)
    share = 1.0 - len(pairs) / (num_users * num_items)
    return Compressed(starts, (pairs % num_items).astype(np.int32), values, share)


def _check(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name}: expected {' or '.join(known)}, got {value!r}")


def _merged(
    table: Triples, values: np.ndarray, order: np.ndarray, firsts: np.ndarray, duplicates: str
) -> np.ndarray:
    """One value a pair; `values` are sorted by pair, `firsts` is where each pair starts among them."""
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
        'each, or pass --duplicates mean or --duplicates last (in Python: duplicates="mean")'
    )


def _refuse_missing(table: Triples, pairs: np.ndarray) -> None:
    """Name the first pair without rating; `pairs` are sorted and occur once each."""
    num_pairs, num_items = len(table.user_ids) * len(table.item_ids), len(table.item_ids)
    gaps = np.flatnonzero(pairs != np.arange(len(pairs)))
    user, item = divmod(int(gaps[0]) if len(gaps) else len(pairs), num_items)
    raise TableError(
        f"{table.source}: {num_pairs - len(pairs)} of {num_pairs} (user, item) pairs have no rating, the "
        f"first is user {table.user_ids.one(user)!r}, item {table.item_ids.one(item)!r}: add them, or "
        'pass --missing zero (in Python: missing="zero"), so that they earn 0'
    )
