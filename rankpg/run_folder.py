"""The folder of a run: what training writes there, and reading it back.

config.yaml          the settings, resolved
metrics.jsonl        one object per evaluation and seed
learning_curve.png   policy value against steps
checkpoint/          the state of all seeds at the last evaluation
data.json            where rewards came from a table: the sums that tell its ids and its numbers
RUN.md               the run card: what was run, with what, and how it ended
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rankpg import checkpoint
from rankpg.config import ConfigError, TrainConfig
from rankpg.plots import learning_curves
from rankpg.processes import is_writer
from rankpg.run import Progress, Run, prepare
from rankpg.summary import mean_interval

__all__ = ["RunFolder", "load_config", "load_run", "read_metrics", "versions"]

CONFIG, METRICS, CURVE, CHECKPOINT, DATA, CARD = (
    "config.yaml",
    "metrics.jsonl",
    "learning_curve.png",
    "checkpoint",
    "data.json",
    "RUN.md",
)
_MAY_CHANGE = ("num_steps", "eval_every", "eval_contexts", "mesh")
"""Settings that a resumed run may have otherwise than the run it continues."""

_SAME_DRAW = {"streamed", "sharded"}
"""Retrievals that may take each other's place."""


class RunFolder:
    """Writes a run as it goes: `open` or `resume` it, `follow` the training, `close` it.

    Of several processes that train one run all call it, and one writes.

    >>> import tempfile
    >>> from rankpg.run import training_loop
    >>> config = TrainConfig(num_candidates=2, num_items=9, num_contexts=4, num_steps=2, seeds=(0,))
    >>> folder, run = RunFolder(tempfile.mkdtemp()), prepare(config)
    >>> folder.open(run)
    >>> for progress in training_loop(run):
    ...     folder.follow(run, progress)
    >>> load_run(folder.path).step
    2
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)

    def check_free(self) -> None:
        """Refuse a folder that holds a run already, or is none: ConfigError."""
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"--out {self.path} is a file; expected the name of a folder")
        held = [name for name in (METRICS, CHECKPOINT) if (self.path / name).exists()]
        if held:
            raise ConfigError(
                f"--out {self.path} already holds a run ({', '.join(held)}); "
                "continue it with --resume, or choose another folder"
            )

    def open(self, run: Run) -> None:
        """Make the folder and write the settings.

        Raises:
          ConfigError: the folder holds a run already, or cannot be made.
        """
        self.check_free()
        if not is_writer():
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._write_config(run.config)
            if run.dataset is not None:
                _replace(self.path / DATA, json.dumps(run.dataset.sums(), indent=1) + "\n")
        except OSError as error:
            raise ConfigError(
                f"--out {self.path} is no folder that can be written: {error}"
            ) from error

    def resume(self, run: Run) -> None:
        """Bring a prepared run to the state this folder holds.

        Raises:
          ConfigError: no run is here, it was run with other settings, or it is finished.
          CheckpointError: its checkpoint is missing, damaged, or of another config.
        """
        saved = load_config(self.path)
        for name, now in run.config.to_dict().items():
            before = saved.to_dict()[name]
            same_draw = name == "retrieval" and {before, now} <= _SAME_DRAW
            if name not in _MAY_CHANGE and before != now and not same_draw:
                raise ConfigError(
                    f"--resume: {self.path} was run with {name} = {before}, and now it is {now}; only "
                    f"{', '.join(_MAY_CHANGE)} may change. Choose another --out for other settings"
                )
        _load_state(run, self.path)
        if run.step >= run.config.num_steps:
            raise ConfigError(
                f"--resume: {self.path} is already at step {run.step}; "
                f"ask for more with --num-steps above {run.step}"
            )
        if not is_writer():
            return
        self._write_config(run.config)
        _replace(self.path / METRICS, "".join(_line(row) for row in run.metrics))

    def follow(self, run: Run, progress: Progress) -> None:
        """After an evaluation: append its rows and save the state, so that nothing computed is lost.

        Parameters that are not finite (only those of a large model that was stepped in place ever are) do
        not take the place of the last ones that were.
        """
        if progress.phase != "evaluate":
            return
        state = run.state_of_hosts()
        if not is_writer():
            return
        with checkpoint.uninterrupted():
            # Metrics first: rows beyond the checkpoint are dropped on loading, missing ones are lost.
            with (self.path / METRICS).open("a") as file:
                file.writelines(_line(row) for row in progress.rows)
            if all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params)):
                checkpoint.save(self.path / CHECKPOINT, progress.step, state)

    def close(self, run: Run) -> str | None:
        """Draw the learning curve and write the run card; answers what could not be drawn, and why."""
        problem = None
        if not is_writer():
            return problem
        try:
            learning_curves({run.config.estimator: run.metrics}, self.path / CURVE)
        except ModuleNotFoundError as error:
            problem = f"no {CURVE}: {error}"
        _replace(self.path / CARD, _card(run))
        return problem

    def _write_config(self, config: TrainConfig) -> None:
        text = _yaml().safe_dump(config.to_dict(), sort_keys=False)
        _replace(self.path / CONFIG, text)


def load_config(path: Path | str) -> TrainConfig:
    """The settings of a run folder, or of a YAML file.

    Raises:
      ConfigError: it is missing, no YAML mapping, or holds an unknown or impossible setting.
    """
    file = Path(path) / CONFIG if Path(path).is_dir() else Path(path)
    return TrainConfig.from_dict(load_settings(file), source=str(file))


def load_settings(file: Path) -> dict[str, Any]:
    """A YAML mapping, safely loaded."""
    yaml = _yaml()
    try:
        settings = yaml.safe_load(file.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{file} does not exist: no run or settings file is there") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ConfigError(f"{file} is nested too deeply; expected settings and values") from None
    if settings is None:
        return {}
    if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
        raise ConfigError(
            f"{file} must be a mapping of settings to values, such as num_steps: 2000"
        )
    return settings


def load_run(path: Path | str, **overrides: Any) -> Run:
    """A run as its folder holds it, ready for `candidates`, evaluation, or more training.

    Args:
      path: the run folder.
      **overrides: `environment` and stations that were your own, as for `train`.

    Raises:
      ConfigError, CheckpointError: as `RunFolder.resume`.
    """
    run = prepare(load_config(path), **overrides)
    _load_state(run, Path(path))
    return run


def _check_data(run: Run, path: Path) -> None:
    """Refuse a table other than the one that was trained on: its rows would stand for other ids."""
    file = path / DATA
    if run.dataset is None or not file.exists():
        return
    try:
        saved = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    for name, now in run.dataset.sums().items():
        if not isinstance(saved, dict) or saved.get(name) != now:
            raise ConfigError(
                f"{path} was trained on other data: {name.replace('_', ' ')} of {run.config.path or 'yours'} "
                "are not what they were. Bring the table back, or train again into another --out"
            )


def _load_state(run: Run, path: Path) -> None:
    _check_data(run, path)
    place = run.pipeline.placement
    step, state = checkpoint.restore(path / CHECKPOINT, place.shapes(run.state))
    run.state = place.place(state)
    # Rows beyond the checkpoint belong to an evaluation whose state was not saved.
    run.metrics = [row for row in read_metrics(path / METRICS) if row["step"] <= step]
    found = {row["seed"] for row in run.metrics if row["step"] == step}
    if found != set(run.config.seeds):
        raise ConfigError(
            f"{path / METRICS} lacks rows of step {step}, which the checkpoint holds: was it edited? "
            "Train again into another --out"
        )


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file; a last line that was cut off is left out."""
    rows = []
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except RecursionError:
            raise ConfigError(f"{file}, line {number} is nested too deeply") from None
        except json.JSONDecodeError as error:
            if number == len(lines):  # the run was cut off while it wrote its last line
                break
            raise ConfigError(f"{file}, line {number} is not JSON: {error}") from None
        if not isinstance(row, dict) or not _is_row(row):
            raise ConfigError(
                f"{file}, line {number} is no row of metrics: step, seed or policy_value is missing or no "
                "number; restore that line, or train again into another --out"
            )
        rows.append(row)
    return rows


