"""One side of a ratings table, contexts or items, as a table of its own describes it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from rankpg.environments.featurizer import Features, Featurizer, suggestion
from rankpg.environments.frames import frame_of
from rankpg.environments.triples import TableError

__all__ = ["ROLES", "Described", "describe"]

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
