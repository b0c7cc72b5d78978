"""Collects the results of a sweep from its run folders, complete or not, as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sweeps.files import read_json
from benchmarks.sweeps.run import VERSIONS, check_same, run_folder
from benchmarks.sweeps.trials import Trial
from rankpg._utils.plots import mean_interval
from rankpg.config.train_config import TrainConfig
from rankpg.errors import ConfigError
from rankpg.runs.storage.load import METRICS, load_config
from rankpg.runs.storage.metrics_file import read_metrics

__all__ = ["collect", "finished", "mean_of", "read_report", "training_report", "trials_before"]

MARKS = (2_000, 20_000, 50_000, 500_000)
"""Steps whose means a report holds, besides the last step."""


Body = dict[str, Any]
"""The entry of one trial in a report."""


def training_report(
    trials: Iterable[Trial], out: Path, before: Mapping[str, Body] | None = None
) -> dict[str, Any]:
    """Returns the results of all trials with data, and the names of those not begun or not finished.

    Args:
      trials: the trials of the report, in its order.
      out: folder of the run folders.
      before: entries of an earlier report; see `trials_before`.
    """
    trials = list(trials)
    found = {t.name: collect(t, run_folder(out, t), before=before) for t in trials}
    return {
        "rows": {name: body for name, body in found.items() if body is not None},
        "not_begun": [name for name, body in found.items() if body is None],
        "unfinished": [
            trial.name
            for trial in trials
            if (body := found[trial.name]) is not None and body["reached"] < trial.config.num_steps
        ],
    }


def trials_before(
    trials: Iterable[Trial], bodies: Mapping[str, Any], file: Path, measure: str = "policy_value"
) -> dict[str, Body]:
    """Returns the entries of an earlier report by trial name, after validation.

    A report is therefore enough to resume from: run folders, which are large, need not be kept. An invalid
    entry is an error, so a report is never rewritten with fewer entries than it had.

    Args:
      trials: the trials that the report may hold.
      bodies: its entries by name.
      file: file of the report, for messages.
      measure: the metric that is the trial's value.

    Raises:
      ConfigError: an entry is damaged, is not one of `trials`, or was run with other settings.
    """
    known = {trial.name: trial for trial in trials}
    for name, body in bodies.items():
        if name not in known:
            raise ConfigError(
                f"{file} has {name}, which is not one of its trials now; give another out=, or move that "
                "file away"
            )
        _check_whole(body, f"{file}: {name}", measure)
        try:
            found = TrainConfig.from_dict(body["config"])
        except ConfigError as error:
            raise ConfigError(
                f"{file}: {name} was written by another version: {error}; give another out=, or move that "
                "file away"
            ) from None
        check_same(file, found, known[name])
    return dict(bodies)


_NEEDED = {"config": dict, "reached": int, "at": dict, "steps": list, "stopped": list}
_KINDS = {dict: "an object", int: "a whole number", list: "a list"}
_INTERVAL = {"mean", "half_width_95", "seeds"}


def _check_whole(body: Any, where: str, measure: str) -> None:
    """Rejects a report entry that does not have the form that `collect` writes."""
    away = "replace the file by an intact copy, or move it away"
    if not isinstance(body, dict):
        raise ConfigError(f"{where} is {body!r}; expected an object; {away}")
    needed = {**_NEEDED, measure: dict}
    missing = [name for name in (*needed, "versions") if name not in body]
    if missing:
        raise ConfigError(f"{where} lacks {', '.join(missing)}; {away}")
    for name, kind in needed.items():
        if type(body[name]) is not kind:
            raise ConfigError(f"{where} has {name}={body[name]!r}; expected {_KINDS[kind]}; {away}")
    means, curves, steps = body["at"], body[measure], body["steps"]
    if str(body["reached"]) not in means:
        raise ConfigError(f"{where} has no mean at its last step, {body['reached']}; {away}")
    whole = all(isinstance(mean, dict) and mean.keys() >= _INTERVAL for mean in means.values())
    if not whole or not all(
        isinstance(curve, list) and len(curve) == len(steps) for curve in curves.values()
    ):
        raise ConfigError(f"{where} has means or values at steps that it does not list; {away}")


def finished(trials: Iterable[Trial], before: Mapping[str, Body]) -> set[str]:
    """Returns the names of the trials that an earlier report holds up to their last step."""
    return {
        trial.name
        for trial in trials
        if trial.name in before and before[trial.name]["reached"] >= trial.config.num_steps
    }


def collect(
    trial: Trial,
    folder: Path,
    measure: str = "policy_value",
    before: Mapping[str, Body] | None = None,
) -> Body | None:
    """Returns a trial's config, values by seed and step, means with intervals, speed, and stopped seeds.

    Args:
      trial: the trial.
      folder: its run folder.
      measure: the metric that is the trial's value.
      before: entries of an earlier report; used where the run folder has fewer steps.

    Returns:
      The entry of the trial; None if nothing was evaluated yet.

    Raises:
      ConfigError: the folder was run with other settings, or one of its files is damaged.
    """
    known = (before or {}).get(trial.name)
    found = _read(trial, folder, measure)
    if known is None or (found is not None and found["reached"] >= known["reached"]):
        return found
    return known | _headings(trial)


def _headings(trial: Trial) -> Body:
    """Labels and published values of a trial in the current report; tables share trials."""
    return {
        "labels": trial.labels,
        "published": {str(step): value for step, value in trial.published.items()},
    }


def _read(trial: Trial, folder: Path, measure: str) -> Body | None:
    """Reads a trial's results from its run folder; None if there are none."""
    if not (folder / METRICS).exists():
        return None
    check_same(folder, load_config(folder), trial)
    by_step: dict[int, dict[int, dict[str, Any]]] = {}
    for line in read_metrics(folder / METRICS):
        by_step.setdefault(line["step"], {})[line["seed"]] = line
    seeds = trial.config.seeds
    steps = [step for step in sorted(by_step) if by_step[step].keys() >= set(seeds)]
    if not steps:
        return None
    last = by_step[steps[-1]]
    values = {seed: [by_step[step][seed][measure] for step in steps] for seed in seeds}
    speeds = [by_step[step][seeds[0]]["steps_per_second"] for step in steps]
    return _headings(trial) | {
        "config": trial.config.resolve().to_dict(),
        "reached": steps[-1],
        "at": {
            str(step): mean_of(values[seed][steps.index(step)] for seed in seeds)
            for step in sorted({*MARKS, steps[-1]} & set(steps))
        },
        "optimum": last[seeds[0]].get("optimum"),
        "steps_per_second": _median(speeds),
        "stopped": [
            {"seed": seed, "step": last[seed]["stopped_at_step"], "by": last[seed]["stopped_by"]}
            for seed in seeds
            if last[seed].get("stopped_at_step") is not None
        ],
        "steps": steps,
        measure: {str(seed): [_short(v) for v in values[seed]] for seed in seeds},
        "versions": _versions(folder),
    }


