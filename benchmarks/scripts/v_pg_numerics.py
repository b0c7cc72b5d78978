"""Error of V-PG's score in float32 against the policy's sharpness, by the computation of its normaliser.

    python -m benchmarks.scripts.v_pg_numerics

Logits are normal with a given standard deviation, and candidates are sampled from them. Value and gradient of
the ordered log-probability, computed by subtraction and by summation, are compared with NumPy in float64,
which sums the remaining weights before each slot.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import rankpg
from benchmarks.scripts.common import write

N, K, DRAWS = 1000, 10, 2000
SPREADS = (1.0, 3.2, 10.0, 20.0, 40.0)
"""Standard deviations of the logits; 3.2 is that of the paper's initial tables (10 products of N(0, 1))."""


def by_subtraction(logits, items):
    """Log-probability with the normaliser of slot k as A + log1p(-exp(B - A) + 1e-10)."""
    picked, total = logits[0, items], jax.nn.logsumexp(logits[0])
    before = jnp.concatenate([jnp.array([-jnp.inf]), jax.lax.cumlogsumexp(picked)[:-1]])
    return jnp.sum(picked - (total + jnp.log1p(-jnp.exp(before - total) + 1e-10)))


def by_summing(logits, items):
    """Log-probability with the normaliser of slot k as the sum of the remaining weights."""
    return rankpg.log_prob(logits, items, (K,))


def truth(logits: np.ndarray, items: np.ndarray) -> tuple[float, np.ndarray]:
    """Value and gradient in float64, slot by slot over the remaining items."""
    left = np.ones(len(logits), bool)
    value, gradient = 0.0, np.zeros(len(logits))
    for item in items:
        top = logits[left].max()
        weights = np.where(left, np.exp(logits - top), 0)
        value += logits[item] - top - np.log(weights.sum())
        gradient -= weights / weights.sum()
        gradient[item] += 1
        left[item] = False
    return value, gradient


def measure(spread: float) -> dict[str, dict[str, float]]:
    """Measures both computations on the same draws."""
    logits_key, draw_key = jax.random.split(jax.random.key(0))
    logits = spread * jax.random.normal(logits_key, (DRAWS, 1, N))
    draw = jax.jit(jax.vmap(lambda k, f: rankpg.sample_candidates(k, f, (K,))))
    items = draw(jax.random.split(draw_key, DRAWS), logits)
    wanted = [
        truth(f[0], i) for f, i in zip(np.asarray(logits, float), np.asarray(items), strict=True)
    ]
    values, gradients = (np.stack(part) for part in zip(*wanted, strict=True))
    found = {}
    for name, score in (("subtracted", by_subtraction), ("summed", by_summing)):
        value, gradient = jax.jit(jax.vmap(jax.value_and_grad(score)))(logits, items)
        value, gradient = np.asarray(value, float), np.asarray(gradient, float)[:, 0]
        finite = np.isfinite(value) & np.isfinite(gradient).all(axis=1)
        error = np.linalg.norm(gradient - gradients, axis=1) / np.linalg.norm(gradients, axis=1)
        found[name] = {
            "not_finite": float(1 - finite.mean()),
            "value_error_99": float(np.quantile(np.abs(value - values)[finite], 0.99)),
            "gradient_error_99": float(np.quantile(error[finite], 0.99)),
            "gradient_error_largest": float(error[finite].max()),
        }
    return found


def main() -> None:
    rows = {f"{spread:g}": measure(spread) for spread in SPREADS}
    for spread, row in rows.items():
        print(spread, row)
    write("v_pg_numerics", {"N": N, "K": K, "draws": DRAWS, "rows": rows})


if __name__ == "__main__":
    main()
