"""Checkpoints: the training state of all seeds on disk, written whole or not at all (Orbax)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rankpg._version import __version__

__all__ = [
    "CheckpointError",
    "SaveError",
    "Saved",
    "drop_beyond",
    "find",
    "latest_step",
    "restore",
    "save",
    "saved_steps",
    "uninterrupted",
    "writer_of",
]

SUMS = "SHA256SUMS"
"""The sums of a checkpoint's files, as `sha256sum --check` reads them."""

NOTES = "notes.json"
"""What belongs to a state and is no array of it."""

_BEFORE = ".before"
"""Behind the step of a checkpoint while another one takes its place."""

FORMAT = 1
"""Of the notes and the state's names. What this version does not know it refuses."""


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or of another config or version."""


class SaveError(OSError):
    """What was to be saved could not be written."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint whose files are as they were written."""

    path: Path
    step: int
    notes: dict[str, Any]

    def state(self, template: Any) -> Any:
        """The state, in the shape of `template` (arrays or their shapes).

        Raises:
          CheckpointError: it cannot be read, or belongs to another config.
        """
        try:
            with _checkpointer() as checkpointer, _plainly(self.path.parent) as folder:
                saved = checkpointer.restore(folder / self.path.name)
        except Exception as error:
            raise _unreadable(self.path, _first_line(error)) from error
        wanted = _flat(template)
        for name in sorted({*wanted, *saved}):
            have, want = saved.get(name), wanted.get(name)
            if have is None or want is None or (have.shape, have.dtype) != (want.shape, want.dtype):
                raise CheckpointError(
                    f"the checkpoint {self.path} is of another config: {name} is {_words(have)} there, "
                    f"and this config needs {_words(want)}{_other_version(self.notes)}"
                )
        leaves = [np.asarray(saved[name]) for name in wanted]
        return jax.tree.unflatten(jax.tree.structure(template), leaves)


def save(
    folder: Path,
    step: int,
    state: Any,
    *,
    notes: Mapping[str, Any] | None = None,
    keep: Collection[int] = (),
) -> None:
    """Write the state under `folder/<step>` and then drop the other steps; a half-written one never counts.

    Of several processes one writes.

    Args:
      folder: of all checkpoints of a run.
      step: the name of this one.
      state: a tree of arrays.
      notes: what JSON can hold and `find` gives back.
      keep: other steps that stay.

    Raises:
      SaveError: it could not be written, on a full disk for instance. What was there stays.
    """
    state = jax.device_get(state)
    target = folder.resolve() / str(step)
    partial = target.with_name(f"{step}.partial")
    try:
        _write(partial, state, notes or {})
        if target.exists():
            os.replace(target, _cleared(target.with_name(f"{step}{_BEFORE}")))
        os.replace(partial, target)  # from here on it counts
    except Exception as error:  # the file system's, in the words of Python, Orbax or TensorStore
        for left in target.parent.glob(f"{partial.name}*"):
            shutil.rmtree(left, ignore_errors=True)
        raise _not_saved(folder, step, state, error) from error
    kept = {_path(folder, kept).name for kept in {step, *keep}}
    for old in folder.iterdir():
        if old.name not in kept:  # or what an interrupted write left
            shutil.rmtree(old)


def _write(partial: Path, state: Any, notes: Mapping[str, Any]) -> None:

    _cleared(partial).parent.mkdir(parents=True, exist_ok=True)
    with _checkpointer() as checkpointer, _plainly(partial.parent) as folder:
        checkpointer.save(folder / partial.name, _flat(state))
    if not partial.is_dir() or not any(partial.iterdir()):
        raise OSError(f"nothing was written to {partial}")
    if any(partial.glob("ocdbt.process_*")) and not (partial / "manifest.ocdbt").is_file():
        raise OSError(f"Orbax left the parts of {partial} apart, and could not read them back")
    known = {"format": FORMAT, "rankpg": __version__, **notes}
    (partial / NOTES).write_text(json.dumps(known, allow_nan=False, indent=1) + "\n")
    sums = "".join(f"{digest}  {name}\n" for name, digest in _sums(partial).items())
    (partial / SUMS).write_text(sums)


@contextlib.contextmanager
def _plainly(folder: Path) -> Iterator[Path]:
    """A name of the folder that stays a name: Orbax takes brackets for a pattern, TensorStore a backslash for
    a slash.
    """
    real = folder.resolve()
    if not set(str(real)) & set("[]\\"):
        yield real
        return
    with tempfile.TemporaryDirectory(prefix="rankpg-") as place:
        link = Path(place).resolve() / "folder"
        link.symlink_to(real, target_is_directory=True)
        yield link


def _cleared(path: Path) -> Path:
    """The path, with nothing there."""
    if path.exists():
        shutil.rmtree(path)
    return path


def saved_steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint, ascending."""
    if not folder.is_dir():
        return []
    names = {entry.name.removesuffix(_BEFORE) for entry in folder.iterdir()}
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def _path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is; the one that was being replaced, if a crash came in between."""
    path, before = folder / str(step), folder / f"{step}{_BEFORE}"
    return before if before.is_dir() and not path.is_dir() else path


def drop_beyond(folder: Path, step: int) -> None:
    """Remove the checkpoints of later steps: a run goes on from this one."""
    for later in saved_steps(folder):
        if later > step:
            shutil.rmtree(_path(folder, later))


