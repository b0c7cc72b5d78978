"""Who arrives first: the first items of every expert's Plackett-Luce order, exactly.

Give item i the arrival time Exp(1) / w_i, w_i = exp(f_i). The order of arrival is the Plackett-Luce order,
and minus the log of an arrival time is the perturbed logit f_i + G_i, G_i standard Gumbel. Two ways to
draw it:

    gumbel_top_k   a Gumbel variate for every item: N variates
    block_race     first which blocks of items come first, then who within them: 2 sqrt(N depth) variates

Both have the same law. The race costs less where the catalogue is much larger than the depth.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rankpg.gumbel_noise import gumbel_at
from rankpg.numerics import largest, log_sum_exp
from rankpg.quotas import in_turn, order_depth
from rankpg.types import Array, Float, Int, PRNGKey, Quotas

__all__ = ["arrivals", "block_race", "block_width", "finish", "gumbel_top_k"]


def arrivals(
    key: PRNGKey, logits: Float[Array, "M N"], quotas: Quotas
) -> tuple[Int[Array, "M depth"], Float[Array, "M depth"]]:
    """Every expert's order of f + Gumbel noise, of what the experts before it have left, and those sums.

    Expert m takes the first K_m of its own (`quotas.take_quotas`). An order has `quotas.order_depth` items,
    whoever calls, so that one key means one draw.

    Args:
      key: consumed.
      logits: f_m(a), centred (`numerics.centre`); -inf masks an item, which then never arrives.
      quotas: how many slots each expert fills.

    >>> order, perturbed = arrivals(jax.random.key(0), jnp.array([[0.0, 90.0, 60.0, 30.0]]), (2,))
    >>> order
    Array([[1, 2, 3]], dtype=int32)
    """
    depth = order_depth(logits.shape[1], quotas)
    width = block_width(logits.shape[1], depth)

    def first(expert, row):
        own = key if len(quotas) == 1 else jax.random.fold_in(key, expert)
        if width == 1:
            order, perturbed = gumbel_top_k(own, row[None], depth)
        else:
            order, perturbed = block_race(own, row[None], depth, width)
        return order[0], perturbed[0]

    logits = lax.stop_gradient(logits)
    order, perturbed = in_turn(logits, quotas, first)
    masked = jnp.isneginf(jnp.take_along_axis(logits, order, axis=1))
    return order, jnp.where(masked, -jnp.inf, perturbed)


def block_width(num_items: int, depth: int) -> int:
    """The width of a race's blocks, near sqrt(N / depth); 1, no race, where it would not halve the variates.

    >>> block_width(1000, 11), block_width(1000, 201), block_width(10**6, 101)
    (10, 1, 100)
    """
    width = max(1, round(math.sqrt(num_items / depth)))
    variates = -(-num_items // width) + depth * width
    return width if 2 * variates <= num_items else 1


def gumbel_top_k(
    key: PRNGKey, logits: Float[Array, "M N"], depth: int
) -> tuple[Int[Array, "M depth"], Float[Array, "M depth"]]:
    """The first `depth` items of each expert and their perturbed logits, a Gumbel variate for every item."""
    noise = _noise(key, logits.shape, logits.dtype)
    perturbed, order = largest(logits + noise, depth)
    return order, perturbed


def _noise(key: PRNGKey, shape: tuple[int, ...], dtype: Any) -> Float[Array, "M n"]:
    """Standard Gumbel noise, expert by expert."""
    places = jnp.arange(math.prod(shape), dtype=jnp.int32)
    return gumbel_at(key, places, dtype).reshape(shape)


def block_race(
    key: PRNGKey, logits: Float[Array, "M N"], depth: int, width: int
) -> tuple[Int[Array, "M depth"], Float[Array, "M depth"]]:
    """The first `depth` items of each expert and their perturbed logits, by N / width + depth * width draws.

    Block j as a whole first arrives at T_j = Exp(1) / S_j, S_j the sum of its weights, and only the `depth`
    earliest blocks can hold the first `depth` items. Within a block let E_i = Exp(1) / w_i: by memorylessness
    the items arrive at T_j + E_i - min E. All of it in log space, block by block, so nothing under- or
    overflows:

        log arrival_i = logaddexp(log T_j, log E_i + log(1 - exp(min log E - log E_i)))

    Args:
      key: consumed.
      logits: centred; -inf masks an item. A masked item stands behind all others, with -inf.
      depth: how many arrivals, at most N.
      width: items a block; block j holds the items j, j + N / width, j + 2 N / width, ...
    """
    experts, num_items = logits.shape
    num_blocks = -(-num_items // width)
    padding = num_blocks * width - num_items
    padded = jnp.pad(logits, ((0, 0), (0, padding)), constant_values=-jnp.inf)
    blocks = padded.reshape(experts, width, num_blocks)
    # One flat draw: XLA's CPU compiler vectorises along the last axis only, and a block is short.
    variates = num_blocks + width * min(depth, num_blocks)
    noise = _noise(key, (experts, variates), logits.dtype)
    return jax.vmap(lambda b, n: _race(b, n[:num_blocks], n[num_blocks:], depth))(blocks, noise)


def _race(
    blocks: Float[Array, "width blocks"],
    noise_of_blocks: Float[Array, "blocks"],
    noise_within: Float[Array, "places"],
    depth: int,
) -> tuple[Int[Array, "depth"], Float[Array, "depth"]]:
    """One expert's race. A place is an item of one of the earliest blocks, row by row."""
    num_blocks = blocks.shape[1]
    earliest = min(depth, num_blocks)
    first, block = largest(log_sum_exp(blocks, axis=0) + noise_of_blocks, earliest)
    # Of equals top-k takes the first. So padding, which stands in the last row alone, never comes up
    # as long as the rows before it hold `depth` items, which `block_width` sees to.
    within = noise_within.reshape(-1, earliest)
    raced = finish(first, blocks[:, block], within, axis=0)
    perturbed, place = largest(raced.reshape(-1), depth)
    return place // earliest * num_blocks + block[place % earliest], perturbed


def finish(
    first: Float[Array, "..."], logits: Float[Array, "..."], noise: Float[Array, "..."], axis: int
) -> Float[Array, "..."]:
    """The perturbed logits of all items of some blocks.

    With y = max(f + G) - (f + G) over the block, s = max(f + G) - first, the arrival at T + E - min E is

        max(f + G) - log(exp(s) + expm1(y))

    with s and y less whatever s exceeds 40, and y alone where it then exceeds 80: what is left out is below
    exp(-40) of the rest.

    Args:
      first: minus the log of the blocks' first arrivals; one axis fewer than the logits.
      logits: of the blocks' items.
      noise: standard Gumbel, one an item.
      axis: of `logits`, along which a block lies.
    """
    perturbed = logits + noise
    best = jnp.max(perturbed, axis=axis, keepdims=True)
    empty = jnp.isneginf(best)
    best = jnp.where(empty, 0, best)
    ahead = jnp.where(empty, 0, best - jnp.expand_dims(first, axis))
    shift = jnp.maximum(ahead - 40, 0)
    # Flat from here: XLA's CPU compiler vectorises along the last axis only, and a block is short.
    wide = (jnp.broadcast_to(x, logits.shape) for x in (best - shift, jnp.exp(ahead - shift)))
    flat, top, lead = (x.reshape(-1) for x in (perturbed, *wide))
    behind = top - flat
    raced = top - jnp.where(behind > 80, behind, jnp.log(lead + jnp.expm1(jnp.minimum(behind, 80))))
    return raced.reshape(logits.shape)
