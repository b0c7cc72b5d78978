"""Policy value after 1,000 steps for every pair of score and advantage, 3 seeds.

    python -m benchmarks.scripts.advantages [--num-steps 1000]

The tuned preset on a generated instance (seed 1), not the paper's. `group` samples 16 contexts 8 times each,
the other advantages 128 contexts once.
"""

from __future__ import annotations

from typing import Any

from benchmarks.scripts.common import fill_products, num_steps_given
from rankpg import TrainConfig, train
from rankpg._utils.plots import mean_interval

ESTIMATORS = ("ca_pg_swr", "top1_pg", "v_pg_swr")
ADVANTAGES = ("none", "group", "batch", "context", "learned")


def measure(estimator: str, advantage: str, num_steps: int) -> dict[str, Any]:
    """Measures the share of the optimum after the last step, over seeds."""
    config = TrainConfig(
        estimator=estimator,
        advantage=advantage,
        draws_per_context=8 if advantage == "group" else 1,
        instance_seed=1,
        num_steps=num_steps,
        eval_every=num_steps,
    )
    run = train(config)
    shares = [row["normalised_value"] for row in run.metrics if row["step"] == run.step]
    start = [row["normalised_value"] for row in run.metrics if row["step"] == 0]
    mean, half = mean_interval(shares)
    return {
        "steps": run.step,
        "normalised_value": {"mean": mean, "half_width_95": half, "seeds": shares},
        "share_at_start": mean_interval(start)[0],
        "stopped": run.stopped(),
        "summary": f"{mean:.3f} ± {half:.3f}",
    }


def main() -> None:
    fill_products("advantages", measure, num_steps_given(__doc__, 1000), ESTIMATORS, ADVANTAGES)


if __name__ == "__main__":
    main()
