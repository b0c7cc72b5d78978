"""Drawing candidates: Gumbel-top-k without replacement, expert after expert, and its greedy counterpart.

Adding standard Gumbel noise to logits and taking the k largest draws k items without replacement from the
Plackett-Luce model (Yellott 1977; Kool et al. 2019). The perturbed logit f(a) + G is minus the log of an
arrival time Exp(1) / exp(f(a)): the items are drawn in the order of their arrival.

Expert 1 fills the first K_1 slots, expert 2 the next K_2 from the remaining items, and so on.

An expert's order of preference holds K_m + 1 items, without those of earlier experts. They suffice for its
quota, also in a catalogue without some item a. If an earlier expert had taken a, one other item b is taken in
its place, and a is not in the order. If none had, the earlier experts take the same items as before. So only
one of the K_m + 1 items can be missing, a or b.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from rankpg.core.numerics import centre, finite_masks, largest, log_sum_exp
from rankpg.core.validation import check_logits
from rankpg.types import Array, Float, Int, PRNGKey, Quotas, UInt

__all__ = [
    "arrivals",
    "block_race",
    "block_width",
    "condition_on_maximum",
    "drop_taken",
    "fill_quotas",
    "greedy_candidates",
    "greedy_in_turn",
    "greedy_order",
    "gumbel_noise",
    "gumbel_top_k",
    "in_turn",
    "order_depth",
    "sample_candidates",
    "take_quotas",
    "threefry",
]

# --- quotas -----------------------------------------------------------------------------------------------


def order_depth(num_items: int, quotas: Quotas) -> int:
    """Number of items in an expert's order: one more than the largest quota, at most N.

    >>> order_depth(1000, (4, 3, 3)), order_depth(3, (2, 1, 0))
    (5, 3)
    """
    return min(num_items, max(quotas) + 1)


# --- candidates -------------------------------------------------------------------------------------------


def sample_candidates(key: PRNGKey, logits: Float[Array, "M N"], quotas: Quotas) -> Int[Array, "K"]:
    """Samples K candidates without replacement, in slot order, by Gumbel-top-k.

    Args:
      key: consumed.
      logits: f_m(a), divided by the temperature; -inf masks an item.
      quotas: slots of each expert.

    Returns:
      Item ids, int32.

    Raises:
      ValueError: wrong shape or dtype, quotas that do not fit, and, outside of jit, NaN or +inf or more
        masked items than K allows.

    >>> sample = jax.jit(sample_candidates, static_argnums=2)
    >>> sample(jax.random.key(0), jnp.array([[0.0, 50.0, 40.0, 0.0]]), (2,))
    Array([1, 2], dtype=int32)
    """
    check_logits(logits, quotas)
    order, _ = arrivals(key, centre(logits), quotas)
    return take_quotas(order, quotas)


def greedy_candidates(logits: Float[Array, "M N"], quotas: Quotas) -> Int[Array, "K"]:
    """Selects candidates without noise: every expert takes its K_m best remaining items, in slot order.

    Args, Raises: as `sample_candidates`.

    >>> greedy = jax.jit(greedy_candidates, static_argnums=1)
    >>> greedy(jnp.array([[3.0, 2.0, 1.0, 0.0], [3.0, 0.0, 1.0, 2.0]]), (1, 2))
    Array([0, 3, 2], dtype=int32)
    """
    check_logits(logits, quotas)
    return take_quotas(greedy_in_turn(logits, quotas), quotas)


# --- experts in turn --------------------------------------------------------------------------------------


def in_turn(
    logits: Float[Array, "M N"],
    quotas: Quotas,
    top_items: Callable[[Int[Array, ""], Float[Array, "N"]], tuple[Array, ...]],
) -> tuple[Array, ...]:
    """Orders the items of every expert, without those that earlier experts have taken.

    Args:
      logits: f_m(a); -inf masks an item.
      quotas: items that each expert takes from its order.
      top_items: `top_items(m, row)` returns the order of expert m, best first: the items [depth], and any
        further arrays [depth]. `row` is its logits, with -inf for taken items and `numerics.finite_masks`
        for items that are only masked: an expert with too few eligible items takes masked ones, and none
        twice.

    Returns:
      The arrays of all experts, [M, depth].

    >>> best = lambda m, row: (lax.top_k(row, 2)[1],)
    >>> logits = jnp.array([[3.0, 2.0, 1.0, 0.0], [3.0, 0.0, 1.0, 2.0]])
    >>> jax.jit(in_turn, static_argnums=(1, 2))(logits, (1, 1), best)[0]
    Array([[0, 1],
           [3, 2]], dtype=int32)
    """
    experts, num_items = logits.shape
    if experts == 1:
        return tuple(x[None] for x in top_items(jnp.int32(0), logits[0]))

    def turn(free: Array, own: tuple[Array, ...]) -> tuple[Array, tuple[Array, ...]]:
        expert, row, quota = own
        found = top_items(expert, jnp.where(free, finite_masks(row), -jnp.inf))
        rank = jnp.arange(found[0].shape[0], dtype=jnp.int32)
        taken = jnp.where(rank < quota, found[0], num_items)
        return free.at[taken].set(False, mode="drop"), found

    turns = (jnp.arange(experts, dtype=jnp.int32), logits, jnp.asarray(quotas, jnp.int32))
    return lax.scan(turn, jnp.ones(num_items, bool), turns)[1]


def drop_taken(
    order: Int[Array, "M n"],
    quotas: Quotas,
    depth: int,
    excluded: Int[Array, ""] | None = None,
) -> tuple[Int[Array, "M depth"], Int[Array, "M depth"]]:
    """Drops the items of earlier experts from orders that were made without regard to them.

    Args:
      order: every expert's order of preference, of K + 1 items at least or of all N.
      quotas: items that each expert takes.
      depth: items to return per expert, at least every quota.
      excluded: an item that is taken out of the catalogue; None: no item.

    Returns:
      Every expert's order without the taken items, and the index of each item in `order`. Where an order is
      exhausted the item is -1 and the index n.

    >>> jax.jit(drop_taken, static_argnums=(1, 2))(jnp.array([[0, 1, 2], [0, 3, 2]]), (1, 1), 2)[0]
    Array([[0, 1],
           [3, 2]], dtype=int32)
    """
    length = order.shape[1]
    everything = jnp.arange(length, dtype=order.dtype)
    taken = jnp.zeros(0, order.dtype) if excluded is None else excluded[None].astype(order.dtype)
    remaining, indices = [], []
    for preferred, quota in zip(order, quotas, strict=True):
        if taken.size == 0 and depth <= length:
            index = everything[:depth]
        else:
            free = ~jnp.any(preferred[:, None] == taken[None, :], axis=1)
            index = jnp.nonzero(free, size=depth, fill_value=length)[0].astype(order.dtype)
        remaining.append(preferred.at[index].get(mode="fill", fill_value=-1))
        indices.append(index)
        taken = jnp.concatenate([taken, remaining[-1][:quota]])
    return jnp.stack(remaining), jnp.stack(indices)


def take_quotas(order: Int[Array, "M depth"], quotas: Quotas) -> Int[Array, "K"]:
    """Takes the first K_m items of every expert's order, in slot order; no order holds another's items.

    >>> jax.jit(take_quotas, static_argnums=1)(jnp.array([[0, 1], [3, 2]]), (2, 1))
    Array([0, 1, 3], dtype=int32)
    """
    return jnp.concatenate([own[:quota] for own, quota in zip(order, quotas, strict=True)])


def fill_quotas(
    order: Int[Array, "M depth"], quotas: Quotas, excluded: Int[Array, ""] | None = None
) -> tuple[Int[Array, "K"], Int[Array, "K"]]:
    """Takes the first K_m items of every expert's order that no earlier expert has taken, in slot order.

    Args: as `drop_taken`; orders of `order_depth` items suffice where earlier picks are dropped already.

    Returns:
      The picks in slot order, and the index of each in its expert's order; -1 and `depth` where an order is
      exhausted.

    >>> fill = jax.jit(fill_quotas, static_argnums=1)
    >>> fill(jnp.array([[0, 1, 2], [0, 3, 2]]), (1, 1), excluded=jnp.int32(3))[0]
    Array([0, 2], dtype=int32)
    """
    remaining, indices = drop_taken(order, quotas, max(quotas), excluded)
    return take_quotas(remaining, quotas), take_quotas(indices, quotas)


# --- Gumbel-top-k -----------------------------------------------------------------------------------------


def arrivals(
    key: PRNGKey, logits: Float[Array, "M N"], quotas: Quotas
) -> tuple[Int[Array, "M depth"], Float[Array, "M depth"]]:
    """Gumbel-top-k per expert: items and perturbed logits, without items of earlier experts.

    Expert m takes the first K_m items of its order (`take_quotas`). The depth is `order_depth` for every
    caller, so that one key means one draw.

    Args:
      key: consumed.
      logits: f_m(a), centred (`numerics.centre`); -inf masks an item, whose perturbed logit is then -inf.
      quotas: slots of each expert.

    >>> draw = jax.jit(arrivals, static_argnums=2)
    >>> draw(jax.random.key(0), jnp.array([[0.0, 90.0, 60.0, 30.0]]), (2,))[0]
    Array([[1, 2, 3]], dtype=int32)
    """
    depth = order_depth(logits.shape[1], quotas)
    width = block_width(logits.shape[1], depth)

    def top_items(expert: Int[Array, ""], row: Float[Array, "N"]) -> tuple[Array, Array]:
        own = key if len(quotas) == 1 else jax.random.fold_in(key, expert)
        if width == 1:
            order, perturbed = gumbel_top_k(own, row[None], depth)
        else:
            order, perturbed = block_race(own, row[None], depth, width)
        return order[0], perturbed[0]

    logits = lax.stop_gradient(logits)
    order, perturbed = in_turn(logits, quotas, top_items)
    masked = jnp.isneginf(jnp.take_along_axis(logits, order, axis=1))
    return order, jnp.where(masked, -jnp.inf, perturbed)


def gumbel_top_k(
    key: PRNGKey, logits: Float[Array, "M N"], depth: int
) -> tuple[Int[Array, "M depth"], Float[Array, "M depth"]]:
    """Returns the `depth` largest perturbed logits of each expert, with one Gumbel variate per item.

    (Yellott 1977; Kool et al. 2019)

    Args:
      key: consumed.
      logits: centred; -inf masks an item.
      depth: items to return, at most N.

    Returns:
      Items and perturbed logits, largest first.
    """
    noise = _noise_matrix(key, logits.shape, logits.dtype)
    perturbed, order = largest(logits + noise, depth)
    return order, perturbed


def block_width(num_items: int, depth: int) -> int:
    """Width of the blocks of `block_race`, near sqrt(N / depth); 1 where a race would not halve the variates.

    >>> block_width(1000, 11), block_width(1000, 201), block_width(10**6, 101)
    (10, 1, 100)
    """
    width = max(1, round(math.sqrt(num_items / depth)))
    variates = -(-num_items // width) + depth * width
    return width if 2 * variates <= num_items else 1


def block_race(
    key: PRNGKey, logits: Float[Array, "M N"], depth: int, width: int
) -> tuple[Int[Array, "M depth"], Float[Array, "M depth"]]:
    """Gumbel-top-k with N / width + depth * width variates in place of N, by a race between blocks of items.

    Block j as a whole first arrives at T_j = Exp(1) / S_j, S_j its total weight, and only the `depth`
    earliest blocks can hold the first `depth` items. Within a block let E_i = Exp(1) / w_i: by memorylessness
    the items arrive at T_j + E_i - min E. All of this is computed in log space, block by block, so nothing
    underflows or overflows:

        log arrival_i = logaddexp(log T_j, log E_i + log(1 - exp(min log E - log E_i)))

    The law is that of `gumbel_top_k`: items and perturbed logits (= -log arrival).

    Args:
      key: consumed.
      logits: centred; -inf masks an item. Masked items come after all others, with -inf.
      depth: items to return, at most N.
      width: items in a block; block j holds the items j, j + N / width, j + 2 N / width, ...

    Returns:
      Items and perturbed logits, largest first.
    """
    experts, num_items = logits.shape
    num_blocks = -(-num_items // width)
    padding = num_blocks * width - num_items
    padded = jnp.pad(logits, ((0, 0), (0, padding)), constant_values=-jnp.inf)
    blocks = padded.reshape(experts, width, num_blocks)
    # One flat draw: XLA's CPU compiler vectorises along the last axis only, and a block is short.
    variates = num_blocks + width * min(depth, num_blocks)
    noise = _noise_matrix(key, (experts, variates), logits.dtype)
    return jax.vmap(lambda b, n: _race(b, n[:num_blocks], n[num_blocks:], depth))(blocks, noise)


def _race(
    blocks: Float[Array, "width blocks"],
    block_noise: Float[Array, "blocks"],
    item_noise: Float[Array, "places"],
    depth: int,
) -> tuple[Int[Array, "depth"], Float[Array, "depth"]]:
    """Runs the race of one expert. `item_noise` is for the items of the earliest blocks, row by row."""
    num_blocks = blocks.shape[1]
    earliest = min(depth, num_blocks)
    maxima, block = largest(log_sum_exp(blocks, axis=0) + block_noise, earliest)
    # Of equals top-k takes the first. So padding, which is in the last row alone, is never returned
    # as long as the rows before it hold `depth` items, which `block_width` ensures.
    raced = condition_on_maximum(maxima, blocks[:, block], item_noise.reshape(-1, earliest), axis=0)
    perturbed, place = largest(raced.reshape(-1), depth)
    return place // earliest * num_blocks + block[place % earliest], perturbed


def _noise_matrix(key: PRNGKey, shape: tuple[int, ...], dtype: DTypeLike) -> Float[Array, "M n"]:
    """Standard Gumbel noise, expert by expert."""
    counters = jnp.arange(math.prod(shape), dtype=jnp.int32)
    return gumbel_noise(key, counters, dtype).reshape(shape)


def condition_on_maximum(
    maxima: Float[Array, "..."], logits: Float[Array, "..."], noise: Float[Array, "..."], axis: int
) -> Float[Array, "..."]:
    """Perturbed logits of the items of some blocks, given the largest perturbed logit of each block.

    With Z = max(f + G) over the block and T its given maximum, the perturbed logit f + G becomes

        -log(exp(-T) - exp(-Z) + exp(-(f + G))) = Z - log(exp(s) + expm1(y)),    y = Z - (f + G), s = Z - T

    (Kool et al. 2019, App. B). Both s and y are reduced by the excess of s over 40, and the logarithm is
    y alone where y then exceeds 80: the neglected term is below exp(-40) of the rest.

    Args:
      maxima: T, one per block; one axis fewer than the logits.
      logits: f of the blocks' items.
      noise: G, standard Gumbel, one per item.
      axis: the axis of `logits` that runs over the items of a block.
    """
    perturbed = logits + noise
    best = jnp.max(perturbed, axis=axis, keepdims=True)
    empty = jnp.isneginf(best)
    best = jnp.where(empty, 0, best)
    ahead = jnp.where(empty, 0, best - jnp.expand_dims(maxima, axis))
    shift = jnp.maximum(ahead - 40, 0)
    # Flat from here: XLA's CPU compiler vectorises along the last axis only, and a block is short.
    wide = (jnp.broadcast_to(x, logits.shape) for x in (best - shift, jnp.exp(ahead - shift)))
    flat, top, lead = (x.reshape(-1) for x in (perturbed, *wide))
    behind = top - flat
    raced = top - jnp.where(behind > 80, behind, jnp.log(lead + jnp.expm1(jnp.minimum(behind, 80))))
    return raced.reshape(logits.shape)


# --- greedy orders ----------------------------------------------------------------------------------------


def greedy_in_turn(logits: Float[Array, "M N"], quotas: Quotas) -> Int[Array, "M depth"]:
    """Greedy order of every expert, `order_depth` items each, without items of earlier experts.

    >>> logits = jnp.array([[3.0, 2.0, 1.0, 0.0], [3.0, 0.0, 1.0, 2.0]])
    >>> jax.jit(greedy_in_turn, static_argnums=1)(logits, (1, 2))
    Array([[0, 1, 2],
           [3, 2, 1]], dtype=int32)
    """
    depth = order_depth(logits.shape[1], quotas)
    return in_turn(
        lax.stop_gradient(logits), quotas, lambda m, row: (greedy_order(row[None], depth)[0],)
    )[0]


def greedy_order(logits: Float[Array, "M N"], depth: int) -> Int[Array, "M depth"]:
    """Returns the `depth` items of largest logit of each expert; ties go to the lower id.

    Blocks of neighbouring items whose maxima are the `depth` largest hold them all: a block before another
    in this order has an item that is before all of the other's.

    >>> jax.jit(greedy_order, static_argnums=1)(jnp.array([[1.0, 3.0, 3.0]]), 2)
    Array([[1, 2]], dtype=int32)
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


