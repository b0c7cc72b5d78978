"""The door: what is refused before anything is computed, and the words it is refused with.

Shapes and settings are static, so they are checked always. Values are checked only where they are
concrete: under `jit` and `vmap` they are not known yet, and training watches them itself (see training.py).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from rankpg.types import Quotas

__all__ = ["check_items", "check_logits", "check_quotas", "check_shown"]


def is_concrete(x: Any) -> bool:
    return not isinstance(x, Tracer)


def check_quotas(quotas: Quotas, num_experts: int, num_items: int) -> None:
    """Refuse quotas that do not fit the experts or the catalogue."""
    if not isinstance(quotas, tuple) or not all(
        isinstance(q, int | np.integer) and not isinstance(q, bool) for q in quotas
    ):
        raise ValueError(
            f"quotas is {quotas!r}; expected a tuple of ints, one per expert, "
            "for instance expert_quotas(10, 1)"
        )
    if len(quotas) != num_experts:
        raise ValueError(
            f"quotas {quotas} is for {len(quotas)} experts, but logits has {num_experts} rows (experts); "
            "logits must be [M, N] with M = len(quotas)"
        )
    if any(q < 0 for q in quotas) or sum(quotas) < 1:
        raise ValueError(f"quotas {quotas} must be non-negative and add up to at least 1")
    if sum(quotas) > num_items:
        raise ValueError(
            f"quotas {quotas} ask for K = {sum(quotas)} candidates, but the catalogue has only "
            f"N = {num_items} items; lower num_candidates to at most {num_items}"
        )


def check_logits(logits: Any, quotas: Quotas) -> None:
    """Refuse logits of a wrong shape or dtype, and, where they are concrete, NaN, +inf and over-masking."""
    shape, dtype = jnp.shape(logits), jnp.result_type(logits)
    if len(shape) != 2:
        raise ValueError(
            f"logits has shape {shape}; expected [M, N] (experts, items). "
            "For one expert write logits[None, :]; for a batch use jax.vmap"
        )
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"logits has dtype {dtype}; expected a float dtype such as float32")
    check_quotas(quotas, shape[0], shape[1])
    if is_concrete(logits):
        # As JAX will see them: a float64 of NumPy may not be finite any more in float32.
        _check_logit_values(np.asarray(jnp.asarray(logits), dtype=np.float64), quotas)


def _check_logit_values(logits: np.ndarray, quotas: Quotas) -> None:
    bad = np.argwhere(np.isnan(logits) | np.isposinf(logits))
    if bad.size:
        expert, item = (int(i) for i in bad[0])
        raise ValueError(
            f"logits[{expert}, {item}] is {logits[expert, item]}; every logit must be finite, "
            "or -inf for an item that is not eligible"
        )
    eligible = np.isfinite(logits)
    shared = eligible.astype(int) @ eligible.T.astype(int)  # items that both experts may take
    for expert, quota in enumerate(quotas):
        taken = sum(min(q, shared[expert, m]) for m, q in enumerate(quotas[:expert]))
        have, need = eligible[expert].sum(), quota + taken
        if quota and have < need:
            raise ValueError(
                f"expert {expert} has {have} eligible items (logit above -inf), but quotas {quotas} "
                f"may need {need}: {taken} of them may be taken by earlier experts; mask fewer items or "
                "lower num_candidates"
            )


def check_items(name: str, items: Any, num_items: int, shape: tuple[int | None, ...]) -> None:
    """Refuse item ids of a wrong shape or dtype and, where concrete, out of range or repeated."""
    actual = jnp.shape(items)
    if len(actual) != len(shape) or any(
        want is not None and want != have for want, have in zip(shape, actual, strict=True)
    ):
        wanted = "[" + ", ".join("L" if s is None else str(s) for s in shape) + "]"
        raise ValueError(f"{name} has shape {actual}; expected item ids of shape {wanted}")
    if not jnp.issubdtype(jnp.result_type(items), jnp.integer):
        raise ValueError(f"{name} has dtype {jnp.result_type(items)}; expected integer item ids")
    if not is_concrete(items):
        return
    values = np.asarray(items).reshape(-1)
    outside = values[(values < 0) | (values >= num_items)]
    if outside.size:
        raise ValueError(
            f"{name} holds the item {outside[0]}, but the catalogue has the items 0 to {num_items - 1}"
        )
    ids, counts = np.unique(values, return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"{name} holds the item {ids[counts > 1][0]} more than once")


def check_shown(candidates: Any, ranking: Any) -> None:
    """Refuse, where both are concrete, a ranking with an item that was no candidate."""
    if not (is_concrete(candidates) and is_concrete(ranking)):
        return
    strangers = np.setdiff1d(np.asarray(ranking), np.asarray(candidates))
    if strangers.size:
        raise ValueError(
            f"ranking holds the item {strangers[0]}, which is none of the candidates "
            f"{np.asarray(candidates).tolist()}; the score of a candidate set is of what it can show"
        )
