"""Both halves of an online update: the draw of candidates now, and the update from their feedback later.

Between the two, the parameters may move from theta' (the draw) to theta (the update). The
update follows the gradient at theta: the scores of the same candidates are computed under theta, and every
shown item has an importance weight:

    set    w = P_theta(S) / P_theta'(S), of the ordered candidate set (trajectory-level). The expectation over
           draws from theta' is then the gradient that `training.update` has at theta, for every score and
           re-ranker.
    item   w_l = P_theta(a_l in S) / P_theta'(a_l in S), of the shown item alone. It keeps P(a shown | a in S)
           at theta', and gives sum_a q(a) P_theta'(a shown | a in S) grad P_theta(a in S): biased by the
           change of that factor, and of far smaller variance where K is large.
    none   w = 1: biased by every change.

Ratios above `clip` count as `clip`. The truncated mass is missing from the expectation, so clipping biases
towards smaller steps on items that have become much more likely.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from rankpg.core.estimators import ESTIMATORS, Candidates
from rankpg.core.plackett_luce import ordered_log_prob
from rankpg.training.logged import Logged, rescore, sample
from rankpg.training.update import Learner, StepKeys, StepMetrics, TrainState, update
from rankpg.types import Array, Bool, Float, Int, Key, Params, PRNGKey, UInt, record

__all__ = [
    "FeedbackBatch",
    "Importance",
    "LoggedDraw",
    "UpdateMetrics",
    "act",
    "importance_weights",
    "inclusion_method",
    "keys_of_draw",
    "sample_rewards",
    "training_contexts",
    "update_from_feedback",
]

Importance = Literal["set", "item", "none"]

_INCLUSION = {"catalogue": "exact", "greedy": "greedy", "candidates": "swr"}
"""Method of the inclusion probabilities that are logged with a draw, by the statistics of the estimator."""

_SCORES = {"exact": "ca_pg_exact", "greedy": "ca_pg", "swr": "ca_pg_swr"}


@record
class LoggedDraw:
    """The part of a draw that is kept until its feedback comes."""

    items: Int[Array, "K"]
    """Candidates in slot order."""
    log_propensity: Float[Array, ""]
    """log P(S) of the ordered candidate set under the behaviour policy."""
    log_inclusion: Float[Array, "K"]
    """log P(a in S) of every candidate, by `inclusion_method`."""
    sound: Bool[Array, ""]


@record
class FeedbackBatch:
    """Draws and their feedback, one row for each context."""

    context: Int[Array, ""]
    drawn: LoggedDraw
    ranking: Int[Array, "L"]
    rewards: Float[Array, "L"]
    age: Int[Array, ""]
    """Updates made since the draw."""
    seen: Bool[Array, "L"] | None = None
    """False for a position that was not shown; None: all were."""
    allowed: Bool[Array, "N"] | None = None
    """Items that were eligible at the draw, besides those that the environment excludes; None: all were."""


@record
class UpdateMetrics:
    """Diagnostics of one update from feedback."""

    step: StepMetrics
    effective_sample_share: Float[Array, ""]
    """(sum w)^2 / (n sum w^2): 1 where all weights are equal, near 0 where one draw outweighs the others."""
    clipped_share: Float[Array, ""]
    age: Float[Array, ""]
    """Mean number of updates between draw and update."""


def inclusion_method(learner: Learner) -> str:
    """Returns the method of a draw's inclusion probabilities: exact, greedy or swr."""
    return _INCLUSION[learner.estimator.statistics]


def keys_of_draw(root: PRNGKey, serial: UInt[Array, ""], rows: int) -> StepKeys:
    """The keys of the rows of a draw; those of `Learner.update` where serial numbers count its steps."""
    return _keys(root, serial).rows(rows)


def training_contexts(learner: Learner, root: PRNGKey, serial: UInt[Array, ""]) -> Int[Array, "B"]:
    """Draws the contexts of a batch as `Learner.update` does."""
    return learner.sampler(_keys(root, serial).contexts, learner.environment)


def _keys(root: PRNGKey, serial: UInt[Array, ""]) -> StepKeys:
    return StepKeys.split(jax.random.fold_in(root, serial))


