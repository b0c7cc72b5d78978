"""Rows: configs that are trained for one report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from rankpg.config.train_config import TrainConfig

__all__ = ["Row", "unique_rows"]


@dataclass(frozen=True)
class Row:
    """One config to train, and what a report says of it."""

    name: str
    """of the run folder; equal configs have equal names"""
    config: TrainConfig
    labels: dict[str, str] = field(default_factory=dict)
    """what tells this row from the others of its table"""
    published: dict[int, float] = field(default_factory=dict)
    """step -> a value that somebody else reports, if any"""
    importance: int = 0
    """0 is trained first"""


def unique_rows(rows: Iterable[Row]) -> list[Row]:
    """Every row once, the most important first: a row of several tables is as important as its first."""
    by_name: dict[str, Row] = {}
    for row in rows:
        known = by_name.setdefault(row.name, row)
        if row.importance < known.importance:
            by_name[row.name] = row
    return sorted(by_name.values(), key=lambda row: row.importance)  # stable: else in given order
