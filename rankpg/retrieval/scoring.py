"""The logits of a chunk of the catalogue, as both passes of streamed retrieval take them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from rankpg.numerics import of_sums
from rankpg.retrieval.part import Part
from rankpg.types import Array, Environment, Float, Int

__all__ = ["masked", "score"]


def masked(
    logits: Float[Array, "M n B"],
    contexts: Int[Array, "B"],
    items: Int[Array, "n"],
    environment: Environment,
    part: Part,
) -> Float[Array, "M n B"]:
    """Logits, -inf for items that are not eligible, and for padding."""
    if part.devices > 1:
        logits = jnp.where((items < part.whole.num_items)[None, :, None], logits, -jnp.inf)
        items = jnp.minimum(items, part.whole.num_items - 1)
    one = jax.vmap(lambda context: environment.eligible(context, items), out_axes=1)
    eligible = one(contexts)
    return logits if eligible is None else jnp.where(eligible[None], logits, -jnp.inf)


def score(
    vectors: Float[Array, "M D B"],
    rows: Float[Array, "M n D"],
    start: Int[Array, ""],
    contexts: Int[Array, "B"],
    environment: Environment,
    part: Part,
) -> Float[Array, "M n B"]:
    """The logits of a chunk. Contexts come last: so a block is a run of rows, and XLA's CPU compiler
    vectorises along the batch."""
    logits = lax.dot_general(
        rows, vectors, (((2,), (1,)), ((0,), (0,))), preferred_element_type=of_sums(rows.dtype)
    )
    first = part.first_block() * part.width + start
    items = first + jnp.arange(rows.shape[1], dtype=jnp.int32)
    return masked(logits, contexts, items, environment, part)
