"""Runs the methods of a comparison within its time: tuning, final fits, and what is saved on the way.

names -> what is saved -> baselines, one by one -> trials of trained methods, in rounds -> their final fits
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankpg.compare.budget import (
    Budget,
    Deadline,
    another_method,
    another_trial,
    number_of_seeds,
    seconds_of_baseline,
    seconds_of_trial,
    share_of,
)
from rankpg.compare.results import (
    Result,
    Trial,
    load_result,
    load_trials,
    remove_trials,
    result_file,
    save_result,
    save_trials,
)
from rankpg.compare.tuning import Settings, fit_method, try_settings
from rankpg.errors import ConfigError

if TYPE_CHECKING:
    from rankpg.compare.methods import Method
    from rankpg.compare.stages import Stage
else:
    Method = Stage = Any

__all__ = ["Saved", "cut_of", "run_methods"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class Saved:
    """Files of finished methods, and of the trials of those that are not."""

    folder: Path | None
    """None saves nothing."""
    keys: Mapping[str, str]
    """Checksum of what the result of each method depends on."""

    def file(self, name: str) -> Path | None:
        return None if self.folder is None else result_file(self.folder, name, self.keys[name])

    def result(self, name: str) -> Result | None:
        file = self.file(name)
        return None if file is None else load_result(file, self.keys[name])

    def trials(self, name: str, method: Method) -> list[Trial]:
        """Returns the trials that were made, with the settings as the grid has them."""
        file = self.file(name)
        found = () if file is None else load_trials(file, self.keys[name])
        pairs = zip(found, method.grid, strict=False)
        return [dataclasses.replace(trial, settings=entry) for trial, entry in pairs]

    def keep_trials(self, name: str, trials: Sequence[Trial]) -> None:
        if (file := self.file(name)) is not None:
            save_trials(file, trials, self.keys[name])

    def keep(self, result: Result) -> None:
        if (file := self.file(result.name)) is not None:
            save_result(file, result, self.keys[result.name])
            remove_trials(file)


@dataclass
class _Running:
    """A comparison on its way."""

    methods: Mapping[str, Method]
    """Those that are to run, in the order of the table."""
    stages: tuple[Stage, Stage]
    settings: Settings
    budget: Budget
    saved: Saved
    say: Say
    reference: str = ""
    trials: dict[str, list[Trial]] = field(default_factory=dict)
    results: dict[str, Result] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    """Sentences by name."""

    @property
    def open(self) -> list[str]:
        """Names of the methods that have no result and are not left out."""
        return [n for n in self.methods if n not in self.results and n not in self.left_out]

    def trained(self) -> list[str]:
        """Names of those that rankpg trains, the one that others are compared with first."""
        names = [name for name in self.open if self.methods[name].objective]
        return sorted(names, key=lambda name: name != self.reference)

    def leave_out(self, name: str, reason: str) -> None:
        self.left_out[name] = f"{name} is left out: {reason}"
        self.say(self.left_out[name])

    def try_next(self, name: str, most_seconds: float | None = None) -> None:
        """Makes the next trial of a method, unless it needs what is missing."""
        method, trials = self.methods[name], self.trials[name]
        self.say(f"{name}: trial {len(trials) + 1} of {self.settings.trials}")
        try:
            entry = method.grid[len(trials)]
            trials.append(try_settings(method, entry, self.stages[0], self.settings, most_seconds))
        except ImportError as error:
            self.leave_out(name, str(error))
            return
        self.saved.keep_trials(name, trials)

    def longest(self, name: str) -> float:
        """Seconds of the longest trial of a method."""
        return max((trial.seconds for trial in self.trials[name]), default=0.0)

    def fits(self, names: Sequence[str]) -> float:
        """Final fits of one seed for each trial: two where the final list may have a choice of its own."""
        several = max(len(self.trials[name]) for name in names) > 1
        return 2.0 if several and self.settings.with_final else 1.0

    def fit(self, name: str, num_seeds: int, seconds: float) -> None:
        """Fits a method and keeps its result."""
        method, trials = self.methods[name], self.trials[name]
        if all(trial.score is None for trial in trials):
            self.leave_out(name, f"all {len(trials)} trials failed; the first: {trials[0].failure}")
            return
        seeds = self.settings.seeds[: num_seeds if method.seeded else 1]
        self.say(f"{name}: final fit with {len(seeds)} {'seeds' if len(seeds) > 1 else 'seed'}")
        deadline = None if math.isinf(seconds) else Deadline(seconds, self.budget.clock)
        try:
            found = fit_method(name, method, trials, self.stages[1], self.settings, seeds, deadline)
        except (ConfigError, ImportError) as error:
            self.leave_out(name, str(error))
            return
        _ = found.intervals  # part of the method's time
        self.results[name] = found
        self.saved.keep(found)


def run_methods(
    methods: Mapping[str, Method],
    stages: tuple[Stage, Stage],
    settings: Settings,
    budget: Budget,
    saved: Saved,
    say: Say,
    reference: str = "",
) -> tuple[list[Result], list[str]]:
    """Tunes, fits and evaluates methods within the time of a comparison.

    Args:
      methods: by name, in the order of the table.
      stages: the tuning and the final fit.
      settings: those of the comparison.
      budget: its time.
      saved: files of results, read first.
      say: called with a sentence before each trial and fit.
      reference: the method that rankpg trains first.

    Returns:
      Results in the order of the methods, and a sentence about each method that has none.
    """
    running = _Running(methods, stages, settings, budget, saved, say, reference)
    for name, method in methods.items():
        found = saved.result(name)
        if found is not None:
            say(f"{name}: already finished, in {saved.file(name)}")
            running.results[name] = found
            budget.spent += found.tuning_seconds + found.fit_seconds
            continue
        running.trials[name] = saved.trials(name, method)
        budget.spent += sum(trial.seconds for trial in running.trials[name])
        _check_data(running, name)
    baselines = [name for name in running.open if name not in running.trained()]
    for place, name in enumerate(baselines):
        _run_baseline(running, name, len(baselines) - place)
    _tune_trained(running)
    _fit_trained(running)
    found = [running.results[name] for name in methods if name in running.results]
    return found, [running.left_out[name] for name in methods if name in running.left_out]


def _check_data(running: _Running, name: str) -> None:
    """Leaves out a method whose data cannot be had, before time is divided among the others."""
    objective = running.methods[name].objective
    try:
        if objective:
            running.stages[0].data_for(objective)
    except ConfigError as error:
        running.leave_out(name, str(error))


def _late(running: _Running, before: str) -> str:
    minutes = running.settings.minutes
    return f"the time of the comparison, minutes={minutes:g}, is too short for its {before}"


def _run_baseline(running: _Running, name: str, still: int) -> None:
    """Tunes and fits a baseline, with as many trials and seeds as its share of the time allows."""
    budget, settings, trials = running.budget, running.settings, running.trials[name]
    left = budget.left()
    share = seconds_of_baseline(left, still, len(running.trained()))
    rest = 0.0 if math.isinf(left) else left - share
    growth = _growth(running.stages)
    most = min(settings.trial_seconds, share / (1 + growth)) if settings.minutes else math.inf
    if left <= 0 and not trials:
        running.leave_out(name, _late(running, "first trial"))
        return
    while len(trials) < settings.trials and name in running.open:
        fits = growth * (2.0 if trials and settings.with_final else 1.0)
        own = budget.left() - rest
        if trials and not another_trial(own, [running.longest(name)], fits):
            break
        running.try_next(name, most)
    if name not in running.open:
        return
    longest, left = running.longest(name), budget.left()
    if longest * growth > left:
        running.leave_out(name, _late(running, "final fit"))
        return
    own = left - rest
    fits = growth * running.fits([name])
    seeds = number_of_seeds(own, [longest], fits, len(settings.seeds))
    running.fit(name, seeds, max(own, 0.0))


def _growth(stages: tuple[Stage, Stage]) -> float:
    """Users of the final fit for each user of the tuning: most of a baseline's time is their lists."""
    tuning, final = (len(stage.part.users) for stage in stages)
    return max(1.0, final / max(tuning, 1))


