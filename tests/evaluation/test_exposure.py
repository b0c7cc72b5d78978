"""Coverage, Lorenz curve, Gini coefficient and group shares against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from rankpg.evaluation import coverage, gini, group_shares, lorenz

ENABLE_X64 = False


@pytest.mark.parametrize("seed", range(5))
def test_gini_matches_pairwise_difference_and_lorenz_area(seed):
    counts = np.random.default_rng(seed).geometric(0.3, 9) - 1
    total = sum(abs(a - b) for a in counts for b in counts)
    expected = total / (2 * 9 * counts.sum())
    assert gini(counts) == pytest.approx(expected)
    items, places = lorenz(counts)
    area = sum((places[1:] + places[:-1]) / 2 * np.diff(items))
    assert gini(counts) == pytest.approx(1 - 2 * area)
    assert coverage(counts) == sum(c > 0 for c in counts) / 9


def test_group_shares_sum_to_one():
    shares = group_shares([2, 0, 1, 5], ["b", "a", "a", "c"])
    assert [(s.group, s.item_share, s.exposure_share) for s in shares] == [
        ("a", 0.5, 0.125), ("b", 0.25, 0.25), ("c", 0.25, 0.625),
    ]  # fmt: skip
    assert sum(s.ratio * s.item_share for s in shares) == pytest.approx(1)


@pytest.mark.parametrize("counts", [[], [1.0, -1.0], [np.nan, 1.0], [[1.0]], [0, 0]])
def test_invalid_counts_are_rejected(counts):
    with pytest.raises(ValueError, match="counts"):
        gini(counts)


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ([], r"counts has shape \(0,\)"),
        ([1, np.nan], "counts holds nan for item 1"),
        ([1, 2, -3.5], r"counts holds -3\.5 for item 2"),
        ([np.inf], "counts holds inf for item 0"),
    ],
)
def test_error_names_the_invalid_count(counts, words):
    for function in (gini, coverage, lorenz):
        with pytest.raises(ValueError, match=words):
            function(counts)


@pytest.mark.parametrize("size", [1e308, 1e-300, 1.0])
def test_measures_are_scale_invariant(size):
    counts = size * np.array([1.0, 0.5, 1.0, 0.0])
    assert gini([size] * 3) == pytest.approx(0)
    assert gini([size, 0]) == gini([5e-324, 0]) == 0.5
    assert gini(counts) == pytest.approx(gini([2, 1, 2, 0]))
    assert lorenz(counts)[1] == pytest.approx(lorenz([2, 1, 2, 0])[1])
    assert group_shares(counts, list("abab"))[0].exposure_share == pytest.approx(0.8)


@pytest.mark.parametrize("groups", [["a", None, "b"], [1.0, np.nan, 2.0]])
def test_error_names_the_item_without_a_group(groups):
    with pytest.raises(ValueError, match=r"groups holds (None|nan) for item 1"):
        group_shares([1, 2, 3], groups)
