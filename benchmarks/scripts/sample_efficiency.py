"""Steps that the tuned preset needs on the paper's instance: value every 500 steps, five seeds.

    python -m benchmarks.scripts.sample_efficiency [--rows K=10 ...]

The paper's best values, after 500,000 steps: 8.33 (K = 5), 8.54 (K = 10), 8.74 (K = 20), 6.90 (uniform
re-ranker).
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from benchmarks.scripts.common import fill_rows
from benchmarks.scripts.paper_instance import measure
from benchmarks.sweeps.results import mean_of

GOALS: dict[str, tuple[dict[str, Any], dict[int, float]]] = {
    "K=10": ({"num_candidates": 10}, {2000: 9.0, 20_000: 9.10}),
    "K=20": ({"num_candidates": 20}, {1500: 9.05}),
    "K=5": ({"num_candidates": 5}, {8000: 9.05}),
    "uniform re-ranker, K=10": ({"reranker": "uniform"}, {20_000: 7.8}),
    "uniform, `context`, K=10": (
        {"reranker": "uniform", "advantage": "context"},
        {20_000: 7.8},
    ),
    "uniform, `context`, init_scale 0.3, K=10": (
        {"reranker": "uniform", "advantage": "context", "init_scale": 0.3},
        {20_000: 7.8},
    ),
    "uniform, `context`, bonus 0.3, K=10": (
        {"reranker": "uniform", "advantage": "context", "entropy_bonus": 0.3},
        {20_000: 7.8},
    ),
}
"""row -> changes of the preset, and step -> target value at that step"""


def reach(settings: dict[str, Any], goals: dict[int, float]) -> dict[str, Any]:
    """Trains one row with the default estimator and preset, and compares it with its goals."""
    row = measure(settings | {"seeds": (0, 1, 2, 3, 4), "eval_every": 500}, max(goals))
    reached = {str(step): mean_of(row["values"][str(step)]) for step in goals}
    met = all(reached[str(step)]["mean"] >= value for step, value in goals.items())
    row |= {"goals": {str(s): v for s, v in goals.items()}, "reached": reached, "met": met}
    return row | {"summary": f"{reached} {'reached' if met else 'missed'}"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--rows", nargs="+", choices=GOALS, default=list(GOALS), help="rows to train [all]"
    )
    chosen = parser.parse_args().rows
    fill_rows("sample_efficiency", {name: partial(reach, *GOALS[name]) for name in chosen}, 1)


if __name__ == "__main__":
    main()
