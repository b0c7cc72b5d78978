"""Effect of a baseline and an entropy bonus with many candidates: share of the attainable value, 2 seeds.

    python -m benchmarks.scripts.many_candidates [--num-steps 2000]

`ca_pg_swr` with its tuned preset on a generated instance (seed 2): K = 200 of 10,000 items, optimal
re-ranker.
"""

from __future__ import annotations

from typing import Any

from benchmarks.hard_problems.reach import find_limit
from benchmarks.scripts.common import fill_products, num_steps_given
from rankpg import TrainConfig, train
from rankpg._utils.plots import mean_interval

ADVANTAGES = ("none", "context")
WEIGHTS = (0.0, 0.3)


def measure(advantage: str, weight: float, num_steps: int) -> dict[str, Any]:
    """Measures the share of the attainable value at the first and last step, over seeds."""
    config = TrainConfig(
        num_items=10_000,
        num_candidates=200,
        estimator="ca_pg_swr",
        advantage=advantage,
        entropy_bonus=weight,
        instance_seed=2,
        num_steps=num_steps,
        eval_every=num_steps,
        seeds=(0, 1),
    )
    limit, run = find_limit(config, "policy_value"), train(config)
    shares = {
        name: [row["policy_value"] / limit for row in run.metrics if row["step"] == step]
        for name, step in (("start", 0), ("end", num_steps))
    }
    means = {name: mean_interval(values) for name, values in shares.items()}
    return {
        "steps": num_steps,
        "limit": limit,
        "share_of_limit": {
            name: {"mean": mean, "half_width_95": half, "seeds": shares[name]}
            for name, (mean, half) in means.items()
        },
        "stopped": run.stopped(),
        "summary": ", ".join(f"{name}: {mean:.3f}" for name, (mean, _) in means.items()),
    }


def main() -> None:
    fill_products("many_candidates", measure, num_steps_given(__doc__, 2000), ADVANTAGES, WEIGHTS)


if __name__ == "__main__":
    main()
