"""Tables of contexts or of items beside the ratings: their ids and their features."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from rankpg.data.features import Features, Featurizer, suggestion
from rankpg.data.files import Table
from rankpg.data.frame import frame_of
from rankpg.data.ids import TableError, labels_of
from rankpg.data.ratings_table import Matrix, Triples

__all__ = ["ROLES", "Described", "check_orientation", "check_shape", "describe"]

ROLES = {"context": "user", "item": "item"}
"""side -> role of its id column"""


@dataclasses.dataclass(frozen=True, eq=False)
class Described:
    """Ids in the order of a table, with one row of features for each."""

    side: str
    """context or item"""
    source: str
    ids: np.ndarray
    features: np.ndarray | None
    """float32[n, F]; None where no column is a feature."""
    featurizer: Featurizer
    note: str = ""
    """A sentence about what was read."""

    def take(self, rows: np.ndarray) -> Described:
        """Returns some of the rows, in the order of `rows`."""
        features = None if self.features is None else self.features[rows]
        return dataclasses.replace(self, ids=self.ids[rows], features=features)


def describe(
    table: Table,
    declared: Features | Featurizer | None,
    side: str,
    hint: str | None = None,
    id_type: str = "auto",
) -> Described:
    """Returns the ids and features of a table of contexts or items.

    Args:
      table: as for `data.frame.frame_of`.
      declared: the columns that are features; a fitted featurizer is used as it is.
      side: context or item.
      hint: name of the id column in the ratings.
      id_type: declared type of the ids; see `data.id_types`.

    Raises:
      TableError: the id column is ambiguous, an id is empty or occurs twice, a feature is invalid, or columns
        are not declared.

    >>> found = describe({"item": ["a", "b"], "price": [1, 3]}, Features(numeric=["price"]), "item")
    >>> found.ids.tolist(), found.features.tolist()
    (['a', 'b'], [[-1.0], [1.0]])
    """
    frame = frame_of(table, f"{side}s")
    features = declared.features if isinstance(declared, Featurizer) else declared
    given = None if features is None else features.id
    name = frame.find_id(ROLES[side], hint) if given is None else given
    ids = frame.ids(name, id_type)
    if features is None:
        if len(frame.columns) > 1:
            raise TableError(
                f"{frame.source}: the feature columns are not declared: give them, for instance "
                f"{side}_features={suggestion(frame, name)}, or Features() for none"
            )
        features = Features()
    features = dataclasses.replace(features, id=name)
    if isinstance(declared, Featurizer):
        featurizer = dataclasses.replace(declared, features=features)
    else:
        featurizer = features.fit(frame, frame.source)
    rows = featurizer.transform(frame, frame.source) if featurizer.names else None
    of_lines = "" if frame.lines is None else f" of {frame.lines} lines"
    used = ", ".join(map(repr, features.columns)) or "none"
    note = f"Read {len(ids)} rows{of_lines} of {frame.source}: "
    note += f"{ROLES[side]} ids from {name!r}, features: {used}."
    return Described(side, frame.source, ids, rows, featurizer, note)


def check_orientation(table: Triples | Matrix, sides: Sequence[Described | None]) -> None:
    """Rejects ratings whose ids fit the tables better when contexts and items change places.

    Where every id is in its own table there is nothing to compare. Ids on neither side are checked later.

    Raises:
      TableError: the columns, the tables or the axes are swapped, or ids are text in one table and numbers in
        another.
    """
    for side, own in zip(sides, (table.user_ids.ids, table.item_ids.ids), strict=True):
        if side is not None and own.dtype.kind != side.ids.dtype.kind and _alike(own, side.ids):
            raise TableError(
                f"{table.source} and {side.source}: the {side.side} ids are {_kind(own)} in the first and "
                f"{_kind(side.ids)} in the second, but equal as text: convert both to one type, or "
                "give id_type='text'"
            )
    straight = [_share(ids, side) for ids, side in zip(_ids(table), sides, strict=True)]
    crossed = [_share(ids, side) for ids, side in zip(_ids(table), sides[::-1], strict=True)]
    known = [share for share in straight if share is not None]
    fit, other = sum(known), sum(share for share in crossed if share is not None)
    if not known or min(known) == 1 or other <= fit:
        return
    words = "; ".join(
        f"{share:.0%} of the {name} ids are in {side.source}"
        for name, share, side in zip(("user", "item"), crossed, sides[::-1], strict=True)
        if share is not None and side is not None
    )
    remedy = "pass the matrix as .T, or swap contexts and items"
    if isinstance(table, Triples):
        user, item, value = table.columns
        remedy = f"pass columns=({item!r}, {user!r}, {value!r}), or swap contexts and items"
    raise TableError(f"{table.source}: contexts and items look swapped: {words}: {remedy}")


def check_shape(table: Matrix, sides: Sequence[Described | None]) -> None:
    """Rejects a matrix whose numbers of rows and columns differ from those of the tables.

    Raises:
      TableError: the shapes differ; the message names the transpose where it fits.
    """
    shape = table.values.shape
    lengths = [None if side is None else len(side.ids) for side in sides]
    if all(length in (None, have) for length, have in zip(lengths, shape, strict=True)):
        return
    if not np.array_equal(table.user_ids.ids, np.arange(shape[0])):
        return  # it has ids of its own, which are compared later
    rows = ", ".join(
        f"{side.source} {length}"
        for side, length in zip(sides, lengths, strict=True)
        if side is not None
    )
    turned = all(length in (None, have) for length, have in zip(lengths, shape[::-1], strict=True))
    remedy = "it looks transposed: pass it as .T" if turned else "make the shapes equal"
    raise TableError(
        f"{table.source} has shape {list(shape)} (contexts, items), but the tables have rows: {rows}: "
        f"{remedy}"
    )


def _ids(table: Triples | Matrix) -> tuple[np.ndarray, np.ndarray]:
    return table.user_ids.ids, table.item_ids.ids


def _share(ids: np.ndarray, side: Described | None) -> float | None:
    """Returns the share of these ids that the table holds, or None without a table."""
    if side is None:
        return None
    held = set(labels_of(side.ids).tolist())
    return sum(label in held for label in labels_of(ids).tolist()) / len(ids)


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Returns True if some ids of different types are equal as text, and none as they are."""
    texts = [set(map(str, ids.tolist())) for ids in (one, other)]
    return bool(texts[0] & texts[1]) and not set(one.tolist()) & set(other.tolist())


def _kind(ids: np.ndarray) -> str:
    return "text" if ids.dtype.kind in "UO" else str(ids.dtype)
