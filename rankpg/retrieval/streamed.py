"""Streamed retrieval: the catalogue passes by in chunks, and nothing of size B x N is ever in memory.

One pass over the items answers two numbers for every block of a few of them: the largest logit, and the
log-sum-exp. They are all that a draw needs to know of most of the catalogue:

    race      the first arrivals of blocks are drawn from their sums, and only the earliest blocks are opened
    greedy    only the blocks with the largest maxima are opened
    log_rest  the sums of the blocks that hold no listed item, and what is not listed of the others: opened

An opened block is scored again, item by item. The gradient takes a second pass: second_pass.py.

`find` does this for a part of the catalogue and puts the parts together; here the part is all of it, in
sharded.py every device has one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rankpg.core.estimators import Candidates, Statistics
from rankpg.core.gumbel_noise import gumbel_noise
from rankpg.core.numerics import accumulation_dtype, log_add, log_sum_exp
from rankpg.core.plackett_luce import SparseLogits, repeats
from rankpg.core.sampling import (
    condition_on_maximum,
    drop_taken,
    order_depth,
    take_quotas,
)
from rankpg.retrieval.layout import Layout, Part, layout_for
from rankpg.retrieval.passes import masked, pull_back, score, with_gradient
from rankpg.types import Array, Embeddings, Environment, Float, Int, Key, Quotas

__all__ = ["describe_streamed", "find", "retrieve_streamed"]

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
    exactly equal at the cut, any may be taken. An expert that finds too few eligible items leaves slots empty
    (-1), where the dense one takes masked items.

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
    part = Part(layout or _layout(embeddings, quotas))
    fixed = lax.stop_gradient(embeddings)
    found, shift = find(part, quotas, statistics, keys, fixed, contexts, environment)
    return with_gradient(partial(pull_back, part), embeddings, contexts, environment, found, shift)


def describe_streamed(
    items: Int[Array, "B K"],
    embeddings: Embeddings,
    contexts: Int[Array, "B"],
    environment: Environment,
    quotas: Quotas,
    statistics: Statistics,
    layout: Layout | None = None,
) -> Candidates:
    """Describe candidates that were drawn before, as `dense.describe` does for one context.

    Args:
      items: the candidates of every context, in slot order.
      embeddings, contexts, environment, quotas, layout: as `retrieve_streamed`.
      statistics: "candidates" or "greedy".

    Raises:
      ValueError: a score that needs the logits of the whole catalogue, or the noise that drew.
    """
    if statistics == "arrivals":
        raise ValueError("this score needs the noise that drew; expected retrieve_streamed")
    part = Part(layout or _layout(embeddings, quotas))
    fixed = lax.stop_gradient(embeddings)
    found, shift = find(part, quotas, statistics, items, fixed, contexts, environment)
    return with_gradient(partial(pull_back, part), embeddings, contexts, environment, found, shift)


def _layout(embeddings: Embeddings, quotas: Quotas) -> Layout:
    num_items = embeddings.items.shape[1]
    return layout_for(num_items, min(num_items, sum(quotas) + 1))


def find(
    part: Part,
    quotas: Quotas,
    statistics: Statistics,
    draws: Key[Array, "B"] | Int[Array, "B K"],
    embeddings: Embeddings,
    contexts: Int[Array, "B"],
    environment: Environment,
) -> tuple[Candidates, Float[Array, "B M"]]:
    """The candidates without a gradient, and every context's largest logit.

    Args:
      part: whose items these are; every device answers the same.
      quotas, statistics, contexts, environment: as `retrieve_streamed`.
      draws: a key a context, or the candidates that were drawn before.
      embeddings: contexts [B, M, D] and the part's items [M, rows, D].

    Raises:
      ValueError: a score that needs the logits of the whole catalogue.
      TypeError: keys that are words, as `jax.random.PRNGKey` makes them.
    """
    if draws.dtype == jnp.uint32:
        raise TypeError(
            f"keys are uint32{list(draws.shape)}; expected typed ones, such as "
            "jax.random.split(jax.random.key(0), B)"
        )
    if statistics == "catalogue":
        raise ValueError("this score lists the whole catalogue; expected retrieval dense")
    shift, total, peak = _block_statistics(
        embeddings, contexts, environment, part, with_peaks=statistics == "greedy"
    )
    finite = jnp.max(shift, axis=1) < jnp.inf  # NaN is not less, and a maximum passes it on
    sound = part.everywhere(finite)
    shift = part.highest(shift)

    def search(of):
        draw, context, embedding, sound, shift, total, peak = of
        opened = partial(_open, context, embedding, embeddings.items, environment, part)
        return _search(draw, sound, shift, total, peak, opened, quotas, statistics, part)

    rows = draws, contexts, embeddings.contexts, sound, shift, total, peak
    read = min(part.rows, sum(quotas) + 1) * part.width * embeddings.items[:, 0].size
    return _by_row(search, rows, at_once=max(1, _OPENED // read)), shift


def _by_row(function: Callable[[Any], Candidates], rows: Any, at_once: int) -> Candidates:
    """The function of every row, of `at_once` rows together at most."""
    batch = len(jax.tree.leaves(rows)[0])
    if batch <= at_once:
        return jax.vmap(function)(rows)
    parts = next(n for n in range(-(-batch // at_once), batch + 1) if batch % n == 0)
    apart = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), rows)
    found = lax.map(jax.vmap(function), apart)
    return jax.tree.map(lambda x: x.reshape(batch, *x.shape[2:]), found)


def _block_statistics(
    embeddings: Embeddings, contexts, environment, part: Part, *, with_peaks: bool
) -> tuple[Float[Array, "B M"], Float[Array, "B M blocks"], Float[Array, "B M blocks"] | None]:
    """Of what is here: every context's largest logit, and each block's log-sum-exp and, if asked, largest."""
    vectors = jnp.transpose(embeddings.contexts, (1, 2, 0))

    def body(top, start, rows):
        logits = score(vectors, rows, start, contexts, environment, part)
        padding = -rows.shape[1] % part.width
        logits = jnp.pad(logits, ((0, 0), (0, padding), (0, 0)), constant_values=-jnp.inf)
        blocks = logits.reshape(logits.shape[0], -1, part.width, logits.shape[2])
        peak, total = jnp.max(blocks, axis=2), log_sum_exp(blocks, axis=2)
        top = jnp.maximum(top, jnp.max(peak, axis=1))
        return top, (total, peak if with_peaks else None)

    lowest = jnp.full_like(vectors[:, 0], -jnp.inf, dtype=accumulation_dtype(vectors.dtype))
    top, blocks = part.layout.scan(body, lowest, embeddings.items)
    total, peak = jax.tree.map(lambda x: jnp.transpose(x, (2, 0, 1)), blocks)
    return top.T, total, peak


def _open(
    context: Int[Array, ""],
    embedding: Float[Array, "M D"],
    items: Float[Array, "M rows D"],
    environment: Environment,
    part: Part,
    blocks: Int[Array, "M n"],
) -> tuple[Int[Array, "M n width"], Float[Array, "M n width"]]:
    """The ids of some blocks' items, and their logits; -inf for an item of the block before, and for a block
    that is not here."""
    layout, first = part.layout, part.first_block() * part.width

    def one(blocks, table, embedding):
        blocks, here = part.local(blocks)
        start = layout.start_of(blocks)
        rows = jax.vmap(lambda s: lax.dynamic_slice_in_dim(table, s, layout.width))(start)
        place = start[:, None] + jnp.arange(layout.width, dtype=jnp.int32)[None]
        ids = first + place
        logits = lax.dot_general(
            rows.reshape(-1, rows.shape[2]), embedding, (((1,), (0,)), ((), ())),
            preferred_element_type=accumulation_dtype(rows.dtype),
        )  # fmt: skip
        logits = masked(logits[None, :, None], context[None], ids.reshape(-1), environment, part)
        there = here[:, None] & (place >= blocks[:, None] * layout.width)
        return ids, jnp.where(there, logits.reshape(ids.shape), -jnp.inf)

    return jax.vmap(one)(blocks, items, embedding)


def _search(
    draw, sound, shift, total, peak, opened, quotas: Quotas, statistics: Statistics, part: Part
) -> Candidates:
    """One context's draw, from a key, and sparse; `with_gradient` adds the gradient."""
    depth = min(part.whole.num_items, sum(quotas) + 1)
    opens = min(depth, part.whole.num_blocks)
    shift = jnp.where(jnp.isfinite(shift), shift, 0)
    total = total - shift[:, None]
    experts, count = total.shape
    here = part.first_block() + jnp.arange(count, dtype=jnp.int32)

    def first_blocks(values):
        """The first blocks of every expert, by their places in the catalogue."""
        return jax.vmap(lambda v: part.first(v, here, opens))(values)

    def first_items(values, ids):
        """The first `depth` of the opened items of one expert; -1 where no eligible one is left."""
        values, ids = part.first(values.reshape(-1), ids.reshape(-1), depth)
        return jnp.where(jnp.isneginf(values), -1, ids), values

    def race(key):
        """The first items of every expert to arrive, and their perturbed logits."""
        of_blocks, within = (
            jax.vmap(lambda m, k=k: jax.random.fold_in(k, m))(jnp.arange(experts, dtype=jnp.int32))
            for k in jax.random.split(key)
        )
        noise = jax.vmap(lambda k: gumbel_noise(k, here, total.dtype))(of_blocks)
        arrival, block = first_blocks(total + noise)
        ids, logits = opened(block)
        place = block[..., None] * part.width + jnp.arange(part.width, dtype=jnp.int32)[None, None]
        noise = jax.vmap(lambda k, p: gumbel_noise(k, p.reshape(-1), total.dtype))(within, place)
        raced = condition_on_maximum(
            arrival, logits - shift[:, None, None], noise.reshape(place.shape), axis=-1
        )
        return jax.vmap(first_items)(raced, ids)

    def left(order, values):
        """What of every expert's order the experts before it leave, and the values there."""
        order, places = drop_taken(order, quotas, order_depth(part.whole.num_items, quotas))
        return order, jnp.take_along_axis(values, places, axis=1, mode="fill", fill_value=-jnp.inf)

    if jnp.issubdtype(draw.dtype, jax.dtypes.prng_key):
        order, perturbed = left(*race(draw))
        items = take_quotas(order, quotas)
    else:
        order, perturbed = jnp.zeros((experts, 0), jnp.int32), jnp.zeros((experts, 0), total.dtype)
        items = draw
    listed = items
    if statistics == "greedy":
        ids, logits = opened(first_blocks(peak)[1])
        order, _ = left(*jax.vmap(first_items)(logits, ids))
    if statistics in ("greedy", "arrivals"):
        listed = jnp.concatenate([items, order.reshape(-1)])
    return Candidates(
        items=items,
        sparse_logits=_list(listed, total, shift, opened, part),
        order=order if statistics in ("greedy", "arrivals") else order[:, :0],
        perturbed=perturbed if statistics == "arrivals" else perturbed[:, :0],
        sound=sound,
    )