def act(
    learner: Learner,
    params: Params,
    keys: Key[Array, "B"],
    contexts: Int[Array, "B"],
    allowed: Bool[Array, "B N"] | None = None,
) -> LoggedDraw:
    """Draws candidates for a batch, with their propensities: the first half of an update."""
    candidates = sample(learner, params, keys, contexts, allowed)
    return jax.vmap(
        lambda c: LoggedDraw(
            items=c.items,
            log_propensity=_log_propensity(learner, c),
            log_inclusion=_log_inclusion(learner, c, c.items),
            sound=c.sound,
        )
    )(candidates)


def sample_rewards(
    learner: Learner, keys: Key[Array, "B"], contexts: Int[Array, "B"], ranking: Int[Array, "B L"]
) -> Float[Array, "B L"]:
    """Draws the environment's rewards for rankings that were made outside."""
    return jax.vmap(learner.environment.sample_rewards)(keys, contexts, ranking)


def update_from_feedback(
    learner: Learner, importance: Importance, clip: float, state: TrainState, batch: FeedbackBatch
) -> tuple[TrainState, UpdateMetrics]:
    """Makes one update from B draws and their feedback: the second half."""
    weights, clipped = importance_weights(learner, importance, clip, state.params, batch)
    logged = Logged(
        contexts=batch.context,
        items=batch.drawn.items,
        shown=batch.ranking,
        observed=batch.rewards,
        weights=weights,
        seen=batch.seen,
        allowed=batch.allowed,
    )
    state, done = update(learner, state, logged)
    return state, UpdateMetrics(
        step=done.metrics,
        effective_sample_share=_effective_share(weights, batch.seen),
        clipped_share=clipped,
        age=jnp.mean(batch.age.astype(weights.dtype)),
    )


def importance_weights(
    learner: Learner, importance: Importance, clip: float, params: Params, batch: FeedbackBatch
) -> tuple[Float[Array, "B L"], Float[Array, ""]]:
    """min(ratio, clip) for every shown item, and the share of ratios that were clipped.

    Rows that are learnt from with the parameters that drew them have weight 1, without rounding.

    Args:
      learner: the policy and its score.
      importance: set, item or none; see the top of this file.
      clip: the largest weight.
      params: parameters of the policy that learns.
      batch: draws and feedback.
    """
    if importance == "none":
        return jnp.ones_like(batch.rewards), jnp.zeros((), batch.rewards.dtype)
    # The update's own forward pass computes the same: the compiler makes one of the two.
    candidates = rescore(learner, params, batch.drawn.items, batch.context, batch.allowed)

    def one(candidates, row):
        if importance == "set":
            ratio = _log_propensity(learner, candidates) - row.drawn.log_propensity
            ratio = jnp.broadcast_to(ratio, row.ranking.shape)
        else:
            slot = jnp.argmax(row.ranking[:, None] == row.drawn.items[None, :], axis=1)
            now = _log_inclusion(learner, candidates, row.ranking)
            ratio = now - row.drawn.log_inclusion[slot]
        return jnp.exp(jnp.where(row.age > 0, ratio, 0))

    ratios = jax.vmap(one)(candidates, batch)
    clipped = (ratios > clip).astype(ratios.dtype)
    return jnp.minimum(ratios, clip), jnp.mean(clipped, where=batch.seen)


def _effective_share(
    weights: Float[Array, "B L"], seen: Bool[Array, "B L"] | None
) -> Float[Array, ""]:
    """(sum w)^2 / (n sum w^2) over the positions that were shown; 0 if all weights are 0."""
    if seen is not None:
        weights = jnp.where(seen, weights, 0)
    count = weights.size if seen is None else jnp.sum(seen)
    largest = jnp.max(weights)
    weights = weights / jnp.where(largest > 0, largest, 1)  # so that no square over- or underflows
    squares = jnp.where(largest > 0, jnp.sum(weights**2), 1)
    return jnp.sum(weights) ** 2 / (count * squares)


def _log_propensity(learner: Learner, candidates: Candidates) -> Float[Array, ""]:
    picks = candidates.sparse_logits.positions(candidates.items)
    return ordered_log_prob(candidates.sparse_logits, picks, learner.policy.quotas)


def _log_inclusion(
    learner: Learner, candidates: Candidates, items: Int[Array, "n"]
) -> Float[Array, "n"]:
    score = ESTIMATORS[_SCORES[inclusion_method(learner)]].score
    return score(candidates, items, learner.policy.quotas)
