"""Both passes over one shard of the catalogue, in chunks: forward to candidates, backward to gradients.

The forward pass gives two numbers for every block of a few items: the largest logit, and the log-sum-exp. For
most of the catalogue, a draw needs nothing else:

    race      the first arrivals of blocks are drawn from their sums; only the earliest blocks are opened
    greedy    only the blocks with the largest maxima are opened
    log_rest  the sums of blocks without a candidate, and the other items of blocks with one

Opening a block means computing the logits of its items again. `find` does this for one shard and combines the
shards: that of `Streamed` is the whole catalogue, and in `Sharded` every device has one. The backward pass,
`pull_back`, computes the logits of every chunk once more.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
from jax import lax

from rankpg.core.estimators import NOISE_STATISTICS, Candidates, Statistics, arrivals_of_swaps
from rankpg.core.numerics import accumulation_dtype, log_add, log_sum_exp
from rankpg.core.plackett_luce import SparseLogits, repeats
from rankpg.core.sampling import (
    condition_on_maximum,
    drop_taken,
    gumbel_noise,
    order_depth,
    take_quotas,
)
from rankpg.retrieval.layout import FLOAT_BYTES, Layout, Shard
from rankpg.types import Array, Bool, Embeddings, Environment, Float, Int, Key, Quotas

__all__ = [
    "Listed",
    "bytes_per_context",
    "find",
    "masked",
    "pull_back",
    "score",
    "with_gradient",
]

Row = tuple[jax.Array | None, ...]
"""Everything that the search for one context's candidates reads; of a batch, with a leading axis B."""

Opener = Callable[[Int[Array, "M n"]], tuple[Int[Array, "M n width"], Float[Array, "M n width"]]]
"""Function from indices of blocks to the item ids and logits of these blocks."""

_OPENED = 2**21
"""Approximate number of values of the item table that are read together for opened blocks."""


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
    return _with_mask(logits, one(contexts))


def _with_mask(
    logits: Float[Array, "M n B"], eligible: Bool[Array, "n B"] | None
) -> Float[Array, "M n B"]:
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
    if shard.devices > 1:
        items = first + jnp.arange(rows.shape[1], dtype=jnp.int32)
        return masked(logits, contexts, items, environment, shard)
    return _with_mask(logits, environment.eligible_run(contexts, first, rows.shape[1]))


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
      cotangents: cotangents of the values.
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


def bytes_per_context(layout: Layout, num_items: int, num_candidates: int) -> int:
    """Bytes that one context and expert need: what XLA's buffers came to on a CPU, rounded up.

    6 times the logits of a chunk, 4 times the sums of all blocks, and 4 times the opened blocks.
    """
    depth = min(num_items, num_candidates + 1)
    chunk = 6 * min(layout.size, num_items)
    return (chunk + 4 * layout.num_blocks + 4 * depth * layout.width) * FLOAT_BYTES


