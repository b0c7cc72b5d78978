"""Advantages: from rewards to the factors A_l of the scores, with position weights and an entropy bonus.

An advantage estimator is a pair of pure functions, like an optax transformation: `init(key) -> state` and
`apply(state, contexts, rewards[B, L]) -> (advantages[B, L], state)`. The baselines are unbiased; `group`
(GRPO) rescales.

A baseline that remembers, `context` or `learned`, learns from a reward of at most 100 times the usual size
(`limit_outliers`). So one outlier cannot spoil it for good. The advantage itself has the reward as it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax import lax

from rankpg.encoders.two_tower import Encoder, IdTower, from_nnx
from rankpg.types import Array, Bool, Float, Int, Params, PRNGKey

__all__ = [
    "ADVANTAGES",
    "Advantage",
    "AdvantageSettings",
    "BaselineState",
    "add_exactly",
    "batch_baseline",
    "can_leave_out",
    "context_baseline",
    "entropy_bonus",
    "group",
    "identity",
    "is_identity",
    "learned_baseline",
    "limit_outliers",
    "position_weights",
]


BaselineState: TypeAlias = Any
"""A pytree of arrays: running means, or a network and its optimizer."""


class Advantage(NamedTuple):
    """An advantage estimator: state from a key; advantages and the next state from a batch of rewards."""

    init: Callable[[PRNGKey], BaselineState]
    apply: Callable[..., tuple[Float[Array, "B L"], BaselineState]]
    """`apply(state, contexts int[B], rewards float[B, L])` returns advantages and the next state.

    One that takes a fourth argument `observed`, bool[B, L] or None, can leave out positions: they have no
    part in the baseline, and their advantages are ignored. unobserved='left_out' needs one.
    """


def position_weights(weights: str, ranking_length: int) -> Float[Array, "L"]:
    """Weights alpha_l of the positions: `uniform` is 1, `dcg` is 1 / log2(1 + l), or L numbers in a string.

    >>> position_weights("dcg", 3).round(4)
    Array([1.    , 0.6309, 0.5   ], dtype=float32)
    """
    if weights == "uniform":
        return jnp.ones(ranking_length)
    if weights == "dcg":
        return 1 / jnp.log2(jnp.arange(2.0, ranking_length + 2))
    try:
        values = [float(w) for w in weights.split(",")]
    except ValueError:
        values = []
    good = len(values) == ranking_length and all(0 <= v < float("inf") for v in values)
    if not good or not any(values):
        raise ValueError(
            f"position_weights={weights!r}; expected uniform, dcg, or "
            f"L = {ranking_length} non-negative numbers separated by commas, not all of them 0"
        )
    return jnp.asarray(values)


def entropy_bonus(
    rewards: Float[Array, "B L"], scores: Float[Array, "B L"], weight: float, slots: int
) -> Float[Array, "B L"]:
    """Adds an entropy bonus, r_l - weight * score_l / slots, so that a policy goes on exploring.

    A score is a log-probability, and the mean of its negative is an entropy (Williams and Peng 1991). With
    `v_pg` and slots = K, the expected gradient at a position is that of

        E[r] + weight * H(S) / K

    With an exact log P(a_l in S), slots = 1 and a re-ranker that shows all candidates alike, it is that of

        E[r] + weight / K * sum_a - P(a in S) log P(a in S)

    For other re-rankers and scores see docs/mathematics.md.

    Args:
      rewards: rewards of the shown items.
      scores: log-probabilities of the shown items, used without their gradient.
      weight: reward units per nat. An advantage that rescales removes the units.
      slots: the number of candidates that a score covers: 1, or K.

    >>> entropy_bonus(jnp.array([[2.0]]), jnp.log(jnp.array([[0.5]])), 1.0, 1)
    Array([[2.6931472]], dtype=float32)
    """
    return rewards - weight * lax.stop_gradient(scores) / slots


def identity() -> Advantage:
    """The plain reward, A_l = r_l."""
    return Advantage(lambda key: (), _unchanged)


def _unchanged(
    state: BaselineState,
    contexts: Int[Array, "B"],
    rewards: Float[Array, "B L"],
    *mask: Bool[Array, "B L"],
) -> tuple[Float[Array, "B L"], BaselineState]:
    """Needs no mask of what was observed: every advantage is that of its own position."""
    del contexts, mask
    return rewards, state


def is_identity(advantage: Advantage) -> bool:
    """True if the advantage is the plain reward.

    >>> is_identity(identity()), is_identity(batch_baseline())
    (True, False)
    """
    return advantage.apply is _unchanged


def can_leave_out(advantage: Advantage) -> bool:
    """True if positions without a reward can be left out.

    >>> can_leave_out(batch_baseline()), can_leave_out(group(2, shift=True))
    (True, False)
    """
    known = inspect.signature(advantage.apply).parameters
    return "observed" in known or is_identity(advantage)


def group(draws_per_context: int, *, shift: bool) -> Advantage:
    """GRPO, A_l = (r_l - mean) / std over the draws of one context (Shao et al. 2024); 0 where all are equal.

    `shift` subtracts the minimum of the group, so that the smallest is 0: a credit-assigned score sees the
    shown item alone, and a negative advantage would lower every item that was shown (Kiyohara et al. 2026,
    Sec. 5).

    Args:
      draws_per_context: rows of the batch that share a context; the batch holds them next to each other.
      shift: True for credit-assigned scores.

    Raises:
      ValueError: on `apply`, a batch whose rows do not make whole groups.

    >>> advantages, _ = group(2, shift=True).apply((), jnp.zeros(2, int), jnp.array([[1.0], [3.0]]))
    >>> advantages.ravel()
    Array([0., 2.], dtype=float32)
    """

    def apply(
        state: BaselineState, contexts: Int[Array, "B"], rewards: Float[Array, "B L"]
    ) -> tuple[Float[Array, "B L"], BaselineState]:
        del contexts
        if rewards.shape[0] % draws_per_context:
            raise ValueError(
                f"rewards has {rewards.shape[0]} rows; expected a multiple of draws_per_context="
                f"{draws_per_context}"
            )
        grouped = rewards.reshape(-1, draws_per_context, rewards.shape[-1])
        differ = jnp.ptp(grouped, axis=1, keepdims=True) > 0  # the std of equal floats is rounding
        centred = grouped - jnp.mean(grouped, axis=1, keepdims=True)
        # In units of the largest, so that no square over- or underflows.
        unit = jnp.max(jnp.abs(centred), axis=1, keepdims=True)
        centred = centred / jnp.where(differ, unit, 1)
        std = jnp.std(centred, axis=1, keepdims=True)
        normal = jnp.where(differ, centred / jnp.where(differ, std, 1), 0)
        if shift:
            normal = normal - jnp.min(normal, axis=1, keepdims=True)
        return normal.reshape(rewards.shape), state

    return Advantage(lambda key: (), apply)


def batch_baseline() -> Advantage:
    """The reward minus the mean of the other rows of the batch (leave-one-out, Kool et al. 2019b): no bias.

    Raises:
      ValueError: on `apply`, a batch of one row.
    """

    def apply(
        state: BaselineState,
        contexts: Int[Array, "B"],
        rewards: Float[Array, "B L"],
        observed: Bool[Array, "B L"] | None = None,
    ) -> tuple[Float[Array, "B L"], BaselineState]:
        del contexts
        rows = rewards.shape[0]
        if rows < 2:
            raise ValueError("rewards has 1 row; a batch baseline needs at least 2")
        if observed is not None:
            there = observed.astype(rewards.dtype)
            total, count = (jnp.sum(x, axis=0, keepdims=True) - x for x in (there * rewards, there))
            return rewards - total / jnp.maximum(count, 1), state
        others = (jnp.sum(rewards, axis=0, keepdims=True) - rewards) / (rows - 1)
        return rewards - others, state

    return Advantage(lambda key: (), apply)


def context_baseline(num_contexts: int, ranking_length: int) -> Advantage:
    """The reward minus the running mean of the context's earlier rewards; the reward on its first visit.

    Visits are counted in whole numbers, and sums carry their rounding errors along (`add_exactly`): the mean
    is right after any number of visits. At 2^30 visits, count and sum are halved.
    """

    def init(key: PRNGKey) -> BaselineState:
        del key
        total = jnp.zeros((num_contexts, ranking_length))
        return _Sums(total, total, jnp.zeros(total.shape, jnp.int32), jnp.zeros(()))

    def apply(
        state: BaselineState,
        contexts: Int[Array, "B"],
        rewards: Float[Array, "B L"],
        observed: Bool[Array, "B L"] | None = None,
    ) -> tuple[Float[Array, "B L"], BaselineState]:
        there = jnp.ones(rewards.shape, bool) if observed is None else observed
        limited, size = limit_outliers(state.size, rewards, there)
        total, count = state.total[contexts] + state.rest[contexts], state.visits[contexts]
        if observed is not None:  # few positions are observed, so all of a context share a mean
            total, count = (jnp.sum(x, axis=1, keepdims=True) for x in (total, count))
        mean = jnp.where(count > 0, total / jnp.maximum(count, 1).astype(total.dtype), 0)
        return rewards - mean, _counted_in(state, contexts, limited, there)._replace(size=size)

    return Advantage(init, apply)


class _Sums(NamedTuple):
    """Sums and counts of the rewards of each context and position."""

    total: Float[Array, "contexts L"]
    rest: Float[Array, "contexts L"]
    """Rounding errors of `total`."""
    visits: Int[Array, "contexts L"]
    size: Float[Array, ""]
    """Usual size of a reward; see `limit_outliers`."""


_MOST_VISITS = 2**30


def _counted_in(
    sums: _Sums, contexts: Int[Array, "B"], rewards: Float[Array, "B L"], there: Bool[Array, "B L"]
) -> _Sums:
    """Adds the rewards of a batch, whose rows may share contexts."""
    rows = sums.total.shape[0]
    distinct, of_row = jnp.unique(
        contexts, return_inverse=True, size=len(contexts), fill_value=rows
    )
    more, visits = (
        jax.ops.segment_sum(x, of_row, len(contexts))
        for x in (jnp.where(there, rewards, 0), there.astype(jnp.int32))
    )
    total, error = add_exactly(sums.total[distinct], more)
    rest, count = sums.rest[distinct] + error, sums.visits[distinct] + visits
    share = jnp.where(count >= _MOST_VISITS, 0.5, 1).astype(total.dtype)
    count = jnp.where(count >= _MOST_VISITS, count // 2, count)
    return _Sums(
        sums.total.at[distinct].set(total * share, mode="drop"),
        sums.rest.at[distinct].set(rest * share, mode="drop"),
        sums.visits.at[distinct].set(count, mode="drop"),
        sums.size,
    )


def add_exactly(
    x: Float[Array, "..."], y: Float[Array, "..."]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Returns x + y rounded, and the error of rounding: the two together are exact (Knuth 1969, 4.2.2).

    >>> [float(v) for v in jax.jit(add_exactly)(jnp.float32(2**24), jnp.float32(1))]
    [16777216.0, 1.0]
    """
    total = x + y
    of_y = total - x
    return total, (x - (total - of_y)) + (y - of_y)


