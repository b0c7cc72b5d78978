"""Sharded retrieval: every device holds a run of the items and a share of the batch.

What a device does with its items is what the streamed retrieval does with all of them (`find`,
`pull_back`); what travels are the first K + 1 blocks and items of every device, and a few sums. The draw is
the one of the streamed retrieval with the same keys, however many devices there are: the noise is keyed by
the blocks' places in the whole catalogue.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rankpg.core.estimators import Candidates, Statistics
from rankpg.errors import ConfigError
from rankpg.retrieval.layout import Layout, Part, layout_for
from rankpg.retrieval.passes import pull_back, with_gradient
from rankpg.retrieval.streamed import find
from rankpg.types import Array, Embeddings, Environment, Float, Int, Key, Quotas

__all__ = ["BATCH", "ITEMS", "OneDevice", "Placement", "part_of", "place_on", "retrieve_sharded"]

BATCH, ITEMS = "batch", "items"
"""The mesh axes: contexts lie along the first, items along the second."""

_ROWS = PartitionSpec(BATCH)
_TOWERS = Embeddings(contexts=_ROWS, items=PartitionSpec(None, ITEMS))  # pyright: ignore[reportArgumentType]


def part_of(mesh: Mesh, num_items: int, num_candidates: int, layout: Layout | None = None) -> Part:
    """What one device of a mesh holds of a catalogue.

    >>> mesh = jax.make_mesh((1, 1), (BATCH, ITEMS))
    >>> part_of(mesh, 10**6, 100).rows
    1000000
    """
    depth = min(num_items, num_candidates + 1)
    return Part(layout or layout_for(num_items, depth), mesh.shape[ITEMS], ITEMS)


def retrieve_sharded(
    keys: Key[Array, "B"],
    embeddings: Embeddings,
    contexts: Int[Array, "B"],
    environment: Environment,
    quotas: Quotas,
    statistics: Statistics,
    mesh: Mesh,
    part: Part,
) -> Candidates:
    """Draw and describe candidates as `retrieve_streamed` does, on all devices of a mesh.

    Args:
      keys, contexts, quotas, statistics: as `retrieve_streamed`; B is a multiple of the mesh's batch axis.
      embeddings: contexts [B, M, D] and items [M, N, D], or as many items as the devices hold together,
        of which those beyond N are padding.
      environment: every device has a copy.
      mesh: of the axes `BATCH` and `ITEMS`.
      part: `part_of` the mesh.

    Returns:
      Candidates with a leading axis B, spread over the batch axis.

    Raises:
      ValueError: B is not a multiple of the batch axis, or the score lists the whole catalogue.
    """
    if len(contexts) % mesh.shape[BATCH]:
        raise ValueError(
            f"a batch of {len(contexts)} contexts does not divide among {mesh.shape[BATCH]} devices; "
            "expected a multiple"
        )
    missing = part.rows * part.devices - embeddings.items.shape[1]
    padded = Embeddings(
        contexts=embeddings.contexts,
        items=jnp.pad(embeddings.items, ((0, 0), (0, missing), (0, 0))),
    )
    search = _on(
        mesh, partial(find, part, quotas, statistics), (_ROWS, _TOWERS, _ROWS, _COPY), _ROWS
    )
    found, shift = search(keys, lax.stop_gradient(padded), contexts, environment)
    back = partial(_pull_back, mesh, part)
    return with_gradient(back, padded, contexts, environment, found, shift)


_COPY = PartitionSpec()


def _on(mesh: Mesh, function: Any, given: Any, answered: Any) -> Any:
    """The function on every device. The check of what varies over which axis does not know loops' carries."""
    return jax.shard_map(function, mesh=mesh, in_specs=given, out_specs=answered, check_vma=False)


def _pull_back(mesh: Mesh, part: Part, *saved: Any) -> Embeddings:
    """The gradient: every device that of its items, from its contexts; then the sum over all contexts."""

    def here(*saved):
        gradient = pull_back(part, *saved)
        if mesh.shape[BATCH] == 1:
            return gradient
        return Embeddings(contexts=gradient.contexts, items=lax.psum(gradient.items, BATCH))

    given = (_TOWERS, _ROWS, _COPY, _ROWS, _ROWS, _ROWS, _ROWS)
    return _on(mesh, here, given, _TOWERS)(*saved)


_AT_ONCE = 2**24
"""Numbers, about, that travel together from the devices of other hosts."""


def place_on(mesh: tuple[int, ...] | None, num_items: int, num_candidates: int) -> Placement:
    """The placement of a catalogue on BATCH x ITEMS devices; on all of them along the items, if None.

    Raises:
      ConfigError: there are not so many devices, or some process would have none of them.

    >>> dict(place_on((1, 1), 1000, 10).mesh.shape)
    {'batch': 1, 'items': 1}
    """
    devices = np.asarray(jax.devices())
    shape = mesh or (1, len(devices))
    wanted = int(np.prod(shape))
    if wanted > len(devices) or (jax.process_count() > 1 and wanted < len(devices)):
        raise ConfigError(
            f"--mesh {' '.join(map(str, shape))} is {wanted} devices, and JAX sees {len(devices)}"
            + (" in several processes, all of which take part" if wanted < len(devices) else "")
        )
    grid = Mesh(devices[:wanted].reshape(shape), (BATCH, ITEMS))
    return Placement(grid, part_of(grid, num_items, num_candidates))


