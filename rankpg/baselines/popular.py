"""Popularity: the same items for every user."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import sparse

from rankpg.baselines.base import checked_interactions, fitted, require

__all__ = ["Popular", "popularity"]


@dataclass
class Popular:
    """Popularity baseline: an item's score is the number of its interactions.

    Args:
      damping: as for `popularity`.

    >>> popular = Popular()
    >>> popular.fit(sparse.csr_array([[1.0, 0.0], [1.0, 1.0]]))
    >>> popular.scores(np.array([0]))
    array([[2., 1.]], dtype=float32)
    """

    damping: float = 0.0
    _scores: np.ndarray | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        require("damping", self.damping, 0 <= self.damping < np.inf, "a number from 0")

    def fit(self, train: sparse.csr_array, *, seed: int = 0) -> None:
        del seed
        self._scores = popularity(train, self.damping)

    def scores(self, rows: np.ndarray) -> np.ndarray:
        one = fitted(self._scores, self)
        return np.broadcast_to(one, (len(rows), len(one)))


def popularity(train: sparse.csr_array, damping: float = 0.0) -> np.ndarray:
    """Returns the popularity of every item, in which active users may count less.

        score(i) = sum over users u of  x[u, i] * n(u)^-damping

    n(u) is the number of items of user u. 0 counts interactions; 1 gives every user one vote, shared by the
    user's items.

    Args:
      train: interactions x, float32[num_users, N].
      damping: exponent, from 0.

    Returns:
      float32[N].

    >>> popularity(sparse.csr_array([[1.0, 0.0], [1.0, 1.0]]), damping=1.0)
    array([1.5, 0.5], dtype=float32)
    """
    train = checked_interactions(train)
    activity = np.maximum(np.diff(train.indptr), 1).astype(np.float64)
    return (train.T @ activity**-damping).astype(np.float32)
