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

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import lax

from rankpg.arrivals import finish
from rankpg.listing import Listing
from rankpg.numerics import largest, log_add, log_sum_exp, of_sums
from rankpg.plackett_luce import fill_quotas
from rankpg.retrieval.dense import Candidates, Statistics
from rankpg.retrieval.layout import Layout, layout_for
from rankpg.types import Array, Bool, Embeddings, Environment, Float, Int, Key, Quotas

__all__ = ["retrieve_streamed"]

_OPENED = 2**21
"""Numbers of the item table, about, that are read together for opened blocks."""


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
    shift, total, peak = _block_statistics(
        fixed, contexts, environment, layout, with_peaks=statistics == "greedy"
    )

    def search(of):
        key, context, embedding, shift, total, peak = of
        opened = partial(_open, context, embedding, fixed.items, environment, layout)
        return _search(key, shift, total, peak, opened, quotas, statistics, layout)

    rows = keys, contexts, fixed.contexts, shift, total, peak
    read = min(num_items, sum(quotas) + 1) * layout.width * fixed.items[:, 0].size
    found = _by_row(search, rows, at_once=max(1, _OPENED // read))
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


def _by_row(function: Callable[[Any], Candidates], rows: Any, at_once: int) -> Candidates:
    """The function of every row, of `at_once` rows together at most."""
    batch = len(jax.tree.leaves(rows)[0])
    if batch <= at_once:
        return jax.vmap(function)(rows)
    parts = next(n for n in range(-(-batch // at_once), batch + 1) if batch % n == 0)
    apart = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), rows)
    found = lax.map(jax.vmap(function), apart)
    return jax.tree.map(lambda x: x.reshape(batch, *x.shape[2:]), found)


def _masked(
    logits: Float[Array, "M n B"],
    contexts: Int[Array, "B"],
    items: Int[Array, "n"],
    environment: Environment,
) -> Float[Array, "M n B"]:
    """Logits, -inf for items that are not eligible."""
    one = jax.vmap(lambda context: environment.eligible(context, items), out_axes=1)
    eligible = one(contexts)
    return logits if eligible is None else jnp.where(eligible[None], logits, -jnp.inf)


def _score(
    vectors: Float[Array, "M D B"],
    rows: Float[Array, "M n D"],
    start: Int[Array, ""],
    contexts: Int[Array, "B"],
    environment: Environment,
) -> Float[Array, "M n B"]:
    """The logits of a chunk. Contexts come last: so a block is a run of rows, and XLA's CPU compiler
    vectorises along the batch."""
    logits = lax.dot_general(
        rows, vectors, (((2,), (1,)), ((0,), (0,))), preferred_element_type=of_sums(rows.dtype)
    )
    items = start + jnp.arange(rows.shape[1], dtype=jnp.int32)
    return _masked(logits, contexts, items, environment)


def _block_statistics(
    embeddings: Embeddings, contexts, environment, layout: Layout, *, with_peaks: bool
) -> tuple[Float[Array, "B M"], Float[Array, "B M blocks"], Float[Array, "B M blocks"] | None]:
    """Every context's largest logit, and of every block the log-sum-exp and, if asked, the largest logit."""
    vectors = jnp.transpose(embeddings.contexts, (1, 2, 0))

    def body(top, start, rows):
        logits = _score(vectors, rows, start, contexts, environment)
        padding = -rows.shape[1] % layout.width
        logits = jnp.pad(logits, ((0, 0), (0, padding), (0, 0)), constant_values=-jnp.inf)
        blocks = logits.reshape(logits.shape[0], -1, layout.width, logits.shape[2])
        peak, total = jnp.max(blocks, axis=2), log_sum_exp(blocks, axis=2)
        top = jnp.maximum(top, jnp.max(peak, axis=1))
        return top, (total, peak if with_peaks else None)

    lowest = jnp.full_like(vectors[:, 0], -jnp.inf, dtype=of_sums(vectors.dtype))
    top, blocks = layout.scan(body, lowest, embeddings.items)
    total, peak = jax.tree.map(lambda x: jnp.transpose(x, (2, 0, 1)), blocks)
    return top.T, total, peak


def _open(
    context: Int[Array, ""],
    embedding: Float[Array, "M D"],
    items: Float[Array, "M N D"],
    environment: Environment,
    layout: Layout,
    blocks: Int[Array, "M n"],
) -> tuple[Int[Array, "M n width"], Float[Array, "M n width"]]:
    """The ids of some blocks' items, and their logits; -inf for an item of the block before."""

    def one(blocks, table, embedding):
        start = layout.start_of(blocks)
        rows = jax.vmap(lambda s: lax.dynamic_slice_in_dim(table, s, layout.width))(start)
        ids = start[:, None] + jnp.arange(layout.width, dtype=jnp.int32)[None]
        logits = lax.dot_general(
            rows.reshape(-1, rows.shape[2]), embedding, (((1,), (0,)), ((), ())),
            preferred_element_type=of_sums(rows.dtype),
        )  # fmt: skip
        logits = _masked(logits[None, :, None], context[None], ids.reshape(-1), environment)
        there = ids >= blocks[:, None] * layout.width
        return ids, jnp.where(there, logits.reshape(ids.shape), -jnp.inf)

    return jax.vmap(one)(blocks, items, embedding)


def _search(
    key, shift, total, peak, opened, quotas: Quotas, statistics: Statistics, layout: Layout
) -> Candidates:
    """One context's draw and listing; `_divide` adds the gradient."""
    depth = min(layout.num_items, sum(quotas) + 1)
    sound = jnp.max(shift) < jnp.inf  # a maximum passes NaN on, and NaN is not less
    shift = jnp.where(jnp.isfinite(shift), shift, 0)
    total = total - shift[:, None]

    def first_items(values, ids):
        """The first `depth` of the opened items of one expert; masked ones stand behind."""
        values, place = largest(values.reshape(-1), depth)
        return ids.reshape(-1)[place], values

    noise_of_blocks, noise_within = jax.random.split(key)
    noise = jax.random.gumbel(noise_of_blocks, total.shape, total.dtype, mode="high")
    opens = min(depth, layout.num_blocks)
    first, block = largest(total + noise, opens)
    ids, logits = opened(block)
    noise = jax.random.gumbel(noise_within, logits.shape, total.dtype, mode="high")
    raced = finish(first, logits - shift[:, None, None], noise, axis=-1)
    arrived, perturbed = jax.vmap(first_items)(raced, ids)
    items = fill_quotas(arrived, quotas)[0]

    order, listed = arrived, items
    if statistics == "greedy":
        ids, logits = opened(largest(peak, opens)[1])
        order = jax.vmap(first_items)(logits, ids)[0]
    if statistics in ("greedy", "arrivals"):
        listed = jnp.concatenate([items, order.reshape(-1)])
    return Candidates(
        items=items,
        listing=_list(listed, total, shift, opened, layout),
        order=order,
        perturbed=perturbed,
        sound=sound,
    )


def _list(ids, total, shift, opened, layout: Layout) -> Listing:
    """The listing of some items: the sums of blocks without any, and what is left of the other blocks."""
    items = jnp.sort(ids)
    touched = layout.block_of(items)  # ascending, as the items
    again = _repeats(touched)
    untouched = total.at[:, jnp.where(again, total.shape[1], touched)].set(-jnp.inf, mode="drop")
    _, logits = opened(jnp.broadcast_to(touched, (total.shape[0], len(touched))))
    logits = logits - shift[:, None, None]
    row = layout.row_of(items)
    place = jnp.searchsorted(touched, touched).astype(jnp.int32)  # where its block was opened first
    off_list = jnp.tile(~again[:, None], (1, layout.width)).at[place, row].set(False)
    left_over = jnp.where(off_list[None], logits, -jnp.inf).reshape(len(logits), -1)
    return Listing(
        items=items,
        logits=jnp.where(_repeats(items), -jnp.inf, logits[:, place, row]),
        log_rest=log_add(log_sum_exp(untouched), log_sum_exp(left_over)),
    )


def _repeats(ascending: Int[Array, "n"]) -> Bool[Array, "n"]:
    """Which entries of an ascending list were there before."""
    return jnp.concatenate([jnp.zeros(1, bool), ascending[1:] == ascending[:-1]])


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _divide(layout: Layout, embeddings, contexts, environment, items, shift, values):
    """The listed logits and log_rest as they were found, with a gradient in the embeddings."""
    return values


def _divide_fwd(layout: Layout, embeddings, contexts, environment, items, shift, values):
    saved = embeddings, contexts, environment, items, shift, values
    return values, saved


def _divide_bwd(layout: Layout, saved, cotangents):
    """Score every chunk again: the share of each item in log_rest, or what its place on the list receives."""
    embeddings, contexts, environment, items, shift, (listed, log_rest) = saved
    to_listed, to_rest = cotangents  # [B, M, C], [B, M]
    to_listed = jnp.transpose(jnp.where(jnp.isneginf(listed), 0, to_listed), (1, 2, 0))
    shift = jnp.where(jnp.isfinite(shift), shift, 0)
    level = (jnp.where(jnp.isneginf(log_rest), jnp.inf, log_rest) + shift).T[:, None]
    to_rest = to_rest.T[:, None]
    once = jnp.where(jax.vmap(_repeats)(items), layout.num_items, items).T  # [C, B]
    column = jnp.arange(once.shape[1], dtype=jnp.int32)[None]
    flat, upright = (jnp.transpose(embeddings.contexts, axes) for axes in ((1, 0, 2), (1, 2, 0)))

    def body(carry, start, rows):
        to_vectors, to_items = carry
        logits = _score(upright, rows, start, contexts, environment)
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
    (to_vectors, to_items), _ = layout.scan(body, zeros, embeddings.items)
    gradient = Embeddings(contexts=jnp.transpose(to_vectors, (2, 0, 1)), items=to_items)
    return gradient, None, None, None, None, None


_divide.defvjp(_divide_fwd, _divide_bwd)
