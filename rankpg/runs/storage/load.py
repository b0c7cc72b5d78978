"""Reading a run back from its folder, and refusing what does not belong to it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from rankpg.config.train_config import TrainConfig
from rankpg.errors import ConfigError
from rankpg.rerankers import uniform
from rankpg.runs.run import MetricAccumulator, Run, prepare
from rankpg.runs.storage import checkpoint
from rankpg.runs.storage import dataset_file as saved_data
from rankpg.runs.storage.checkpoint import CheckpointError, Saved
from rankpg.runs.storage.metrics_file import best_step, read_metrics

__all__ = ["difference", "load_config", "load_run", "load_settings", "load_state"]

CONFIG, METRICS, CHECKPOINT = "config.yaml", "metrics.jsonl", "checkpoint"
DATA, SAVED = "data.json", "data"

MAY_CHANGE = ("num_steps", "eval_every", "eval_contexts", "mesh")
"""Settings that a resumed run may have otherwise than the run it continues."""

LIVE, OWNER = "live", "retriever.json"
"""Where a live retriever keeps its open draws, and the file that says whose they are."""

_SAME_DRAW = {"streamed", "sharded"}
"""Retrievals that may take each other's place."""


def load_config(path: Path | str) -> TrainConfig:
    """The settings of a run folder, or of a YAML file.

    Raises:
      ConfigError: it is missing, no YAML mapping, or holds an unknown or impossible setting.
    """
    file = Path(path) / CONFIG if Path(path).is_dir() else Path(path)
    settings = load_settings(file)
    try:
        return TrainConfig.from_dict(settings, source=str(file))
    except ConfigError as error:
        where = "" if str(file) in str(error) else f"{file}: "
        writer = checkpoint.writer_of(file.parent / CHECKPOINT)
        raise ConfigError(f"{where}{error}{writer}") from None


def load_settings(file: Path) -> dict[str, Any]:
    """A YAML mapping, safely loaded."""
    yaml = yaml_module()
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


def load_run(path: Path | str, *, step: int | str | None = None, **overrides: Any) -> Run:
    """A run as its folder holds it, ready for `candidates`, evaluation, or more training.

    Of rewards that were in memory the folder keeps ids, features and eligibility: without `environment` the
    run then answers `candidates`, and has no rewards to be evaluated or trained on.

    Args:
      path: the run folder.
      step: of the checkpoint, or "best": the one of the largest policy value; the newest if None.
      **overrides: `environment` and components that were your own, as for `train`.

    Raises:
      ConfigError, CheckpointError: as `RunFolder.resume`.
    """
    config, saved = load_config(path), Path(path) / SAVED
    if "environment" not in overrides and config.path is None and saved.exists():
        run = _prepare_to_answer(config, saved, overrides)
    else:
        run = prepare(config, **overrides)
    load_state(run, Path(path), step)
    return run


def _prepare_to_answer(config: TrainConfig, saved: Path, overrides: dict[str, Any]) -> Run:
    """A run without rewards: whatever would look at them stays out of it."""
    components = {"reranker": uniform(config.ranking_length)} | overrides
    blind = dataclasses.replace(config, adaptive_learning_rate=False)
    run = prepare(blind, saved_data.load(saved), **components)
    return dataclasses.replace(run, config=config.resolve())


def _check_data(run: Run, path: Path) -> None:
    """Refuse a table other than the one that was trained on: its rows would stand for other ids."""
    file = path / DATA
    if not file.exists():
        return
    try:
        saved = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    if run.dataset.ids_are_rows:
        if saved == {"environment": type(run.environment).__name__}:
            return
        raise ConfigError(
            f"{path} was trained on an environment that was handed over in Python, and the folder does not "
            "hold its rewards. Go on in Python: run = run.prepare(config, environment), then "
            "RunFolder(path).resume(run); to look at it, load_run(path, environment=environment)"
        )
    checksums = run.dataset.fingerprint()
    if not run.environment.knows_rewards:  # from the folder: it holds no numbers
        del checksums["numbers"]
    for name, now in checksums.items():
        if not isinstance(saved, dict) or saved.get(name) != now:
            raise ConfigError(
                f"{path} was trained on other data: {name.replace('_', ' ')} of {run.config.path or 'yours'} "
                "are not what they were. Bring the table back, or train again into another --out"
            )


def load_state(run: Run, path: Path, step: int | str | None = None) -> None:
    _check_data(run, path)
    rows = read_metrics(path / METRICS)
    saved = checkpoint.find(path / CHECKPOINT, _chosen(path, rows, step))
    changed = difference(saved.notes.get("config", {}), run.config.to_dict())
    if changed:
        raise CheckpointError(
            f"the checkpoint {saved.path} is of another config: {changed[0]} is {changed[1]} there, and "
            f"{changed[2]} here; was it copied from another run?"
        )
    sharding = run.policy.retrieval.sharding
    run.accumulator = _stretch(saved)
    run.state = sharding.put(saved.state(sharding.gathered_shapes(run.state)))
    # Rows beyond the checkpoint belong to an evaluation whose state was not saved.
    evaluated = saved.step - run.accumulator.steps
    run.metrics = [row for row in rows if row["step"] <= evaluated]
    found = {row["seed"] for row in run.metrics if row["step"] == evaluated}
    if found != set(run.config.seeds):
        raise ConfigError(
            f"{path / METRICS} lacks rows of step {evaluated}, which the checkpoint holds: was it edited? "
            f"Restore them, or move {path} away and train again"
        )


def _chosen(path: Path, rows: list[dict[str, Any]], step: int | str | None) -> int | None:
    """The step that is asked for."""
    if step is None or isinstance(step, int):
        return step
    if step != "best":
        raise ConfigError(f"--step is {step!r}; expected a number or best")
    kept = checkpoint.saved_steps(path / CHECKPOINT)
    best, best_kept = best_step(rows), best_step(row for row in rows if row["step"] in kept)
    if best != best_kept:
        raise CheckpointError(
            f"the best evaluation of {path} was at step {best}, whose checkpoint was not kept (--keep-best); "
            f"the best of those that were is --step {best_kept}"
        )
    return best


def _stretch(saved: Saved) -> MetricAccumulator:
    if "accumulator" not in saved.notes:
        return MetricAccumulator()
    try:
        return MetricAccumulator.from_json(saved.notes["accumulator"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"the notes of {saved.path} cannot be read ({error}); restore a copy of it"
        ) from None


def difference(before: dict[str, Any], now: dict[str, Any]) -> tuple[str, Any, Any] | None:
    """The first setting that has changed and may not, with what it was and what it is."""
    for name in [name for name in before if name in now]:
        then, this = before[name], now[name]
        same_draw = name == "retrieval" and {then, this} <= _SAME_DRAW
        if name not in MAY_CHANGE and then != this and not same_draw:
            return name, then, this
    return None


def yaml_module() -> Any:
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "settings files need PyYAML: pip install 'rankpg[cli]'"
        ) from error
    return yaml
