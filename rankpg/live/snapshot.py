"""A live retriever on disk: the run folder as `rankpg train` writes it, and beside the checkpoint what waits.

    live/retriever.json   whose tokens these are
    live/<step>.npz       open draws and rows that wait, at the checkpoint of that step

The file of a step is written before its checkpoint and removed after the next one, so whatever checkpoint is
found has its file.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rankpg import checkpoint
from rankpg.checkpoint import CheckpointError
from rankpg.config import ConfigError
from rankpg.live.open_draws import OpenDraw, OpenDraws, Rows, ToldRows, join
from rankpg.run import Run
from rankpg.run_folder import CHECKPOINT, METRICS, RunFolder, load_run

__all__ = ["load", "save"]

LIVE, OWNER = "live", "retriever.json"


def save(path: Path, run: Run, step: int, draws: OpenDraws, queue: list[ToldRows]) -> None:
    """Write it whole or not at all.

    Raises:
      ConfigError: the folder holds another run, or cannot be written.
    """
    if all(row["step"] != step for row in run.metrics):  # what the step was worth, nobody has said
        row = {"step": step, "seed": run.config.seeds[0], "policy_value": None}
        run.metrics.append(row)
    _own(path, run, draws.identity)
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **_arrays(run, draws, queue))
    lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in run.metrics)
    with checkpoint.uninterrupted():
        _write(path / LIVE / f"{step}.npz", content.getvalue())
        _write(path / METRICS, lines.encode())
        checkpoint.save(path / CHECKPOINT, step, jax.device_get(run.state))
        for old in (path / LIVE).glob("*.npz"):
            if old.name != f"{step}.npz":
                old.unlink()


def load(path: Path, **overrides: Any) -> tuple[Run, OpenDraws, list[ToldRows]]:
    """What `save` left.

    Args:
      path: the run folder.
      **overrides: as for `run_folder.load_run`.

    Raises:
      ConfigError: no live retriever was saved here.
      CheckpointError: what was saved cannot be read.
    """
    identity = _owner(path)
    if identity is None:
        raise ConfigError(
            f"{path} holds no live retriever; of a run that was trained in the program make one by "
            "live.Retriever(run_folder.load_run(path)) and save it elsewhere"
        )
    run = load_run(path, **overrides)
    file = path / LIVE / f"{int(run.state.step[0])}.npz"
    try:
        with file.open("rb") as content, np.load(content, allow_pickle=False) as saved:
            arrays = dict(saved)
        draws = _draws(identity, arrays)
        queue = [_told(arrays)] if len(arrays["queue_rewards"]) else []
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{file} cannot be read ({error}); restore a copy of it. Without it the policy is still there: "
            "run_folder.load_run(path); its open draws are not"
        ) from error
    return run, draws, queue


def _own(path: Path, run: Run, identity: str) -> None:
    """Make the folder, or see that it is this retriever's."""
    owner = _owner(path)
    if owner is None:
        RunFolder(path).open(run)
        (path / LIVE).mkdir(exist_ok=True)
        _write(path / LIVE / OWNER, json.dumps({"identity": identity}).encode())
    elif owner != identity:
        raise ConfigError(
            f"{path} already holds the retriever {owner}, and this one is {identity}; choose another folder, "
            "or go on from there with live.Retriever.load"
        )


def _owner(path: Path) -> str | None:
    file = path / LIVE / OWNER
    if not file.exists():
        return None
    try:
        return str(json.loads(file.read_text())["identity"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}); restore a copy of it") from None


def _arrays(run: Run, draws: OpenDraws, queue: list[ToldRows]) -> dict[str, np.ndarray]:
    waiting = list(draws.waiting.values())
    none = _no_rows(run)
    rows = join([none, *(ToldRows(draw.rows, *none[1:]) for draw in waiting)]).rows
    told = join([none, *queue])
    return {
        "serials": np.array(draws.serials),
        "serial": np.array([draw.serial for draw in waiting], np.int64),
        "seal": np.array([draw.seal for draw in waiting], "U8"),
        "size": np.array([len(draw.told) for draw in waiting], np.int64),
        "told": np.concatenate([np.zeros(0, bool), *(draw.told for draw in waiting)]),
        **{f"open_{name}": column for name, column in rows._asdict().items()},
        **{f"queue_{name}": column for name, column in told.rows._asdict().items()},
        "queue_ranking": told.ranking,
        "queue_rewards": told.rewards,
    }


def _no_rows(run: Run) -> ToldRows:
    """None, of the shapes of this run."""
    candidates, length = run.config.num_candidates, run.config.ranking_length
    ints, floats = (np.zeros((0, candidates), t) for t in (np.int32, np.float32))
    rows = Rows(ints[:, 0], ints, floats[:, 0], floats, ints[:, 0])
    return ToldRows(rows, ints[:, :length], floats[:, :length])


def _draws(identity: str, arrays: dict[str, np.ndarray]) -> OpenDraws:
    ends = np.cumsum(arrays["size"])
    waiting = {}
    for serial, seal, size, end in zip(
        arrays["serial"].tolist(), arrays["seal"].tolist(), arrays["size"], ends, strict=True
    ):
        rows = Rows(*(arrays[f"open_{name}"][end - size : end] for name in Rows._fields))
        waiting[serial] = OpenDraw(serial, seal, rows, arrays["told"][end - size : end].copy())
    return OpenDraws(identity, int(arrays["serials"]), waiting)


def _told(arrays: dict[str, np.ndarray]) -> ToldRows:
    rows = Rows(*(arrays[f"queue_{name}"] for name in Rows._fields))
    return ToldRows(rows, arrays["queue_ranking"], arrays["queue_rewards"])


def _write(file: Path, content: bytes) -> None:
    """A file whole or not at all."""
    partial = file.with_name(file.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, file)
