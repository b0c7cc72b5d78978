"""The two halves of an update, compiled: the draw, and what is learnt from it later.

Both are made of the components of `training.update`. What lies between them is time, in which the parameters
may have moved from theta' (the draw) to theta (the step). The gradient that is followed is the one at theta,
so the scores of the same candidates are formed under theta, and every shown item is weighted:

    set    w = P_theta(S) / P_theta'(S), of the ordered candidate set. The expectation over draws from theta'
           is then what `update` has at theta, for every score and re-ranker.
    item   w_l = P_theta(a_l in S) / P_theta'(a_l in S), of the shown item alone. It holds P(a shown | a in S)
           at theta', and gives sum_a q(a) P_theta'(a shown | a in S) grad P_theta(a in S): biased by what
           moved in that factor, and of smaller variance by far where K is large.
    none   w = 1: biased by all that moved.

Ratios above `clip` count as `clip`. What is cut off is missing from the expectation, so the clip biases
towards smaller steps on what has become much more likely.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from rankpg.core.estimators import ESTIMATORS, Candidates
from rankpg.core.plackett_luce import ordered_log_prob
from rankpg.policy import Pipeline
from rankpg.training.update import (
    Shown,
    StepKeys,
    StepMetrics,
    TrainState,
    assess,
    draw_contexts,
    follow,
    split_rows,
    surrogate_loss,
)
from rankpg.types import Array, Bool, Environment, Float, Int, Key, Params, PRNGKey, record

__all__ = [
    "FeedbackBatch",
    "Importance",
    "LoggedDraw",
    "UpdateMetrics",
    "draw",
    "importance_weights",
    "inclusion_method",
    "learn",
    "of_batch",
    "rewards_of",
]

Importance = Literal["set", "item", "none"]

_INCLUSION = {"catalogue": "exact", "greedy": "greedy", "candidates": "swr"}
"""The method of the inclusion probabilities that go with a draw, by what is listed of it."""

_SCORES = {"exact": "ca_pg_exact", "greedy": "ca_pg", "swr": "ca_pg_swr"}


@record
class LoggedDraw:
    """What is kept of a draw until its feedback comes."""

    items: Int[Array, "K"]
    """The candidates in slot order."""
    log_propensity: Float[Array, ""]
    """log P(S) of the ordered candidate set."""
    log_inclusion: Float[Array, "K"]
    """log P(a in S) of every candidate, by `inclusion_method`."""
    sound: Bool[Array, ""]


@record
class FeedbackBatch:
    """A draw, and what came of it."""

    context: Int[Array, ""]
    drawn: LoggedDraw
    ranking: Int[Array, "L"]
    rewards: Float[Array, "L"]
    age: Int[Array, ""]
    """Updates that were made since the draw."""


@record
class UpdateMetrics:
    """Diagnostics of one update from told rows."""

    step: StepMetrics
    effective_sample_share: Float[Array, ""]
    """(sum w)^2 / (n sum w^2): 1 where all weights are equal, near 0 where one draw outweighs the others."""
    clipped_share: Float[Array, ""]
    age: Float[Array, ""]
    """Mean number of updates between draw and step."""


def inclusion_method(pipeline: Pipeline) -> str:
    """How the inclusion probabilities of a draw are computed: exact, greedy or swr."""
    return _INCLUSION[pipeline.estimator.statistics]


def of_batch(root: PRNGKey, serial: Int[Array, ""], rows: int) -> StepKeys:
    """The keys of the rows of a draw; those of `update` where serial numbers count its steps."""
    return split_rows(_keys(root, serial), rows)


def training_contexts(
    pipeline: Pipeline, environment: Environment, root: PRNGKey, serial: Int[Array, ""]
) -> Int[Array, "B"]:
    """The contexts of a batch as `update` draws them."""
    return draw_contexts(_keys(root, serial).contexts, pipeline, environment)


def _keys(root: PRNGKey, serial: Int[Array, ""]) -> StepKeys:
    return StepKeys(*jax.random.split(jax.random.fold_in(root, serial), 4))


def draw(
    pipeline: Pipeline,
    environment: Environment,
    params: Params,
    keys: Key[Array, "B"],
    contexts: Int[Array, "B"],
) -> LoggedDraw:
    """The first half of an update, of a batch: candidates and their propensities."""
    candidates = pipeline.retrieve(keys, params, environment, contexts)
    return jax.vmap(
        lambda c: LoggedDraw(
            items=c.items,
            log_propensity=_log_propensity(pipeline, c),
            log_inclusion=_log_inclusion(pipeline, c, c.items),
            sound=c.sound,
        )
    )(candidates)


def rewards_of(
    environment: Environment,
    keys: Key[Array, "B"],
    contexts: Int[Array, "B"],
    ranking: Int[Array, "B L"],
) -> Float[Array, "B L"]:
    """What the environment answers for rankings that were made outside."""
    return jax.vmap(environment.sample_rewards)(keys, contexts, ranking)


def learn(
    pipeline: Pipeline,
    importance: Importance,
    clip: float,
    environment: Environment,
    state: TrainState,
    told: FeedbackBatch,
) -> tuple[TrainState, UpdateMetrics]:
    """The second half of an update: one step from B rows that were drawn and told."""
    shown = Shown(
        items=told.ranking,
        rewards=told.rewards,
        log_propensity=jnp.zeros(told.context.shape, told.rewards.dtype),
    )
    weights, clipped = importance_weights(
        pipeline, importance, clip, environment, state.params, told
    )

    def surrogate(params):
        candidates = pipeline.describe(told.drawn.items, params, environment, told.context)
        feedback = assess(pipeline, candidates, shown)
        return surrogate_loss(pipeline, state.baseline_state, told.context, feedback, weights)

    state, metrics = follow(pipeline, state, surrogate)
    return state, UpdateMetrics(
        step=metrics,
        effective_sample_share=jnp.sum(weights) ** 2 / (weights.size * jnp.sum(weights**2)),
        clipped_share=clipped,
        age=jnp.mean(told.age.astype(weights.dtype)),
    )


def importance_weights(
    pipeline: Pipeline,
    importance: Importance,
    clip: float,
    environment: Environment,
    params: Params,
    told: FeedbackBatch,
) -> tuple[Float[Array, "B L"], Float[Array, ""]]:
    """min(ratio, clip) for every shown item, and the share of them that was clipped.

    Rows that are learnt with the parameters that drew them have weight 1, without rounding.

    Args:
      pipeline: the run's components.
      importance: which ratio; see the top of this file.
      clip: the largest weight.
      environment: of the run.
      params: at the step.
      told: a batch.
    """
    if importance == "none":
        return jnp.ones_like(told.rewards), jnp.zeros((), told.rewards.dtype)
    # The surrogate's own forward pass asks for the same: the compiler makes one of the two.
    candidates = pipeline.describe(told.drawn.items, params, environment, told.context)

    def one(candidates, told):
        if importance == "set":
            ratio = _log_propensity(pipeline, candidates) - told.drawn.log_propensity
            ratio = jnp.broadcast_to(ratio, told.ranking.shape)
        else:
            place = jnp.argmax(told.ranking[:, None] == told.drawn.items[None, :], axis=1)
            now = _log_inclusion(pipeline, candidates, told.ranking)
            ratio = now - told.drawn.log_inclusion[place]
        return jnp.exp(jnp.where(told.age > 0, ratio, 0))

    ratios = jax.vmap(one)(candidates, told)
    return jnp.minimum(ratios, clip), jnp.mean((ratios > clip).astype(ratios.dtype))


def _log_propensity(pipeline: Pipeline, candidates: Candidates) -> Float[Array, ""]:
    picks = candidates.sparse_logits.positions(candidates.items)
    return ordered_log_prob(candidates.sparse_logits, picks, pipeline.quotas)


def _log_inclusion(
    pipeline: Pipeline, candidates: Candidates, items: Int[Array, "n"]
) -> Float[Array, "n"]:
    score: Callable[..., Any] = ESTIMATORS[_SCORES[inclusion_method(pipeline)]].score
    return score(candidates, items, pipeline.quotas)
