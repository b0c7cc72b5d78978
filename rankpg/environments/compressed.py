"""Triples into compressed sparse rows: merged where a pair occurs twice, sorted, user after user."""

from __future__ import annotations

import dataclasses

import numpy as np

from rankpg.environments.triples import TableError, Triples

__all__ = ["Compressed", "compress"]


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
