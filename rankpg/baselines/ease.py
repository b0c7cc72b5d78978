"""EASE: a linear model from a user's items to all items, in closed form."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import sparse
from scipy.linalg import lapack

from rankpg.baselines.base import checked_interactions, fitted, require, shape_of
from rankpg.errors import ConfigError, argument

__all__ = ["MAX_ITEMS", "Ease", "ease_weights"]

MAX_ITEMS = 20_000
"""Largest catalogue: the weights of 20,000 items are 1.6 GB, and fitting them takes twice that."""


@dataclass
class Ease:
    """EASE (Steck 2019, "Embarrassingly shallow autoencoders for sparse data").

        score(u, i) = sum over items j of  x[u, j] * B[j, i]

    A user without interactions has the score 0 for all items.

    Args:
      l2: as for `ease_weights`.

    >>> ease = Ease(l2=1.0)
    >>> ease.fit(sparse.csr_array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]))
    >>> ease.scores(np.array([1])).round(3)
    array([[0.   , 0.333, 0.   ]], dtype=float32)
    """

    l2: float = 250.0
    _train: sparse.csr_array | None = field(default=None, init=False, repr=False)
    _weights: np.ndarray | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        _check(self.l2)

    def fit(self, train: sparse.csr_array, *, seed: int = 0) -> None:
        del seed
        self._train = checked_interactions(train)
        self._weights = ease_weights(self._train, self.l2)

    def scores(self, rows: np.ndarray) -> np.ndarray:
        return fitted(self._train, self)[rows] @ fitted(self._weights, self)


def ease_weights(train: sparse.csr_array, l2: float = 250.0) -> np.ndarray:
    """Returns the weights of the ridge regression of every item on all other items.

        minimise |X - X B|^2 + l2 |B|^2  subject to  diag(B) = 0
        B = I - P diag(P)^-1,  P = (X'X + l2 I)^-1          (equations 1, 2 and 8 of Steck 2019)

    Time grows with the cube of the number of items or of users, whichever is smaller: 10,000 take about 20 s
    on one core. The arithmetic is float32.

    Args:
      train: interactions X, float32[num_users, N].
      l2: weight of the penalty, above 0.

    Returns:
      B, float32[N, N].

    Raises:
      ConfigError: l2 is not above 0 or too small for float32, or there are more than `MAX_ITEMS` items.

    >>> ease_weights(sparse.csr_array([[1.0, 1.0], [1.0, 0.0]]), l2=1.0).round(3)
    array([[0.   , 0.333],
           [0.5  , 0.   ]], dtype=float32)
    """
    _check(l2)
    num_items = shape_of(train)[1]
    if num_items > MAX_ITEMS:
        raise ConfigError(
            f"train has {num_items} items; expected at most {MAX_ITEMS}, because the weights of EASE are a "
            "dense matrix of items x items: drop rare items, or use item_knn or als"
        )
    train = checked_interactions(train)
    if shape_of(train)[0] < num_items:
        inverse = _inverse_by_users(train, l2)
    else:
        inverse = _ridge_inverse(train.T @ train, l2)
    inverse /= -np.diag(inverse).copy()
    np.fill_diagonal(inverse, 0)
    return inverse


def _inverse_by_users(train: sparse.csr_array, l2: float) -> np.ndarray:
    """Returns (X'X + l2 I)^-1 = (I - X' (XX' + l2 I)^-1 X) / l2, which inverts users x users (Woodbury)."""
    by_item = sparse.csr_array(train.T)
    half = by_item @ _ridge_inverse(train @ by_item, l2)
    inverse = by_item @ np.ascontiguousarray(half.T)
    inverse /= np.float32(-l2)
    np.einsum("ii->i", inverse)[:] += np.float32(1 / l2)
    return inverse


def _ridge_inverse(gram: sparse.sparray, l2: float) -> np.ndarray:
    """Returns the inverse of gram + l2 I."""
    matrix = np.ascontiguousarray(sparse.csr_array(gram).toarray())
    np.einsum("ii->i", matrix)[:] += np.float32(l2)
    routines: Any = lapack
    factor, fault = routines.spotrf(matrix.T, lower=True, overwrite_a=True)
    if not fault:
        factor, fault = routines.spotri(factor, lower=True, overwrite_c=True)
    if fault:
        raise ConfigError(
            f"{argument('l2', l2)} is too small: X'X + l2 I is singular in float32; expected a larger one"
        )
    inverse = np.triu(factor.T)  # the other triangle still holds the matrix
    inverse += np.triu(inverse, 1).T
    return inverse


def _check(l2: float) -> None:
    require("l2", l2, 0 < l2 < np.inf, "a number above 0")
