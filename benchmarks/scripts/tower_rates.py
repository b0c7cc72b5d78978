"""Value on held-out contexts by learning rate, with a context tower over features.

    python -m benchmarks.scripts.tower_rates [--estimators ca_pg_swr v_pg_swr ca_pg] [--num-steps 8000]

Contexts have 10 features; the value is measured on 1,000 held-out contexts. The instance is generated, and
not that of `python -m benchmarks hard-problems`; everything else is the tuned preset. The result is written
after every estimator, so an interrupted script resumes where it stopped.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optax

from benchmarks.scripts.common import RESULTS, fill_rows, set_learning_rates
from rankpg import TrainConfig
from rankpg.runs.loop import training_loop
from rankpg.runs.run import prepare

RATES = (3e-4, 1e-3, 3e-3, 1e-2)
SEEDS = 2
ESTIMATORS = ("ca_pg_swr", "v_pg_swr", "ca_pg")


def measure(estimator: str, num_steps: int) -> dict[str, Any]:
    """Trains every learning rate from every initialisation in one program."""
    config = TrainConfig(
        estimator=estimator,
        num_contexts=5000,
        held_out_contexts=1000,
        context_tower="features",
        instance_seed=1,
        num_steps=num_steps,
        eval_every=1000,
        seeds=tuple(range(len(RATES) * SEEDS)),
    ).resolve()
    run = prepare(config, optimizer=optax.inject_hyperparams(optax.adam)(learning_rate=1.0))
    rate_of_seed = dict(zip(config.seeds, np.repeat(RATES, SEEDS).tolist(), strict=True))
    set_learning_rates(run, list(rate_of_seed.values()))
    for _ in training_loop(run):
        pass
    shares: dict[str, dict[str, list[float]]] = {f"{rate:g}": {} for rate in RATES}
    for row in run.metrics:
        at = shares[f"{rate_of_seed[row['seed']]:g}"].setdefault(str(row["step"]), [])
        at.append(row["normalised_value"])
    last = {rate: np.mean(found[str(run.step)]) for rate, found in shares.items()}
    return {
        "config": config.to_dict() | {"learning_rate": None},
        "steps": run.step,
        "normalised_value": shares,
        "summary": ", ".join(f"{rate}: {share:.4f}" for rate, share in last.items()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--estimators", nargs="+", default=ESTIMATORS, choices=ESTIMATORS, help="[all]"
    )
    parser.add_argument("--num-steps", type=int, default=8000, help="training steps [%(default)s]")
    parser.add_argument("--out", type=Path, default=RESULTS, help="output folder [%(default)s]")
    given = parser.parse_args()
    measures = {name: partial(measure, name, given.num_steps) for name in given.estimators}
    fill_rows("tower_rates", measures, given.num_steps, given.out)


if __name__ == "__main__":
    main()