def _tune_trained(running: _Running) -> None:
    """Makes trials of all methods that rankpg trains: the same number of each, with the same seconds."""
    budget, settings = running.budget, running.settings
    names = running.trained()
    known = [t.most_seconds for name in names for t in running.trials[name] if t.most_seconds]
    most = seconds_of_trial(budget.left(), len(names), settings.trial_seconds)
    most = known[0] if known else most  # the seconds of a comparison that was interrupted
    given = most if settings.minutes else None
    for number in range(settings.trials):
        names = running.trained()
        waiting = [name for name in names if len(running.trials[name]) <= number]
        if not waiting:
            continue
        begun = len(waiting) < len(names)  # by a comparison that was interrupted
        if number and not begun and not _fits_another(running, names):
            break
        for name in waiting:
            tried = [running.longest(other) for other in names if running.trials[other]]
            if budget.left() > 0 if number else another_method(budget.left(), tried):
                running.try_next(name, given)
            elif not number:
                running.leave_out(name, _late(running, "first trial"))


def _fits_another(running: _Running, names: Sequence[str]) -> bool:
    longest = [running.longest(name) for name in names]
    fits = 2.0 if running.settings.with_final else 1.0
    return another_trial(running.budget.left(), longest, fits)


def _fit_trained(running: _Running) -> None:
    """Fits all methods that rankpg trains, with the same number of seeds."""
    names = running.trained()
    if not names:
        return
    longest = {name: running.longest(name) for name in names}
    left, most = running.budget.left(), len(running.settings.seeds)
    seeds = number_of_seeds(left, list(longest.values()), running.fits(names), most)
    results = running.results.items()
    finished = [found.num_seeds for name, found in results if running.methods[name].objective]
    seeds = finished[0] if finished else seeds  # those of a comparison that was interrupted
    for place, name in enumerate(names):
        left = running.budget.left()
        if left <= 0:
            running.leave_out(name, _late(running, "final fit"))
            continue
        others = [longest[other] for other in names[place + 1 :]]
        running.fit(name, seeds, share_of(left, longest[name], others))


