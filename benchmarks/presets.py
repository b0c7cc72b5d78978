"""A small sweep behind the `tuned` preset: start x optimizer x step size, per estimator, one seed.

    python benchmarks/presets.py [--num-steps 2000]

On a generated instance (seed 1), never on the paper's. It shows why the presets are as they are; it is no
exhaustive search.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys

from _common import RESULTS, write

from rankpg import TrainConfig, train

ESTIMATORS = ("ca_pg_swr", "top1_pg", "v_pg_swr")
STARTS = (0.3, 1.0)
OPTIMIZERS = (("adam", 1e-2), ("adam", 3e-2), ("adagrad", 1e-1), ("adagrad", 3e-1))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--num-steps", type=int, default=2000)
    num_steps = parser.parse_args().num_steps
    file = RESULTS / "presets.json"
    rows = json.loads(file.read_text())["rows"] if file.exists() else {}
    for estimator, start, (optimizer, rate) in itertools.product(ESTIMATORS, STARTS, OPTIMIZERS):
        name = f"{estimator}/start {start:g}/{optimizer} {rate:g}"
        if rows.get(name, {}).get("steps", 0) >= num_steps:
            continue
        options = ("initial_accumulator_value=0", "eps=1e-20") if optimizer == "adagrad" else ()
        config = TrainConfig(
            estimator=estimator,
            init_scale=start,
            optimizer=optimizer,
            optimizer_options=options,
            learning_rate=rate,
            adaptive_learning_rate=False,
            instance_seed=1,
            num_steps=num_steps,
            eval_every=num_steps,
            seeds=(0,),
        )
        run = train(config)
        share = run.metrics[-1]["share_of_optimum"]
        rows[name] = {"steps": run.step, "share_of_optimum": share, "stopped": run.stopped()}
        print(f"{name:<36} {share:.3f}", file=sys.stderr)
        write("presets", {"rows": rows})


if __name__ == "__main__":
    main()
