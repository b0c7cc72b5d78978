"""Greedy candidates: of contexts that a policy knows, and of one of which nothing is known."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rankpg.encoders import to_logits
from rankpg.pipeline import Pipeline
from rankpg.plackett_luce import greedy_candidates
from rankpg.retrieval import mask
from rankpg.types import Array, Bool, Embeddings, Environment, Float, Int, Params

__all__ = ["greedy", "greedy_of_mean"]

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
      pipeline: the run's stations.
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
