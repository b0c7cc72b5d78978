"""Rewards of features, clicks and groups of the items of a shown list, with the tables that they need.

The formulas and their sources stand in `list_gains`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from flax import struct

from rankpg.environments import list_gains
from rankpg.environments.list_reward import ListReward, of_context
from rankpg.types import Array, Bool, Float, Int, PRNGKey, record

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
else:  # checked here, with messages of our own
    ArrayLike = Any

__all__ = ["cascade", "dependent_clicks", "diversity", "exposure_share", "log_det", "rnd"]


@record
class Diversity(ListReward):
    """Intra-list diversity; see `diversity`."""

    features: Float[Array, "N D"]

    name = "intra-list diversity"

    def gains(self, context: Int[Array, ""], items: Int[Array, "L"]) -> Float[Array, "L"]:
        del context
        return list_gains.diversity_gains(list_gains.cosine_distances(self.features[items]))

    def take_items(self, rows: np.ndarray) -> ListReward:
        return dataclasses.replace(self, features=self.features[rows])

    def append_contexts(self, count: int) -> ListReward:
        del count
        return self


@record
class LogDet(Diversity):
    """Log-determinant of a kernel; see `log_det`."""

    ridge: float = struct.field(pytree_node=False, default=1e-3)

    name = "log-determinant"

    def gains(self, context: Int[Array, ""], items: Int[Array, "L"]) -> Float[Array, "L"]:
        del context
        rows = self.features[items]
        return list_gains.log_det_gains(rows @ rows.T, self.ridge)


def diversity(features: ArrayLike) -> ListReward:
    """Reward intra-list diversity, the mean cosine distance; see `list_gains.diversity_gains`.

    Args:
      features: rows of the items, [N, D].

    >>> diversity(np.eye(3)).gains(jnp.int32(0), jnp.array([2, 0])).tolist()
    [0.0, 1.0]
    """
    return Diversity(_features(features))


def log_det(
    features: ArrayLike, *, quality: ArrayLike | None = None, ridge: float | int = 1e-3
) -> ListReward:
    """Reward log-determinant of a DPP with the kernel q_i q_j <x_i, x_j>; see `list_gains.log_det_gains`.

    Args:
      features: x of the items, [N, D]; rows of length 1 make it a kernel of cosines.
      quality: q of each item, [N]; 1 for all by default.
      ridge: as for `list_gains.log_det_gains`.

    Raises:
      ValueError: another shape, or a ridge that is not above 0.
    """
    rows = _features(features)
    if not ridge > 0:
        raise ValueError(f"ridge={ridge}; expected a number above 0, such as 1e-3")
    if quality is not None:
        worth = np.asarray(quality, np.float32)
        if worth.shape != rows.shape[:1]:
            raise ValueError(
                f"quality has the shape {list(worth.shape)}; expected [{len(rows)}], one number for each item"
            )
        rows = rows * jnp.asarray(worth)[:, None]
    return LogDet(rows, float(ridge))


def _features(features: ArrayLike) -> Float[Array, "N D"]:
    rows = np.asarray(features, np.float32)
    if rows.ndim != 2 or not np.isfinite(rows).all():
        raise ValueError(
            f"features has the shape {list(rows.shape)}; expected finite numbers [items, features]"
        )
    return jnp.asarray(rows)


@record
class Clicks(ListReward):
    """Clicks of a reader who stops; see `dependent_clicks`."""

    attraction: Float[Array, "num_contexts N"]
    continuation: Float[Array, "positions"]

    name = "clicks"

    def gains(self, context: Int[Array, ""], items: Int[Array, "L"]) -> Float[Array, "L"]:
        return list_gains.expected_clicks(*self._inputs(context, items))

    def sample(
        self, key: PRNGKey, context: Int[Array, ""], items: Int[Array, "L"]
    ) -> Float[Array, "L"]:
        return list_gains.sampled_clicks(key, *self._inputs(context, items))

    def _inputs(
        self, context: Int[Array, ""], items: Int[Array, "L"]
    ) -> tuple[Float[Array, "L"], Float[Array, "L"]]:
        length, known = items.shape[0], self.continuation.shape[0]
        if known not in (1, length) and known < length:
            raise ValueError(
                f"continuation holds {known} probabilities, and the list has {length} positions; expected "
                "one for each, or a single number"
            )
        lasting = jnp.broadcast_to(self.continuation[:length], (length,))
        return of_context(self.attraction, context)[items], lasting

    def take_items(self, rows: np.ndarray) -> ListReward:
        return dataclasses.replace(self, attraction=self.attraction[:, rows])


def cascade(attraction: ArrayLike) -> ListReward:
    """Reward of the cascade model: a reader clicks at most once; see `list_gains.expected_clicks`.

    Training samples the click, evaluation takes its probability.

    Args:
      attraction: probability of a click of a reader who looks at an item, [N] or [contexts, N].

    >>> cascade([[0.5, 0.2]]).gains(jnp.int32(0), jnp.array([1, 0])).round(4).tolist()
    [0.2, 0.4]
    """
    return dependent_clicks(attraction, 0.0)


def dependent_clicks(attraction: ArrayLike, continuation: ArrayLike) -> ListReward:
    """Reward clicks of the dependent click model; see `list_gains.expected_clicks`.

    Args:
      attraction: as for `cascade`.
      continuation: probability of going on after a click, a number or one for each position.

    Raises:
      ValueError: another shape, or a number that is not a probability.
    """
    tables = {"attraction": (attraction, 2), "continuation": (continuation, 1)}
    checked = []
    for name, (given, rank) in tables.items():
        values = np.asarray(given, np.float32)
        if values.ndim > rank or not np.all((values >= 0) & (values <= 1)):
            shape = "[items] or [contexts, items]" if rank == 2 else "one, or one for each position"
            raise ValueError(
                f"{name} has the shape {list(values.shape)}; expected probabilities, {shape}"
            )
        checked.append(jnp.asarray(values.reshape((1,) * (rank - values.ndim) + values.shape)))
    return Clicks(*checked)


@record
class Parity(ListReward):
    """Minus rND of a group; see `rnd`."""

    in_group: Bool[Array, "N"]
    share: float = struct.field(pytree_node=False)
    every: int = struct.field(pytree_node=False)

    name = "minus rND"

    def gains(self, context: Int[Array, ""], items: Int[Array, "L"]) -> Float[Array, "L"]:
        del context
        total = self.in_group.shape[0]
        largest = _largest_difference(items.shape[0], total, round(self.share * total), self.every)
        return list_gains.rnd_gains(self.in_group[items], self.share, largest, self.every)

    def append_contexts(self, count: int) -> ListReward:
        del count
        return self


def rnd(in_group: ArrayLike, *, every: int = 10) -> ListReward:
    """Reward minus rND, the penalty on a group's share at cut-offs; see `list_gains.rnd_gains`.

    Args:
      in_group: membership of the items, bool[N].
      every: distance of the cut-offs, from 2 to L.

    Raises:
      ValueError: another shape or type, or a group that is empty or the catalogue.

    >>> reward = rnd(np.array([True, True, False, False]), every=2)
    >>> reward.gains(jnp.int32(0), jnp.array([0, 1, 2, 3])).tolist()
    [0.0, -1.0, 0.0, -0.0]
    """
    members = np.asarray(in_group)
    if members.ndim != 1 or members.dtype != bool or not 0 < members.sum() < len(members):
        raise ValueError(
            f"in_group is {members.dtype}{list(members.shape)} with {int(members.sum())} members; expected "
            "bool[items], at least one item inside the group and one outside it"
        )
    return Parity(jnp.asarray(members), float(members.mean()), int(every))


def _largest_difference(length: int, total: int, members: int, every: int) -> float:
    """Returns Z of rND: the largest sum over all lists of `length` of these items.

    The sum depends on the counts c at the cut-offs alone, each of which exceeds the one before by 0 to
    `every`; so the maximum is a longest path over (cut-off, count).
    """
    best = {0: 0.0}
    for cutoff in range(every, length + 1, every):
        fewest = max(0, cutoff - (total - members))
        reached: dict[int, float] = {}
        for count, value in best.items():
            for more in range(max(count, fewest), min(count + every, members) + 1):
                here = abs(more / cutoff - members / total) / np.log2(cutoff)
                reached[more] = max(reached.get(more, 0.0), value + here)
        best = reached
    return max(best.values(), default=0.0) or 1.0


@record
class ExposureShare(ListReward):
    """Minus the deviation of the groups' exposure; see `exposure_share`."""

    groups: Float[Array, "N G"]
    targets: Float[Array, "G"]

    name = "minus the deviation of exposure"

    def gains(self, context: Int[Array, ""], items: Int[Array, "L"]) -> Float[Array, "L"]:
        del context
        return list_gains.exposure_share_gains(self.groups[items], self.targets)

    def take_items(self, rows: np.ndarray) -> ListReward:
        return dataclasses.replace(self, groups=self.groups[rows])

    def append_contexts(self, count: int) -> ListReward:
        del count
        return self


