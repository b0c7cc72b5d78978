"""Rewards of the subtopics that a shown list covers, with the tables that they need.

The formulas and their sources stand in `list_gains`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from flax import struct

from rankpg.environments import list_gains
from rankpg.environments.list_reward import ListReward, of_context
from rankpg.environments.subtopics import Subtopics, item_subtopics
from rankpg.types import Array, Float, Int, record

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
else:  # checked here, with messages of our own
    ArrayLike = Any

__all__ = [
    "LIST_REWARDS",
    "alpha_ndcg",
    "coverage",
    "err_ia",
    "greedy_ideal",
    "subtopic_recall",
    "trec_err_ia",
]

DEPTH = 100
"""Longest list for which an ideal is computed by default."""


@record
class _OfSubtopics(ListReward):
    """A measure of the subtopics of the shown items."""

    subtopics: Subtopics

    def take_items(self, rows: np.ndarray) -> ListReward:
        return dataclasses.replace(self, subtopics=self.subtopics.take_items(rows))

    def append_items(self, count: int) -> ListReward:
        return dataclasses.replace(self, subtopics=self.subtopics.append_items(count))

    def append_contexts(self, count: int) -> ListReward:
        tables = self.subtopics.num_tables
        more: dict[str, Any] = {"subtopics": self.subtopics.append_contexts(count)}
        for field in dataclasses.fields(self):  # pyright: ignore[reportArgumentType]
            value = getattr(self, field.name)
            if field.name != "subtopics" and np.ndim(value) and len(value) == tables > 1:
                more[field.name] = jnp.pad(value, ((0, count), *((0, 0),) * (value.ndim - 1)))
        return dataclasses.replace(self, **more)


@record
class AlphaNDCG(_OfSubtopics):
    """alpha-nDCG; see `alpha_ndcg`."""

    ideal: Float[Array, "tables depth"]
    """alpha-DCG of a greedy ideal list of 1, 2, ... items."""
    alpha: float = struct.field(pytree_node=False)

    name = "alpha-nDCG"

    def gains(self, context: Int[Array, ""], items: Int[Array, "L"]) -> Float[Array, "L"]:
        length, depth = items.shape[0], self.ideal.shape[1]
        if length > depth:
            raise ValueError(
                f"a list of {length} items is longer than depth={depth}, up to which the ideal is known; "
                f"give depth={length} or more"
            )
        covers = self.subtopics.rows(context, items)
        ideal = of_context(self.ideal, context)[length - 1]
        return list_gains.alpha_ndcg_gains(covers, ideal.astype(covers.dtype), self.alpha)


@record
class ErrIA(_OfSubtopics):
    """ERR-IA; see `err_ia`."""

    weights: Float[Array, "tables T"]

    name = "ERR-IA"

    def gains(self, context: Int[Array, ""], items: Int[Array, "L"]) -> Float[Array, "L"]:
        return list_gains.err_ia_gains(
            self.subtopics.rows(context, items), of_context(self.weights, context)
        )


@record
class TrecErrIA(_OfSubtopics):
    """ERR-IA of TREC's tool; see `trec_err_ia`."""

    num_subtopics: Float[Array, "tables"]
    alpha: float = struct.field(pytree_node=False)

    name = "ERR-IA"

    def gains(self, context: Int[Array, ""], items: Int[Array, "L"]) -> Float[Array, "L"]:
        covers = self.subtopics.rows(context, items)
        count = of_context(self.num_subtopics, context)
        return list_gains.trec_err_ia_gains(covers, count, self.alpha)


@record
class SubtopicRecall(_OfSubtopics):
    """Subtopic recall; see `subtopic_recall`."""

    num_subtopics: Float[Array, "tables"]

    name = "subtopic recall"

    def gains(self, context: Int[Array, ""], items: Int[Array, "L"]) -> Float[Array, "L"]:
        count = of_context(self.num_subtopics, context)
        return list_gains.subtopic_recall_gains(self.subtopics.rows(context, items), count)


@record
class Coverage(_OfSubtopics):
    """Probabilistic coverage; see `coverage`."""

    weights: Float[Array, "tables T"]

    name = "coverage"

    def gains(self, context: Int[Array, ""], items: Int[Array, "L"]) -> Float[Array, "L"]:
        return list_gains.coverage_gains(
            self.subtopics.rows(context, items), of_context(self.weights, context)
        )


def alpha_ndcg(
    subtopics: Subtopics | ArrayLike, *, alpha: float | int = 0.5, depth: int = DEPTH
) -> ListReward:
    """Reward alpha-nDCG@L; see `list_gains.alpha_ndcg_gains`.

    Args:
      subtopics: 1 where an item covers a subtopic, [N, T] or [contexts, N, T], or a table of `subtopics`.
      alpha: from 0 to 1.
      depth: length of the ideal lists, at least L; at most N is used.

    >>> reward = alpha_ndcg(np.array([[1, 0], [1, 0], [0, 1]]))
    >>> reward.gains(jnp.int32(0), jnp.array([0, 2])).round(4).tolist()
    [0.6131, 0.3869]
    """
    table = _zero_or_one(_table(subtopics), "alpha_ndcg")
    _check_alpha(alpha)
    if depth < 1:
        raise ValueError(f"depth={depth}; expected at least 1, the length of the shown list")
    every = range(table.num_tables)
    ideal = np.stack([greedy_ideal(table.table(number), depth, alpha) for number in every])
    return AlphaNDCG(table, jnp.asarray(ideal, jnp.float32), float(alpha))