_OUTLIER = 100.0
"""A baseline learns from a reward as if it were at most this many times the usual size."""


def limit_outliers(
    size: Float[Array, ""], rewards: Float[Array, "B L"], there: Bool[Array, "B L"]
) -> tuple[Float[Array, "B L"], Float[Array, ""]]:
    """Clips rewards to +-100 times their usual size, for a baseline to learn from.

    The usual size is the median of |r| over the rewards of a batch that are not 0. It follows from batch to
    batch by a factor of at most 2, so a single batch cannot move it far.

    Args:
      size: the usual size so far; 0 before the first reward that is not 0.
      rewards: rewards of a batch.
      there: False for positions that do not count.

    Returns:
      The clipped rewards, and the next usual size.

    >>> limit_outliers(jnp.float32(1), jnp.array([[1.0, 0.0, 1e18]]), jnp.ones((1, 3), bool))[0]
    Array([[  1.,   0., 200.]], dtype=float32)
    """
    counts = there & (rewards != 0)
    now = jnp.nanmedian(jnp.where(counts, jnp.abs(rewards), jnp.nan))
    bounded = jnp.where(size > 0, jnp.clip(now, size / 2, 2 * size), now)
    size = jnp.where(jnp.any(counts), bounded, size)
    limit = jnp.where(size > 0, _OUTLIER * size, jnp.inf)
    return jnp.clip(rewards, -limit, limit), size


