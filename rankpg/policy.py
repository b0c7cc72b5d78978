"""The policy: from contexts to candidates. It is what is trained, evaluated, exported and served."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from rankpg.core.estimators import Candidates, Statistics
from rankpg.encoders.two_tower import Encoder, to_logits
from rankpg.retrieval.base import Encoded, Retrieval, best, greedy_over_rows
from rankpg.types import (
    Array,
    Bool,
    Embeddings,
    Environment,
    Float,
    Int,
    Key,
    Params,
    PRNGKey,
    Quotas,
)

__all__ = ["Policy"]


@dataclass(frozen=True, eq=False)
class Policy:
    """A Plackett-Luce policy over the items of a catalogue: P(candidates | context) under `params`.

    The encoder gives logits f_m(a); expert m draws K_m candidates without replacement in proportion to
    exp(f_m(a) / temperature). Parameters are an argument of every method, so a policy holds no arrays.

    >>> import rankpg
    >>> run = rankpg.train(rankpg.TrainConfig(num_candidates=3, num_steps=1, eval_every=1, seeds=(0,)))
    >>> policy, params = run.policy, run.params(seed=0)
    >>> keys, contexts = jax.random.split(jax.random.key(0), 2), jnp.array([4, 7])
    >>> policy.sample(keys, params, run.environment, contexts).items.shape
    (2, 3)
    """

    encoder: Encoder
    quotas: Quotas
    """Slots of each expert, K_1 to K_M."""
    retrieval: Retrieval
    """Dense, streamed or sharded."""
    temperature: float = 1.0
    product_dtype: DTypeLike = jnp.float32
    """Precision of the embeddings whose inner products training takes."""

    @property
    def num_candidates(self) -> int:
        """K, over all experts."""
        return sum(self.quotas)

    def init(self, key: PRNGKey) -> Params:
        """Draws the parameters of the encoder."""
        return self.encoder.init(key)

    def logits(
        self, params: Params, environment: Environment, contexts: Int[Array, "B"]
    ) -> Float[Array, "B M N"]:
        """Logits of the whole catalogue, divided by the temperature, in the precision of the parameters."""
        encoded = self.encoder.encode(params, environment, contexts)
        return self.retrieval.sharding.trim(to_logits(encoded, self.temperature))

    def sample(
        self,
        keys: Key[Array, "B"],
        params: Params,
        environment: Environment,
        contexts: Int[Array, "B"],
        statistics: Statistics = "candidates",
    ) -> Candidates:
        """Draws K candidates for every context, with the statistics that a score reads.

        Args:
          keys: one for each context, consumed.
          params: parameters of the encoder.
          environment: says which items are eligible, and holds the features that towers read.
          contexts: ids.
          statistics: `Estimator.statistics`.

        Returns:
          Candidates with a leading axis B, differentiable in `params`.
        """
        encoded = self.encode(params, environment, contexts)
        return self.retrieval.sample(keys, encoded, contexts, environment, self.quotas, statistics)

    def rescore(
        self,
        items: Int[Array, "B K"],
        params: Params,
        environment: Environment,
        contexts: Int[Array, "B"],
        statistics: Statistics = "candidates",
        noise: PRNGKey | None = None,
    ) -> Candidates:
        """Computes what `sample` would return under these parameters for candidates drawn before.

        Args:
          items: at least one for each context; of other numbers than K, their sparse logits.
          params, environment, contexts, statistics: as in `sample`.
          noise: key of the encoder's dropout; none if None.

        Raises:
          ValueError: the score reads the noise of the draw, or the run is sharded.
        """
        encoded = self.encode(params, environment, contexts, noise)
        return self.retrieval.rescore(
            items, encoded, contexts, environment, self.quotas, statistics
        )

    def greedy(
        self,
        params: Params,
        environment: Environment,
        contexts: Int[Array, "n"],
        eligible: Bool[Array, "N"] | Bool[Array, "n N"] | None = None,
    ) -> tuple[Int[Array, "n K"], Int[Array, "n"]]:
        """Takes the K most probable candidates of each context, and counts the items it could choose from.

        Args:
          params: parameters of the encoder.
          environment: says which items are eligible.
          contexts: ids.
          eligible: a further mask, one for all contexts or one for each.
        """

        def logits_of(contexts):
            return self.logits(params, environment, contexts)

        return self.retrieval.greedy(logits_of, contexts, environment, self.quotas, eligible)

    def greedy_for_unknown(
        self,
        params: Params,
        environment: Environment,
        known: Int[Array, "n"],
        count: int,
        eligible: Bool[Array, "N"] | Bool[Array, "count N"] | None = None,
    ) -> tuple[Int[Array, "count K"], Int[Array, "count"]]:
        """Takes the K best candidates for unknown contexts, at the mean embedding of known ones.

        Logits are linear in the context's embedding, so these are the mean logits. An item is eligible that
        is eligible for any context.

        Args:
          params: parameters of the encoder.
          environment: says which items are eligible.
          known: ids of the contexts that training draws from.
          count: number of unknown contexts.
          eligible: a further mask, one for all contexts or one for each.

        Raises:
          ValueError: the encoder returns logits, and so has no embeddings.
        """
        encoded = self._embeddings(params, environment, known)
        mean = jnp.mean(encoded.contexts.astype(jnp.float32), axis=0, keepdims=True)
        mean = mean.astype(encoded.contexts.dtype)
        logits = to_logits(Embeddings(contexts=mean, items=encoded.items), self.temperature)
        logits = _mask_never_eligible(environment, self.retrieval.sharding.trim(logits)[0])
        rows = jnp.zeros(count, jnp.int32)
        return greedy_over_rows(lambda row: best(logits, self.quotas, row[1]), rows, eligible)

    def embeddings(
        self, params: Params, environment: Environment, contexts: Int[Array, "B"]
    ) -> Embeddings:
        """Encodes contexts and items into embeddings whose inner products are the logits.

        Raises:
          ValueError: the encoder returns logits.
        """
        encoded = self._embeddings(params, environment, contexts)
        return dataclasses.replace(encoded, contexts=encoded.contexts / self.temperature)

    def _embeddings(
        self, params: Params, environment: Environment, contexts: Int[Array, "B"]
    ) -> Embeddings:
        """Encodes contexts and items, and rejects logits."""
        encoded = self.encoder.encode(params, environment, contexts)
        if not isinstance(encoded, Embeddings):
            raise ValueError(
                "embeddings of contexts and items are required, and the encoder returns logits; return "
                "rankpg.types.Embeddings from it"
            )
        return encoded

    def encode(
        self,
        params: Params,
        environment: Environment,
        contexts: Int[Array, "B"],
        noise: PRNGKey | None = None,
    ) -> Encoded:
        """Encodes contexts as training multiplies them: in `product_dtype`, divided by the temperature.

        Args:
          params, environment, contexts, noise: as in `rescore`.
        """
        encoded = self.encoder.encode(params, environment, contexts, noise)
        if self.product_dtype == jnp.bfloat16 and isinstance(encoded, Embeddings):
            encoded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), encoded)
        if isinstance(encoded, Embeddings):
            return dataclasses.replace(encoded, contexts=encoded.contexts / self.temperature)
        return encoded / self.temperature


def _mask_never_eligible(
    environment: Environment, logits: Float[Array, "M N"]
) -> Float[Array, "M N"]:
    """Logits with -inf for items that are not eligible for any context."""
    items = jnp.arange(logits.shape[1], dtype=jnp.int32)
    if environment.eligible(jnp.int32(0), items) is None:
        return logits

    def add(context, some):
        return some | environment.eligible(context, items)

    some = jax.lax.fori_loop(0, environment.num_contexts, add, jnp.zeros(len(items), bool))
    return jnp.where(some[None], logits, -jnp.inf)
