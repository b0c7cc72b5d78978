"""Environments whose rewards are stored: `Ratings`, the rated pairs only, and `RewardMatrix`, a dense table.

Features of contexts and items, where there are any, are for the towers; rewards do not depend on them.
"""

# Dataclass fields implement properties of the protocol.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from rankpg.types import Array, Bool, Environment, Float, Int, PRNGKey, record

__all__ = ["Ratings", "RewardMatrix"]


@record
class Ratings(Environment):
    """Rewards value * (1 + relative_noise * z), z standard normal; a pair without rating earns 0.

    The ratings of context c are the entries row_starts[c] to row_starts[c + 1], sorted by item, so that a
    look-up is a binary search of `search_steps` halvings, the same for every context.
    """

    row_starts: Int[Array, "num_contexts_plus_1"]
    items: Int[Array, "num_ratings"]
    values: Float[Array, "num_ratings"]
    relative_noise: Float[Array, ""]
    where: Bool[Array, "num_contexts N"] | None
    num_items: int = struct.field(pytree_node=False)
    search_steps: int = struct.field(pytree_node=False)
    context_features: Float[Array, "num_contexts F"] | None = None
    item_features: Float[Array, "N G"] | None = None

    @property
    def num_contexts(self) -> int:
        return self.row_starts.shape[0] - 1

    def mean_rewards(self, context: Int[Array, ""], items: Int[Array, "n"]) -> Float[Array, "n"]:
        """The rating that the context gave to each item, 0 where there is none."""
        end = jnp.broadcast_to(self.row_starts[context + 1], items.shape)
        start = jnp.broadcast_to(self.row_starts[context], items.shape)
        wanted = items.astype(self.items.dtype)

        def halve(_: Any, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bounds
            middle = low + (high - low) // 2
            right = (low < high) & (self.items.at[middle].get(mode="clip") < wanted)
            return jnp.where(right, middle + 1, low), jnp.where(right, high, middle)

        place, _ = lax.fori_loop(0, self.search_steps, halve, (start, end), unroll=True)
        found = (place < end) & (self.items.at[place].get(mode="clip") == wanted)
        return jnp.where(found, self.values.at[place].get(mode="clip"), 0)

    def sample_rewards(
        self, key: PRNGKey, context: Int[Array, ""], items: Int[Array, "n"]
    ) -> Float[Array, "n"]:
        """Value * (1 + relative_noise * z), independently for each item."""
        mean = self.mean_rewards(context, items)
        return mean * (1 + self.relative_noise * jax.random.normal(key, mean.shape, mean.dtype))


@record
class RewardMatrix(Environment):
    """Rewards mean * (1 + relative_noise * z) + noise_std * z, z standard normal, from a dense table."""

    means: Float[Array, "num_contexts N"]
    relative_noise: Float[Array, ""]
    noise_std: Float[Array, ""] | Float[Array, "num_contexts N"]
    where: Bool[Array, "num_contexts N"] | None
    context_features: Float[Array, "num_contexts F"] | None = None
    item_features: Float[Array, "N G"] | None = None

    @property
    def num_contexts(self) -> int:
        return self.means.shape[0]

    @property
    def num_items(self) -> int:
        return self.means.shape[1]

    def mean_rewards(self, context: Int[Array, ""], items: Int[Array, "n"]) -> Float[Array, "n"]:
        """means[context, items]."""
        return self.means[jnp.broadcast_to(context, items.shape), items]

    def sample_rewards(
        self, key: PRNGKey, context: Int[Array, ""], items: Int[Array, "n"]
    ) -> Float[Array, "n"]:
        """Mean * (1 + relative_noise * z) + noise_std * z, independently for each item."""
        mean = self.mean_rewards(context, items)
        absolute = self.noise_std
        if absolute.ndim == 2:
            absolute = absolute[jnp.broadcast_to(context, items.shape), items]
        noise = jax.random.normal(key, mean.shape, mean.dtype)
        return mean + (self.relative_noise * mean + absolute) * noise
