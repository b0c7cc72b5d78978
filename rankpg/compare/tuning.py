"""One method of a comparison: tuned, then fitted with every seed and evaluated."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rankpg.compare.final_list import RERANKER_WEIGHTS, losses_of, metric_of
from rankpg.compare.results import Result, Schedule, Trial, key_of
from rankpg.compare.stages import Stage
from rankpg.environments.dataset import Dataset
from rankpg.errors import ConfigError, argument
from rankpg.types import Float, Int

if TYPE_CHECKING:
    from rankpg.compare.methods import Method
else:
    Method = Any

__all__ = ["Settings", "metrics_of", "run_method"]


@dataclass(frozen=True)
class Settings:
    """Arguments of `compare` that a result depends on, after their check."""

    trials: int
    seeds: tuple[int, ...]
    cutoffs: tuple[int, ...]
    minutes_per_trial: float
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
            passes=passes,
            with_final=self.with_final and RERANKER_WEIGHTS,
        )

    @property
    def final(self) -> tuple[str, ...]:
        """Names of the metric of the final list and of the losses; empty without a re-ranker."""
        cutoff = self.cutoffs[0]
        return (metric_of(cutoff), *losses_of(cutoff)) if self.with_final else ()


def run_method(
    name: str,
    method: Method,
    stages: tuple[Stage, Stage],
    settings: Settings,
    say: Callable[[str], None],
) -> Result:
    """Tunes a method, and fits and evaluates it with the best settings.

    Args:
      name: that of the method in `METHODS`.
      method: its settings, and how it is tuned and fitted.
      stages: the tuning and the final fit.
      settings: those of the comparison.
      say: called with a sentence before each trial and fit.

    Raises:
      ConfigError: all of its trials failed.
      ImportError: it needs a package that is missing.
    """
    earlier, final = stages
    trials = []
    for number, entry in enumerate(method.grid[: settings.trials], start=1):
        say(f"{name}: trial {number} of {settings.trials}")
        trials.append(_trial(method, entry, earlier, settings))
    if all(trial.score is None for trial in trials):
        raise ConfigError(f"all {len(trials)} trials failed; the first: {trials[0].failure}")
    seeds = settings.seeds if method.seeded else settings.seeds[:1]
    say(f"{name}: final fit with {len(seeds)} {'seeds' if len(seeds) > 1 else 'seed'}")
    began = time.perf_counter()
    tuned = Result(name, tuple(trials), {}, {}, 0.0)
    depth = final.depth(settings.cutoffs[-1])
    chosen_for_final = tuned.chosen_for_final
    lists, for_final = _lists(method, tuned.chosen, chosen_for_final, final, seeds, depth)
    seconds = time.perf_counter() - began
    weight = 1.0 if chosen_for_final is None else chosen_for_final.reranker_weight
    values, catalogue = metrics_of(final, lists, for_final, settings, weight)
    return Result(name, tuple(trials), values, catalogue, seconds)


_OfSeeds = list[Int[np.ndarray, "n depth"]]


def _lists(
    method: Method,
    chosen: Trial,
    for_final: Trial | None,
    stage: Stage,
    seeds: tuple[int, ...],
    depth: int,
) -> tuple[_OfSeeds, _OfSeeds]:
    """Fits a method, and returns its own lists, and those whose first items are candidates.

    One fit serves both, at two of its steps, where the same settings were chosen for both.
    """

    def fit(trial: Trial, *schedules: Schedule) -> list[_OfSeeds]:
        return method.way.lists(stage, trial.settings, schedules, seeds=seeds, depth=depth)

    if for_final is None:
        (own,) = fit(chosen, chosen.schedule)
        return own, own
    if for_final is chosen:
        own, other = fit(chosen, chosen.schedule, chosen.final_schedule)
        return own, other
    return fit(chosen, chosen.schedule)[0], fit(for_final, for_final.final_schedule)[0]


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


def _trial(method: Method, entry: Mapping[str, Any], stage: Stage, settings: Settings) -> Trial:
    """Tries one entry of a grid; settings that do not fit the data are a trial that failed."""
    began = time.perf_counter()
    try:
        tuned = method.way.tune(
            stage,
            entry,
            seed=settings.seeds[0],
            cutoff=settings.cutoffs[0],
            seconds=60 * settings.minutes_per_trial,
        )
    except ConfigError as error:
        return Trial(entry, None, seconds=time.perf_counter() - began, failure=str(error))
    seconds = time.perf_counter() - began
    if not np.isfinite(tuned.score):
        return Trial(entry, None, tuned.schedule, seconds, "the validation metric is not finite")
    final = tuned.final_score, tuned.final_steps, tuned.reranker_weight
    return Trial(entry, tuned.score, tuned.schedule, seconds, "", *final)
