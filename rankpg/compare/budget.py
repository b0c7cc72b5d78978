"""The time of a whole comparison, and what each method may take of it.

Baselines run first, one after the other. Each may take half of what a method that rankpg trains may take of
the time that is left, and what it does not take goes to those that come later. The methods that rankpg trains
run together, in rounds:

    t   seconds of a trial, the same for all M of them: left / (2 M), or the most of a trial if that is less
    1   the first trial of each, of at most t seconds
    2   another trial of each, as long as afterwards a final fit of each still fits into the time
    3   a final fit of each, with as many seeds as fit into the time, at least one

So where time is short, first seeds are given up, then trials, then updates, and last whole methods. Passes of
ALS and BPR count as updates.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rankpg.errors import ConfigError, argument

__all__ = [
    "Budget",
    "Deadline",
    "another_method",
    "another_trial",
    "number_of_seeds",
    "seconds_of_baseline",
    "seconds_of_trial",
    "share_of",
]

Clock = Callable[[], float]

_OUTPUTS = 0.03
"""Share of the time that is left for differences, tables and pictures."""


@dataclass
class Budget:
    """The time of a comparison: what is left of it.

    >>> budget = Budget(1.0, clock=iter([0.0, 18.2]).__next__)
    >>> round(budget.left())  # 60 s less 3 % for the tables, less 18.2 s
    40
    """

    minutes: float
    """Time of the comparison; 0 for no limit."""
    clock: Clock = time.perf_counter
    spent: float = 0.0
    """Seconds of an earlier call whose results are used."""
    began: float = field(init=False)

    def __post_init__(self) -> None:
        if not 0 <= self.minutes < math.inf:
            raise ConfigError(
                f"{argument('minutes', self.minutes)}; expected a number above 0, or 0 for no limit"
            )
        self.began = self.clock()

    def left(self) -> float:
        """Returns the seconds that are left, at least 0; infinity without a limit."""
        if not self.minutes:
            return math.inf
        passed = self.clock() - self.began + self.spent
        return max(0.0, 60 * self.minutes * (1 - _OUTPUTS) - passed)


@dataclass
class Deadline:
    """The end of a final fit, and whether it was reached before the fit was finished.

    >>> deadline = Deadline(5.0, clock=iter([0.0, 4.0, 6.0]).__next__)
    >>> deadline.over(), deadline.over(), deadline.reached
    (False, True, True)
    """

    seconds: float = math.inf
    clock: Clock = time.perf_counter
    reached: bool = False
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.clock()

    def over(self) -> bool:
        """Returns True after the end. A fit that is finished does not call it."""
        self.reached = self.reached or self.clock() - self.began > self.seconds
        return self.reached


def seconds_of_baseline(left: float, baselines: int, trained: int) -> float:
    """Returns the seconds of all trials and fits of the next baseline.

    Args:
      left: seconds.
      baselines: number of baselines that are still to run, with this one.
      trained: number of methods that rankpg trains, all of which come later.

    >>> seconds_of_baseline(650.0, 5, 4)
    50.0
    """
    return left / (max(baselines, 1) + 2 * trained)


def seconds_of_trial(left: float, methods: int, most: float) -> float:
    """Returns the seconds of a trial of every method: half of the time, the other half is for final fits.

    Args:
      left: seconds.
      methods: number of methods that are to be tuned and fitted.
      most: most seconds of a trial.

    >>> seconds_of_trial(400.0, 4, 600.0), seconds_of_trial(400.0, 4, 30.0)
    (50.0, 30.0)
    """
    return min(most, left / (2 * max(methods, 1)))


def another_method(left: float, tried: Sequence[float]) -> bool:
    """Returns True if one more method may be tuned and fitted, after trials that took longer than they may.

    Compiling cannot be divided. So where a first trial takes far longer than its share, later methods are
    left out, and those that were tuned have their final fits, of at least half of the seconds of a trial.

    Args:
      left: seconds.
      tried: seconds of the first trial of each method that was tuned.

    >>> another_method(60.0, [30.0]), another_method(59.0, [30.0]), another_method(0.1, [])
    (True, False, True)
    """
    if not tried:
        return left > 0
    return sum(tried) / 2 + 1.5 * sum(tried) / len(tried) <= left


def another_trial(left: float, longest: Sequence[float], fits: float) -> bool:
    """Returns True if one more trial of every method leaves enough time for a final fit of each.

    Args:
      left: seconds.
      longest: seconds of the longest trial of each method so far.
      fits: seconds of a final fit with one seed, in trials.

    >>> another_trial(90.0, [10.0, 20.0], 2.0), another_trial(89.0, [10.0, 20.0], 2.0)
    (True, False)
    """
    return sum(longest) * (1 + fits) <= left


def number_of_seeds(left: float, longest: Sequence[float], fits: float, most: int) -> int:
    """Returns the number of seeds of every final fit, 1 to `most`.

    Args:
      left, longest, fits: as for `another_trial`.
      most: number of seeds that the caller wants.

    >>> [number_of_seeds(left, [10.0, 20.0], 1.0, 3) for left in (5.0, 61.0, 1000.0, float("inf"))]
    [1, 2, 3, 3]
    """
    of_seed = sum(longest) * fits
    if of_seed <= 0 or math.isinf(left):
        return most
    return max(1, min(most, int(left / of_seed)))


def share_of(left: float, own: float, others: Sequence[float]) -> float:
    """Returns the seconds of one final fit, in proportion to the seconds of the methods' trials.

    Args:
      left: seconds for this fit and the others that are still to come.
      own: seconds of the longest trial of this method.
      others: those of the others.

    >>> share_of(80.0, 10.0, [10.0, 20.0]), share_of(80.0, 0.0, [])
    (20.0, 80.0)
    """
    total = own + sum(others)
    return left if total <= 0 else left * own / total