def writer_of(folder: Path) -> str:
    """Which version of rankpg wrote the newest checkpoint, in brackets; empty if this one did."""
    try:
        return _other_version(json.loads((_path(folder, latest_step(folder)) / NOTES).read_text()))
    except (OSError, ValueError, AttributeError, RecursionError):
        return ""


def latest_step(folder: Path) -> int:
    """The step of the newest whole checkpoint.

    Raises:
      CheckpointError: there is none.
    """
    steps = saved_steps(folder)
    if not steps:
        raise CheckpointError(
            f"{folder} holds no checkpoint; was the run stopped before its first one?"
        )
    return steps[-1]


def find(folder: Path, step: int | None = None) -> Saved:
    """The checkpoint of a step, the newest by default, its files checked against their sums.

    Raises:
      CheckpointError: there is none, it is damaged, or another version wrote what this one cannot read.
    """
    newest = latest_step(folder)
    step = newest if step is None else step
    path = _path(folder, step)
    if not path.is_dir():
        there = ", ".join(map(str, saved_steps(folder)))
        raise CheckpointError(f"{folder} holds no checkpoint of step {step}; it has step {there}")
    damage = _damage(path)
    if damage:
        raise _unreadable(path, damage)
    if not (path / NOTES).exists():  # written before there were notes
        return Saved(path, step, {})
    try:
        notes = json.loads((path / NOTES).read_text())
        written = notes["format"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _unreadable(path, f"{NOTES}: {type(error).__name__}") from None
    if written != FORMAT:
        raise CheckpointError(
            f"the checkpoint {path} is of format {written}, and this version of rankpg reads format "
            f"{FORMAT}{_other_version(notes)}. Install that version to go on"
        )
    return Saved(path, step, notes)


def restore(folder: Path, template: Any) -> tuple[int, Any]:
    """The newest checkpoint's step and state; see `find` and `Saved.state`."""
    saved = find(folder)
    return saved.step, saved.state(template)


def _damage(checkpoint: Path) -> str | None:
    """Which file of a checkpoint is not as it was written; known before its values are trusted."""
    try:
        lines = (checkpoint / SUMS).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        return f"no manifest {SUMS}: {type(error).__name__}"
    written = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    found = _sums(checkpoint)
    for name in sorted({*written, *found}):
        if written.get(name) != found.get(name):
            return f"its file {name} is missing or not the one of {SUMS}"
    return None


def _sums(checkpoint: Path) -> dict[str, str]:
    """The SHA-256 of every file of a checkpoint but the manifest, by its name in there."""
    sums = {}
    for file in sorted(checkpoint.rglob("*")):
        name = file.relative_to(checkpoint).as_posix()
        if file.is_file() and name != SUMS:
            with file.open("rb") as content:
                sums[name] = hashlib.file_digest(content, "sha256").hexdigest()
    return sums


def _unreadable(checkpoint: Path, reason: str) -> CheckpointError:
    folder = checkpoint.parent
    others = [
        path for path in (_path(folder, s) for s in saved_steps(folder)) if path != checkpoint
    ]
    whole = next(
        (path.name.removesuffix(_BEFORE) for path in others[::-1] if not _damage(path)), None
    )
    advice = "restore a copy of it, or train again into another --out"
    if whole is not None:
        advice = (
            f"the one of step {whole} is whole: go on from there with --resume --step {whole}, or read it "
            f"with load_run(..., step={whole})"
        )
    return CheckpointError(f"the checkpoint {checkpoint} cannot be read ({reason}); {advice}")


def _not_saved(folder: Path, step: int, state: Any, error: Exception) -> SaveError:
    size = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(state))
    steps = [saved for saved in saved_steps(folder) if saved != step]
    kept = (
        f"Nothing that was saved before is lost: the checkpoint of step {steps[-1]} stays, and --resume goes "
        "on from there"
        if steps
        else "There is no earlier checkpoint: the run begins anew"
    )
    return SaveError(
        f"the state of step {step} ({size / 2**20:.1f} MiB) could not be saved in {folder}: "
        f"{_first_line(error)}. {kept}. Make room, or keep fewer checkpoints (--keep-last 1), first"
    )


def _other_version(notes: Mapping[str, Any]) -> str:
    """Who wrote it, where that was not this version."""
    writer = notes.get("rankpg")
    if writer in (None, __version__):
        return ""
    return f" (rankpg {writer} wrote it, and this is {__version__})"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait until what is being written is whole; somebody else's handler is left in its place."""
    mine = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not mine or threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if received:
        raise KeyboardInterrupt


def _checkpointer() -> Any:
    import orbax.checkpoint as ocp  # slow to import, and only runs with a folder need it

    # The state is whole in every process's memory, so none waits for another.
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(), active_processes={jax.process_index()},
        barrier_sync_key_prefix=f"process{jax.process_index()}",
    )  # fmt: skip
    return ocp.Checkpointer(
        ocp.PyTreeCheckpointHandler(multiprocessing_options=alone), multiprocessing_options=alone
    )


def _flat(state: Any) -> dict[str, Any]:
    """Leaves by their path: no library's containers, hence readable whatever their version."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _words(leaf: Any) -> str:
    return "absent" if leaf is None else f"{leaf.dtype}{list(leaf.shape)}"
