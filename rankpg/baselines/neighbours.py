"""Item-based nearest neighbours: items like those that a user has."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import sparse

from rankpg.baselines.base import checked_interactions, fitted, largest, require, shape_of
from rankpg.errors import ConfigError, argument

__all__ = ["WEIGHTINGS", "ItemKnn", "item_similarities", "weighted"]

WEIGHTINGS = ("none", "tf_idf", "bm25")
_K1, _B = 1.2, 0.75
_BLOCK_VALUES, _BLOCK_ROWS = 2**24, 4096


@dataclass
class ItemKnn:
    """Item-based nearest neighbours (Sarwar et al. 2001).

        score(u, i) = sum over the items j of user u that are neighbours of i of  x[u, j] * sim(i, j)

    A user without interactions has the score 0 for all items.

    Args:
      neighbours, shrinkage, weighting: as for `item_similarities`.

    >>> knn = ItemKnn(shrinkage=0.0)
    >>> knn.fit(sparse.csr_array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]))
    >>> knn.scores(np.array([1])).round(3)
    array([[0.   , 0.707, 0.   ]], dtype=float32)
    """

    neighbours: int = 100
    shrinkage: float = 10.0
    weighting: str = "none"
    _train: sparse.csr_array | None = field(default=None, init=False, repr=False)
    _similarities: sparse.csr_array | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        _check(self.neighbours, self.shrinkage, self.weighting)

    def fit(self, train: sparse.csr_array, *, seed: int = 0) -> None:
        del seed
        self._train = checked_interactions(train)
        similarities = item_similarities(
            self._train, self.neighbours, self.shrinkage, self.weighting
        )
        self._similarities = sparse.csr_array(similarities.T)

    def scores(self, rows: np.ndarray) -> np.ndarray:
        train = fitted(self._train, self)
        return (train[rows] @ fitted(self._similarities, self)).toarray()


def item_similarities(
    train: sparse.csr_array,
    neighbours: int = 100,
    shrinkage: float = 10.0,
    weighting: str = "none",
) -> sparse.csr_array:
    """Returns the similarity of every item to its nearest neighbours, 0 to all others and to itself.

        sim(i, j) = <w_i, w_j> / (|w_i| |w_j| + shrinkage)

    w_i is the column of item i after weighting. Shrinkage makes a similarity small that rests on few users
    (the form of Ferrari Dacrema et al. 2019, "Are we really making much progress?").

    Args:
      train: interactions, float32[num_users, N].
      neighbours: number of neighbours of an item; among equal similarities the smaller item row comes first.
      shrinkage: from 0.
      weighting: as for `weighted`.

    Returns:
      float32[N, N]; row i has at most `neighbours` entries, all positive.

    Raises:
      ConfigError: a setting is out of its range.

    >>> train = sparse.csr_array([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
    >>> item_similarities(train, neighbours=1, shrinkage=0.0).toarray().round(3)
    array([[0.   , 0.707, 0.   ],
           [0.707, 0.   , 0.   ],
           [0.707, 0.   , 0.   ]], dtype=float32)
    """
    _check(neighbours, shrinkage, weighting)
    weights = weighted(checked_interactions(train), weighting)
    num_items = shape_of(weights)[1]
    by_item = sparse.csr_array(weights.T)
    lengths = np.sqrt(by_item.power(2).sum(axis=1), dtype=np.float32)
    size = int(np.clip(_BLOCK_VALUES // num_items, 1, _BLOCK_ROWS))
    counts, items, values = [], [], []
    for start in range(0, num_items, size):
        block = sparse.csr_array(by_item[start : start + size] @ weights)
        block.sort_indices()
        for row in range(shape_of(block)[0]):
            entries = slice(block.indptr[row], block.indptr[row + 1])
            near, item = block.indices[entries], start + row
            close = block.data[entries] / (lengths[item] * lengths[near] + np.float32(shrinkage))
            others = near != item
            near, close = near[others], close[others]
            kept = largest(close, neighbours)
            counts.append(len(kept))
            items.append(near[kept])
            values.append(close[kept])
    starts = np.concatenate([[0], np.cumsum(counts)])
    return sparse.csr_array(
        (np.concatenate(values), np.concatenate(items), starts), shape=(num_items, num_items)
    )


def weighted(train: sparse.csr_array, weighting: str) -> sparse.csr_array:
    """Returns interactions in which a user with many items says less about each.

        none    x
        tf_idf  x * idf(u)
        bm25    idf(u) * x * (k1 + 1) / (x + k1 * (1 - b + b * n(i) / mean n)),  k1 = 1.2, b = 0.75

    Items are documents and users are terms: idf(u) = log(1 + N / n(u)), n(u) is the number of items of user
    u, n(i) the sum of the values of item i. BM25 as in Robertson and Zaragoza 2009, with this idf.

    Args:
      train: interactions x, float32[num_users, N].
      weighting: `none`, `tf_idf` or `bm25`.

    Returns:
      float32[num_users, N], with the entries of `train`.

    Raises:
      ConfigError: the weighting is unknown.

    >>> weighted(sparse.csr_array(np.array([[1, 1], [1, 0]], np.float32)), "tf_idf").toarray().round(3)
    array([[0.693, 0.693],
           [1.099, 0.   ]], dtype=float32)
    """
    _check_weighting(weighting)
    if weighting == "none" or not train.nnz:
        return train
    items_of_user = np.diff(train.indptr)
    idf = np.log1p(shape_of(train)[1] / np.maximum(items_of_user, 1))
    values = train.data.astype(np.float64)
    if weighting == "bm25":
        lengths = np.asarray(train.sum(axis=0), np.float64)
        relative = (lengths / lengths.mean())[train.indices]
        values = values * (_K1 + 1) / (values + _K1 * (1 - _B + _B * relative))
    values = (values * np.repeat(idf, items_of_user)).astype(np.float32)
    return sparse.csr_array((values, train.indices, train.indptr), shape=train.shape)


def _check(neighbours: int, shrinkage: float, weighting: str) -> None:
    require("neighbours", neighbours, neighbours >= 1, "at least 1")
    require("shrinkage", shrinkage, 0 <= shrinkage < np.inf, "a number from 0")
    _check_weighting(weighting)


def _check_weighting(weighting: str) -> None:
    if weighting not in WEIGHTINGS:
        raise ConfigError(f"{argument('weighting', weighting)}; expected {' or '.join(WEIGHTINGS)}")
