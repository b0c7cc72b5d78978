"""Experts and their slots: who fills which, and how they choose one after the other.

Expert 1 fills the first K_1 slots, expert 2 the next K_2 from what is left, and so on.

An expert's order need not be long: the first K_m + 1 items of what was left to it hold its quota, and hold it
in a catalogue without some item a, too. For the experts before it then take what they took, less a and plus
one item b at most, which takes a's place; and a itself is not in the order where they had taken it. So of the
K_m + 1 either a or b is missing, and not both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rankpg.core.numerics import centre, finite_masks, largest, log_sum_exp
from rankpg.core.validation import check_logits
from rankpg.types import Array, Float, Int, PRNGKey, Quotas

__all__ = [
    "arrivals",
    "block_race",
    "block_width",
    "drop_taken",
    "expert_quotas",
    "fill_quotas",
    "finish",
    "greedy_candidates",
    "greedy_in_turn",
    "greedy_order",
    "gumbel_at",
    "gumbel_top_k",
    "in_turn",
    "order_depth",
    "sample_candidates",
    "slot_experts",
    "take_quotas",
    "threefry",
]


def expert_quotas(num_candidates: int, num_experts: int) -> Quotas:
    """Split K slots over M experts: K // M each, one more for the first K % M.

    >>> expert_quotas(10, 4)
    (3, 3, 2, 2)
    """
    for name, value in (("num_candidates", num_candidates), ("num_experts", num_experts)):
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} is {value!r}; expected a whole number of at least 1")
    share, extra = divmod(num_candidates, num_experts)
    return tuple(share + (m < extra) for m in range(num_experts))


def slot_experts(quotas: Quotas) -> np.ndarray:
    """m(k): which expert fills slot k, int[K]."""
    return np.repeat(np.arange(len(quotas)), quotas)


def order_depth(num_items: int, quotas: Quotas) -> int:
    """How many items an expert's order holds: one more than the largest quota, N at most.

    >>> order_depth(1000, (4, 3, 3)), order_depth(3, (2, 1, 0))
    (5, 3)
    """
    return min(num_items, max(quotas) + 1)


def in_turn(
    logits: Float[Array, "M N"],
    quotas: Quotas,
    first: Callable[[Int[Array, ""], Float[Array, "N"]], tuple[Array, ...]],
) -> tuple[Array, ...]:
    """Every expert's order of what the experts before it have left.

    Args:
      logits: f_m(a); -inf masks an item.
      quotas: how many of its order each takes.
      first: `first(m, row)` answers expert m's order: items, and what else there is to each, [depth] and best
        first. `row` is its logits, with -inf for what has been taken and `numerics.finite_masks` for what is
        only masked: an expert that finds too few eligible items takes masked ones, and none twice.

    Returns:
      The answers, stacked to [M, depth].

    >>> best = lambda m, row: (lax.top_k(row, 2)[1],)
    >>> in_turn(jnp.array([[3.0, 2.0, 1.0, 0.0], [3.0, 0.0, 1.0, 2.0]]), (1, 1), best)[0]
    Array([[0, 1],
           [3, 2]], dtype=int32)
    """
    experts, num_items = logits.shape
    if experts == 1:
        return tuple(x[None] for x in first(jnp.int32(0), logits[0]))

    def turn(free, own):
        expert, row, quota = own
        found = first(expert, jnp.where(free, finite_masks(row), -jnp.inf))
        place = jnp.arange(found[0].shape[0], dtype=jnp.int32)
        taken = jnp.where(place < quota, found[0], num_items)
        return free.at[taken].set(False, mode="drop"), found

    turns = (jnp.arange(experts, dtype=jnp.int32), logits, jnp.asarray(quotas, jnp.int32))
    return lax.scan(turn, jnp.ones(num_items, bool), turns)[1]


def drop_taken(
    order: Int[Array, "M n"],
    quotas: Quotas,
    depth: int,
    excluded: Int[Array, ""] | None = None,
) -> tuple[Int[Array, "M depth"], Int[Array, "M depth"]]:
    """The same from orders that may hold what others take: of the whole catalogue, K + 1 items or all.

    Args:
      order: every expert's items in its own order of preference.
      quotas: how many each takes.
      depth: how many to answer, at least every quota.
      excluded: an item that is not in the catalogue at all; None excludes nothing.

    Returns:
      Every expert's order of what the experts before it have left, and the place of each item in the order it
      is from; -1 and n where a list ended.

    >>> drop_taken(jnp.array([[0, 1, 2], [0, 3, 2]]), (1, 1), 2)[0]
    Array([[0, 1],
           [3, 2]], dtype=int32)
    """
    length = order.shape[1]
    everything = jnp.arange(length, dtype=order.dtype)
    taken = jnp.zeros(0, order.dtype) if excluded is None else excluded[None].astype(order.dtype)
    left, places = [], []
    for preferred, quota in zip(order, quotas, strict=True):
        if taken.size == 0 and depth <= length:
            place = everything[:depth]
        else:
            free = ~jnp.any(preferred[:, None] == taken[None, :], axis=1)
            place = jnp.nonzero(free, size=depth, fill_value=length)[0].astype(order.dtype)
        left.append(preferred.at[place].get(mode="fill", fill_value=-1))
        places.append(place)
        taken = jnp.concatenate([taken, left[-1][:quota]])
    return jnp.stack(left), jnp.stack(places)


def take_quotas(order: Int[Array, "M depth"], quotas: Quotas) -> Int[Array, "K"]:
    """The first K_m items of every expert's order of what was left to it, in slot order.

    >>> take_quotas(jnp.array([[0, 1], [3, 2]]), (2, 1))
    Array([0, 1, 3], dtype=int32)
    """
    return jnp.concatenate([own[:quota] for own, quota in zip(order, quotas, strict=True)])


def fill_quotas(
    order: Int[Array, "M depth"], quotas: Quotas, excluded: Int[Array, ""] | None = None
) -> tuple[Int[Array, "K"], Int[Array, "K"]]:
    """Let the experts, one after the other, take their first K_m items that nobody has taken yet.

    Args: as `drop_taken`; the orders may also be of what was left, `order_depth` items each.

    Returns:
      The picks in slot order, and the place of each in its expert's order; -1 and `depth` where a list ended.

    >>> fill_quotas(jnp.array([[0, 1, 2], [0, 3, 2]]), (1, 1), excluded=jnp.int32(3))[0]
    Array([0, 2], dtype=int32)
    """
    left, places = drop_taken(order, quotas, max(quotas), excluded)
    return take_quotas(left, quotas), take_quotas(places, quotas)


def gumbel_at(key: PRNGKey, places: Int[Array, "n"], dtype: Any) -> Float[Array, "n"]:
    """Standard Gumbel noise of some places, the same for a place whatever the others.

    -log(-log(1 - x)), x uniform from the 64 bits that Threefry makes of a place: with 46 bits below 1/2, as
    in `jax.random.gumbel(mode="high")`. On the 23-bit grid of its default, large catalogues tie.

    Args:
      key: of one context and expert; not consumed, each place is a stream of its own.
      places: non-negative.
      dtype: float32 or float64.

    >>> key, places = jax.random.key(0), jnp.arange(200, dtype=jnp.int32)
    >>> whole = gumbel_at(key, places, jnp.float32)
    >>> bool((gumbel_at(key, places[70:90], jnp.float32) == whole[70:90]).all())
    True
    """
    # Keys of other generators are longer; Threefry takes two words.
    words = jax.random.key_data(key).reshape(-1)
    low = places.astype(jnp.uint32)
    bits = threefry((words[0], words[-1]), (jnp.zeros_like(low), low))
    high, low = (_unit(x, dtype) for x in bits)
    fine = high + _GRID[jnp.dtype(dtype).itemsize] * low + jnp.finfo(dtype).tiny
    return -jnp.log(-jnp.log1p(-jnp.where(high >= 0.5, high, fine)))


def threefry(key: tuple[Any, Any], counter: tuple[Any, Any]) -> tuple[Array, Array]:
    """The 20-round Threefry-2x32 hash of counters (Salmon et al. 2011, Sec. 4.2), in plain operations.

    The same words as `jax.extend.random.threefry_2x32`, whose rounds are a loop on a CPU, so that every four
    of them pass over memory. These fuse with whatever takes their answer.

    Args:
      key: two words, uint32.
      counter: two arrays of words, uint32, of the same shape.

    >>> words = threefry((jnp.uint32(0), jnp.uint32(0)), (jnp.uint32(0), jnp.uint32(0)))
    >>> [hex(int(word)) for word in words]
    ['0x6b200159', '0x99ba4efe']
    """
    words = (*key, key[0] ^ key[1] ^ jnp.uint32(_PARITY))
    x, y = counter[0] + words[0], counter[1] + words[1]
    for group in range(5):
        for turn in _ROTATIONS[group % 2]:
            x = x + y
            y = (y << jnp.uint32(turn) | y >> jnp.uint32(32 - turn)) ^ x
        x = x + words[(group + 1) % 3]
        y = y + words[(group + 2) % 3] + jnp.uint32(group + 1)
    return x, y


_PARITY = 0x1BD11BDA
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))

_GRID = {4: 2.0**-23, 8: 2.0**-32}
"""The distance of neighbours in `_unit`, by the bytes of the dtype."""


def _unit(bits, dtype) -> Float[Array, "n"]:
    """From 32 bits to [0, 1)."""
    if jnp.dtype(dtype) == jnp.float64:
        return bits.astype(dtype) * _GRID[8]
    from_one_to_two = lax.shift_right_logical(bits, jnp.uint32(9)) | jnp.uint32(0x3F800000)
    return lax.bitcast_convert_type(from_one_to_two, jnp.float32) - 1


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


def greedy_order(logits: Float[Array, "M N"], depth: int) -> Int[Array, "M depth"]:
    """The `depth` items of largest logit, expert by expert; ties go to the lower id.

    Blocks of neighbouring items whose maxima are the `depth` largest hold them all: a block before another
    in this order has an item that is before all of the other's.
    """
    logits = lax.stop_gradient(logits)
    logits = jnp.where(logits == 0, 0, logits)  # top-k puts -0.0 below 0.0, which are a tie
    experts, num_items = logits.shape
    width = block_width(num_items, depth)
    if width == 1:
        return largest(logits, depth)[1]
    padding = -num_items % width
    padded = jnp.pad(logits, ((0, 0), (0, padding)), constant_values=-jnp.inf)
    blocks = padded.reshape(experts, -1, width)
    opened = jnp.sort(largest(jnp.max(blocks, axis=2), min(depth, blocks.shape[1]))[1], axis=1)
    within = jnp.take_along_axis(blocks, opened[:, :, None], axis=1).reshape(experts, -1)
    place = largest(within, depth)[1]
    return jnp.take_along_axis(opened, place // width, axis=1) * width + place % width


def greedy_in_turn(logits: Float[Array, "M N"], quotas: Quotas) -> Int[Array, "M depth"]:
    """Every expert's greedy order of what the experts before it have left, `quotas.order_depth` items each.

    >>> greedy_in_turn(jnp.array([[3.0, 2.0, 1.0, 0.0], [3.0, 0.0, 1.0, 2.0]]), (1, 2))
    Array([[0, 1, 2],
           [3, 2, 1]], dtype=int32)
    """
    depth = order_depth(logits.shape[1], quotas)
    return in_turn(
        lax.stop_gradient(logits), quotas, lambda m, row: (greedy_order(row[None], depth)[0],)
    )[0]


def sample_candidates(key: PRNGKey, logits: Float[Array, "M N"], quotas: Quotas) -> Int[Array, "K"]:
    """Draw K candidates without replacement, in slot order: first arrivals, expert after expert.

    Args:
      key: consumed.
      logits: f_m(a), divided by the temperature; -inf masks an item.
      quotas: how many slots each expert fills.

    Returns:
      Item ids, int32.

    Raises:
      ValueError: wrong shape or dtype, quotas that do not fit, and, outside of jit, NaN or +inf or more
        masked items than K allows.

    >>> import jax
    >>> sample_candidates(jax.random.key(0), jnp.array([[0.0, 50.0, 40.0, 0.0]]), (2,))
    Array([1, 2], dtype=int32)
    """
    check_logits(logits, quotas)
    order, _ = arrivals(key, centre(logits), quotas)
    return take_quotas(order, quotas)


def greedy_candidates(logits: Float[Array, "M N"], quotas: Quotas) -> Int[Array, "K"]:
    """The noiseless draw: every expert takes its K_m best of what is left, in slot order.

    Args, Raises: as `sample_candidates`.

    >>> greedy_candidates(jnp.array([[3.0, 2.0, 1.0, 0.0], [3.0, 0.0, 1.0, 2.0]]), (1, 2))
    Array([0, 3, 2], dtype=int32)
    """
    check_logits(logits, quotas)
    return take_quotas(greedy_in_turn(logits, quotas), quotas)
