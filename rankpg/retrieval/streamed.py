"""Streamed retrieval: a pass over the catalogue in chunks, with nothing of size B x N in memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from jax import lax

from rankpg.core.estimators import Candidates, Statistics
from rankpg.retrieval.base import (
    Encoded,
    Retrieval,
    check_rescorable,
    require_embeddings,
)
from rankpg.retrieval.layout import Layout, Shard, layout_for
from rankpg.retrieval.passes import bytes_per_context, find, pull_back, with_gradient
from rankpg.types import Array, Environment, Int, Key, Quotas

__all__ = ["Streamed"]


@dataclass(frozen=True)
class Streamed(Retrieval):
    """Passes over the catalogue in chunks: nothing of size B x N is ever in memory, so N may be large."""

    layout: Layout | None = None
    """Chunks and blocks; None takes `layout_for`."""
    reason: str = "as requested"
    name: ClassVar[str] = "streamed"

    def sample(
        self,
        keys: Key[Array, "B"],
        encoded: Encoded,
        contexts: Int[Array, "B"],
        environment: Environment,
        quotas: Quotas,
        statistics: Statistics,
    ) -> Candidates:
        """Draws K candidates for every context; the distribution is that of `Dense.sample`, the draw is not.

        Among greedy items whose logits are exactly equal at the cut, any may be taken. An expert that finds
        too few eligible items leaves slots empty (-1), where `Dense` takes masked items.

        Args:
          keys, contexts, environment, quotas, statistics: as in `Retrieval.sample`.
          encoded: embeddings.

        Raises:
          ValueError: logits instead of embeddings, or a score that reads the logits of the whole catalogue.
        """
        return self._candidates(keys, encoded, contexts, environment, quotas, statistics)

    def rescore(
        self,
        items: Int[Array, "B K"],
        encoded: Encoded,
        contexts: Int[Array, "B"],
        environment: Environment,
        quotas: Quotas,
        statistics: Statistics,
    ) -> Candidates:
        """Rescores given candidates; see `Retrieval.rescore`.

        Raises:
          ValueError: a score that reads the logits of the whole catalogue, or the noise of the draw.
        """
        check_rescorable(statistics)
        return self._candidates(items, encoded, contexts, environment, quotas, statistics)

    def _candidates(
        self,
        draws: Key[Array, "B"] | Int[Array, "B K"],
        encoded: Encoded,
        contexts: Int[Array, "B"],
        environment: Environment,
        quotas: Quotas,
        statistics: Statistics,
    ) -> Candidates:
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