def read_report(file: Path, name: str, scale: str, holds: str, kind: type = dict) -> dict[str, Any]:
    """Reads a report.

    Args:
      file: its JSON file.
      name: the expected table or figure.
      scale: the expected scale.
      holds: key of the measurements.
      kind: their type: `dict` (by name) or `list`.

    Raises:
      ConfigError: the file cannot be read, is another report, or is incomplete.
    """
    report = read_json(file)
    found = report.get("table"), report.get("scale")
    if found != (name, scale):
        raise ConfigError(
            f"{file} is a report of {found[0]} at scale {found[1]}; expected {name} at scale {scale}. "
            "Give another out= for another scale"
        )
    if not isinstance(report.get(holds), kind):
        raise ConfigError(f"{file} holds no {holds}; move it away, and it will be written again")
    return report


def mean_of(values: Iterable[float | None]) -> dict[str, Any]:
    """Mean, 95 % interval and number of the values that are not None."""
    finite = [value for value in values if value is not None]
    if not finite:
        return {"mean": None, "half_width_95": None, "seeds": 0}
    mean, half = mean_interval(finite)
    return {"mean": mean, "half_width_95": half, "seeds": len(finite)}


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def _short(value: float | None) -> float | None:
    """Rounds to seven digits, the precision of float32."""
    return None if value is None else float(f"{value:.7g}")


def _versions(folder: Path) -> dict[str, str] | None:
    file = folder / VERSIONS
    return read_json(file) if file.exists() else None
