"""The interface of a retrieval: sample, rescore, greedy, peak_bytes, sharding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from rankpg.core.estimators import NOISE_STATISTICS, Candidates, Statistics
from rankpg.core.sampling import greedy_candidates
from rankpg.retrieval.sharding import OneDevice, Sharding
from rankpg.types import Array, Bool, Embeddings, Environment, Float, Int, Key, Quotas

__all__ = [
    "RETRIEVALS",
    "BySearch",
    "Encoded",
    "Retrieval",
    "RetrievalSettings",
    "best",
    "check_rescorable",
    "greedy_over_rows",
    "require_embeddings",
]

Encoded = Embeddings | Float[Array, "B M N"]
"""The output of an encoder, divided by the temperature: embeddings, or logits."""

_CONTEXTS_AT_A_TIME = 64
"""Contexts whose logits are in memory together when the greedy candidates are taken."""


class Retrieval(ABC):
    """Takes a batch of encoded contexts to K candidates each, and to the statistics that scores need.

    A subclass implements `sample`, `rescore` and `peak_bytes`, and is named in `retrieval.choice.RETRIEVALS`.
    """

    name: ClassVar[str]
    """The value of the setting `retrieval` that chooses it."""
    reason: str
    """Reason of the choice, for the log."""

    @property
    def sharding(self) -> Sharding:
        """Sharding of a run's arrays: one device, unless a subclass overrides it."""
        return OneDevice()

    @abstractmethod
    def sample(
        self,
        keys: Key[Array, "B"],
        encoded: Encoded,
        contexts: Int[Array, "B"],
        environment: Environment,
        quotas: Quotas,
        statistics: Statistics,
    ) -> Candidates:
        """Draws K candidates for every context, without replacement.

        Args:
          keys: one for each context, consumed.
          encoded: embeddings whose inner products are the logits, or the logits.
          contexts: ids.
          environment: says which items are eligible.
          quotas: slots of each expert.
          statistics: statistics that the estimator's score reads.

        Returns:
          Candidates with a leading axis B, differentiable in `encoded`.
        """

    @abstractmethod
    def rescore(
        self,
        items: Int[Array, "B K"],
        encoded: Encoded,
        contexts: Int[Array, "B"],
        environment: Environment,
        quotas: Quotas,
        statistics: Statistics,
    ) -> Candidates:
        """Computes, for candidates that were drawn before, the statistics that `sample` would return.

        Args:
          items: the candidates of every context, in slot order.
          encoded, contexts, environment, quotas, statistics: as in `sample`.

        Raises:
          ValueError: statistics that need the Gumbel noise of the draw.
        """

    @abstractmethod
    def peak_bytes(
        self, batch_size: int, num_experts: int, num_items: int, num_candidates: int
    ) -> int:
        """Bytes that one update holds for retrieval on one device, estimated from above."""

    def greedy(
        self,
        logits_of: Callable[[Int[Array, "1"]], Float[Array, "1 M N"]],
        contexts: Int[Array, "n"],
        environment: Environment,
        quotas: Quotas,
        eligible: Bool[Array, "N"] | Bool[Array, "n N"] | None = None,
    ) -> tuple[Int[Array, "n K"], Int[Array, "n"]]:
        """Takes the K most probable candidates of each context, best first.

        Args:
          logits_of: the logits of one context; a few dozen contexts are in memory at a time.
          contexts: ids.
          environment: says which items are eligible.
          quotas: slots of each expert.
          eligible: a further mask, one for all contexts or one for each.

        Returns:
          The candidates, and the number of items that each context could choose from.
        """

        def one(row):
            context, own = row
            return best(
                environment.mask_ineligible(context, logits_of(context[None])[0]), quotas, own
            )

        return greedy_over_rows(one, contexts, eligible)


