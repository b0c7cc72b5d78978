"""Reliability curves on draws from known probabilities."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rankpg.evaluation import reliability

ENABLE_X64 = False


def test_intervals_cover_true_probabilities_only():
    """3 or more of 20 intervals at 95 % miss with probability 0.08; predictions 20 % off miss in all bins."""
    rng = np.random.default_rng(0)
    predicted = rng.uniform(0.05, 0.8, 2000)
    hits = rng.binomial(1000, predicted)
    edges = np.linspace(0.05, 0.8, 21).tolist()
    for factor, missing in ((1.0, range(3)), (1.2, range(18, 22))):
        bins = reliability(predicted * factor, hits, 1000, [e * factor for e in edges])
        outside = sum(not b.low <= b.predicted <= b.high for b in bins)
        assert outside in missing


def test_reliability_has_wilson_intervals_and_validates_input():
    (found,) = reliability(np.array([0.5, 1e-5]), np.array([45, 3]), 100)
    z, n, p = 1.959964, 100, 0.45
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert (found.pairs, found.observed) == (1, 0.45)
    assert (found.low, found.high) == pytest.approx((middle - half, middle + half), abs=1e-6)
    with pytest.raises(ValueError, match="hits"):
        reliability(np.array([0.5]), np.array([101]), 100)
    with pytest.raises(ValueError, match="predicted is nan for pair 1"):
        reliability(np.array([0.5, np.nan]), np.array([1, 2]), 100)
