"""A training step against the same step in PyTorch and in plain JAX, against N, and against this CPU's limit.

    taskset -c 0 python benchmarks/speed.py --torch-python /path/to/python-with-torch

One core, arms in turns within each round. PyTorch stays outside of rankpg's environment: any interpreter that
has it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _common import one_core, write
from peers import naive_jax_step

from rankpg import TrainConfig
from rankpg.run import prepare, seed_keys
from rankpg.timing import training_call
from rankpg.training import train_chunk

BATCH, CONTEXTS = 128, 1000
SHAPES = [(1000, 10, 10), (100_000, 10, 10), (100_000, 64, 100), (1_000_000, 64, 100)]
"""N, D, K"""
GROWTH = (10_000, 31_623, 100_000, 316_228, 1_000_000)


class PyTorch:
    """The peer in its own process."""

    def __init__(self, python: str):
        script = Path(__file__).parent / "peers" / "serve_pytorch.py"
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


def config(estimator: str, num_items: int, dim: int, candidates: int) -> TrainConfig:
    """The paper's settings at this shape."""
    return TrainConfig(
        estimator=estimator, preset="paper", adaptive_learning_rate=False, num_contexts=CONTEXTS,
        num_items=num_items, embedding_dim=dim, num_candidates=candidates, batch_size=BATCH, seeds=(0,),
    )  # fmt: skip


def ours(estimator: str, shape: tuple[int, int, int], steps: int):
    call = training_call(config(estimator, *shape), steps)

    def seconds():
        began = time.perf_counter()
        call()
        return (time.perf_counter() - began) / steps

    return seconds


def limit(num_items: int, dim: int):
    """What no step can avoid, measured: 4 products of B x N x D, 2 B N exponentials, Adagrad.

    Each is timed by itself on chunks that stay in the cache, as a step has them, and the times are added.
    """
    chunk, batch = 4096, BATCH
    keys = jax.random.split(jax.random.key(0), 3)
    rows = jax.random.normal(keys[0], (chunk, dim))
    vectors = jax.random.normal(keys[1], (dim, batch))
    logits = -jnp.abs(jax.random.normal(keys[2], (chunk, batch)))
    table = jnp.ones((num_items, dim))
    optimizer = optax.adagrad(1e-2)
    state = table, optimizer.init(table)
    product = jax.jit(lambda rows, vectors: rows @ vectors)
    exponential = jax.jit(jnp.exp)

    @jax.jit
    def step(state, gradient):
        updates, memory = optimizer.update(gradient, state[1], state[0])
        return optax.apply_updates(state[0], updates), memory

    donated = jax.jit(step, donate_argnums=0)

    def least(call, repeats):
        jax.block_until_ready(call())
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            jax.block_until_ready(call())
            times.append(time.perf_counter() - began)
        return float(np.median(times))

    def optimize():
        nonlocal state
        state = donated(state, gradient)
        return state

    gradient = jnp.full_like(table, 1e-3)
    chunks = num_items / chunk

    def seconds():
        return (
            4 * chunks * least(lambda: product(rows, vectors), 50)
            + 2 * chunks * least(lambda: exponential(logits), 50)
            + least(optimize, 3)
        )

    return seconds


def in_turns(arms, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds a step of every arm: a warm-up, then rounds in which all take turns."""
    for arm in arms.values():
        arm()
    seconds = {name: [] for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            seconds[name].append(arm())
    return {
        name: {"median": float(np.median(s)), "min": min(s), "max": max(s)}
        for name, s in seconds.items()
    }


def temporary(estimator: str, shape: tuple[int, int, int]) -> dict[str, float]:
    """MiB that a compiled step needs beyond parameters, gradient and optimizer state."""
    run = prepare(config(estimator, *shape))
    chunk = train_chunk(run.pipeline, 2)
    taken = chunk.lower(run.environment, run.state, seed_keys(run.config, "steps")).compile()
    gradient = sum(x.nbytes for x in jax.tree.leaves(run.state.params))
    return {
        "temporary_mib": (taken.memory_analysis().temp_size_in_bytes - gradient) / 2**20,
        "retrieval": run.pipeline.retrieval.name,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--torch-python", help="an interpreter that has torch; none: no such arm")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    one_core()
    pytorch = PyTorch(arguments.torch_python) if arguments.torch_python else None
    shapes = {}
    for shape in SHAPES:
        num_items, dim, candidates = shape
        steps = max(1, 200_000 // num_items)
        arms = {e: ours(e, shape, steps) for e in ("top1_pg", "ca_pg", "ca_pg_swr")}
        problem = naive_jax_step.Problem(CONTEXTS, num_items, dim, candidates, BATCH)
        arms["plain JAX"] = lambda p=problem, s=steps: naive_jax_step.seconds_per_step(p, s)
        arms["limit"] = limit(num_items, dim)
        if pytorch and num_items < 10**6:  # there it would need 3 GiB a step
            pytorch(problem=[CONTEXTS, num_items, dim, candidates, BATCH], steps=1)
            arms["PyTorch"] = lambda s=steps: pytorch(steps=s)
        timing = in_turns(arms, arguments.rounds)
        base = timing["top1_pg"]["median"]
        ratios = {name: t["median"] / base for name, t in timing.items()}
        name = f"N={num_items}, D={dim}, K={candidates}"
        shapes[name] = {"seconds_per_step": timing, "ratio_to_top1_pg": ratios}
        shapes[name] |= {e: temporary(e, shape) for e in ("top1_pg", "ca_pg")}
        print(
            name,
            {k: round(v, 2) for k, v in ratios.items()},
            f"{base * 1e3:.2f} ms",
            file=sys.stderr,
        )
    growth = in_turns(
        {n: ours("top1_pg", (n, 64, 100), max(1, 200_000 // n)) for n in GROWTH}, arguments.rounds
    )
    times = np.log([growth[n]["median"] for n in GROWTH])
    exponent = float(np.polyfit(np.log(GROWTH), times, 1)[0])
    print(f"growth exponent {exponent:.3f}", file=sys.stderr)
    write(
        "speed",
        {
            "batch_size": BATCH, "rounds": arguments.rounds, "cores": len(os.sched_getaffinity(0)),
            "torch": pytorch.version if pytorch else None, "shapes": shapes,
            "growth": {"D": 64, "K": 100, "seconds_per_step": growth, "exponent": exponent},
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