def err_ia(satisfies: Subtopics | ArrayLike, *, weights: ArrayLike | None = None) -> ListReward:
    """Reward ERR-IA@L; see `list_gains.err_ia_gains`.

    Args:
      satisfies: probabilities R, [N, T] or [contexts, N, T], or a table of `subtopics`.
      weights: probabilities of the subtopics, [T] or [contexts, T]; by default equal ones for those that an
        item of the context satisfies.

    >>> reward = err_ia(np.array([[0.5, 0.0], [0.5, 0.5]]))
    >>> reward.gains(jnp.int32(0), jnp.array([0, 1])).tolist()
    [0.25, 0.1875]
    """
    table = _table(satisfies)
    return ErrIA(table, _weights(table, weights, equal=True))


def trec_err_ia(subtopics: Subtopics | ArrayLike, *, alpha: float | int = 0.5) -> ListReward:
    """Reward ERR-IA@L as TREC's tool defines it; see `list_gains.trec_err_ia_gains`.

    Args:
      subtopics: as for `alpha_ndcg`.
      alpha: from 0 to 1.
    """
    table = _zero_or_one(_table(subtopics), "trec_err_ia")
    _check_alpha(alpha)
    return TrecErrIA(table, jnp.asarray(_present(table).sum(axis=1)), float(alpha))


def subtopic_recall(subtopics: Subtopics | ArrayLike) -> ListReward:
    """Reward subtopic recall; see `list_gains.subtopic_recall_gains`.

    Args:
      subtopics: as for `alpha_ndcg`. S counts the subtopics of a context that some item covers.

    >>> reward = subtopic_recall(np.array([[1, 0, 0], [1, 1, 0]]))
    >>> reward.gains(jnp.int32(0), jnp.array([0, 1])).tolist()
    [0.5, 0.5]
    """
    table = _zero_or_one(_table(subtopics), "subtopic_recall")
    return SubtopicRecall(table, jnp.asarray(_present(table).sum(axis=1)))


def coverage(
    probabilities: Subtopics | ArrayLike, *, weights: ArrayLike | None = None
) -> ListReward:
    """Reward probabilistic coverage; see `list_gains.coverage_gains`.

    Args:
      probabilities: probability that an item covers a subtopic, [N, T] or [contexts, N, T], or a table.
      weights: worth of each subtopic, [T] or [contexts, T]; 1 for all by default.
    """
    table = _table(probabilities)
    return Coverage(table, _weights(table, weights, equal=False))


def greedy_ideal(covers: np.ndarray, depth: int, alpha: float | int = 0.5) -> np.ndarray:
    """Returns alpha-DCG@1 to @depth of the list that takes the item of largest gain at each position.

    Of items with equal gains it takes the last row. With rows in ascending order of document names this is
    the tie rule of TREC's tool `ndeval`; ties may change the gains of later positions.

    Args:
      covers: 0 or 1, [n, T].
      depth: number of positions; beyond n items the sum stays as it is.
      alpha: as for `list_gains.alpha_dcg_gains`.

    >>> greedy_ideal(np.array([[1, 0], [1, 0], [0, 1]]), 2).round(4).tolist()
    [1.0, 1.6309]
    """
    covers = np.asarray(covers, np.float64)[::-1]  # argmax takes the first of equals
    covers = covers[covers.any(axis=1)]
    left, seen = np.ones(len(covers), bool), np.zeros(covers.shape[1])
    gains = np.zeros(depth)
    for place in range(min(depth, len(covers))):
        worth = np.where(left, covers @ (1 - alpha) ** seen, -1)
        best = int(np.argmax(worth))
        gains[place] = worth[best]
        left[best] = False
        seen += covers[best]
    return np.cumsum(gains / np.log2(np.arange(2, depth + 2)))


def _table(subtopics: Subtopics | ArrayLike) -> Subtopics:
    return subtopics if isinstance(subtopics, Subtopics) else item_subtopics(np.asarray(subtopics))


def _zero_or_one(table: Subtopics, name: str) -> Subtopics:
    """Rejects probabilities where the measure counts."""
    for number in range(table.num_tables):
        values = table.table(number)
        if not np.isin(values, (0, 1)).all():
            wrong = values[~np.isin(values, (0, 1))][0]
            raise ValueError(
                f"subtopics holds {wrong:g}, and {name} counts; expected 0 or 1. For probabilities: "
                "err_ia or coverage"
            )
    return table


def _check_alpha(alpha: float | int) -> None:
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha}; expected a number from 0 to 1")


def _present(table: Subtopics) -> np.ndarray:
    """Returns 1 for each subtopic of each table that some item covers, float32[tables, T]."""
    every = range(table.num_tables)
    return np.stack([table.table(number).max(axis=0, initial=0) > 0 for number in every]).astype(
        np.float32
    )


def _weights(
    table: Subtopics, weights: ArrayLike | None, *, equal: bool
) -> Float[Array, "tables T"]:
    """Returns given weights of subtopics as [1, T] or [contexts, T], or those by default."""
    present = _present(table)
    if weights is None:
        share = present / np.maximum(present.sum(axis=1, keepdims=True), 1)
        return jnp.asarray(share if equal else np.ones_like(present[:1]))
    given = np.atleast_2d(np.asarray(weights, np.float32))
    if given.ndim != 2 or given.shape[1] != present.shape[1] or not np.all(given >= 0):
        raise ValueError(
            f"weights has the shape {list(np.shape(weights))}; expected numbers of at least 0, "
            f"[{present.shape[1]}] or [contexts, {present.shape[1]}], one for each subtopic"
        )
    return jnp.asarray(given)


LIST_REWARDS: dict[str, Callable[[Any], ListReward]] = {
    "alpha_ndcg": alpha_ndcg,
    "err_ia": trec_err_ia,
    "subtopic_recall": subtopic_recall,
    "coverage": coverage,
}
"""name -> builder from a table of subtopics; the values of the setting `list_reward`."""
