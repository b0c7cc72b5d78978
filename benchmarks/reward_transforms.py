"""Which reward transform suits which score: policy value after 1,000 steps, every pair, 3 seeds.

    python benchmarks/reward_transforms.py [--num-steps 1000]

The tuned preset on a generated instance (seed 1), not on the paper's. `group` draws 16 contexts 8 times,
the others 128 contexts once.
"""

from __future__ import annotations

import argparse
import json
import sys

from _common import RESULTS, write

from rankpg import TrainConfig, train
from rankpg.summary import mean_interval

ESTIMATORS = ("ca_pg_swr", "top1_pg", "v_pg_swr")
TRANSFORMS = ("none", "group", "batch", "context", "learned")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--num-steps", type=int, default=1000)
    num_steps = parser.parse_args().num_steps
    file = RESULTS / "reward_transforms.json"
    rows = json.loads(file.read_text())["rows"] if file.exists() else {}
    for estimator in ESTIMATORS:
        for transform in TRANSFORMS:
            name = f"{estimator}/{transform}"
            if rows.get(name, {}).get("steps", 0) >= num_steps:
                continue
            config = TrainConfig(
                estimator=estimator,
                reward_transform=transform,
                draws_per_context=8 if transform == "group" else 1,
                instance_seed=1,
                num_steps=num_steps,
                eval_every=num_steps,
            )
            run = train(config)
            shares = [r["share_of_optimum"] for r in run.metrics if r["step"] == run.step]
            start = [r["share_of_optimum"] for r in run.metrics if r["step"] == 0]
            mean, half = mean_interval(shares)
            rows[name] = {
                "steps": run.step,
                "share_of_optimum": {"mean": mean, "half_width_95": half, "seeds": shares},
                "share_at_start": mean_interval(start)[0],
                "stopped": run.stopped(),
            }
            print(f"{name:<20} {mean:.3f} ± {half:.3f}", file=sys.stderr)
            write("reward_transforms", {"rows": rows})


if __name__ == "__main__":
    main()
