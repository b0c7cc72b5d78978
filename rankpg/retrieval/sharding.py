"""Sharding of the arrays of a run: on one device, or spread over a mesh of devices.

On a mesh, the item table, its gradient and its moments are sharded by rows; everything else is replicated.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rankpg.errors import ConfigError
from rankpg.retrieval.layout import Layout, Shard, layout_for
from rankpg.types import Array, Float

__all__ = ["BATCH", "ITEMS", "MeshSharding", "OneDevice", "Sharding", "shard_of", "shard_over"]

BATCH, ITEMS = "batch", "items"
"""The mesh axes: contexts lie along the first, items along the second."""

_NUMBERS_AT_A_TIME = 2**24
"""Approximate number of values that travel together from the devices of other hosts."""

Tree = TypeVar("Tree")
"""Any pytree of arrays."""

Path = tuple[object, ...]
"""Keys on the way to a leaf, as `tree_map_with_path` gives them."""


@runtime_checkable
class Sharding(Protocol):
    """Moves arrays between the host and the devices of a run, and keeps them where they belong."""

    def rows_per_device(self, num_items: int) -> int:
        """Rows of the item table on each device, padding included."""
        ...

    def trim(self, logits: Float[Array, "B M n"]) -> Float[Array, "B M N"]:
        """Removes the padding of a sharded catalogue."""
        ...

    def constrain(self, state: Tree) -> Tree:
        """Inside jit: a training state, padded, every leaf where it belongs."""
        ...

    def replicated(self, tree: Tree) -> Tree:
        """Inside jit: a copy of every leaf on every device."""
        ...

    def replicate(self, tree: Tree) -> Tree:
        """Outside jit: arrays that are the same in every process, as arrays of the mesh."""
        ...

    def put(self, state: Tree) -> Tree:
        """Moves a training state of N items from this host's memory to the devices."""
        ...

    def gather(self, state: Tree) -> Tree:
        """Copies a training state of N items into this host's memory; every process must call it."""
        ...

    def gathered_shapes(self, state: Tree) -> Tree:
        """The shapes of what `gather` returns."""
        ...

    def device_shapes(self, state: Tree) -> Tree:
        """The shapes of what one device holds of a training state."""
        ...


@dataclass(frozen=True)
class OneDevice:
    """The sharding of a run on one device: nothing is padded, copied or moved."""

    def rows_per_device(self, num_items: int) -> int:
        return num_items

    def trim(self, logits: Float[Array, "B M n"]) -> Float[Array, "B M N"]:
        return logits

    def constrain(self, state: Tree) -> Tree:
        return state

    def replicated(self, tree: Tree) -> Tree:
        return tree

    def replicate(self, tree: Tree) -> Tree:
        return tree

    def put(self, state: Tree) -> Tree:
        return jax.tree.map(jnp.asarray, state)

    def gather(self, state: Tree) -> Tree:
        return jax.device_get(state)

    def gathered_shapes(self, state: Tree) -> Tree:
        return jax.eval_shape(lambda: state)

    def device_shapes(self, state: Tree) -> Tree:
        return state


def shard_of(
    mesh: Mesh, num_items: int, num_candidates: int, layout: Layout | None = None
) -> Shard:
    """The part of a catalogue that one device of a mesh holds.

    >>> mesh = jax.make_mesh((1, 1), (BATCH, ITEMS))
    >>> shard_of(mesh, 10**6, 100).rows
    1000000
    """
    depth = min(num_items, num_candidates + 1)
    return Shard(layout or layout_for(num_items, depth), mesh.shape[ITEMS], ITEMS)


def shard_over(mesh: tuple[int, ...] | None, num_items: int, num_candidates: int) -> MeshSharding:
    """Spreads a catalogue over BATCH x ITEMS devices.

    Args:
      mesh: the two sizes; None puts all devices along the items.
      num_items: N.
      num_candidates: K.

    Raises:
      ConfigError: there are too few devices, or a process would have none of them.

    >>> dict(shard_over((1, 1), 1000, 10).mesh.shape)
    {'batch': 1, 'items': 1}
    """
    devices = np.asarray(jax.devices())
    shape = mesh or (1, len(devices))
    wanted = int(np.prod(shape))
    if wanted > len(devices) or (jax.process_count() > 1 and wanted < len(devices)):
        raise ConfigError(
            f"mesh={tuple(shape)} is {wanted} devices, and JAX sees {len(devices)}"
            + (" in several processes, all of which take part" if wanted < len(devices) else "")
        )
    grid = Mesh(devices[:wanted].reshape(shape), (BATCH, ITEMS))
    return MeshSharding(grid, shard_of(grid, num_items, num_candidates))


