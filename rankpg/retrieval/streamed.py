"""Streamed retrieval: the catalogue passes by in chunks, and nothing of size B x N is ever in memory.

One pass over the items answers two numbers for every block of a few of them: the largest logit, and the
log-sum-exp. They are all that a draw needs to know of most of the catalogue:

    race      the first arrivals of blocks are drawn from their sums, and only the earliest blocks are opened
    greedy    only the blocks with the largest maxima are opened
    log_rest  the sums of the blocks that hold no listed item, and what is not listed of the others: opened

An opened block is scored again, item by item. The gradient takes a second pass that scores every chunk again,
as `listing._divide` does with all of them at once.
"""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import lax

from rankpg.arrivals import finish
from rankpg.listing import Listing
from rankpg.numerics import largest, log_add, log_sum_exp
from rankpg.plackett_luce import fill_quotas
from rankpg.retrieval.dense import Candidates, Statistics
from rankpg.types import Array, Bool, Embeddings, Environment, Int, Key, Quotas

__all__ = ["Layout", "layout_for", "retrieve_streamed"]

_CHUNK = 4096
"""Items a chunk, about: B rows of logits of one chunk stay in the processor's cache."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """How N items are cut into chunks, and a chunk into blocks.

    Chunk c begins at item `min(c * size, N - size)`, so the last one may repeat items of the one before,
    which are masked there. Block j of a chunk holds its items j, j + blocks, j + 2 blocks, ...
    """

    num_items: int
    size: int
    """items a chunk, `width * blocks` but for a catalogue of one chunk"""
    width: int
    """items a block"""

    @property
    def blocks(self) -> int:
        """Blocks a chunk."""
        return -(-self.size // self.width)

    @property
    def chunks(self) -> int:
        return -(-self.num_items // self.size)

    def origin(self, chunk: Int[Array, "..."]) -> Int[Array, "..."]:
        """The first item that is read for a chunk."""
        return jnp.minimum(chunk * self.size, self.num_items - self.size)

    def items_of(self, block: Int[Array, "n"]) -> Int[Array, "width n"]:
        """The items of blocks, counted over the whole catalogue; N where there is none."""
        chunk, column = block[None] // self.blocks, block[None] % self.blocks
        place = column + self.blocks * jnp.arange(self.width, dtype=jnp.int32)[:, None]
        items = self.origin(chunk) + place
        return jnp.where((place < self.size) & (items >= chunk * self.size), items, self.num_items)

    def block_of(self, item: Int[Array, "n"]) -> Int[Array, "n"]:
        """The block that an item belongs to."""
        chunk = item // self.size
        return chunk * self.blocks + (item - self.origin(chunk)) % self.blocks

    def row_of(self, item: Int[Array, "n"]) -> Int[Array, "n"]:
        """Which item of its block it is."""
        return (item - self.origin(item // self.size)) // self.blocks


def layout_for(num_items: int, depth: int, chunk: int = _CHUNK) -> Layout:
    """Blocks narrow enough that opening `depth` of them costs little beside a pass over the catalogue.

    >>> layout_for(10**6, 101)
    Layout(num_items=1000000, size=4096, width=32)
    >>> layout_for(50, 5).chunks
    1
    """
    width = 2 ** max(0, min(5, round(math.log2(max(1.0, math.sqrt(num_items / depth))))))
    size = min(num_items, max(width, chunk // width * width))
    return Layout(num_items, size, width)


def retrieve_streamed(
    keys: Key[Array, "B"],
    embeddings: Embeddings,
    contexts: Int[Array, "B"],
    environment: Environment,
    quotas: Quotas,
    statistics: Statistics,
    layout: Layout | None = None,
) -> Candidates:
    """Draw K candidates for every context of a batch, and describe them, as `dense.retrieve` does for one.

    The law is that of the dense draw; the draw itself is another one. Of greedy items whose logits are
    exactly equal at the cut, any may be taken.

    Args:
      keys: one a context, consumed.
      embeddings: contexts [B, M, D], already divided by the temperature, and items [M, N, D].
      contexts: their ids.
      environment: says which items are eligible, chunk by chunk.
      quotas: how many slots each expert fills.
      statistics: all but "catalogue".
      layout: of the catalogue; by `layout_for` if None.

    Returns:
      Candidates with a leading axis B.

    Raises:
      ValueError: a score that needs the logits of the whole catalogue.
    """
    if statistics == "catalogue":
        raise ValueError("this score lists the whole catalogue; expected retrieval dense")
    num_items = embeddings.items.shape[1]
    layout = layout or layout_for(num_items, min(num_items, sum(quotas) + 1))
    fixed = lax.stop_gradient(embeddings)
    statistics_of_blocks = _block_statistics(fixed, contexts, environment, layout)

    def search(of):
        key, context, embedding, peak, total = of
        opened = partial(_open, context, embedding, fixed.items, environment, layout)
        return _search(key, peak, total, opened, quotas, statistics, layout)

    rows = keys, contexts, fixed.contexts, *statistics_of_blocks
    found, shift = cast("tuple[Candidates, Array]", lax.map(search, rows, batch_size=8))
    values = found.listing.logits, found.listing.log_rest
    listed, log_rest = cast(
        "tuple[Array, Array]",
        _divide(layout, embeddings, contexts, environment, found.listing.items, shift, values),
    )
    return Candidates(
        items=found.items,
        listing=Listing(items=found.listing.items, logits=listed, log_rest=log_rest),
        order=found.order if statistics in ("greedy", "arrivals") else found.order[..., :0],
        perturbed=found.perturbed if statistics == "arrivals" else found.perturbed[..., :0],
        sound=found.sound,
    )


def _masked(logits, contexts, items, environment: Environment, num_items: int):
    """Logits [M, B, n] of items [n], with -inf for what is no item or not eligible."""
    there = jnp.broadcast_to(items < num_items, (contexts.shape[0], items.shape[0]))
    safe = jnp.minimum(items, num_items - 1)
    eligible = jax.vmap(lambda context: environment.eligible(context, safe))(contexts)
    if eligible is not None:
        there = there & eligible
    return jnp.where(there[None], logits, -jnp.inf)


def _score_chunk(embeddings: Embeddings, contexts, environment, chunk, layout: Layout):
    """The logits [M, B, size] of one chunk, and its rows of the item table [M, size, D]."""
    origin = layout.origin(chunk)
    rows = lax.dynamic_slice_in_dim(embeddings.items, origin, layout.size, axis=1)
    items = origin + jnp.arange(layout.size, dtype=jnp.int32)
    items = jnp.where(
        items < chunk * layout.size, layout.num_items, items
    )  # the last chunk's repeats
    logits = lax.dot_general(
        jnp.swapaxes(embeddings.contexts, 0, 1), rows, (((2,), (2,)), ((0,), (0,))),
        preferred_element_type=_of_sums(rows.dtype),
    )  # fmt: skip
    return _masked(logits, contexts, items, environment, layout.num_items), rows


def _of_sums(dtype: Any) -> Any:
    """The dtype in which products of this dtype are added up."""
    return jnp.float32 if dtype in (jnp.bfloat16, jnp.float16) else dtype


def _block_statistics(embeddings: Embeddings, contexts, environment, layout: Layout):
    """The largest logit and the log-sum-exp of every block, [B, M, blocks of all chunks] each."""

    def body(_, chunk):
        logits, _ = _score_chunk(embeddings, contexts, environment, chunk, layout)
        padding = layout.width * layout.blocks - layout.size
        logits = jnp.pad(logits, ((0, 0), (0, 0), (0, padding)), constant_values=-jnp.inf)
        blocks = logits.reshape(*logits.shape[:2], layout.width, layout.blocks)
        return None, (jnp.max(blocks, axis=2), log_sum_exp(blocks, axis=2))

    _, (peak, total) = lax.scan(body, None, jnp.arange(layout.chunks, dtype=jnp.int32))
    chunks, experts, batch, blocks = peak.shape

    def together(x):
        return jnp.transpose(x, (2, 1, 0, 3)).reshape(batch, experts, chunks * blocks)

    return together(peak), together(total)


def _open(context, embedding, items, environment, layout: Layout, blocks):
    """The ids and logits [M, width, n] of some blocks of every expert, [M, n], or of all experts, [n]."""
    blocks = jnp.broadcast_to(blocks, (items.shape[0], blocks.shape[-1]))
    ids = jax.vmap(layout.items_of)(blocks)

    def one(ids, rows, embedding):
        flat = ids.reshape(-1)
        logits = jnp.sum(rows.at[flat].get(mode="clip") * embedding[None], axis=-1)
        logits = logits.astype(_of_sums(rows.dtype))
        masked = _masked(logits[None, None], context[None], flat, environment, layout.num_items)
        return masked[0, 0].reshape(ids.shape)

    return ids, jax.vmap(one)(ids, items, embedding)


def _search(key, peak, total, opened, quotas: Quotas, statistics: Statistics, layout: Layout):
    """One context's draw and listing, and the shift of its logits; `_divide` adds the gradient."""
    depth = min(layout.num_items, sum(quotas) + 1)
    shift = jnp.max(peak, axis=1)
    shift = jnp.where(jnp.isfinite(shift), shift, 0)
    total = total - shift[:, None]

    def first_items(values, ids):
        """The first `depth` of the opened items of one expert; masked ones stand behind."""
        values, place = largest(values.reshape(-1), depth)
        return ids.reshape(-1)[place], values

    noise_of_blocks, noise_within = jax.random.split(key)
    noise = jax.random.gumbel(noise_of_blocks, total.shape, total.dtype, mode="high")
    opens = min(depth, total.shape[1])
    first, block = largest(total + noise, opens)
    ids, logits = opened(block)
    noise = jax.random.gumbel(noise_within, (len(quotas), ids[0].size), total.dtype, mode="high")
    raced = jax.vmap(finish)(first, logits - shift[:, None, None], noise)
    arrived, perturbed = jax.vmap(first_items)(raced, ids)
    items = fill_quotas(arrived, quotas)[0]

    order, listed = arrived, items
    if statistics == "greedy":
        ids, logits = opened(largest(peak, opens)[1])
        order = jax.vmap(first_items)(logits, ids)[0]
    if statistics in ("greedy", "arrivals"):
        listed = jnp.concatenate([items, order.reshape(-1)])
    listing = _list(listed, total, shift, opened, layout)
    sound = jnp.max(peak) < jnp.inf
    return Candidates(items, listing, order, perturbed, sound), shift


