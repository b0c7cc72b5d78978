"""Quotas: the number of the K slots that each expert fills."""

from __future__ import annotations

import numpy as np

from rankpg.types import Quotas

__all__ = ["expert_quotas", "slot_experts"]


def expert_quotas(num_candidates: int, num_experts: int) -> Quotas:
    """Splits K slots over M experts: K // M each, and one more for the first K % M.

    Args:
      num_candidates: K, at least 1.
      num_experts: M, at least 1.

    Returns:
      (K_1, ..., K_M), with sum K.

    Raises:
      ValueError: a count that is not a whole number of at least 1.

    >>> expert_quotas(10, 4)
    (3, 3, 2, 2)
    """
    for name, value in (("num_candidates", num_candidates), ("num_experts", num_experts)):
        if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
            raise ValueError(f"{name}={value!r}; expected a whole number of at least 1")
    share, extra = divmod(num_candidates, num_experts)
    return tuple(share + (m < extra) for m in range(num_experts))


def slot_experts(quotas: Quotas) -> np.ndarray:
    """Expert m(k) that fills each slot k, int[K].

    >>> slot_experts((2, 1)).tolist()
    [0, 0, 1]
    """
    return np.repeat(np.arange(len(quotas)), quotas)
