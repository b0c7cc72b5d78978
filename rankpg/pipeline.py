"""The stations of one run, and what two neighbours do together."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rankpg.encoders import Encoder, to_logits
from rankpg.estimators import Estimator
from rankpg.placement import OneDevice, Placement
from rankpg.retrieval import (
    Candidates,
    Choice,
    describe,
    describe_streamed,
    mask,
    retrieve,
    retrieve_sharded,
    retrieve_streamed,
)
from rankpg.rewards import RewardTransform
from rankpg.types import (
    Array,
    Embeddings,
    Environment,
    Float,
    Int,
    Key,
    LateStage,
    Params,
    Quotas,
)

__all__ = ["Pipeline"]


@dataclass(frozen=True)
class Pipeline:
    """Everything of a run that is not an array in training: the stations in the order of the data flow."""

    encoder: Encoder
    temperature: float
    product_dtype: Any
    """Of the embeddings that training multiplies."""
    quotas: Quotas
    late_stage: LateStage
    entropy_bonus: float
    """what a nat of surprise is worth, in units of the reward"""
    reward_transform: RewardTransform
    position_weights: np.ndarray
    estimator: Estimator
    optimizer: optax.GradientTransformation
    adaptive_learning_rate: bool
    batch_size: int
    draws_per_context: int
    training_contexts: np.ndarray
    """The contexts that a batch is drawn from."""
    judging_contexts: np.ndarray
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
                return retrieve(key, mask(environment, context, logits), quotas, statistics)

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
                described = describe(logits, items, items[:0], quotas, statistics)
                return dataclasses.replace(described, sound=jnp.max(logits) < jnp.inf)

            return jax.vmap(one)(items, contexts, to_logits(encoded, self.temperature))
        known = self.scaled(encoded), contexts, environment, quotas, statistics
        return describe_streamed(items, *known)
