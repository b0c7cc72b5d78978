"""Definitions and theorems of the paper as functions, for your own rewards and re-ranker.

They enumerate all ordered draws of K out of N items, so they are for small problems.

Reference: Kiyohara et al. 2026.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rankpg.core.numerics import largest
from rankpg.core.plackett_luce import log_prob
from rankpg.core.validation import check_logits
from rankpg.types import Array, Bool, Float, Int, Quotas

__all__ = ["GradientParts", "decompose_gradient", "is_aligned", "is_partitioned", "top_k_condition"]

ShownProbabilities = Callable[[Int[Array, "K"]], Float[Array, "K"]]
"""P(a shown | S) of the re-ranker: candidates in slot order -> probability that each is shown (L = 1)."""

_MOST_TUPLES = 200_000


def is_aligned(log_probs: Float[Array, "N"], rewards: Float[Array, "N"]) -> Bool[Array, ""]:
    """True if an item of larger expected reward always has a larger probability (Definition 3.2).

    Args:
      log_probs: log-probability or logit of every item.
      rewards: expected reward of every item.

    >>> bool(is_aligned(jnp.array([3.0, 1.0, 2.0]), jnp.array([0.9, 0.1, 0.5])))
    True
    """
    order = jnp.lexsort((-log_probs, -rewards))  # of equal rewards the likelier first
    log_probs, rewards = log_probs[order], rewards[order]
    smallest_above = lax.cummin(log_probs)[:-1]
    largest_below = lax.cummax(log_probs, reverse=True)[1:]
    return jnp.all((smallest_above > largest_below) | (rewards[:-1] == rewards[1:]))


def is_partitioned(
    log_probs: Float[Array, "N"], rewards: Float[Array, "N"], num_candidates: int
) -> Bool[Array, ""]:
    """True if each of the K items of largest reward is more probable than all others (Definition 3.2).

    Args:
      log_probs: log-probability or logit of every item.
      rewards: expected reward of every item; of equal rewards any may count as the top K.
      num_candidates: K.

    >>> bool(is_partitioned(jnp.array([1.0, 2.0, 0.0]), jnp.array([0.9, 0.5, 0.1]), 2))
    True
    """
    if num_candidates >= log_probs.shape[0]:
        return jnp.asarray(True)
    # The K likeliest are a top K by reward if none outside earns more; which of equal rewards is free.
    likeliest, items = largest(log_probs, num_candidates + 1)
    top = items[:num_candidates]
    outside = jnp.ones(rewards.shape, bool).at[top].set(False)
    lowest = jnp.min(rewards[top])
    separated = likeliest[-2] > likeliest[-1]
    return separated & jnp.all(jnp.where(outside, rewards <= lowest, True))


class GradientParts(NamedTuple):
    """Gradients of Theorem 3.1 with respect to logits[M, N]: v_pg = ca_pg + remainder."""

    v_pg: Float[Array, "M N"]
    ca_pg: Float[Array, "M N"]
    remainder: Float[Array, "M N"]


def decompose_gradient(
    logits: Float[Array, "M N"],
    quotas: Quotas,
    shown_probabilities: ShownProbabilities,
    rewards: Float[Array, "N"],
) -> GradientParts:
    """Exact policy gradient and its two parts, by enumeration (Kiyohara et al. 2026, Theorem 3.1).

    V-PG = E[r grad log P(a in S)] + E[r grad log P(a shown | a in S)], with
    P(a shown | a in S) = sum over S containing a of P(S) P(a shown | S) / P(a in S).

    Args:
      logits: f_m(a).
      quotas: slots of each expert.
      shown_probabilities: P(a shown | S) for every a in S, of the re-ranker with L = 1.
      rewards: expected reward q(a).

    Returns:
      The policy gradient and its two parts.

    Raises:
      ValueError: as `log_prob`, and if there are more than 200,000 draws to enumerate.

    >>> def optimal(candidates):
    ...     return jax.nn.one_hot(jnp.argmax(rewards[candidates]), 2)
    >>> rewards = jnp.array([1.0, 2.0, 3.0])
    >>> parts = jax.jit(lambda f: decompose_gradient(f, (2,), optimal, rewards))(jnp.zeros((1, 3)))
    >>> bool(jnp.allclose(parts.v_pg, parts.ca_pg + parts.remainder, atol=1e-6))
    True
    """
    check_logits(logits, quotas)
    draws = jnp.asarray(_ordered_draws(logits.shape[1], sum(quotas)), jnp.int32)
    shown = jax.vmap(shown_probabilities)(draws)

    def probabilities(logits: Float[Array, "M N"]) -> tuple[Float[Array, "N"], Float[Array, "N"]]:
        return _included_and_shown(logits, draws, shown, quotas)

    displayed = lax.stop_gradient(probabilities(logits)[1])
    value = rewards.astype(logits.dtype) * displayed

    def expected_log_inclusion(logits: Float[Array, "M N"]) -> Float[Array, ""]:
        return jnp.sum(value * jnp.log(jnp.where(displayed > 0, probabilities(logits)[0], 1)))

    def expected_log_shown(logits: Float[Array, "M N"]) -> Float[Array, ""]:
        here, there = probabilities(logits)
        possible = displayed > 0
        ratio = jnp.where(possible, there, 1) / jnp.where(possible, here, 1)
        return jnp.sum(value * jnp.log(ratio))

    def policy_value(logits: Float[Array, "M N"]) -> Float[Array, ""]:
        return jnp.sum(rewards.astype(logits.dtype) * probabilities(logits)[1])

    return GradientParts(
        v_pg=jax.grad(policy_value)(logits),
        ca_pg=jax.grad(expected_log_inclusion)(logits),
        remainder=jax.grad(expected_log_shown)(logits),
    )


def top_k_condition(
    logits: Float[Array, "M N"],
    quotas: Quotas,
    shown_probabilities: ShownProbabilities,
    rewards: Float[Array, "N"],
) -> tuple[bool, Float[Array, "K rest"]]:
    """Tests if credit assignment finds the top-K partition under this re-ranker (Theorem 3.3).

    The condition: for all i <= K < j, with a_1, a_2, ... in descending order of rewards q > 0,
    P(a_j shown | a_j in S) / P(a_i shown | a_i in S) < q(a_i) / q(a_j).

    Args:
      logits, quotas, shown_probabilities, rewards: as `decompose_gradient`; rewards above 0.

    Returns:
      True if it holds for every pair, and the margins q(a_i) / q(a_j) - ratio, [i, j - K - 1].

    Raises:
      ValueError: as `decompose_gradient`, and for a reward that is not above 0.
    """
    check_logits(logits, quotas)
    if not bool(jnp.all(rewards > 0)):
        raise ValueError(
            f"rewards has the minimum {float(jnp.min(rewards))}; Theorem 3.3 requires rewards above 0"
        )
    num_candidates = sum(quotas)
    draws = jnp.asarray(_ordered_draws(logits.shape[1], num_candidates), jnp.int32)
    shown = jax.vmap(shown_probabilities)(draws)
    included, displayed = _included_and_shown(logits, draws, shown, quotas)
    conditional = jnp.where(included > 0, displayed / jnp.where(included > 0, included, 1), 0)
    order = jnp.argsort(-rewards)
    top, others = order[:num_candidates], order[num_candidates:]
    # q_i P_i > q_j P_j is the condition without a division by P_i, which may be 0.
    holds = (rewards * conditional)[top][:, None] > (rewards * conditional)[others][None, :]
    ratio = conditional[others][None, :] / conditional[top][:, None]
    return bool(jnp.all(holds)), rewards[top][:, None] / rewards[others][None, :] - ratio


@functools.partial(jax.jit, static_argnums=3)
def _included_and_shown(
    logits: Float[Array, "M N"],
    draws: Int[Array, "draws K"],
    shown: Float[Array, "draws K"],
    quotas: Quotas,
) -> tuple[Float[Array, "N"], Float[Array, "N"]]:
    """P(a in S) and P(a shown) of every item."""
    weight = jnp.exp(jax.vmap(lambda draw: log_prob(logits, draw, quotas))(draws))
    zero = jnp.zeros(logits.shape[1], logits.dtype)
    included = zero.at[draws].add(jnp.broadcast_to(weight[:, None], draws.shape))
    return included, zero.at[draws].add(weight[:, None] * shown.astype(logits.dtype))


def _ordered_draws(num_items: int, num_candidates: int) -> np.ndarray:
    """Enumerates all ordered draws, int[draws, K]."""
    count = int(np.prod(np.arange(num_items, num_items - num_candidates, -1, dtype=float)))
    if count > _MOST_TUPLES:
        raise ValueError(
            f"K = {num_candidates} of N = {num_items} items can be drawn in {count} ways; expected at most "
            f"{_MOST_TUPLES}, because all are enumerated; use fewer items or a smaller quota"
        )
    return np.asarray(list(itertools.permutations(range(num_items), num_candidates)))
