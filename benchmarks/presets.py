"""A small sweep behind the `tuned` preset: start x optimizer x step size, per estimator, one seed.

    python benchmarks/presets.py [--num-steps 2000]

On a generated instance (seed 1), never on the paper's. It shows why the presets are as they are; it is no
exhaustive search.
"""

from __future__ import annotations

import argparse
import itertools
from functools import partial
from typing import Any

from _common import fill_rows

from rankpg import TrainConfig, train

ESTIMATORS = ("ca_pg_swr", "top1_pg", "v_pg_swr")
STARTS = (0.3, 1.0)
OPTIMIZERS = (("adam", 1e-2), ("adam", 3e-2), ("adagrad", 1e-1), ("adagrad", 3e-1))
FROM_ZERO = ("initial_accumulator_value=0", "eps=1e-20")


def measure(
    estimator: str, start: float, optimizer: str, rate: float, num_steps: int
) -> dict[str, Any]:
    """Share of the optimum at the end, one seed."""
    config = TrainConfig(
        estimator=estimator,
        init_scale=start,
        optimizer=optimizer,
        optimizer_options=FROM_ZERO if optimizer == "adagrad" else (),
        learning_rate=rate,
        adaptive_learning_rate=False,
        instance_seed=1,
        num_steps=num_steps,
        eval_every=num_steps,
        seeds=(0,),
    )
    run = train(config)
    share = run.metrics[-1]["share_of_optimum"]
    return {
        "steps": run.step,
        "share_of_optimum": share,
        "stopped": run.stopped(),
        "summary": f"{share:.3f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--num-steps", type=int, default=2000)
    num_steps = parser.parse_args().num_steps
    measures = {
        f"{estimator}/start {start:g}/{optimizer} {rate:g}": partial(
            measure, estimator, start, optimizer, rate, num_steps
        )
        for estimator, start, (optimizer, rate) in itertools.product(ESTIMATORS, STARTS, OPTIMIZERS)
    }
    fill_rows("presets", measures, num_steps)


if __name__ == "__main__":
    main()