def _list(ids, total, shift, opened, layout: Layout) -> Listing:
    """The listing of some items: the sums of blocks without any, and what is left of the other blocks."""
    items = jnp.sort(ids)
    touched = jnp.sort(layout.block_of(items))
    again = _repeats(touched)
    untouched = total.at[:, jnp.where(again, total.shape[1], touched)].set(-jnp.inf, mode="drop")
    _, logits = opened(touched)
    logits = logits - shift[:, None, None]
    row = layout.row_of(items)
    column = jnp.searchsorted(touched, layout.block_of(items)).astype(jnp.int32)
    off_list = jnp.tile(~again, (layout.width, 1)).at[row, column].set(False)
    left_over = log_sum_exp(
        logits.reshape(logits.shape[0], -1),
        where=jnp.tile(off_list.reshape(-1), (logits.shape[0], 1)),
    )
    return Listing(
        items=items,
        logits=jnp.where(_repeats(items), -jnp.inf, logits[:, row, column]),
        log_rest=log_add(log_sum_exp(untouched), left_over),
    )


def _repeats(ascending: Int[Array, "n"]) -> Bool[Array, "n"]:
    """Which entries of an ascending list were there before."""
    return jnp.concatenate([jnp.zeros(1, bool), ascending[1:] == ascending[:-1]])


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _divide(layout: Layout, embeddings, contexts, environment, items, shift, values):
    """The listed logits and log_rest as they were found, with a gradient in the embeddings."""
    return values