def _is_row(row: dict[str, Any]) -> bool:
    whole = all(type(row.get(name)) is int for name in ("step", "seed"))
    others = [value for name, value in row.items() if name != "stopped_by"]
    numbers = all(value is None or type(value) in (int, float) for value in others)
    return whole and numbers and "policy_value" in row


def versions() -> dict[str, str]:
    """The versions and the hardware that a figure depends on."""
    import rankpg

    names = ("jax", "jaxlib", "flax", "optax", "numpy")
    found = {"python": platform.python_version(), "rankpg": rankpg.__version__}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    device = jax.devices()[0]
    found["device"] = f"{jax.device_count()} x {device.device_kind} ({device.platform})"
    found["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"
    return found


def _card(run: Run) -> str:
    """The run card, in Markdown."""
    last = [row for row in run.metrics if row["step"] == run.step]
    lines = [f"# {run.config.estimator}, step {run.step}", ""]
    for name in ("policy_value", "share_of_optimum", "candidate_recall", "steps_per_second"):
        values = [row[name] for row in last if row.get(name) is not None]
        if values:
            mean, half = mean_interval(values)
            interval = "" if half is None else f" +- {half:.4g}"
            lines.append(f"- {name}: {mean:.5g}{interval} (mean of {len(values)} seeds, 95 %)")
    lines += [f"- {sentence}" for sentence in run.stopped()]
    settings = dataclasses.asdict(run.config)
    lines += ["", "## Settings", "", *(f"- {k}: {v}" for k, v in settings.items())]
    lines += ["", "## Versions", "", *(f"- {k}: {v}" for k, v in versions().items())]
    judged = (
        f"on {run.config.held_out_contexts} contexts that training never drew; it says nothing about items "
        if run.config.held_out_contexts
        else "on contexts that training drew from as well; it says nothing about contexts or items "
    )
    limits = (
        "The value is the mean reward under this run's environment and late stage, evaluated "
        f"{judged}that were not there."
    )
    return "\n".join([*lines, "", "## Limits", "", limits, ""])


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, allow_nan=False) + "\n"


def _replace(file: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = file.with_name(file.name + ".partial")
    partial.write_text(text)
    os.replace(partial, file)


def _yaml() -> Any:
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "settings files need PyYAML: pip install 'rankpg[cli]'"
        ) from error
    return yaml
