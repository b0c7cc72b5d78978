"""Streamed retrieval: a pass over the catalogue in chunks, with nothing of size B x N in memory.

One pass over the items gives two numbers for every block of a few items: the largest logit, and the
log-sum-exp. For most of the catalogue, a draw needs nothing else:

    race      the first arrivals of blocks are drawn from their sums; only the earliest blocks are opened
    greedy    only the blocks with the largest maxima are opened
    log_rest  the sums of blocks without a candidate, and the other items of blocks with one

Opening a block means computing the logits of its items again. The gradient takes a second pass (passes.py).

`find` does this for one shard of the catalogue and combines the shards. Here the shard is the whole
catalogue; in sharded.py every device has one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from rankpg.core.estimators import Candidates, Statistics
from rankpg.core.numerics import accumulation_dtype, log_add, log_sum_exp
from rankpg.core.plackett_luce import SparseLogits, repeats
from rankpg.core.sampling import (
    condition_on_maximum,
    drop_taken,
    gumbel_noise,
    order_depth,
    take_quotas,
)
from rankpg.retrieval.base import (
    FLOAT_BYTES,
    Encoded,
    Retrieval,
    check_rescorable,
    require_embeddings,
)
from rankpg.retrieval.layout import Layout, Shard, layout_for
from rankpg.retrieval.passes import masked, pull_back, score, with_gradient
from rankpg.types import Array, Bool, Embeddings, Environment, Float, Int, Key, Quotas

__all__ = ["Streamed", "bytes_per_context", "find"]

Row = tuple[jax.Array | None, ...]
"""Everything that the search for one context's candidates reads; of a batch, with a leading axis B."""

Opener = Callable[[Int[Array, "M n"]], tuple[Int[Array, "M n width"], Float[Array, "M n width"]]]
"""From the indices of blocks to the item ids and logits of these blocks."""

_OPENED = 2**21
"""Approximate number of values of the item table that are read together for opened blocks."""


@dataclass(frozen=True)
class Streamed(Retrieval):
    """Passes over the catalogue in chunks: nothing of size B x N is ever in memory, so N may be large."""

    layout: Layout | None = None
    """Chunks and blocks; None takes `layout_for`."""
    reason: str = "as requested"
    name: ClassVar[str] = "streamed"

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
        too few eligible items leaves slots empty (-1), where `Dense` takes masked items.

        Args:
          keys, contexts, environment, quotas, statistics: as in `Retrieval.sample`.
          encoded: embeddings.

        Raises:
          ValueError: logits instead of embeddings, or a score that reads the logits of the whole catalogue.
        """
        return self._candidates(keys, encoded, contexts, environment, quotas, statistics)

    def rescore(
        self,
        items: Int[Array, "B K"],
        encoded: Encoded,
        contexts: Int[Array, "B"],
        environment: Environment,
        quotas: Quotas,
        statistics: Statistics,
    ) -> Candidates:
        """Rescores given candidates; see `Retrieval.rescore`.

        Raises:
          ValueError: a score that reads the logits of the whole catalogue, or the noise of the draw.
        """
        check_rescorable(statistics)
        return self._candidates(items, encoded, contexts, environment, quotas, statistics)

    def _candidates(
        self,
        draws: Key[Array, "B"] | Int[Array, "B K"],
        encoded: Encoded,
        contexts: Int[Array, "B"],
        environment: Environment,
        quotas: Quotas,
        statistics: Statistics,
    ) -> Candidates:
        embeddings = require_embeddings(encoded, self.name)
        num_items = embeddings.items.shape[1]
        shard = Shard(self.layout or layout_for(num_items, min(num_items, sum(quotas) + 1)))
        fixed = lax.stop_gradient(embeddings)
        found, shift = find(shard, quotas, statistics, draws, fixed, contexts, environment)
        back = partial(pull_back, shard)
        return with_gradient(back, embeddings, contexts, environment, found, shift)

    def peak_bytes(
        self, batch_size: int, num_experts: int, num_items: int, num_candidates: int
    ) -> int:
        """Logits of a chunk, block sums and opened blocks of every context."""
        layout = layout_for(num_items, min(num_items, num_candidates + 1))
        return batch_size * num_experts * bytes_per_context(layout, num_items, num_candidates)


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

    if jnp.issubdtype(draw.dtype, jax.dtypes.prng_key):
        order, perturbed = without_taken(*race(draw))
        items = take_quotas(order, quotas)
    else:
        order, perturbed = jnp.zeros((experts, 0), jnp.int32), jnp.zeros((experts, 0), total.dtype)
        items = draw
    listed = items
    if statistics == "greedy":
        ids, logits = open_blocks(first_blocks(peak)[1])
        order, _ = without_taken(*jax.vmap(first_items)(logits, ids))
    if statistics in ("greedy", "arrivals"):
        listed = jnp.concatenate([items, order.reshape(-1)])
    return Candidates(
        items=items,
        sparse_logits=_gather(listed, total, shift, open_blocks, shard),
        order=order if statistics in ("greedy", "arrivals") else order[:, :0],
        perturbed=perturbed if statistics == "arrivals" else perturbed[:, :0],
        sound=sound,
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
