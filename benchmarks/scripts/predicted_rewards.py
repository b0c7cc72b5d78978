"""Learning through predicted rewards against policy gradient and regression, on the paper's instance.

    python -m benchmarks.scripts.predicted_rewards [--only NAME...] [--seeds 0 1 2 3 4]

128 rewards a step are all that is observed. `value_based` is the regression that a practitioner would try
first. The value is that of the greedy policy, mean over all contexts and seeds; ± half the width of the 95 %
interval over seeds. A row is kept in the result file as soon as it is measured, and is not measured again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from benchmarks.markdown import grid
from benchmarks.scripts.common import RESULTS, write
from rankpg import TrainConfig, train
from rankpg._utils.plots import mean_interval

NAME = "predicted_rewards"
PROBLEMS: dict[str, tuple[int, dict[str, Any]]] = {
    "optimal": (4000, {"reranker": "optimal"}),
    "width 3": (8000, {"reranker": "optimal", "embedding_dim": 3}),
    "adverse": (8000, {"reranker": "noisy", "inverse_temperature": -0.1}),
    "anti": (4000, {"reranker": "anti"}),
    "uniform": (20_000, {"reranker": "uniform"}),
}
"""name -> updates, and settings."""
ESTIMATORS: dict[str, dict[str, Any]] = {
    "model_guided": {},
    "value_based": {},
    "ca_pg_swr": {},
    "ca_pg_swap": {},
}
EVERY = 200
SHOWN = (600, 1000, 2000, 4000, 8000, 20_000)


def measure(problem: str, estimator: str, seeds: tuple[int, ...]) -> dict[str, Any]:
    """Trains all seeds together; returns the value of each at every evaluation."""
    num_steps, settings = PROBLEMS[problem]
    config = TrainConfig(
        estimator=estimator,
        num_steps=num_steps,
        eval_every=EVERY,
        seeds=seeds,
        **ESTIMATORS[estimator],
        **settings,
    )
    began = time.perf_counter()
    run = train(config)
    seconds = time.perf_counter() - began
    steps = sorted({row["step"] for row in run.metrics})
    values = [[row["policy_value"] for row in run.metrics if row["step"] == step] for step in steps]
    return {"steps": steps, "values": values, "seconds": seconds, "seeds": list(seeds)}


def table(rows: dict[str, Any]) -> list[list[str]]:
    """Returns the values at `SHOWN`, first the head of the table."""
    lines = [["problem", "estimator", *(f"{step:,}" for step in SHOWN)]]
    for name, row in rows.items():
        problem, estimator = name.split(" / ")
        cells = []
        for step in SHOWN:
            if step not in row["steps"]:
                cells.append("")
                continue
            mean, half = mean_interval(row["values"][row["steps"].index(step)])
            cells.append(f"{mean:.3f}" + ("" if half is None else f" ± {half:.3f}"))
        lines.append([problem, f"`{estimator}`", *cells])
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--estimators", nargs="+", default=list(ESTIMATORS), choices=ESTIMATORS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    given = parser.parse_args()
    file = RESULTS / f"{NAME}.json"
    rows = json.loads(file.read_text())["rows"] if file.exists() else {}
    for problem in given.only:
        for estimator in given.estimators:
            name = f"{problem} / {estimator}"
            if name not in rows:
                rows[name] = measure(problem, estimator, tuple(given.seeds))
                write(NAME, {"rows": rows})
                print(" | ".join(table({name: rows[name]})[1]), flush=True)
    print(grid(table(rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
