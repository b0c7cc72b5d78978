"""Records of the report: a run on the page, and its measurements."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from rankpg.config.train_config import TrainConfig

__all__ = [
    "MOST_GROUPS",
    "Calibration",
    "Exposure",
    "GroupFairness",
    "ItemMap",
    "ReportedRun",
]

MOST_GROUPS = 12
"""Largest number of groups with a row of their own."""


@dataclasses.dataclass(frozen=True)
class Exposure:
    """Number of contexts in which each item is a candidate, is shown, and is among the best."""

    num_contexts: int
    candidates: np.ndarray
    """int[seeds, N]: contexts in which the item is a candidate"""
    shown: np.ndarray | None
    """int[seeds, N]: contexts in which the item is shown; None if rewards are unknown"""
    best: np.ndarray | None
    """int[N]: contexts in which the item is among the K of largest reward; None if rewards are unknown"""
    expected: np.ndarray | None = None
    """float[seeds, N]: expected number of contexts in which the item is shown if candidates are drawn from
    the policy; None where it has no exact form"""


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Predicted inclusion probabilities and observed draws of pairs of context and item, of one seed."""

    method: str | None
    """method of `log_inclusion`; None if the score does not approximate an inclusion probability"""
    predicted: np.ndarray | None
    """P(a in S) by that method, [pairs]"""
    exact: np.ndarray | None
    """exact P(a in S), [pairs]; None for several experts or a large catalogue"""
    hits: np.ndarray
    """number of draws that hold the item, int[pairs]"""
    num_draws: int


@dataclasses.dataclass(frozen=True)
class ItemMap:
    """The first two principal components of item embeddings."""

    items: np.ndarray
    """rows, int[n]"""
    coordinates: np.ndarray
    """[n, 2]"""
    explained_variance: np.ndarray
    """share of the variance that each component explains, [2]"""


@dataclasses.dataclass(frozen=True)
class GroupFairness:
    """Fairness of the policy's ranking of the catalogue for one group against all other items."""

    group: str
    values: dict[str, list[float]]
    """name of the measure -> mean over contexts, by seed; empty if the group has all items"""


@dataclasses.dataclass
class ReportedRun:
    """A run on the page. A measurement that failed is None, and `missing` holds the reason."""

    name: str
    source: str
    """folder of the run, or `in memory`"""
    index: int
    """number of the run on the page, which sets its colour and marker"""
    config: TrainConfig
    metrics: list[dict[str, Any]]
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    measured_at: int | None = None
    """step of the measured checkpoint"""
    exposure: Exposure | None = None
    calibration: Calibration | None = None
    item_map: ItemMap | None = None
    item_ids: np.ndarray | None = None
    groups: np.ndarray | None = None
    """group of every item, [N]"""
    group_fairness: list[GroupFairness] = dataclasses.field(default_factory=list)
    cutoff_step: int = 10
    """distance between the cut-offs of the fairness measures"""
    missing: dict[str, str] = dataclasses.field(default_factory=dict)
    """name of the measurement -> reason why the run does not have it"""

    @property
    def step(self) -> int:
        """Step of the last evaluation."""
        return max(row["step"] for row in self.metrics)

    @property
    def last(self) -> list[dict[str, Any]]:
        """Rows of the last evaluation, one per seed."""
        return [row for row in self.metrics if row["step"] == self.step]

    def final(self, name: str) -> list[float]:
        """Returns a metric of the last evaluation, of the seeds that have it."""
        return [row[name] for row in self.last if row.get(name) is not None]

    def stopped(self) -> list[str]:
        """Returns the step and reason for every seed that stopped."""
        return [
            f"seed {row['seed']} at step {row.get('stopped_at_step')}: {row['stopped_by']}"
            for row in self.last
            if row.get("stopped_by")
        ]
