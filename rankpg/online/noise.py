"""Streams of noise: every draw has a key of its own, also after a restart and beside other processes.

    stream 0            the keys of `training.update`: that of draw n is fold_in(root, n)
    any other stream    fold_in(root of the stream, n), n modulo 2^32, with a new root every 2^32 draws

A retriever that starts at step 0 has stream 0, so that it does what training does. Each load of a saved one
has a fresh stream, chosen at random among 2^62, unless the caller names one.
"""

from __future__ import annotations

import secrets
from functools import lru_cache

import jax
import numpy as np

from rankpg.errors import ConfigError
from rankpg.training.update import seed_keys
from rankpg.types import PRNGKey

__all__ = ["check_stream", "fresh_stream", "key_words", "stream_root"]

_WORD = 2**32


def fresh_stream() -> int:
    """Chooses a stream that no other process has."""
    return 1 + secrets.randbelow(2**62)


def check_stream(stream: object) -> int:
    """Rejects what cannot name a stream.

    Raises:
      ConfigError: not a whole number from 0 to 2^63 - 1.

    >>> check_stream(7)
    7
    """
    if isinstance(stream, bool) or not isinstance(stream, int | np.integer):
        raise ConfigError(f"stream={stream!r}; expected a whole number from 0 to 2^63 - 1")
    if not 0 <= stream < 2**63:
        raise ConfigError(f"stream={stream}; expected a whole number from 0 to 2^63 - 1")
    return int(stream)


def key_words(serial: int) -> tuple[int, np.uint32]:
    """Splits the serial number of a draw: into a part that chooses the root, and one for `fold_in`.

    >>> epoch, word = key_words(2**32 + 5)
    >>> epoch, int(word)
    (1, 5)
    """
    return serial // _WORD, np.uint32(serial % _WORD)


@lru_cache(maxsize=64)
def stream_root(seed: int, stream: int, epoch: int) -> PRNGKey:
    """Returns the root key of a stream.

    Args:
      seed: seed of the run.
      stream: number of the stream.
      epoch: draws of the stream so far, in units of 2^32.
    """
    if stream == epoch == 0:
        return seed_keys((seed,), "steps")[0]
    key = seed_keys((seed,), "online")[0]
    for word in (stream % _WORD, stream // _WORD, epoch):
        key = jax.random.fold_in(key, np.uint32(word))
    return key
