"""Distribution of exposure over items: coverage, Lorenz curve, Gini coefficient, shares of groups.

The exposure x_a of item a is the number of contexts in which it is a candidate, or is shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rankpg.types import Float

__all__ = ["GroupShare", "coverage", "gini", "group_shares", "lorenz"]

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
else:
    ArrayLike = Any


def coverage(counts: ArrayLike) -> float:
    """Share of the catalogue with any exposure (Ge, Delgado-Battenfeld and Jannach 2010).

    coverage = |{a : x_a > 0}| / N

    Args:
      counts: exposures x_a >= 0, [N], not all of them 0.

    Raises:
      ValueError: see `lorenz`.

    >>> coverage([3, 0, 1, 0])
    0.5
    """
    return float(np.mean(_counts(counts) > 0))


def lorenz(counts: ArrayLike) -> tuple[Float[np.ndarray, "points"], Float[np.ndarray, "points"]]:
    """Lorenz curve: share of all exposure that the least exposed items have (Lorenz 1905).

    L(j / N) = sum of the j smallest x_a / sum of all x_a, j = 0, ..., N

    Args:
      counts: exposures x_a >= 0, [N], not all of them 0.

    Returns:
      j / N and L(j / N), both [N + 1].

    Raises:
      ValueError: counts is not one-dimensional, is empty, holds negative or non-finite numbers, or is all 0.

    >>> share_of_items, share_of_exposure = lorenz([3, 0, 1, 0])
    >>> share_of_exposure.tolist()
    [0.0, 0.0, 0.0, 0.25, 1.0]
    """
    ordered = np.sort(_counts(counts))
    below = np.concatenate([[0.0], np.cumsum(ordered)])
    return np.arange(len(below)) / len(ordered), below / below[-1]


def gini(counts: ArrayLike) -> float:
    """Gini coefficient: 0 for equal exposure, (N - 1) / N if one item has all of it (Gini 1912).

    G = sum_j (2 j - N - 1) x_(j) / (N sum_a x_a) = sum_{a, b} |x_a - x_b| / (2 N sum_a x_a),

    with x_(j) the j-th smallest exposure. G is twice the area between the Lorenz curve and the diagonal.

    Args:
      counts: see `lorenz`.

    Raises:
      ValueError: see `lorenz`.

    >>> gini([1, 1, 1, 1]), gini([0, 0, 0, 7])
    (0.0, 0.75)
    """
    ordered = np.sort(_counts(counts))
    size = len(ordered)
    weights = 2 * np.arange(1, size + 1) - size - 1
    return float(weights @ ordered / (size * ordered.sum()))


class GroupShare(NamedTuple):
    """Size and exposure of a group of items."""

    group: str
    item_share: float
    """share of the catalogue"""
    exposure_share: float
    """share of all exposure"""

    @property
    def ratio(self) -> float:
        """Exposure share over item share: 1 if the exposure is proportional to the group's size."""
        return self.exposure_share / self.item_share


def group_shares(counts: ArrayLike, groups: ArrayLike) -> list[GroupShare]:
    """Share of the catalogue and of the exposure of every group, largest group first.

    Args:
      counts: see `lorenz`.
      groups: group of every item, [N].

    Raises:
      ValueError: see `lorenz`; groups has another length; a group is None or NaN.

    >>> [(s.group, s.item_share, s.exposure_share) for s in group_shares([3, 0, 1], ["new", "old", "old"])]
    [('old', 0.667, 0.25), ('new', 0.333, 0.75)]
    """
    exposure, labels = _counts(counts), np.asarray(groups)
    if labels.shape != exposure.shape:
        raise ValueError(
            f"groups has shape {labels.shape}; expected [{len(exposure)}], one group per item"
        )
    missing = [row for row, label in enumerate(labels.tolist()) if label is None or label != label]
    if missing:
        raise ValueError(
            f"groups holds {labels.tolist()[missing[0]]} for item {missing[0]}; expected a group for every "
            "item, such as '(no group)'"
        )
    names, member = np.unique(labels, return_inverse=True)
    size = np.bincount(member)
    held = np.bincount(member, weights=exposure)
    order = np.argsort(-size, kind="stable")
    return [
        GroupShare(str(names[g]), float(size[g] / len(exposure)), float(held[g] / exposure.sum()))
        for g in order
    ]


def _counts(counts: ArrayLike) -> Float[np.ndarray, "N"]:
    """Returns validated counts, rescaled where they are so large or small that a sum would lose them."""
    values = np.asarray(counts, float)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"counts has shape {values.shape}; expected [N], one number per item")
    wrong = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if wrong.size:
        raise ValueError(
            f"counts holds {values[wrong[0]]} for item {wrong[0]}; expected finite numbers >= 0"
        )
    largest = values.max()
    if largest == 0:
        raise ValueError("counts is 0 for every item; expected at least one item with exposure")
    return values if 2.0**-53 < largest < 2.0**53 else values / largest