class BySearch(Retrieval):
    """A retrieval that draws candidates and rescores given ones by the same search, for embeddings alone.

    A subclass implements `search` and `peak_bytes`.
    """

    @abstractmethod
    def search(
        self,
        draws: Key[Array, "B"] | Int[Array, "B K"],
        encoded: Encoded,
        contexts: Int[Array, "B"],
        environment: Environment,
        quotas: Quotas,
        statistics: Statistics,
    ) -> Candidates:
        """Returns candidates with their statistics, drawn with keys or given.

        Args:
          draws: a key for each context, or candidates that were drawn before.
          encoded: embeddings.
          contexts, environment, quotas, statistics: as in `Retrieval.sample`.

        Raises:
          ValueError: logits instead of embeddings, or a score that reads the logits of the whole catalogue.
        """

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
        too few eligible items leaves slots empty (-1), where `Dense` takes masked items. Args and errors are
        those of `search`.
        """
        return self.search(keys, encoded, contexts, environment, quotas, statistics)

    def rescore(
        self,
        items: Int[Array, "B K"],
        encoded: Encoded,
        contexts: Int[Array, "B"],
        environment: Environment,
        quotas: Quotas,
        statistics: Statistics,
    ) -> Candidates:
        """Rescores given candidates; see `Retrieval.rescore`. It rejects what `search` does as well."""
        check_rescorable(statistics)
        return self.search(items, encoded, contexts, environment, quotas, statistics)


class RetrievalSettings(NamedTuple):
    """Sizes and mesh from which a retrieval is built."""

    num_items: int
    """N"""
    num_candidates: int
    """K"""
    mesh: tuple[int, ...] | None = None
    """Devices along the batch and along the items; None puts all of them along the items."""


RETRIEVALS: dict[str, Callable[[RetrievalSettings, str], Retrieval]] = {}
"""name -> builder from a catalogue and the reason for the choice; filled in choice.py."""


def check_rescorable(statistics: Statistics) -> None:
    """Rejects statistics that need the Gumbel noise of a draw, which is not kept.

    Raises:
      ValueError: `statistics` is "arrivals" or "swaps".
    """
    if statistics in NOISE_STATISTICS:
        raise ValueError(
            f"candidates that were drawn before cannot be rescored for statistics={statistics!r}, which "
            "reads the Gumbel noise of the draw; choose an estimator without it, such as ca_pg_swr"
        )


def require_embeddings(encoded: Encoded | jax.ShapeDtypeStruct, name: str) -> Embeddings:
    """Rejects an encoder that returns logits where a retrieval works on embeddings.

    Raises:
      ValueError: `encoded` is an array of logits.
    """
    if not isinstance(encoded, Embeddings):
        raise ValueError(
            f"retrieval={name!r} computes logits from the items' embeddings, and the encoder returns logits; "
            "return rankpg.types.Embeddings, or choose retrieval='dense'"
        )
    return encoded


def greedy_over_rows(
    one: Callable[..., tuple[Int[Array, "K"], Int[Array, ""]]],
    contexts: Int[Array, "n"],
    eligible: Bool[Array, "N"] | Bool[Array, "n N"] | None,
) -> tuple[Int[Array, "n K"], Int[Array, "n"]]:
    """Maps `one((context, mask))` over rows; a mask for all contexts is not copied for each."""
    size = min(_CONTEXTS_AT_A_TIME, contexts.shape[0])
    if eligible is None or eligible.ndim == 2:
        return jax.lax.map(one, (contexts, eligible), batch_size=size)
    return jax.lax.map(lambda context: one((context, eligible)), contexts, batch_size=size)


def best(
    logits: Float[Array, "M N"], quotas: Quotas, eligible: Bool[Array, "N"] | None
) -> tuple[Int[Array, "K"], Int[Array, ""]]:
    """The greedy candidates among the eligible items, and the number of these items."""
    if eligible is not None:
        logits = jnp.where(eligible[None], logits, -jnp.inf)
    available = jnp.sum(jnp.any(logits > -jnp.inf, axis=0), dtype=jnp.int32)
    return greedy_candidates(logits, quotas), available
