"""Checkpoints: the training state of all seeds on disk, written whole or not at all (Orbax)."""

from __future__ import annotations

import contextlib
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

__all__ = ["CheckpointError", "latest_step", "restore", "save", "uninterrupted"]


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or of another config."""


def save(folder: Path, step: int, state: Any) -> None:
    """Write the state under `folder/<step>` and then drop older steps; a half-written one never counts."""
    target = folder.resolve() / str(step)
    if target.exists():
        shutil.rmtree(target)
    with _checkpointer() as checkpointer:
        checkpointer.save(target, _flat(jax.device_get(state)))
    for old in folder.iterdir():
        if old.name != str(step):  # an older step, or what an interrupted write left
            shutil.rmtree(old)


def latest_step(folder: Path) -> int:
    """The step of the newest whole checkpoint.

    Raises:
      CheckpointError: there is none.
    """
    steps = _steps(folder)
    if not steps:
        raise CheckpointError(
            f"{folder} holds no checkpoint; was the run stopped before its first one?"
        )
    return max(steps)


def restore(folder: Path, template: Any) -> tuple[int, Any]:
    """The newest checkpoint, in the shape of `template` (arrays or their shapes).

    Raises:
      CheckpointError: there is none, it cannot be read, or it belongs to another config.
    """
    step = latest_step(folder)
    try:
        with _checkpointer() as checkpointer:
            saved = checkpointer.restore((folder / str(step)).resolve())
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"the checkpoint {folder / str(step)} cannot be read, a file of it is damaged or missing "
            f"({reason}); restore a copy of it, or train again into another --out"
        ) from error
    wanted = _flat(template)
    for name in sorted({*wanted, *saved}):
        have, want = saved.get(name), wanted.get(name)
        if have is None or want is None or (have.shape, have.dtype) != (want.shape, want.dtype):
            raise CheckpointError(
                f"the checkpoint {folder / str(step)} is of another config: {name} is {_words(have)} there, "
                f"and this config needs {_words(want)}"
            )
    leaves = [np.asarray(saved[name]) for name in wanted]
    return step, jax.tree.unflatten(jax.tree.structure(template), leaves)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait until what is being written is whole."""
    if threading.current_thread() is not threading.main_thread():
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

    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler())


def _steps(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    return [int(entry.name) for entry in folder.iterdir() if entry.name.isdigit()]


def _flat(state: Any) -> dict[str, Any]:
    """Leaves by their path: no library's containers, hence readable whatever their version."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _words(leaf: Any) -> str:
    return "absent" if leaf is None else f"{leaf.dtype}{list(leaf.shape)}"
