"""The supervised start against the same model in plain PyTorch: loss, recall and time.

    python -m benchmarks.scripts.supervised_start FILE.npz --torch-python PYTHON [--seeds 0 1 2]

FILE.npz is as in `next_item`. PYTHON is an interpreter with torch and numpy; it need not be the one that
runs rankpg. Both train a history tower by the softmax loss on the same moments, with the same batch size
and learning rate, one after the other, each on one core. The loss is the mean over the last epoch; recall
and NDCG are those of the last but one item of each user.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np

from benchmarks.scripts.common import fill_rows, one_core
from benchmarks.scripts.next_item import CHUNK, Training, read
from rankpg import TrainConfig
from rankpg.environments import Dataset
from rankpg.environments.interactions import Interactions
from rankpg.runs.held_out import HeldOut
from rankpg.runs.run import Run, prepare
from rankpg.training.update import seed_keys, train_chunk

SETTINGS = {"batch_size": 512, "learning_rate": 2e-3, "dropout": 0.2}
DIM, LENGTH = 64, 20
PEER = Path(__file__).parents[1] / "peers" / "history_pytorch.py"


def problem_of(run: Run) -> dict[str, np.ndarray]:
    """The moments that the run is trained on and those of its validation part, as arrays."""
    world, data = cast("Interactions", run.learner.environment), run.dataset
    assert data.parts is not None
    held = data.parts.validation()
    there = held.feedback_ends > held.history_ends
    return {
        "starts": np.asarray(world.row_starts[:-1]),
        "items": np.asarray(world.sequence),
        "tags": np.asarray(world.item_tags),
        "users": np.asarray(world.context_users),
        "ends": np.asarray(world.history_ends),
        "held_users": held.users[there],
        "held_ends": held.history_ends[there],
    }


def pytorch(
    python: str, problem: dict[str, np.ndarray], settings: dict[str, Any]
) -> dict[str, Any]:
    """Runs the peer in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("problem.npz", "settings.json", "result.npz")]
        np.savez(files[0], **problem)  # pyright: ignore[reportArgumentType]
        files[1].write_text(json.dumps(settings))
        subprocess.run([python, str(PEER), *map(str, files)], check=True)
        with np.load(files[2]) as arrays:
            result = dict(arrays)
    ranks = result["ranks"]
    return {
        "loss": last_epoch(result["losses"], settings["num_epochs"]),
        "recall@100": float((ranks < 100).mean()),
        "ndcg@10": float(np.where(ranks < 10, 1 / np.log2(ranks + 2), 0).mean()),
        "cpu_seconds": float(result["cpu"]),
        "seconds": float(result["wall"]),
        "torch": str(result["versions"]),
    }


def last_epoch(losses: np.ndarray, num_epochs: int) -> float:
    """Mean loss of the last epoch."""
    return float(losses[-(len(losses) // num_epochs) :].mean())


def rankpg(run: Run, num_epochs: int) -> dict[str, Any]:
    """Trains the run; the seconds are those of updates, and those of compiling stand apart."""
    steps = run.config.num_steps
    roots = seed_keys(run.config.seeds, "steps")
    began = time.perf_counter()
    for length in {min(CHUNK, steps), steps % CHUNK or CHUNK}:
        train_chunk(run.learner, length).lower(run.learner, run.state, roots).compile()
    compiled = time.perf_counter() - began
    training, losses = Training(run), []
    cpu, wall = time.process_time(), time.perf_counter()
    while (done := int(run.state.step[0])) < steps:
        length = min(CHUNK, steps - done)
        if length not in training.programs:
            training.programs[length] = train_chunk(run.learner, length)
        run.state, metrics = training.programs[length](run.learner, run.state, roots)
        losses.append(np.asarray(metrics.loss[0]))
    jax.block_until_ready(run.state)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    found = HeldOut(run).metrics(run.params(), "validation_")
    return {
        "loss": last_epoch(np.concatenate(losses), num_epochs),
        "recall@100": float(found["recall@100"].mean()),
        "ndcg@10": float(found["ndcg@10"].mean()),
        "cpu_seconds": cpu,
        "seconds": wall,
        "seconds_compiling": compiled,
    }


def measure(data: Dataset, num_epochs: int, python: str, seed: str) -> dict[str, Any]:
    """Trains both, one after the other; which comes first alternates from seed to seed."""
    run = prepare(
        TrainConfig(
            objective="softmax", context_tower="history", history_length=LENGTH, embedding_dim=DIM,
            init_scale=0.05, first_share=1.0, num_candidates=100, num_epochs=num_epochs,
            seeds=(int(seed),), **SETTINGS,
        ),
        data,
    )  # fmt: skip
    settings = {
        **SETTINGS, "dim": DIM, "length": LENGTH, "num_items": run.environment.num_items,
        "num_epochs": num_epochs, "seed": int(seed), "threads": 1,
    }  # fmt: skip
    ways = {
        "rankpg": partial(rankpg, run, num_epochs),
        "pytorch": partial(pytorch, python, problem_of(run), settings),
    }
    names = list(ways) if int(seed) % 2 == 0 else [*ways][::-1]
    row: dict[str, Any] = {"steps": run.config.num_steps}
    row |= {name: ways[name]() for name in names}
    row["time_ratio"] = row["rankpg"]["seconds"] / row["pytorch"]["seconds"]
    row["summary"] = ", ".join(
        "{}: loss {loss:.3f}, recall {recall@100:.4f}, {seconds:.0f} s".format(name, **row[name])
        for name in ways
    )
    return row


def main() -> None:
    """Measures every seed that the result lacks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("file", type=Path, help="npz file with user, item and order")
    parser.add_argument("--torch-python", required=True, help="interpreter with torch")
    parser.add_argument("--seeds", nargs="+", default=["0", "1", "2"], help="seeds [0 1 2]")
    parser.add_argument("--num-epochs", type=int, default=3, help="passes over the data [3]")
    given = parser.parse_args()
    one_core()
    data = read(given.file)
    measures = {
        seed: partial(measure, data, given.num_epochs, given.torch_python, seed)
        for seed in given.seeds
    }
    fill_rows(f"supervised_start_{given.file.stem}", measures, 1)


if __name__ == "__main__":
    main()
