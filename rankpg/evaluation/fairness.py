"""Statistical parity of rankings: rND, rKL and rRD (Yang and Stoyanovich 2017).

N items, of which S+ are in the group; c_i of them are among the first i of a ranking. At the cut-offs
i = s, 2 s, ... (s = 10 in the paper) the distance between the first i items and the catalogue is discounted:

    measure = 1/Z * sum_i d_i(c_i) / log2(i)

    rND   d_i(c) = | c / i - S+ / N |
    rKL   d_i(c) = c/i log( (c/i) / (S+/N) ) + (1 - c/i) log( (1 - c/i) / (1 - S+/N) ),   0 log 0 = 0
    rRD   d_i(c) = | c / (i - c) - S+ / (N - S+) |,   a fraction with 0 in either place counts as 0

0 is parity at every cut-off. Z is the largest value that any ranking of these items has, so 1 is the least
fair ranking. Z is exact: the sum depends only on the counts at the cut-offs, and from one cut-off to the
next a count grows by 0 to s, so the maximum is a longest path over (cut-off, count).

rND and rKL are symmetric in the group and the rest. rRD is meant for a group that is the minority.

Ke Yang and Julia Stoyanovich, "Measuring fairness in ranked outputs", SSDBM 2017.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["MEASURES", "largest_sum", "rkl", "rnd", "rrd"]

Distance = Callable[[np.ndarray, np.ndarray, int, int], np.ndarray]
"""d_i(c) as a function of counts, cut-offs, S+ and N."""


def rnd(
    in_group: np.ndarray,
    num_items: int | None = None,
    num_in_group: int | None = None,
    every: int = 10,
) -> np.ndarray:
    """Normalised discounted difference (rND) of rankings; the module docstring has the formula.

    Args:
      in_group: membership of the item at each position, best first, bool[..., n].
      num_items: N, if the ranking holds only the first n of N items [n].
      num_in_group: S+ [the group's items in the ranking].
      every: s, the distance between cut-offs, in positions.

    Returns:
      A number in [0, 1] for every ranking, [...].

    Raises:
      ValueError: the group is empty or is the catalogue, the counts contradict each other, there is no
        ranking, or `every` is not a whole number from 2 to n.

    >>> ranking = np.array([1, 1, 1, 1, 0, 0, 0, 0], bool)
    >>> float(rnd(ranking, every=2)), float(rnd(ranking[::-1], every=2))  # the least fair orders
    (1.0, 1.0)
    >>> float(rnd(np.array([1, 0, 0, 1, 0, 1, 1, 0], bool), every=2))  # parity at every cut-off
    0.0
    """
    return _measure(_difference, in_group, num_items, num_in_group, every)


def rkl(
    in_group: np.ndarray,
    num_items: int | None = None,
    num_in_group: int | None = None,
    every: int = 10,
) -> np.ndarray:
    """Normalised discounted Kullback-Leibler divergence (rKL) of rankings.

    Args, Returns, Raises: see `rnd`.

    >>> float(rkl(np.array([1, 0, 1, 1, 0, 0], bool), every=2).round(4))
    0.0862
    """
    return _measure(_divergence, in_group, num_items, num_in_group, every)


def rrd(
    in_group: np.ndarray,
    num_items: int | None = None,
    num_in_group: int | None = None,
    every: int = 10,
) -> np.ndarray:
    """Normalised discounted ratio (rRD) of rankings.

    Args, Returns, Raises: see `rnd`.

    >>> float(rrd(np.array([1, 0, 0, 0, 0, 1], bool), every=2).round(4))
    0.7778
    """
    return _measure(_ratio, in_group, num_items, num_in_group, every)


def _difference(count: np.ndarray, cutoff: np.ndarray, members: int, total: int) -> np.ndarray:
    """Distance d_i(c) of rND."""
    return np.abs(count / cutoff - members / total)


def _divergence(count: np.ndarray, cutoff: np.ndarray, members: int, total: int) -> np.ndarray:
    """Distance d_i(c) of rKL."""
    from scipy.special import rel_entr  # slow to import

    here, whole = count / cutoff, members / total
    return rel_entr(here, whole) + rel_entr(1 - here, 1 - whole)


def _ratio(count: np.ndarray, cutoff: np.ndarray, members: int, total: int) -> np.ndarray:
    """Distance d_i(c) of rRD."""
    rest = cutoff - count
    here = np.where(rest > 0, count / np.maximum(rest, 1), 0)
    return np.abs(here - members / (total - members))


MEASURES: dict[str, Callable[..., np.ndarray]] = {"rND": rnd, "rKL": rkl, "rRD": rrd}
"""name -> function; the report has a column for each"""


def _measure(
    distance: Distance,
    in_group: np.ndarray,
    num_items: int | None,
    num_in_group: int | None,
    every: int,
) -> np.ndarray:
    """Validates a ranking and returns its normalised, discounted distance from parity."""
    ranking = np.asarray(in_group)
    if ranking.dtype != bool or not ranking.ndim:
        raise ValueError(
            f"in_group has dtype {ranking.dtype} and shape {ranking.shape}; expected bool[..., n], best first"
        )
    if not ranking.size:
        raise ValueError(
            f"in_group has shape {ranking.shape}: the ranking is empty; expected bool[..., n], n at least 1"
        )
    length = ranking.shape[-1]
    total = length if num_items is None else num_items
    listed = np.asarray(ranking.sum(axis=-1))
    members = int(listed.flat[0]) if num_in_group is None else num_in_group
    _check(listed, length, total, members, every)
    cutoffs = np.arange(every, length + 1, every)
    counts = np.cumsum(ranking, axis=-1)[..., cutoffs - 1]
    terms = distance(counts, cutoffs, members, total) / np.log2(cutoffs)
    largest = largest_sum(distance, cutoffs, members, total)
    if largest == 0:
        raise ValueError(
            f"every={every} leaves only the cut-offs {cutoffs.tolist()}, where all rankings of {total} items "
            "have parity; use a smaller every="
        )
    return np.asarray(terms.sum(axis=-1) / largest)


def largest_sum(distance: Distance, cutoffs: np.ndarray, members: int, total: int) -> float:
    """Normaliser Z: the largest sum of d_i(c_i) / log2(i) over all rankings of these items.

    best_j(c) = d_j(c) / log2(i_j) + max over c' in c - (i_j - i_{j-1}), ..., c of best_{j-1}(c')
    """
    counts = np.arange(members + 1)
    best = np.where(counts == 0, 0.0, -np.inf)
    before = 0
    for cutoff in cutoffs:
        step = min(int(cutoff) - before, members)
        padded = np.concatenate([np.full(step, -np.inf), best])
        reachable = np.lib.stride_tricks.sliding_window_view(padded, step + 1).max(axis=1)
        possible = (counts <= cutoff) & (cutoff - counts <= total - members)
        here = np.minimum(counts, cutoff)  # larger counts are not possible
        gain = distance(here, np.asarray(cutoff), members, total) / np.log2(cutoff)
        best = np.where(possible, reachable + gain, -np.inf)
        before = int(cutoff)
    return float(best.max())


def _check(listed: np.ndarray, length: int, total: int, members: int, every: int) -> None:
    """Rejects cut-offs and counts that no ranking can have."""
    if not isinstance(every, int | np.integer) or not 2 <= every <= length:
        raise ValueError(
            f"every={every}; expected a whole number from 2 (log2(1) is 0) to the length of the ranking, "
            f"{length}"
        )
    if total < length:
        raise ValueError(
            f"num_items={total}; expected at least {length}, the length of the ranking"
        )
    if not 0 < members < total:
        raise ValueError(
            f"the group has {members} of {total} items; expected at least one item inside the group and one "
            "outside it"
        )
    few = listed < members - (total - length)
    many = listed > members
    if np.any(few | many):
        wrong = int(listed[few | many].flat[0])
        raise ValueError(
            f"a ranking of {length} of {total} items holds {wrong} items of the group, which has {members}; "
            "expected rankings of the same items"
        )
