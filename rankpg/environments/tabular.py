"""Environments with stored rewards: `Ratings`, the rated pairs alone, and `RewardMatrix`, a dense table.

Features of contexts and items are for the towers; rewards do not depend on them.
"""

# Dataclass fields implement properties of the protocol.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

from rankpg.environments.catalogue import (
    Catalogue,
    append_own,
    append_rows,
    append_to_mask,
    eligible_but_own,
    take_own,
)
from rankpg.types import Array, Bool, Environment, Float, Int, PRNGKey, record

__all__ = ["Ratings", "RewardMatrix", "search_row"]


def search_row(
    sorted_items: Int[Array, "entries"],
    bounds: tuple[Int[Array, ""], Int[Array, ""]],
    wanted: Int[Array, "n"],
    steps: int,
) -> tuple[Int[Array, "n"], Bool[Array, "n"]]:
    """Finds items in one row of a table in CSR form, by bisection.

    The loop is not unrolled: a compiler that fuses its halvings recomputes each of them in the next.

    Args:
      sorted_items: items of all rows, ascending in each row.
      bounds: first entry of the row, and first entry of the next one.
      wanted: items to find.
      steps: number of halvings, the bit length of the longest row.

    Returns:
      The entry of each item, and whether the row has it.

    >>> entry, found = search_row(jnp.array([2, 5, 1, 5]), (jnp.int32(2), jnp.int32(4)), jnp.array([5, 2]), 2)
    >>> int(entry[0]), found.tolist()
    (3, [True, False])
    """
    start, end = (jnp.broadcast_to(bound, wanted.shape) for bound in bounds)
    wanted = wanted.astype(sorted_items.dtype)

    def halve(_: object, between: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = between
        middle = low + (high - low) // 2
        right = (low < high) & (sorted_items.at[middle].get(mode="clip") < wanted)
        return jnp.where(right, middle + 1, low), jnp.where(right, high, middle)

    entry, _ = lax.fori_loop(0, steps, halve, (start, end))
    return entry, (entry < end) & (sorted_items.at[entry].get(mode="clip") == wanted)


@record
class Ratings(Environment):
    """Ratings with rewards value * (1 + relative_noise * z), z standard normal; an unrated pair earns 0.

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
    own: Int[Array, "num_contexts"] | None = None
    """The item that is never a candidate of each context, since it is the context itself; -1 for none."""

    @property
    def num_contexts(self) -> int:
        return self.row_starts.shape[0] - 1

    def eligible(self, context: Int[Array, ""], items: Int[Array, "n"]) -> Bool[Array, "n"] | None:
        """Returns which items may be candidates: those of `where`, except for the context itself."""
        return eligible_but_own(self.where, self.own, context, items)

    def mean_rewards(self, context: Int[Array, ""], items: Int[Array, "n"]) -> Float[Array, "n"]:
        """Returns the rating that the context gave to each item, and 0 where there is none."""
        bounds = self.row_starts[context], self.row_starts[context + 1]
        place, found = search_row(self.items, bounds, items, self.search_steps)
        return jnp.where(found, self.values.at[place].get(mode="clip"), 0)

    def sample_rewards(
        self, key: PRNGKey, context: Int[Array, ""], items: Int[Array, "n"]
    ) -> Float[Array, "n"]:
        """Samples value * (1 + relative_noise * z), independently for each item."""
        mean = self.mean_rewards(context, items)
        return mean * (1 + self.relative_noise * jax.random.normal(key, mean.shape, mean.dtype))

    @property
    def missing_share(self) -> float:
        return 1.0 - len(self.items) / (self.num_contexts * self.num_items)

    def take_items(self, rows: np.ndarray) -> Ratings:
        """Returns the ratings of these items alone, renumbered in this order."""
        new_row = np.full(self.num_items, -1, np.int32)
        new_row[rows] = np.arange(len(rows), dtype=np.int32)
        items = new_row[np.asarray(self.items)]
        stays = items >= 0
        before = np.concatenate([[0], np.cumsum(stays)]).astype(np.int32)
        return dataclasses.replace(
            self,
            row_starts=jnp.asarray(before[np.asarray(self.row_starts)]),
            items=jnp.asarray(items[stays]),
            values=self.values[np.flatnonzero(stays)],
            num_items=len(rows),
            where=None if self.where is None else self.where[:, rows],
            own=take_own(self.own, rows, self.num_items),
            item_features=None if self.item_features is None else self.item_features[rows],
        )

    def append_items(self, features: np.ndarray) -> Ratings:
        """Returns the ratings with further items at the end, without any rating."""
        return dataclasses.replace(
            self,
            num_items=self.num_items + len(features),
            item_features=append_rows(self.item_features, features),
            where=append_to_mask(self.where, items=len(features)),
        )

    def append_contexts(self, features: np.ndarray) -> Ratings:
        """Returns the ratings with further contexts at the end, without any rating."""
        end = jnp.full(len(features), self.row_starts[-1], self.row_starts.dtype)
        return dataclasses.replace(
            self,
            row_starts=jnp.concatenate([self.row_starts, end]),
            context_features=append_rows(self.context_features, features),
            where=append_to_mask(self.where, contexts=len(features)),
            own=append_own(self.own, len(features)),
        )


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
        """Returns means[context, items]."""
        return self.means[jnp.broadcast_to(context, items.shape), items]

    def sample_rewards(
        self, key: PRNGKey, context: Int[Array, ""], items: Int[Array, "n"]
    ) -> Float[Array, "n"]:
        """Samples mean * (1 + relative_noise * z) + noise_std * z, independently for each item."""
        mean = self.mean_rewards(context, items)
        absolute = self.noise_std
        if absolute.ndim == 2:
            absolute = absolute[jnp.broadcast_to(context, items.shape), items]
        noise = jax.random.normal(key, mean.shape, mean.dtype)
        return mean + (self.relative_noise * mean + absolute) * noise

    @property
    def missing_share(self) -> float:
        return 0.0

    def take_items(self, rows: np.ndarray) -> RewardMatrix:
        """Returns the columns of these items alone, in this order."""
        return dataclasses.replace(
            self,
            means=self.means[:, rows],
            noise_std=self.noise_std[:, rows] if self.noise_std.ndim == 2 else self.noise_std,
            where=None if self.where is None else self.where[:, rows],
            item_features=None if self.item_features is None else self.item_features[rows],
        )

    def append_items(self, features: np.ndarray) -> Catalogue:
        """Returns a catalogue with further items: the matrix has no rewards for them."""
        return self._without_cells().append_items(features)

    def append_contexts(self, features: np.ndarray) -> Catalogue:
        """Returns a catalogue with further contexts: the matrix has no rewards for them."""
        return self._without_cells().append_contexts(features)

    def _without_cells(self) -> Catalogue:
        return Catalogue(
            num_contexts=self.num_contexts,
            num_items=self.num_items,
            context_features=self.context_features,
            item_features=self.item_features,
            where=self.where,
        )
