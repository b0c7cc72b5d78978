"""Inclusion in large catalogues: seconds, temporary memory, error bound and error.

    python -m benchmarks.scripts.large_inclusion

K = 100 candidates, one draw of normal logits, and a head of 4 K items unless the row gives another. Seconds
and memory are measured for log P(a in S) of one item, and for its value and gradient, in float32; next to
exact inclusion where that is feasible. P is a smooth function of an item's logit, so a few ranks from the
first to the last give the largest bound and the largest error. The error is relative to exact inclusion in
float64. Where that is not feasible, the difference between float32 and float64 shows the effect of rounding.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.scripts.common import interleaved, write
from rankpg import log_inclusion, log_inclusion_large

QUOTAS = (100,)
WATCHED = (0, 10, 50, 100, 150, 250, 390, 410, 600, -1)  # ranks; -1 is the last
EXACT_UP_TO = 4000
SIZES = (1000, 2000, 4000, 10_000, 100_000, 1_000_000)


@partial(jax.jit, static_argnums=2)
def _large(logits, items, head):
    return jax.lax.map(lambda a: log_inclusion_large(logits, a, QUOTAS, head), items)


@jax.jit
def _exact(logits, items):
    return jax.lax.map(lambda a: log_inclusion(logits, a, QUOTAS, "exact"), items)


def _relative(found, truth) -> float:
    """Largest |P - truth| / P, the quantity that the bound bounds."""
    return float(np.abs(np.expm1(np.asarray(truth) - np.asarray(found, np.float64))).max())


def accuracy(num_items: int, std: float, head: int | None = None) -> dict[str, float]:
    """Measures the largest error bound and the largest error over some ranks."""
    logits = std * np.random.default_rng(1).normal(size=(1, num_items))
    items = jnp.asarray(np.argsort(-logits[0])[list(WATCHED)], jnp.int32)
    double = _large(jnp.asarray(logits), items, head)
    single = _large(jnp.asarray(logits, jnp.float32), items, head)
    result = {
        "largest_error_bound": float(double.error_bound.max()),
        "float32_against_float64": _relative(single.log_probability, double.log_probability),
    }
    if num_items <= EXACT_UP_TO:
        truth = _exact(jnp.asarray(logits), items)
        result["largest_error"] = _relative(double.log_probability, truth)
        result["largest_error_float32"] = _relative(single.log_probability, truth)
        errors = np.abs(np.expm1(np.asarray(truth - double.log_probability)))
        held = errors <= np.asarray(double.error_bound) + 1e-8
        if not held.all():
            raise AssertionError(f"the bound does not hold: {errors}, {double.error_bound}")
    return result


def cost(num_items: int) -> dict[str, dict[str, object]]:
    """Measures seconds and temporary memory of one item's inclusion, value and gradient."""
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(1, num_items)), jnp.float32)
    item = jnp.argsort(-logits[0])[QUOTAS[0]].astype(jnp.int32)
    large = lambda f: log_inclusion_large(f, item, QUOTAS).log_probability  # noqa: E731
    arms = {"value": large, "gradient": jax.value_and_grad(large)}
    if num_items <= EXACT_UP_TO:
        exact = lambda f: log_inclusion(f, item, QUOTAS, "exact")  # noqa: E731
        arms |= {"exact value": exact, "exact gradient": jax.value_and_grad(exact)}
    compiled = {name: jax.jit(arm).lower(logits).compile() for name, arm in arms.items()}
    return {
        "seconds": interleaved({name: partial(arm, logits) for name, arm in compiled.items()}),
        "temporary_MiB": {
            name: arm.memory_analysis().temp_size_in_bytes / 2**20 for name, arm in compiled.items()
        },
    }


def main() -> None:
    jax.config.update("jax_enable_x64", True)  # for the reference; arrays below say their dtype
    rows = []
    for num_items in SIZES:
        row = {"num_items": num_items, "num_candidates": QUOTAS[0], **cost(num_items)}
        row["accuracy"] = {f"std {std:g}": accuracy(num_items, std) for std in (0.0, 1.0, 3.0)}
        print({**row, "seconds": {n: s["median"] for n, s in row["seconds"].items()}})
        rows.append(row)
    heads = [
        {"num_items": 4000, "head": head}
        | {f"std {std:g}": accuracy(4000, std, head) for std in (1.0, 3.0)}
        for head in (0, 100, 400, 1600)
    ]
    for row in heads:
        print(row)
    write("large_inclusion", {"rows": rows, "heads": heads})


if __name__ == "__main__":
    main()
