"""Towers: from ids or features to embeddings, one table or one perceptron an expert."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx

from rankpg.core.numerics import accumulation_dtype, scan_rows
from rankpg.errors import ConfigError
from rankpg.types import Array, Embeddings, Environment, Float, Int, Params, PRNGKey

__all__ = [
    "AdapterTower",
    "Encoder",
    "FeatureTower",
    "GivenTower",
    "IdTower",
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


class Encoder(NamedTuple):
    """Parameters from a key, and embeddings [B, M, D], [M, N, D] or logits [B, M, N] from contexts."""

    init: Callable[[PRNGKey], Params]
    apply: Callable[..., Embeddings | Float[Array, "B M N"]]
    """An `Apply`, with a third argument where it reads something."""
    reads: Callable[[Any], Any] | None = None
    """What `apply` takes of the environment as a third argument, if anything. Large arrays belong there: what
    a function closes over is a constant of the compiled program, and the environment an argument."""

    def encode(
        self, params: Params, environment: Any, contexts: Int[Array, "B"]
    ) -> Embeddings | Float[Array, "B M N"]:
        """`apply`, with what it reads."""
        if self.reads is None:
            return self.apply(params, contexts)
        return self.apply(params, contexts, self.reads(environment))


_KEEP_WIDTH = ("adapter", "given")
"""Towers over features whose embeddings are as wide as these."""
_FEATURE_FILES = {"context": "queries.npy", "item": "corpus.npy"}
Tower: TypeAlias = IdTower | FeatureTower | AdapterTower | GivenTower


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
        """Embeddings of a batch of contexts and of the whole catalogue; features for the towers over them."""
        rows = contexts if context_features is None else context_features[contexts]
        items = () if item_features is None else (item_features,)
        return Embeddings(
            contexts=jnp.swapaxes(self.contexts(rows), 0, 1), items=self.items(*items)
        )


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
    dtype: Any = jnp.float32,
) -> Encoder:
    """Two towers: a table of ids on a side without features, a perceptron on a side with them.

    Args:
      num_contexts: rows of the context table.
      num_items: N.
      dim: D.
      num_experts: M; each expert has towers of its own.
      init_scale: standard deviation of the embeddings at the start. Logits start with sqrt(D) times its
        square; a wide start is a policy that is already peaked on random items.
      context_features: [contexts, F]; None for a table.
      item_features: [N, G]; None for a table.
      hidden: widths of the perceptrons' hidden layers.
      dtype: of the parameters.

    >>> encoder = two_tower(num_contexts=4, num_items=6, dim=2, num_experts=3)
    >>> params = encoder.init(jax.random.key(0))
    >>> to_logits(encoder.apply(params, jnp.array([0, 1]))).shape
    (2, 3, 6)
    """
    _check_rows("context_features", context_features, num_contexts)
    _check_rows("item_features", item_features, num_items)
    sides = [
        ("ids" if given is None else "features", rows, given)
        for rows, given in ((num_contexts, context_features), (num_items, item_features))
    ]
    init, apply, _ = _towers(sides, dim, num_experts, init_scale, hidden, dtype)
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
    dtype: Any = jnp.float32,
) -> Encoder:
    """Two towers whose features stay where they are, in the environment, whatever their size.

    Args:
      environment: has `context_features` [contexts, F] or `item_features` [N, G] where a tower asks for them.
      dim, num_experts, init_scale, hidden, dtype: as for `two_tower`; beside an adapter or given embeddings D
        is their width.
      context_tower, item_tower: "ids" for a table, "features" for a perceptron, "adapter" for the features
        themselves and a change that starts at 0, "given" for the features as they are. With an adapter on one
        side, and one or the given features on the other, logits start as the inner products of the features.

    Raises:
      ConfigError: the environment has no such features, those of two sides that keep their width have
        different ones, or nothing is left to learn.

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

    def read(world):
        return [
            None if tower == "ids" else getattr(world, f"{side}_features")
            for side, tower in towers.items()
        ]

    for side, tower in towers.items():
        if tower != "ids" and getattr(environment, f"{side}_features") is None:
            raise ConfigError(
                f"--{side}-tower is {tower}, but the environment {type(environment).__name__} has no "
                f"{side} features (of a text folder: {_FEATURE_FILES[side]}); give it some, or choose "
                f"--{side}-tower ids"
            )
    given = read(environment)
    counts = environment.num_contexts, environment.num_items
    dim = _width(list(zip(towers.values(), given, strict=True)), dim)
    init, apply, _ = _towers(
        list(zip(towers.values(), counts, given, strict=True)),
        dim, num_experts, init_scale, hidden, dtype,
    )  # fmt: skip
    return Encoder(init, lambda params, contexts, read: apply(params, contexts, *read), read)


