"""Diagnostics of training between updates: noise of the gradient, effective sample size, saturation.

They read a state and change nothing: a separate program, with its own random keys. Draws pass through the
run's own retrieval, so nothing is larger than in an update. Diagnostics that need the logits of an evaluation
are fields of `metrics.Evaluation`. docs/diagnostics.md says what to do about each.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rankpg.core.estimators import Candidates
from rankpg.core.inclusion import log_inclusion_given_picks
from rankpg.training.optimizer import norm, widened
from rankpg.training.update import Learner, TrainState, update
from rankpg.types import Array, Float, Int, PRNGKey, Quotas, record

__all__ = ["Diagnostics", "diagnose", "effective_sample_size", "number_of_draws", "some_slots"]

_SATURATED = 0.99
"""A candidate whose inclusion probability is above this hardly learns from its reward."""

_AT_ONCE = 8
"""Contexts whose candidates' inclusion probabilities are computed together."""

_CHECKED = 512
"""Candidates of a batch that are checked for saturation, at least one of each context; each costs O(K)."""


@record
class Diagnostics:
    """Diagnostics of one seed at one state."""

    gradient_variance: Float[Array, ""]
    """Trace of the covariance of the gradient of one batch."""
    gradient_signal_to_noise: Float[Array, ""]
    """|E g|^2 / trace of the covariance; an estimate, so it may fall below 0."""
    credit_ess: Float[Array, ""]
    """Effective sample size of the credit of a batch, from 1 to B; 0 without any credit."""
    saturated_candidates: Float[Array, ""]
    """Share of drawn candidates with an inclusion probability above 0.99; sampled where B * K is large."""


def number_of_draws(updates: int) -> int:
    """Number of batches whose gradients are compared: a hundredth of the updates, at most 8.

    Below 2 there is nothing to compare: where evaluations are fewer than 200 updates apart, diagnostics would
    cost too much.

    >>> [number_of_draws(n) for n in (100, 400, 1000)]
    [1, 4, 8]
    """
    return min(8, updates // 100)


def diagnose(
    learner: Learner,
    state: TrainState,
    key: PRNGKey,
    num_draws: int,
) -> Diagnostics:
    """Measures the gradient noise, credit and saturation of one seed's state.

    Of n independent draws of a gradient with sum s and q = sum |g|^2, without bias,

        |E g|^2 = (|s|^2 - q) / (n (n - 1)),        trace of the covariance = (q - |s|^2 / n) / (n - 1)

    (benchmarks/estimator_lab/noise.py gives standard errors as well).

    Args:
      learner: makes the updates that are looked at.
      state: parameters and baseline; not changed.
      key: consumed.
      num_draws: n, at least 2.

    Raises:
      ValueError: fewer than 2 draws.
    """
    if num_draws < 2:
        raise ValueError(f"num_draws={num_draws}; expected at least 2")
    quotas, batch_size = learner.policy.quotas, learner.sampler.batch_size

    def add(carry, keys):
        key, look = keys
        _, step = update(learner, state, learner.simulate(key))
        total, squares, size, saturated = carry
        total = jax.tree.map(lambda t, g: t + g.astype(t.dtype), total, step.gradient)
        size = size + effective_sample_size(step.credit).astype(size.dtype)
        share = jnp.mean(
            lax.map(
                lambda one: _saturated(one[0], quotas, one[1]),
                (step.candidates, some_slots(look, batch_size, sum(quotas))),
                batch_size=min(_AT_ONCE, batch_size),
            )
        )
        return (
            total,
            squares + norm(step.gradient) ** 2,
            size,
            saturated + share.astype(saturated.dtype),
        ), None

    nothing = jax.tree.map(jnp.zeros_like, widened(state.params))
    zero = norm(nothing)  # in the dtype of sums
    draws = jax.random.split(key, num_draws)
    looks = jax.random.split(jax.random.fold_in(key, num_draws), num_draws)  # the draws end before
    (total, squares, size, saturated), _ = lax.scan(
        add, (nothing, zero, zero, zero), (draws, looks)
    )
    of_sum = norm(total) ** 2
    signal = (of_sum - squares) / (num_draws * (num_draws - 1))
    variance = (squares - of_sum / num_draws) / (num_draws - 1)
    return Diagnostics(
        gradient_variance=variance,
        gradient_signal_to_noise=signal / variance,  # NaN where no draw has a gradient
        credit_ess=size / num_draws,
        saturated_candidates=saturated / num_draws,
    )


def effective_sample_size(credit: Float[Array, "B L"]) -> Float[Array, ""]:
    """(sum_b c_b)^2 / sum_b c_b^2 with c_b = sum_l |credit_bl| (Kish 1965); 0 without any credit.

    >>> effective_sample_size(jnp.array([[2.0], [2.0], [0.0], [0.0]]))  # two of four draws count
    Array(2., dtype=float32)
    """
    weights = jnp.sum(jnp.abs(credit), axis=1)
    largest = jnp.max(weights)
    weights = weights / jnp.where(largest > 0, largest, 1)  # so that no square over- or underflows
    squares = jnp.sum(weights**2)
    return jnp.where(largest > 0, jnp.sum(weights) ** 2 / jnp.where(largest > 0, squares, 1), 0)


def some_slots(key: PRNGKey, batch_size: int, num_candidates: int) -> Int[Array, "B slots"]:
    """Chooses slots of every context, evenly spaced from a random one on; every slot is equally likely.

    >>> import jax
    >>> some_slots(jax.random.key(0), 2, 3).tolist()  # all of them
    [[0, 1, 2], [0, 1, 2]]
    >>> some_slots(jax.random.key(0), 128, 200).shape
    (128, 4)
    """
    count = min(num_candidates, max(1, _CHECKED // batch_size))
    if count == num_candidates:
        return jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32), (batch_size, count))
    start = jax.random.randint(key, (batch_size, 1), 0, num_candidates)
    step = jnp.asarray(np.arange(count) * num_candidates // count, jnp.int32)
    return (start.astype(jnp.int32) + step[None]) % num_candidates


def _saturated(
    candidates: Candidates, quotas: Quotas, slots: Int[Array, "slots"]
) -> Float[Array, "slots"]:
    """1 for each of these candidates that would almost surely have been drawn beside the others, else 0.

    h = 1 - prod_k W_k / (W_k + w_a), Eq. 8 with the other candidates, as they were drawn, for its prefix.
    """
    sparse, places = (
        candidates.sparse_logits,
        candidates.sparse_logits.positions(candidates.items),
    )
    all_but_one = jnp.arange(len(places) - 1, dtype=jnp.int32)
    # A row for each of the slots: all others, in order.
    others = all_but_one[None] + (all_but_one[None] >= slots[:, None])
    log_inclusion = jax.vmap(
        lambda place, rest: log_inclusion_given_picks(sparse, place, places[rest], quotas)
    )(places[slots], others)
    return (log_inclusion > math.log(_SATURATED)).astype(sparse.logits.dtype)
