"""A history encoder: a context is the sequence of items that its user interacted with.

The embedding of a context is a weighted mean of the embeddings of its last items, with one learnt weight for
each place, so a new user needs no row in a table. Logits are cosines times a learnt scale.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from rankpg.encoders.two_tower import TOWERS, Encoder, Tower, TowerSettings
from rankpg.errors import ConfigError
from rankpg.types import Array, Embeddings, Environment, Float, Int, Params, PRNGKey

__all__ = ["HistoryEncoder", "history_of"]

_SHORTEST = 1e-6
"""Vectors shorter than this keep their length when they are normalised."""


class HistoryEncoder(nnx.Module):
    """Pools the embeddings of the last items of a history by learnt weights; one pool for each expert.

        e(x) = exp(s) * n( sum_j softmax(w)_j v[item_j] ),   f(a | x) = e(x) . n(v[a]),   n(v) = v / |v|

    The vectors v are shared between history and catalogue. With tags, such as categories or brands, the
    vector of an item is its own plus the mean of those of its tags. With an item tower, its own vector is
    the tower's output for its features, in place of a row of a table.
    """

    def __init__(
        self,
        num_items: int,
        dim: int,
        num_experts: int,
        length: int,
        init_scale: float,
        dropout: float = 0.0,
        num_tags: int = 0,
        dtype: DTypeLike = jnp.float32,
        *,
        rngs: nnx.Rngs,
        items: Tower | None = None,
    ):
        self.items = items
        if items is None:
            table = init_scale * jax.random.normal(rngs.params(), (num_experts, num_items, dim))
            self.table = nnx.Param(table.astype(dtype))
        if num_tags:
            tags = init_scale * jax.random.normal(rngs.params(), (num_experts, num_tags, dim))
            self.tags = nnx.Param(tags.astype(dtype))
        recent = jnp.broadcast_to(jnp.linspace(-2, 0, length), (num_experts, length))
        self.place = nnx.Param(recent.astype(dtype))
        self.log_scale = nnx.Param(jnp.full((num_experts,), 3, dtype))
        self.dropout = dropout

    def vectors(
        self,
        item_tags: Int[Array, "N T"] | None,
        item_features: Float[Array, "N F"] | None = None,
    ) -> Float[Array, "M N D"]:
        """The vector v of every item; a table of ids takes no features."""
        table = self.table[...] if self.items is None else self.items(item_features)
        if item_tags is None:
            return table
        there = (item_tags >= 0).astype(table.dtype)
        share = there / jnp.maximum(jnp.sum(there, axis=1, keepdims=True), 1)
        tags = self.tags[...]
        # One tag of every item at a time: [N, T, D] is never in memory.
        for place in range(item_tags.shape[1]):
            rows = jnp.maximum(item_tags[:, place], 0)
            table = table + share[None, :, place, None] * tags[:, rows]
        return table

    def __call__(
        self,
        histories: Int[Array, "B length"],
        item_tags: Int[Array, "N T"] | None = None,
        noise: PRNGKey | None = None,
        item_features: Float[Array, "N F"] | None = None,
    ) -> Embeddings:
        """Embeddings of the histories, in which -1 stands before the first item, and of all items."""
        table = self.vectors(item_tags, item_features)
        there = histories >= 0
        vectors = table[:, jnp.where(there, histories, 0)]  # [M, B, length, D]
        place = jnp.where(there[None], self.place[...][:, None], -jnp.inf)
        weights = jnp.exp(place - jax.lax.stop_gradient(jnp.max(self.place[...])))
        weights = weights / jnp.maximum(jnp.sum(weights, axis=-1, keepdims=True), _SHORTEST)
        pooled = jnp.sum(weights[..., None] * vectors, axis=2)
        if noise is not None and self.dropout:
            kept = jax.random.bernoulli(noise, 1 - self.dropout, pooled.shape)
            pooled = pooled * kept.astype(pooled.dtype) / (1 - self.dropout)
        scale = jnp.exp(self.log_scale[...])[:, None, None]
        return Embeddings(
            contexts=jnp.swapaxes(scale * _normalised(pooled), 0, 1), items=_normalised(table)
        )


def _normalised(x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
    """X / |x|; a vector that is almost 0 stays almost 0, and its gradient finite."""
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, _SHORTEST**2))


def history_of(
    environment: Environment,
    dim: int = 64,
    num_experts: int = 1,
    *,
    length: int = 20,
    init_scale: float = 0.05,
    dropout: float = 0.0,
    item_tower: str = "ids",
    hidden: tuple[int, ...] = (64,),
    dtype: DTypeLike = jnp.float32,
) -> Encoder:
    """Builds a history encoder over the items of an environment of interactions.

    Args:
      environment: has `histories(contexts, length)`, as `environments.Interactions`.
      dim: D; with an item tower that keeps it, the width of the item features.
      num_experts: M.
      length: number of last items that are read.
      init_scale: standard deviation of the table at initialisation.
      dropout: share of the pooled embedding that is dropped in training, from 0 to below 1.
      item_tower: a name of `TOWERS`: "ids", a table; or a tower over `item_features` of the environment.
      hidden: widths of the hidden layers of a perceptron over features.
      dtype: dtype of the parameters.

    Raises:
      ConfigError: the environment has no histories, or no features for the item tower.
    """
    check_has_histories(environment)

    tags, kind = environment.item_tags, TOWERS[item_tower]
    num_tags = 0 if tags is None else int(jnp.max(tags)) + 1
    num_items = environment.num_items
    width = check_has_features(environment, item_tower) if kind.reads_features else 0
    dim = width if kind.keeps_width else dim

    def build(rngs):
        items = None
        if kind.reads_features:
            sizes = TowerSettings(num_items, width, dim, num_experts, init_scale, hidden, dtype)
            items = kind.build(sizes, rngs)
        sizes = num_items, dim, num_experts, length
        return HistoryEncoder(*sizes, init_scale, dropout, num_tags, dtype, rngs=rngs, items=items)

    def inputs(world: Environment) -> tuple[Int[Array, "N T"] | None, Float[Array, "N F"] | None]:
        return world.item_tags, world.item_features if kind.reads_features else None

    graph = nnx.eval_shape(lambda: nnx.split(build(nnx.Rngs(params=0)), nnx.Param))[0]

    def init(key: PRNGKey) -> Params:
        return nnx.split(build(nnx.Rngs(params=key)), nnx.Param)[1]

    def apply(params: Params, contexts: Int[Array, "B"], world: Environment) -> Embeddings:
        tags, features = inputs(world)
        histories = histories_of(world, contexts, length)
        return nnx.merge(graph, params)(histories, tags, item_features=features)

    def noisy(
        params: Params, noise: PRNGKey, contexts: Int[Array, "B"], world: Environment
    ) -> Embeddings:
        histories = histories_of(world, contexts, length)
        tags, features = inputs(world)
        return nnx.merge(graph, params)(histories, tags, noise, features)

    return Encoder(init, apply, lambda world: world, noisy)


def check_has_features(environment: Environment, item_tower: str) -> int:
    """Returns the width of the item features.

    Raises:
      ConfigError: the environment has none.
    """
    if environment.item_features is None:
        raise ConfigError(
            f"item_tower={item_tower!r}, but the environment {type(environment).__name__} has no "
            "item_features; add them, for instance by environments.with_embeddings, or give item_tower='ids'"
        )
    return environment.item_features.shape[1]


def check_has_histories(environment: Environment) -> None:
    """Rejects an environment without histories.

    Raises:
      ConfigError: names the environment.
    """
    one = jax.ShapeDtypeStruct((1,), jnp.int32)
    jax.eval_shape(lambda world, rows: histories_of(world, rows, 1), environment, one)


def histories_of(
    environment: Environment, contexts: Int[Array, "B"], length: int
) -> Int[Array, "B length"]:
    """Returns the last items of each context's history.

    Raises:
      ConfigError: the environment has no histories.
    """
    found = environment.histories(contexts, length)
    if found is None:
        raise ConfigError(
            f"context_tower='history' needs the sequences of users, and the environment "
            f"{type(environment).__name__} has none; give environment='interactions', or "
            "environments.from_interactions"
        )
    return found
