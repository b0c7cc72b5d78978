"""Time of a training step against PyTorch, plain JAX and the CPU's limit, and its growth with N.

    taskset -c 0 python -m benchmarks.scripts.speed --torch-python /path/to/python-with-torch

One core; in each round all programs are timed in turn. PyTorch runs in another interpreter, outside rankpg's
environment.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.peers import naive_jax_step
from benchmarks.scripts.common import one_core, write
from benchmarks.speed.limit import hardware_limit
from benchmarks.speed.scale import fit_power_law
from benchmarks.speed.shapes import Shape, steps_per_call
from benchmarks.timing import Training, in_turns, training_call

CONTEXTS = 1000
SHAPES = (Shape(1000), Shape(100_000), Shape(100_000, 64, 100), Shape(1_000_000, 64, 100))
GROWTH = (10_000, 31_623, 100_000, 316_228, 1_000_000)
ITEMS_PER_CALL = 200_000
"""steps times N of one timed call"""


class PyTorch:
    """The PyTorch step, in its own process."""

    def __init__(self, python: str):
        script = Path(__file__).parents[1] / "peers" / "serve_pytorch.py"
        self.process = subprocess.Popen(
            [python, str(script), "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.version = self._read()["torch"]

    def _read(self):
        return json.loads(self.process.stdout.readline())

    def __call__(self, **order):
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self._read()


def ours(estimator: str, shape: Shape) -> Training:
    """Compiles a training of the paper's settings at a shape."""
    config = shape.config(estimator, num_contexts=CONTEXTS)
    return training_call(config, steps_per_call(config, ITEMS_PER_CALL))


def memory_of(training: Training) -> dict[str, float | str]:
    """Returns the retrieval of a step, and its memory beyond parameters, gradient and optimizer state."""
    retrieval = training.run.policy.retrieval.name
    return {"temporary_mib": training.temporary_bytes() / 2**20, "retrieval": retrieval}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--torch-python", help="interpreter with torch [none: not timed]")
    parser.add_argument("--rounds", type=int, default=5, help="timing repetitions [%(default)s]")
    arguments = parser.parse_args()
    one_core()
    pytorch = PyTorch(arguments.torch_python) if arguments.torch_python else None
    shapes = {}
    for shape in SHAPES:
        trained = {e: ours(e, shape) for e in ("top1_pg", "ca_pg", "ca_pg_swr")}
        steps = trained["top1_pg"].length
        numbers = (shape.num_items, shape.embedding_dim, shape.num_candidates, shape.batch_size)
        problem = naive_jax_step.Problem(CONTEXTS, *numbers)
        arms: dict[str, Callable[[], float]] = {
            **{e: training.seconds_per_step for e, training in trained.items()},
            "plain JAX": partial(naive_jax_step.seconds_per_step, problem, steps),
            "limit": hardware_limit(trained["top1_pg"].run).seconds,
        }
        if pytorch and shape.num_items < 10**6:  # at a million items it would need 3 GiB per step
            pytorch(problem=[CONTEXTS, *numbers], steps=1)
            arms["PyTorch"] = partial(pytorch, steps=steps)
        timing = in_turns(arms, arguments.rounds)
        base = timing["top1_pg"]["median"]
        ratios = {name: t["median"] / base for name, t in timing.items()}
        name = f"N={shape.num_items}, D={shape.embedding_dim}, K={shape.num_candidates}"
        shapes[name] = {"seconds_per_step": timing, "ratio_to_top1_pg": ratios}
        shapes[name] |= {e: memory_of(trained[e]) for e in ("top1_pg", "ca_pg")}
        print(
            name,
            {k: round(v, 2) for k, v in ratios.items()},
            f"{base * 1e3:.2f} ms",
            file=sys.stderr,
        )
    grown = {n: ours("top1_pg", Shape(n, 64, 100)).seconds_per_step for n in GROWTH}
    growth = in_turns(grown, arguments.rounds)
    law = fit_power_law({n: timing["median"] for n, timing in growth.items()})
    assert law is not None  # it has a point for each of GROWTH
    exponent = law["exponent"]
    print(f"growth exponent {exponent:.3f}", file=sys.stderr)
    write(
        "speed",
        {
            "batch_size": Shape().batch_size, "rounds": arguments.rounds,
            "cores": len(os.sched_getaffinity(0)),
            "torch": pytorch.version if pytorch else None, "shapes": shapes,
            "growth": {"D": 64, "K": 100, "seconds_per_step": growth, "exponent": exponent},
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
