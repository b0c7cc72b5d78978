"""Encoders of histories: a context is the sequence of items that its user interacted with.

A new user needs no row in a table. Logits are cosines times a learnt scale. In `HistoryEncoder`, the
embedding of a context is a weighted mean of the vectors of its last items, with one learnt weight for each
place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from rankpg.encoders.two_tower import TOWERS, Encoder, Tower, TowerSettings
from rankpg.errors import ConfigError
from rankpg.types import Array, Embeddings, Environment, Float, Int, Params, PRNGKey

__all__ = [
    "HistoryEncoder",
    "HistoryItems",
    "ItemSide",
    "check_has_histories",
    "dropped",
    "encoder_of_histories",
    "histories_of",
    "history_of",
    "items_of",
]

_SHORTEST = 1e-6
"""Vectors shorter than this keep their length when they are normalised."""


class HistoryItems(nnx.Module):
    """Vectors of the items and a scale, which every encoder of histories has; one of each for each expert.

        v[a] = table[a] + mean_t tags[t],    f(a | x) = exp(s) * n(h(x)) . n(v[a]),    n(v) = v / |v|

    The vectors v are shared between history and catalogue. With tags, such as categories or brands, the
    vector of an item is its own plus the mean of those of its tags. With an item tower, its own vector is
    the tower's output for its features, in place of a row of a table. A subclass computes h(x) in its call.
    """

    def __init__(
        self,
        num_items: int,
        dim: int,
        num_experts: int,
        init_scale: float,
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
        self.log_scale = nnx.Param(jnp.full((num_experts,), 3, dtype))

    def __call__(
        self,
        histories: Int[Array, "B length"],
        item_tags: Int[Array, "N T"] | None = None,
        noise: PRNGKey | None = None,
        item_features: Float[Array, "N F"] | None = None,
    ) -> Embeddings:
        """Embeddings of the histories, in which -1 stands before the first item, and of all items.

        Args:
          histories: rows of the last items, newest last.
          item_tags: rows of the tags of every item; -1 for none.
          noise: key of the dropout; None for no dropout.
          item_features: features of every item, for an item tower that reads them.
        """
        raise NotImplementedError

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

    def embeddings(
        self, contexts: Float[Array, "M B D"], table: Float[Array, "M N D"]
    ) -> Embeddings:
        """Embeddings whose inner products are cosines of h(x) and v[a], times the scale."""
        scale = jnp.exp(self.log_scale[...])[:, None, None]
        return Embeddings(
            contexts=jnp.swapaxes(scale * _normalised(contexts), 0, 1), items=_normalised(table)
        )


class HistoryEncoder(HistoryItems):
    """Pools the vectors of the last items of a history by learnt weights; one pool for each expert.

    h(x) = sum_j softmax(w)_j v[item_j], with one weight w_j for each place, counted from the end.
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
        sizes = num_items, dim, num_experts
        super().__init__(*sizes, init_scale, num_tags, dtype, rngs=rngs, items=items)
        recent = jnp.broadcast_to(jnp.linspace(-2, 0, length), (num_experts, length))
        self.place = nnx.Param(recent.astype(dtype))
        self.dropout = dropout

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
        return self.embeddings(dropped(noise, pooled, self.dropout), table)


def dropped(
    noise: PRNGKey | None, x: Float[Array, "*shape"], share: float
) -> Float[Array, "*shape"]:
    """X with a share of its entries set to 0 and the others enlarged to keep the mean; x without noise."""
    if noise is None or not share:
        return x
    kept = jax.random.bernoulli(noise, 1 - share, x.shape)
    return x * kept.astype(x.dtype) / (1 - share)


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
    side = items_of(environment, item_tower, dim, num_experts, init_scale, hidden, dtype)
    sizes = environment.num_items, side.dim, num_experts, length

    def build(rngs: nnx.Rngs) -> HistoryEncoder:
        items = side.build(rngs)
        common = init_scale, dropout, side.num_tags, dtype
        return HistoryEncoder(*sizes, *common, rngs=rngs, items=items)

    return encoder_of_histories(build, length, side.reads_features)


class ItemSide(NamedTuple):
    """Sizes of the items of an environment, and the tower over their features."""

    dim: int
    """D"""
    num_tags: int
    """0 without tags."""
    reads_features: bool
    build: Callable[[nnx.Rngs], Tower | None]
    """The tower over features; None for a table of ids."""


def items_of(
    environment: Environment,
    item_tower: str,
    dim: int,
    num_experts: int,
    init_scale: float,
    hidden: tuple[int, ...],
    dtype: DTypeLike,
) -> ItemSide:
    """Returns the side of the items of an encoder of histories; arguments as for `history_of`.

    Raises:
      ConfigError: the environment has no features for the item tower.
    """
    tags, kind = environment.item_tags, TOWERS[item_tower]
    num_tags = 0 if tags is None else int(jnp.max(tags)) + 1
    width = check_has_features(environment, item_tower) if kind.reads_features else 0
    dim = width if kind.keeps_width else dim
    num_items = environment.num_items

    def build(rngs: nnx.Rngs) -> Tower | None:
        if not kind.reads_features:
            return None
        sizes = TowerSettings(num_items, width, dim, num_experts, init_scale, hidden, dtype)
        return kind.build(sizes, rngs)

    return ItemSide(dim, num_tags, kind.reads_features, build)


def encoder_of_histories(
    build: Callable[[nnx.Rngs], HistoryItems], length: int, reads_features: bool = False
) -> Encoder:
    """Makes an encoder from a function that builds a module of histories.

    Args:
      build: its module is called as `HistoryItems`, and all of its variables are `nnx.Param`.
      length: number of last items that are read.
      reads_features: True to call it with the features of the items as well.
    """

    def inputs(world: Environment) -> tuple[Int[Array, "N T"] | None, Float[Array, "N F"] | None]:
        return world.item_tags, world.item_features if reads_features else None

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