def gumbel_noise(key: PRNGKey, counters: Int[Array, "n"], dtype: DTypeLike) -> Float[Array, "n"]:
    """Standard Gumbel noise, a function of key and counter alone.

    -log(-log(1 - x)), with x uniform from the 64 bits to which Threefry hashes a counter. Below 1/2 it has 46
    bits, as in `jax.random.gumbel(mode="high")`; on the 23-bit grid of JAX's default, the items of large
    catalogues tie.

    Args:
      key: key of one context and expert. It is not consumed: every counter is a stream of its own.
      counters: non-negative, for instance item ids.
      dtype: float32 or float64.

    >>> noise, key = jax.jit(gumbel_noise, static_argnums=2), jax.random.key(0)
    >>> first, again = (noise(key, jnp.array(c), jnp.float32).tolist() for c in ([7, 8, 9], [8, 9, 7]))
    >>> first == again[2:] + again[:2]
    True
    """
    # Keys of other generators are longer; Threefry takes two words.
    words = jax.random.key_data(key).reshape(-1)
    low = counters.astype(jnp.uint32)
    bits = threefry((words[0], words[-1]), (jnp.zeros_like(low), low))
    high, low = (_unit(x, dtype) for x in bits)
    fine = high + _GRID[jnp.dtype(dtype).itemsize] * low + jnp.finfo(dtype).tiny
    return -jnp.log(-jnp.log1p(-jnp.where(high >= 0.5, high, fine)))


def threefry(
    key: tuple[UInt[Array, ""], UInt[Array, ""]],
    counter: tuple[UInt[Array, "*n"], UInt[Array, "*n"]],
) -> tuple[UInt[Array, "*n"], UInt[Array, "*n"]]:
    """Hashes counters by 20-round Threefry-2x32 (Salmon et al. 2011, Sec. 4.2), in plain operations.

    The words are those of `jax.extend.random.threefry_2x32`, whose rounds are a loop on a CPU, so that every
    four of them pass over memory. Plain operations fuse with their consumer.

    Args:
      key: two words.
      counter: two arrays of words.

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
"""The distance between neighbours in `_unit`, by the bytes of the dtype."""


def _unit(bits: UInt[Array, "n"], dtype: DTypeLike) -> Float[Array, "n"]:
    """Maps 32 bits to [0, 1)."""
    if jnp.dtype(dtype) == jnp.float64:
        return bits.astype(dtype) * _GRID[8]
    from_one_to_two = lax.shift_right_logical(bits, jnp.uint32(9)) | jnp.uint32(0x3F800000)
    return lax.bitcast_convert_type(from_one_to_two, jnp.float32) - 1
