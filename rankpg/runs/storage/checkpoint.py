"""Checkpoints: the training state of all seeds on disk, saved atomically (Orbax)."""

from __future__ import annotations

import contextlib
import json
import signal
import tempfile
import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from rankpg._utils.documents import kind_in_words, read_json
from rankpg._version import __version__
from rankpg.runs.storage.checkpoint_files import (
    METADATA,
    checkpoint_path,
    damage_of,
    discard_partial,
    partial_path,
    publish,
    saved_steps,
    tidy,
    write_checksums,
)

__all__ = [
    "CheckpointError",
    "SaveError",
    "Saved",
    "find",
    "latest_step",
    "restore",
    "save",
    "saved_steps",
    "uninterrupted",
    "writer_of",
]

FORMAT = 1
"""Format of the metadata and of the state's names; other formats are refused."""


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or of another config or version."""


class SaveError(OSError):
    """A checkpoint or metrics that could not be written."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint whose files match their checksums."""

    path: Path
    step: int
    metadata: dict[str, Any]

    def state(self, template: object) -> Any:
        """Returns the state, in the structure of `template` (arrays or their shapes).

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
                    f"and this config needs {_words(want)}{_other_version(self.metadata)}"
                )
        leaves = [np.asarray(saved[name]) for name in wanted]
        return jax.tree.unflatten(jax.tree.structure(template), leaves)


def save(
    folder: Path,
    step: int,
    state: object,
    *,
    metadata: Mapping[str, Any] | None = None,
    files: Mapping[str, bytes] = MappingProxyType({}),
    keep: Collection[int] = (),
) -> None:
    """Saves the state under `folder/<step>` atomically, and then removes other steps.

    Of several processes, only one may call it.

    Args:
      folder: all checkpoints of a run.
      step: the number of updates, which names this one.
      state: a pytree of arrays.
      metadata: JSON values, which `find` returns.
      files: contents of further files, by name; they belong to the checkpoint.
      keep: other steps to keep.

    Raises:
      SaveError: it could not be written, on a full disk for instance; earlier checkpoints stay.
    """
    state = jax.device_get(state)
    place = folder.resolve()
    try:
        partial = partial_path(place, step)
        _write(partial, state, metadata or {}, files)
        publish(partial)
    except Exception as error:  # the file system's, in the words of Python, Orbax or TensorStore
        discard_partial(place, step)
        raise _not_saved(folder, step, state, error) from error
    tidy(place, {step, *keep})


def _write(
    partial: Path, state: object, metadata: Mapping[str, Any], files: Mapping[str, bytes]
) -> None:
    partial.parent.mkdir(parents=True, exist_ok=True)
    with _checkpointer() as checkpointer, _plainly(partial.parent) as folder:
        checkpointer.save(folder / partial.name, _flat(state))
    if not partial.is_dir() or not any(partial.iterdir()):
        raise OSError(f"nothing was written to {partial}")
    if any(partial.glob("ocdbt.process_*")) and not (partial / "manifest.ocdbt").is_file():
        raise OSError(f"Orbax left the parts of {partial} apart, and could not read them back")
    content = {"format": FORMAT, "rankpg": __version__, **metadata}
    (partial / METADATA).write_text(json.dumps(content, allow_nan=False, indent=1) + "\n")
    for name, data in files.items():
        (partial / name).write_bytes(data)
    write_checksums(partial)


@contextlib.contextmanager
def _plainly(folder: Path) -> Iterator[Path]:
    """Yields a path of the folder that Orbax and TensorStore read literally.

    Orbax takes brackets for a pattern, TensorStore a backslash for a slash.
    """
    real = folder.resolve()
    if not set(str(real)) & set("[]\\"):
        yield real
        return
    with tempfile.TemporaryDirectory(prefix="rankpg-") as place:
        link = Path(place).resolve() / "folder"
        link.symlink_to(real, target_is_directory=True)
        yield link


def writer_of(folder: Path) -> str:
    """Returns the version of rankpg that wrote the newest checkpoint, in brackets; empty if this one did."""
    try:
        newest = checkpoint_path(folder, latest_step(folder))
        return _other_version(read_json(newest / METADATA))
    except (OSError, ValueError, AttributeError):
        return ""


def latest_step(folder: Path) -> int:
    """Returns the step of the newest checkpoint.

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
    """Returns the checkpoint of a step, by default the newest, after verifying its checksums.

    Raises:
      CheckpointError: there is none, it is damaged, or its format is that of another version.
    """
    newest = latest_step(folder)
    step = newest if step is None else step
    path = checkpoint_path(folder, step)
    if not path.is_dir():
        there = ", ".join(map(str, saved_steps(folder)))
        raise CheckpointError(f"{folder} holds no checkpoint of step {step}; it has step {there}")
    damage = damage_of(path)
    if damage:
        raise _unreadable(path, damage)
    if not (path / METADATA).exists():  # saved before there was metadata
        return Saved(path, step, {})
    try:
        metadata = read_json(path / METADATA)
        written = metadata["format"]
        if not isinstance(metadata.get("config", {}), dict):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(path, f"{METADATA}: {kind_in_words(error)}") from None
    if written != FORMAT:
        raise CheckpointError(
            f"the checkpoint {path} has format {written}, and this version of rankpg reads format "
            f"{FORMAT}{_other_version(metadata)}. Install that version to read it"
        )
    return Saved(path, step, metadata)


