"""Candidates drawn from predicted rewards, at a temperature that falls during training."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from jax import lax

from rankpg.core.estimators import Candidates
from rankpg.retrieval.base import Encoded
from rankpg.types import Array, Embeddings, Environment, Float, Int, Key

if TYPE_CHECKING:
    from rankpg.policy import Policy
else:  # an argument, imported by its users
    Policy = Any

__all__ = ["Exploration", "draw_by_rewards", "scaled"]


@dataclass(frozen=True)
class Exploration:
    """A temperature that falls geometrically from the first step to `steps`, and then stays.

    >>> falling = Exploration(first=1.0, last=0.25, steps=4)
    >>> [round(float(falling.temperature(jnp.int32(step))), 3) for step in (0, 2, 4, 9)]
    [1.0, 0.5, 0.25, 0.25]
    """

    first: float
    last: float
    steps: int

    def temperature(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """Temperature of an update."""
        progress = jnp.minimum(step.astype(jnp.float32) / self.steps, 1)
        return self.first * (self.last / self.first) ** progress


def scaled(encoded: Encoded, factor: Float[Array, ""]) -> Encoded:
    """Multiplies the logits of encoded contexts by a factor."""
    if isinstance(encoded, Embeddings):
        contexts = encoded.contexts * factor.astype(encoded.contexts.dtype)
        return dataclasses.replace(encoded, contexts=contexts)
    return encoded * factor.astype(encoded.dtype)


def draw_by_rewards(
    keys: Key[Array, "B"],
    policy: Policy,
    environment: Environment,
    contexts: Int[Array, "B"],
    rewards: Encoded,
    temperature: Float[Array, ""],
) -> Candidates:
    """Draws K candidates without replacement in proportion to exp(reward / temperature); without gradient.

    Args:
      keys: one for each context, consumed.
      policy: gives K, and the retrieval, which draws.
      environment: says which items are eligible.
      contexts: ids.
      rewards: predicted rewards, or embeddings whose inner products they are up to a constant of each
        context; M = 1.
      temperature: in units of the rewards.
    """
    logits = scaled(lax.stop_gradient(rewards), 1 / temperature)
    quotas = (policy.num_candidates,)
    return policy.retrieval.sample(keys, logits, contexts, environment, quotas, "candidates")
