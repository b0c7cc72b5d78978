"""Small generated logs of interactions, and untrained runs on them in folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rankpg import Run, TrainConfig
from rankpg.environments import from_interactions
from rankpg.runs.run import Progress, prepare
from rankpg.runs.storage.folder import RunFolder

USERS, ITEMS, K = 12, 30, 5
"""User 0 has interacted with all items: with every sixth one held out, K are left to show."""

SETTINGS = {
    "objective": "inclusion", "inclusion_at": (3,), "num_candidates": K, "embedding_dim": 4,
    "context_tower": "ids", "batch_size": 4, "num_steps": 4, "eval_every": 2, "seeds": (0,),
    "init_scale": 1.0,
}  # fmt: skip


def log_columns(seed: int = 0) -> dict[str, np.ndarray]:
    """A log whose users have 3 to 9 items, and one who has all of them."""
    rng = np.random.default_rng(seed)
    lengths = [ITEMS, *rng.integers(3, 10, USERS - 1)]
    rows = [
        (f"user {user}", 100 + item, time)
        for user, length in enumerate(lengths)
        for time, item in enumerate(rng.permutation(ITEMS)[:length])
    ]
    names = ("user", "item", "timestamp")
    return dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True))


def log_data(validation_share: float = 0.1, **more):
    """The dataset of the log; user 0 has exactly K items left."""
    share = K / ITEMS
    return from_interactions(
        log_columns(), test_share=share, validation_share=validation_share, **more
    )


def log_run(data=None, **changes) -> Run:
    """An untrained run, whose random parameters would rank seen items high as often as any."""
    return prepare(TrainConfig(**{**SETTINGS, **changes}), data or log_data())


def save_untrained(run: Run, path: Path) -> RunFolder:
    """Saves the run at step 0 as training would, without compiling an evaluation."""
    folder = RunFolder(path)
    folder.open(run)
    rows = tuple({"step": 0, "seed": seed, "policy_value": 0.0} for seed in run.config.seeds)
    run.metrics.extend(rows)
    folder.on_progress(run, Progress("evaluate", 0, None, rows))
    folder.close(run)
    return folder


def seen_by_hand(columns: dict[str, np.ndarray]) -> dict[str, set[int]]:
    """Items of every user before the test part, by sorting each user's rows: an oracle of the mask."""
    seen = {}
    for user in dict.fromkeys(columns["user"].tolist()):
        rows = np.flatnonzero(columns["user"] == user)
        rows = rows[np.argsort(columns["timestamp"][rows])]
        test = max(1, int(len(rows) * K / ITEMS + 1e-9))
        seen[user] = set(columns["item"][rows[:-test]].tolist())
    return seen
