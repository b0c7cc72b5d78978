"""Next-item retrieval, leave the last one out: inclusion against softmax, behind one start by softmax.

    python -m benchmarks.scripts.next_item FILE.npz [--seeds 0 1 2] [--num-epochs 6] [--one-core]

FILE.npz holds the arrays user, item and order, and for tags attribute_item and attribute. All items are
ranked but those that the user has had. Both objectives share the first half of the updates and have the
same number of updates, so they differ in the loss of the second half alone. The last item of each user is the
test part, the last but one the validation part; neither is trained on. The result is written after every
seed, so an interrupted script resumes where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.scripts.common import fill_rows, one_core
from rankpg import TrainConfig
from rankpg.environments import Dataset, from_interactions
from rankpg.evaluation.intervals import paired_difference
from rankpg.runs.held_out import HeldOut
from rankpg.runs.run import Run, prepare
from rankpg.training.update import seed_keys, train_chunk

OBJECTIVES = ("inclusion", "softmax")
METRICS = ("hit_rate@10", "ndcg@10", "hit_rate@20", "recall@100")
CHUNK = 50


def read(file: Path) -> Dataset:
    """Reads a purchase history with its item attributes, if it has any."""
    with np.load(file) as arrays:
        log = {"user": arrays["user"], "item": arrays["item"]}
        log["timestamp"] = arrays["order"].astype(float)
        tags = None
        if "attribute" in arrays:
            tags = {"item": arrays["attribute_item"], "attribute": arrays["attribute"]}
    return from_interactions(log, items=tags, test_count=1, validation_share=0.1)


class Training:
    """A run, and its compiled programs by their number of updates."""

    def __init__(self, run: Run):
        self.run, self.programs = run, dict[int, Any]()

    def advance(self, step: int) -> float:
        """Trains up to a step, and returns the CPU seconds, with those of compiling."""
        began, run = time.process_time(), self.run
        roots = seed_keys(run.config.seeds, "steps")
        while (done := int(run.state.step[0])) < step:
            length = min(CHUNK, step - done)
            if length not in self.programs:
                self.programs[length] = train_chunk(run.learner, length)
            run.state, _ = self.programs[length](run.learner, run.state, roots)
        jax.block_until_ready(run.state)
        return time.process_time() - began


def measure(data: Dataset, num_epochs: int, seed: str) -> dict[str, Any]:
    """Trains both objectives from one start, and compares them user by user."""
    runs = {
        objective: prepare(
            TrainConfig(
                objective=objective, context_tower="history", history_length=20, dropout=0.2,
                embedding_dim=64, init_scale=0.05, batch_size=512, learning_rate=2e-3, first_share=0.5,
                later_rate=0.5, num_candidates=100, num_epochs=num_epochs, seeds=(int(seed),),
            ),
            data,
        )
        for objective in OBJECTIVES
    }  # fmt: skip
    trainings = {objective: Training(run) for objective, run in runs.items()}
    num_steps = runs["inclusion"].config.num_steps
    start = trainings["inclusion"].advance(round(0.5 * num_steps))
    runs["softmax"].state = jax.tree.map(jnp.copy, runs["inclusion"].state)
    row: dict[str, Any] = {"steps": num_steps}
    users: dict[str, dict[str, np.ndarray]] = {}
    for objective, run in runs.items():
        seconds = start + trainings[objective].advance(num_steps)
        held_out = HeldOut(run)
        users[objective] = held_out.metrics(run.params())
        validation = held_out.metrics(run.params(), "validation_")
        row[objective] = {name: float(users[objective][name].mean()) for name in METRICS}
        row[objective] |= {f"validation_{name}": float(validation[name].mean()) for name in METRICS}
        row[objective]["cpu_seconds"] = seconds
    row["inclusion_less_softmax"] = {
        name: dataclasses.asdict(
            paired_difference(users["inclusion"][name], users["softmax"][name])
        )
        for name in METRICS
    }
    row["summary"] = ", ".join(
        f"{objective}: {row[objective]['ndcg@10']:.4f}" for objective in OBJECTIVES
    )
    return row


def main() -> None:
    """Measures every seed that the result lacks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("file", type=Path, help="npz file with user, item and order")
    parser.add_argument("--seeds", nargs="+", default=["0", "1", "2"], help="seeds [0 1 2]")
    parser.add_argument("--num-epochs", type=int, default=6, help="passes over the data [6]")
    parser.add_argument("--one-core", action="store_true", help="products on one core [all]")
    given = parser.parse_args()
    if given.one_core:
        one_core()
    data = read(given.file)
    measures = {seed: partial(measure, data, given.num_epochs, seed) for seed in given.seeds}
    fill_rows(f"next_item_{given.file.stem}", measures, 1)


if __name__ == "__main__":
    main()
