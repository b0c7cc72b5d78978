"""Runs as a page sees them: settings and metrics from their folders, measurements where they can be had."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax.errors import JaxRuntimeError

from rankpg._version import versions
from rankpg.config.train_config import TrainConfig
from rankpg.errors import ConfigError
from rankpg.evaluation.fairness import MEASURES
from rankpg.report.groups import group_of_items
from rankpg.report.measure import (
    Calibration,
    Exposure,
    ItemMap,
    calibrate,
    count_places,
    map_items,
    rank_items,
)
from rankpg.runs.run import Run
from rankpg.runs.storage.folder import CARD
from rankpg.runs.storage.load import METRICS, load_config, load_run
from rankpg.runs.storage.metrics_file import read_metrics

__all__ = ["MOST_GROUPS", "GroupRow", "Subject", "measure", "name_apart", "read"]

_PROBLEMS = (
    ValueError, TypeError, KeyError, OSError, ImportError, MemoryError, ArithmeticError,
    JaxRuntimeError,
)  # fmt: skip
"""What a measurement of somebody's run may raise; it is told on the page."""

MOST_GROUPS = 12


@dataclasses.dataclass(frozen=True)
class GroupRow:
    """A group of items against all others, in the policy's order of the catalogue."""

    group: str
    parity: dict[str, list[float]]
    """name of the measure -> its mean over contexts, by seed; empty for a group of all items"""


@dataclasses.dataclass
class Subject:
    """A run on the page. What could not be had is None, and `lacks` says why."""

    name: str
    where: str
    place: int
    """among the runs of the page: its colour"""
    config: TrainConfig
    metrics: list[dict[str, Any]]
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    measured_at: int | None = None
    exposure: Exposure | None = None
    calibration: Calibration | None = None
    item_map: ItemMap | None = None
    item_ids: np.ndarray | None = None
    groups: np.ndarray | None = None
    """of every item, [N]"""
    group_rows: list[GroupRow] = dataclasses.field(default_factory=list)
    every: int = 10
    """the distance of the cut-offs of the fairness measures"""
    lacks: dict[str, str] = dataclasses.field(default_factory=dict)
    """which part of the page -> why the run has nothing there"""

    @property
    def step(self) -> int:
        """Of the last evaluation."""
        return max(row["step"] for row in self.metrics)

    @property
    def last(self) -> list[dict[str, Any]]:
        """The rows of the last evaluation, one a seed."""
        return [row for row in self.metrics if row["step"] == self.step]

    def final(self, name: str) -> list[float]:
        """A metric at the end, of the seeds that have it."""
        return [row[name] for row in self.last if row.get(name) is not None]

    def stopped(self) -> list[str]:
        """Where and why seeds stopped."""
        return [
            f"seed {row['seed']} at step {row.get('stopped_at_step')}: {row['stopped_by']}"
            for row in self.last
            if row.get("stopped_by")
        ]


def read(source: Path | Run, name: str, place: int) -> tuple[Subject, Callable[[], Run]]:
    """What is known of a run without loading its state, and a function that loads it.

    Raises:
      ConfigError: settings or metrics cannot be read.
    """
    if isinstance(source, Run):
        if not source.metrics:
            raise ConfigError(f"{name} was not evaluated yet: train it first")
        subject = Subject(name, "in memory", place, source.config, source.metrics, versions())
        return subject, lambda: source
    config = load_config(source).resolve()
    metrics = read_metrics(source / METRICS)
    if not metrics:
        raise ConfigError(f"{source / METRICS} is empty: the run has no evaluation yet")
    subject = Subject(name, str(source), place, config, metrics, _card_versions(source / CARD))
    return subject, lambda: load_run(source)


def _card_versions(card: Path) -> dict[str, str]:
    """The versions that a run card names; none where there is no card."""
    try:
        text = card.read_text()
    except (OSError, UnicodeDecodeError):
        return {}
    _, _, section = text.partition("\n## Versions\n")
    lines = [line[2:].partition(": ") for line in section.split("\n## ")[0].splitlines()]
    return {name: value for name, separator, value in lines if separator}


def name_apart(sources: Sequence[Path | Run]) -> list[str]:
    """A short name for each run: as many of the last parts of its folder as tell it from the others.

    >>> name_apart([Path("runs/a/first"), Path("runs/b/first"), Path("runs/second")])
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


def measure(subject: Subject, load: Callable[[], Run], groups: dict[str, str] | None) -> None:
    """Load a run and ask it everything; what fails is written down, and the rest goes on."""
    try:
        run = load()
    except _PROBLEMS as error:
        subject.lacks["state"] = _words(error)
        return
    subject.measured_at = run.step
    subject.item_ids = run.dataset.item_ids.ids
    parts: dict[str, Callable[[], Any]] = {
        "exposure": lambda: count_places(run),
        "calibration": lambda: calibrate(run),
        "item_map": lambda: map_items(run),
    }
    for part, ask in parts.items():
        try:
            setattr(subject, part, ask())
        except _PROBLEMS as error:
            subject.lacks[part] = _words(error)
    if groups is not None:
        try:
            subject.groups = group_of_items(groups, subject.item_ids.tolist())
            subject.every, subject.group_rows = _parity(run, subject.groups)
        except _PROBLEMS as error:
            subject.lacks["groups"] = _words(error)


def _parity(run: Run, groups: np.ndarray) -> tuple[int, list[GroupRow]]:
    """The fairness measures of every group in the policy's order of the catalogue, at most 1000 deep."""
    depth = min(1000, len(groups))
    every = min(10, max(2, depth // 4))
    rankings = groups[rank_items(run, depth)]  # [seeds, contexts, depth]
    names, sizes = np.unique(groups, return_counts=True)
    rows = []
    for name, size in sorted(zip(names, sizes, strict=True), key=lambda x: -x[1])[:MOST_GROUPS]:
        parity = {}
        if size < len(groups):
            inside = rankings == name
            for title, function in MEASURES.items():
                values = function(inside, len(groups), int(size), every)
                parity[title] = values.mean(axis=-1).tolist()
        rows.append(GroupRow(str(name), parity))
    return every, rows


def _words(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:500] if text else type(error).__name__
