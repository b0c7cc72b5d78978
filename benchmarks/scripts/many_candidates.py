"""What a baseline and an entropy bonus do where many candidates are handed over: share of the limit, 2 seeds.

    python -m benchmarks.scripts.many_candidates [--num-steps 2000]

`ca_pg_swr` with its tuned preset on a generated instance (seed 2): K = 200 of 10,000 items, and a re-ranker
that knows the rewards.
"""

from __future__ import annotations

from typing import Any

from benchmarks.hard_problems.reach import find_limit
from benchmarks.scripts.common import fill_products, num_steps_given
from rankpg import TrainConfig, train
from rankpg._utils.plots import mean_interval

TRANSFORMS = ("none", "context")
WEIGHTS = (0.0, 0.3)


def measure(transform: str, weight: float, num_steps: int) -> dict[str, Any]:
    """Share of the limit at the start and at the end, over seeds."""
    config = TrainConfig(
        num_items=10_000,
        num_candidates=200,
        estimator="ca_pg_swr",
        advantage=transform,
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
    fill_products("many_candidates", measure, num_steps_given(__doc__, 2000), TRANSFORMS, WEIGHTS)


if __name__ == "__main__":
    main()
