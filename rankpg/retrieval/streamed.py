"""Streamed retrieval: a pass over the catalogue in chunks, with nothing of size B x N in memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from jax import lax

from rankpg.core.estimators import Candidates, Statistics
from rankpg.retrieval.base import (
    BySearch,
    Encoded,
    require_embeddings,
)
from rankpg.retrieval.layout import Layout, Shard, layout_for
from rankpg.retrieval.passes import bytes_per_context, find, pull_back, with_gradient
from rankpg.types import Array, Environment, Int, Key, Quotas

__all__ = ["Streamed"]


@dataclass(frozen=True)
class Streamed(BySearch):
    """Passes over the catalogue in chunks: nothing of size B x N is ever in memory, so N may be large."""

    layout: Layout | None = None
    """Chunks and blocks; None takes `layout_for`."""
    reason: str = "as requested"
    name: ClassVar[str] = "streamed"

    def search(
        self,
        draws: Key[Array, "B"] | Int[Array, "B K"],
        encoded: Encoded,
        contexts: Int[Array, "B"],
        environment: Environment,
        quotas: Quotas,
        statistics: Statistics,
    ) -> Candidates:
        """Passes over the catalogue in chunks; see `BySearch.search`."""
        embeddings = require_embeddings(encoded, self.name)
        num_items = embeddings.items.shape[1]
        shard = Shard(self.layout or layout_for(num_items, min(num_items, sum(quotas) + 1)))
        fixed = lax.stop_gradient(embeddings)
        found, shift = find(shard, quotas, statistics, draws, fixed, contexts, environment)
        back = partial(pull_back, shard)
        return with_gradient(back, embeddings, contexts, environment, found, shift)

    def peak_bytes(
        self, batch_size: int, num_experts: int, num_items: int, num_candidates: int
    ) -> int:
        """Logits of a chunk, block sums and opened blocks of every context."""
        layout = layout_for(num_items, min(num_items, num_candidates + 1))
        return batch_size * num_experts * bytes_per_context(layout, num_items, num_candidates)