def exposure_share(groups: ArrayLike, *, targets: ArrayLike | None = None) -> ListReward:
    """Reward minus the deviation of the groups' exposure; see `list_gains.exposure_share_gains`.

    Args:
      groups: group of each item, int[N], from 0.
      targets: share of each group, [G], adding up to 1; by default its share of the catalogue.

    Raises:
      ValueError: another shape or type, or shares that do not add up to 1.

    >>> exposure_share([0, 0, 1]).gains(jnp.int32(0), jnp.array([0])).round(4).tolist()
    [-0.3333]
    """
    of_item = np.asarray(groups)
    if of_item.ndim != 1 or of_item.dtype.kind not in "iu" or (of_item < 0).any():
        raise ValueError(
            f"groups is {of_item.dtype}{list(of_item.shape)}; expected whole numbers from 0, [items]"
        )
    count = int(of_item.max(initial=0)) + 1
    counts = np.bincount(of_item, minlength=count)
    shares = np.asarray(counts / counts.sum() if targets is None else targets, np.float32)
    if len(shares) > count:
        count = len(shares)
    if shares.shape != (count,) or not np.all(shares >= 0) or abs(shares.sum() - 1) > 1e-3:
        raise ValueError(
            f"targets={shares.tolist()}; expected {count} shares of at least 0 that add up to 1, one "
            "for each group"
        )
    return ExposureShare(jnp.asarray(np.eye(count, dtype=np.float32)[of_item]), jnp.asarray(shares))