def find(
    shard: Shard,
    quotas: Quotas,
    statistics: Statistics,
    draws: Key[Array, "B"] | Int[Array, "B K"],
    embeddings: Embeddings,
    contexts: Int[Array, "B"],
    environment: Environment,
) -> tuple[Candidates, Float[Array, "B M"]]:
    """Draws or rescores candidates, without a gradient, and returns every context's largest logit.

    Args:
      shard: the items of this device; every device returns the same.
      quotas, statistics, contexts, environment: as in `Retrieval.sample`.
      draws: a key for each context, or candidates that were drawn before.
      embeddings: contexts [B, M, D], and items [M, rows, D] of the shard.

    Raises:
      ValueError: the score reads the logits of the whole catalogue.
      TypeError: untyped keys, such as those of `jax.random.PRNGKey`.
    """
    if draws.dtype == jnp.uint32:
        raise TypeError(
            f"keys are uint32{list(draws.shape)}; expected typed keys, such as "
            "jax.random.split(jax.random.key(0), B)"
        )
    if statistics == "catalogue":
        raise ValueError(
            "this score reads the logits of the whole catalogue; give retrieval='dense'"
        )
    shift, total, peak = _block_statistics(
        embeddings, contexts, environment, shard, with_peaks=statistics == "greedy"
    )
    finite = jnp.max(shift, axis=1) < jnp.inf  # NaN is not less, and a maximum passes it on
    sound = shard.everywhere(finite)
    shift = shard.highest(shift)

    def search(row):
        draw, context, embedding, sound, shift, total, peak = row
        open_blocks = partial(_open, context, embedding, embeddings.items, environment, shard)
        return _search(draw, sound, shift, total, peak, open_blocks, quotas, statistics, shard)

    rows = draws, contexts, embeddings.contexts, sound, shift, total, peak
    read = min(shard.rows, sum(quotas) + 1) * shard.width * embeddings.items[:, 0].size
    return _by_row(search, rows, at_once=max(1, _OPENED // read)), shift


def _by_row(function: Callable[[Row], Candidates], rows: Row, at_once: int) -> Candidates:
    """Maps a function over the rows of a batch, at most `at_once` of them together."""
    batch = len(jax.tree.leaves(rows)[0])
    if batch <= at_once:
        return jax.vmap(function)(rows)
    parts = next(n for n in range(-(-batch // at_once), batch + 1) if batch % n == 0)
    apart = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), rows)
    found = lax.map(jax.vmap(function), apart)
    return jax.tree.map(lambda x: x.reshape(batch, *x.shape[2:]), found)


def _block_statistics(
    embeddings: Embeddings,
    contexts: Int[Array, "B"],
    environment: Environment,
    shard: Shard,
    *,
    with_peaks: bool,
) -> tuple[Float[Array, "B M"], Float[Array, "B M blocks"], Float[Array, "B M blocks"] | None]:
    """Every context's largest logit on this shard, and every block's log-sum-exp and largest logit."""
    vectors = jnp.transpose(embeddings.contexts, (1, 2, 0))

    def body(top, start, rows):
        logits = score(vectors, rows, start, contexts, environment, shard)
        padding = -rows.shape[1] % shard.width
        logits = jnp.pad(logits, ((0, 0), (0, padding), (0, 0)), constant_values=-jnp.inf)
        blocks = logits.reshape(logits.shape[0], -1, shard.width, logits.shape[2])
        peak, total = jnp.max(blocks, axis=2), log_sum_exp(blocks, axis=2)
        top = jnp.maximum(top, jnp.max(peak, axis=1))
        return top, (total, peak if with_peaks else None)

    lowest = jnp.full_like(vectors[:, 0], -jnp.inf, dtype=accumulation_dtype(vectors.dtype))
    top, blocks = shard.layout.scan(body, lowest, embeddings.items)
    total, peak = jax.tree.map(lambda x: jnp.transpose(x, (2, 0, 1)), blocks)
    return top.T, total, peak


def _open(
    context: Int[Array, ""],
    embedding: Float[Array, "M D"],
    items: Float[Array, "M rows D"],
    environment: Environment,
    shard: Shard,
    blocks: Int[Array, "M n"],
) -> tuple[Int[Array, "M n width"], Float[Array, "M n width"]]:
    """Item ids and logits of some blocks, -inf for items of the block before and for absent blocks."""
    layout, first = shard.layout, shard.first_block() * shard.width

    def one(blocks, table, embedding):
        blocks, here = shard.local(blocks)
        start = layout.start_of(blocks)
        rows = jax.vmap(lambda s: lax.dynamic_slice_in_dim(table, s, layout.width))(start)
        place = start[:, None] + jnp.arange(layout.width, dtype=jnp.int32)[None]
        ids = first + place
        logits = lax.dot_general(
            rows.reshape(-1, rows.shape[2]), embedding, (((1,), (0,)), ((), ())),
            preferred_element_type=accumulation_dtype(rows.dtype),
        )  # fmt: skip
        logits = masked(logits[None, :, None], context[None], ids.reshape(-1), environment, shard)
        there = here[:, None] & (place >= blocks[:, None] * layout.width)
        return ids, jnp.where(there, logits.reshape(ids.shape), -jnp.inf)

    return jax.vmap(one)(blocks, items, embedding)


def _search(
    draw: Key[Array, ""] | Int[Array, "K"],
    sound: Bool[Array, ""],
    shift: Float[Array, "M"],
    total: Float[Array, "M blocks"],
    peak: Float[Array, "M blocks"] | None,
    open_blocks: Opener,
    quotas: Quotas,
    statistics: Statistics,
    shard: Shard,
) -> Candidates:
    """Candidates of one context, with their sparse logits; `with_gradient` adds the gradient.

    Args:
      draw: a key, or candidates that were drawn before.
      sound: no logit of the context is NaN or +inf.
      shift: the largest logit of each expert.
      total, peak: log-sum-exp and largest logit of every block of the shard.
      open_blocks: item ids and logits of some blocks.
      quotas, statistics, shard: as in `find`.
    """
    depth = min(shard.whole.num_items, sum(quotas) + 1)
    opens = min(depth, shard.whole.num_blocks)
    shift = jnp.where(jnp.isfinite(shift), shift, 0)
    total = total - shift[:, None]
    experts, count = total.shape
    here = shard.first_block() + jnp.arange(count, dtype=jnp.int32)

    def first_blocks(values):
        """The first blocks of every expert, by their index in the catalogue."""
        return jax.vmap(lambda v: shard.first(v, here, opens))(values)

    def first_items(values, ids):
        """The first `depth` of the opened items of one expert; -1 where no eligible item remains."""
        values, ids = shard.first(values.reshape(-1), ids.reshape(-1), depth)
        return jnp.where(jnp.isneginf(values), -1, ids), values

    def race(key):
        """The first items of every expert to arrive, and their perturbed logits."""
        of_blocks, within = (
            jax.vmap(lambda m, k=k: jax.random.fold_in(k, m))(jnp.arange(experts, dtype=jnp.int32))
            for k in jax.random.split(key)
        )
        noise = jax.vmap(lambda k: gumbel_noise(k, here, total.dtype))(of_blocks)
        arrival, block = first_blocks(total + noise)
        ids, logits = open_blocks(block)
        place = (
            block[..., None] * shard.width + jnp.arange(shard.width, dtype=jnp.int32)[None, None]
        )
        noise = jax.vmap(lambda k, p: gumbel_noise(k, p.reshape(-1), total.dtype))(within, place)
        raced = condition_on_maximum(
            arrival, logits - shift[:, None, None], noise.reshape(place.shape), axis=-1
        )
        return jax.vmap(first_items)(raced, ids)

    def without_taken(order, values):
        """Every expert's order without the items that earlier experts take, and the values there."""
        order, places = drop_taken(order, quotas, order_depth(shard.whole.num_items, quotas))
        return order, jnp.take_along_axis(values, places, axis=1, mode="fill", fill_value=-jnp.inf)

    key = draw if jnp.issubdtype(draw.dtype, jax.dtypes.prng_key) else None
    if key is not None:
        order, perturbed = without_taken(*race(key))
        items = take_quotas(order, quotas)
    else:
        order, perturbed = jnp.zeros((experts, 0), jnp.int32), jnp.zeros((experts, 0), total.dtype)
        items = draw
    listed = items
    if statistics == "greedy":
        ids, logits = open_blocks(first_blocks(peak)[1])
        order, _ = without_taken(*jax.vmap(first_items)(logits, ids))
    noise = statistics in NOISE_STATISTICS
    if statistics == "greedy" or noise:
        listed = jnp.concatenate([items, order.reshape(-1)])
    else:
        order = order[:, :0]
    sparse = _gather(listed, total, shift, open_blocks, shard)
    return Candidates(
        items=items,
        sparse_logits=sparse,
        order=order,
        perturbed=perturbed if noise else perturbed[:, :0],
        sound=sound,
        later=arrivals_of_swaps(key, sparse, items, quotas, statistics),
    )


def _gather(
    ids: Int[Array, "C"],
    total: Float[Array, "M blocks"],
    shift: Float[Array, "M"],
    open_blocks: Opener,
    shard: Shard,
) -> SparseLogits:
    """Sparse logits of some items, from block sums and opened blocks."""
    items = jnp.sort(jnp.where(ids < 0, jnp.max(ids), ids))
    touched = shard.whole.block_of(items)  # ascending, as the items
    again = repeats(touched)
    block, here = shard.local(touched)
    drop = jnp.where(again | ~here, shard.num_blocks, block)
    untouched = total.at[:, drop].set(-jnp.inf, mode="drop")
    _, logits = open_blocks(jnp.broadcast_to(touched, (total.shape[0], len(touched))))
    logits = logits - shift[:, None, None]
    start = shard.first_block() * shard.width + shard.layout.start_of(block)
    row = jnp.where(here, items - start, 0)
    place = jnp.searchsorted(touched, touched).astype(jnp.int32)  # where its block was opened first
    others = jnp.tile(~again[:, None], (1, shard.width)).at[place, row].set(False)
    remaining = jnp.where(others[None], logits, -jnp.inf).reshape(len(logits), -1)
    return SparseLogits(
        items=items,
        logits=jnp.where(repeats(items), -jnp.inf, shard.highest(logits[:, place, row])),
        log_rest=shard.log_sum(log_add(log_sum_exp(untouched), log_sum_exp(remaining))),
    )
