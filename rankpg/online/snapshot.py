"""An online retriever on disk: a run folder, with open draws and waiting feedback in its checkpoint.

    live/retriever.json                 says that the folder is of a retriever
    checkpoint/<step>/open_draws.npz    open draws and waiting feedback
    checkpoint/<step>/notes.json        also identity, importance weights, and name of the save

All that a save consists of is in the checkpoint, which gets its name at once: a save that fails or is killed
leaves the earlier one. Rows of metrics.jsonl beyond the checkpoint are not read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rankpg._utils.documents import DocumentError, kind_in_words, printable, read_json
from rankpg._utils.files import Taken, atomic_write_text, lock
from rankpg._utils.own_files import refuse_links
from rankpg.data.faults import in_one_line
from rankpg.errors import ConfigError
from rankpg.evaluation.metrics import Row
from rankpg.online.pending import FeedbackRows, OpenDraw, OpenDraws, Rows, join
from rankpg.online.update import Importance
from rankpg.runs.run import Run
from rankpg.runs.storage import checkpoint
from rankpg.runs.storage.card import card
from rankpg.runs.storage.checkpoint import CheckpointError
from rankpg.runs.storage.checkpoint_files import METADATA, checkpoint_path, saved_steps
from rankpg.runs.storage.contents import (
    CARD,
    CHECKPOINT,
    LOCK,
    METRICS,
    ONLINE,
    OWNER,
    check_links,
)
from rankpg.runs.storage.first_save import clear_temporary_files
from rankpg.runs.storage.folder import RunFolder
from rankpg.runs.storage.load import load_run
from rankpg.runs.storage.metrics_file import line

__all__ = ["Owner", "Saved", "load", "save"]

DRAWS, OWNER_KEY = "open_draws.npz", "retriever"


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
    if _read_owner(path) is None or not saved_steps(path / CHECKPOINT):
        _begin(path, run, owner)
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **_arrays(run, draws, queue))
    with _locked(path), checkpoint.uninterrupted():
        _check_owner(path, owner, known)
        with contextlib.suppress(OSError):  # tried again at the next save
            clear_temporary_files(path)
        owner = dataclasses.replace(owner, last_save=secrets.token_hex(8))
        atomic_write_text(path / METRICS, "".join(map(line, _rows(path, run, step))))
        checkpoint.save(
            path / CHECKPOINT,
            step,
            jax.device_get(run.state),
            metadata={OWNER_KEY: dataclasses.asdict(owner)},
            files={DRAWS: content.getvalue()},
        )
    with contextlib.suppress(OSError):  # the save is complete, and the card of an earlier one stays
        atomic_write_text(path / CARD, card(run, step=step, curve=False))
    return owner.last_save


def _begin(path: Path, run: Run, owner: Owner) -> None:
    """Creates the folder, in place of the remains of a first save that was interrupted.

    Raises:
      ConfigError: the folder holds another run, or cannot be created.
    """
    folder = RunFolder(path)
    try:
        folder.open(run)
        (path / ONLINE).mkdir(exist_ok=True)
        atomic_write_text(path / ONLINE / OWNER, json.dumps({"identity": owner.identity}) + "\n")
    finally:
        folder.release()


def _rows(path: Path, run: Run, step: int) -> list[Row]:
    """Returns the rows of this save and of the earlier one, which counts until this one is complete."""
    rows = list(run.metrics)
    for needed in (*saved_steps(path / CHECKPOINT), step):
        if all(row["step"] != needed for row in rows):  # this step has not been evaluated
            rows.append(_unvalued(run, needed))
    return sorted(rows, key=lambda row: row["step"])


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
    step = int(run.state.step[0])
    file = checkpoint_path(path / CHECKPOINT, step) / DRAWS
    if not file.exists():  # saved by an earlier version
        file = path / ONLINE / f"{step}.npz"
        refuse_links([file])
    try:
        with file.open("rb") as content, np.load(content, allow_pickle=False) as saved:
            arrays = dict(saved)
        arrays = _with_defaults(arrays)
        _check_shapes(run, arrays)
        draws = _draws(owner.identity, arrays)
        queue = [_feedback(arrays)] if len(arrays["queue_rewards"]) else []
    except Exception as error:  # NumPy and zipfile raise errors of many kinds on damaged files
        raise CheckpointError(
            f"{file} is damaged ({_reason(error)}); restore a copy of it. Without it the policy can "
            "still be loaded, with load_run(path), but not its open draws"
        ) from error
    return Saved(owner, run, draws, queue)


def _reason(error: Exception) -> str:
    """The reason in our words: what `_check_shapes` found, or the kind of another error."""
    ours = type(error) is ValueError or isinstance(error, DocumentError)
    return in_one_line(error) if ours else kind_in_words(error)


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
    if held is None or not saved_steps(path / CHECKPOINT):
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
    """Returns the owner as the newest checkpoint has it; None if the folder is of no retriever.

    The file beside the checkpoint holds it before the first save, and in folders of an earlier version.
    """
    check_links(path)
    file = path / ONLINE / OWNER
    if not file.exists():
        return None
    try:
        held = read_json(file)
        steps = saved_steps(path / CHECKPOINT)
        if steps:
            file = checkpoint_path(path / CHECKPOINT, steps[-1]) / METADATA
            held = read_json(file).get(OWNER_KEY, held)
        return _owner_of(held)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{file} is damaged ({_reason(error)}); restore a copy of it"
        ) from None


def _owner_of(held: Any) -> Owner:
    """Returns the owner that a file holds.

    Raises:
      ValueError, TypeError: it is of another form.
    """
    if not isinstance(held, dict):
        raise ValueError("it does not hold names and values")
    for name, value in held.items():
        if name not in _OWNER or not _OWNER[name](value):
            raise ValueError(f"{printable(name)} is {printable(repr(value))}")
    return Owner(**held)


def _is_name(value: object) -> bool:
    """Returns True for what `secrets.token_hex` writes."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]+", value) is not None