def cut_of(result: Result, method: Method, settings: Settings) -> str:
    """Returns what the time of the comparison took from a method, in words; "" if nothing.

    Args:
      result: that of the method.
      method: whether it has seeds.
      settings: those of the comparison.

    >>> from rankpg.compare import METHODS
    >>> import numpy as np
    >>> found = Result("ease", (Trial({}, 0.5),), {"ndcg@10": np.ones((1, 2))}, {}, 1.0)
    >>> cut_of(found, METHODS["ease"], Settings(4, (0, 1, 2), (10,), 10.0, minutes=1.0))
    '1 of 4 trials'
    """
    if not settings.minutes:
        return ""
    wanted, lost = len(settings.seeds) if method.seeded else 1, []
    if len(result.trials) < settings.trials:
        lost.append(f"{len(result.trials)} of {settings.trials} trials")
    if result.num_seeds < wanted:
        lost.append(f"{result.num_seeds} of {wanted} seeds")
    if by_budget(result, settings):
        lost.append("trials with fewer updates")
    if result.fit_limited and method.objective:
        lost.append("a final fit that ended early")
    return ", ".join(lost)


def by_budget(result: Result, settings: Settings) -> bool:
    """Returns True if the time of the comparison, not that of a trial, ended a trial early."""
    return any(
        trial.schedule.limited
        and trial.most_seconds is not None
        and trial.most_seconds < settings.trial_seconds
        for trial in result.trials
    )
