"""Probabilities P(a in S) that need the logits of the whole catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from rankpg.core.known_feedback import SPARSE_METHODS, log_inclusion_of_wanted_dense
from rankpg.encoders.two_tower import to_logits
from rankpg.types import Array, Float, Int, Params, PRNGKey, Quotas

if TYPE_CHECKING:
    from rankpg.training.update import Learner
else:
    Learner = Any

__all__ = ["all_logits", "log_inclusion_of_all", "reads_all_logits"]

_NUMBERS = 2**24
"""Numbers of a loss that are in memory together."""
_NUMBERS_OF_A_LOGIT = {"exact": 512, "greedy": 4}
"""Numbers that a method holds for each logit: the quadrature's nodes times the depth of its tree, for one."""


def reads_all_logits(method: str) -> bool:
    """Returns True for a method of P(a in S) that needs the logits of the whole catalogue.

    >>> reads_all_logits("exact"), reads_all_logits("swr")
    (True, False)
    """
    return method not in SPARSE_METHODS


def all_logits(
    learner: Learner, params: Params, contexts: Int[Array, "B"], noise: PRNGKey | None = None
) -> Float[Array, "B M N"]:
    """Returns the logits of the whole catalogue, -inf for items that a context may not be shown.

    Args:
      learner: policy and environment.
      params: parameters of the policy.
      contexts: ids.
      noise: key of the encoder's dropout; none if None.
    """
    policy, world = learner.policy, learner.environment
    encoded = policy.encoder.encode(params, world, contexts, noise)
    return jax.vmap(world.mask_ineligible)(contexts, to_logits(encoded, policy.temperature))


def log_inclusion_of_all(
    logits: Float[Array, "B M N"],
    items: Int[Array, "B P"],
    several_quotas: Sequence[Quotas],
    *,
    method: str,
    mask_others: bool,
) -> Float[Array, "B S P"]:
    """Log P(a in S) of the wanted items of a batch, for several numbers of candidates.

    It is `core.known_feedback.log_inclusion_of_wanted_dense`, computed for as many contexts and items at a
    time as fit in memory, and once more for the gradient.

    Args:
      logits: f_m(a); -inf masks an item.
      items: wanted items of each context; repeats are allowed.
      several_quotas: slots of each expert, for each of S numbers of candidates.
      method: exact or greedy.
      mask_others: leave the other wanted items of a context out of the catalogue.

    >>> logits, items = jnp.zeros((2, 1, 5)), jnp.array([[3, 1], [0, 0]])
    >>> found = log_inclusion_of_all(logits, items, [(1,), (2,)], method="exact", mask_others=True)
    >>> jnp.exp(found).round(2).tolist()  # among four items, and among five
    [[[0.25, 0.25], [0.5, 0.5]], [[0.2, 0.2], [0.4, 0.4]]]
    """
    _, experts, num_items = logits.shape
    each = _NUMBERS_OF_A_LOGIT[method] * experts * num_items
    wanted = max(1, _NUMBERS // each)

    def one(row: tuple[Float[Array, "M N"], Int[Array, "P"]]) -> Float[Array, "S P"]:
        found = [
            log_inclusion_of_wanted_dense(
                *row, quotas, method=method, mask_others=mask_others, at_once=wanted
            )
            for quotas in several_quotas
        ]
        return jnp.stack(found)

    contexts = max(1, wanted // items.shape[1])
    return jax.lax.map(jax.checkpoint(one), (logits, items), batch_size=contexts)
