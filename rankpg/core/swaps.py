"""Swaps: the candidate set that a draw would have had without one of its candidates.

Candidate i entered through its own arrival T_i alone. Let kappa be the (K_m + 1)-th arrival of the expert m
that took it, and b the item there, m's runner-up. With all other arrivals fixed, i is taken if T_i < kappa,
which has probability 1 - exp(-w_i kappa); else m takes b. With one expert, for any reward R of a set,

    dV/df_i = E[ 1(i taken by m) * s_i * (R(S) - R(S - i + b)) ],    s_i = d/df_i log(1 - exp(-w_i kappa))

With several experts, i stays free for the later ones, and they can no longer take b: the swap "i leaves, b
enters" is carried through every later expert. Let P be the picks of such an expert, c the last of them to
arrive, b' its runner-up, and "o leaves, x enters" the swap so far:

    x in P        P lacks x, and the earlier of b' and o under this expert takes its place. If it is o, both
                  sets are equal from here on; if it is b', the swap becomes "o leaves, b' enters".
    x not in P    if o arrives before c, it takes the place of c: the swap becomes "c leaves, x enters".

The arrival of o under this expert is not known from the draw, where o was taken before. It is independent of
the draw, so it is drawn here (`later_arrivals`). o is always a candidate.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rankpg.core.numerics import cloglog_inverse
from rankpg.core.plackett_luce import SparseLogits
from rankpg.core.quotas import slot_experts
from rankpg.core.sampling import gumbel_noise
from rankpg.types import Array, Float, Int, PRNGKey, Quotas, record

__all__ = ["Swaps", "find_swaps", "later_arrivals", "runner_ups", "swap_scores"]


@record
class Swaps:
    """The swap that makes the set without each candidate: one item leaves, one enters."""

    slot: Int[Array, "K"]
    """Slot whose item leaves: that of the candidate, or with several experts of another one."""
    into: Int[Array, "K"]
    """Item that takes its place; the item of `slot` itself where nothing changes."""


def swap_scores(
    sparse: SparseLogits,
    items: Int[Array, "K"],
    order: Int[Array, "M depth"],
    perturbed: Float[Array, "M depth"],
    quotas: Quotas,
) -> Float[Array, "K"]:
    """log(1 - exp(-w_i kappa)) of every candidate i: the log-probability that it is taken, given all others.

    The gradient is that of w_i alone; kappa carries none. A candidate without a rival, since its expert has
    no runner-up, and one that is masked have score 0 and gradient 0.

    Args:
      sparse: contains at least the candidates.
      items: the candidates, in slot order.
      order: every expert's order by arrival (`sampling.arrivals`).
      perturbed: the perturbed logits of `order`, -log of the arrival times.
      quotas: slots of each expert.

    >>> from rankpg.core.plackett_luce import full_logits
    >>> sparse, order = full_logits(jnp.zeros((1, 3))), jnp.array([[2, 0, 1]])
    >>> jax.jit(swap_scores, static_argnums=4)(sparse, order[0, :2], order, jnp.zeros((1, 3)), (2,))
    Array([-0.45867515, -0.45867515], dtype=float32)
    """
    experts = slot_experts(quotas)
    _, thresholds = runner_ups(order, perturbed, quotas)
    thresholds = lax.stop_gradient(thresholds)[experts]
    at = sparse.logits.at[experts, sparse.positions(items)]
    logits = at.get(mode="fill", fill_value=-jnp.inf)
    idle = jnp.isneginf(logits) | jnp.isneginf(thresholds)
    log_rates = jnp.where(idle, 0, logits) - jnp.where(idle, 0, thresholds)
    return jnp.where(idle, 0, cloglog_inverse(log_rates))


def runner_ups(
    order: Int[Array, "M depth"], perturbed: Float[Array, "M depth"], quotas: Quotas
) -> tuple[Int[Array, "M"], Float[Array, "M"]]:
    """The item after the quota in every expert's order, and its perturbed logit; -1 and -inf without one.

    Args: as `swap_scores`.

    >>> order, perturbed = jnp.array([[2, 0, 1], [3, 4, 5]]), jnp.zeros((2, 3))
    >>> jax.jit(runner_ups, static_argnums=2)(order, perturbed, (2, 1))[0].tolist()
    [1, 4]
    """
    experts, places = np.arange(len(quotas)), np.asarray(quotas)
    value = perturbed.at[experts, places].get(mode="fill", fill_value=-jnp.inf)
    item = order.at[experts, places].get(mode="fill", fill_value=-1)
    return jnp.where(jnp.isneginf(value), -1, item), value


def later_arrivals(
    key: PRNGKey, sparse: SparseLogits, items: Int[Array, "K"], quotas: Quotas
) -> Float[Array, "M K"]:
    """Perturbed logits that candidates would have under the experts after the one that took them.

    -inf under the other experts, and where the item is masked.

    Args:
      key: the key of the draw; a stream of it is used that the draw leaves alone.
      sparse: contains at least the candidates.
      items: the candidates, in slot order; -1 stands for no item.
      quotas: slots of each expert.

    >>> from rankpg.core.plackett_luce import full_logits
    >>> drawn = later_arrivals(jax.random.key(0), full_logits(jnp.zeros((2, 5))), jnp.array([4, 1]), (1, 1))
    >>> jnp.isneginf(drawn).tolist()  # the second expert comes after the one that took item 4
    [[True, True], [False, True]]
    """
    logits = lax.stop_gradient(sparse.logits).at[:, sparse.positions(items)]
    logits = logits.get(mode="fill", fill_value=-jnp.inf)
    own = jax.random.fold_in(key, len(quotas))  # the experts have 0 to M - 1

    def of_expert(expert: Int[Array, ""]) -> Float[Array, "K"]:
        return gumbel_noise(
            jax.random.fold_in(own, expert), jnp.maximum(items, 0), sparse.logits.dtype
        )

    experts = np.arange(len(quotas), dtype=np.int32)
    later = experts[:, None] > slot_experts(quotas)[None, :]
    return jnp.where(later, logits + jax.vmap(of_expert)(jnp.asarray(experts)), -jnp.inf)


def find_swaps(
    items: Int[Array, "K"],
    order: Int[Array, "M depth"],
    perturbed: Float[Array, "M depth"],
    later: Float[Array, "M K"],
    quotas: Quotas,
) -> Swaps:
    """Finds the set that the draw would have had if a candidate had come too late for its expert's quota.

    Args:
      items, order, perturbed, quotas: as `swap_scores`.
      later: perturbed logits of the candidates under later experts (`later_arrivals`); not read for M = 1.

    Returns:
      One swap for every candidate. It changes nothing where the candidate's expert has no runner-up, or
      where a later expert takes the candidate after all. An expert that would find too few items takes
      back the one that left.

    >>> order = jnp.array([[2, 0, 1]])
    >>> swaps = find_swaps(order[0, :2], order, jnp.array([[3.0, 2.0, 1.0]]), jnp.zeros((1, 2)), (2,))
    >>> swaps.slot.tolist(), swaps.into.tolist()
    ([0, 1], [1, 1])
    """
    experts, ends = slot_experts(quotas), np.cumsum(quotas).astype(np.int32)
    rivals, thresholds = runner_ups(order, perturbed, quotas)
    slot = jnp.arange(len(experts), dtype=jnp.int32)
    into, changed = rivals[experts], thresholds[experts] > -jnp.inf
    for expert, quota in enumerate(quotas):
        earlier = experts < expert
        if quota == 0 or not earlier.any():
            continue
        again = later[expert, slot]
        missed = jnp.any(into[:, None] == order[expert, :quota][None, :], axis=1)
        carried = changed & earlier
        taken_back = carried & missed & (again >= thresholds[expert])
        displaces = carried & ~missed & (again > perturbed[expert, quota - 1])
        into = jnp.where(carried & missed, rivals[expert], into)
        slot = jnp.where(displaces, jnp.int32(ends[expert] - 1), slot)
        changed = changed & ~taken_back
    return Swaps(slot=slot, into=jnp.where(changed, into, items[slot]))
