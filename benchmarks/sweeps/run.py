"""Training rows: each in its own run folder, by one process at a time, going on where it was interrupted."""

from __future__ import annotations

import sys
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.sweeps.files import write_json
from benchmarks.sweeps.trials import Row
from rankpg._utils.files import Taken, lock
from rankpg._utils.signals import Stopped, StopRequest, listening
from rankpg._version import versions
from rankpg.config.train_config import TrainConfig
from rankpg.errors import ConfigError
from rankpg.runs.progress import progress_bar
from rankpg.runs.run import Progress, Run
from rankpg.runs.storage import checkpoint
from rankpg.runs.storage.checkpoint import CheckpointError
from rankpg.runs.storage.folder import RunFolder
from rankpg.runs.storage.load import CHECKPOINT, CONFIG, METRICS, load_config
from rankpg.runs.storage.metrics_file import read_metrics
from rankpg.runs.train import train

__all__ = [
    "VERSIONS",
    "Outcome",
    "check_same",
    "has_state",
    "is_complete",
    "run_folder",
    "train_rows",
]

VERSIONS = "versions.json"
"""Beside the run: what it was trained with and on."""


@dataclass
class Outcome:
    """What became of the rows."""

    trained: list[str] = field(default_factory=list)
    complete: list[str] = field(default_factory=list)
    """there was nothing left to do"""
    taken: dict[str, str] = field(default_factory=dict)
    """row -> who works on it"""
    stopped: list[str] = field(default_factory=list)
    """one sentence a seed that stopped"""
    refused: list[str] = field(default_factory=list)
    """one sentence a row that could not be trained; the others were"""


def run_folder(out: Path, row: Row) -> Path:
    """Where a row is trained."""
    return out / "runs" / row.name


def is_complete(out: Path, row: Row) -> bool:
    """Whether a row's folder holds all its steps, and what was evaluated after the last of them.

    Raises:
      ConfigError: the folder was run with other settings, or cannot be read.
    """
    path = run_folder(out, row)
    if not (path / CONFIG).exists():
        return False
    check_same(path, load_config(path), row)
    step = _saved_step(path)
    if step is None or step < row.config.num_steps or not (path / METRICS).exists():
        return False
    lines = read_metrics(path / METRICS)
    evaluated = {line["seed"] for line in lines if line["step"] >= row.config.num_steps}
    return evaluated >= set(row.config.seeds)


def train_rows(rows: Iterable[Row], out: Path, finished: Container[str] = ()) -> Outcome:
    """Train every row that is not complete and that nobody else works on, in the given order.

    Ctrl-C and SIGTERM let the updates under way end and save the step that was reached. A row that cannot be
    trained, since its data or its folder is at fault, is noted, and the others are trained.

    Args:
      rows: what to train.
      out: where run folders and locks are.
      finished: names of rows that are complete although no folder holds them.

    Raises:
      ConfigError: a folder was run with other settings, or cannot be read.
      Stopped: on a signal.
    """
    outcome = Outcome()
    todo = []
    for row in rows:
        if row.name in finished or is_complete(out, row):
            outcome.complete.append(row.name)
        else:
            todo.append(row)
    with progress_bar(sum(row.config.num_steps for row in todo)) as bar, listening() as stop:
        for row in todo:
            try:
                with lock(out / "locks" / row.name):
                    if is_complete(out, row):  # by another process, since we looked
                        outcome.complete.append(row.name)
                        continue
                    bar.start(row.name)
                    run = _train(row, RunFolder(run_folder(out, row)), bar, stop)
            except Taken as owner:
                outcome.taken[row.name] = str(owner)
                _say(f"{row.name}: left to {owner}")
                continue
            except (ConfigError, CheckpointError) as error:
                outcome.refused.append(f"{row.name}: {error}")
                _say(outcome.refused[-1])
                continue
            bar.finish(run)
            outcome.trained.append(row.name)
            outcome.stopped += [f"{row.name}: {sentence}" for sentence in run.stopped()]
            _say(f"{row.name}: {run.policy_value:.3f} at step {run.step}")
    return outcome


def _train(row: Row, folder: RunFolder, bar: Any, stop: StopRequest) -> Run:
    """Open or go on with a row's run, and follow it to its end."""

    def follow(run: Run, progress: Progress) -> None:
        if progress.phase == "compile":
            write_json(folder.path / VERSIONS, versions())
        bar.update(run, progress)
        if not stop.signal:
            return
        if progress.phase == "train":  # else this state is there already
            folder.save(run)
        raise Stopped(
            stop.signal,
            f"{row.name} is saved at step {run.step}. The same command goes on; with --report-only it "
            "reports what is there",
        )

    return train(row.config, out=folder, resume=has_state(folder.path), on_progress=follow)


def has_state(path: Path) -> bool:
    """Whether there is something to go on from; what was interrupted before its first checkpoint is not."""
    if _saved_step(path) is not None:
        return True
    rows = read_metrics(path / METRICS) if (path / METRICS).exists() else []
    if any(row["step"] > 0 for row in rows):
        raise ConfigError(
            f"{path} has metrics up to step {max(row['step'] for row in rows)} but no checkpoint to go on "
            "from; move it away to train the row again"
        )
    (path / METRICS).unlink(missing_ok=True)
    return False


def check_same(path: Path, found: TrainConfig, row: Row) -> None:
    """Refuse what a folder or report has under this row's name if it was run with other settings."""
    saved, wanted = found.resolve().to_dict(), row.config.resolve().to_dict()
    for name, value in wanted.items():
        if name not in ("num_steps", "eval_every", "eval_contexts") and saved[name] != value:
            raise ConfigError(
                f"{path}: {row.name} was run with {name} = {saved[name]}, and now it needs {value}; choose "
                f"another --out, or move {path.name} away"
            )


def _saved_step(path: Path) -> int | None:
    """The step of the folder's checkpoint, if it has one."""
    try:
        return checkpoint.latest_step(path / CHECKPOINT)
    except CheckpointError:
        return None


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)
