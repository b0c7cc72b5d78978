"""Sharded retrieval: every device holds a shard of the items and a share of the batch.

Each device does with its items what the streamed retrieval does with all of them (`find`, `pull_back`).
Between devices travel the first K + 1 blocks and items of each, and a few sums. The draw equals that of the
streamed retrieval with the same keys on any number of devices: the noise is keyed by the index of a block
in the whole catalogue.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from rankpg.core.estimators import Candidates, Statistics
from rankpg.retrieval.base import BySearch, Encoded, require_embeddings
from rankpg.retrieval.layout import Shard
from rankpg.retrieval.passes import bytes_per_context, find, pull_back, with_gradient
from rankpg.retrieval.sharding import BATCH, ITEMS, MeshSharding
from rankpg.types import Array, Embeddings, Environment, Int, Key, Quotas

__all__ = ["Sharded"]

_ROWS, _COPY = PartitionSpec(BATCH), PartitionSpec()
_TOWERS = Embeddings(contexts=_ROWS, items=PartitionSpec(None, ITEMS))  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class Sharded(BySearch):
    """Spreads the item table and the batch over the devices of a mesh, for very large catalogues."""

    placement: MeshSharding
    reason: str = "as requested"
    name: ClassVar[str] = "sharded"

    @property
    def sharding(self) -> MeshSharding:
        """The mesh, and the rows of the item table that each device holds."""
        return self.placement

    def search(
        self,
        draws: Key[Array, "B"] | Int[Array, "B K"],
        encoded: Encoded,
        contexts: Int[Array, "B"],
        environment: Environment,
        quotas: Quotas,
        statistics: Statistics,
    ) -> Candidates:
        """Finds the candidates that `Streamed` finds, on all devices of the mesh; see `BySearch.search`.

        B is a multiple of the mesh's batch axis, every device has a copy of the environment, and rows of
        items beyond N are padding.

        Raises:
          ValueError: as `BySearch.search`, or B is not a multiple of the batch axis.
        """
        mesh, shard = self.placement.mesh, self.placement.shard
        embeddings = require_embeddings(encoded, self.name)
        if len(contexts) % mesh.shape[BATCH]:
            raise ValueError(
                f"a batch of {len(contexts)} contexts does not divide among {mesh.shape[BATCH]} devices; "
                f"give batch_size= a multiple of {mesh.shape[BATCH]}, or another mesh="
            )
        missing = shard.rows * shard.devices - embeddings.items.shape[1]
        padded = Embeddings(
            contexts=embeddings.contexts,
            items=jnp.pad(embeddings.items, ((0, 0), (0, missing), (0, 0))),
        )
        search = _on(
            mesh, partial(find, shard, quotas, statistics), (_ROWS, _TOWERS, _ROWS, _COPY), _ROWS
        )
        found, shift = search(draws, lax.stop_gradient(padded), contexts, environment)
        back = partial(_pull_back, mesh, shard)
        return with_gradient(back, padded, contexts, environment, found, shift)

    def peak_bytes(
        self, batch_size: int, num_experts: int, num_items: int, num_candidates: int
    ) -> int:
        """The streamed estimate, for the contexts and items of one device."""
        contexts = batch_size // self.placement.mesh.shape[BATCH]
        layout = self.placement.shard.layout
        return contexts * num_experts * bytes_per_context(layout, num_items, num_candidates)


def _on(
    mesh: Mesh, function: Callable[..., Any], in_specs: tuple[Any, ...], out_specs: Any
) -> Callable[..., Any]:
    """The function on every device; JAX's check of varying axes does not know the carries of loops."""
    return jax.shard_map(
        function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )


def _pull_back(mesh: Mesh, shard: Shard, *saved: Any) -> Embeddings:
    """Gradient in the embeddings: each device for its items and contexts, then a sum over all contexts."""

    def here(*saved):
        gradient = pull_back(shard, *saved)
        if mesh.shape[BATCH] == 1:
            return gradient
        return Embeddings(contexts=gradient.contexts, items=lax.psum(gradient.items, BATCH))

    given = (_TOWERS, _ROWS, _COPY, _ROWS, _ROWS, _ROWS, _ROWS)
    return _on(mesh, here, given, _TOWERS)(*saved)
