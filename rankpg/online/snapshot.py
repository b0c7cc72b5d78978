"""An online retriever on disk: a run folder, with open draws and waiting feedback beside the checkpoint.

    live/retriever.json   identity of the retriever, importance weights, and name of the last save
    live/<step>.npz       open draws and waiting feedback at the checkpoint of that step

The file of a step is written before its checkpoint and removed after the next one, so every checkpoint has
its file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import secrets
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rankpg._utils.files import Taken, atomic_write_text, lock
from rankpg.errors import ConfigError
from rankpg.online.pending import FeedbackRows, OpenDraw, OpenDraws, Rows, join
from rankpg.online.update import Importance
from rankpg.runs.run import Run
from rankpg.runs.storage import checkpoint
from rankpg.runs.storage.card import CARD, card
from rankpg.runs.storage.checkpoint import CheckpointError
from rankpg.runs.storage.folder import LOCK, RunFolder
from rankpg.runs.storage.load import CHECKPOINT, METRICS, ONLINE, OWNER, load_run

__all__ = ["Owner", "Saved", "load", "save"]


@dataclasses.dataclass(frozen=True)
class Owner:
    """The retriever that a folder belongs to: identity, importance weights, last save."""

    identity: str
    importance: Importance = "set"
    clip: float = 10.0
    stream: int = 0
    """Stream of the noise of the retriever that saved."""
    last_save: str = ""
    """Name of the last save. A retriever that does not know it would overwrite updates of another one."""


class Saved(NamedTuple):
    """The result of `load`."""

    owner: Owner
    run: Run
    draws: OpenDraws
    queue: list[FeedbackRows]


def save(
    path: Path,
    owner: Owner,
    known: str | None,
    run: Run,
    draws: OpenDraws,
    queue: list[FeedbackRows],
) -> str:
    """Saves a retriever.

    Args:
      path: the folder.
      owner: the retriever.
      known: name of the save that this retriever made or loaded here last; None if there was none.
      run, draws, queue: run, open draws and waiting feedback.

    Returns:
      The name of this save.

    Raises:
      ConfigError: the folder holds another run, or a later state, or cannot be created.
      OSError: the disk cannot be written; the earlier save stays.
    """
    step = int(run.state.step[0])
    rows = list(run.metrics)
    if all(row["step"] != step for row in rows):  # this step has not been evaluated
        rows.append(_unvalued(run, step))
    first = _read_owner(path) is None or not checkpoint.saved_steps(path / CHECKPOINT)
    if first:
        _begin(path, run)
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **_arrays(run, draws, queue))
    lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    with _locked(path), checkpoint.uninterrupted():
        if not first:
            _check_owner(path, owner, known)
        owner = dataclasses.replace(owner, last_save=secrets.token_hex(8))
        if first:
            _write_owner(path, owner)  # a checkpoint is valid only with it
        atomic_write_text(path / ONLINE / f"{step}.npz", content.getvalue())
        atomic_write_text(path / METRICS, lines)
        checkpoint.save(path / CHECKPOINT, step, jax.device_get(run.state))
        atomic_write_text(path / CARD, card(run, step=step, curve=False))
        _write_owner(path, owner)  # last: a save that fails leaves the earlier name
        for old in (path / ONLINE).glob("*.npz"):
            if old.name != f"{step}.npz":
                old.unlink()
    return owner.last_save


def _begin(path: Path, run: Run) -> None:
    """Creates the folder, and removes the remains of a first save that was interrupted.

    Raises:
      ConfigError: the folder holds another run, or cannot be created.
    """
    if (path / ONLINE).is_dir() and not checkpoint.saved_steps(path / CHECKPOINT):
        (path / METRICS).unlink(missing_ok=True)
        shutil.rmtree(path / CHECKPOINT, ignore_errors=True)
    RunFolder(path).open(run)
    (path / ONLINE).mkdir(exist_ok=True)


def load(path: Path, **overrides: Any) -> Saved:
    """Loads what `save` wrote.

    Args:
      path: the folder.
      **overrides: as for `load_run`.

    Raises:
      ConfigError: the folder does not hold an online retriever.
      CheckpointError: a file cannot be read.
    """
    owner = _read_owner(path)
    if owner is None:
        raise ConfigError(
            f"{path} does not hold an online retriever; to make one from a trained run, use "
            "online.Retriever(load_run(path)), and save it in another folder"
        )
    run = load_run(path, **overrides)
    run.metrics[:] = [row for row in run.metrics if row != _unvalued(run, row["step"])]
    file = path / ONLINE / f"{int(run.state.step[0])}.npz"
    try:
        with file.open("rb") as content, np.load(content, allow_pickle=False) as saved:
            arrays = dict(saved)
        arrays = _with_defaults(arrays)
        _check_shapes(run, arrays)
        draws = _draws(owner.identity, arrays)
        queue = [_feedback(arrays)] if len(arrays["queue_rewards"]) else []
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{file} cannot be read ({error}); restore a copy of it. Without it the policy can still be "
            "loaded, with load_run(path), but not its open draws"
        ) from error
    return Saved(owner, run, draws, queue)


def _unvalued(run: Run, step: int) -> dict[str, Any]:
    """Metrics row of a step without an evaluation: the reader of a run folder needs one at its checkpoint."""
    return {"step": step, "seed": run.config.seeds[0], "policy_value": None}


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        with lock(path / LOCK):
            yield
    except Taken as other:
        raise ConfigError(
            f"{path} is being written by {other}; save again later, or in another folder"
        ) from None


def _check_owner(path: Path, owner: Owner, known: str | None) -> None:
    """Rejects a folder of another retriever, or one with a later save."""
    held = _read_owner(path)
    if held is None:
        return
    if held.identity != owner.identity:
        raise ConfigError(
            f"{path} already holds the retriever {held.identity}, and this one is {owner.identity}; choose "
            "another folder, or continue from this one with online.Retriever.load"
        )
    if held.last_save != known:
        raise ConfigError(
            f"{path} was saved by another process since this retriever loaded or saved it, whose "
            "updates would be lost; save in another folder, or continue with online.Retriever.load"
        )


def _read_owner(path: Path) -> Owner | None:
    file = path / ONLINE / OWNER
    if not file.exists():
        return None
    try:
        return Owner(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}); restore a copy of it") from None


def _write_owner(path: Path, owner: Owner) -> None:
    atomic_write_text(path / ONLINE / OWNER, json.dumps(dataclasses.asdict(owner)))


def _check_shapes(run: Run, arrays: dict[str, np.ndarray]) -> None:
    """Rejects arrays that cannot be draws of this run.

    Raises:
      ValueError: another dtype or shape, or a number out of range.
    """
    none = _no_rows(run)
    wanted = {
        **{
            f"{part}_{name}": x
            for part in ("open", "queue")
            for name, x in none.rows._asdict().items()
        },
        "queue_ranking": none.ranking,
        "queue_rewards": none.rewards,
        "queue_seen": none.seen,
    }
    masks = ((0,), (-(-run.environment.num_items // 8),))
    for name, like in wanted.items():
        found = arrays[name]
        shapes = masks if name.endswith("_allowed") else (like.shape[1:],)
        if found.dtype != like.dtype or found.shape[1:] not in shapes:
            raise ValueError(
                f"{name} holds {found.dtype}{list(found.shape)}; expected {like.dtype} of "
                f"{list(like.shape[1:])} in each row"
            )
    sizes = {"contexts": run.environment.num_contexts, "candidates": run.environment.num_items}
    for part in ("open", "queue"):
        for name, count in sizes.items():
            found = arrays[f"{part}_{name}"]
            if found.size and (found.min() < 0 or found.max() >= count):
                raise ValueError(
                    f"{part}_{name} holds {found.max()}; expected numbers below {count}"
                )


def _arrays(run: Run, draws: OpenDraws, queue: list[FeedbackRows]) -> dict[str, np.ndarray]:
    waiting = list(draws.waiting.values())
    none = _no_rows(run)
    rows = join([none, *(FeedbackRows(draw.rows, *none[1:]) for draw in waiting)]).rows
    feedback = join([none, *queue])
    return {
        "serials": np.array(draws.serials),
        "serial": np.array([draw.serial for draw in waiting], np.int64),
        "seal": np.array([draw.seal for draw in waiting], "U8"),
        "stream": np.array([draw.stream for draw in waiting], np.int64),
        "size": np.array([len(draw.settled) for draw in waiting], np.int64),
        "told": np.concatenate([np.zeros(0, bool), *(draw.settled for draw in waiting)]),
        **{f"open_{name}": column for name, column in rows._asdict().items()},
        **{f"queue_{name}": column for name, column in feedback.rows._asdict().items()},
        "queue_ranking": feedback.ranking,
        "queue_rewards": feedback.rewards,
        "queue_seen": feedback.seen,
    }


def _with_defaults(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Adds what folders of earlier versions lack: they had one stream, whole lists, and no masks."""
    nothing = {
        "stream": np.zeros(len(arrays["serial"]), np.int64),
        "queue_seen": np.ones(arrays["queue_rewards"].shape, bool),
        "open_allowed": np.zeros((len(arrays["open_step"]), 0), np.uint8),
        "queue_allowed": np.zeros((len(arrays["queue_step"]), 0), np.uint8),
    }
    return nothing | arrays


