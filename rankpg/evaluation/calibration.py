"""Whether a probability that is claimed is the frequency that is seen: reliability curves.

A score says P(a in S) by some approximation. In R draws of the policy the item is among the candidates
n times. Pairs of context and item whose claims are alike are put into one bin.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["CLAIMS", "Bin", "calibration_error", "reliability"]

CLAIMS = {
    "ca_pg": "greedy",
    "ca_pg_exact": "exact",
    "ca_pg_swr": "swr",
    "top1_pg": "sum",
    "v_pg_swr": "swr",
}
"""estimator -> the inclusion probability (see `inclusion`) that its score stands for.

The score of `v_pg` is the exact probability of the whole draw, and that of `ca_pg_threshold` is unbiased:
they approximate nothing.
"""

EDGES = 10.0 ** np.arange(-3, 1.01, 0.25)
"""Of the bins: four a decade from 0.001; a `sum` may be above 1."""


class Bin(NamedTuple):
    """Pairs of context and item with about the same claim."""

    pairs: int
    claimed: float
    """mean of what was claimed"""
    observed: float
    """n / R over all of its pairs"""
    low: float
    high: float
    """of the 95 % interval of `observed`"""


def reliability(
    claimed: np.ndarray, hits: np.ndarray, num_draws: int, edges: Sequence[float] | None = None
) -> list[Bin]:
    """The reliability curve, with the Wilson interval of every bin (Wilson 1927; DeGroot and Fienberg 1983).

    A bin of m pairs has m R trials. Items of one draw exclude each other and their probabilities differ, both
    of which make a frequency vary less than m R independent trials would: the interval is on the safe side.

    Args:
      claimed: probabilities [n]; one above 1 is taken as it is.
      hits: in how many draws the item was a candidate, [n].
      num_draws: R, draws of each context.
      edges: ascending, of the bins; by default four a decade from 0.001. Claims below the first are left out,
        those above the last are in the last bin.

    Returns:
      The bins that hold a pair, in ascending order.

    Raises:
      ValueError: shapes that differ, claims that are no numbers, or hits that R draws cannot have.

    >>> curve = reliability(np.array([0.1, 0.1, 0.6]), np.array([9, 13, 60]), 100, edges=[0.0, 0.5, 1.0])
    >>> [(b.pairs, b.claimed, b.observed) for b in curve]
    [(2, 0.1, 0.11), (1, 0.6, 0.6)]
    >>> (round(curve[0].low, 3), round(curve[0].high, 3))
    (0.074, 0.161)
    """
    from scipy.stats import binomtest  # slow to import

    if claimed.shape != hits.shape or claimed.ndim != 1:
        raise ValueError(
            f"claimed has shape {claimed.shape} and hits {hits.shape}; expected one of each for n pairs"
        )
    if np.any((hits < 0) | (hits > num_draws)):
        raise ValueError(f"hits go up to {hits.max()}; expected 0 to num_draws, {num_draws}")
    if np.any(np.isnan(claimed)):
        pair = np.flatnonzero(np.isnan(claimed))[0]
        raise ValueError(f"claimed is nan for pair {pair}; expected a probability for each of them")
    bounds = EDGES if edges is None else np.asarray(edges, float)
    place = np.minimum(np.searchsorted(bounds, claimed, side="right") - 1, len(bounds) - 2)
    bins = []
    for index in np.unique(place[place >= 0]):
        inside = place == index
        pairs, seen = int(inside.sum()), int(hits[inside].sum())
        interval = binomtest(seen, pairs * num_draws).proportion_ci(method="wilson")
        observed = seen / (pairs * num_draws)
        mean = float(claimed[inside].mean())
        bins.append(Bin(pairs, mean, observed, float(interval.low), float(interval.high)))
    return bins


def calibration_error(bins: Sequence[Bin]) -> float:
    """The expected calibration error: mean over pairs of |claimed - observed| of their bin.

    sum_b m_b |claimed_b - observed_b| / sum_b m_b  (Naeini, Cooper and Hauskrecht 2015)

    Raises:
      ValueError: no bins.

    >>> calibration_error([Bin(3, 0.5, 0.4, 0.3, 0.5), Bin(1, 0.1, 0.1, 0.0, 0.2)])
    0.075
    """
    if not bins:
        raise ValueError("there are no bins: every claim is below the first edge")
    pairs = np.array([b.pairs for b in bins])
    gaps = np.array([abs(b.claimed - b.observed) for b in bins])
    return float(pairs @ gaps / pairs.sum())
