"""Calibration of inclusion probabilities: predicted probability against observed frequency.

A score approximates the inclusion probability P(a in S) of an item. In R draws of the policy the item is
among the candidates n times. Pairs of context and item with similar predictions share a bin.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rankpg.types import Float, Int

__all__ = ["INCLUSION_OF_ESTIMATOR", "ReliabilityBin", "calibration_error", "reliability"]

INCLUSION_OF_ESTIMATOR = {
    "ca_pg": "greedy",
    "ca_pg_exact": "exact",
    "ca_pg_swr": "swr",
    "top1_pg": "sum",
    "v_pg_swr": "swr",
}
"""estimator -> method of `log_inclusion` that its score uses.

`v_pg`, `v_pg_set`, `ca_pg_threshold` and `ca_pg_swap` are missing: the scores of the first two are exact
probabilities of the whole draw, and those of the others are exact given the draw's noise, so none of them
approximates an inclusion probability.
"""

EDGES = 10.0 ** np.arange(-3, 1.01, 0.25)
"""Edges of the bins: four per decade from 0.001. The method `sum` can exceed 1."""


class ReliabilityBin(NamedTuple):
    """Pairs of context and item with similar predicted probabilities."""

    pairs: int
    predicted: float
    """mean predicted probability"""
    observed: float
    """n / R over all pairs of the bin"""
    low: float
    """lower end of the 95 % interval of `observed`"""
    high: float
    """upper end of the 95 % interval of `observed`"""


def reliability(
    predicted: Float[np.ndarray, "n"],
    hits: Int[np.ndarray, "n"],
    num_draws: int,
    edges: Sequence[float] | None = None,
) -> list[ReliabilityBin]:
    """Reliability curve with Wilson intervals (Wilson 1927; DeGroot and Fienberg 1983).

    A bin of m pairs has m R trials. Items of one draw exclude each other and their probabilities differ. Both
    reduce the variance below that of m R independent trials, so the interval is conservative.

    Args:
      predicted: predicted probabilities [n]; values above 1 are allowed.
      hits: number of draws in which the item was a candidate, [n].
      num_draws: R, draws per context.
      edges: ascending bin edges [four per decade from 0.001]. Predictions below the first edge are left out;
        those above the last edge count in the last bin.

    Returns:
      The bins that hold at least one pair, in ascending order.

    Raises:
      ValueError: the shapes differ, a prediction is NaN, or a count of hits is outside 0 to R.

    >>> curve = reliability(np.array([0.1, 0.1, 0.6]), np.array([9, 13, 60]), 100, edges=[0.0, 0.5, 1.0])
    >>> [(b.pairs, b.predicted, b.observed) for b in curve]
    [(2, 0.1, 0.11), (1, 0.6, 0.6)]
    >>> (round(curve[0].low, 3), round(curve[0].high, 3))
    (0.074, 0.161)
    """
    from scipy.stats import binomtest  # slow to import

    if predicted.shape != hits.shape or predicted.ndim != 1:
        raise ValueError(
            f"predicted has shape {predicted.shape} and hits {hits.shape}; expected [n] for both"
        )
    if np.any((hits < 0) | (hits > num_draws)):
        wrong = hits[(hits < 0) | (hits > num_draws)][0]
        raise ValueError(f"hits holds {wrong}; expected 0 to num_draws={num_draws}")
    if np.any(np.isnan(predicted)):
        pair = np.flatnonzero(np.isnan(predicted))[0]
        raise ValueError(f"predicted is nan for pair {pair}; expected a probability for every pair")
    bounds = EDGES if edges is None else np.asarray(edges, float)
    bin_of = np.minimum(np.searchsorted(bounds, predicted, side="right") - 1, len(bounds) - 2)
    bins = []
    for index in np.unique(bin_of[bin_of >= 0]):
        inside = bin_of == index
        pairs, seen = int(inside.sum()), int(hits[inside].sum())
        interval = binomtest(seen, pairs * num_draws).proportion_ci(method="wilson")
        observed = seen / (pairs * num_draws)
        mean = float(predicted[inside].mean())
        bins.append(
            ReliabilityBin(pairs, mean, observed, float(interval.low), float(interval.high))
        )
    return bins


def calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Expected calibration error: the mean of |predicted - observed| over pairs, bin by bin.

    sum_b m_b |predicted_b - observed_b| / sum_b m_b  (Naeini, Cooper and Hauskrecht 2015)

    Raises:
      ValueError: no bins.

    >>> calibration_error([ReliabilityBin(3, 0.5, 0.4, 0.3, 0.5), ReliabilityBin(1, 0.1, 0.1, 0.0, 0.2)])
    0.075
    """
    if not bins:
        raise ValueError("bins is empty: every prediction is below the first edge; lower the edges")
    pairs = np.array([b.pairs for b in bins])
    gaps = np.array([abs(b.predicted - b.observed) for b in bins])
    return float(pairs @ gaps / pairs.sum())
