"""Confidence intervals of a metric: over users, of the difference of two systems, and over seeds.

x_u is the metric of user u, and n the number of users that have one. A percentile bootstrap (Efron 1979)
draws n users with replacement, takes the mean of their values, and repeats this S times:

    mean_s = sum_u w_su x_u / n,   (w_s1, ..., w_sn) ~ Multinomial(n; 1/n, ..., 1/n),   s = 1, ..., S

The interval of level c reaches from the (1 - c) / 2 quantile of the S means to the (1 + c) / 2 quantile. It
covers the choice of users, for one set of trained models. `seeds_interval` covers the choice of the seed.

Bradley Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 1979.
Tetsuya Sakai, "Evaluating evaluation metrics based on the bootstrap", SIGIR 2006 (paired).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rankpg.types import Float

__all__ = ["Difference", "Interval", "bootstrap_interval", "paired_difference", "seeds_interval"]

_CELLS = 1 << 16
"""Users of resamples that are drawn at once; they fit into a processor's cache."""
_FEW_VALUES = 1 << 10
"""Distinct values up to which resamples are drawn as counts of values, not of users."""


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its confidence interval."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """True if both ends are above 0, or both below."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Difference(Interval):
    """A mean difference of two systems over the same users, and the ends of its confidence interval."""

    probability: float
    """Share of the resamples in which the mean difference is above 0; one that is exactly 0 counts half."""


def bootstrap_interval(
    values: np.ndarray, *, level: float = 0.95, samples: int = 2000, seed: int = 0
) -> Interval:
    """Mean over users and its percentile bootstrap interval; the module docstring has the formula.

    Args:
      values: a metric of every user, [n] or [seeds, n]. With seeds, the values of a user are averaged over
        the seeds first: the interval covers the choice of users only. Users with NaN are left out.
      level: probability that the interval covers the mean over all users that could have been drawn [0.95].
      samples: S, number of resamples [2000].
      seed: seed of the resamples [0].

    Raises:
      ValueError: fewer than two users have a value, a value is infinite, a user has NaN for some seeds only,
        or an argument is out of range.

    >>> interval = bootstrap_interval(np.array([0.0, 1.0, np.nan, 1.0, 0.0]))
    >>> interval
    Interval(mean=0.5, low=0.0, high=1.0)
    """
    _check_level(level)
    known = _known(_users(values, "values"), "values")
    low, high = _ends(_resampled_means(known, samples, seed), level)
    return Interval(float(known.mean()), low, high)


def paired_difference(
    first: np.ndarray,
    second: np.ndarray,
    *,
    level: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
) -> Difference:
    """Mean difference first - second over users, with its paired bootstrap interval (Sakai 2006).

    Both systems have the same users in every resample, so what makes a user hard for both cancels. The
    interval is that of `bootstrap_interval` for the differences.

    Args:
      first: a metric of every user under the first system, [n] or [seeds, n].
      second: metric of these users under the second system, [n] or [seeds, n]. The number of seeds may
        differ. Users with NaN in both are left out.
      level, samples, seed: see `bootstrap_interval`.

    Raises:
      ValueError: see `bootstrap_interval`; the numbers of users differ, or a user has NaN in one
        of the two only.

    >>> first, second = np.array([0.5, 0.8, 0.3, np.nan]), np.array([0.4, 0.6, 0.0, np.nan])
    >>> difference = paired_difference(first, second)
    >>> round(difference.mean, 6), difference.excludes_zero, difference.probability
    (0.2, True, 1.0)
    """
    _check_level(level)
    ours, theirs = _users(first, "first"), _users(second, "second")
    if ours.shape != theirs.shape:
        raise ValueError(
            f"first has {len(ours)} users and second {len(theirs)}; expected the same users in the same order"
        )
    lone = np.flatnonzero(np.isnan(ours) != np.isnan(theirs))
    if lone.size:
        raise ValueError(
            f"first holds {ours[lone[0]]} and second {theirs[lone[0]]} for user {lone[0]}; expected a "
            "number in both, or NaN in both: evaluate both systems on the same held-out items"
        )
    gaps = _known(ours - theirs, "first and second")
    means = _resampled_means(gaps, samples, seed)
    low, high = _ends(means, level)
    rounding = 1e-12 * np.abs(gaps).max()
    probability = (1 + np.mean(means > rounding) - np.mean(means < -rounding)) / 2
    return Difference(float(gaps.mean()), low, high, float(probability))


