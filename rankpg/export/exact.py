"""The policy's greedy candidates from embeddings, exactly, with the catalogue in blocks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from rankpg.blocks import scan_rows
from rankpg.numerics import largest
from rankpg.quotas import fill_quotas
from rankpg.types import Array, Float, Int, Quotas

__all__ = ["exact_orders", "merge"]

_ROWS = 8192
"""Items whose logits are in memory at a time."""


def exact_orders(
    contexts: Float[Array, "B M D"], items: Float[Array, "M N D"], depth: int
) -> Int[Array, "B M depth"]:
    """Every expert's `depth` items of largest inner product; ties go to the lower row.

    Args:
      contexts: the temperature applied.
      items: of all experts.
      depth: at most N.

    >>> exact_orders(jnp.ones((1, 1, 1)), jnp.array([[[3.0], [1.0], [2.0]]]), 2)
    Array([[[0, 2]]], dtype=int32)
    """
    queries = jnp.swapaxes(contexts, 0, 1)
    experts, batch = queries.shape[:2]

    def look(best, start, rows):
        logits = lax.dot_general(queries, rows, (((2,), (2,)), ((0,), (0,))))  # [M, B, rows]
        logits = jnp.where(logits == 0, 0, logits)  # -0.0 and 0.0 are a tie
        numbers = start.astype(jnp.int32) + jnp.arange(rows.shape[1], dtype=jnp.int32)
        numbers = jnp.broadcast_to(numbers[None, None], logits.shape)
        both = [jnp.concatenate(pair, axis=2) for pair in zip(best, (logits, numbers), strict=True)]
        top, place = largest(both[0], depth)
        return (top, jnp.take_along_axis(both[1], place, axis=2)), None

    nothing = (
        jnp.full((experts, batch, depth), -jnp.inf, contexts.dtype),
        jnp.zeros((experts, batch, depth), jnp.int32),
    )
    (_, orders), _ = scan_rows(look, nothing, items, _ROWS)
    return jnp.swapaxes(orders, 0, 1)


def merge(orders: Int[Array, "B M depth"], quotas: Quotas) -> Int[Array, "B K"]:
    """The K slots, filled expert by expert with what no earlier expert has taken.

    >>> merge(jnp.array([[[0, 1, 2], [0, 3, 2]]]), (1, 2))
    Array([[0, 3, 2]], dtype=int32)
    """
    return jax.vmap(lambda order: fill_quotas(order, quotas)[0])(orders)
