"""Checkpoints: the training state of all seeds on disk, written whole or not at all (Orbax)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

__all__ = ["CheckpointError", "latest_step", "restore", "save", "uninterrupted"]

SUMS = "SHA256SUMS"
"""The sums of a checkpoint's files, as `sha256sum --check` reads them."""


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or of another config."""


def save(folder: Path, step: int, state: Any) -> None:
    """Write the state under `folder/<step>` and then drop older steps; a half-written one never counts.

    Of several processes one writes.
    """
    state = jax.device_get(state)
    target = folder.resolve() / str(step)
    partial = target.with_name(f"{step}.partial")
    for left in (partial, target):
        if left.exists():
            shutil.rmtree(left)
    with _checkpointer() as checkpointer:
        checkpointer.save(partial, _flat(state))
    sums = "".join(f"{digest}  {name}\n" for name, digest in _sums(partial).items())
    (partial / SUMS).write_text(sums)
    os.replace(partial, target)  # from here on it counts
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
      CheckpointError: there is none, it is damaged, or it belongs to another config.
    """
    step = latest_step(folder)
    _verify(folder / str(step))
    try:
        with _checkpointer() as checkpointer:
            saved = checkpointer.restore((folder / str(step)).resolve())
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _unreadable(folder / str(step), reason) from error
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


def _verify(checkpoint: Path) -> None:
    """Refuse a checkpoint any file of which is not as it was written, before its values are trusted."""
    try:
        lines = (checkpoint / SUMS).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(checkpoint, f"no manifest {SUMS}: {type(error).__name__}") from None
    written = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    found = _sums(checkpoint)
    for name in sorted({*written, *found}):
        if written.get(name) != found.get(name):
            raise _unreadable(checkpoint, f"its file {name} is missing or not the one of {SUMS}")


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
    return CheckpointError(
        f"the checkpoint {checkpoint} cannot be read ({reason}); "
        "restore a copy of it, or train again into another --out"
    )


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

    # The state is whole in every process's memory, so none waits for another.
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(), active_processes={jax.process_index()},
        barrier_sync_key_prefix=f"process{jax.process_index()}",
    )  # fmt: skip
    return ocp.Checkpointer(
        ocp.PyTreeCheckpointHandler(multiprocessing_options=alone), multiprocessing_options=alone
    )


def _steps(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    return [
        int(entry.name)
        for entry in folder.iterdir()
        if entry.name.isascii() and entry.name.isdigit()
    ]


def _flat(state: Any) -> dict[str, Any]:
    """Leaves by their path: no library's containers, hence readable whatever their version."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _words(leaf: Any) -> str:
    return "absent" if leaf is None else f"{leaf.dtype}{list(leaf.shape)}"
