"""The components of one run, and what two neighbours do together."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rankpg.advantages import Advantage
from rankpg.core.estimators import Candidates, Estimator, draw_candidates, rescore_candidates
from rankpg.core.sampling import greedy_candidates
from rankpg.encoders import Encoder, to_logits
from rankpg.retrieval.choice import Choice
from rankpg.retrieval.dense import mask
from rankpg.retrieval.sharded import OneDevice, Placement, retrieve_sharded
from rankpg.retrieval.streamed import describe_streamed, retrieve_streamed
from rankpg.types import (
    Array,
    Bool,
    Embeddings,
    Environment,
    Float,
    Int,
    Key,
    Params,
    Quotas,
    Reranker,
)

__all__ = ["Pipeline", "greedy", "greedy_of_mean"]


@dataclass(frozen=True)
class Pipeline:
    """Everything of a run that is not an array in training: the components in the order of the data flow."""

    encoder: Encoder
    temperature: float
    product_dtype: Any
    """Of the embeddings that training multiplies."""
    quotas: Quotas
    reranker: Reranker
    entropy_bonus: float
    """what a nat of surprise is worth, in units of the reward"""
    advantage: Advantage
    position_weights: np.ndarray
    estimator: Estimator
    optimizer: optax.GradientTransformation
    adaptive_learning_rate: bool
    batch_size: int
    draws_per_context: int
    training_contexts: np.ndarray
    """The contexts that a batch is drawn from."""
    evaluation_contexts: np.ndarray
    """The contexts that an evaluation chooses from: those held out, if any."""
    retrieval: Choice
    """dense, streamed or sharded, and why"""
    placement: Placement | OneDevice
    """Where arrays lie."""
    recall_depth: int | None = None
    """How many of a context's best items `candidate_recall` asks for; K of them if None."""

    def logits(
        self, params: Params, environment: Environment, contexts: Int[Array, "B"]
    ) -> Float[Array, "B M N"]:
        """f_m(a) of a batch of contexts."""
        encoded = self.encoder.encode(params, environment, contexts)
        return self.placement.trim(to_logits(encoded, self.temperature))

    def embeddings(self, encoded: Any) -> Embeddings:
        """What an encoder answered, unless it is logits."""
        if not isinstance(encoded, Embeddings):
            raise ValueError(
                f"--retrieval {self.retrieval.name} goes through the items' embeddings; expected an encoder "
                "that returns rankpg.types.Embeddings, and not logits"
            )
        return encoded

    def scaled(self, encoded: Any) -> Embeddings:
        """Embeddings whose inner products are logits."""
        towers = self.embeddings(encoded)
        return dataclasses.replace(towers, contexts=towers.contexts / self.temperature)

    def encode(self, params: Params, environment: Environment, contexts: Int[Array, "B"]) -> Any:
        """What the encoder answers, as training multiplies it: of fewer bits where the config says so."""
        encoded = self.encoder.encode(params, environment, contexts)
        if self.product_dtype != jnp.bfloat16 or not isinstance(encoded, Embeddings):
            return encoded
        return jax.tree.map(lambda x: x.astype(jnp.bfloat16), encoded)

    def retrieve(
        self,
        keys: Key[Array, "B"],
        params: Params,
        environment: Environment,
        contexts: Int[Array, "B"],
    ) -> Candidates:
        """Candidates of a batch of contexts, one key each."""
        quotas, statistics = self.quotas, self.estimator.statistics
        encoded = self.encode(params, environment, contexts)
        if self.retrieval.name == "dense":

            def one(key, context, logits):
                return draw_candidates(key, mask(environment, context, logits), quotas, statistics)

            return jax.vmap(one)(keys, contexts, to_logits(encoded, self.temperature))
        known = keys, self.scaled(encoded), contexts, environment, quotas, statistics
        if isinstance(self.placement, OneDevice):
            return retrieve_streamed(*known)
        return retrieve_sharded(*known, self.placement.mesh, self.placement.part)

    def describe(
        self,
        items: Int[Array, "B K"],
        params: Params,
        environment: Environment,
        contexts: Int[Array, "B"],
    ) -> Candidates:
        """What `retrieve` answers under these parameters, of candidates that were drawn before.

        Raises:
          ValueError: a score that needs the noise that drew; a sharded run.
        """
        quotas, statistics = self.quotas, self.estimator.statistics
        if statistics == "arrivals" or self.retrieval.name == "sharded":
            raise ValueError(
                f"candidates drawn before cannot be described with statistics {statistics!r} and retrieval "
                f"{self.retrieval.name!r}; expected a score that needs no noise, and one device"
            )
        encoded = self.encode(params, environment, contexts)
        if self.retrieval.name == "dense":

            def one(items, context, logits):
                logits = mask(environment, context, logits)
                described = rescore_candidates(logits, items, items[:0], quotas, statistics)
                return dataclasses.replace(described, sound=jnp.max(logits) < jnp.inf)

            return jax.vmap(one)(items, contexts, to_logits(encoded, self.temperature))
        known = self.scaled(encoded), contexts, environment, quotas, statistics
        return describe_streamed(items, *known)


