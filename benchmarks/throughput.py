"""Update steps per second of every estimator, one seed, on the problem of the paper's size.

    python benchmarks/throughput.py [--num-items 1000 --embedding-dim 10 --num-candidates 10 --batch-size 128]

Arms take turns within each round; compilation and evaluation are not counted.
"""

from __future__ import annotations

import argparse
from typing import Any

from _common import interleaved, write

from rankpg import ESTIMATORS, TrainConfig
from rankpg.timing import training_call

SLOW = ("ca_pg_exact",)
"""Measured over fewer steps."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for name, default in (
        ("num-items", 1000),
        ("embedding-dim", 10),
        ("num-candidates", 10),
        ("batch-size", 128),
        ("num-experts", 1),
        ("rounds", 5),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    settings = vars(parser.parse_args())
    rounds = settings.pop("rounds")
    lengths, arms = {}, {}
    for estimator, entry in ESTIMATORS.items():
        if entry.max_experts is None or settings["num_experts"] <= entry.max_experts:
            lengths[estimator] = 2 if estimator in SLOW else 100
            config = TrainConfig(estimator=estimator, seeds=(0,), **settings)
            arms[estimator] = training_call(config, lengths[estimator])
    seconds = interleaved(arms, rounds)
    rows: dict[str, Any] = {}
    for name, timing in seconds.items():
        rows[name] = {"steps_per_second": lengths[name] / timing["median"], **timing}
        print(f"{name:<16} {rows[name]['steps_per_second']:8.1f} steps/s")
    write(
        "throughput", {"settings": settings, "seconds_per_chunk": rows, "steps_per_chunk": lengths}
    )


if __name__ == "__main__":
    main()
