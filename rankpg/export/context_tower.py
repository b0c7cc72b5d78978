"""The context tower as a program of jax.export, with the parameters that it reads.

The traced program shows which parameters the embeddings of contexts depend on, so this works for every
encoder that returns embeddings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export
from jax import lax

from rankpg.environments.with_list_reward import items_alone
from rankpg.errors import ConfigError
from rankpg.policy import Policy
from rankpg.types import Array, Environment, Float, Int, Params

__all__ = [
    "LARGEST_BATCH",
    "PLATFORMS",
    "ContextTower",
    "context_tower",
    "widen",
]

PLATFORMS = ("cpu", "cuda", "tpu")

LARGEST_BATCH = 8192
"""Contexts per call. Above it a tower over features works in blocks, which need a static size."""

Leaf: TypeAlias = Array | np.ndarray
Tree: TypeAlias = tuple[Params, Environment]
Inputs: TypeAlias = Int[Array, "B"] | Float[Array, "B F"]


class ContextTower(NamedTuple):
    """Program `call(parameters, inputs) -> float32[B, M, D]` for any B, divided by the temperature."""

    program: jax_export.Exported
    parameters: dict[str, np.ndarray]
    """float32 arrays; the program rounds them back to the dtype of training, without loss"""
    width: int | None
    """F, if the inputs are features float32[B, F]; None if they are rows int32[B]"""

    def runs_here(self) -> bool:
        """Returns True if the program was lowered for the default backend of this process."""
        backend = jax.default_backend()
        return ("cuda" if backend == "gpu" else backend) in self.program.platforms

    def serialize(self) -> bytes:
        """Returns the bytes that `jax.export.deserialize` reads.

        Raises:
          ImportError: flatbuffers is missing; the message names the extra.
        """
        try:
            return bytes(self.program.serialize())
        except ImportError as error:
            raise ImportError(f"{error}: pip install 'rankpg[export]'") from error


def context_tower(
    policy: Policy,
    params: Params,
    environment: Environment,
    platforms: Sequence[str] = PLATFORMS,
) -> ContextTower:
    """Traces e(x) / temperature and lowers it for every platform.

    Args:
      policy: its encoder returns embeddings.
      params: encoder parameters of one seed.
      environment: has `context_features` [contexts, F] if the tower reads features.
      platforms: any of cpu, cuda, tpu.

    Raises:
      ConfigError: an unknown platform, or one that the encoder cannot be lowered for.
    """
    unknown = [name for name in platforms if name not in PLATFORMS]
    if unknown or not platforms:
        raise ConfigError(
            f"platforms={tuple(platforms)}; expected one or more of {', '.join(PLATFORMS)}"
        )
    environment = items_alone(
        environment.whole
    )  # contexts are the same in it, with all of its items
    tree = params, environment
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    used = _used(policy, tree)
    fields = dataclasses.is_dataclass(environment)
    features = environment.context_features if fields else None
    place = [number for number, (_, leaf) in enumerate(leaves) if leaf is features]
    reads = features is not None and used.issuperset(place)
    kept = {_name(path): leaf for i, (path, leaf) in enumerate(leaves) if i in used - {*place}}
    width = int(features.shape[1]) if features is not None and reads else None
    function = _function(policy, tree, kept, width is not None)
    given = {name: _widened(leaf) for name, leaf in kept.items()}
    (batch,) = jax_export.symbolic_shape("b", constraints=[f"b <= {LARGEST_BATCH}"])
    inputs = (
        jax.ShapeDtypeStruct((batch,), jnp.int32)
        if width is None
        else jax.ShapeDtypeStruct((batch, width), jnp.float32)
    )
    try:
        program = jax_export.export(jax.jit(function), platforms=list(platforms))(given, inputs)
    except Exception as error:
        raise ConfigError(
            f"the context tower cannot be exported for {', '.join(platforms)}: {error}. Pass fewer "
            "platforms=, or use an encoder that accepts any number of contexts"
        ) from error
    return ContextTower(program, given, width)


def _function(
    policy: Policy, tree: Tree, kept: dict[str, Leaf], reads: bool
) -> Callable[[dict[str, Array], Inputs], Float[Array, "B M D"]]:
    """Returns `call(parameters, inputs)`: the encoder in an environment whose contexts are the batch."""
    paths, structure = jax.tree_util.tree_flatten_with_path(tree)
    dtypes = {name: leaf.dtype for name, leaf in kept.items()}
    shapes = [(_name(path), jax.ShapeDtypeStruct(x.shape, x.dtype)) for path, x in paths]

    def call(parameters: dict[str, Array], inputs: Inputs) -> Float[Array, "B M D"]:
        # Leaves that the tower does not read are dead code, which the compiler removes.
        params, world = jax.tree.unflatten(
            structure,
            [
                parameters[name].astype(dtypes[name])
                if name in dtypes
                else jnp.zeros(shape.shape, shape.dtype)
                for name, shape in shapes
            ],
        )
        rows = inputs
        if reads:
            features = inputs.astype(world.context_features.dtype)
            world = dataclasses.replace(world, context_features=features)
            rows = jnp.arange(inputs.shape[0], dtype=jnp.int32)
        return _scaled(policy, params, world, rows)

    return call


def _scaled(
    policy: Policy, params: Params, environment: Environment, rows: Int[Array, "B"]
) -> Float[Array, "B M D"]:
    """Returns context embeddings in float32, divided by the temperature."""
    return widen(policy.embeddings(params, environment, rows).contexts)


def widen(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Converts to float32 after an explicit rounding to the dtype of x.

    XLA may drop a rounding to fewer bits that is followed by a conversion to more; `reduce_precision` stays.
    """
    few = jnp.finfo(x.dtype)
    return lax.reduce_precision(x.astype(jnp.float32), min(few.nexp, 8), min(few.nmant, 23))


def _used(policy: Policy, tree: Tree) -> set[int]:
    """Returns the numbers of the leaves of (params, environment) that context embeddings depend on."""

    def call(
        params: Params, environment: Environment, rows: Int[Array, "B"]
    ) -> Float[Array, "B M D"]:
        return _scaled(policy, params, environment, rows)

    rows = jax.ShapeDtypeStruct((1,), jnp.int32)
    traced = jax_export.export(jax.jit(call))(*jax.eval_shape(lambda: tree), rows)
    return set(traced.module_kept_var_idx) - {len(jax.tree.leaves(tree))}


def _name(path: tuple[Any, ...]) -> str:
    """Returns the name of a leaf, such as params.contexts.table."""
    side = ("params", "environment")[path[0].idx]
    name = jax.tree_util.keystr(path[1:], simple=True, separator=".")
    return f"{side}.{name.removesuffix('.value')}"


def _widened(leaf: Leaf) -> np.ndarray:
    """Returns a leaf in host memory, floats as float32."""
    array = np.asarray(leaf)
    return array.astype(np.float32) if jnp.issubdtype(array.dtype, jnp.floating) else array
