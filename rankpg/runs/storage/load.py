"""Loads a run from its folder, and checks that its files belong together."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from rankpg._utils.documents import DocumentError, parse_yaml, read_json
from rankpg._utils.paths import expanded
from rankpg.config.renamed import with_current_names
from rankpg.config.train_config import TrainConfig
from rankpg.environments.dataset import Dataset
from rankpg.errors import ConfigError, argument
from rankpg.evaluation.metrics import MetricAccumulator
from rankpg.rerankers import uniform
from rankpg.retrieval.choice import SAME_DRAW
from rankpg.runs.best import best_step
from rankpg.runs.run import Run, prepare
from rankpg.runs.storage import checkpoint
from rankpg.runs.storage import dataset_file as saved_data
from rankpg.runs.storage.checkpoint import CheckpointError, Saved
from rankpg.runs.storage.contents import (
    ARRAYS,
    CHECKPOINT,
    CONFIG,
    DATA,
    METRICS,
    ONLINE,
    OWNER,
    RERANKER,
    SAVED,
    check_links,
)
from rankpg.runs.storage.metrics_file import read_metrics
from rankpg.runs.storage.places import PATHS, has_data, relocated

__all__ = [
    "check_data",
    "difference",
    "load_config",
    "load_run",
    "load_run_settings",
    "load_settings",
    "load_state",
    "saved_components",
]

MAY_CHANGE = ("num_steps", "num_epochs", "eval_every", "eval_contexts", "patience", "mesh")
"""Settings that may change when a run is resumed."""


def load_config(path: Path | str) -> TrainConfig:
    """Returns the config of a run folder or of a YAML file.

    A run folder may be of an earlier version, whose settings had other names; a YAML file may not.

    Raises:
      ConfigError: the file is missing, not a YAML mapping, or has an unknown or impossible setting.
    """
    file = expanded(path)
    if file.is_dir():
        file, settings = load_run_settings(file)
    else:
        settings = load_settings(file)
    try:
        return TrainConfig.from_dict(settings, source=str(file))
    except ConfigError as error:
        where = "" if str(file) in str(error) else f"{file}: "
        writer = checkpoint.writer_of(file.parent / CHECKPOINT)
        raise ConfigError(f"{where}{error}{writer}") from None


def load_run_settings(path: Path) -> tuple[Path, dict[str, Any]]:
    """Returns the settings file of a run folder, and its settings under their current names.

    Files that have moved together with the folder are named at their new places.

    Raises:
      ConfigError: the file is missing or not a YAML mapping, or a file of the run is a link.
    """
    check_links(path)
    file = path / CONFIG
    return file, relocated(path, with_current_names(load_settings(file)))


def load_settings(file: Path) -> dict[str, Any]:
    """Returns the mapping of a YAML file, which is loaded without running any code.

    Raises:
      ConfigError: the file is missing or not a YAML mapping.
    """
    yaml = yaml_module()
    try:
        settings = parse_yaml(file, yaml)
    except FileNotFoundError:
        raise ConfigError(
            f"{file} does not exist; expected a run folder or a settings file"
        ) from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    except DocumentError as error:
        raise ConfigError(str(error)) from None
    if settings is None:
        return {}
    if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
        raise ConfigError(
            f"{file} must be a mapping of settings to values, such as 'num_steps: 2000'"
        )
    return settings


def load_run(
    path: Path | str,
    *,
    step: int | str | None = None,
    data_path: Path | str | None = None,
    **overrides: Any,
) -> Run:
    """Loads a run from its folder, for `candidates`, evaluation, or more training.

    A folder does not hold rewards. Without its data, which is `environment` where it was in memory, or else
    the table or folder of `data_path`, a run returns `candidates`, but cannot be evaluated or trained. It
    holds interactions, so that a run on them can do all of it, and never shows an item that a user has seen.

    Args:
      path: the run folder.
      step: number of updates of the checkpoint, or "best" for the one of `Run.best_step`; if None, the best
        one of a run with patience, and the newest of another run.
      data_path: present place of the table or folder of data, if it has moved; its checksums must be those of
        the run.
      **overrides: `environment` and components that were passed to `train`.

    Raises:
      ConfigError, CheckpointError: as `RunFolder.resume`.
    """
    path = expanded(path)
    config, saved = load_config(path), path / SAVED
    if data_path is not None:
        config = dataclasses.replace(config, path=str(data_path))
    if "reranker" not in overrides:
        overrides = overrides | saved_components(path)
    arrays_suffice = config.environment == "interactions" and data_path is None
    in_folder = config.path is None or (
        (saved / ARRAYS).exists()
        and (arrays_suffice or (data_path is None and not has_data(config)))
    )
    if "environment" not in overrides and in_folder and saved.exists():
        run = _prepare_saved(config, saved_data.load(saved), overrides)
    else:
        run = prepare(config, restored=True, **overrides)
    load_state(run, path, _default_step(config, path) if step is None else step)
    return run


def saved_components(path: Path) -> dict[str, Any]:
    """Returns the components that a run folder holds, by the names of `prepare`: a fitted re-ranker.

    Raises:
      ConfigError: the re-ranker is damaged, or LightGBM is not installed.
    """
    if not (path / RERANKER).exists():
        return {}
    from rankpg.training.lambdamart import load_fitted  # needs SciPy

    return {"reranker": load_fitted(path)}


def _prepare_saved(config: TrainConfig, data: Dataset, overrides: dict[str, Any]) -> Run:
    """Returns a run with the saved dataset; if that has no rewards, without components that need them."""
    if data.environment.knows_rewards:
        return prepare(config, data, restored=True, **overrides)
    components = {"reranker": uniform(config.ranking_length)} | overrides
    config_without_rewards = dataclasses.replace(config, adaptive_learning_rate=False)
    run = prepare(config_without_rewards, data, restored=True, **components)
    return dataclasses.replace(run, config=config.resolve())


def _default_step(config: TrainConfig, path: Path) -> int | None:
    """Returns the step of the best checkpoint of a run with patience, if it was kept; None for the newest."""
    if config.patience is None or (path / ONLINE / OWNER).exists():
        return None
    best = best_step(read_metrics(path / METRICS))
    return best if best in checkpoint.saved_steps(path / CHECKPOINT) else None


def check_data(run: Run, path: Path) -> None:
    """Rejects a dataset other than the one that the run was trained on.

    Raises:
      ConfigError: names what differs.
    """
    file = path / DATA
    if not file.exists():
        return
    try:
        saved = read_json(file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    if run.dataset.ids_are_rows:
        if saved == {"environment": type(run.environment).__name__}:
            return
        raise ConfigError(
            f"{path} was trained on an environment that was passed in Python, and the folder does not hold "
            "its rewards. Load it with load_run(path, environment=environment); to train on, "
            "RunFolder(path).resume(prepare(config, environment))"
        )
    checksums = run.dataset.fingerprint()
    if not run.environment.knows_rewards:  # from the folder, which has no rewards
        del checksums["numbers"]
    if run.fitted is not None:  # computed from the saved re-ranker; digits depend on the machine
        del checksums["scores"]
    for name, now in checksums.items():
        if not isinstance(saved, dict) or saved.get(name) != now:
            raise ConfigError(
                f"{path} was trained on other data: the checksum of {name.replace('_', ' ')} of "
                f"{run.config.path or 'the dataset'} has changed; pass the original data, or train into "
                "another out="
            )


def load_state(run: Run, path: Path, step: int | str | None = None) -> None:
    """Loads a checkpoint's state and the metrics up to it into a prepared run.

    Args:
      run: to be changed in place.
      path: the run folder.
      step: as for `load_run`.

    Raises:
      ConfigError: another dataset, or metrics that do not reach the checkpoint.
      CheckpointError: a checkpoint that is missing, damaged, or of another config.
    """
    check_data(run, path)
    checkpoint.latest_step(path / CHECKPOINT)
    rows = read_metrics(path / METRICS)
    saved = checkpoint.find(path / CHECKPOINT, _chosen(path, rows, step))
    before = with_current_names(saved.metadata.get("config", {}))
    changed = difference(before, run.config.to_dict(), path)
    if changed:
        raise CheckpointError(
            f"the checkpoint {saved.path} is of another config: {changed[0]} is {changed[1]} there, and "
            f"{changed[2]} here; was it copied from another run?"
        )
    sharding = run.policy.retrieval.sharding
    run.accumulator = _accumulator(saved)
    run.state = sharding.put(saved.state(sharding.gathered_shapes(run.state)))
    # Rows beyond the checkpoint belong to an evaluation whose state was not saved.
    evaluated = saved.step - run.accumulator.steps
    run.metrics = [row for row in rows if row["step"] <= evaluated]
    found = {row["seed"] for row in run.metrics if row["step"] == evaluated}
    if found != set(run.config.seeds):
        raise ConfigError(
            f"{path / METRICS} lacks rows of step {evaluated}, which the checkpoint has; restore them, or "
            f"move {path} away and train again"
        )


def _chosen(path: Path, rows: list[dict[str, Any]], step: int | str | None) -> int | None:
    """Returns the step to load; None for the newest."""
    if step is None or isinstance(step, int):
        return step
    if step != "best":
        raise ConfigError(f"{argument('step', step)}; expected a number or 'best'")
    kept = checkpoint.saved_steps(path / CHECKPOINT)
    best, best_kept = best_step(rows), best_step(row for row in rows if row["step"] in kept)
    if best != best_kept:
        raise CheckpointError(
            f"the best evaluation of {path} was at step {best}, whose checkpoint was not kept "
            f"(keep_best=True keeps it); the best one that was kept is step={best_kept}"
        )
    return best


def _accumulator(saved: Saved) -> MetricAccumulator:
    """Returns the running means of a checkpoint, under their current or former name."""
    metadata = saved.metadata
    running = metadata.get("accumulator", metadata.get("stretch"))
    if running is None:
        return MetricAccumulator()
    try:
        return MetricAccumulator.from_json(running)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"the metadata of {saved.path} cannot be read ({error}); restore a copy of it"
        ) from None


def difference(
    before: dict[str, Any], now: dict[str, Any], path: Path
) -> tuple[str, Any, Any] | None:
    """Returns the first setting that differs and may not, with both values; None if there is none.

    Files may be elsewhere where the folder has checksums of the data, which `check_data` compares.
    """
    may_change = {*MAY_CHANGE, *(PATHS if (path / DATA).exists() else ())}
    for name in [name for name in before if name in now]:
        then, this = before[name], now[name]
        moved = name in PATHS and (then is None) != (this is None)
        same_draw = name == "retrieval" and {then, this} <= SAME_DRAW
        if (name not in may_change or moved) and then != this and not same_draw:
            return name, then, this
    return None


def yaml_module() -> Any:
    """Returns PyYAML.

    Raises:
      ModuleNotFoundError: it is missing; the message names the extra.
    """
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "settings files need PyYAML: pip install 'rankpg[cli]'"
        ) from error
    return yaml
