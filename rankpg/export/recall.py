"""How much of the policy's candidates an index finds, measured against exact search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rankpg.export.exact import exact_orders, merge
from rankpg.export.indexes import ItemIndex
from rankpg.types import Quotas

__all__ = ["choose_effort", "exact_rows", "measure", "overlap"]

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
