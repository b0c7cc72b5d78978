"""Trials: the configs that are trained for one report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from rankpg.config.train_config import TrainConfig

__all__ = ["Trial", "unique_trials"]


@dataclass(frozen=True)
class Trial:
    """A config to train, and its labels in the report."""

    name: str
    """name of the run folder; equal configs have equal names"""
    config: TrainConfig
    labels: dict[str, str] = field(default_factory=dict)
    """column -> value; distinguishes the trials of a table"""
    published: dict[int, float] = field(default_factory=dict)
    """step -> published value, if there is one"""
    importance: int = 0
    """priority; 0 is trained first"""


def unique_trials(trials: Iterable[Trial]) -> list[Trial]:
    """Returns every trial once, by priority; a trial of several tables has its highest priority."""
    by_name: dict[str, Trial] = {}
    for trial in trials:
        known = by_name.setdefault(trial.name, trial)
        if trial.importance < known.importance:
            by_name[trial.name] = trial
    return sorted(
        by_name.values(), key=lambda trial: trial.importance
    )  # stable: else in given order