def _no_rows(run: Run) -> FeedbackRows:
    """No rows, with the dtypes and shapes of this run."""
    candidates, length = run.config.num_candidates, run.config.ranking_length
    ints, floats = (np.zeros((0, candidates), t) for t in (np.int32, np.float32))
    masks = np.zeros((0, 0), np.uint8)
    rows = Rows(ints[:, 0], ints, floats[:, 0], floats, ints[:, 0], masks)
    return FeedbackRows(rows, ints[:, :length], floats[:, :length], floats[:, :length] > 0)


def _draws(identity: str, arrays: dict[str, np.ndarray]) -> OpenDraws:
    ends = np.cumsum(arrays["size"])
    waiting = {}
    names = (arrays[name].tolist() for name in ("serial", "seal", "stream"))
    for serial, seal, stream, size, end in zip(*names, arrays["size"], ends, strict=True):
        rows = Rows(*(arrays[f"open_{name}"][end - size : end] for name in Rows._fields))
        settled = arrays["told"][end - size : end].copy()
        waiting[serial] = OpenDraw(serial, seal, rows, settled, stream)
    return OpenDraws(identity, int(arrays["serials"]), waiting)


def _feedback(arrays: dict[str, np.ndarray]) -> FeedbackRows:
    rows = Rows(*(arrays[f"queue_{name}"] for name in Rows._fields))
    columns = (arrays[f"queue_{name}"] for name in FeedbackRows._fields[1:])
    return FeedbackRows(rows, *columns)
