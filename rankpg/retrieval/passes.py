"""Logits of a chunk of the catalogue, forward and backward: the two passes of streamed retrieval."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
from jax import lax

from rankpg.core.estimators import Candidates
from rankpg.core.numerics import accumulation_dtype
from rankpg.core.plackett_luce import SparseLogits, repeats
from rankpg.retrieval.layout import Shard
from rankpg.types import Array, Embeddings, Environment, Float, Int

__all__ = ["Listed", "masked", "pull_back", "score", "with_gradient"]


def masked(
    logits: Float[Array, "M n B"],
    contexts: Int[Array, "B"],
    items: Int[Array, "n"],
    environment: Environment,
    shard: Shard,
) -> Float[Array, "M n B"]:
    """Logits with -inf for items that are not eligible, and for padding."""
    if shard.devices > 1:
        logits = jnp.where((items < shard.whole.num_items)[None, :, None], logits, -jnp.inf)
        items = jnp.minimum(items, shard.whole.num_items - 1)
    one = jax.vmap(lambda context: environment.eligible(context, items), out_axes=1)
    eligible = one(contexts)
    return logits if eligible is None else jnp.where(eligible[None], logits, -jnp.inf)


def score(
    vectors: Float[Array, "M D B"],
    rows: Float[Array, "M n D"],
    start: Int[Array, ""],
    contexts: Int[Array, "B"],
    environment: Environment,
    shard: Shard,
) -> Float[Array, "M n B"]:
    """Logits of a chunk, with contexts along the last axis.

    So a block is a run of rows, and XLA's CPU compiler vectorises along the batch.
    """
    logits = lax.dot_general(
        rows,
        vectors,
        (((2,), (1,)), ((0,), (0,))),
        preferred_element_type=accumulation_dtype(rows.dtype),
    )
    first = shard.first_block() * shard.width + start
    items = first + jnp.arange(rows.shape[1], dtype=jnp.int32)
    return masked(logits, contexts, items, environment, shard)


Listed = tuple[Array, Array]
"""Sparse logits [B, M, C] and log_rest [B, M], or their cotangents."""

Backward = Callable[..., Embeddings]
"""`pull_back` for one shard, or for all shards of a mesh."""


def with_gradient(
    pull_back: Backward,
    embeddings: Embeddings,
    contexts: Int[Array, "B"],
    environment: Environment,
    found: Candidates,
    shift: Float[Array, "B M"],
) -> Candidates:
    """Attaches the gradient in the embeddings to candidates that `streamed.find` returned.

    Args:
      pull_back: `pull_back(embeddings, contexts, environment, items, shift, values, cotangents)`, the
        gradient in the embeddings.
      embeddings, contexts, environment: as in `streamed.find`.
      found, shift: the values that it returned.
    """
    values = found.sparse_logits.logits, found.sparse_logits.log_rest
    items = found.sparse_logits.items
    attached = _with_gradient(pull_back, embeddings, contexts, environment, items, shift, values)
    listed, log_rest = cast("Listed", attached)
    sparse = SparseLogits(items=items, logits=listed, log_rest=log_rest)
    return Candidates(**{**vars(found), "sparse_logits": sparse})


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _with_gradient(
    pull_back: Backward,
    embeddings: Embeddings,
    contexts: Int[Array, "B"],
    environment: Environment,
    items: Int[Array, "B C"],
    shift: Float[Array, "B M"],
    values: Listed,
) -> Listed:
    return values


def _with_gradient_fwd(
    pull_back: Backward,
    embeddings: Embeddings,
    contexts: Int[Array, "B"],
    environment: Environment,
    items: Int[Array, "B C"],
    shift: Float[Array, "B M"],
    values: Listed,
) -> tuple[Listed, tuple[object, ...]]:
    return values, (embeddings, contexts, environment, items, shift, values)


def _with_gradient_bwd(
    pull_back: Backward, saved: tuple[object, ...], cotangents: Listed
) -> tuple[Embeddings, None, None, None, None, None]:
    return pull_back(*saved, cotangents), None, None, None, None, None


_with_gradient.defvjp(_with_gradient_fwd, _with_gradient_bwd)


def pull_back(
    shard: Shard,
    embeddings: Embeddings,
    contexts: Int[Array, "B"],
    environment: Environment,
    items: Int[Array, "B C"],
    shift: Float[Array, "B M"],
    values: Listed,
    cotangents: Listed,
) -> Embeddings:
    """Gradient in the embeddings: computes the logits of every chunk again.

    An item with a sparse logit receives the cotangent of that logit; every other one receives its share of
    log_rest.

    Args:
      shard: the items of this device; their gradient is that of these contexts alone.
      embeddings, contexts, environment: as in `streamed.find`.
      items: ids with sparse logits.
      shift, values: as `streamed.find` returned them.
      cotangents: of the values.
    """
    (listed, log_rest), (to_listed, to_rest) = values, cotangents
    to_listed = jnp.transpose(jnp.where(jnp.isneginf(listed), 0, to_listed), (1, 2, 0))
    shift = jnp.where(jnp.isfinite(shift), shift, 0)
    level = (jnp.where(jnp.isneginf(log_rest), jnp.inf, log_rest) + shift).T[:, None]
    to_rest = to_rest.T[:, None]
    beyond = shard.devices * shard.num_blocks * shard.width
    once = jnp.where(jax.vmap(repeats)(items), beyond, items).T
    once = once - shard.first_block() * shard.width  # [C, B], by its row here
    column = jnp.arange(once.shape[1], dtype=jnp.int32)[None]
    flat, upright = (jnp.transpose(embeddings.contexts, axes) for axes in ((1, 0, 2), (1, 2, 0)))

    def body(carry, start, rows):
        to_vectors, to_items = carry
        logits = score(upright, rows, start, contexts, environment, shard)
        share = to_rest * jnp.exp(logits - level)
        place = once - start
        place = jnp.where((place >= 0) & (place < rows.shape[1]), place, rows.shape[1])
        share = share.at[:, place, column].set(to_listed, mode="drop", unique_indices=True)
        share = share.astype(rows.dtype)
        # The long side comes out last, or XLA's CPU compiler is several times slower.
        more = lax.dot_general(rows, share, (((1,), (1,)), ((0,), (0,))))  # [M, D, B]
        to_rows = lax.dot_general(share, flat, (((2,), (1,)), ((0,), (0,))))
        to_items = lax.dynamic_update_slice_in_dim(to_items, to_rows, start, 1)
        return (to_vectors + lax.optimization_barrier(more), to_items), None

    zeros = jnp.zeros_like(upright), jnp.zeros_like(embeddings.items)
    (to_vectors, to_items), _ = shard.layout.scan(body, zeros, embeddings.items)
    return Embeddings(contexts=shard.sum(jnp.transpose(to_vectors, (2, 0, 1))), items=to_items)