@dataclass(frozen=True)
class OneDevice:
    """Everything lies on one device, and nothing need be moved: a `Placement` that changes nothing."""

    def trim(self, logits: Float[Array, "B M n"]) -> Float[Array, "B M N"]:
        return logits

    def share(self, batch_size: int, num_items: int, depth: int) -> tuple[int, Layout]:
        return batch_size, layout_for(num_items, depth)

    def on_a_device(self, state: Any) -> Any:
        return state

    def constrain(self, state: Any) -> Any:
        return state

    def copies(self, tree: Any) -> Any:
        return tree

    def copy(self, tree: Any) -> Any:
        return tree

    def place(self, state: Any) -> Any:
        return jax.tree.map(jnp.asarray, state)

    def collect(self, state: Any) -> Any:
        return jax.device_get(state)

    def shapes(self, state: Any) -> Any:
        return jax.eval_shape(lambda: state)


@dataclass(frozen=True)
class Placement:
    """A mesh and a device's part of the catalogue, and with them where every array lies."""

    mesh: Mesh
    part: Part

    @property
    def num_items(self) -> int:
        return self.part.whole.num_items

    @property
    def rows(self) -> int:
        """Of an item table, padding included."""
        return self.part.rows * self.part.devices

    @property
    def everywhere(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    def is_item_table(self, path: Any, shape: tuple[int, ...]) -> bool:
        """Whether a leaf of a training state is a table [..., N, D] of an item tower, or a moment of one."""
        names = {getattr(key, "key", getattr(key, "name", None)) for key in path}
        sizes = self.num_items, self.rows
        return {"items", "table"} <= names and len(shape) > 2 and shape[-2] in sizes

    def sharding(self, path: Any, shape: tuple[int, ...]) -> NamedSharding:
        """Of a leaf of a training state."""
        if not self.is_item_table(path, shape):
            return self.everywhere
        leading = [None] * (len(shape) - 2)
        return NamedSharding(self.mesh, PartitionSpec(*leading, ITEMS, None))

    def trim(self, logits: Float[Array, "B M n"]) -> Float[Array, "B M N"]:
        """Without the padding."""
        return logits[..., : self.num_items]

    def share(self, batch_size: int, num_items: int, depth: int) -> tuple[int, Layout]:
        """How many contexts of a batch a device has, and the layout of its items."""
        return batch_size // self.mesh.shape[BATCH], self.part.layout

    def on_a_device(self, state: Any) -> Any:
        """The shapes of what one device holds of a training state."""

        def one(path, x):
            if not self.is_item_table(path, x.shape):
                return x
            return jax.ShapeDtypeStruct((*x.shape[:-2], self.part.rows, x.shape[-1]), x.dtype)

        return jax.tree_util.tree_map_with_path(one, state)

    def constrain(self, state: Any) -> Any:
        """A training state inside of jit, padded, every leaf where it belongs."""

        def one(path, x):
            if self.is_item_table(path, x.shape):
                missing = self.rows - x.shape[-2]
                x = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, missing), (0, 0)])
            return lax.with_sharding_constraint(x, self.sharding(path, x.shape))

        return jax.tree_util.tree_map_with_path(one, state)

    def copies(self, tree: Any) -> Any:
        """Inside of jit: a copy of every leaf on every device."""
        return jax.tree.map(partial(lax.with_sharding_constraint, shardings=self.everywhere), tree)

    def copy(self, tree: Any) -> Any:
        """Arrays of this process, and of every other one the same, as arrays of the mesh."""

        def one(x):
            if jnp.issubdtype(getattr(x, "dtype", np.float32), jax.dtypes.prng_key):
                data = one(jax.random.key_data(x))
                return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
            values = np.asarray(x)
            return jax.make_array_from_callback(values.shape, self.everywhere, lambda i: values[i])

        return jax.tree.map(one, tree)

    def place(self, state: Any) -> Any:
        """A training state of N items, in this host's memory, onto the mesh: each device reads its rows."""

        def one(path, x):
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

    def collect(self, state: Any) -> Any:
        """A training state of N items in this host's memory, from all devices. Every process must call it."""

        def one(path, x):
            whole = self._fetch(x)
            return whole[..., : self.num_items, :] if self.is_item_table(path, x.shape) else whole

        return jax.tree_util.tree_map_with_path(one, state)

    def shapes(self, state: Any) -> Any:
        """What `collect` would answer, as shapes."""

        def one(path, x):
            shape = x.shape
            if self.is_item_table(path, shape):
                shape = (*shape[:-2], self.num_items, shape[-1])
            return jax.ShapeDtypeStruct(shape, x.dtype)

        return jax.tree_util.tree_map_with_path(one, state)

    def _fetch(self, x: jax.Array) -> np.ndarray:
        if x.is_fully_addressable or x.is_fully_replicated:
            return np.asarray(jax.device_get(x))
        # Rows of other hosts: some at a time, so that no device ever holds them all.
        axis, count = x.ndim - 2, x.shape[-2]
        size = max(1, min(count, _AT_ONCE * count // x.size))
        part = jax.jit(
            lambda x, start: lax.dynamic_slice_in_dim(x, start, size, axis),
            out_shardings=self.everywhere,
        )
        whole = np.empty(x.shape, x.dtype)
        for start in [*range(0, count - size, size), count - size]:
            whole[..., start : start + size, :] = jax.device_get(part(x, np.int32(start)))
        return whole
