"""Argument validation for the public functions of the core.

Shapes, dtypes and quotas are static and always checked. Values are checked only where they are concrete:
under `jit` and `vmap` they are not known yet, and training detects bad values itself
(`rankpg.training.update`).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from rankpg.types import Quotas

__all__ = ["check_items", "check_logits", "check_quotas", "check_shown", "is_whole_number"]


def is_whole_number(x: object) -> bool:
    """True for an int of Python or NumPy that is not a bool."""
    return isinstance(x, int | np.integer) and not isinstance(x, bool)


def check_quotas(quotas: Quotas, num_experts: int, num_items: int) -> None:
    """Raises ValueError for quotas that do not fit the experts or the catalogue."""
    if not isinstance(quotas, tuple) or not all(map(is_whole_number, quotas)):
        raise ValueError(
            f"quotas={quotas!r}; expected a tuple of ints, one per expert, for instance (10,)"
        )
    if len(quotas) != num_experts:
        raise ValueError(
            f"quotas={quotas} has {len(quotas)} experts, but logits has {num_experts} rows (experts); "
            "expected logits [M, N] with M = len(quotas)"
        )
    if any(q < 0 for q in quotas) or sum(quotas) < 1:
        raise ValueError(
            f"quotas={quotas}; expected non-negative numbers that add up to at least 1, "
            f"for instance expert_quotas(10, {num_experts})"
        )
    if sum(quotas) > num_items:
        raise ValueError(
            f"quotas={quotas} need K = {sum(quotas)} candidates, but the catalogue has only "
            f"N = {num_items} items; lower num_candidates to at most {num_items}"
        )


def check_logits(logits: ArrayLike, quotas: Quotas) -> None:
    """Raises ValueError for logits of a wrong shape, dtype or value, and for quotas that do not fit them.

    Values are checked where they are concrete: NaN, +inf, and experts with too few eligible items.
    """
    shape, dtype = jnp.shape(logits), jnp.result_type(logits)
    if len(shape) != 2:
        raise ValueError(
            f"logits has shape {shape}; expected [M, N] (experts, items). "
            "For one expert write logits[None, :]; for a batch use jax.vmap"
        )
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"logits has dtype {dtype}; expected a float dtype such as float32")
    check_quotas(quotas, shape[0], shape[1])
    if _is_concrete(logits):
        with np.errstate(over="ignore"):
            # As JAX will see them: a finite float64 of NumPy may overflow in float32.
            seen = np.asarray(logits).astype(jax.dtypes.canonicalize_dtype(dtype))
        _check_logit_values(seen.astype(np.float64), quotas)


def _is_concrete(x: object) -> bool:
    return not isinstance(x, Tracer)


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
                f"expert {expert} has {have} eligible items (logit above -inf), but quotas={quotas} "
                f"may need {need}: {taken} of them may be taken by earlier experts; mask fewer items or "
                "lower num_candidates"
            )


def check_items(name: str, items: ArrayLike, num_items: int, shape: tuple[int | None, ...]) -> None:
    """Raises ValueError for item ids of a wrong shape or dtype and, where concrete, out of range or repeated.

    Args:
      name: name of the argument, for the message.
      items: item ids.
      num_items: N.
      shape: the required shape; None stands for L, any length.
    """
    actual = jnp.shape(items)
    if len(actual) != len(shape) or any(
        want is not None and want != have for want, have in zip(shape, actual, strict=True)
    ):
        wanted = "[" + ", ".join("L" if s is None else str(s) for s in shape) + "]"
        raise ValueError(f"{name} has shape {actual}; expected item ids of shape {wanted}")
    if not jnp.issubdtype(jnp.result_type(items), jnp.integer):
        raise ValueError(f"{name} has dtype {jnp.result_type(items)}; expected integer item ids")
    if not _is_concrete(items):
        return
    values = np.asarray(items).reshape(-1)
    outside = values[(values < 0) | (values >= num_items)]
    if outside.size:
        raise ValueError(
            f"{name} contains the item {outside[0]}; the catalogue has the items 0 to {num_items - 1}"
        )
    ids, counts = np.unique(values, return_counts=True)
    if (counts > 1).any():
        raise ValueError(
            f"{name} contains the item {ids[counts > 1][0]} more than once; expected distinct items"
        )


def check_shown(candidates: ArrayLike, ranking: ArrayLike) -> None:
    """Raises ValueError, where both are concrete, for a ranking with an item that is not a candidate."""
    if not (_is_concrete(candidates) and _is_concrete(ranking)):
        return
    others = np.setdiff1d(np.asarray(ranking), np.asarray(candidates))
    if others.size:
        raise ValueError(
            f"ranking contains the item {others[0]}, which is not one of the candidates "
            f"{np.asarray(candidates).tolist()}; every ranked item must be a candidate"
        )
