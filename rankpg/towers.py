"""Towers: from ids or features to embeddings, one table or one perceptron an expert."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rankpg.blocks import scan_rows
from rankpg.types import Array, Float, Int

__all__ = ["AdapterTower", "FeatureTower", "GivenTower", "IdTower", "by_rows"]

_ROWS = 8192
"""Rows of features that a tower embeds at a time."""


class IdTower(nnx.Module):
    """A table of embeddings, one row an id and one table an expert; entries start Normal(0, init_scale^2)."""

    def __init__(
        self,
        num_ids: int,
        dim: int,
        num_experts: int,
        init_scale: float,
        dtype: Any = jnp.float32,
        *,
        rngs: nnx.Rngs,
    ):
        table = init_scale * jax.random.normal(rngs.params(), (num_experts, num_ids, dim))
        self.table = nnx.Param(table.astype(dtype))

    def __call__(self, ids: Int[Array, "n"] | None = None) -> Float[Array, "M n D"]:
        """Embeddings of the given ids; of all, where None."""
        table = self.table[...]
        return table if ids is None else table[:, ids]


class FeatureTower(nnx.Module):
    """A multi-layer perceptron over features, one an expert: it also embeds rows it never trained on.

    The last layer is scaled so that outputs start with standard deviation near `init_scale` for features
    of unit length.
    """

    def __init__(
        self,
        num_features: int,
        dim: int,
        num_experts: int,
        hidden: tuple[int, ...],
        init_scale: float,
        dtype: Any = jnp.float32,
        *,
        rngs: nnx.Rngs,
    ):
        widths = (num_features, *hidden, dim)
        self.num_layers = len(widths) - 1
        for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
            last = layer == self.num_layers - 1
            gain = init_scale if last else 1.0
            # Layers keep the length of unit features near sqrt(width), the first one's input apart.
            std = gain * (1.0 if layer == 0 else (2.0 / fan_in) ** 0.5)
            kernel = std * jax.random.normal(rngs.params(), (num_experts, fan_in, fan_out))
            setattr(self, f"kernel_{layer}", nnx.Param(kernel.astype(dtype)))
            setattr(self, f"bias_{layer}", nnx.Param(jnp.zeros((num_experts, 1, fan_out), dtype)))

    def __call__(self, features: Float[Array, "n F"]) -> Float[Array, "M n D"]:
        """Embeddings of the rows of features."""
        layers = [
            (getattr(self, f"kernel_{layer}")[...], getattr(self, f"bias_{layer}")[...])
            for layer in range(self.num_layers)
        ]
        return by_rows(partial(_perceptron, layers), features)


class AdapterTower(nnx.Module):
    """Given embeddings and a learned change, e(x) = x + g(x); the last layer of the perceptron g starts at 0.

    So it starts as the given embeddings, exactly, and learns from there (a residual adapter: Houlsby et al.
    2019; of embeddings for retrieval: Yoon et al. 2024, Search-Adaptor). Weight decay pulls it back to them.
    Experts start alike in what they answer.
    """

    def __init__(
        self,
        num_features: int,
        num_experts: int,
        hidden: tuple[int, ...],
        dtype: Any = jnp.float32,
        *,
        rngs: nnx.Rngs,
    ):
        self.change = FeatureTower(
            num_features, num_features, num_experts, hidden, 0.0, dtype, rngs=rngs
        )

    def __call__(self, features: Float[Array, "n D"]) -> Float[Array, "M n D"]:
        """Embeddings of the rows of features."""
        change = self.change(features)
        return jnp.broadcast_to(features.astype(change.dtype)[None], change.shape) + change


class GivenTower(nnx.Module):
    """Given embeddings as they are, the same for every expert: nothing is learned."""

    def __init__(self, num_experts: int, dtype: Any = jnp.float32):
        self.num_experts, self.dtype = num_experts, dtype

    def __call__(self, features: Float[Array, "n D"]) -> Float[Array, "M n D"]:
        """The rows of features."""
        rows = features.astype(self.dtype)
        return jnp.broadcast_to(rows[None], (self.num_experts, *rows.shape))


def _perceptron(layers: Any, features: Float[Array, "n F"]) -> Float[Array, "M n D"]:
    """Affine maps [(kernel [M, in, out], bias [M, 1, out]), ...] with relu between them, one an expert."""
    first = layers[0][0]
    x = features.astype(first.dtype)
    x = jnp.broadcast_to(x[None], (first.shape[0], *x.shape))
    for number, (kernel, bias) in enumerate(layers):
        x = jax.nn.relu(x) if number else x
        x = jnp.matmul(x, kernel)
        x = x + jnp.broadcast_to(bias, x.shape)
    return x


def by_rows(
    function: Callable[[Float[Array, "rows F"]], Float[Array, "M rows D"]],
    features: Float[Array, "n F"],
    rows: int = _ROWS,
) -> Float[Array, "M n D"]:
    """A function that treats every row alike, of some rows at a time.

    Nothing between features and answers is kept for the gradient: it is computed again, block by block. So
    a tower over a large catalogue takes the memory of its answers alone.

    Args:
      function: of some rows.
      features: all rows.
      rows: how many at a time; fewer rows than twice that go all at once.
    """
    if features.shape[0] < 2 * rows:
        return function(features)
    again = jax.checkpoint(function)
    return scan_rows(lambda _, start, some: (None, again(some[0])), None, features[None], rows)[1]