def _divide_fwd(layout: Layout, embeddings, contexts, environment, items, shift, values):
    saved = embeddings, contexts, environment, items, shift, values[1]
    return values, saved


def _divide_bwd(layout: Layout, saved, cotangents):
    """Score every chunk again: the share of each item in log_rest, or what its place on the list receives."""
    embeddings, contexts, environment, items, shift, log_rest = saved
    to_listed, to_rest = cotangents  # [B, M, C], [B, M]
    level = (jnp.where(jnp.isneginf(log_rest), jnp.inf, log_rest) + shift).T[:, :, None]
    to_rest = to_rest.T[:, :, None]
    once = jnp.where(jax.vmap(_repeats)(items), layout.num_items, items)
    rows_of_batch = jnp.arange(items.shape[0], dtype=jnp.int32)[:, None]
    vectors = jnp.swapaxes(embeddings.contexts, 0, 1)

    def body(carry, chunk):
        to_vectors, to_items = carry
        logits, rows = _score_chunk(embeddings, contexts, environment, chunk, layout)
        here = (once >= chunk * layout.size) & (once < (chunk + 1) * layout.size)
        place = jnp.where(here, once - layout.origin(chunk), layout.size)
        share = to_rest * jnp.exp(logits - level)
        share = share.at[:, rows_of_batch, place].set(
            jnp.swapaxes(to_listed, 0, 1), mode="drop", unique_indices=True
        )
        share = jnp.where(jnp.isneginf(logits), 0, share).astype(rows.dtype)
        to_vectors = to_vectors + lax.dot_general(share, rows, (((2,), (1,)), ((0,), (0,))))
        to_rows = lax.dot_general(share, vectors, (((1,), (1,)), ((0,), (0,))))
        start = layout.origin(chunk)
        before = lax.dynamic_slice_in_dim(
            to_items, start, layout.size, 1
        )  # the last chunk's repeats
        to_items = lax.dynamic_update_slice_in_dim(to_items, before + to_rows, start, 1)
        return (to_vectors, to_items), None

    zeros = jnp.zeros_like(vectors), jnp.zeros_like(embeddings.items)
    chunks = jnp.arange(layout.chunks, dtype=jnp.int32)
    (to_vectors, to_items), _ = lax.scan(body, zeros, chunks)
    gradient = Embeddings(contexts=jnp.swapaxes(to_vectors, 0, 1), items=to_items)
    return gradient, None, None, None, None, None


_divide.defvjp(_divide_fwd, _divide_bwd)
