"""Trains trials, each in its own run folder, by one process at a time, resuming where it was interrupted."""

from __future__ import annotations

import sys
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.sweeps.files import write_json
from benchmarks.sweeps.trials import Trial
from rankpg._utils.files import Taken, lock
from rankpg._utils.signals import Stopped, StopRequest, listening
from rankpg._version import versions
from rankpg.config.train_config import TrainConfig
from rankpg.errors import ConfigError
from rankpg.runs.progress import ProgressBar, progress_bar
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
    "train_trials",
]

VERSIONS = "versions.json"
"""file beside the run: versions and hardware of the training"""


@dataclass
class Outcome:
    """The result of a sweep, trial by trial."""

    trained: list[str] = field(default_factory=list)
    complete: list[str] = field(default_factory=list)
    """trials that were complete already"""
    taken: dict[str, str] = field(default_factory=dict)
    """trial -> the process that trains it"""
    stopped: list[str] = field(default_factory=list)
    """one sentence for each seed that stopped early"""
    refused: list[str] = field(default_factory=list)
    """one sentence for each trial that could not be trained"""


def run_folder(out: Path, trial: Trial) -> Path:
    """Returns the run folder of a trial."""
    return out / "runs" / trial.name


def is_complete(out: Path, trial: Trial) -> bool:
    """Returns True if a trial's folder holds all its steps and the evaluation of the last one.

    Raises:
      ConfigError: the folder was run with other settings, or cannot be read.
    """
    path = run_folder(out, trial)
    if not (path / CONFIG).exists():
        return False
    check_same(path, load_config(path), trial)
    step = _saved_step(path)
    if step is None or step < trial.config.num_steps or not (path / METRICS).exists():
        return False
    lines = read_metrics(path / METRICS)
    evaluated = {line["seed"] for line in lines if line["step"] >= trial.config.num_steps}
    return evaluated >= set(trial.config.seeds)


def train_trials(trials: Iterable[Trial], out: Path, finished: Container[str] = ()) -> Outcome:
    """Trains every trial that is not complete and not locked by another process, in the given order.

    Ctrl-C and SIGTERM let the updates in progress finish and save the step reached. A trial that cannot be
    trained, because its data or its folder is invalid, is recorded; the others are trained.

    Args:
      trials: the trials to train.
      out: folder of the run folders and locks.
      finished: names of trials that are complete although no folder holds them.

    Raises:
      ConfigError: a folder was run with other settings, or cannot be read.
      Stopped: on a signal.
    """
    outcome = Outcome()
    todo = []
    for trial in trials:
        if trial.name in finished or is_complete(out, trial):
            outcome.complete.append(trial.name)
        else:
            todo.append(trial)
    with progress_bar(sum(trial.config.num_steps for trial in todo)) as bar, listening() as stop:
        for trial in todo:
            try:
                with lock(out / "locks" / trial.name):
                    if is_complete(out, trial):  # completed by another process in the meantime
                        outcome.complete.append(trial.name)
                        continue
                    bar.start(trial.name)
                    run = _train(trial, RunFolder(run_folder(out, trial)), bar, stop)
            except Taken as owner:
                outcome.taken[trial.name] = str(owner)
                _log(f"{trial.name}: skipped, in progress in {owner}")
                continue
            except (ConfigError, CheckpointError) as error:
                outcome.refused.append(f"{trial.name}: {error}")
                _log(outcome.refused[-1])
                continue
            bar.finish(run)
            outcome.trained.append(trial.name)
            outcome.stopped += [f"{trial.name}: {sentence}" for sentence in run.stopped()]
            _log(f"{trial.name}: {run.policy_value:.3f} at step {run.step}")
    return outcome


def _train(trial: Trial, folder: RunFolder, bar: ProgressBar, stop: StopRequest) -> Run:
    """Starts or resumes a trial's run and trains it to its last step."""

    def on_progress(run: Run, progress: Progress) -> None:
        if progress.phase == "compile":
            write_json(folder.path / VERSIONS, versions())
        bar.update(run, progress)
        if not stop.signal:
            return
        if progress.phase == "train":  # in the other phases this state is saved already
            folder.save(run)
        raise Stopped(
            stop.signal,
            f"{trial.name} is saved at step {run.step}; run the same command again to resume",
        )

    return train(trial.config, out=folder, resume=has_state(folder.path), on_progress=on_progress)


def has_state(path: Path) -> bool:
    """Returns True if a run folder can be resumed; a run interrupted before its first checkpoint cannot."""
    if _saved_step(path) is not None:
        return True
    rows = read_metrics(path / METRICS) if (path / METRICS).exists() else []
    if any(row["step"] > 0 for row in rows):
        raise ConfigError(
            f"{path} has metrics up to step {max(row['step'] for row in rows)} but no checkpoint to resume "
            "from; move it away to train the trial again"
        )
    (path / METRICS).unlink(missing_ok=True)
    return False


def check_same(path: Path, found: TrainConfig, trial: Trial) -> None:
    """Rejects a folder or report that holds this trial's name with other settings."""
    saved, wanted = found.resolve().to_dict(), trial.config.resolve().to_dict()
    for name, value in wanted.items():
        if name not in ("num_steps", "eval_every", "eval_contexts") and saved[name] != value:
            raise ConfigError(
                f"{path}: {trial.name} was run with {name}={saved[name]!r}; expected {name}={value!r}. Give "
                f"another out=, or move {path.name} away"
            )


def _saved_step(path: Path) -> int | None:
    """Returns the step of the folder's checkpoint, or None."""
    try:
        return checkpoint.latest_step(path / CHECKPOINT)
    except CheckpointError:
        return None


def _log(sentence: str) -> None:
    print(sentence, file=sys.stderr)
