"""Training on a million items with two cores: recall of the true top 10 among 100 candidates, and time.

    python -m benchmarks.scripts.million_items [--num-steps 200]

docs/scaling.md has the same run on the command line. The recall of a random policy, which returns any K of N
items, is K / N.
"""

from __future__ import annotations

import time

from benchmarks.scripts.common import num_steps_given, write
from rankpg import TrainConfig
from rankpg.runs.loop import training_loop
from rankpg.runs.run import prepare

CONFIG = TrainConfig(
    num_items=1_000_000,
    embedding_dim=64,
    num_candidates=100,
    recall_depth=10,
    context_tower="features",
    item_tower="features",
    learning_rate=1e-2,  # few steps, so large ones
    eval_every=50,
    eval_contexts=64,
    seeds=(0,),
)


def main() -> None:
    num_steps = num_steps_given(__doc__, 200)
    began = time.perf_counter()
    run = prepare(TrainConfig.from_dict(CONFIG.to_dict() | {"num_steps": num_steps}))
    curve = []
    for progress in training_loop(run):
        for row in progress.rows:
            seconds = time.perf_counter() - began
            kept = ("step", "candidate_recall", "policy_value", "normalised_value")
            curve.append({"seconds": seconds} | {name: row[name] for name in kept})
            print(curve[-1], flush=True)
    random = run.config.num_candidates / run.config.num_items
    write(
        "million_items",
        {
            "config": run.config.to_dict(),
            "retrieval": {"name": run.policy.retrieval.name, "reason": run.policy.retrieval.reason},
            "estimated_memory": str(run.memory),
            "recall_of_a_random_policy": random,
            "curve": curve,
            "times_a_random_policy": curve[-1]["candidate_recall"] / random,
            "seconds": curve[-1]["seconds"],
        },
    )


if __name__ == "__main__":
    main()
