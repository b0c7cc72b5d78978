"""The policy's greedy candidates from embeddings, exactly, with the catalogue in blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rankpg.core.numerics import largest, scan_rows
from rankpg.core.sampling import fill_quotas
from rankpg.export.indexes import ItemIndex
from rankpg.types import Array, Float, Int, Quotas

__all__ = ["choose_effort", "exact_orders", "exact_rows", "measure", "merge", "overlap"]

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


_BATCH = 128


def exact_rows(queries: np.ndarray, items: Any, depth: int) -> np.ndarray:
    """int32[B, M, depth]: what every expert's index should find, of float32[B, M, D] and [M, N, D]."""
    table = jnp.asarray(items)
    look = jax.jit(exact_orders, static_argnums=2)
    blocks = range(0, len(queries), _BATCH)
    return np.concatenate([look(queries[i : i + _BATCH], table, depth) for i in blocks])


def choose_effort(
    indexes: Sequence[ItemIndex], queries: np.ndarray, exact: np.ndarray, wanted: float
) -> int | None:
    """Set the least effort at which every expert's recall is what is wanted, or the highest there is.

    Args:
      indexes: of the M experts.
      queries: float32[B, M, D].
      exact: int[B, M, depth], see `exact_rows`.
      wanted: mean recall at this depth, 0 to 1.

    Returns:
      The effort; None where search is exact.
    """
    chosen = None
    for chosen in indexes[0].efforts:
        for index in indexes:
            index.set_effort(chosen)
        if min(overlap(_search(indexes, queries, exact.shape[2]), exact)) >= wanted:
            break
    return chosen


def measure(
    indexes: Sequence[ItemIndex], queries: np.ndarray, exact: np.ndarray, quotas: Quotas
) -> dict[str, Any]:
    """Recall of the K candidates, and of every expert's own K best.

    Args:
      indexes, queries, exact: as for `choose_effort`, depth K.
      quotas: how many slots each expert fills.
    """
    found = _search(indexes, queries, exact.shape[2])
    candidates = [
        np.asarray(merge(jnp.asarray(orders, jnp.int32), quotas))[:, None]
        for orders in (found, exact)
    ]
    return {
        "candidates": overlap(*candidates)[0],
        "experts": overlap(found, exact),
        "contexts": len(queries),
    }


def overlap(found: np.ndarray, exact: np.ndarray) -> list[float]:
    """Mean over contexts of the share of `exact` that was found, an expert at a time, of int[B, M, depth].

    >>> overlap(np.array([[[3, 1]], [[0, 2]]]), np.array([[[1, 2]], [[2, 0]]]))
    [0.75]
    """
    hits = [
        [np.isin(exact[b, m], found[b, m]).mean() for b in range(len(exact))]
        for m in range(exact.shape[1])
    ]
    return [float(np.mean(of_expert)) for of_expert in hits]


def _search(indexes: Sequence[ItemIndex], queries: np.ndarray, depth: int) -> np.ndarray:
    """int64[B, M, depth], all experts asked."""
    answers = [
        index.search(np.ascontiguousarray(queries[:, m]), depth) for m, index in enumerate(indexes)
    ]
    return np.stack(answers, axis=1)
