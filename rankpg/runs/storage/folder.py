"""The folder of a run: files that training writes, and a run that resumes from them.

config.yaml          the settings, resolved
metrics.jsonl        one object per evaluation and seed
learning_curve.png   policy value against steps
checkpoint/<step>/   the state of all seeds: the newest ones, on request the best, and where a run was stopped
folder.json          which checkpoints are kept, the trackers, and where files of the settings are from here
writer.lock          locked by the process that writes here
data.json            checksums of the dataset's ids, rewards and split, where the run has a dataset
data/                its ids, and what candidates need without the data itself (see dataset_file.py)
reranker.txt         the re-ranker that was fitted to the training part, if one was, in LightGBM's text format
reranker.json        its metrics, and the moments that it was fitted on
RUN.md               the run card: results, diagnostics, data, settings and versions

A run is there once it has a checkpoint; until then the folder may be begun anew. Files are replaced
atomically, and a checkpoint is written after the rows that it needs: a process that is killed leaves the
run as of one checkpoint or the next.

Of interactions, data/ holds all of them: share the folder as you would share the log.
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
from rankpg._utils.documents import kind_in_words, read_json
from rankpg._utils.files import Held, Taken, acquire, atomic_write_text
from rankpg._utils.paths import expanded
from rankpg._utils.plots import learning_curves
from rankpg.config.train_config import TrainConfig
from rankpg.errors import ConfigError, argument
from rankpg.runs.best import VALIDATION, best_step, is_exhausted
from rankpg.runs.run import Progress, Run
from rankpg.runs.storage import checkpoint
from rankpg.runs.storage import dataset_file as saved_data
from rankpg.runs.storage.card import card, handed_over
from rankpg.runs.storage.checkpoint import SaveError
from rankpg.runs.storage.checkpoint_files import drop_beyond, saved_steps
from rankpg.runs.storage.contents import (
    CARD,
    CHECKPOINT,
    CONFIG,
    CURVE,
    DATA,
    KEEP,
    LOCK,
    METRICS,
    ONLINE,
    OWNER,
    SAVED,
    check_links,
)
from rankpg.runs.storage.first_save import (
    check_no_run,
    clear_remains,
    clear_temporary_files,
    is_cut_off,
)
from rankpg.runs.storage.load import (
    MAY_CHANGE,
    check_data,
    difference,
    load_config,
    load_state,
    saved_components,
    yaml_module,
)
from rankpg.runs.storage.metrics_file import append_rows, line
from rankpg.runs.storage.places import relative_paths
from rankpg.runs.storage.trackers import Tracks, check_trackers

__all__ = ["RunFolder"]

_DEFAULTS: dict[str, Any] = {"keep_last": 2, "keep_best": False, "track": []}
"""Two checkpoints: one is left if the disk damages the other."""


class RunFolder:
    """Saves a run during training: `open` or `resume`, then `on_progress`, then `close`.

    `rankpg.train` makes these calls. All processes of a run make them, and one of them writes. The folder
    rejects another run until `close`, or until this process ends.

    Args:
      path: the folder.
      keep_last: number of newest checkpoints to keep; by default as the folder has it, else 2.
      keep_best: True keeps the checkpoint of `Run.best_step` as well, as a run with patience does in any
        case; by default as the folder has it, else False.
      track: names of `trackers.TRACKERS`; by default as the folder has them, else none.

    Raises:
      ConfigError: keep_last below 1, or an unknown tracker.

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
        self.path = expanded(path)
        if keep_last is not None and not (isinstance(keep_last, int) and keep_last >= 1):
            raise ConfigError(f"{argument('keep_last', keep_last)}; expected at least 1")
        if isinstance(track, str):
            raise ConfigError(
                f"{argument('track', track)}; expected a list of names: track=[{track!r}]"
            )
        check_trackers(track or ())
        given: dict[str, Any] = {"keep_last": keep_last, "keep_best": keep_best}
        given["track"] = None if track is None else list(track)
        self._given = {name: value for name, value in given.items() if value is not None}
        self._keeping = dict(_DEFAULTS)
        self._lock: Held | None = None
        self._tracks: Tracks | None = None
        self.notice: str | None = None
        """Sentence that a run whose first save was cut off begins anew; None otherwise."""

    def check_free(self) -> None:
        """Rejects a path that is a file, already holds a run, or is in use by another process.

        Raises:
          ConfigError: the folder cannot be used for a new run.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"{self._out} is a file; expected the name of a folder")
        check_links(self.path)
        if is_writer() and self._lock is None and (self.path / LOCK).exists():
            self._hold()
            self.release()
        check_no_run(self.path)

    def check_resumable(self) -> None:
        """Rejects a folder that holds no run.

        Raises:
          ConfigError: the folder has no settings, or does not exist.
        """
        check_links(self.path)
        if not (self.path / CONFIG).exists():
            raise ConfigError(
                f"{self.path} holds no run to resume; leave out resume=True to start one"
            )

    def has_checkpoint(self) -> bool:
        """Returns True if a run resumes from a state; without one, its first save was cut off."""
        return bool(saved_steps(self.path / CHECKPOINT))

    def components(self) -> dict[str, Any]:
        """Returns the components that the folder holds, with which `prepare` prepares a run to resume."""
        return saved_components(self.path)

    def open(self, run: Run) -> None:
        """Makes the folder and saves the settings.

        Raises:
          ConfigError: the folder has a run already, another process writes it, or it cannot be made.
        """
        self.check_free()
        if not is_writer():
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._hold()
            self.check_free()  # again, now that it is locked
            clear_temporary_files(self.path)
            if clear_remains(self.path):
                self.notice = f"{self.path}: the first save of a run was cut off; it begins anew"
            self._write_keeping(run.config)
            if not run.dataset.ids_are_rows:
                checksums = json.dumps(run.dataset.fingerprint(), indent=1)
                atomic_write_text(self.path / DATA, checksums + "\n")
                saved_data.save(self.path / SAVED, run.dataset)
                if run.fitted is not None:
                    from rankpg.training.lambdamart import save_fitted  # needs SciPy

                    save_fitted(self.path, run.fitted)
            elif handed_over(run):
                data = {"environment": type(run.environment).__name__}
                atomic_write_text(self.path / DATA, json.dumps(data, indent=1) + "\n")
            self._write_settings(run.config)  # last: with it, the run can be resumed
        except OSError as error:
            raise ConfigError(f"{self._out} cannot be written: {error}") from error
        self._tracks = Tracks(self._keeping["track"], self.path, run)

    def resume(self, run: Run, step: int | str | None = None) -> None:
        """Loads this folder's state into a prepared run, and drops what was saved after that step.

        A run whose first save was cut off begins anew, and `notice` says so.

        Args:
          run: from `run.prepare`; restored=`has_checkpoint()`.
          step: number of updates of the checkpoint to continue from, or "best"; the newest if None.

        Raises:
          ConfigError: the folder has no run, or one with other settings, or a finished one, or another
            process writes it.
          CheckpointError: a checkpoint that is missing, damaged, or of another config or version.
        """
        self.check_resumable()
        saved = load_config(self.path)
        if (self.path / ONLINE / OWNER).exists():
            raise ConfigError(
                f"{self.path} has an online retriever, whose open draws resume=True would lose; load it with "
                "online.Retriever.load, or train a run of load_run(...) in another folder"
            )
        self._hold()
        changed = difference(saved.to_dict(), run.config.to_dict(), self.path)
        if changed:
            name, before, now = changed
            raise ConfigError(
                f"{self.path} was trained with {argument(name, before)}, not {argument(name, now)}; "
                f"resume=True allows changes of {'=, '.join(MAY_CHANGE)}= only. Choose another out= for "
                "other settings"
            )
        anew = step is None and is_cut_off(self.path)
        if anew:
            check_data(run, self.path)
            self.notice = f"{self.path}: the first save of the run was cut off; it begins anew"
        else:
            load_state(run, self.path, step)
        if run.evaluated >= run.config.num_steps or run.step > run.config.num_steps:
            raise ConfigError(
                f"{self.path} is already at step {run.step}; resume=True needs num_steps above {run.step}"
            )
        self._resume_best(run)
        if not is_writer():
            return
        clear_temporary_files(self.path)
        self._keeping = _read_keeping(self.path)
        self._write_keeping(run.config)
        self._write_settings(run.config)
        drop_beyond(self.path / CHECKPOINT, run.step)
        atomic_write_text(self.path / METRICS, "".join(line(row) for row in run.metrics))
        self._tracks = Tracks(self._keeping["track"], self.path, run)

    def _resume_best(self, run: Run) -> None:
        """Loads the state of the best evaluation so far into a run with patience.

        Raises:
          ConfigError: training has ended by its patience.
          CheckpointError: the checkpoint is damaged.
        """
        patience, best = run.config.patience, run.best_step
        if patience is None:
            return
        if is_exhausted(run.metrics, patience):
            raise ConfigError(
                f"{self.path} has ended at step {run.step}: {VALIDATION} has not risen since step {best}; "
                f"resume=True needs patience above {patience}"
            )
        if best in saved_steps(self.path / CHECKPOINT):
            sharding = run.policy.retrieval.sharding
            saved = checkpoint.find(self.path / CHECKPOINT, best)
            run.best_state = saved.state(sharding.gathered_shapes(run.state))

    def on_progress(self, run: Run, progress: Progress) -> None:
        """Appends the rows of an evaluation and saves the state.

        Raises:
          SaveError: they cannot be written.
        """
        if progress.phase != "evaluate":
            return
        self._save(run, progress.step, progress.rows)
        if self._tracks is not None:
            self._tracks.log(progress.step, progress.rows)

    def save(self, run: Run) -> None:
        """Saves the state between two evaluations, with the running means of its metrics.

        A run that resumes from it is bit-identical to one that was not stopped.

        Raises:
          SaveError: it cannot be written.
        """
        self._save(run, run.step, ())

    def _save(self, run: Run, step: int, rows: Sequence[dict[str, Any]]) -> None:
        """Saves rows and state; parameters that are not finite do not replace the last finite ones.

        Only a large model, which is updated in place, can have such parameters.
        """
        state = run.state_of_hosts()
        if not is_writer():
            return
        metadata = {"config": run.config.to_dict(), "accumulator": run.accumulator.to_json()}
        with checkpoint.uninterrupted():
            # Metrics first: rows beyond the checkpoint are dropped on loading, missing ones are lost.
            try:
                append_rows(self.path / METRICS, rows)
            except OSError as error:
                raise SaveError(
                    f"the rows of step {step} could not be written to {self.path / METRICS}: {error}. "
                    "Earlier steps are kept: free some space, and continue with resume=True"
                ) from error
            if all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params)):
                keep = self._kept(run, step)
                checkpoint.save(self.path / CHECKPOINT, step, state, metadata=metadata, keep=keep)

    def _kept(self, run: Run, step: int) -> set[int]:
        """Returns the steps whose checkpoints stay once this one is saved."""
        steps = {*saved_steps(self.path / CHECKPOINT), step}
        kept = set(sorted(steps)[-self._keeping["keep_last"] :])
        best = best_step(row for row in run.metrics if row["step"] in steps)
        keep_best = self._keeping["keep_best"] or run.config.patience is not None
        if keep_best and best is not None:
            kept.add(best)
        return kept

    def close(self, run: Run) -> str | None:
        """Saves the learning curve and the run card, closes the trackers, and unlocks the folder.

        Returns:
          What could not be written, and why; None if all was.
        """
        if not is_writer():
            return None
        problem = self._write_results(run) if run.metrics else None
        if self._tracks is not None:
            self._tracks.close()
        self.release()
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
        """Locks the folder for this process."""
        if self._lock is not None or not is_writer():
            return
        try:
            self._lock = acquire(self.path / LOCK)
        except Taken as owner:
            raise ConfigError(
                f"{self._out} is being written by {owner}; wait for it, stop it, or choose another folder"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise  # else a file system without locks, where other writers cannot be excluded

    @property
    def _out(self) -> str:
        return argument("out", str(self.path))

    def release(self) -> None:
        """Unlocks the folder; `close` does this as well."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _write_settings(self, config: TrainConfig) -> None:
        atomic_write_text(
            self.path / CONFIG, yaml_module().safe_dump(config.to_dict(), sort_keys=False)
        )

    def _write_keeping(self, config: TrainConfig) -> None:
        self._keeping |= self._given
        paths = relative_paths(self.path, config)
        content = self._keeping | ({"paths": paths} if paths else {})
        atomic_write_text(self.path / KEEP, json.dumps(content, indent=1) + "\n")


def _read_keeping(path: Path) -> dict[str, Any]:
    """Returns the content of folder.json; the defaults if the file is missing."""
    file = path / KEEP
    if not file.exists():
        return dict(_DEFAULTS)
    try:
        found = read_json(file)
        kinds = {name: type(found[name]) for name in _DEFAULTS}
        check_trackers(found["track"] if kinds["track"] is list else ())
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error) if isinstance(error, ValueError) else kind_in_words(error)
        raise ConfigError(
            f"{file} cannot be read ({reason}); remove the file for the defaults"
        ) from None
    if kinds != {name: type(value) for name, value in _DEFAULTS.items()} or found["keep_last"] < 1:
        raise ConfigError(f"{file} holds {found}; expected values like {_DEFAULTS}")
    return {name: found[name] for name in _DEFAULTS}
