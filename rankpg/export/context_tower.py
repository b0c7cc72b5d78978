"""The context tower as a program of its own: what of an encoder answers for contexts, and its parameters.

Which parameters these are is read off the traced program, so any encoder that answers embeddings will do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export
from jax import lax

from rankpg.errors import ConfigError
from rankpg.policy import Policy
from rankpg.types import Array, Environment, Float, Params

__all__ = [
    "LARGEST_BATCH",
    "PLATFORMS",
    "ContextTower",
    "context_tower",
    "widen",
]

PLATFORMS = ("cpu", "cuda", "tpu")

LARGEST_BATCH = 8192
"""Contexts of one call. A tower over features goes block by block beyond, which needs a known size."""


class ContextTower(NamedTuple):
    """A program `call(parameters, inputs) -> float32[B, M, D]`, B free, the temperature applied."""

    program: jax_export.Exported
    parameters: dict[str, np.ndarray]
    """float32 also where training kept fewer bits: the program rounds them back, without a loss."""
    width: int | None
    """F, where inputs are features float32[B, F]; None where they are rows int32[B]."""

    def runs_here(self) -> bool:
        """Whether it was lowered for the platform that JAX takes in this process."""
        backend = jax.default_backend()
        return ("cuda" if backend == "gpu" else backend) in self.program.platforms

    def serialize(self) -> bytes:
        """The program as `jax.export.deserialize` reads it."""
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
    """Trace and lower e(x) / temperature for every platform.

    Args:
      policy: whose encoder answers embeddings.
      params: of one seed.
      environment: has `context_features` [contexts, F] where the tower reads them.
      platforms: of cpu, cuda, tpu.

    Raises:
      ConfigError: another platform, or one that the encoder cannot be lowered for.
    """
    unknown = [name for name in platforms if name not in PLATFORMS]
    if unknown or not platforms:
        raise ConfigError(
            f"--platforms is {' '.join(platforms) or 'empty'}; expected some of {', '.join(PLATFORMS)}"
        )
    environment = environment.whole  # with all of its items: contexts are the same in it
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
            f"the context tower cannot be exported for {', '.join(platforms)}: {error}. Fewer --platforms "
            "may help, or an encoder that works for any number of contexts"
        ) from error
    return ContextTower(program, given, width)


def _function(policy: Policy, tree: Any, kept: dict[str, Any], reads: bool) -> Callable:
    """`call(parameters, inputs)`: the encoder in a world whose contexts are the batch."""
    paths, structure = jax.tree_util.tree_flatten_with_path(tree)
    dtypes = {name: leaf.dtype for name, leaf in kept.items()}
    shapes = [(_name(path), jax.ShapeDtypeStruct(x.shape, x.dtype)) for path, x in paths]

    def call(parameters, inputs):
        # What the tower does not read is dead code, and leaves the program.
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


def _scaled(policy: Policy, params: Params, environment: Any, rows: Any) -> Any:
    return widen(policy.embeddings(params, environment, rows).contexts)


def widen(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The same numbers in float32.

    XLA may leave out a rounding to fewer bits that a conversion to more would follow; so it is asked for.
    """
    few = jnp.finfo(x.dtype)
    return lax.reduce_precision(x.astype(jnp.float32), min(few.nexp, 8), min(few.nmant, 23))


def _used(policy: Policy, tree: Any) -> set[int]:
    """Which leaves of (params, environment) the embeddings of contexts depend on."""

    def call(params, environment, rows):
        return _scaled(policy, params, environment, rows)

    rows = jax.ShapeDtypeStruct((1,), jnp.int32)
    traced = jax_export.export(jax.jit(call))(*jax.eval_shape(lambda: tree), rows)
    return set(traced.module_kept_var_idx) - {len(jax.tree.leaves(tree))}


def _name(path: Any) -> str:
    """Such as params.contexts.table"""
    side = ("params", "environment")[path[0].idx]
    name = jax.tree_util.keystr(path[1:], simple=True, separator=".")
    return f"{side}.{name.removesuffix('.value')}"


def _widened(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    return array.astype(np.float32) if jnp.issubdtype(array.dtype, jnp.floating) else array
