"""Whether training is healthy, looked at between updates: gradient, credit, certainty.

Everything here reads a state and changes nothing: a program of its own, with keys of its own. Draws pass
through the run's own retrieval, so nothing is larger than in a step of training. The other diagnostics, which
need an evaluation's logits, are columns of `evaluate.Evaluation`. docs/diagnostics.md says what to do about
each.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rankpg.core.estimators import Candidates
from rankpg.core.inclusion import log_inclusion_given_picks
from rankpg.policy import Pipeline
from rankpg.training.optimizer import norm, widened
from rankpg.training.update import TrainState, credit_of, surrogate_of_draw
from rankpg.types import Array, Environment, Float, Int, PRNGKey, Quotas, record

__all__ = ["Diagnostics", "diagnose", "effective_sample_size", "number_of_draws", "some_slots"]

_CERTAIN = 0.99
"""A candidate whose inclusion probability is above it learns next to nothing from its reward."""

_AT_ONCE = 8
"""Contexts whose candidates' inclusion probabilities are computed together."""

_LOOKED_AT = 512
"""Candidates of a batch whose certainty is looked at, or one of each context: each costs as much as K do."""


@record
class Diagnostics:
    """Of one seed, at one state."""

    gradient_variance: Float[Array, ""]
    """Trace of the covariance of the gradient of one batch."""
    gradient_signal_to_noise: Float[Array, ""]
    """|E g|^2 / trace of the covariance; an estimate, so it may fall below 0."""
    credit_ess: Float[Array, ""]
    """How many draws of a batch the credit amounts to, from 1 to B; 0 where there is none."""
    saturated_candidates: Float[Array, ""]
    """Share of the drawn candidates that were certain to be drawn; of a sample where B * K is large."""


def number_of_draws(updates: int) -> int:
    """Batches whose gradients are compared: a hundredth of the updates between evaluations, 8 at most.

    Below 2 there is nothing to compare: where evaluations are fewer than 200 updates apart, a look would cost
    more than it tells.

    >>> [number_of_draws(n) for n in (100, 400, 1000)]
    [1, 4, 8]
    """
    return min(8, updates // 100)


def diagnose(
    pipeline: Pipeline,
    environment: Environment,
    state: TrainState,
    key: PRNGKey,
    num_draws: int,
) -> Diagnostics:
    """Look at one seed's state.

    Of n independent draws of a gradient with sum s and q = sum |g|^2, without bias,

        |E g|^2 = (|s|^2 - q) / (n (n - 1)),        trace of the covariance = (q - |s|^2 / n) / (n - 1)

    (as laboratory/noise.py, which tells standard errors as well).

    Args:
      pipeline: the run's components.
      environment: answers rewards.
      state: is read.
      key: consumed.
      num_draws: n, at least 2.

    Raises:
      ValueError: a single draw, which has no variance.
    """
    if num_draws < 2:
        raise ValueError(f"num_draws is {num_draws}; expected at least 2")

    def add(carry, keys):
        key, look = keys
        contexts, surrogate = surrogate_of_draw(pipeline, environment, state.baseline_state, key)
        gradient, (feedback, _) = jax.grad(surrogate, has_aux=True)(state.params)
        credit, _ = credit_of(pipeline, state.baseline_state, contexts, feedback)
        total, squares, size, certain = carry
        total = jax.tree.map(lambda t, g: t + g.astype(t.dtype), total, gradient)
        size = size + effective_sample_size(credit).astype(size.dtype)
        share = jnp.mean(
            lax.map(
                lambda one: _certain(one[0], pipeline.quotas, one[1]),
                (feedback.candidates, some_slots(look, pipeline.batch_size, sum(pipeline.quotas))),
                batch_size=min(_AT_ONCE, pipeline.batch_size),
            )
        )
        return (
            total,
            squares + norm(gradient) ** 2,
            size,
            certain + share.astype(certain.dtype),
        ), None

    nothing = jax.tree.map(jnp.zeros_like, widened(state.params))
    zero = norm(nothing)  # in the dtype of sums
    draws = jax.random.split(key, num_draws)
    looks = jax.random.split(jax.random.fold_in(key, num_draws), num_draws)  # the draws end before
    (total, squares, size, certain), _ = lax.scan(add, (nothing, zero, zero, zero), (draws, looks))
    of_sum = norm(total) ** 2
    signal = (of_sum - squares) / (num_draws * (num_draws - 1))
    variance = (squares - of_sum / num_draws) / (num_draws - 1)
    return Diagnostics(
        gradient_variance=variance,
        gradient_signal_to_noise=signal / variance,  # NaN where no draw has a gradient
        credit_ess=size / num_draws,
        saturated_candidates=certain / num_draws,
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
    """Of every context as many slots as `_LOOKED_AT` allows, each slot as likely as any other.

    Evenly spaced from a random one on.

    >>> import jax
    >>> some_slots(jax.random.key(0), 2, 3).tolist()  # all of them
    [[0, 1, 2], [0, 1, 2]]
    >>> some_slots(jax.random.key(0), 128, 200).shape
    (128, 4)
    """
    count = min(num_candidates, max(1, _LOOKED_AT // batch_size))
    if count == num_candidates:
        return jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32), (batch_size, count))
    start = jax.random.randint(key, (batch_size, 1), 0, num_candidates)
    step = jnp.asarray(np.arange(count) * num_candidates // count, jnp.int32)
    return (start.astype(jnp.int32) + step[None]) % num_candidates


def _certain(
    candidates: Candidates, quotas: Quotas, slots: Int[Array, "slots"]
) -> Float[Array, "slots"]:
    """Which of these candidates would have been drawn almost surely beside the others: 1, else 0.

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
    return (log_inclusion > math.log(_CERTAIN)).astype(sparse.logits.dtype)