def _list(ids, total, shift, opened, part: Part) -> SparseLogits:
    """Sparse logits of some items, from block sums and opened blocks."""
    items = jnp.sort(jnp.where(ids < 0, jnp.max(ids), ids))
    touched = part.whole.block_of(items)  # ascending, as the items
    again = repeats(touched)
    block, here = part.local(touched)
    drop = jnp.where(again | ~here, part.num_blocks, block)
    untouched = total.at[:, drop].set(-jnp.inf, mode="drop")
    _, logits = opened(jnp.broadcast_to(touched, (total.shape[0], len(touched))))
    logits = logits - shift[:, None, None]
    start = part.first_block() * part.width + part.layout.start_of(block)
    row = jnp.where(here, items - start, 0)
    place = jnp.searchsorted(touched, touched).astype(jnp.int32)  # where its block was opened first
    off_list = jnp.tile(~again[:, None], (1, part.width)).at[place, row].set(False)
    left_over = jnp.where(off_list[None], logits, -jnp.inf).reshape(len(logits), -1)
    return SparseLogits(
        items=items,
        logits=jnp.where(repeats(items), -jnp.inf, part.highest(logits[:, place, row])),
        log_rest=part.log_sum(log_add(log_sum_exp(untouched), log_sum_exp(left_over))),
    )