def _width(sides: Sequence[tuple[str, Any]], dim: int) -> int:
    """D: the features' width where a tower keeps it; else as asked for."""
    widths = [given.shape[1] for tower, given in sides if tower in _KEEP_WIDTH]
    if len(set(widths)) == 2:
        raise ConfigError(
            f"context features have width {widths[0]} and item features {widths[1]}, so towers that keep "
            "them have no inner product; bring both to one width, or choose features for one tower"
        )
    if all(tower == "given" for tower, _ in sides):
        raise ConfigError(
            "--context-tower and --item-tower are both given, so there is nothing to learn; choose adapter "
            "for one of them"
        )
    return widths[0] if widths else dim


def _towers(
    sides: Sequence[tuple[str, int, Any]], dim: int, num_experts: int, init_scale: float,
    hidden: tuple[int, ...], dtype: Any,
) -> Encoder:  # fmt: skip
    """Context and item tower from (kind, rows, features or None) each; `apply` takes the features as well."""
    widths = [
        (kind, rows, None if given is None else given.shape[1]) for kind, rows, given in sides
    ]

    def tower(kind, rows, width, rngs):
        if kind == "ids":
            return IdTower(rows, dim, num_experts, init_scale, dtype, rngs=rngs)
        if kind == "given":
            return GivenTower(num_experts, dtype)
        if kind == "adapter":
            return AdapterTower(width, num_experts, hidden, dtype, rngs=rngs)
        return FeatureTower(width, dim, num_experts, hidden, init_scale, dtype, rngs=rngs)

    return from_nnx(lambda rngs: TwoTower(*(tower(*side, rngs) for side in widths)))


def from_nnx(make_module: Callable[[nnx.Rngs], nnx.Module]) -> Encoder:
    """An encoder from a function that builds an nnx module; the module is called with a batch of contexts.

    `nnx.Param` is trained; every other variable stays as it was built, and is a constant of the compiled
    program: keep what is large in the environment (`Encoder.reads`).
    """

    def parts(key):
        return nnx.split(make_module(nnx.Rngs(params=key)), nnx.Param, ...)

    graphdef = nnx.eval_shape(lambda: parts(jax.random.key(0)))[0]
    fixed = jax.jit(lambda: parts(jax.random.key(0))[2])()

    def apply(params, *inputs):
        return nnx.merge(graphdef, params, fixed)(*inputs)

    return Encoder(init=lambda key: parts(key)[1], apply=apply)


def from_linen(module: Any) -> Encoder:
    """An encoder from a Linen module that is called with a batch of contexts."""
    return Encoder(init=lambda key: module.init(key, jnp.zeros(1, jnp.int32)), apply=module.apply)


def to_logits(
    output: Embeddings | Float[Array, "B M N"], temperature: float = 1.0
) -> Float[Array, "B M N"]:
    """f_m(a): inner products of the embeddings (or the logits as they are), divided by the temperature."""
    if isinstance(output, Embeddings):
        contexts = jnp.swapaxes(output.contexts, 0, 1) / temperature
        # Not einsum: it may put the items first, and everything that follows would read across rows.
        inner = jax.lax.dot_general(
            contexts, output.items, (((2,), (2,)), ((0,), (0,))),
            preferred_element_type=accumulation_dtype(contexts.dtype),
        )  # fmt: skip  # [M, B, N]
        return jnp.swapaxes(inner, 0, 1)
    return output / temperature


def _check_rows(name: str, features, count: int) -> None:
    if features is not None and (jnp.ndim(features) != 2 or features.shape[0] != count):
        raise ValueError(
            f"{name} has shape {jnp.shape(features)}; expected [{count}, F], one row an id"
        )
