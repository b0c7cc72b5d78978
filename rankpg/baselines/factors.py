"""Matrix factorisation with the package `implicit`: ALS and BPR."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import sparse

from rankpg.baselines.base import checked_interactions, fitted, require

__all__ = ["Als", "Bpr"]


@dataclass
class Factorisation:
    """Vectors of users and items whose inner products are the scores; what ALS and BPR have in common."""

    _factors: tuple[np.ndarray, np.ndarray] | None = field(default=None, init=False, repr=False)

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """Scores of all items for some users, float32[n, N].

        Raises:
          RuntimeError: `fit` was not called.
        """
        users, items = fitted(self._factors, self)
        return users[rows] @ items.T

    @property
    def user_factors(self) -> np.ndarray:
        """Vectors of the users, float32[num_users, D]; BPR has a 1 as the last of D = factors + 1 numbers.

        Raises:
          RuntimeError: `fit` was not called.
        """
        return fitted(self._factors, self)[0]

    @property
    def item_factors(self) -> np.ndarray:
        """Vectors of the items, float32[N, D]; BPR has the bias of the item as the last number.

        Raises:
          RuntimeError: `fit` was not called.
        """
        return fitted(self._factors, self)[1]


@dataclass
class Als(Factorisation):
    """Alternating least squares for implicit feedback (Hu, Koren and Volinsky 2008).

        minimise  sum over u, i of  c[u, i] (p[u, i] - <a_u, b_i>)^2  +  l2 (sum |a_u|^2 + sum |b_i|^2)

    p is 1 where there is an interaction and 0 elsewhere; the confidence is c = 1 + alpha x. Solved by
    `implicit` (`pip install 'rankpg[baselines]'`), on all cores.

    Args:
      factors: length of the vectors a_u and b_i.
      l2: weight of the penalty.
      alpha: confidence that an interaction adds.
      iterations: number of rounds, each of which solves for all users and all items.

    Raises:
      ConfigError: a setting is out of its range.
    """

    factors: int = 64
    l2: float = 0.1
    alpha: float = 10.0
    iterations: int = 15

    def __post_init__(self) -> None:
        require("factors", self.factors, self.factors >= 1, "at least 1")
        require("l2", self.l2, 0 <= self.l2 < np.inf, "a number from 0")
        require("alpha", self.alpha, 0 <= self.alpha < np.inf, "a number from 0")
        require("iterations", self.iterations, self.iterations >= 1, "at least 1")

    def fit(self, train: sparse.csr_array, *, seed: int = 0) -> None:
        confidence = checked_interactions(train)
        confidence.data = 1 + np.float32(self.alpha) * confidence.data
        with _one_blas_thread():
            model = _models("als").AlternatingLeastSquares(
                factors=self.factors,
                regularization=self.l2,
                iterations=self.iterations,
                random_state=seed,
            )
            self._factors = _fitted_factors(model, confidence)


@dataclass
class Bpr(Factorisation):
    """Matrix factorisation by Bayesian personalised ranking (Rendle et al. 2009).

        maximise  sum over (u, i, j) of  log sigmoid(s[u, i] - s[u, j])  -  l2 |parameters|^2,
        s[u, i] = <a_u, b_i> + bias_i

    i is an item of user u, j is one of the others, drawn at random. A user without interactions has the
    biases as scores, and an item without interactions the smallest bias. Solved by `implicit`
    (`pip install 'rankpg[baselines]'`) on one core, because its updates are reproducible on one core only.

    Args:
      factors: length of the vectors a_u and b_i.
      learning_rate: step size of the stochastic gradient.
      l2: weight of the penalty.
      iterations: number of passes over the interactions.

    Raises:
      ConfigError: a setting is out of its range.
    """

    factors: int = 64
    learning_rate: float = 0.05
    l2: float = 0.01
    iterations: int = 100

    def __post_init__(self) -> None:
        require("factors", self.factors, self.factors >= 1, "at least 1")
        rate = self.learning_rate
        require("learning_rate", rate, 0 < rate < np.inf, "a number above 0")
        require("l2", self.l2, 0 <= self.l2 < np.inf, "a number from 0")
        require("iterations", self.iterations, self.iterations >= 1, "at least 1")

    def fit(self, train: sparse.csr_array, *, seed: int = 0) -> None:
        interactions = checked_interactions(train)
        with _one_blas_thread():
            model = _models("bpr").BayesianPersonalizedRanking(
                factors=self.factors,
                learning_rate=self.learning_rate,
                regularization=self.l2,
                iterations=self.iterations,
                num_threads=1,
                random_state=seed,
            )
            users, items = _fitted_factors(model, interactions)
        biases = items[:, -1]
        unknown = np.bincount(interactions.indices, minlength=len(items)) == 0
        # implicit leaves 0, which is above the negative biases of many items
        biases[unknown] = biases.min()
        self._factors = users, items


def _models(name: str) -> Any:
    """Returns a module of `implicit` with a model for the CPU."""
    try:
        return importlib.import_module(f"implicit.cpu.{name}")
    except ImportError as cause:
        raise ImportError(
            f"the baseline {name!r} needs the package implicit: pip install 'rankpg[baselines]'"
        ) from cause


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    """Keeps BLAS to one thread; `implicit` has threads of its own, which wait for those of BLAS."""
    try:
        limits = importlib.import_module("threadpoolctl").threadpool_limits(1, "blas")
    except ImportError:  # comes with implicit, whose absence is reported by the caller
        yield
        return
    with limits:
        yield


def _fitted_factors(model: Any, values: sparse.csr_array) -> tuple[np.ndarray, np.ndarray]:
    """Fits a model and returns the factors of users and items, float32[num_users, D] and float32[N, D]."""
    model.fit(sparse.csr_matrix(values), show_progress=False)
    return np.asarray(model.user_factors), np.asarray(model.item_factors)