_AT_ONCE = 64
"""Contexts whose logits are in memory at a time."""


def greedy(
    pipeline: Pipeline,
    environment: Environment,
    params: Params,
    contexts: Int[Array, "n"],
    allowed: Bool[Array, "N"] | Bool[Array, "n N"] | None = None,
) -> tuple[Int[Array, "n K"], Int[Array, "n"]]:
    """The K greedy candidates of each context, and how many items it could choose from.

    Args:
      pipeline: the run's components.
      environment: says who is eligible.
      params: of one seed.
      contexts: row numbers.
      allowed: a further mask, for all contexts or for each.
    """

    def one(asked):
        context, own = asked
        logits = pipeline.logits(params, environment, context[None])[0]
        return _best(pipeline, mask(environment, context, logits), own)

    return _over_rows(one, contexts, allowed)


def greedy_of_mean(
    pipeline: Pipeline,
    environment: Environment,
    params: Params,
    count: int,
    allowed: Bool[Array, "N"] | Bool[Array, "n N"] | None = None,
) -> tuple[Int[Array, "n K"], Int[Array, "n"]]:
    """The same for `count` contexts of which nothing is known, at the mean embedding of training contexts.

    Logits are linear in the context's embedding, so these are the mean logits. Any item that some context may
    have is eligible.

    Raises:
      ValueError: an encoder without embeddings.
    """
    contexts = jnp.asarray(pipeline.training_contexts)
    encoded = pipeline.embeddings(pipeline.encoder.encode(params, environment, contexts))
    mean = jnp.mean(encoded.contexts.astype(jnp.float32), axis=0, keepdims=True)
    mean = mean.astype(encoded.contexts.dtype)
    logits = to_logits(Embeddings(contexts=mean, items=encoded.items), pipeline.temperature)
    logits = _mask_of_all(environment, pipeline.placement.trim(logits)[0])

    def one(asked):
        return _best(pipeline, logits, asked[1])

    return _over_rows(one, jnp.zeros(count, jnp.int32), allowed)


def _best(
    pipeline: Pipeline, logits: Float[Array, "M N"], allowed: Bool[Array, "N"] | None
) -> tuple[Int[Array, "K"], Int[Array, ""]]:
    if allowed is not None:
        logits = jnp.where(allowed[None], logits, -jnp.inf)
    choice = jnp.sum(jnp.any(logits > -jnp.inf, axis=0), dtype=jnp.int32)
    return greedy_candidates(logits, pipeline.quotas), choice


def _over_rows(one: Any, contexts: Int[Array, "n"], allowed: Any) -> Any:
    """`one((context, mask))` of every row; a mask for all contexts is not copied for each."""
    size = min(_AT_ONCE, contexts.shape[0])
    if allowed is None or allowed.ndim == 2:
        return jax.lax.map(one, (contexts, allowed), batch_size=size)
    return jax.lax.map(lambda context: one((context, allowed)), contexts, batch_size=size)


def _mask_of_all(environment: Environment, logits: Float[Array, "M N"]) -> Float[Array, "M N"]:
    """-inf for items that no context may have."""
    items = jnp.arange(logits.shape[1], dtype=jnp.int32)
    if environment.eligible(jnp.int32(0), items) is None:
        return logits

    def more(context, some):
        return some | environment.eligible(context, items)

    contexts = environment.num_contexts
    some = jax.lax.fori_loop(0, contexts, more, jnp.zeros(len(items), bool))
    return jnp.where(some[None], logits, -jnp.inf)
