"""Remains of a run whose very first save was cut off: without a checkpoint, nothing learnt is lost."""

from __future__ import annotations

from pathlib import Path

from rankpg._utils.files import remove_partials
from rankpg.errors import ConfigError, argument
from rankpg.runs.storage.checkpoint_files import saved_steps
from rankpg.runs.storage.contents import (
    CARD,
    CHECKPOINT,
    CONFIG,
    CURVE,
    DATA_FILES,
    KEEP,
    METRICS,
    ONLINE,
    OWNER,
    WANDB,
)
from rankpg.runs.storage.metrics_file import read_metrics

__all__ = ["check_no_run", "clear_remains", "clear_temporary_files", "is_cut_off"]


def is_cut_off(path: Path) -> bool:
    """Returns True for a folder that was begun, and holds no checkpoint and no row of a later evaluation.

    folder.json is the first file of a run, so it shows that the others were written by this program.
    """
    if not (path / KEEP).is_file() or saved_steps(path / CHECKPOINT):
        return False
    if (path / ONLINE / OWNER).exists() or not (path / METRICS).exists():
        return True
    try:
        return all(row["step"] == 0 for row in read_metrics(path / METRICS))
    except ConfigError:
        return False


def check_no_run(path: Path) -> None:
    """Rejects a folder that holds a run, or files that would be overwritten and are not of a run.

    Raises:
      ConfigError: names the files.
    """
    if is_cut_off(path):
        return
    held = [METRICS] if (path / METRICS).exists() else []
    held += [CHECKPOINT] if saved_steps(path / CHECKPOINT) else []
    if held:
        raise ConfigError(
            f"{argument('out', str(path))} already has a run ({', '.join(held)}); "
            "continue it with resume=True, or choose another folder"
        )
    foreign = [] if (path / KEEP).exists() else [n for n in DATA_FILES if (path / n).exists()]
    if foreign:
        raise ConfigError(
            f"{argument('out', str(path))} has {', '.join(foreign)}, which would be overwritten; choose "
            "another folder"
        )


def clear_remains(path: Path) -> bool:
    """Removes the files of a run whose first save was cut off; returns True if there were any.

    Only files that such a run writes are removed, and the settings first: without them it cannot be resumed.
    """
    if not is_cut_off(path):
        return False
    own = (CONFIG, METRICS, *DATA_FILES, f"{ONLINE}/{OWNER}", CARD)
    there = [path / name for name in own if (path / name).is_file()]
    for file in there:
        file.unlink()
    return bool(there)


def clear_temporary_files(path: Path) -> None:
    """Removes temporary files that killed processes left; the folder must be locked."""
    for name in (CONFIG, METRICS, KEEP, *DATA_FILES, f"{ONLINE}/{OWNER}", CARD, CURVE, WANDB):
        remove_partials(path / name)
