"""Batches of moments, every one of which comes once in an epoch.

The order of an epoch is a pseudorandom permutation that is computed where it is needed: a few integer
operations for each row of a batch, whatever the number of moments, and no table to store or to save.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rankpg.types import Array, Int, PRNGKey, UInt

__all__ = ["MomentSampler", "shuffled"]

_ROUNDS = 8
_MULTIPLIERS = 0x85EBCA6B, 0xC2B2AE35
"""Odd numbers of the finaliser of MurmurHash3, which spreads every bit over all others."""


class MomentSampler(NamedTuple):
    """Draws the contexts of a batch: up to a step from one range of contexts, then from another.

    Within a range of n contexts, an epoch is floor(n / B) updates, in which no context comes twice; fewer
    than B are left out, other ones in every epoch. Of a range with n < B, all come about equally often in
    every batch. Drawn with replacement, a share exp(-E) would never come in E epochs.
    """

    batch_size: int
    """B"""
    first: tuple[int, int]
    """Contexts from the first to before the second number, for updates before `switch`."""
    later: tuple[int, int]
    switch: int

    def __call__(self, key: PRNGKey, step: Int[Array, ""]) -> Int[Array, "B"]:
        """Draws B contexts for the update of this step; the key is the same for all steps.

        >>> sampler = MomentSampler(2, first=(0, 4), later=(4, 9), switch=2)
        >>> drawn = [sampler(jax.random.key(0), jnp.int32(step)).tolist() for step in range(4)]
        >>> sorted(drawn[0] + drawn[1]), len({*drawn[2], *drawn[3]})
        ([0, 1, 2, 3], 4)
        """

        def of(bounds: tuple[int, int], begun: Int[Array, ""]) -> Int[Array, "B"]:
            low, count = bounds[0], bounds[1] - bounds[0]
            row = jnp.arange(self.batch_size, dtype=jnp.int32)
            updates = max(1, count // self.batch_size)  # of an epoch
            turns = -(-self.batch_size // count)  # epochs of an update, where n < B
            epoch = (begun // updates) * turns + row // count
            place = (begun % updates) * self.batch_size + row % count
            keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(epoch)
            return low + jax.vmap(lambda own, index: shuffled(own, index, count))(keys, place)

        early = step < self.switch
        if self.first == self.later:  # the epochs go on
            return of(self.later, step)
        return lax.cond(
            early,
            lambda: of(self.first, step),
            lambda: of(self.later, step - self.switch),
        )


def shuffled(key: PRNGKey, index: Int[Array, ""], count: int) -> Int[Array, ""]:
    """The image of an index under a pseudorandom permutation of 0 ... count - 1.

    It is a Feistel network on the smallest even number of bits that hold `count`, repeated until the number
    is below `count` (cycle walking; Black and Rogaway 2002, "Ciphers with arbitrary finite domains").

    Args:
      key: one for each permutation.
      index: from 0 to `count` - 1.
      count: number of indices, from 1 to 2^30.

    >>> images = [int(shuffled(jax.random.key(3), jnp.int32(i), 7)) for i in range(7)]
    >>> sorted(images) == list(range(7)), images == list(range(7))
    (True, False)
    """
    bits = max(1, (max(count - 1, 1).bit_length() + 1) // 2)
    low = jnp.uint32(2**bits - 1)
    round_keys = jax.random.bits(key, (_ROUNDS,), jnp.uint32)

    def once(number: UInt[Array, ""]) -> UInt[Array, ""]:
        left, right = number >> bits, number & low
        for number_of_round in range(_ROUNDS):
            left, right = right, left ^ (_mixed(right ^ round_keys[number_of_round]) & low)
        return (left << bits) | right

    found = lax.while_loop(lambda number: number >= count, once, once(index.astype(jnp.uint32)))
    return found.astype(jnp.int32)


def _mixed(x: UInt[Array, ""]) -> UInt[Array, ""]:
    for multiplier, shift in zip(_MULTIPLIERS, (13, 16), strict=True):
        x = (x ^ (x >> 16)) * jnp.uint32(multiplier)
        x = x ^ (x >> shift)
    return x
