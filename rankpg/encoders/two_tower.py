"""Two-tower encoders, and encoders from a Linen or nnx module."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from jax.typing import DTypeLike

from rankpg.core.numerics import accumulation_dtype, scan_rows
from rankpg.errors import ConfigError
from rankpg.types import Array, Embeddings, Environment, Float, Int, Params, PRNGKey

__all__ = [
    "TOWERS",
    "AdapterTower",
    "Encoder",
    "FeatureTower",
    "GivenTower",
    "IdTower",
    "TowerKind",
    "TowerSettings",
    "TwoTower",
    "by_rows",
    "from_linen",
    "from_nnx",
    "to_logits",
    "towers_of",
    "two_tower",
]

_ROWS = 8192
"""Rows of features that a tower embeds at a time."""


class IdTower(nnx.Module):
    """A table of embeddings for each expert, one row for each id, initialised Normal(0, init_scale^2)."""

    def __init__(
        self,
        num_ids: int,
        dim: int,
        num_experts: int,
        init_scale: float,
        dtype: DTypeLike = jnp.float32,
        *,
        rngs: nnx.Rngs,
    ):
        table = init_scale * jax.random.normal(rngs.params(), (num_experts, num_ids, dim))
        self.table = nnx.Param(table.astype(dtype))

    def __call__(self, ids: Int[Array, "n"] | None = None) -> Float[Array, "M n D"]:
        """Embeddings of the given ids; of all ids if None."""
        table = self.table[...]
        return table if ids is None else table[:, ids]


class FeatureTower(nnx.Module):
    """A multi-layer perceptron over features for each expert: it also embeds rows that training never saw.

    The last layer is scaled so that outputs are initialised with standard deviation near `init_scale` for
    features of unit length.
    """

    def __init__(
        self,
        num_features: int,
        dim: int,
        num_experts: int,
        hidden: tuple[int, ...],
        init_scale: float,
        dtype: DTypeLike = jnp.float32,
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
    """A residual adapter on given embeddings, e(x) = x + g(x), whose perceptron g is 0 at first.

    Training starts at the given embeddings exactly (Houlsby et al. 2019; for retrieval: Yoon et al. 2024,
    Search-Adaptor). Weight decay pulls back to them. All experts start with the same output.
    """

    def __init__(
        self,
        num_features: int,
        num_experts: int,
        hidden: tuple[int, ...],
        dtype: DTypeLike = jnp.float32,
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
    """Given embeddings, the same for every expert, without any parameters."""

    def __init__(self, num_experts: int, dtype: DTypeLike = jnp.float32):
        self.num_experts, self.dtype = num_experts, dtype

    def __call__(self, features: Float[Array, "n D"]) -> Float[Array, "M n D"]:
        """Returns the features, broadcast to every expert."""
        rows = features.astype(self.dtype)
        return jnp.broadcast_to(rows[None], (self.num_experts, *rows.shape))


def _perceptron(
    layers: Sequence[tuple[Float[Array, "M _ _"], Float[Array, "M 1 _"]]],
    features: Float[Array, "n F"],
) -> Float[Array, "M n D"]:
    """Affine maps (kernel, bias) with relu between them, one perceptron for each expert."""
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
    """Applies a row-wise function to some rows at a time.

    Nothing between features and outputs is kept for the gradient: it is computed again, block by block. So
    a tower over a large catalogue needs the memory of its outputs alone.

    Args:
      function: maps rows of features to embeddings.
      features: all rows.
      rows: number of rows at a time; fewer than twice as many are mapped at once.
    """
    if features.shape[0] < 2 * rows:
        return function(features)
    again = jax.checkpoint(function)
    return scan_rows(lambda _, start, some: (None, again(some[0])), None, features[None], rows)[1]


class Encoder(NamedTuple):
    """A pair of pure functions: parameters from a key; embeddings, or logits[B, M, N], from contexts."""

    init: Callable[[PRNGKey], Params]
    apply: Callable[..., Embeddings | Float[Array, "B M N"]]
    """`apply(params, contexts)`; with `reads`, `apply(params, contexts, reads(environment))`."""
    reads: Callable[[Environment], Any] | None = None
    """Selects arrays of the environment, such as features, for `apply`. Large arrays belong there: an array
    in the closure of a function is a constant of the compiled program, and the environment is an argument."""
    apply_with_noise: Callable[..., Embeddings | Float[Array, "B M N"]] | None = None
    """`apply` with dropout, and a key for it after the parameters; objectives on known feedback use it."""

    def encode(
        self,
        params: Params,
        environment: Environment,
        contexts: Int[Array, "B"],
        noise: PRNGKey | None = None,
    ) -> Embeddings | Float[Array, "B M N"]:
        """Encodes a batch of contexts, and the whole catalogue; with dropout if there is a key for it."""
        read = () if self.reads is None else (self.reads(environment),)
        if noise is None or self.apply_with_noise is None:
            return self.apply(params, contexts, *read)
        return self.apply_with_noise(params, noise, contexts, *read)


_FEATURE_FILES = {"context": "queries.npy", "item": "corpus.npy"}
Tower: TypeAlias = Callable[..., Array]
"""An nnx module: ids or features of n rows -> embeddings [M, n, D]; without an argument, of all ids."""


class TwoTower(nnx.Module):
    """A context tower and an item tower; the logit f_m(a) is their inner product for expert m."""

    def __init__(self, contexts: Tower, items: Tower):
        self.contexts = contexts
        self.items = items

    def __call__(
        self,
        contexts: Int[Array, "B"],
        context_features: Float[Array, "contexts F"] | None = None,
        item_features: Float[Array, "N G"] | None = None,
    ) -> Embeddings:
        """Embeddings of a batch of contexts and of the whole catalogue."""
        rows = contexts if context_features is None else context_features[contexts]
        items = () if item_features is None else (item_features,)
        return Embeddings(
            contexts=jnp.swapaxes(self.contexts(rows), 0, 1), items=self.items(*items)
        )


class TowerSettings(NamedTuple):
    """Sizes from which the towers of the table are built."""

    num_ids: int
    """Rows of the side."""
    num_features: int
    """F; 0 for a tower that reads no features."""
    dim: int
    """D"""
    num_experts: int
    """M"""
    init_scale: float
    hidden: tuple[int, ...]
    dtype: DTypeLike


class TowerKind(NamedTuple):
    """A kind of tower: how it is built, and what it needs."""

    build: Callable[[TowerSettings, nnx.Rngs], Tower]
    reads_features: bool = True
    keeps_width: bool = False
    """D is the width of the features."""
    learns: bool = True
    reads_histories: bool = False
    """A context is the sequence of a user's items: `encoders.history_of` builds both sides, which share the
    table of items, and `build` is not called."""


def _of_both_sides(settings: TowerSettings, rngs: nnx.Rngs) -> Tower:
    raise ConfigError(
        "a history tower shares its table with the items; build both by encoders.history_of, or give "
        "context_tower='history' and item_tower='ids'"
    )


TOWERS: dict[str, TowerKind] = {
    "ids": TowerKind(
        lambda s, rngs: IdTower(s.num_ids, s.dim, s.num_experts, s.init_scale, s.dtype, rngs=rngs),
        reads_features=False,
    ),
    "features": TowerKind(
        lambda s, rngs: FeatureTower(
            s.num_features, s.dim, s.num_experts, s.hidden, s.init_scale, s.dtype, rngs=rngs
        )
    ),
    "adapter": TowerKind(
        lambda s, rngs: AdapterTower(s.num_features, s.num_experts, s.hidden, s.dtype, rngs=rngs),
        keeps_width=True,
    ),
    "given": TowerKind(
        lambda s, rngs: GivenTower(s.num_experts, s.dtype), keeps_width=True, learns=False
    ),
    "history": TowerKind(_of_both_sides, reads_features=False, reads_histories=True),
}
"""name -> kind; the values of the settings `context_tower` and `item_tower`."""


class _Side(NamedTuple):
    """One side of a two-tower encoder."""

    tower: str
    num_ids: int
    features: Float[Array, "n F"] | None

    @property
    def width(self) -> int:
        """F; 0 without features."""
        return 0 if self.features is None else self.features.shape[1]


def two_tower(
    num_contexts: int,
    num_items: int,
    dim: int = 10,
    num_experts: int = 1,
    *,
    init_scale: float = 0.1,
    context_features: Float[Array, "contexts F"] | None = None,
    item_features: Float[Array, "N G"] | None = None,
    hidden: tuple[int, ...] = (64,),
    dtype: DTypeLike = jnp.float32,
) -> Encoder:
    """Builds two towers: a table of ids on a side without features, a perceptron on a side with them.

    Args:
      num_contexts: rows of the context table.
      num_items: N.
      dim: D.
      num_experts: M; each expert has towers of its own.
      init_scale: standard deviation of the embeddings at initialisation. Logits start with sqrt(D) times its
        square; a wide start is a policy that is already peaked on random items.
      context_features: [contexts, F]; None for a table.
      item_features: [N, G]; None for a table.
      hidden: widths of the perceptrons' hidden layers.
      dtype: dtype of the parameters.

    >>> encoder = two_tower(num_contexts=4, num_items=6, dim=2, num_experts=3)
    >>> params = encoder.init(jax.random.key(0))
    >>> to_logits(encoder.apply(params, jnp.array([0, 1]))).shape
    (2, 3, 6)
    """
    _check_rows("context_features", context_features, num_contexts)
    _check_rows("item_features", item_features, num_items)
    sides = [
        _Side("ids" if features is None else "features", rows, features)
        for rows, features in ((num_contexts, context_features), (num_items, item_features))
    ]
    init, apply, *_ = _towers(sides, dim, num_experts, init_scale, hidden, dtype)
    return Encoder(
        init, lambda params, contexts: apply(params, contexts, context_features, item_features)
    )


def towers_of(
    environment: Environment,
    dim: int = 10,
    num_experts: int = 1,
    *,
    init_scale: float = 0.1,
    context_tower: str = "ids",
    item_tower: str = "ids",
    hidden: tuple[int, ...] = (64,),
    dtype: DTypeLike = jnp.float32,
) -> Encoder:
    """Builds two towers that read their features from the environment, so that these may be large.

    With an adapter on one side, and an adapter or the given features on the other, logits start as the inner
    products of the features.

    Args:
      environment: has `context_features` [contexts, F] or `item_features` [N, G] for a tower that reads them.
      dim, num_experts, init_scale, hidden, dtype: as in `two_tower`; beside an adapter or given embeddings, D
        is their width.
      context_tower, item_tower: names of `TOWERS`: "ids" is a table, "features" a perceptron over features,
        "adapter" the features plus a learned change that is 0 at first, "given" the features.

    Raises:
      ConfigError: the environment lacks features, two sides that keep their width have different ones, or
        no tower has parameters.

    >>> from rankpg.environments import generate
    >>> world = generate(jax.random.key(0), num_contexts=4, num_items=6, num_features=3)
    >>> encoder = towers_of(world, dim=2, item_tower="features")
    >>> encoder.encode(encoder.init(jax.random.key(1)), world, jnp.array([0, 1])).items.shape
    (1, 6, 2)
    >>> encoder = towers_of(world, context_tower="adapter", item_tower="adapter")
    >>> embedded = encoder.encode(encoder.init(jax.random.key(1)), world, jnp.array([2]))
    >>> bool(jnp.all(embedded.items[0] == world.item_features))
    True
    """
    towers = {"context": context_tower, "item": item_tower}

    def features_of(environment):
        features = environment.context_features, environment.item_features
        return [
            own if TOWERS[tower].reads_features else None
            for tower, own in zip(towers.values(), features, strict=True)
        ]

    features = features_of(environment)
    for (side, tower), own in zip(towers.items(), features, strict=True):
        if TOWERS[tower].reads_features and own is None:
            raise ConfigError(
                f"{side}_tower={tower!r}, but the environment {type(environment).__name__} has no "
                f"{side}_features (of a text folder: {_FEATURE_FILES[side]}); add them, or give "
                f"{side}_tower='ids'"
            )
    counts = environment.num_users, environment.num_items
    sides = [_Side(*side) for side in zip(towers.values(), counts, features, strict=True)]
    init, apply, *_ = _towers(sides, _width(sides, dim), num_experts, init_scale, hidden, dtype)

    def encode(params, contexts, read):
        users, *features = read
        return apply(params, contexts if users is None else users[contexts], *features)

    return Encoder(init, encode, lambda world: (world.context_users, *features_of(world)))


def _width(sides: Sequence[_Side], dim: int) -> int:
    """D: the width of the features where a tower keeps it, else `dim`."""
    widths = [side.width for side in sides if TOWERS[side.tower].keeps_width]
    if len(set(widths)) == 2:
        raise ConfigError(
            f"context_features have width {widths[0]} and item_features {widths[1]}, so towers that keep "
            "them have no inner product; bring both to one width, or give 'features' for one tower"
        )
    if not any(TOWERS[side.tower].learns for side in sides):
        raise ConfigError(
            "context_tower='given' and item_tower='given' have no trainable parameters; give 'adapter' for "
            "one of them"
        )
    return widths[0] if widths else dim


def _towers(
    sides: Sequence[_Side],
    dim: int,
    num_experts: int,
    init_scale: float,
    hidden: tuple[int, ...],
    dtype: DTypeLike,
) -> Encoder:
    """Context tower and item tower; `apply` takes the features of both sides as well."""
    kinds = [(side.tower, side.num_ids, side.width) for side in sides]

    def build(rngs):
        towers = (
            TOWERS[name].build(
                TowerSettings(rows, width, dim, num_experts, init_scale, hidden, dtype), rngs
            )
            for name, rows, width in kinds
        )
        return TwoTower(*towers)

    return from_nnx(build)


def from_nnx(make_module: Callable[[nnx.Rngs], nnx.Module]) -> Encoder:
    """Makes an encoder from a function that builds an nnx module, which is called with a batch of contexts.

    `nnx.Param` is trained; every other variable stays as it was built, and is a constant of the compiled
    program: keep large arrays in the environment (`Encoder.reads`).
    """

    def parts(key):
        return nnx.split(make_module(nnx.Rngs(params=key)), nnx.Param, ...)

    graphdef = nnx.eval_shape(lambda: parts(jax.random.key(0)))[0]
    fixed = jax.jit(lambda: parts(jax.random.key(0))[2])()

    def apply(params, *inputs):
        return nnx.merge(graphdef, params, fixed)(*inputs)

    return Encoder(init=lambda key: parts(key)[1], apply=apply)


def from_linen(module: nn.Module) -> Encoder:
    """Makes an encoder from a Linen module, which is called with a batch of contexts."""

    def apply(params: Params, contexts: Int[Array, "B"]) -> Embeddings | Float[Array, "B M N"]:
        encoded: Any = module.apply(params, contexts)
        return encoded

    return Encoder(init=lambda key: module.init(key, jnp.zeros(1, jnp.int32)), apply=apply)


def to_logits(
    output: Embeddings | Float[Array, "B M N"], temperature: float = 1.0
) -> Float[Array, "B M N"]:
    """Logits f_m(a): inner products of embeddings, or given logits, divided by the temperature."""
    if isinstance(output, Embeddings):
        contexts = jnp.swapaxes(output.contexts, 0, 1) / temperature
        # Not einsum: it may put the items first, and everything that follows would read across rows.
        inner = jax.lax.dot_general(
            contexts, output.items, (((2,), (2,)), ((0,), (0,))),
            preferred_element_type=accumulation_dtype(contexts.dtype),
        )  # fmt: skip  # [M, B, N]
        return jnp.swapaxes(inner, 0, 1)
    return output / temperature


def _check_rows(name: str, features: Float[Array, "n F"] | None, count: int) -> None:
    if features is not None and (jnp.ndim(features) != 2 or features.shape[0] != count):
        raise ValueError(
            f"{name} has shape {jnp.shape(features)}; expected [{count}, F], one row for each id"
        )
