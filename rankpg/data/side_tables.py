"""One side of a ratings table, contexts or items, as a table of its own describes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from rankpg.data.features import Features, Featurizer, suggestion
from rankpg.data.frame import frame_of
from rankpg.data.ids import TableError, labels_of
from rankpg.data.ratings_table import Matrix, Triples

__all__ = ["ROLES", "Described", "check_orientation", "check_shape", "describe"]

ROLES = {"context": "user", "item": "item"}
"""side -> what columns of its ids are called"""


@dataclasses.dataclass(frozen=True, eq=False)
class Described:
    """Ids in the order of a table, and a row of features each."""

    side: str
    """context or item"""
    source: str
    ids: np.ndarray
    features: np.ndarray | None
    """float32[n, F]; None where no column is one."""
    featurizer: Featurizer

    def take(self, rows: np.ndarray) -> Described:
        """Some of the rows, in their order."""
        features = None if self.features is None else self.features[rows]
        return dataclasses.replace(self, ids=self.ids[rows], features=features)


def describe(
    table: Any, declared: Features | Featurizer | None, side: str, hint: str | None = None
) -> Described:
    """The ids and features of a table of contexts or items.

    Args:
      table: as for `frames.frame_of`.
      declared: which columns are features; one that was fitted before is taken as it is.
      side: context or item.
      hint: what the column of ids is called elsewhere.

    Raises:
      TableError: no column of ids, an id that is empty or occurs twice, features that are none, or columns
        that nobody declared.

    >>> found = describe({"item": ["a", "b"], "price": [1, 3]}, Features(numeric=["price"]), "item")
    >>> found.ids.tolist(), found.features.tolist()
    (['a', 'b'], [[-1.0], [1.0]])
    """
    frame = frame_of(table, f"{side}s")
    features = declared.features if isinstance(declared, Featurizer) else declared
    given = None if features is None else features.id
    name = frame.find_id(ROLES[side], hint) if given is None else given
    ids = frame.ids(name)
    if features is None:
        if len(frame.columns) > 1:
            raise TableError(
                f"{frame.source}: say which columns are features, for instance "
                f"{side}_features={suggestion(frame, name)}; Features() if none is"
            )
        features = Features()
    features = dataclasses.replace(features, id=name)
    if isinstance(declared, Featurizer):
        featurizer = dataclasses.replace(declared, features=features)
    else:
        featurizer = features.fit(frame, frame.source)
    rows = featurizer.transform(frame, frame.source) if featurizer.names else None
    return Described(side, frame.source, ids, rows, featurizer)


def check_orientation(table: Triples | Matrix, sides: Sequence[Described | None]) -> None:
    """Refuse ratings whose ids fit the tables better when contexts and items change places.

    Where every id is in its own table nothing is asked; ids that are on neither side are for others to judge.

    Raises:
      TableError: the columns, the tables or the axes are swapped, or ids are text here and numbers there.
    """
    for side, own in zip(sides, (table.user_ids.ids, table.item_ids.ids), strict=True):
        if side is not None and own.dtype.kind != side.ids.dtype.kind and _alike(own, side.ids):
            raise TableError(
                f"{table.source} and {side.source}: the {side.side} ids are {_kind(own)} in the one and "
                f"{_kind(side.ids)} in the other, but the same as text: bring both to one type"
            )
    straight = [_share(ids, side) for ids, side in zip(_ids(table), sides, strict=True)]
    crossed = [_share(ids, side) for ids, side in zip(_ids(table), sides[::-1], strict=True)]
    known = [share for share in straight if share is not None]
    fit, other = sum(known), sum(share for share in crossed if share is not None)
    if not known or min(known) == 1 or other <= fit:
        return
    words = "; ".join(
        f"of the {name} ids {share:.0%} are in {side.source}"
        for name, share, side in zip(("user", "item"), crossed, sides[::-1], strict=True)
        if share is not None and side is not None
    )
    mend = "pass the matrix as .T, or swap contexts and items"
    if isinstance(table, Triples):
        user, item, value = table.columns
        mend = f"pass columns=({item!r}, {user!r}, {value!r}), or swap contexts and items"
    raise TableError(f"{table.source}: contexts and items look swapped: {words}: {mend}")


def check_shape(table: Matrix, sides: Sequence[Described | None]) -> None:
    """Refuse a matrix that has another number of rows or columns than the tables have.

    Raises:
      TableError: so it is; the message says where the transpose would fit.
    """
    shape = table.values.shape
    lengths = [None if side is None else len(side.ids) for side in sides]
    if all(length in (None, have) for length, have in zip(lengths, shape, strict=True)):
        return
    if not np.array_equal(table.user_ids.ids, np.arange(shape[0])):
        return  # it has ids of its own, which are compared
    told = ", ".join(
        f"{side.source} {length}"
        for side, length in zip(sides, lengths, strict=True)
        if side is not None
    )
    turned = all(length in (None, have) for length, have in zip(lengths, shape[::-1], strict=True))
    mend = "it looks transposed: pass it as .T" if turned else "bring them together"
    raise TableError(
        f"{table.source} has shape {list(shape)} (contexts, items), but the tables have rows: {told}: "
        f"{mend}"
    )


def _ids(table: Triples | Matrix) -> tuple[np.ndarray, np.ndarray]:
    return table.user_ids.ids, table.item_ids.ids


def _share(ids: np.ndarray, side: Described | None) -> float | None:
    """Of these ids, how many the table holds; None without a table."""
    if side is None:
        return None
    held = set(labels_of(side.ids).tolist())
    return sum(label in held for label in labels_of(ids).tolist()) / len(ids)


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether ids of different types are the same as text, at least some of them."""
    texts = [set(map(str, ids.tolist())) for ids in (one, other)]
    return bool(texts[0] & texts[1]) and not set(one.tolist()) & set(other.tolist())


def _kind(ids: np.ndarray) -> Any:
    return "text" if ids.dtype.kind in "UO" else str(ids.dtype)
