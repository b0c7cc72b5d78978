"""An encoder of histories by causal self-attention: SASRec (Kang and McAuley 2018, ICDM, arXiv:1808.09781).

Every item of a history is compared with the items before it, so the embedding of a context depends on their
order and on which items stand together, not on a weight of each place alone. Attention, layer norms and
affine maps are those of flax.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from rankpg.encoders.history import (
    HistoryItems,
    check_has_histories,
    dropped,
    encoder_of_histories,
    items_of,
)
from rankpg.encoders.two_tower import Encoder, Tower
from rankpg.errors import ConfigError
from rankpg.types import Array, Bool, Embeddings, Environment, Float, Int, PRNGKey

__all__ = ["AttentionEncoder", "AttentionLayer", "CausalTower", "attention_of"]


class AttentionLayer(nnx.Module):
    """Self-attention and then a perceptron of each place, both behind a layer norm and added to the input.

    h' = h + drop(attention(norm(h))),    h'' = h' + drop(W2 relu(W1 norm(h') + b1) + b2)
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        dropout: float = 0.0,
        dtype: DTypeLike = jnp.float32,
        *,
        rngs: nnx.Rngs,
    ):
        self.norm = nnx.LayerNorm(dim, param_dtype=dtype, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            num_heads, dim, decode=False, param_dtype=dtype, rngs=rngs
        )
        self.norm_of_places = nnx.LayerNorm(dim, param_dtype=dtype, rngs=rngs)
        self.inner = nnx.Linear(dim, dim, param_dtype=dtype, rngs=rngs)
        self.outer = nnx.Linear(dim, dim, param_dtype=dtype, rngs=rngs)
        self.dropout = dropout

    def __call__(
        self,
        hidden: Float[Array, "n D"],
        readable: Bool[Array, "n n"],
        noise: PRNGKey | None = None,
        last: int | None = None,
    ) -> Float[Array, "last D"]:
        """Maps the outputs of one layer at every place to those of the next.

        Args:
          hidden: one row for each place.
          readable: True where the place of the row may read the place of the column; in every row once.
          noise: key of the dropout; None for no dropout.
          last: number of last places that are wanted; all if None.
        """
        of_attention, of_places = (None, None) if noise is None else jax.random.split(noise)
        first = 0 if last is None else hidden.shape[0] - last
        normed = _normed(self.norm, hidden)
        with jax.numpy_dtype_promotion("standard"):  # flax takes weights in float32 or wider
            found = self.attention(normed[first:], normed, mask=readable[None, first:])
        hidden = hidden[first:] + dropped(of_attention, found, self.dropout)
        found = self.outer(jax.nn.relu(self.inner(_normed(self.norm_of_places, hidden))))
        return hidden + dropped(of_places, found, self.dropout)


def _normed(norm: nnx.LayerNorm, rows: Float[Array, "n D"]) -> Float[Array, "n D"]:
    """The rows behind a layer norm, which mixes dtypes also where JAX's promotion is strict."""
    with jax.numpy_dtype_promotion("standard"):
        return norm(rows)


class CausalTower(nnx.Module):
    """Layers of self-attention over the places of one history, each of which reads itself and what is before.

    h_0 = drop(sqrt(D) v[item_j] + p_j),    output_j = norm(layers(h_0)_j),    p_j learnt, from the end
    """

    def __init__(
        self,
        dim: int,
        length: int,
        num_layers: int,
        num_heads: int,
        init_scale: float,
        dropout: float = 0.0,
        dtype: DTypeLike = jnp.float32,
        *,
        rngs: nnx.Rngs,
    ):
        place = init_scale * jax.random.normal(rngs.params(), (length, dim))
        self.place = nnx.Param(place.astype(dtype))
        self.num_layers, self.dropout = num_layers, dropout
        for number in range(num_layers):
            layer = AttentionLayer(dim, num_heads, dropout, dtype, rngs=rngs)
            setattr(self, f"layer_{number}", layer)
        self.norm = nnx.LayerNorm(dim, param_dtype=dtype, rngs=rngs)

    def __call__(
        self,
        vectors: Float[Array, "n D"],
        there: Bool[Array, "n"],
        noise: PRNGKey | None = None,
        last: int | None = None,
    ) -> Float[Array, "last D"]:
        """Returns the outputs at the last places of a history; one where no item is has no meaning.

        Args:
          vectors: v of the item at each place, newest last; at most as many as there are places.
          there: False where no item is.
          noise: key of the dropout; None for no dropout.
          last: number of last places that are wanted; all if None. The last layer computes no others.
        """
        count, dim = vectors.shape
        keys = [None] * (self.num_layers + 1)
        if noise is not None:
            keys = list(jax.random.split(noise, self.num_layers + 1))
        place = self.place[...]
        hidden = math.sqrt(dim) * vectors + place[place.shape[0] - count :]
        hidden = dropped(keys[0], hidden, self.dropout)
        before = jnp.tril(jnp.ones((count, count), bool))
        # A place without an item reads itself, so that no sum of weights is empty.
        readable = before & (there[None] | jnp.eye(count, dtype=bool))
        for number, key in enumerate(keys[1:]):
            wanted = last if number == self.num_layers - 1 else None
            hidden = getattr(self, f"layer_{number}")(hidden, readable, key, wanted)
        return _normed(self.norm, hidden)


class AttentionEncoder(HistoryItems):
    """Reads the last items of a history by causal self-attention; one tower for each expert.

    h(x) is the output of `CausalTower` at the last item, and 0 for an empty history, whose logits are equal.

    >>> encoder = AttentionEncoder(6, 4, 1, 3, num_layers=2, num_heads=2, rngs=nnx.Rngs(params=0))
    >>> embedded = encoder(jnp.array([[-1, 5, 2], [-1, 2, 5]]))
    >>> embedded.contexts.shape, embedded.items.shape
    ((2, 1, 4), (1, 6, 4))
    >>> bool(jnp.allclose(embedded.contexts[0], embedded.contexts[1]))  # the order counts
    False
    """

    def __init__(
        self,
        num_items: int,
        dim: int,
        num_experts: int,
        length: int,
        *,
        num_layers: int = 2,
        num_heads: int = 1,
        init_scale: float = 0.1,
        dropout: float = 0.0,
        num_tags: int = 0,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
        items: Tower | None = None,
    ):
        sizes = num_items, dim, num_experts
        super().__init__(*sizes, init_scale, num_tags, dtype, rngs=rngs, items=items)

        @nnx.split_rngs(splits=num_experts)
        @nnx.vmap
        def towers(rngs: nnx.Rngs) -> CausalTower:
            sizes = dim, length, num_layers, num_heads
            return CausalTower(*sizes, init_scale, dropout, dtype, rngs=rngs)

        self.towers = towers(rngs)

    def __call__(
        self,
        histories: Int[Array, "B n"],
        item_tags: Int[Array, "N T"] | None = None,
        noise: PRNGKey | None = None,
        item_features: Float[Array, "N F"] | None = None,
    ) -> Embeddings:
        """Embeddings of the histories, in which -1 stands before the first item, and of all items.

        Args:
          histories: rows of the last items, newest last, at most `length` of them.
          item_tags: rows of the tags of every item; -1 for none.
          noise: key of the dropout; None for no dropout.
          item_features: features of every item, for an item tower that reads them.
        """
        table = self.vectors(item_tags, item_features)
        hidden = self._outputs(table, histories, noise, last=1)[:, :, 0]
        some = jnp.any(histories >= 0, axis=1)
        return self.embeddings(jnp.where(some[None, :, None], hidden, 0), table)

    def at_places(
        self, histories: Int[Array, "B n"], item_tags: Int[Array, "N T"] | None = None
    ) -> Float[Array, "M B n D"]:
        """The outputs of the towers at every place, each of which depends on the items up to there alone."""
        return self._outputs(self.vectors(item_tags), histories)

    def _outputs(
        self,
        table: Float[Array, "M N D"],
        histories: Int[Array, "B n"],
        noise: PRNGKey | None = None,
        last: int | None = None,
    ) -> Float[Array, "M B last D"]:
        graph, states = nnx.split(self.towers)
        there = histories >= 0
        rows = jnp.where(there, histories, 0)
        keys = None
        if noise is not None:
            keys = jax.random.split(noise, (table.shape[0], *there.shape[:1]))

        def of_expert(
            state: nnx.State, own: Float[Array, "N D"], keys: Array | None
        ) -> Float[Array, "B last D"]:
            def of_one(
                vectors: Float[Array, "n D"], there: Bool[Array, "n"], key: PRNGKey | None
            ) -> Float[Array, "last D"]:
                return nnx.merge(graph, state)(vectors, there, key, last)

            return jax.vmap(of_one)(own[rows], there, keys)

        return jax.vmap(of_expert)(states, table, keys)


def attention_of(
    environment: Environment,
    dim: int = 64,
    num_experts: int = 1,
    *,
    length: int = 20,
    num_layers: int = 2,
    num_heads: int = 1,
    init_scale: float = 0.1,
    dropout: float = 0.0,
    item_tower: str = "ids",
    hidden: tuple[int, ...] = (64,),
    dtype: DTypeLike = jnp.float32,
) -> Encoder:
    """Builds an encoder of histories by causal self-attention over the items of an environment.

    Args:
      environment: has `histories(contexts, length)`, as `environments.Interactions`.
      dim: D, a multiple of `num_heads`; with an item tower that keeps it, the width of the item features.
      num_experts: M.
      length: number of last items that are read.
      num_layers: number of layers of self-attention.
      num_heads: number of parts of the embedding that each layer compares apart.
      init_scale: standard deviation of the table and of the places at initialisation.
      dropout: share of the inputs and of the outputs of every sublayer that is dropped in training, from 0 to
        below 1.
      item_tower: a name of `TOWERS`: "ids", a table; or a tower over `item_features` of the environment.
      hidden: widths of the hidden layers of a perceptron over features.
      dtype: dtype of the parameters.

    Raises:
      ConfigError: the environment has no histories, or no features for the item tower; or the heads do not
        divide the embedding.
    """
    check_has_histories(environment)
    side = items_of(environment, item_tower, dim, num_experts, init_scale, hidden, dtype)
    if side.dim % num_heads:
        raise ConfigError(
            f"embeddings of width {side.dim}, with item_tower={item_tower!r}, do not divide among "
            f"attention_heads={num_heads}; expected a divisor of {side.dim}"
        )

    def build(rngs: nnx.Rngs) -> AttentionEncoder:
        items = side.build(rngs)
        return AttentionEncoder(
            environment.num_items,
            side.dim,
            num_experts,
            length,
            num_layers=num_layers,
            num_heads=num_heads,
            init_scale=init_scale,
            dropout=dropout,
            num_tags=side.num_tags,
            dtype=dtype,
            rngs=rngs,
            items=items,
        )

    return encoder_of_histories(build, length, side.reads_features)
