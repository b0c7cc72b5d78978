"""Small policies for the tests of the mathematics, and the chi-square test of their draws."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import oracle

INF = np.inf
LEVEL = 1e-4
"""Level of every chi-square test. The keys are fixed, so a test that passes today passes tomorrow."""


def normal(seed: int, experts: int, items: int, sd: float = 1.0) -> np.ndarray:
    """Normal logits, float64[M, N]."""
    return sd * np.random.default_rng(seed).normal(size=(experts, items))


def masked(logits: np.ndarray, *places: tuple[int | slice, int]) -> np.ndarray:
    """A copy with -inf at the given (expert, item) places."""
    logits = logits.copy()
    for place in places:
        logits[place] = -INF
    return logits


def p_value(drawn: np.ndarray, logits: np.ndarray, quotas: oracle.Quotas) -> float:
    """Chi-square p-value of ordered draws, int[n, K], under the policy."""
    _, expected = oracle.probabilities(logits, quotas)
    return oracle.chi_square_p_value(np.asarray(drawn), logits.shape[1], expected)


def slow(*case):
    """A case of `pytest.mark.parametrize` that only the slow tests run."""
    return pytest.param(*case, marks=pytest.mark.slow)
