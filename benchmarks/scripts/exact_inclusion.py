"""Cost and accuracy of exact inclusion probabilities: seconds, temporary memory, quadrature error.

    python -m benchmarks.scripts.exact_inclusion

Time and memory are measured for log P(a in S) and its gradient, for 32 items at once in float32. The error is
the largest relative difference to a quadrature with twice the nodes in float64: doubling the nodes squares
the error of Gauss-Legendre on an analytic integrand. It is a smooth function of an item's logit, so 50 items
suffice; they are spread evenly over the ranks of one draw of normal logits, from the most to the least likely
item.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.scripts.common import interleaved, write
from rankpg.core.inclusion_exact import log_inclusion_exact

ITEMS, WATCHED, REFERENCE_NODES = 32, 50, 128  # 64 nodes are the default from 65 items on


def main() -> None:
    jax.config.update("jax_enable_x64", True)  # for the reference; arrays below say their dtype
    rows = []
    for num_items, num_candidates in ((100, 10), (1000, 10), (1000, 50), (1000, 200), (5000, 50)):
        logits = jnp.asarray(np.random.default_rng(0).normal(size=num_items), jnp.float32)

        def total(logits, k=num_candidates):
            items = jnp.arange(ITEMS, dtype=jnp.int32)
            return jax.vmap(lambda a: log_inclusion_exact(logits, a, k))(items).sum()

        compiled = {
            "value": jax.jit(total).lower(logits).compile(),
            "gradient": jax.jit(jax.grad(total)).lower(logits).compile(),
        }
        seconds = interleaved({n: partial(f, logits) for n, f in compiled.items()})
        memory = {n: f.memory_analysis().temp_size_in_bytes / 2**20 for n, f in compiled.items()}
        row = {"num_items": num_items, "num_candidates": num_candidates, "items": ITEMS}
        row |= {"seconds": seconds, "temporary_MiB": memory}
        if num_items <= 1000:
            row["largest_relative_error"] = _errors(num_items, num_candidates)
        rows.append(row)
        print(
            num_items,
            num_candidates,
            {n: f"{s['median']:.4f} s" for n, s in seconds.items()},
            memory,
        )
    write("exact_inclusion", {"rows": rows})


@partial(jax.jit, static_argnums=(2, 3))
def _log_inclusions(logits, items, num_candidates, num_nodes):
    one = lambda item: log_inclusion_exact(logits, item, num_candidates, num_nodes)  # noqa: E731
    return jax.lax.map(one, items, batch_size=25)


def _errors(num_items: int, num_candidates: int) -> dict[str, float]:
    errors = {}
    ranks = np.linspace(0, num_items - 1, WATCHED).round().astype(int)
    for std in (1.0, 3.0):
        logits = std * np.random.default_rng(1).normal(size=num_items)
        items = jnp.asarray(np.argsort(-logits)[ranks], jnp.int32)
        truth = _log_inclusions(jnp.asarray(logits), items, num_candidates, REFERENCE_NODES)
        for dtype in (jnp.float64, jnp.float32):
            found = _log_inclusions(jnp.asarray(logits, dtype), items, num_candidates, None)
            error = np.abs(np.expm1(np.asarray(found, float) - np.asarray(truth))).max()
            errors[f"{jnp.dtype(dtype)}, std {std:g}"] = float(error)
    return errors


if __name__ == "__main__":
    main()
