"""Training with V-PG in float32, its normaliser computed by subtraction or by summation.

    python -m benchmarks.scripts.v_pg_overflow [--num-steps 20000]

The normaliser of slot k is the total weight of the items not picked before k. With A the log-sum-exp of the
catalogue and B that of the earlier picks, it can be computed as A + log1p(-exp(B - A) + 1e-10). For a peaked
policy B approaches A: the difference loses all correct digits, becomes 0, and its logarithm is not finite;
next to 1, the 1e-10 vanishes in float32. The library sums the remaining weights instead. Both versions are
trained with the paper's settings on the paper's instance; a seed stops at its first non-finite value.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import lax

from benchmarks.scripts.common import fill_rows, num_steps_given
from rankpg import TrainConfig
from rankpg._utils.plots import mean_interval
from rankpg.core.estimators import ESTIMATORS, Estimator
from rankpg.runs.loop import training_loop
from rankpg.runs.run import prepare


def by_subtraction(candidates, ranking, quotas):
    """Score of V-PG for one expert, with normalisers computed by subtraction from the total."""
    sparse = candidates.sparse_logits
    picked = sparse.logits[0, sparse.positions(candidates.items)]
    total = sparse.log_total()[0]
    before = jnp.concatenate([jnp.array([-jnp.inf]), lax.cumlogsumexp(picked)[:-1]])
    normaliser = total + jnp.log1p(-jnp.exp(before - total) + 1e-10)
    return jnp.broadcast_to(jnp.sum(picked - normaliser), ranking.shape)


SCORES: dict[str, Estimator] = {
    "summed": ESTIMATORS["v_pg"],
    "subtracted": Estimator(by_subtraction, "candidates", credit_assigned=False),
}


def measure(score: str, num_candidates: int, num_steps: int) -> dict[str, Any]:
    """Trains three seeds with one computation of the normaliser."""
    config = TrainConfig(
        estimator="v_pg", preset="paper", num_candidates=num_candidates, num_steps=num_steps
    )
    run = prepare(config)
    run.learner = dataclasses.replace(run.learner, estimator=SCORES[score])
    for progress in training_loop(run):
        if progress.rows and all(row["stopped_by"] for row in progress.rows):
            break
    last = run.metrics[-len(config.seeds) :]
    mean, half = mean_interval([row["policy_value"] for row in last])
    stopped = [row["stopped_at_step"] for row in last]
    return {
        "config": run.config.to_dict(),
        "steps": num_steps,
        "policy_value": {"mean": mean, "half_width_95": half},
        "stopped_at_step": stopped,
        "stopped_by": [row["stopped_by"] for row in last],
        "summary": f"{mean:.3f}, stopped at {stopped}",
    }


def main() -> None:
    num_steps = num_steps_given(__doc__, 20_000)
    measures = {
        f"{score}/K={k}": partial(measure, score, k, num_steps)
        for k in (5, 10, 20)
        for score in ("subtracted", "summed")
    }
    fill_rows("v_pg_overflow", measures, num_steps)


if __name__ == "__main__":
    main()
