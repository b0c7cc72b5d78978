"""Embeddings and eligibility masks for tests of a retrieval."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rankpg.types import Embeddings, Environment

__all__ = ["Masks", "embeddings_of", "random_towers"]


@struct.dataclass
class Masks(Environment):
    """An environment with eligibility masks [contexts, N], and without rewards."""

    where: jax.Array | None
    num_contexts = num_items = 0

    def mean_rewards(self, context, items):
        raise NotImplementedError

    sample_rewards = mean_rewards


def embeddings_of(logits) -> Embeddings:
    """Towers whose inner products are these logits [B, M, N]: D = B, one-hot contexts."""
    logits = jnp.asarray(logits)
    batch, experts, _ = logits.shape
    one_hot = jnp.eye(batch, dtype=logits.dtype)
    contexts = jnp.broadcast_to(one_hot[:, None, :], (batch, experts, batch))
    return Embeddings(contexts=contexts, items=jnp.transpose(logits, (1, 2, 0)))


def random_towers(seed, batch, experts, items, dim, scale=1.0) -> Embeddings:
    rng = np.random.default_rng(seed)
    return Embeddings(
        contexts=jnp.asarray(scale * rng.normal(size=(batch, experts, dim))),
        items=jnp.asarray(rng.normal(size=(experts, items, dim))),
    )
