"""The folder of a run: what training writes there, and reading it back.

config.yaml          the settings, resolved
metrics.jsonl        one object per evaluation and seed
learning_curve.png   policy value against steps
checkpoint/<step>/   the state of all seeds: the newest ones, on request the best, and where a run was stopped
folder.json          which checkpoints are kept, and who else is told
writer.lock          held by the process that writes here
data.json            where rewards came from a table: the sums that tell its ids and its numbers
data/                its ids, and what else the folder needs to answer without it (see saved_data.py)
RUN.md               the run card: what was run, with what, and how it ended
"""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rankpg._utils.distributed import is_writer
from rankpg._utils.files import Held, Taken, acquire, atomic_write_text
from rankpg._utils.plots import learning_curves
from rankpg.config.train_config import TrainConfig
from rankpg.errors import ConfigError
from rankpg.runs.run import Progress, Run
from rankpg.runs.storage import checkpoint
from rankpg.runs.storage import dataset_file as saved_data
from rankpg.runs.storage.card import CURVE, card, handed_over
from rankpg.runs.storage.checkpoint import SaveError
from rankpg.runs.storage.load import (
    CHECKPOINT,
    CONFIG,
    DATA,
    LIVE,
    MAY_CHANGE,
    METRICS,
    OWNER,
    SAVED,
    difference,
    load_config,
    load_state,
    yaml_module,
)
from rankpg.runs.storage.metrics_file import append_rows, best_step, line
from rankpg.runs.storage.trackers import Tracks, check_trackers

__all__ = ["RunFolder"]

CARD, KEEP, LOCK = "RUN.md", "folder.json", "writer.lock"

_DEFAULTS: dict[str, Any] = {"keep_last": 2, "keep_best": False, "track": []}
"""Of two checkpoints one is whole even if the disk loses the other."""