def learned_baseline(network: Encoder, learning_rate: float = 1e-2) -> Advantage:
    """The reward minus a network's prediction b_l(context), fitted by one Adam step of squared error a batch.

    Args:
      network: returns [1, B, L] from contexts, such as a tower of `encoders` with D = L.
      learning_rate: step size of Adam.
    """
    optimizer = optax.adam(learning_rate)

    def init(key: PRNGKey) -> BaselineState:
        params = network.init(key)
        return params, optimizer.init(params), jnp.zeros(())

    def apply(
        state: BaselineState,
        contexts: Int[Array, "B"],
        rewards: Float[Array, "B L"],
        observed: Bool[Array, "B L"] | None = None,
    ) -> tuple[Float[Array, "B L"], BaselineState]:
        params, optimizer_state, size = state
        there = jnp.ones(rewards.shape, bool) if observed is None else observed
        targets, size = limit_outliers(size, rewards, there)

        def squared_error(params: Params) -> tuple[Float[Array, ""], Float[Array, "B L"]]:
            predicted = jnp.squeeze(jnp.asarray(network.apply(params, contexts)), axis=0)
            return jnp.mean(jnp.where(there, targets - predicted, 0) ** 2), predicted

        gradient, predicted = jax.grad(squared_error, has_aux=True)(params)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        advantages = rewards - lax.stop_gradient(predicted)
        return advantages, (optax.apply_updates(params, updates), optimizer_state, size)

    return Advantage(init, apply)


class AdvantageSettings(NamedTuple):
    """Sizes from which the advantages of the table are built."""

    num_contexts: int
    ranking_length: int
    """L"""
    draws_per_context: int
    """Rows of a batch that share a context."""
    credit_assigned: bool
    """The estimator scores each shown item by itself."""


def _network(settings: AdvantageSettings) -> Encoder:
    """A table of baselines, one row for each context and one column for each position, that starts at 0."""
    rows, width = settings.num_contexts, settings.ranking_length
    return from_nnx(lambda rngs: IdTower(rows, width, 1, 0.0, rngs=rngs))


ADVANTAGES: dict[str, Callable[[AdvantageSettings], Advantage]] = {
    "none": lambda settings: identity(),
    "group": lambda settings: group(settings.draws_per_context, shift=settings.credit_assigned),
    "batch": lambda settings: batch_baseline(),
    "context": lambda settings: context_baseline(settings.num_contexts, settings.ranking_length),
    "learned": lambda settings: learned_baseline(_network(settings)),
}
"""name -> builder; the values of the setting `advantage`."""