_OWNER: dict[str, Callable[[Any], bool]] = {
    "identity": _is_name,
    "importance": lambda value: value in ("set", "item", "none"),
    "clip": lambda value: type(value) in (int, float) and value > 0,
    "stream": lambda value: type(value) is int and 0 <= value < 2**63,
    "last_save": lambda value: value == "" or _is_name(value),
}
"""Values that the fields of an `Owner` may have."""


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
    _check_draws(arrays)


def _check_draws(arrays: dict[str, np.ndarray]) -> None:
    """Rejects open draws whose numbers do not fit each other.

    Raises:
      ValueError: names what does not fit.
    """
    size, serial = arrays["size"], arrays["serial"]
    rows = {len(arrays[f"open_{name}"]) for name in Rows._fields} | {len(arrays["told"])}
    next_serial = arrays["serials"]
    if next_serial.shape or next_serial.dtype.kind not in "iu":
        raise ValueError(f"serials holds {next_serial.dtype}{list(next_serial.shape)}")
    for what, sound in (
        ("size", size.dtype.kind == "i" and (size > 0).all() and rows == {int(size.sum())}),
        ("serial", serial.dtype.kind == "i" and len(np.unique(serial)) == len(serial)),
        ("serials", next_serial > max(serial.tolist(), default=-1)),
        ("stream", arrays["stream"].dtype.kind == "i" and (arrays["stream"] >= 0).all()),
        ("told", arrays["told"].dtype == bool),
        ("seal", arrays["seal"].dtype.kind == "U"),
    ):
        if not sound:
            raise ValueError(f"{what} of the open draws does not fit their rows")
    if (serial < 0).any():
        raise ValueError("serial holds a negative number")


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
        own = slice(end - size, end)
        rows = Rows(*(arrays[f"open_{name}"][own] for name in Rows._fields))
        settled = arrays["told"][own].copy()
        waiting[serial] = OpenDraw(serial, seal, rows, settled, stream)
    return OpenDraws(identity, int(arrays["serials"]), waiting)


def _feedback(arrays: dict[str, np.ndarray]) -> FeedbackRows:
    rows = Rows(*(arrays[f"queue_{name}"] for name in Rows._fields))
    columns = (arrays[f"queue_{name}"] for name in FeedbackRows._fields[1:])
    return FeedbackRows(rows, *columns)
