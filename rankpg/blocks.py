"""A pass over the rows of a large array, some of them at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rankpg.types import Array, Float, Int

__all__ = ["scan_rows"]


def scan_rows(
    body: Callable[[Any, Int[Array, ""], Float[Array, "M rows D"]], tuple[Any, Any]],
    carry: Any,
    table: Float[Array, "M n D"],
    size: int,
) -> tuple[Any, Any]:
    """`carry, answer = body(carry, first row, some rows)` for every `size` rows, in order, and for the rest.

    Args:
      body: answers a tree of arrays [M, ...], or None.
      carry: what the first call is given.
      table: all rows.
      size: rows at a time; the last call gets what is left.

    Returns:
      The last carry, and the answers of all calls, put together along their second axis.

    >>> scan_rows(lambda total, start, rows: (total + rows.sum(), 2 * rows), 0.0, jnp.ones((1, 5, 1)), 2)[0]
    Array(5., dtype=float32)
    """
    whole, rest = divmod(table.shape[1], size)

    def step(carry, number):
        start = number * size
        return body(carry, start, lax.dynamic_slice_in_dim(table, start, size, axis=1))

    answers = []
    if whole:
        carry, stacked = lax.scan(step, carry, jnp.arange(whole, dtype=jnp.int32))
        answers.append(jax.tree.map(_join, stacked))
    if rest:
        carry, last = body(carry, jnp.int32(whole * size), table[:, whole * size :])
        answers.append(last)
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *answers)


def _join(x: Float[Array, "calls M rows ..."]) -> Float[Array, "M n ..."]:
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])
