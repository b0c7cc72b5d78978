"""Dense retrieval: the logits of the whole catalogue in memory."""

from __future__ import annotations

import jax.numpy as jnp

from rankpg.types import Array, Environment, Float, Int

__all__ = ["mask"]


def mask(
    environment: Environment, context: Int[Array, ""], logits: Float[Array, "M N"]
) -> Float[Array, "M N"]:
    """The logits of one context, -inf for items that are not eligible."""
    eligible = environment.eligible(context, jnp.arange(logits.shape[1], dtype=jnp.int32))
    return logits if eligible is None else jnp.where(eligible[None], logits, -jnp.inf)
