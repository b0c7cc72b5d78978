"""Dense retrieval: the logits of the whole catalogue are in memory, a full softmax."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from rankpg.core.estimators import Candidates, Statistics, draw_candidates, rescore_candidates
from rankpg.encoders.two_tower import to_logits
from rankpg.retrieval.base import Encoded, Retrieval, check_rescorable
from rankpg.retrieval.layout import FLOAT_BYTES
from rankpg.types import Array, Environment, Float, Int, Key, PRNGKey, Quotas

__all__ = ["Dense"]


@dataclass(frozen=True)
class Dense(Retrieval):
    """Holds logits[B, M, N] in memory: fastest for a small catalogue, and the only choice for logits."""

    reason: str = "as requested"
    name: ClassVar[str] = "dense"

    def sample(
        self,
        keys: Key[Array, "B"],
        encoded: Encoded,
        contexts: Int[Array, "B"],
        environment: Environment,
        quotas: Quotas,
        statistics: Statistics,
    ) -> Candidates:
        """Draws K candidates by Gumbel-top-k over all items; see `Retrieval.sample`."""

        def one(key: PRNGKey, context: Int[Array, ""], logits: Float[Array, "M N"]) -> Candidates:
            masked = environment.mask_ineligible(context, logits)
            return draw_candidates(key, masked, quotas, statistics)

        return jax.vmap(one)(keys, contexts, to_logits(encoded))

    def rescore(
        self,
        items: Int[Array, "B K"],
        encoded: Encoded,
        contexts: Int[Array, "B"],
        environment: Environment,
        quotas: Quotas,
        statistics: Statistics,
    ) -> Candidates:
        """Rescores given candidates; see `Retrieval.rescore`."""
        check_rescorable(statistics)

        def one(
            items: Int[Array, "K"], context: Int[Array, ""], logits: Float[Array, "M N"]
        ) -> Candidates:
            logits = environment.mask_ineligible(context, logits)
            candidates = rescore_candidates(logits, items, items[:0], quotas, statistics)
            return dataclasses.replace(candidates, sound=jnp.max(logits) < jnp.inf)

        return jax.vmap(one)(items, contexts, to_logits(encoded))

    def peak_bytes(
        self, batch_size: int, num_experts: int, num_items: int, num_candidates: int
    ) -> int:
        """Six times the logits of a batch: what XLA's buffers came to on a CPU, rounded up."""
        return 6 * batch_size * num_experts * num_items * FLOAT_BYTES
