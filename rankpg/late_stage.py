"""Late stages: the re-ranker that orders L of the K candidates.

Each is built by a function of the table `LATE_STAGES`, or wraps your own. `draw` is what training sees;
`greedy`, the most likely ranking, is what counts at evaluation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from rankpg.listing import list_catalogue
from rankpg.numerics import centre, largest
from rankpg.plackett_luce import ordered_log_prob
from rankpg.types import Array, Float, Int, LateStage, PRNGKey, Ranking

__all__ = ["LATE_STAGES", "anti", "custom", "learned", "noisy", "optimal", "similarity", "uniform"]

Scorer = Callable[[Any, Int[Array, ""], Int[Array, "K"]], Float[Array, "K"]]
"""(environment, context, candidates) -> one score per candidate."""


@dataclass(frozen=True)
class _Reranker:
    """A late stage from two functions of (key, environment, context, candidates)."""

    ranking_length: int
    draw: Callable[..., Ranking]
    most_likely: Callable[..., Ranking]

    @property
    def draws(self) -> bool:
        """Whether the greedy ranking is another one than what is drawn."""
        return self.draw is not self.most_likely

    def __call__(self, key, environment, context, candidates) -> Ranking:
        return self.draw(key, environment, context, candidates)

    def greedy(self, key, environment, context, candidates) -> Ranking:
        return self.most_likely(key, environment, context, candidates)


def _relevance(environment, context, candidates) -> Float[Array, "K"]:
    return environment.relevance(context, candidates)


def _sort(scorer: Scorer, ranking_length: int) -> Callable[..., Ranking]:
    """Show the L of largest score, with probability one."""

    def rank(key, environment, context, candidates) -> Ranking:
        del key
        scores = scorer(environment, context, candidates)
        places = largest(scores, ranking_length)[1]
        return Ranking(items=candidates[places], log_propensity=jnp.zeros((), scores.dtype))

    return rank


def _plackett_luce(scorer: Scorer, ranking_length: int, noise: float) -> Callable[..., Ranking]:
    """L of K by Plackett-Luce on the scores; `noise` 0 shows the most likely ranking and its propensity."""

    def rank(key, environment, context, candidates) -> Ranking:
        scores = centre(scorer(environment, context, candidates))
        gumbel = jax.random.gumbel(key, scores.shape, scores.dtype, mode="high")
        places = largest(scores + noise * gumbel, ranking_length)[1]
        log_propensity = ordered_log_prob(list_catalogue(scores[None]), places, (ranking_length,))
        return Ranking(items=candidates[places], log_propensity=log_propensity)

    return rank


def optimal(ranking_length: int) -> LateStage:
    """Show the candidates of largest relevance.

    >>> from rankpg.environments.synthetic import paper_instance
    >>> stage, environment = optimal(1), paper_instance()
    >>> stage(jax.random.key(0), environment, jnp.int32(0), jnp.arange(1000)).items.shape
    (1,)
    """
    rank = _sort(_relevance, ranking_length)
    return _Reranker(ranking_length, rank, rank)


def anti(ranking_length: int) -> LateStage:
    """Show the candidates of smallest relevance: the late stage that is wrong on purpose."""
    rank = _sort(lambda *of: -_relevance(*of), ranking_length)
    return _Reranker(ranking_length, rank, rank)


def noisy(ranking_length: int, inverse_temperature: float = 1.0) -> LateStage:
    """Plackett-Luce on relevance times the inverse temperature."""

    def scorer(*of):
        return inverse_temperature * _relevance(*of)

    return _Reranker(
        ranking_length,
        _plackett_luce(scorer, ranking_length, noise=1.0),
        _plackett_luce(scorer, ranking_length, noise=0.0),
    )


def uniform(ranking_length: int) -> LateStage:
    """Show L candidates at random, at evaluation too: all its rankings are equally likely."""
    rank = _plackett_luce(lambda *of: jnp.zeros_like(_relevance(*of)), ranking_length, noise=1.0)
    return _Reranker(ranking_length, rank, rank)


def learned(ranking_length: int, scorer: Scorer) -> LateStage:
    """Show the candidates that a trained scorer puts first; `neural_scorer.fit` trains one."""
    rank = _sort(scorer, ranking_length)
    return _Reranker(ranking_length, rank, rank)


def similarity(ranking_length: int) -> LateStage:
    """Show the candidates whose features have the largest inner product with those of the context.

    A re-ranker as imperfect as the features are: of text embeddings, the ranking of the untrained retriever.
    """

    def scorer(environment, context, candidates):
        sides = [getattr(environment, f"{side}_features", None) for side in ("context", "item")]
        if sides[0] is None or sides[1] is None:
            raise ValueError(
                f"the late stage similarity needs features of contexts and of items, which the environment "
                f"{type(environment).__name__} lacks"
            )
        return sides[1][candidates] @ sides[0][context]

    return learned(ranking_length, scorer)


def custom(
    ranking_length: int,
    function: Callable[[PRNGKey, Int[Array, ""], Int[Array, "K"]], Int[Array, "L"]],
) -> LateStage:
    """Your own jit-able re-ranker: `function(key, context, candidates) -> item ids [L]`, best first.

    It is unbatched. Its propensity is unknown, so the adaptive learning rate of Eq. 9 is refused with it.

    >>> stage = custom(2, lambda key, context, candidates: candidates[:2])
    >>> stage(jax.random.key(0), None, jnp.int32(0), jnp.array([7, 3, 5])).items
    Array([7, 3], dtype=int32)
    """

    def rank(key, environment, context, candidates) -> Ranking:
        del environment
        items = jnp.asarray(function(key, context, candidates))
        if items.shape != (ranking_length,) or not jnp.issubdtype(items.dtype, jnp.integer):
            raise ValueError(
                f"the late stage {_name(function)} returned {items.dtype}{list(items.shape)}; "
                f"expected L = {ranking_length} integer item ids, for one context and its candidates"
            )
        return Ranking(items=items.astype(jnp.int32), log_propensity=jnp.asarray(jnp.nan))

    return _Reranker(ranking_length, rank, rank)


def _name(function: Callable[..., Any]) -> str:
    return repr(getattr(function, "__qualname__", type(function).__name__))


LATE_STAGES: dict[str, Callable[..., LateStage]] = {
    "optimal": optimal,
    "noisy": noisy,
    "uniform": uniform,
    "anti": anti,
    "learned": learned,
    "similarity": similarity,
}
"""name -> builder; the first argument is always the ranking length."""
