"""Reads runs for the report: settings and metrics from their folders, measurements where possible."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jax.errors import JaxRuntimeError

from rankpg._utils.documents import kind_in_words, printable
from rankpg._version import versions
from rankpg.errors import ConfigError
from rankpg.evaluation.fairness import MEASURES
from rankpg.report.groups import group_of_items
from rankpg.report.measure import (
    measure_calibration,
    measure_exposure,
    project_items,
    rank_items,
)
from rankpg.report.records import (
    MOST_GROUPS,
    Calibration,
    Exposure,
    GroupFairness,
    ItemMap,
    ReportedRun,
)
from rankpg.runs.run import Run
from rankpg.runs.storage.card import CARD
from rankpg.runs.storage.load import METRICS, load_config, load_run
from rankpg.runs.storage.metrics_file import read_metrics

__all__ = ["READING_ERRORS", "measure", "read_run", "reason", "short_names"]

READING_ERRORS = (
    ValueError, TypeError, KeyError, OSError, ImportError, MemoryError, ArithmeticError, RecursionError,
    AttributeError, IndexError, JaxRuntimeError,
)  # fmt: skip
"""Errors of a run or a measurement that the page reports instead of failing."""


def read_run(source: Path | Run, name: str, index: int) -> tuple[ReportedRun, Callable[[], Run]]:
    """Reads settings and metrics of a run, and returns them with a function that loads its state.

    Raises:
      ConfigError: settings or metrics cannot be read.
    """
    if isinstance(source, Run):
        if not source.metrics:
            raise ConfigError(f"{name} has no evaluation; train it first")
        reported = ReportedRun(name, "in memory", index, source.config, source.metrics, versions())
        return reported, lambda: source
    config = load_config(source).resolve()
    metrics = read_metrics(source / METRICS)
    if not metrics:
        raise ConfigError(f"{source / METRICS} is empty; the run has no evaluation yet")
    reported = ReportedRun(name, str(source), index, config, metrics, _card_versions(source / CARD))
    return reported, lambda: load_run(source)


def _card_versions(card: Path) -> dict[str, str]:
    """Returns the versions in a run card; empty without a card."""
    try:
        text = card.read_text()
    except (OSError, UnicodeDecodeError):
        return {}
    _, _, section = text.partition("\n## Versions\n")
    lines = [line[2:].partition(": ") for line in section.split("\n## ")[0].splitlines()]
    return {name: value for name, separator, value in lines if separator}


def short_names(sources: Sequence[Path | Run]) -> list[str]:
    """Returns a short, unique name for each run: the shortest distinct suffix of its path.

    >>> short_names([Path("runs/a/first"), Path("runs/b/first"), Path("runs/second")])
    ['a/first', 'b/first', 'runs/second']
    """
    paths = [source.resolve().parts for source in sources if isinstance(source, Path)]
    depth = 1
    while len({parts[-depth:] for parts in paths}) < len(set(paths)):
        depth += 1
    names: list[str] = []
    for source in sources:
        if isinstance(source, Path):
            name = "/".join(source.resolve().parts[-depth:])
        else:
            name = source.config.estimator
        again = sum(other == name or other.startswith(f"{name} (") for other in names)
        names.append(f"{name} ({again + 1})" if again else name)
    return names


MEASUREMENTS: dict[str, Callable[[Run], Exposure | Calibration | ItemMap]] = {
    "exposure": measure_exposure,
    "calibration": measure_calibration,
    "item_map": project_items,
}
"""field of `ReportedRun` -> measurement of a loaded run"""


def measure(
    reported: ReportedRun,
    load: Callable[[], Run],
    groups: dict[str, str] | None,
    on_progress: Callable[[str], None] = lambda _: None,
) -> None:
    """Loads a run and measures it; the reason of a failure is recorded and the rest goes on.

    Args:
      reported: settings and metrics of the run; gets the measurements.
      load: loads the state of the run.
      groups: item id -> its group.
      on_progress: called with a message before each measurement.
    """
    on_progress(f"measuring {reported.name}: loading its state")
    try:
        run = load()
    except READING_ERRORS as error:
        reported.missing["state"] = reason(error)
        return
    reported.measured_at = run.step
    reported.item_ids = run.dataset.item_ids.ids
    for name, measurement in MEASUREMENTS.items():
        on_progress(f"measuring {reported.name}: {name.replace('_', ' ')}")
        try:
            setattr(reported, name, measurement(run))
        except READING_ERRORS as error:
            reported.missing[name] = reason(error)
    if groups is not None:
        try:
            reported.groups = group_of_items(groups, reported.item_ids.tolist())
            reported.cutoff_step, reported.group_fairness = _fairness(run, reported.groups)
        except READING_ERRORS as error:
            reported.missing["groups"] = reason(error)


def _fairness(run: Run, groups: np.ndarray) -> tuple[int, list[GroupFairness]]:
    """Returns the cut-off step and the fairness of every group in the first 1000 ranked items."""
    depth = min(1000, len(groups))
    every = min(10, max(2, depth // 4))
    rankings = groups[rank_items(run, depth)]  # [seeds, contexts, depth]
    names, sizes = np.unique(groups, return_counts=True)
    rows = []
    for name, size in sorted(zip(names, sizes, strict=True), key=lambda x: -x[1])[:MOST_GROUPS]:
        fairness = {}
        if size < len(groups):
            inside = rankings == name
            for title, function in MEASURES.items():
                values = function(inside, len(groups), int(size), every)
                fairness[title] = values.mean(axis=-1).tolist()
        rows.append(GroupFairness(str(name), fairness))
    return every, rows


def reason(error: BaseException) -> str:
    """Returns the message of an error in one line of at most 500 characters."""
    text = printable(" ".join(str(error).split()))
    return text[:500] if text else kind_in_words(error)
