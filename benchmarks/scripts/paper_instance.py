"""Policy value on the paper's instance, with the paper's settings and with the tuned preset.

    python -m benchmarks.scripts.paper_instance                 # every row without a result
    python -m benchmarks.scripts.paper_instance --rows ca_pg/paper --num-steps 2000 --out /tmp/x

K = 10, L = 1, M = 1, optimal re-ranker and 3 seeds unless the row's settings differ. A row takes minutes. The
result is written after every row, so an interrupted script resumes where it stopped.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.scripts.common import RESULTS, fill_rows
from rankpg import TrainConfig, train
from rankpg._utils.plots import mean_interval

GROUP_OF_8 = {"advantage": "group", "draws_per_context": 8}

ROWS: dict[str, dict[str, Any]] = {
    f"{estimator}/{preset}": {"estimator": estimator, "preset": preset}
    for preset in ("paper", "tuned")
    for estimator in ("ca_pg", "top1_pg", "v_pg_swr", "ca_pg_swr", "v_pg")
} | {
    "v_pg/paper/K=20": {"estimator": "v_pg", "preset": "paper", "num_candidates": 20},
    # The sweep's winners that are not presets: they sample every context of a batch eight times.
    "top1_pg/swept": {"estimator": "top1_pg", "learning_rate": 3e-3, **GROUP_OF_8},
    "v_pg/swept": {"estimator": "v_pg", **GROUP_OF_8},
}


def measure(settings: dict[str, Any], num_steps: int) -> dict[str, Any]:
    """Trains one row and summarises it."""
    config = TrainConfig(**{"eval_every": 1000, **settings, "num_steps": num_steps}).resolve()
    run = train(config)
    values: dict[int, list[float]] = {}
    for row in run.metrics:
        values.setdefault(row["step"], []).append(row["policy_value"])
    mean, half = mean_interval(values[run.step])
    speeds = [row["steps_per_second"] for row in run.metrics if row["steps_per_second"]]
    return {
        "config": config.to_dict(),
        "steps": run.step,
        "policy_value": {"mean": mean, "half_width_95": half, "seeds": values[run.step]},
        "optimum": run.metrics[-1]["optimum"],
        "curve": {str(step): mean_interval(v)[0] for step, v in values.items()},
        "values": {str(step): v for step, v in values.items()},
        "steps_per_second_all_seeds_at_once": float(mean_interval(speeds)[0]),
        "stopped": run.stopped(),
        "summary": f"{mean:.4f} ± {half:.4f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--rows", nargs="+", choices=ROWS, default=list(ROWS), help="rows to train [all]"
    )
    parser.add_argument(
        "--num-steps", type=int, default=20_000, help="training steps [%(default)s]"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="output folder [%(default)s]")
    arguments = parser.parse_args()
    measures = {name: partial(measure, ROWS[name], arguments.num_steps) for name in arguments.rows}
    fill_rows("paper_instance", measures, arguments.num_steps, arguments.out)


if __name__ == "__main__":
    main()