class RunFolder:
    """Writes a run as it goes: `open` or `resume` it, `follow` the training, `close` it; `rankpg.train` does.

    Of several processes that train one run all call it, and one writes. Another run is refused until `close`,
    or until this process ends.

    Args:
      path: the folder.
      keep_last: how many checkpoints stay, the newest ones.
      keep_best: whether the one of the largest policy value, mean over seeds, stays as well.
      track: names of `trackers.TRACKERS`.

    What is None is as the folder has it: 2 checkpoints, not the best, no trackers.

    Raises:
      ConfigError: no checkpoint would be kept, or a tracker is unknown.

    >>> import tempfile
    >>> from rankpg.runs.storage.load import load_run
    >>> from rankpg.runs.train import train
    >>> config = TrainConfig(num_candidates=2, num_items=9, num_contexts=4, num_steps=2, seeds=(0,))
    >>> folder = RunFolder(tempfile.mkdtemp(), keep_best=True)
    >>> train(config, out=folder).step, load_run(folder.path).step
    (2, 2)
    """

    def __init__(
        self,
        path: Path | str,
        *,
        keep_last: int | None = None,
        keep_best: bool | None = None,
        track: Sequence[str] | None = None,
    ):
        self.path = Path(path)
        if keep_last is not None and keep_last < 1:
            raise ConfigError(f"--keep-last is {keep_last}; expected at least 1")
        check_trackers(track or ())
        given = {"keep_last": keep_last, "keep_best": keep_best}
        given["track"] = None if track is None else list(track)  # pyright: ignore[reportArgumentType]
        self._given = {name: value for name, value in given.items() if value is not None}
        self._keeping = dict(_DEFAULTS)
        self._lock: Held | None = None
        self._tracks: Tracks | None = None

    def check_free(self) -> None:
        """ConfigError where the folder holds a run already, another process writes it, or it is none."""
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"--out {self.path} is a file; expected the name of a folder")
        if is_writer() and self._lock is None and (self.path / LOCK).exists():
            self._hold()
            self._release()
        held = [name for name in (METRICS, CHECKPOINT) if (self.path / name).exists()]
        if held:
            raise ConfigError(
                f"--out {self.path} already holds a run ({', '.join(held)}); "
                "continue it with --resume, or choose another folder"
            )

    def open(self, run: Run) -> None:
        """Make the folder and write the settings.

        Raises:
          ConfigError: the folder holds a run already, another process writes it, or it cannot be made.
        """
        self.check_free()
        if not is_writer():
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._hold()
            self.check_free()  # now that nobody else can begin
            self._write_settings(run.config)
            if not run.dataset.ids_are_rows:
                checksums = json.dumps(run.dataset.fingerprint(), indent=1)
                atomic_write_text(self.path / DATA, checksums + "\n")
                in_memory = run.config.path is None
                saved_data.save(self.path / SAVED, run.dataset, in_memory=in_memory)
            elif handed_over(run):
                told = {"environment": type(run.environment).__name__}
                atomic_write_text(self.path / DATA, json.dumps(told, indent=1) + "\n")
        except OSError as error:
            raise ConfigError(
                f"--out {self.path} is no folder that can be written: {error}"
            ) from error
        self._tracks = Tracks(self._keeping["track"], self.path, run)

    def resume(self, run: Run, step: int | str | None = None) -> None:
        """Bring a prepared run to the state this folder holds; what it has beyond that step is dropped.

        Args:
          run: from `run.prepare`.
          step: of the checkpoint to go on from, or "best"; the newest if None.

        Raises:
          ConfigError: no run is here, it was run with other settings, it is finished, or another process
            writes it.
          CheckpointError: its checkpoint is missing, damaged, or of another config or version.
        """
        saved = load_config(self.path)
        if (self.path / LIVE / OWNER).exists():
            raise ConfigError(
                f"--resume: {self.path} holds a live retriever, whose open draws would be lost; go on with "
                "online.Retriever.load, or train from load_run(...) in another folder"
            )
        self._hold()
        changed = difference(saved.to_dict(), run.config.to_dict())
        if changed:
            name, before, now = changed
            raise ConfigError(
                f"--resume: {self.path} was run with {name} = {before}, and now it is {now}; only "
                f"{', '.join(MAY_CHANGE)} may change. Choose another --out for other settings"
            )
        load_state(run, self.path, step)
        if run.evaluated >= run.config.num_steps or run.step > run.config.num_steps:
            raise ConfigError(
                f"--resume: {self.path} is already at step {run.step}; "
                f"ask for more with --num-steps above {run.step}"
            )
        if not is_writer():
            return
        self._keeping = _read_keeping(self.path)
        self._write_settings(run.config)
        checkpoint.drop_beyond(self.path / CHECKPOINT, run.step)
        atomic_write_text(self.path / METRICS, "".join(line(row) for row in run.metrics))
        self._tracks = Tracks(self._keeping["track"], self.path, run)

    def follow(self, run: Run, progress: Progress) -> None:
        """After an evaluation: append its rows and save the state, so that nothing computed is lost.

        Raises:
          SaveError: the disk does not take it.
        """
        if progress.phase != "evaluate":
            return
        self._save(run, progress.step, progress.rows)
        if self._tracks is not None:
            self._tracks.log(progress.step, progress.rows)

    def save(self, run: Run) -> None:
        """Save the state between two evaluations, with what its accumulator of updates had so far.

        A run that goes on from there is, bit by bit, one that was never stopped.

        Raises:
          SaveError: the disk does not take it.
        """
        self._save(run, run.step, ())

    def _save(self, run: Run, step: int, rows: Sequence[dict[str, Any]]) -> None:
        """Parameters that are not finite (only those of a large model that was stepped in place ever are) do
        not take the place of the last ones that were.
        """
        state = run.state_of_hosts()
        if not is_writer():
            return
        notes = {"config": run.config.to_dict(), "accumulator": run.accumulator.to_json()}
        with checkpoint.uninterrupted():
            # Metrics first: rows beyond the checkpoint are dropped on loading, missing ones are lost.
            try:
                append_rows(self.path / METRICS, rows)
            except OSError as error:
                raise SaveError(
                    f"the rows of step {step} could not be written to {self.path / METRICS}: {error}. "
                    "What was saved before is not lost: make room, and go on with --resume"
                ) from error
            if all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params)):
                keep = self._kept(run, step)
                checkpoint.save(self.path / CHECKPOINT, step, state, notes=notes, keep=keep)

    def _kept(self, run: Run, step: int) -> set[int]:
        """The steps whose checkpoints stay when this one is there."""
        steps = {*checkpoint.saved_steps(self.path / CHECKPOINT), step}
        kept = set(sorted(steps)[-self._keeping["keep_last"] :])
        best = best_step(row for row in run.metrics if row["step"] in steps)
        if self._keeping["keep_best"] and best is not None:
            kept.add(best)
        return kept

    def close(self, run: Run) -> str | None:
        """Draw the learning curve and write the run card of what was evaluated, and let others write here.

        Answers what could not be written, and why.
        """
        if not is_writer():
            return None
        problem = self._write_results(run) if run.metrics else None
        if self._tracks is not None:
            self._tracks.close()
        self._release()
        return problem

    def _write_results(self, run: Run) -> str | None:
        problem = None
        try:
            learning_curves({run.config.estimator: run.metrics}, self.path / CURVE)
        except (ModuleNotFoundError, OSError) as error:
            problem = f"no {CURVE}: {error}"
        try:
            atomic_write_text(self.path / CARD, card(run))
        except OSError as error:
            problem = f"no {CARD}: {error}"
        return problem

    def _hold(self) -> None:
        """Be the one that writes here."""
        if self._lock is not None or not is_writer():
            return
        try:
            self._lock = acquire(self.path / LOCK)
        except Taken as owner:
            raise ConfigError(
                f"--out {self.path} is being written by {owner}, and two runs in one folder would spoil each "
                "other; wait for it, stop it, or choose another folder"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise  # else a file system without locks: nobody can be kept out

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _write_settings(self, config: TrainConfig) -> None:
        self._keeping |= self._given
        atomic_write_text(
            self.path / CONFIG, yaml_module().safe_dump(config.to_dict(), sort_keys=False)
        )
        atomic_write_text(self.path / KEEP, json.dumps(self._keeping, indent=1) + "\n")


def _read_keeping(path: Path) -> dict[str, Any]:
    """What folder.json has; the defaults where there is none."""
    file = path / KEEP
    if not file.exists():
        return dict(_DEFAULTS)
    try:
        found = json.loads(file.read_text())
        kinds = {name: type(found[name]) for name in _DEFAULTS}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"{file} cannot be read ({error}); remove it for the defaults") from None
    if kinds != {name: type(value) for name, value in _DEFAULTS.items()} or found["keep_last"] < 1:
        raise ConfigError(f"{file} holds {found}; expected values like {_DEFAULTS}")
    return {name: found[name] for name in _DEFAULTS}