def seeds_interval(values: Float[np.ndarray, "seeds n"], *, level: float = 0.95) -> Interval:
    """Mean over seeds and its t interval (Student 1908).

    m +- t s / sqrt(S),   m and s the mean and standard deviation of the S means over users,

    and t the (1 + level) / 2 quantile of Student's distribution with S - 1 degrees of freedom. The interval
    covers the choice of the seed, with the users fixed: it is about training, where `bootstrap_interval` is
    about users.

    Args:
      values: a metric of every user for every seed, [seeds, n], seeds >= 2. Users with NaN are left out.
      level: probability that the interval covers the mean over all seeds [0.95].

    Raises:
      ValueError: fewer than two seeds; see also `bootstrap_interval`.

    >>> seeds_interval(np.array([[1.0, np.nan], [2.0, np.nan], [3.0, np.nan]]))  # t = 4.303 for 2 degrees
    Interval(mean=2.0, low=-0.484, high=4.484)
    """
    from scipy.special import stdtrit  # slow to import

    _check_level(level)
    if values.ndim != 2 or len(values) < 2:
        raise ValueError(
            f"values has shape {values.shape}; expected [seeds, n] with at least 2 seeds: train more, or use "
            "bootstrap_interval for one"
        )
    _known(_users(values, "values"), "values", least=1)
    means = np.nanmean(values, axis=1)
    half = stdtrit(len(means) - 1, (1 + level) / 2) * means.std(ddof=1) / np.sqrt(len(means))
    mean = float(means.mean())
    return Interval(mean, float(mean - half), float(mean + half))


def _users(values: np.ndarray, name: str) -> Float[np.ndarray, "n"]:
    """Returns the mean over seeds of every user, NaN for one without a value."""
    table = np.atleast_2d(np.asarray(values, float))
    if table.ndim != 2 or not table.size or np.ndim(values) == 0:
        raise ValueError(f"{name} has shape {np.shape(values)}; expected [n] or [seeds, n]")
    missing = np.isnan(table)
    some = np.flatnonzero(missing.any(axis=0) & ~missing.all(axis=0))
    if some.size:
        raise ValueError(
            f"{name} is NaN for user {some[0]} under some seeds only; expected NaN under all seeds, or none: "
            "evaluate every seed on the same held-out items"
        )
    infinite = np.argwhere(np.isinf(table))
    if infinite.size:
        seed, user = infinite[0]
        raise ValueError(
            f"{name} holds {table[seed, user]} for user {user}; expected finite numbers or NaN"
        )
    return table.mean(axis=0)


def _known(users: Float[np.ndarray, "n"], name: str, least: int = 2) -> Float[np.ndarray, "known"]:
    """Returns the values that are not NaN, or raises ValueError if there are fewer than `least`."""
    known = users[~np.isnan(users)]
    if len(known) < least:
        raise ValueError(
            f"{name} has {len(known)} users with a value, and NaN for the others; expected at least {least}. "
            "The metrics of a user without relevant items are NaN: hold out items of more users"
        )
    return known


def _resampled_means(
    values: Float[np.ndarray, "n"], samples: int, seed: int
) -> Float[np.ndarray, "samples"]:
    """Means of `samples` resamples of the values, each of n values drawn with replacement.

    Where few values are distinct (hit rates), the counts of the values are drawn instead of the users. They
    have the distribution of counts of drawn users, at a cost that does not depend on n.
    """
    if samples < 1:
        raise ValueError(f"samples={samples}; expected at least 1, and 1000 for a 95 % interval")
    rng, size = np.random.default_rng(seed), len(values)
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= min(_FEW_VALUES, size // 8):
        return rng.multinomial(size, counts / size, samples) @ distinct / size
    means = np.empty(samples)
    step = max(1, _CELLS // size)
    for start in range(0, samples, step):
        rows = min(step, samples - start)
        drawn = rng.integers(size, size=(rows, size)) + size * np.arange(rows)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size)
        means[start : start + rows] = weights @ values / size
    return means


def _ends(means: Float[np.ndarray, "samples"], level: float) -> tuple[float, float]:
    """Returns the two quantiles that enclose the share `level` of the means."""
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _check_level(level: float) -> None:
    """Raises ValueError unless the level is between 0 and 1."""
    if not 0 < level < 1:
        raise ValueError(f"level={level}; expected a number between 0 and 1, such as 0.95")
