"""Bias and learning of every estimator with one to five experts.

    python -m benchmarks.scripts.experts [--num-steps 3000]

Bias: seven items and five slots, so that gradients can be enumerated; the distance of each estimator's
expected gradient from the credit-assigned gradient, and its cosine with the policy gradient. Learning: the
tuned preset on a generated instance of 1000 contexts and items, K = 10, with five experts and one, 3 seeds.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.estimator_lab import sweep
from benchmarks.scripts.common import fill_rows, num_steps_given
from rankpg import TrainConfig, expert_quotas, train
from rankpg._utils.plots import curve

ESTIMATORS = (
    "top1_pg", "ca_pg_swr", "ca_pg", "ca_pg_threshold", "ca_pg_swap", "v_pg_swr", "v_pg",
)  # fmt: skip
EXPERTS = (1, 2, 3, 5)
SLOTS, ITEMS = 5, 7
SHOWN = ("bias_to_credit", "cosine_to_credit", "cosine_to_policy", "variance", "sampling_error")


def enumerate_gradients(num_experts: int, num_steps: int) -> dict[str, Any]:
    """Enumerates every estimator's gradient: no baseline, optimal re-ranker, 64 contexts."""
    sizes = [(ITEMS, expert_quotas(SLOTS, num_experts))]
    found = sweep(sizes, scales=(1.0,), rerankers=("optimal",), num_contexts=64, num_draws=2**14)
    gradients = {
        row["estimator"]: {name: row[name] for name in SHOWN}
        for row in found
        if row["baseline"] == "none"
    }
    least = min(gradients, key=lambda name: gradients[name]["bias_to_credit"])
    return {"steps": num_steps, "gradients": gradients, "summary": f"least biased: {least}"}


def learn(estimator: str, num_experts: int, num_steps: int) -> dict[str, Any]:
    """Measures the share of the optimum after every third of the steps, over seeds."""
    config = TrainConfig(
        estimator=estimator,
        num_experts=num_experts,
        instance_seed=1,
        num_steps=num_steps,
        eval_every=num_steps // 3,
    )
    run = train(config)
    steps, means, halves = curve(run.metrics, "normalised_value")
    return {
        "steps": run.step,
        "normalised_value": {
            str(step): {"mean": float(mean), "half_width_95": float(half)}
            for step, mean, half in zip(steps, means, halves, strict=True)
        },
        "stopped": run.stopped(),
        "summary": f"{means[-1]:.4f} ± {halves[-1]:.4f}",
    }


def main() -> None:
    num_steps = num_steps_given(__doc__, 3000)
    measures = {f"gradients/M={m}": partial(enumerate_gradients, m, num_steps) for m in EXPERTS} | {
        f"learning/{estimator}/M={m}": partial(learn, estimator, m, num_steps)
        for m in (5, 1)
        for estimator in ESTIMATORS
    }
    fill_rows("experts", measures, num_steps)


if __name__ == "__main__":
    main()
