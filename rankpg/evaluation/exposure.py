"""How the places of all lists are shared out among the items: coverage, Lorenz curve, Gini coefficient.

x_a is how often item a had a place (among the candidates, or among what was shown) over many contexts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

__all__ = ["GroupShare", "coverage", "gini", "group_shares", "lorenz"]

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
else:
    ArrayLike = Any


def coverage(counts: ArrayLike) -> float:
    """The share of the catalogue that had a place at all (Ge, Delgado-Battenfeld and Jannach 2010).

    coverage = |{a : x_a > 0}| / N

    Args:
      counts: x_a, numbers [N] of at least 0.

    Raises:
      ValueError: as `lorenz`.

    >>> coverage([3, 0, 1, 0])
    0.5
    """
    return float(np.mean(_counts(counts) > 0))


def lorenz(counts: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The Lorenz curve: the share of all places that the poorest p of the items have (Lorenz 1905).

    L(j / N) = sum of the j smallest x_a / sum of all x_a, j = 0, ..., N

    Args:
      counts: x_a, numbers [N] of at least 0, not all of them 0.

    Returns:
      j / N and L(j / N), both [N + 1].

    Raises:
      ValueError: counts that are no list of finite numbers of at least 0, or that add up to 0.

    >>> share_of_items, share_of_places = lorenz([3, 0, 1, 0])
    >>> share_of_places.tolist()
    [0.0, 0.0, 0.0, 0.25, 1.0]
    """
    ordered = np.sort(_counts(counts))
    below = np.concatenate([[0.0], np.cumsum(ordered)])
    return np.arange(len(below)) / len(ordered), below / below[-1]


def gini(counts: ArrayLike) -> float:
    """The Gini coefficient: 0 if all items have the same, (N - 1) / N if one has everything (Gini 1912).

    G = sum_j (2 j - N - 1) x_(j) / (N sum_a x_a) = sum_{a, b} |x_a - x_b| / (2 N sum_a x_a),

    x_(j) the j-th smallest; twice the area between the Lorenz curve and the diagonal.

    Args:
      counts: as `lorenz`.

    Raises:
      ValueError: as `lorenz`.

    >>> gini([1, 1, 1, 1]), gini([0, 0, 0, 7])
    (0.0, 0.75)
    """
    ordered = np.sort(_counts(counts))
    size = len(ordered)
    weights = 2 * np.arange(1, size + 1) - size - 1
    return float(weights @ ordered / (size * ordered.sum()))


class GroupShare(NamedTuple):
    """What a group of items is, and what it gets."""

    group: str
    items: float
    """share of the catalogue"""
    places: float
    """share of all places"""

    @property
    def ratio(self) -> float:
        """Places over items: 1 where the group gets what its size would give it at random."""
        return self.places / self.items


def group_shares(counts: ArrayLike, groups: ArrayLike) -> list[GroupShare]:
    """The share of the catalogue and the share of the places of every group, the largest group first.

    Args:
      counts: as `lorenz`.
      groups: the group of every item, [N].

    Raises:
      ValueError: as `lorenz`, groups of another length, and an item whose group is None or NaN.

    >>> [(s.group, s.items, s.places, s.ratio) for s in group_shares([3, 0, 1], ["new", "old", "old"])]
    [('old', 0.667, 0.25, 0.375), ('new', 0.333, 0.75, 2.25)]
    """
    places, labels = _counts(counts), np.asarray(groups)
    if labels.shape != places.shape:
        raise ValueError(
            f"groups has shape {labels.shape}; expected one group for each of the {len(places)} items"
        )
    none = [row for row, label in enumerate(labels.tolist()) if label is None or label != label]
    if none:
        raise ValueError(
            f"groups holds {labels.tolist()[none[0]]} for item {none[0]}; expected a group for each, such as "
            "'(no group)'"
        )
    names, member = np.unique(labels, return_inverse=True)
    size = np.bincount(member)
    held = np.bincount(member, weights=places)
    order = np.argsort(-size, kind="stable")
    return [
        GroupShare(str(names[g]), float(size[g] / len(places)), float(held[g] / places.sum()))
        for g in order
    ]


def _counts(counts: ArrayLike) -> np.ndarray:
    """The counts; very large or small ones scaled, so that sums neither overflow nor lose them."""
    values = np.asarray(counts, float)
    if values.ndim != 1 or not values.size:
        raise ValueError(
            f"counts has shape {values.shape}; expected a list of numbers of at least 0, one an item"
        )
    wrong = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if wrong.size:
        raise ValueError(
            f"counts holds {values[wrong[0]]} for item {wrong[0]}; expected finite numbers of at least 0"
        )
    largest = values.max()
    if largest == 0:
        raise ValueError("counts are all 0: no item had a place, so there are no shares of places")
    return values if 2.0**-53 < largest < 2.0**53 else values / largest
