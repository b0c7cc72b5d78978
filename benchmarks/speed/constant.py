"""An environment with constant rewards, for timing the learner alone."""

# Dataclass fields implement properties of the protocol.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

import jax.numpy as jnp
from flax import struct

from rankpg.types import Array, Environment, Float, Int, PRNGKey, record

__all__ = ["ConstantRewards"]


@record
class ConstantRewards(Environment):
    """An environment of negligible cost: every reward is 1."""

    num_contexts: int = struct.field(pytree_node=False)
    num_items: int = struct.field(pytree_node=False)

    def mean_rewards(self, context: Int[Array, ""], items: Int[Array, "n"]) -> Float[Array, "n"]:
        """Returns 1 for every item."""
        return jnp.ones(items.shape, jnp.float32)

    def sample_rewards(
        self, key: PRNGKey, context: Int[Array, ""], items: Int[Array, "n"]
    ) -> Float[Array, "n"]:
        """Returns 1 for every item, without noise."""
        return jnp.ones(items.shape, jnp.float32)