def restore(folder: Path, template: object) -> tuple[int, Any]:
    """Returns the step and state of the newest checkpoint; see `find` and `Saved.state`."""
    saved = find(folder)
    return saved.step, saved.state(template)


def _unreadable(checkpoint: Path, reason: str) -> CheckpointError:
    folder = checkpoint.parent
    others = {step: checkpoint_path(folder, step) for step in reversed(saved_steps(folder))}
    intact = next(
        (step for step, path in others.items() if path != checkpoint and not damage_of(path)), None
    )
    advice = "restore a copy of it, or train again into another out="
    if intact is not None:
        advice = (
            f"the one of step {intact} is intact: continue from it with resume=True and step={intact}, or "
            f"read it with load_run(..., step={intact})"
        )
    return CheckpointError(f"the checkpoint {checkpoint} cannot be read ({reason}); {advice}")


def _not_saved(folder: Path, step: int, state: object, error: Exception) -> SaveError:
    size = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(state))
    steps = [saved for saved in saved_steps(folder) if saved != step]
    kept = (
        f"Earlier checkpoints are kept: resume=True continues from step {steps[-1]}"
        if steps
        else "No earlier checkpoint exists: train again from step 0"
    )
    return SaveError(
        f"the state of step {step} ({size / 2**20:.1f} MiB) could not be saved in {folder}: "
        f"{_first_line(error)}. {kept}. Free some space, or keep fewer checkpoints (keep_last=1), first"
    )


def _other_version(metadata: Mapping[str, Any]) -> str:
    """Returns the version that wrote a checkpoint, in brackets; empty if it was this one."""
    writer = metadata.get("rankpg")
    if writer in (None, __version__):
        return ""
    return f" (rankpg {writer} wrote it, and this is {__version__})"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else kind_in_words(error)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Delays Ctrl-C until the end of the block; a handler that was set elsewhere stays in place."""
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

    # Every process has all of the state in memory, so none waits for another.
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(), active_processes={jax.process_index()},
        barrier_sync_key_prefix=f"process{jax.process_index()}",
    )  # fmt: skip
    return ocp.Checkpointer(
        ocp.PyTreeCheckpointHandler(multiprocessing_options=alone), multiprocessing_options=alone
    )


def _flat(state: object) -> dict[str, Any]:
    """Returns path -> leaf: free of any library's containers, so that all versions can read it."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _words(leaf: jax.Array | np.ndarray | jax.ShapeDtypeStruct | None) -> str:
    return "absent" if leaf is None else f"{leaf.dtype}{list(leaf.shape)}"
