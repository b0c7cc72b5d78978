"""What the run folders of rows hold, as plain data, whether or not all of them are done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sweeps.files import read_json
from benchmarks.sweeps.run import VERSIONS, check_same, run_folder
from benchmarks.sweeps.trials import Row
from rankpg._utils.plots import mean_interval
from rankpg.config.train_config import TrainConfig
from rankpg.errors import ConfigError
from rankpg.runs.storage.load import METRICS, load_config
from rankpg.runs.storage.metrics_file import read_metrics

__all__ = ["collect", "finished", "mean_of", "read_report", "rows_before", "training_report"]

MARKS = (2_000, 20_000, 50_000, 500_000)
"""Steps whose means stand in a report beside the last one's."""


Body = dict[str, Any]
"""What a report holds of one row."""


def training_report(
    rows: Iterable[Row], out: Path, before: Mapping[str, Body] | None = None
) -> dict[str, Any]:
    """The rows that were begun, with their values, and the names of those that were not.

    Args:
      rows: of the report, in its order.
      out: where their run folders are.
      before: rows of an earlier report; see `rows_before`.
    """
    rows = list(rows)
    found = {row.name: collect(row, run_folder(out, row), before=before) for row in rows}
    return {
        "rows": {name: body for name, body in found.items() if body is not None},
        "not_begun": [name for name, body in found.items() if body is None],
        "unfinished": [
            row.name
            for row in rows
            if (body := found[row.name]) is not None and body["reached"] < row.config.num_steps
        ],
    }


def rows_before(
    rows: Iterable[Row], bodies: Mapping[str, Any], file: Path, measure: str = "policy_value"
) -> dict[str, Body]:
    """The rows that a report has: name -> body. All of them count, so a report is never written with fewer.

    So a report is enough to go on from, and run folders, which are large, need not be kept.

    Args:
      rows: that the report may have.
      bodies: what it has.
      file: where.
      measure: the metric that is the value.

    Raises:
      ConfigError: a row is damaged, is none of `rows`, or was run with other settings.
    """
    known = {row.name: row for row in rows}
    for name, body in bodies.items():
        if name not in known:
            raise ConfigError(
                f"{file} has {name}, which is no row of it now; choose another --out, or move that file away"
            )
        _check_whole(body, f"{file}: {name}", measure)
        try:
            found = TrainConfig.from_dict(body["config"])
        except ConfigError as error:
            raise ConfigError(
                f"{file}: {name} is of another version: {error}; choose another --out, or move that file away"
            ) from None
        check_same(file, found, known[name])
    return dict(bodies)


_NEEDED = {"config": dict, "reached": int, "at": dict, "steps": list, "stopped": list}
_KINDS = {dict: "an object", int: "a whole number", list: "a list"}
_INTERVAL = {"mean", "half_width_95", "seeds"}


def _check_whole(body: Any, where: str, measure: str) -> None:
    """Refuse a row of a report that lacks something, or has it in another form than `collect` wrote it."""
    away = "put a whole copy in its place, or move that file away"
    if not isinstance(body, dict):
        raise ConfigError(f"{where} is {body!r}; expected an object: {away}")
    needed = {**_NEEDED, measure: dict}
    missing = [name for name in (*needed, "versions") if name not in body]
    if missing:
        raise ConfigError(f"{where} lacks {', '.join(missing)}; {away}")
    for name, kind in needed.items():
        if type(body[name]) is not kind:
            raise ConfigError(
                f"{where} has {name} = {body[name]!r}; expected {_KINDS[kind]}: {away}"
            )
    means, curves, steps = body["at"], body[measure], body["steps"]
    if str(body["reached"]) not in means:
        raise ConfigError(f"{where} has no mean at step {body['reached']}, its last; {away}")
    whole = all(isinstance(mean, dict) and mean.keys() >= _INTERVAL for mean in means.values())
    if not whole or not all(
        isinstance(curve, list) and len(curve) == len(steps) for curve in curves.values()
    ):
        raise ConfigError(f"{where} has means or values of other steps than its own; {away}")


def finished(rows: Iterable[Row], before: Mapping[str, Body]) -> set[str]:
    """Names of the rows that were trained to their last step before."""
    return {
        row.name
        for row in rows
        if row.name in before and before[row.name]["reached"] >= row.config.num_steps
    }


def collect(
    row: Row,
    folder: Path,
    measure: str = "policy_value",
    before: Mapping[str, Body] | None = None,
) -> Body | None:
    """A row's config, values by seed and step, means with intervals, speed, and stopped seeds.

    Args:
      row: what was trained.
      folder: its run folder.
      measure: the metric that is the value.
      before: rows of an earlier report; one of them counts where the run folder has less.

    Returns:
      None where nothing was evaluated yet.

    Raises:
      ConfigError: the folder was run with other settings, or a file of it is damaged.
    """
    known = (before or {}).get(row.name)
    found = _read(row, folder, measure)
    if known is None or (found is not None and found["reached"] >= known["reached"]):
        return found
    return known | _headings(row)


def _headings(row: Row) -> Body:
    """What a row is called in the report at hand: tables share rows."""
    return {
        "labels": row.labels,
        "published": {str(step): value for step, value in row.published.items()},
    }


def _read(row: Row, folder: Path, measure: str) -> Body | None:
    """What a run folder holds of a row."""
    if not (folder / METRICS).exists():
        return None
    check_same(folder, load_config(folder), row)
    by_step: dict[int, dict[int, dict[str, Any]]] = {}
    for line in read_metrics(folder / METRICS):
        by_step.setdefault(line["step"], {})[line["seed"]] = line
    seeds = row.config.seeds
    steps = [step for step in sorted(by_step) if by_step[step].keys() >= set(seeds)]
    if not steps:
        return None
    last = by_step[steps[-1]]
    values = {seed: [by_step[step][seed][measure] for step in steps] for seed in seeds}
    speeds = [by_step[step][seeds[0]]["steps_per_second"] for step in steps]
    return _headings(row) | {
        "config": row.config.resolve().to_dict(),
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
    """A report as it was written; under `holds` it has what was measured, by name (`dict`) or as a `list`.

    Raises:
      ConfigError: it cannot be read, is another report, or is not whole.
    """
    report = read_json(file)
    found = report.get("table"), report.get("scale")
    if found != (name, scale):
        raise ConfigError(
            f"{file} is a report of {found[0]} at scale {found[1]}; expected {name} at scale {scale}. "
            "Choose another --out for another scale"
        )
    if not isinstance(report.get(holds), kind):
        raise ConfigError(f"{file} holds no {holds}; move it away, and it is written again")
    return report


def mean_of(values: Iterable[float | None]) -> dict[str, Any]:
    """Mean, 95 % interval and number of the values that are known."""
    finite = [value for value in values if value is not None]
    if not finite:
        return {"mean": None, "half_width_95": None, "seeds": 0}
    mean, half = mean_interval(finite)
    return {"mean": mean, "half_width_95": half, "seeds": len(finite)}


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def _short(value: float | None) -> float | None:
    """Float32 holds no more digits than these."""
    return None if value is None else float(f"{value:.7g}")


def _versions(folder: Path) -> dict[str, str] | None:
    file = folder / VERSIONS
    return read_json(file) if file.exists() else None
