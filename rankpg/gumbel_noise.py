"""Gumbel noise, keyed by where it falls: whoever holds some blocks can draw their part of it alone.

The variate of a block or an item is a function of the key and of its place in the catalogue. So the draw
depends neither on how many devices share the catalogue nor on how it is cut into chunks.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rankpg.types import Array, Float, Int, PRNGKey

__all__ = ["gumbel_at", "threefry"]


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