@dataclass(frozen=True)
class MeshSharding:
    """The sharding of a run on a mesh: each device holds one shard of the item table."""

    mesh: Mesh
    shard: Shard

    @property
    def num_items(self) -> int:
        """N, without padding."""
        return self.shard.whole.num_items

    @property
    def rows(self) -> int:
        """Rows of the item table on all devices together, padding included."""
        return self.shard.rows * self.shard.devices

    @property
    def everywhere(self) -> NamedSharding:
        """The sharding of a replicated array."""
        return NamedSharding(self.mesh, PartitionSpec())

    def rows_per_device(self, num_items: int) -> int:
        del num_items
        return self.shard.rows

    def is_item_table(self, path: Path, shape: tuple[int, ...]) -> bool:
        """True for a leaf [..., N, D] of a training state: an item tower's table, or a moment of it."""
        names = {getattr(key, "key", getattr(key, "name", None)) for key in path}
        sizes = self.num_items, self.rows
        return {"items", "table"} <= names and len(shape) > 2 and shape[-2] in sizes

    def sharding(self, path: Path, shape: tuple[int, ...]) -> NamedSharding:
        """The sharding of a leaf of a training state."""
        if not self.is_item_table(path, shape):
            return self.everywhere
        leading = [None] * (len(shape) - 2)
        return NamedSharding(self.mesh, PartitionSpec(*leading, ITEMS, None))

    def trim(self, logits: Float[Array, "B M n"]) -> Float[Array, "B M N"]:
        return logits[..., : self.num_items]

    def constrain(self, state: Tree) -> Tree:
        def one(path: Path, x: jax.Array) -> jax.Array:
            if self.is_item_table(path, x.shape):
                missing = self.rows - x.shape[-2]
                x = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, missing), (0, 0)])
            return lax.with_sharding_constraint(x, self.sharding(path, x.shape))

        return jax.tree_util.tree_map_with_path(one, state)

    def replicated(self, tree: Tree) -> Tree:
        return jax.tree.map(partial(lax.with_sharding_constraint, shardings=self.everywhere), tree)

    def replicate(self, tree: Tree) -> Tree:
        def one(x):
            if jnp.issubdtype(getattr(x, "dtype", np.float32), jax.dtypes.prng_key):
                data = one(jax.random.key_data(x))
                return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
            values = np.asarray(x)
            return jax.make_array_from_callback(values.shape, self.everywhere, lambda i: values[i])

        return jax.tree.map(one, tree)

    def put(self, state: Tree) -> Tree:
        def one(path: Path, x: np.ndarray | jax.Array) -> jax.Array:
            values, shape = np.asarray(x), x.shape
            if self.is_item_table(path, shape):
                shape = (*shape[:-2], self.rows, shape[-1])

            def rows(index):
                found = values[index]  # a slice ends where the array does
                lengths = (len(range(*i.indices(n))) for i, n in zip(index, shape, strict=True))
                missing = [(0, n - have) for n, have in zip(lengths, found.shape, strict=True)]
                return np.pad(found, missing)

            return jax.make_array_from_callback(shape, self.sharding(path, shape), rows)

        return jax.tree_util.tree_map_with_path(one, state)

    def gather(self, state: Tree) -> Tree:
        def one(path: Path, x: jax.Array) -> np.ndarray:
            values = self._fetch(x)
            return values[..., : self.num_items, :] if self.is_item_table(path, x.shape) else values

        return jax.tree_util.tree_map_with_path(one, state)

    def gathered_shapes(self, state: Tree) -> Tree:
        return self._shapes(state, self.num_items)

    def device_shapes(self, state: Tree) -> Tree:
        return self._shapes(state, self.shard.rows)

    def _shapes(self, state: Tree, rows: int) -> Tree:
        """Shapes of a training state whose item tables have `rows` rows."""

        def one(
            path: Path, x: jax.Array | np.ndarray | jax.ShapeDtypeStruct
        ) -> jax.ShapeDtypeStruct:
            shape = x.shape
            if self.is_item_table(path, shape):
                shape = (*shape[:-2], rows, shape[-1])
            return jax.ShapeDtypeStruct(shape, x.dtype)

        return jax.tree_util.tree_map_with_path(one, state)

    def _fetch(self, x: jax.Array) -> np.ndarray:
        if x.is_fully_addressable or x.is_fully_replicated:
            return np.asarray(jax.device_get(x))
        # Rows of other hosts: some at a time, so that no device ever holds them all.
        axis, count = x.ndim - 2, x.shape[-2]
        size = max(1, min(count, _NUMBERS_AT_A_TIME * count // x.size))
        rows_from = jax.jit(
            lambda x, start: lax.dynamic_slice_in_dim(x, start, size, axis),
            out_shardings=self.everywhere,
        )
        values = np.empty(x.shape, x.dtype)
        for start in [*range(0, count - size, size), count - size]:
            values[..., start : start + size, :] = jax.device_get(rows_from(x, np.int32(start)))
        return values
