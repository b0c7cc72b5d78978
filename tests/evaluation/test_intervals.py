"""Intervals against exact resampling distributions, a loop, known quantiles, and their coverage."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from rankpg.evaluation import intervals
from rankpg.evaluation.intervals import (
    _resampled_means,
    bootstrap_interval,
    paired_difference,
    seeds_interval,
)

ENABLE_X64 = False


def distance(points, exact, resampled):
    """Kolmogorov's statistic: above 2.2 with a probability below 1e-3, also for discrete distributions."""
    empirical = np.searchsorted(np.sort(resampled), points + 1e-9) / len(resampled)
    return np.abs(empirical - exact).max() * np.sqrt(len(resampled))


def test_resampled_means_have_the_exact_distribution():
    values = [0.0, 1.0, 2.5, 4.25, 9.0]
    exact = np.sort(np.mean(list(itertools.product(values, repeat=5)), axis=1))
    below = np.searchsorted(exact, exact + 1e-9) / len(exact)
    assert distance(exact, below, _resampled_means(np.array(values), 20000, 1)) < 2.2
    values[-1] += 0.5  # a control that fails
    assert distance(exact, below, _resampled_means(np.array(values), 20000, 1)) > 2.2


@pytest.mark.parametrize("few_values", [0, 1 << 10])
def test_resampled_hit_rates_are_binomial(few_values, monkeypatch):
    """Both ways to draw, by users and by distinct values, have the distribution of 9 hits among 24 users."""
    monkeypatch.setattr(intervals, "_FEW_VALUES", few_values)
    means = _resampled_means((np.arange(24) % 8 < 3).astype(float), 20000, 1)
    hits = np.arange(25)

    def below(p):
        return np.cumsum([math.comb(24, h) * p**h * (1 - p) ** (24 - h) for h in hits])

    assert distance(hits / 24, below(9 / 24), means) < 2.2
    assert distance(hits / 24, below(10 / 24), means) > 2.2  # a control that fails


def test_interval_matches_a_loop(monkeypatch):
    monkeypatch.setattr(intervals, "_CELLS", 300)  # blocks of 7 resamples, the last one shorter
    values = np.random.default_rng(0).gamma(2.0, size=40)
    rng = np.random.default_rng(5)
    means = [np.mean([values[rng.integers(40)] for _ in range(40)]) for _ in range(3000)]
    interval = bootstrap_interval(values, level=0.9, samples=20000, seed=3)
    assert interval.mean == pytest.approx(values.mean())
    spread = np.std(means)
    np.testing.assert_allclose(
        [interval.low, interval.high], np.quantile(means, [0.05, 0.95]), atol=0.2 * spread
    )  # 5 standard errors of the 5 % quantile of 3000 means


def test_users_without_a_value_are_left_out():
    values = np.random.default_rng(0).normal(size=30)
    with_gaps = np.insert(values, [3, 17, 30], np.nan)
    assert bootstrap_interval(with_gaps) == bootstrap_interval(values)


def test_seeds_are_averaged_per_user_first():
    table = np.random.default_rng(0).normal(size=(4, 30))
    assert bootstrap_interval(table) == bootstrap_interval(table.mean(axis=0))
    assert paired_difference(table, table[0]) == paired_difference(table.mean(axis=0), table[0])


def test_resamples_depend_on_the_seed_only():
    values = np.random.default_rng(0).normal(size=30)
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)


def test_paired_difference_cancels_what_users_share():
    rng = np.random.default_rng(0)
    hardness, gap = rng.normal(scale=10, size=200), rng.normal(0.1, 0.2, 200)
    difference = paired_difference(hardness + gap, hardness)
    alone = bootstrap_interval(gap)
    np.testing.assert_allclose(
        [difference.mean, difference.low, difference.high], [alone.mean, alone.low, alone.high]
    )
    assert difference.excludes_zero
    assert difference.probability == 1
    reverse = paired_difference(hardness, hardness + gap)
    assert (reverse.low, reverse.high) == pytest.approx((-difference.high, -difference.low))
    assert reverse.excludes_zero
    assert reverse.probability == 0


def test_equal_systems_do_not_differ():
    values = np.random.default_rng(0).random(50)
    difference = paired_difference(values, values)
    assert (difference.mean, difference.low, difference.high) == (0, 0, 0)
    assert difference.probability == 0.5
    assert not difference.excludes_zero


