"""Trackers: metrics in TensorBoard and Weights & Biases. Needs the extra `track`.

metrics.jsonl is the record; a tracker shows a copy. A resumed run continues its track, and no step
is logged twice.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from rankpg._utils.documents import kind_in_words, read_json
from rankpg._utils.files import atomic_write_text
from rankpg.errors import ConfigError, argument
from rankpg.evaluation.metrics import Row
from rankpg.runs.run import Run
from rankpg.runs.storage.contents import WANDB

__all__ = ["TRACKERS", "Tracker", "Tracks", "check_trackers", "points"]


@runtime_checkable
class Tracker(Protocol):
    """Logs the metrics of evaluations."""

    def log(self, step: int, points: dict[str, float]) -> None: ...

    def close(self) -> None: ...


def points(rows: Iterable[Row]) -> dict[str, float]:
    """Returns one evaluation as named numbers: means over seeds, and each seed's own if there are several.

    >>> points([{"step": 5, "seed": s, "loss": float(s)} for s in (1, 3)])
    {'loss': 2.0, 'seed_1/loss': 1.0, 'seed_3/loss': 3.0}
    """
    rows = list(rows)
    found = {}
    for name in rows[0]:
        values = [row.get(name) for row in rows]
        if name not in ("step", "seed") and all(isinstance(value, float) for value in values):
            found[name] = float(np.mean(np.array(values, float)))
    means = list(found)
    if len(rows) > 1:
        found |= {f"seed_{row['seed']}/{name}": row[name] for row in rows for name in means}
    return found


class _TensorBoard:
    """Event files in FOLDER/tensorboard, rewritten from the run's rows whenever they are opened."""

    def __init__(self, folder: Path, run: Run):
        from tensorboardX import SummaryWriter

        for file in (folder / "tensorboard").glob("events.out.tfevents.*"):
            file.unlink()
        # A TensorBoard that has read the former file drops its points from step 0 on.
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=0)
        for step in sorted({row["step"] for row in run.metrics}):
            self.log(step, points(row for row in run.metrics if row["step"] == step))

    def log(self, step: int, points: dict[str, float]) -> None:
        for name, value in points.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class _WandB:
    """A run of Weights & Biases; FOLDER/wandb.json holds its id and the last step that was logged.

    Logged steps cannot be removed: a run that resumes from an earlier step begins another track.
    """

    def __init__(self, folder: Path, run: Run):
        import wandb

        self.file = folder / WANDB
        track = self._read()
        if track is None or track["step"] > run.evaluated:
            track = {"id": secrets.token_hex(4), "step": -1}
        self.id, self.step = track["id"], track["step"]
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "rankpg"),
            id=self.id,
            name=folder.resolve().name,
            resume="allow",
            dir=str(folder),
            config=run.config.to_dict(),
            settings=wandb.Settings(console="off"),
        )
        for step in sorted({row["step"] for row in run.metrics}):
            self.log(step, points(row for row in run.metrics if row["step"] == step))

    def _read(self) -> dict[str, Any] | None:
        try:
            track = read_json(self.file)
            return {"id": str(track["id"]), "step": int(track["step"])}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{self.file} cannot be read ({error}); remove it to begin another track"
            ) from None

    def log(self, step: int, points: dict[str, float]) -> None:
        if step <= self.step:
            return
        self.run.log({"step": step, **points}, step=step)
        self.step = step
        atomic_write_text(self.file, json.dumps({"id": self.id, "step": step}) + "\n")

    def close(self) -> None:
        self.run.finish()


TRACKERS: dict[str, Callable[[Path, Run], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WandB,
}
"""name -> what opens it in a run folder."""

_PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb"}
"""name -> the package it needs, where it needs one."""


def check_trackers(names: Sequence[str]) -> None:
    """Rejects a tracker that is unknown, or whose package is not installed.

    >>> check_trackers(["paper"])
    Traceback (most recent call last):
    rankpg.errors.ConfigError: track='paper'; expected one of tensorboard, wandb
    """
    from importlib.util import find_spec

    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"{argument('track', name)}; expected one of {', '.join(TRACKERS)}")
        package = _PACKAGES.get(name)
        if package is not None and find_spec(package) is None:
            raise ModuleNotFoundError(
                f"{argument('track', name)} needs {package}: pip install 'rankpg[track]'"
            )


class Tracks:
    """The trackers of one run; one that fails is dropped, and training continues."""

    def __init__(self, names: Sequence[str], folder: Path, run: Run):
        check_trackers(names)
        self._open: dict[str, Tracker] = {}
        for name in dict.fromkeys(names):
            try:
                self._open[name] = TRACKERS[name](folder, run)
            except ConfigError:
                raise
            except Exception as error:  # not logged in, no network
                self.close()
                raise ConfigError(
                    f"{argument('track', name)} cannot be opened: {_one_line(error)}. Leave it out, or see "
                    "docs/long_runs.md"
                ) from error

    def log(self, step: int, rows: Iterable[Row]) -> None:
        """Logs an evaluation in every tracker."""
        named = points(rows)
        for name, tracker in list(self._open.items()):
            try:
                tracker.log(step, named)
            except Exception as error:  # whatever a network or a disk may do
                print(
                    f"rankpg: the tracker {name} failed and is dropped: {_one_line(error)}",
                    file=sys.stderr,
                )
                del self._open[name]

    def close(self) -> None:
        """Closes every tracker, which writes what it still holds."""
        for name, tracker in self._open.items():
            try:
                tracker.close()
            except Exception as error:  # the run is trained and saved
                print(
                    f"rankpg: the tracker {name} did not close: {_one_line(error)}", file=sys.stderr
                )
        self._open = {}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or kind_in_words(error)
