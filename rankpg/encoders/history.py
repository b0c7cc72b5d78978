"""Encoders of histories: a context is the sequence of items that its user interacted with.

A new user needs no row in a table. Logits are cosines times a learnt scale. In `HistoryEncoder`, the
embedding of a context is a weighted mean of the vectors of its last items, with one learnt weight for each
place.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from rankpg.encoders.two_tower import Encoder
from rankpg.errors import ConfigError
from rankpg.types import Array, Embeddings, Environment, Float, Int, Params, PRNGKey

__all__ = [
    "HistoryEncoder",
    "HistoryItems",
    "check_has_histories",
    "dropped",
    "encoder_of_histories",
    "histories_of",
    "history_of",
    "num_tags_of",
]

_SHORTEST = 1e-6
"""Vectors shorter than this keep their length when they are normalised."""


class HistoryItems(nnx.Module):
    """Vectors of the items and a scale, which every encoder of histories has; one of each for each expert.

        v[a] = table[a] + mean_t tags[t],    f(a | x) = exp(s) * n(h(x)) . n(v[a]),    n(v) = v / |v|

    The vectors v are shared between history and catalogue. With tags, such as categories or brands, the
    vector of an item is its own plus the mean of those of its tags. A subclass computes h(x) in its call.
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
    ):
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
    ) -> Embeddings:
        """Embeddings of the histories, in which -1 stands before the first item, and of all items.

        Args:
          histories: rows of the last items, newest last.
          item_tags: rows of the tags of every item; -1 for none.
          noise: key of the dropout; None for no dropout.
        """
        raise NotImplementedError

    def vectors(self, item_tags: Int[Array, "N T"] | None) -> Float[Array, "M N D"]:
        """The vector v of every item."""
        table = self.table[...]
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
    ):
        super().__init__(num_items, dim, num_experts, init_scale, num_tags, dtype, rngs=rngs)
        recent = jnp.broadcast_to(jnp.linspace(-2, 0, length), (num_experts, length))
        self.place = nnx.Param(recent.astype(dtype))
        self.dropout = dropout

    def __call__(
        self,
        histories: Int[Array, "B length"],
        item_tags: Int[Array, "N T"] | None = None,
        noise: PRNGKey | None = None,
    ) -> Embeddings:
        """Embeddings of the histories, in which -1 stands before the first item, and of all items."""
        table = self.vectors(item_tags)
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
    dtype: DTypeLike = jnp.float32,
) -> Encoder:
    """Builds a history encoder over the items of an environment of interactions.

    Args:
      environment: has `histories(contexts, length)`, as `environments.Interactions`.
      dim: D.
      num_experts: M.
      length: number of last items that are read.
      init_scale: standard deviation of the table at initialisation.
      dropout: share of the pooled embedding that is dropped in training, from 0 to below 1.
      dtype: dtype of the parameters.

    Raises:
      ConfigError: the environment has no histories.
    """
    check_has_histories(environment)
    sizes = environment.num_items, dim, num_experts, length
    num_tags = num_tags_of(environment)

    def build(rngs: nnx.Rngs) -> HistoryEncoder:
        return HistoryEncoder(*sizes, init_scale, dropout, num_tags, dtype, rngs=rngs)

    return encoder_of_histories(build, length)


def encoder_of_histories(build: Callable[[nnx.Rngs], HistoryItems], length: int) -> Encoder:
    """Makes an encoder from a function that builds a module of histories.

    Args:
      build: its module is called with histories [B, length], the tags of the items and a key or None, and
        all of its variables are `nnx.Param`.
      length: number of last items that are read.
    """
    graph = nnx.eval_shape(lambda: nnx.split(build(nnx.Rngs(params=0)), nnx.Param))[0]

    def init(key: PRNGKey) -> Params:
        return nnx.split(build(nnx.Rngs(params=key)), nnx.Param)[1]

    def apply(params: Params, contexts: Int[Array, "B"], world: Environment) -> Embeddings:
        return nnx.merge(graph, params)(histories_of(world, contexts, length), world.item_tags)

    def noisy(
        params: Params, noise: PRNGKey, contexts: Int[Array, "B"], world: Environment
    ) -> Embeddings:
        histories = histories_of(world, contexts, length)
        return nnx.merge(graph, params)(histories, world.item_tags, noise)

    return Encoder(init, apply, lambda world: world, noisy)


def num_tags_of(environment: Environment) -> int:
    """Returns the number of tags that an environment's items have; 0 without tags."""
    tags = environment.item_tags
    return 0 if tags is None else int(jnp.max(tags)) + 1


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