def test_probability_counts_ties_half():
    """Resamples of (+1, -1): one of 4 has a mean above 0, and two have 0."""
    difference = paired_difference(np.array([1.0, 0.0]), np.array([0.0, 1.0]), samples=4000)
    assert difference.probability == pytest.approx(0.5, abs=0.03)
    skewed = paired_difference(np.array([3.0, 0.0]), np.array([0.0, 1.0]), samples=4000)
    assert skewed.probability == pytest.approx(0.75, abs=0.035)


def test_seeds_interval_has_student_quantiles():
    """Means over users of 1, 2, 3 and 6; t(3) = 3.182446 at 97.5 % and 2.353363 at 95 %."""
    values = np.array([[0.0, 2.0], [1.0, 3.0], [2.0, 4.0], [3.0, 9.0]])
    values = np.insert(values, 1, np.nan, axis=1)
    error = np.sqrt((4 + 1 + 0 + 9) / 3) / 2
    for level, t in [(0.95, 3.182446), (0.9, 2.353363)]:
        interval = seeds_interval(values, level=level)
        assert interval.mean == 3
        assert interval.low == pytest.approx(3 - t * error, rel=1e-5)
        assert interval.high == pytest.approx(3 + t * error, rel=1e-5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: bootstrap_interval(np.full(4, np.nan)), "values has 0 users with a value.*hold out"),
        (lambda: bootstrap_interval(np.array([1.0, np.nan])), "values has 1 users with a value"),
        (lambda: bootstrap_interval(np.array([1.0, -np.inf])), "values holds -inf for user 1"),
        (lambda: bootstrap_interval(np.array([[1.0, 2.0], [1.0, np.nan]])), "user 1 under some seeds"),
        (lambda: bootstrap_interval(np.zeros((2, 2, 2))), r"values has shape \(2, 2, 2\)"),
        (lambda: bootstrap_interval(np.zeros(0)), r"values has shape \(0,\)"),
        (lambda: bootstrap_interval(np.arange(3.0), level=95.0), "level=95.0; expected a number between"),
        (lambda: bootstrap_interval(np.arange(3.0), samples=0), "samples=0"),
        (lambda: paired_difference(np.arange(3.0), np.arange(4.0)), "first has 3 users and second 4"),
        (
            lambda: paired_difference(np.array([1.0, 2, 3]), np.array([1.0, np.nan, 3])),
            "first holds 2.0 and second nan for user 1",
        ),
        (lambda: paired_difference(np.full(3, np.nan), np.full(3, np.nan)), "first and second has 0"),
        (lambda: seeds_interval(np.ones((1, 5))), r"values has shape \(1, 5\).*at least 2 seeds"),
        (lambda: seeds_interval(np.full((2, 5), np.nan)), "values has 0 users with a value"),
        (lambda: seeds_interval(np.ones((2, 5)), level=1.0), "level=1.0"),
    ],
)  # fmt: skip
def test_error_names_the_argument(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.slow
def test_intervals_cover_the_mean_at_their_level():
    """Experiments with 80 users each, for which a percentile interval covers about 0.5 % too little."""
    rng = np.random.default_rng(0)
    trials = 1500  # a standard error of 0.6 %
    for level in (0.95, 0.8):
        covered = paired = seeds = 0
        for trial in range(trials):
            first, shared = rng.normal(0.3, 1, 80), rng.normal(0, 5, 80)
            interval = bootstrap_interval(first, level=level, samples=1000, seed=trial)
            covered += interval.low <= 0.3 <= interval.high
            gap = paired_difference(first + shared, shared, level=level, samples=1000, seed=trial)
            paired += gap.low <= 0.3 <= gap.high
            by_seed = rng.normal(0.3, 1, 4)[:, None] + np.array([-1.0, 1.0])
            interval = seeds_interval(by_seed, level=level)
            seeds += interval.low <= 0.3 <= interval.high
        deviation = 5 * np.sqrt(level * (1 - level) / trials)
        assert abs(seeds / trials - level) < deviation
        for share in (covered / trials, paired / trials):
            assert level - 0.01 - deviation < share < level + deviation
