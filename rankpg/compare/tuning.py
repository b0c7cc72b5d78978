"""One method of a comparison: its trials, and its final fits with their metrics."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rankpg.compare.budget import Deadline
from rankpg.compare.final_list import RERANKER_WEIGHTS, losses_of, metric_of
from rankpg.compare.results import Result, Schedule, Trial, key_of
from rankpg.environments.dataset import Dataset
from rankpg.errors import ConfigError, argument
from rankpg.types import Float, Int

if TYPE_CHECKING:
    from rankpg.compare.methods import Method
    from rankpg.compare.stages import Stage
else:
    Method = Stage = Any

__all__ = ["Settings", "fit_method", "metrics_of", "try_settings"]


@dataclass(frozen=True)
class Settings:
    """Arguments of `compare` that a result depends on, after their check."""

    trials: int
    seeds: tuple[int, ...]
    cutoffs: tuple[int, ...]
    minutes_per_trial: float
    minutes: float = 0.0
    """Time of the whole comparison; 0 for no limit."""
    with_final: bool = False
    """True if there is a re-ranker, and so a final list."""

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ConfigError(
                f"{argument('seeds', self.seeds)}; expected distinct integers from 0, such as (0, 1, 2)"
            )
        distinct = len(set(self.cutoffs)) == len(self.cutoffs)
        if not self.cutoffs or not distinct or self.cutoffs[0] < 1:
            raise ConfigError(
                f"{argument('cutoffs', self.cutoffs)}; expected distinct numbers of items, at least 1"
            )
        if not 0 < self.minutes_per_trial < np.inf:
            raise ConfigError(
                f"{argument('minutes_per_trial', self.minutes_per_trial)}; expected a number above 0"
            )

    @property
    def trial_seconds(self) -> float:
        """Most seconds of a trial, before the time of the comparison is divided."""
        return 60 * self.minutes_per_trial

    @property
    def compared(self) -> tuple[str, str]:
        return f"ndcg@{self.cutoffs[0]}", f"recall@{self.cutoffs[-1]}"

    def key(self, data: Dataset, method: Method, passes: tuple[int, int]) -> str:
        """Returns a checksum of everything that the result of a method depends on."""
        return key_of(
            data,
            method=repr(method.way),
            grid=[dict(entry) for entry in method.grid[: self.trials]],
            seeds=self.seeds,
            cutoffs=self.cutoffs,
            minutes_per_trial=self.minutes_per_trial,
            minutes=self.minutes,
            passes=passes,
            with_final=self.with_final and RERANKER_WEIGHTS,
        )

    @property
    def final(self) -> tuple[str, ...]:
        """Names of the metric of the final list and of the losses; empty without a re-ranker."""
        cutoff = self.cutoffs[0]
        return (metric_of(cutoff), *losses_of(cutoff)) if self.with_final else ()


_OfSeeds = list[Int[np.ndarray, "n depth"]]


def fit_method(
    name: str,
    method: Method,
    trials: Sequence[Trial],
    stage: Stage,
    settings: Settings,
    seeds: tuple[int, ...],
    deadline: Deadline | None = None,
) -> Result:
    """Fits a method with the best settings, and evaluates it.

    Args:
      name: that of the method in `METHODS`.
      method: its way of fitting.
      trials: those of the tuning, at least one of which did not fail.
      stage: that of the final fit.
      settings: those of the comparison.
      seeds: those of the final fits.
      deadline: the end of the fit; None for none.
    """
    began = time.perf_counter()
    tuned = Result(name, tuple(trials), {}, {}, 0.0)
    depth = stage.depth(settings.cutoffs[-1])
    chosen_for_final = tuned.chosen_for_final
    lists, for_final = _lists(method, tuned.chosen, chosen_for_final, stage, seeds, depth, deadline)
    seconds = time.perf_counter() - began
    weight = 1.0 if chosen_for_final is None else chosen_for_final.reranker_weight
    values, catalogue = metrics_of(stage, lists, for_final, settings, weight)
    limited = deadline is not None and deadline.reached
    return Result(name, tuple(trials), values, catalogue, seconds, limited)


def _lists(
    method: Method,
    chosen: Trial,
    for_final: Trial | None,
    stage: Stage,
    seeds: tuple[int, ...],
    depth: int,
    deadline: Deadline | None,
) -> tuple[_OfSeeds, _OfSeeds]:
    """Fits a method, and returns its own lists, and those whose first items are candidates.

    One fit serves both, at two of its steps, where the same settings were chosen for both.
    """

    def fit(trial: Trial, *schedules: Schedule) -> list[_OfSeeds]:
        return method.way.lists(
            stage, trial.settings, schedules, seeds=seeds, depth=depth, deadline=deadline
        )

    if for_final is None:
        (own,) = fit(chosen, chosen.schedule)
        return own, own
    if for_final is chosen:
        own, other = fit(chosen, chosen.schedule, chosen.final_schedule)
        return own, other
    own, other = fit(chosen, chosen.schedule)[0], fit(for_final, for_final.final_schedule)[0]
    both = min(len(own), len(other))  # a deadline may have left one of them fewer seeds
    return own[:both], other[:both]


def metrics_of(
    stage: Stage, lists: _OfSeeds, for_final: _OfSeeds, settings: Settings, weight: float
) -> tuple[dict[str, Float[np.ndarray, "seeds n"]], dict[str, float]]:
    """Returns the metrics of every user, those of the final list among them, and of the catalogue."""
    last, first = settings.cutoffs[-1], settings.cutoffs[0]
    of_seeds = [stage.metrics(own[:, :last], settings.cutoffs) for own in lists]
    if stage.final is not None:
        final = [stage.final.metrics(own, stage.part, first, weight) for own in for_final]
        of_seeds = [own | other for own, other in zip(of_seeds, final, strict=True)]
    values = {metric: np.stack([own[metric] for own in of_seeds]) for metric in of_seeds[0]}
    shown = [stage.catalogue(own[:, :last], settings.cutoffs) for own in lists]
    catalogue = {metric: float(np.mean([own[metric] for own in shown])) for metric in shown[0]}
    return values, catalogue


def try_settings(
    method: Method,
    entry: Mapping[str, Any],
    stage: Stage,
    settings: Settings,
    most_seconds: float | None = None,
) -> Trial:
    """Tries one entry of a grid; settings that do not fit the data are a trial that failed.

    Args:
      method: its way of tuning.
      entry: one of its grid.
      stage: that of the tuning.
      settings: those of the comparison.
      most_seconds: seconds that the time of the comparison leaves for it; None for no such limit.

    Raises:
      ImportError: the method needs a package that is missing.
    """
    began = time.perf_counter()
    try:
        tuned = method.way.tune(
            stage,
            entry,
            seed=settings.seeds[0],
            cutoff=settings.cutoffs[0],
            seconds=settings.trial_seconds if most_seconds is None else most_seconds,
        )
    except ConfigError as error:
        return Trial(entry, None, seconds=time.perf_counter() - began, failure=str(error))
    seconds = time.perf_counter() - began
    if not np.isfinite(tuned.score):
        return Trial(entry, None, tuned.schedule, seconds, "the validation metric is not finite")
    final = tuned.final_score, tuned.final_steps, tuned.reranker_weight
    most_seconds = None if most_seconds is None or np.isinf(most_seconds) else most_seconds
    return Trial(entry, tuned.score, tuned.schedule, seconds, "", *final, most_seconds)
