"""Sharded retrieval: every device holds a run of the items and a share of the batch.

What a device does with its items is what the streamed retrieval does with all of them (`find`,
`pull_back`); what travels are the first K + 1 blocks and items of every device, and a few sums. The draw is
the one of the streamed retrieval with the same keys, however many devices there are: the noise is keyed by
the blocks' places in the whole catalogue.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from rankpg.retrieval.dense import Candidates, Statistics
from rankpg.retrieval.layout import Layout, layout_for
from rankpg.retrieval.part import Part
from rankpg.retrieval.second_pass import pull_back, with_gradient
from rankpg.retrieval.streamed import find
from rankpg.types import Array, Embeddings, Environment, Int, Key, Quotas

__all__ = ["BATCH", "ITEMS", "part_of", "retrieve_sharded"]

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
