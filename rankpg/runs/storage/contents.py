"""Names of the files of a run folder, and the check that none of them leads out of it."""

from __future__ import annotations

from pathlib import Path

from rankpg._utils.own_files import refuse_links
from rankpg.runs.storage.checkpoint_files import refuse_linked_checkpoints

__all__ = ["DATA_FILES", "check_links"]

CONFIG, METRICS, CHECKPOINT = "config.yaml", "metrics.jsonl", "checkpoint"
DATA, SAVED = "data.json", "data"
IDS, FEATURES, ARRAYS = "ids.json", "features.json", "arrays.npz"
RERANKER, RERANKER_FIT = "reranker.txt", "reranker.json"
"""LightGBM's text of a fitted re-ranker, and its metrics; see `training.lambdamart.save_fitted`."""
KEEP, LOCK = "folder.json", "writer.lock"
CARD, CURVE = "RUN.md", "learning_curve.png"
WANDB = "wandb.json"
ONLINE, OWNER = "live", "retriever.json"
"""Folder of an online retriever, and the file that says that there is one."""

DATA_FILES = (
    DATA,
    *(f"{SAVED}/{name}" for name in (IDS, FEATURES, ARRAYS)),
    RERANKER,
    RERANKER_FIT,
)
"""Files of the dataset and of what was fitted to it, which are written before the first checkpoint."""

_OTHERS = (
    CONFIG, METRICS, KEEP, LOCK, CARD, CURVE, SAVED, ONLINE, f"{ONLINE}/{OWNER}", "tensorboard",
    "wandb", WANDB,
)  # fmt: skip


def check_links(path: Path) -> None:
    """Rejects a run folder in which a file or folder of the run is a link; the folder itself may be one.

    Raises:
      ConfigError: names the link.
    """
    refuse_links(path / name for name in (*_OTHERS, *DATA_FILES))
    refuse_linked_checkpoints(path / CHECKPOINT)
