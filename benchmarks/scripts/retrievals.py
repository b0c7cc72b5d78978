"""Time of a step with dense and streamed retrieval, to choose the size at which `auto` switches on a CPU.

    taskset -c 0 python -m benchmarks.scripts.retrievals

Update steps of top1_pg, B = 128, D = 10, one core; in each round both are timed in turn.
"""

from __future__ import annotations

import sys

from benchmarks.scripts.common import interleaved, one_core, write
from benchmarks.timing import training_call
from rankpg import TrainConfig

SIZES = (1000, 3327, 8192, 16_384, 32_768)
CANDIDATES = (10, 100)


def main() -> None:
    one_core()
    rows = []
    for num_items in SIZES:
        for candidates in CANDIDATES:
            steps = max(2, 100_000 // num_items)
            arms = {
                retrieval: training_call(
                    TrainConfig(
                        estimator="top1_pg", retrieval=retrieval, num_items=num_items,
                        num_candidates=candidates, seeds=(0,), preset="paper",
                        adaptive_learning_rate=False,
                    ),
                    steps,
                )
                for retrieval in ("dense", "streamed")
            }  # fmt: skip
            timing = interleaved(arms)
            milliseconds = {name: 1e3 * t["median"] / steps for name, t in timing.items()}
            rows.append({"N": num_items, "K": candidates, "milliseconds": milliseconds})
            print(rows[-1], file=sys.stderr)
    write("retrievals", {"rows": rows})


if __name__ == "__main__":
    main()
