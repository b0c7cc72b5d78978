"""Small trained runs, in folders of their own."""

from __future__ import annotations

from pathlib import Path

from rankpg import Run, TrainConfig
from rankpg.runs.loop import training_loop
from rankpg.runs.run import prepare
from rankpg.runs.storage.folder import RunFolder

SMALL = {
    "num_contexts": 40, "num_items": 30, "num_candidates": 4, "batch_size": 16,
    "embedding_dim": 4, "seeds": (0, 1), "num_steps": 20, "eval_every": 10,
    "ranking_length": 2, "init_scale": 1.0,
}  # fmt: skip


def train_into(path: Path, data=None, **changes) -> Run:
    """Trains a small run into a folder and returns it."""
    run, folder = prepare(TrainConfig(**(SMALL | changes)), data), RunFolder(path)
    folder.open(run)
    for progress in training_loop(run):
        folder.on_progress(run, progress)
    folder.close(run)
    return run
