"""Features of pairs of a user and an item, from histories alone, for a re-ranker that is fitted to them.

Every feature is known at a moment of the user: it reads the user's items before the moment, and statistics of
items over the histories of the training users, which end where the moment, or the training part, does.
So a pair that is the feedback of a moment adds nothing to its own features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from rankpg.baselines.neighbours import item_similarities
from rankpg.config.interaction_settings import PAIR_FEATURES
from rankpg.environments.interactions import Interactions, Parts, users_and_places

__all__ = ["FEATURES", "ItemStatistics", "histories", "pair_features"]

FEATURES = PAIR_FEATURES
"""Names of the features:

    item_popularity     log(1 + number of histories with the item)
    item_recency        share of these in which it is among the last 20 items
    near_recent_items   mean similarity to the user's last 20 items (item-based nearest neighbours)
    near_last_item      similarity to the user's last item
    near_all_items      sum of the similarities to all items of the user, over sqrt(their number)
    tag_overlap         mean share of tags in common with the user's last 20 items; 0 without tags
    user_activity       log(1 + number of items of the user)
"""

_RECENT = 20
_NEIGHBOURS, _SHRINKAGE = 200, 10.0


def histories(world: Interactions, ends: np.ndarray, last: int | None = None) -> sparse.csr_array:
    """Returns the items of every user before the end of the history, as ones.

    Args:
      world: sequences of the users.
      ends: int[num_users], places in the sequences.
      last: number of items before the end; all of them if None.

    Returns:
      float32[num_users, N].

    >>> from rankpg.environments.interactions import interactions
    >>> world = interactions(np.array([0, 0, 0]), np.array([3, 1, 2]), np.ones(3), 1, 4)
    >>> histories(world, np.array([2])).toarray(), histories(world, np.array([3]), last=1).indices.tolist()
    (array([[0., 1., 0., 1.]], dtype=float32), [2])
    """
    sequence = np.asarray(world.sequence)
    ends = np.asarray(ends)
    begin = np.zeros_like(ends) if last is None else np.maximum(ends - last, 0)
    user, place = users_and_places(world)
    taken = (place >= begin[user]) & (place < ends[user])
    shape = world.num_users, world.num_items
    pairs = user[taken], sequence[taken]
    return sparse.csr_array((np.ones(int(taken.sum()), np.float32), pairs), shape=shape)


@dataclass(frozen=True, eq=False)
class ItemStatistics:
    """Statistics of every item over histories."""

    popularity: np.ndarray
    """float32[N]"""
    recency: np.ndarray
    """float32[N]"""
    similarities: sparse.csr_array
    """float32[N, N]: row j holds the similarities of the other items to item j."""
    tags: sparse.csr_array | None
    """float32[N, tags], rows of length 1."""

    @classmethod
    def of(cls, world: Interactions, parts: Parts, ends: np.ndarray) -> ItemStatistics:
        """Computes the statistics from the training users up to these ends, within the training part.

        >>> from rankpg.environments import from_interactions
        >>> data = from_interactions({"user": [1, 1, 1, 2], "item": [7, 8, 9, 7], "time": [1, 2, 3, 1]})
        >>> found = ItemStatistics.of(data.environment, data.parts, np.array([9, 9]))
        >>> np.expm1(found.popularity).round().tolist()  # the test part does not count
        [2.0, 1.0, 0.0]
        """
        ends = np.where(parts.trains, np.minimum(ends, parts.train_ends), 0)
        every = histories(world, ends)
        counts = np.asarray(every.sum(axis=0), np.float32)
        recent = np.asarray(histories(world, ends, _RECENT).sum(axis=0), np.float32)
        near = item_similarities(every, _NEIGHBOURS, _SHRINKAGE)
        return cls(
            popularity=np.log1p(counts),
            recency=recent / np.maximum(counts, 1),
            similarities=sparse.csr_array(near.T),
            tags=_tags(world),
        )


def _tags(world: Interactions) -> sparse.csr_array | None:
    if world.item_tags is None:
        return None
    tags = np.asarray(world.item_tags)
    item, place = np.nonzero(tags >= 0)
    length = np.sqrt(np.maximum((tags >= 0).sum(axis=1), 1)).astype(np.float32)
    pairs = item, tags[item, place]
    return sparse.csr_array((1 / length[item], pairs), shape=(len(tags), int(tags.max()) + 1))


def pair_features(
    world: Interactions, statistics: ItemStatistics, ends: np.ndarray, users: np.ndarray
) -> np.ndarray:
    """Returns the features of some users with all items.

    Args:
      world: sequences of the users.
      statistics: statistics of the items.
      ends: int[num_users], ends of the histories.
      users: rows of users.

    Returns:
      float32[n, N, len(FEATURES)].
    """
    recent, last, every = (histories(world, ends, k)[users] for k in (_RECENT, 1, None))
    count = np.asarray(recent.sum(axis=1), np.float32)
    activity = np.asarray(every.sum(axis=1), np.float32)
    near = statistics.similarities
    found = np.zeros((len(users), world.num_items, len(FEATURES)), np.float32)
    found[:, :, 0] = statistics.popularity
    found[:, :, 1] = statistics.recency
    found[:, :, 2] = (recent @ near).toarray() / np.maximum(count, 1)[:, None]
    found[:, :, 3] = (last @ near).toarray()
    found[:, :, 4] = (every @ near).toarray() / np.sqrt(np.maximum(activity, 1))[:, None]
    if statistics.tags is not None:
        shared = (recent @ statistics.tags) @ statistics.tags.T
        found[:, :, 5] = shared.toarray() / np.maximum(count, 1)[:, None]
    found[:, :, 6] = np.log1p(activity)[:, None]
    return found
