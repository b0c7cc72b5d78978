"""Protocol of a baseline, checks of its input, and the lists that it recommends."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from scipy import sparse

from rankpg.errors import ConfigError, argument

__all__ = [
    "Baseline",
    "checked_interactions",
    "fitted",
    "largest",
    "require",
    "shape_of",
    "top_lists",
]

_Fitted = TypeVar("_Fitted")


@runtime_checkable
class Baseline(Protocol):
    """A recommender that is fitted to interactions and scores all items for a user."""

    def fit(self, train: sparse.csr_array, *, seed: int = 0) -> None:
        """Fits the recommender.

        Args:
          train: interactions, float32[num_users, N], 0 for a pair without one.
          seed: seed of all random numbers; one seed gives one result.
        """
        ...

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """Returns the scores of all items for some users, larger for better, float32[n, N].

        Args:
          rows: users as rows of `train`, int[n].
        """
        ...


def checked_interactions(train: sparse.sparray | sparse.spmatrix) -> sparse.csr_array:
    """Returns a copy of the interactions in canonical form: sorted, without duplicates and stored zeros.

    Args:
      train: interactions [num_users, N]; the values of a pair that occurs twice are added.

    Returns:
      float32[num_users, N].

    Raises:
      ConfigError: the interactions are not a sparse matrix, have no user or no item, or a value is
        negative or not finite.

    >>> checked_interactions(sparse.csr_array([[0.0, 2.0]])).nnz
    1
    """
    if not sparse.issparse(train) or len(shape_of(train)) != 2:
        raise ConfigError(
            f"train is a {type(train).__name__}; expected a scipy.sparse.csr_array of users x items"
        )
    if 0 in shape_of(train):
        raise ConfigError(
            f"train has the shape {list(shape_of(train))}; expected at least one user and one item"
        )
    found = sparse.csr_array(train, dtype=np.float32, copy=True)
    wrong = ~(np.isfinite(found.data) & (found.data >= 0))
    if wrong.any():
        place = int(np.argmax(wrong))
        row = int(np.searchsorted(found.indptr, place, side="right")) - 1
        raise ConfigError(
            f"train: the value of user {row}, item {found.indices[place]} is {found.data[place]}; expected "
            "a finite number that is not negative: drop the interactions that are not positive"
        )
    found.sum_duplicates()
    found.eliminate_zeros()
    return found


def shape_of(table: Any) -> tuple[int, int]:
    """Returns the numbers of users and items, with a type that SciPy's sparse arrays do not declare."""
    return table.shape


def require(name: str, value: int | float, holds: bool, expected: str) -> None:
    """Rejects a setting that is out of its range.

    Raises:
      ConfigError: `holds` is False; the message names the setting, its value and what is expected.
    """
    if not holds:
        raise ConfigError(f"{argument(name, value)}; expected {expected}")


def fitted(state: _Fitted | None, baseline: object) -> _Fitted:
    """Returns what a baseline has fitted.

    Raises:
      RuntimeError: there is nothing, because `fit` was not called.
    """
    if state is None:
        raise RuntimeError(
            f"{type(baseline).__name__} has no scores yet: call fit(train) before scores(rows)"
        )
    return state


def largest(values: np.ndarray, count: int) -> np.ndarray:
    """Returns the places of the largest values in ascending order; among equal ones the first are taken.

    Args:
      values: float[n].
      count: number of places, at most n are returned.

    >>> largest(np.array([1.0, 3.0, 3.0, 2.0, 3.0]), 2)
    array([1, 2])
    """
    if count >= len(values):
        return np.arange(len(values))
    bound = -np.partition(-values, count - 1)[count - 1]  # from this end it is fast with many zeros
    above = np.flatnonzero(values > bound)
    equal = np.flatnonzero(values == bound)[: count - len(above)]
    return np.sort(np.concatenate([above, equal]))


def top_lists(
    baseline: Baseline,
    seen: sparse.csr_array,
    rows: np.ndarray,
    depth: int,
    *,
    chunk: int = 1024,
) -> np.ndarray:
    """Returns the items of largest score for each user, without those that the user has seen.

    Among equal scores the smaller item row comes first. Scores exist for one chunk of users at a time, so the
    memory is chunk * N numbers. An item of score -inf is never recommended.

    Args:
      baseline: a fitted baseline.
      seen: items to leave out, [num_users, N]; every stored entry counts, whatever its value.
      rows: users as rows of `seen`, int[n].
      depth: length of the lists.
      chunk: number of users that are scored at a time.

    Returns:
      Item rows int32[n, depth], best first; -1 at the end of a list that has too few items.

    Raises:
      ConfigError: depth or chunk is below 1, or a row is not a user of `seen`.
      ValueError: the scores have another shape, or one is NaN.

    >>> from rankpg.baselines.popular import Popular
    >>> train = sparse.csr_array(np.array([[1, 1, 0], [0, 1, 0], [0, 1, 1]], np.float32))
    >>> popular = Popular()
    >>> popular.fit(train)
    >>> top_lists(popular, train, np.array([1, 0]), depth=2)
    array([[ 0,  2],
           [ 2, -1]], dtype=int32)
    """
    require("depth", depth, depth >= 1, "at least 1")
    require("chunk", chunk, chunk >= 1, "at least 1")
    rows, num_users = np.asarray(rows), shape_of(seen)[0]
    outside = (rows < 0) | (rows >= num_users)
    if outside.any():
        raise ConfigError(
            f"rows: {rows[outside][0]} is not a user; expected rows of `seen`, 0 to {num_users - 1}"
        )
    lists = np.full((len(rows), depth), -1, np.int32)
    for start in range(0, len(rows), chunk):
        some = rows[start : start + chunk]
        scores = _unseen_scores(baseline, seen, some)
        for place, user_scores in enumerate(scores):
            items = largest(user_scores, depth)
            items = items[user_scores[items] > -np.inf]
            order = np.argsort(-user_scores[items], kind="stable")
            lists[start + place, : len(items)] = items[order]
    return lists


def _unseen_scores(baseline: Baseline, seen: sparse.csr_array, rows: np.ndarray) -> np.ndarray:
    """Returns the scores of some users, -inf for the items that they have seen, float32[n, N]."""
    scores = np.array(baseline.scores(rows), np.float32)  # a copy: the baseline may keep its own
    expected = (len(rows), shape_of(seen)[1])
    if scores.shape != expected:
        raise ValueError(
            f"{type(baseline).__name__}.scores has the shape {list(scores.shape)}; expected "
            f"{list(expected)}: fit it to a table with the items of `seen`"
        )
    if np.isnan(scores).any():
        place, item = (int(i) for i in np.argwhere(np.isnan(scores))[0])
        raise ValueError(
            f"{type(baseline).__name__}.scores is NaN for user {rows[place]}, item {item}; expected "
            "numbers: return -inf for an item that must not be recommended"
        )
    starts, ends = seen.indptr[rows], seen.indptr[rows + 1]
    for place, (start, end) in enumerate(zip(starts, ends, strict=True)):
        scores[place, seen.indices[start:end]] = -np.inf
    return scores
