"""Counter-based Gumbel noise: a variate depends on its key and its counter alone.

So any part of the noise can be made by itself: a block, a shard, or a few items of a catalogue.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from rankpg.types import Array, Float, Int, PRNGKey, UInt

__all__ = ["gumbel_noise", "threefry"]


def gumbel_noise(key: PRNGKey, counters: Int[Array, "n"], dtype: DTypeLike) -> Float[Array, "n"]:
    """Standard Gumbel noise, a function of key and counter alone.

    -log(-log(1 - x)), with x uniform from the 64 bits to which Threefry hashes a counter. Below 1/2 it has 46
    bits, as in `jax.random.gumbel(mode="high")`; on the 23-bit grid of JAX's default, the items of large
    catalogues tie.

    Args:
      key: of one context and expert; not consumed, every counter is a stream of its own.
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
