"""Exact search over exported embeddings, merging of experts, and recall of an index against it."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rankpg.core.numerics import largest, scan_rows
from rankpg.core.sampling import fill_quotas
from rankpg.export.indexes import ItemIndex
from rankpg.export.manifest import Recall
from rankpg.types import Array, Float, Int, Quotas

__all__ = [
    "choose_effort",
    "exact_orders",
    "exact_rows",
    "measure_recall",
    "merge",
    "recall_by_expert",
]

_ITEMS_AT_ONCE = 8192
"""Items whose logits are in memory at a time."""

_CONTEXTS_AT_ONCE = 128


def exact_orders(
    contexts: Float[Array, "B M D"], items: Float[Array, "M N D"], depth: int
) -> Int[Array, "B M depth"]:
    """Rows of the `depth` largest inner products of every expert, largest first, ties by lower row.

    Args:
      contexts: context embeddings, divided by the temperature.
      items: item embeddings.
      depth: at most N.

    >>> exact_orders(jnp.ones((1, 1, 1)), jnp.array([[[3.0], [1.0], [2.0]]]), 2)
    Array([[[0, 2]]], dtype=int32)
    """
    queries = jnp.swapaxes(contexts, 0, 1)
    experts, batch = queries.shape[:2]

    def update(
        best: tuple[Float[Array, "M B depth"], Int[Array, "M B depth"]],
        start: Int[Array, ""],
        block: Float[Array, "M block D"],
    ):
        logits = lax.dot_general(queries, block, (((2,), (2,)), ((0,), (0,))))  # [M, B, block]
        logits = jnp.where(logits == 0, 0, logits)  # -0.0 and 0.0 are a tie
        rows = start.astype(jnp.int32) + jnp.arange(block.shape[1], dtype=jnp.int32)
        rows = jnp.broadcast_to(rows[None, None], logits.shape)
        both = [jnp.concatenate(pair, axis=2) for pair in zip(best, (logits, rows), strict=True)]
        top, place = largest(both[0], depth)
        return (top, jnp.take_along_axis(both[1], place, axis=2)), None

    nothing = (
        jnp.full((experts, batch, depth), -jnp.inf, contexts.dtype),
        jnp.zeros((experts, batch, depth), jnp.int32),
    )
    (_, orders), _ = scan_rows(update, nothing, items, _ITEMS_AT_ONCE)
    return jnp.swapaxes(orders, 0, 1)


def merge(orders: Int[Array, "B M depth"], quotas: Quotas) -> Int[Array, "B K"]:
    """Fills the K slots expert by expert, without items that an earlier expert has taken.

    >>> merge(jnp.array([[[0, 1, 2], [0, 3, 2]]]), (1, 2))
    Array([[0, 3, 2]], dtype=int32)
    """
    return jax.vmap(lambda order: fill_quotas(order, quotas)[0])(orders)


def exact_rows(
    queries: Float[np.ndarray, "B M D"], items: Float[np.ndarray, "M N D"], depth: int
) -> Int[np.ndarray, "B M depth"]:
    """Rows that an exact index of every expert finds; `exact_orders` in batches of contexts."""
    table = jnp.asarray(items)
    search = jax.jit(exact_orders, static_argnums=2)
    starts = range(0, len(queries), _CONTEXTS_AT_ONCE)
    return np.concatenate(
        [search(queries[i : i + _CONTEXTS_AT_ONCE], table, depth) for i in starts]
    )


def choose_effort(
    indexes: Sequence[ItemIndex],
    queries: Float[np.ndarray, "B M D"],
    exact: Int[np.ndarray, "B M depth"],
    target: float,
) -> int | None:
    """Sets and returns the least effort at which the recall of every expert reaches a target.

    Args:
      indexes: one per expert.
      queries: context embeddings.
      exact: rows of exact search, see `exact_rows`.
      target: mean recall at this depth, 0 to 1.

    Returns:
      The effort, or the largest one if none reaches the target; None where search is exact.
    """
    chosen = None
    for chosen in indexes[0].efforts:
        for index in indexes:
            index.set_effort(chosen)
        if min(recall_by_expert(_search(indexes, queries, exact.shape[2]), exact)) >= target:
            break
    return chosen


def measure_recall(
    indexes: Sequence[ItemIndex],
    queries: Float[np.ndarray, "B M D"],
    exact: Int[np.ndarray, "B M K"],
    quotas: Quotas,
) -> Recall:
    """Recall of the K candidates after the merge, and of the K best items of every expert.

    Args:
      indexes, queries, exact: see `choose_effort`, with depth K.
      quotas: number of slots that each expert fills.
    """
    found = _search(indexes, queries, exact.shape[2])
    candidates = [
        np.asarray(merge(jnp.asarray(orders, jnp.int32), quotas))[:, None]
        for orders in (found, exact)
    ]
    return {
        "candidates": recall_by_expert(*candidates)[0],
        "experts": recall_by_expert(found, exact),
        "contexts": len(queries),
    }


def recall_by_expert(
    found: Int[np.ndarray, "B M depth"], exact: Int[np.ndarray, "B M depth"]
) -> list[float]:
    """Share of the exact rows that were found, mean over contexts, for every expert.

    >>> recall_by_expert(np.array([[[3, 1]], [[0, 2]]]), np.array([[[1, 2]], [[2, 0]]]))
    [0.75]
    """
    hits = [
        [np.isin(exact[b, m], found[b, m]).mean() for b in range(len(exact))]
        for m in range(exact.shape[1])
    ]
    return [float(np.mean(of_expert)) for of_expert in hits]


def _search(
    indexes: Sequence[ItemIndex], queries: Float[np.ndarray, "B M D"], depth: int
) -> Int[np.ndarray, "B M depth"]:
    """Searches the index of every expert."""
    orders = [
        index.search(np.ascontiguousarray(queries[:, m]), depth) for m, index in enumerate(indexes)
    ]
    return np.stack(orders, axis=1)
