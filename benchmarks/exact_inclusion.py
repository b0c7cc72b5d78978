"""What exact inclusion costs and how close it is: seconds, compiler's temporary memory, quadrature error.

    python benchmarks/exact_inclusion.py

Time and memory are of log P(a in S) and its gradient for 32 items at once, float32; the error is the largest
relative difference to 512 nodes in float64, over all items of one draw of normal logits.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from _common import interleaved, write

from rankpg.exact_inclusion import log_inclusion_exact

jax.config.update("jax_enable_x64", True)  # for the reference; arrays below say their dtype
ITEMS = 32


def main() -> None:
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


def _errors(num_items: int, num_candidates: int) -> dict[str, float]:
    errors = {}
    for std in (1.0, 3.0):
        logits = std * np.random.default_rng(1).normal(size=num_items)

        def all_items(dtype, nodes, logits=logits):
            f = jnp.asarray(logits, dtype)
            items = jnp.arange(num_items, dtype=jnp.int32)
            one = lambda a: log_inclusion_exact(f, a, num_candidates, nodes)  # noqa: E731
            return np.asarray(jax.jit(lambda i: jax.lax.map(one, i, batch_size=25))(items), float)

        truth = all_items(jnp.float64, 512)
        for name, dtype in (("float64", jnp.float64), ("float32", jnp.float32)):
            error = np.abs(np.expm1(all_items(dtype, None) - truth)).max()
            errors[f"{name}, std {std:g}"] = float(error)
    return errors


if __name__ == "__main__":
    main()
