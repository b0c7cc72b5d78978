"""Interactions as an environment: what a user has seen is masked, what comes next is the feedback."""

# Dataclass fields implement properties of the protocol.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

import dataclasses
import hashlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rankpg.environments.catalogue import append_rows
from rankpg.environments.reward_model import RewardModel
from rankpg.environments.score_tables import ArrayLike, checked_scores, padded_scores
from rankpg.environments.tabular import search_row
from rankpg.types import Array, Bool, Environment, Feedback, Float, Int, PRNGKey, record

__all__ = [
    "Interactions",
    "Moments",
    "Parts",
    "interactions",
    "seen_items",
    "users_and_places",
]


class Moments(NamedTuple):
    """Points in the sequences of users: what came before is their history, what comes next the feedback.

    A context of the environment is one moment. The positions are places in the sequence of the user.
    """

    users: np.ndarray
    """int32[n], a row of `Interactions.row_starts` for each moment."""
    history_ends: np.ndarray
    """int32[n]: the history is the sequence before this place."""
    feedback_ends: np.ndarray
    """int32[n]: the feedback is the sequence from `history_ends` to before this place."""

    @property
    def width(self) -> int:
        """Length of the longest feedback, at least 1."""
        return int(np.max(self.feedback_ends - self.history_ends, initial=1))

    def followed_by(self, later: Moments) -> Moments:
        """Returns these moments and then others."""
        return Moments(*(np.concatenate(both) for both in zip(self, later, strict=True)))


class Parts(NamedTuple):
    """Ends of the training, validation and test part of each user's sequence; each part may be empty."""

    train_ends: np.ndarray
    """int32[num_users]"""
    validation_ends: np.ndarray
    test_ends: np.ndarray
    trains: np.ndarray
    """bool[num_users], False for users who are held out, whose training part is history alone."""

    def checksum(self) -> str:
        """Returns the SHA-256 of all ends, and of which users are trained on.

        >>> one, two = (Parts(np.array([n]), *np.array([[3], [4]]), np.array([True])) for n in (1, 2))
        >>> one.checksum() == one.checksum(), one.checksum() == two.checksum()
        (True, False)
        """
        kinds = ("<i8", "<i8", "<i8", "?")
        columns = (column.astype(kind) for column, kind in zip(self, kinds, strict=True))
        return hashlib.sha256(b"".join(column.tobytes() for column in columns)).hexdigest()

    def test(self) -> Moments:
        """The moment of each user after which the test part begins."""
        return Moments(_users(self), self.validation_ends, self.test_ends)

    def validation(self) -> Moments:
        """The moment of each user after which the validation part begins."""
        return Moments(_users(self), self.train_ends, self.validation_ends)

    def refit(self) -> Parts:
        """Returns parts whose training part includes the validation part, and whose test part is the same.

        The validation part is then empty. A user who has validation items is trained on, also one who was
        held out for validation alone.

        >>> none = np.array([False, False])
        >>> parts = Parts(np.array([3, 2]), np.array([4, 2]), np.array([5, 4]), none)
        >>> parts.refit().train_ends.tolist(), parts.refit().trains.tolist()
        ([4, 2], [True, False])
        """
        trains = self.trains | (self.validation_ends > self.train_ends)
        return Parts(self.validation_ends, self.validation_ends, self.test_ends, trains)

    def evaluated(self) -> np.ndarray:
        """Users with a test part; with a validation part where no user has one, and else all of them."""
        for moments in (self.test(), self.validation()):
            found = np.flatnonzero(moments.feedback_ends > moments.history_ends)
            if len(found):
                return found.astype(np.int32)
        return _users(self)

    def whole(self) -> Moments:
        """One moment of each training user: no history, and the whole training part as feedback."""
        users = np.flatnonzero(self.trains & (self.train_ends > 0)).astype(np.int32)
        return Moments(users, np.zeros_like(users), self.train_ends[users])

    def forward(self, share: float) -> Moments:
        """One moment of each training user: the last `share` of the training part is the feedback."""
        length = np.ceil(share * self.train_ends).astype(np.int32)
        users = np.flatnonzero(self.trains & (length > 0)).astype(np.int32)
        return Moments(users, (self.train_ends - length)[users], self.train_ends[users])

    def before(self, share: float) -> Moments:
        """One moment of each training user: what `forward` leaves of the training part is the feedback."""
        later = self.forward(share)
        some = later.history_ends > 0
        users = later.users[some]
        return Moments(users, np.zeros_like(users), later.history_ends[some])

    def every_next(self, count: int) -> Moments:
        """Every moment of the training part but the first: the next `count` items are the feedback."""
        moments = np.where(self.trains, np.maximum(self.train_ends - 1, 0), 0)
        users = np.repeat(_users(self), moments)
        first = np.cumsum(moments) - moments
        ends = np.arange(len(users), dtype=np.int32) - first[users].astype(np.int32) + 1
        last = np.minimum(ends + count, self.train_ends[users]).astype(np.int32)
        return Moments(users, ends, last)


def _users(parts: Parts) -> np.ndarray:
    return np.arange(len(parts.train_ends), dtype=np.int32)


@record
class Interactions(Environment):
    """Users with the sequences of items they interacted with; each context is a moment of one user.

    Items of the history are not eligible. An item of the feedback earns its value, any other item 0.

    The sequence of user u is the entries row_starts[u] to row_starts[u + 1] of `sequence`, oldest first.
    `items`, `places` and `values` hold the same entries sorted by item, so that the place of an item in the
    sequence is found by a binary search, and nothing of size users x items is ever in memory.
    """

    row_starts: Int[Array, "num_users_plus_1"]
    sequence: Int[Array, "num_interactions"]
    sequence_values: Float[Array, "num_interactions"]
    items: Int[Array, "num_interactions"]
    places: Int[Array, "num_interactions"]
    """Place of each entry of `items` in the sequence of its user."""
    values: Float[Array, "num_interactions"]
    context_users: Int[Array, "num_contexts"]
    history_ends: Int[Array, "num_contexts"]
    feedback_ends: Int[Array, "num_contexts"]
    num_items: int = struct.field(pytree_node=False)
    longest: int = struct.field(pytree_node=False)
    """Length of the longest sequence."""
    feedback_width: int = struct.field(pytree_node=False, default=1)
    """Most items of feedback that are read for a context; of more, a run of as many."""
    context_features: Float[Array, "num_users F"] | None = None
    """Features of the users; row `context_users[c]` is that of context c."""
    item_features: Float[Array, "N G"] | None = None
    item_tags: Int[Array, "N T"] | None = None
    weights: Float[Array, "num_interactions"] | None = None
    """Weight of each entry of `sequence` in the loss of training; None: 1."""
    reward_weights: Float[Array, "num_interactions"] | None = None
    """Factor of each value of `sequence`, in the environment that is trained on; None: 1."""
    reward_model: RewardModel | None = None
    """Rewards of items without interaction, in the environment that is trained on; None: 0."""
    item_scores: Float[Array, "num_users N"] | None = None
    """Scores of a re-ranker at the moments that are served, by which `rerankers.stored` sorts."""
    training_scores: Float[Array, "num_users N"] | None = None
    """Its scores at an earlier moment of each user, from which the feedback of training is not known."""
    training_ends: Int[Array, "num_users"] | None = None
    """Ends of the histories of `training_scores`; no earlier moment is trained on by their order."""

    @property
    def num_contexts(self) -> int:
        return self.context_users.shape[0]

    @property
    def num_users(self) -> int:
        """Number of rows of a table of users."""
        return self.row_starts.shape[0] - 1

    @property
    def missing_share(self) -> float:
        return 1.0 - len(self.items) / (self.num_users * self.num_items)

    def at(self, moments: Moments, feedback_width: int | None = None) -> Interactions:
        """Returns the same sequences with other moments as contexts.

        Args:
          moments: moments of the same users.
          feedback_width: most items of feedback that are read for a context; all if None.
        """
        widest = moments.width
        return dataclasses.replace(
            self,
            context_users=jnp.asarray(moments.users, jnp.int32),
            history_ends=jnp.asarray(moments.history_ends, jnp.int32),
            feedback_ends=jnp.asarray(moments.feedback_ends, jnp.int32),
            feedback_width=min(feedback_width or widest, widest),
        )

    def with_scores(
        self,
        scores: ArrayLike,
        training_scores: ArrayLike | None = None,
        training_ends: np.ndarray | None = None,
    ) -> Interactions:
        """Returns the interactions with the scores of a re-ranker, for `rerankers.stored`.

        Args:
          scores: float[num_users, N], higher is better, known before the test part.
          training_scores: the scores that training sorts by, known before its feedback; `scores` if None.
          training_ends: int[num_users], ends of the histories from which `training_scores` were computed;
            no earlier moment is trained on by their order. Both or none of the two.

        Raises:
          ValueError: a table of another shape, a NaN, or one of the two without the other.
        """
        if (training_scores is None) != (training_ends is None):
            missing = "training_scores" if training_scores is None else "training_ends"
            raise ValueError(f"{missing}=None; expected both of training_scores and training_ends")
        shape, own = (self.num_users, self.num_items), None
        if training_scores is not None:
            own = checked_scores("training_scores", training_scores, shape)
        return dataclasses.replace(
            self,
            item_scores=checked_scores("scores", scores, shape),
            training_scores=own,
            training_ends=None if training_ends is None else jnp.asarray(training_ends, jnp.int32),
        )

    def for_training(self) -> Interactions:
        """Returns the interactions with weighted values, and the scores of training as those that sort."""
        weighted = self
        if self.weights is not None:
            weighted = dataclasses.replace(self, reward_weights=self.weights)
        if self.training_scores is None:
            return weighted
        return dataclasses.replace(
            weighted, item_scores=self.training_scores, training_scores=None, training_ends=None
        )

    def place_of(
        self, context: Int[Array, ""], items: Int[Array, "n"]
    ) -> tuple[Int[Array, "n"], Float[Array, "n"]]:
        """Returns the place of each item in the user's sequence and its value; 2^31 - 1 and 0 if absent."""
        user = self.context_users[context]
        bounds = self.row_starts[user], self.row_starts[user + 1]
        entry, found = search_row(self.items, bounds, items, self.longest.bit_length())
        place = jnp.where(found, self.places.at[entry].get(mode="clip"), jnp.iinfo(jnp.int32).max)
        return place, jnp.where(found, self.values.at[entry].get(mode="clip"), 0)

    def mean_rewards(self, context: Int[Array, ""], items: Int[Array, "n"]) -> Float[Array, "n"]:
        """Returns the value of each item of the feedback, and 0 for every other item.

        In the environment that is trained on, values are weighted, and a reward model may stand for the 0.
        """
        place, values = self.place_of(context, items)
        known = self._in_feedback(context, place)
        if self.reward_weights is not None:
            entry = self.row_starts[self.context_users[context]] + jnp.where(known, place, 0)
            values = values * self.reward_weights.at[entry].get(mode="clip")
        if self.reward_model is None:
            return jnp.where(known, values, 0)
        return jnp.where(known, values, self.reward_model(self.context_users[context], items))

    def relevance(self, context: Int[Array, ""], items: Int[Array, "n"]) -> Float[Array, "n"]:
        """Returns the mean rewards without weights, which are of the loss and not of the re-ranker."""
        return dataclasses.replace(self, reward_weights=None).mean_rewards(context, items)

    def observed(self, context: Int[Array, ""], items: Int[Array, "n"]) -> Bool[Array, "n"]:
        """Returns True for the items of the feedback."""
        return self._in_feedback(context, self.place_of(context, items)[0])

    def _in_feedback(self, context: Int[Array, ""], place: Int[Array, "n"]) -> Bool[Array, "n"]:
        return (place >= self.history_ends[context]) & (place < self.feedback_ends[context])

    def sample_rewards(
        self, key: PRNGKey, context: Int[Array, ""], items: Int[Array, "n"]
    ) -> Float[Array, "n"]:
        """Returns the mean rewards: what is known has no noise."""
        del key
        return self.mean_rewards(context, items)

    def eligible(self, context: Int[Array, ""], items: Int[Array, "n"]) -> Bool[Array, "n"]:
        """Returns False for items of the history."""
        return self.place_of(context, items)[0] >= self.history_ends[context]

    def mask_ineligible(
        self, context: Int[Array, ""], logits: Float[Array, "M N"]
    ) -> Float[Array, "M N"]:
        """Returns logits with -inf for items of the history, each of which is written once."""
        user = self.context_users[context]
        entry = self.row_starts[user] + jnp.arange(self.longest, dtype=jnp.int32)
        seen = entry < self.row_starts[user + 1]
        seen &= self.places.at[entry].get(mode="clip") < self.history_ends[context]
        items = jnp.where(seen, self.items.at[entry].get(mode="clip"), logits.shape[1])
        return logits.at[:, items].set(-jnp.inf, mode="drop")

    def eligible_run(
        self, contexts: Int[Array, "B"], first: Int[Array, ""], count: int
    ) -> Bool[Array, "count B"]:
        """Returns False for items of the history, each of which is written once, not searched for."""
        user, end = self.context_users[contexts], self.history_ends[contexts]
        step = jnp.arange(self.longest, dtype=jnp.int32)
        entry = self.row_starts[user][:, None] + step[None]
        seen = entry < self.row_starts[user + 1][:, None]
        seen &= self.places.at[entry].get(mode="clip") < end[:, None]
        row = self.items.at[entry].get(mode="clip") - first
        row = jnp.where(seen & (row >= 0) & (row < count), row, count)
        column = jnp.broadcast_to(jnp.arange(len(contexts), dtype=jnp.int32)[:, None], row.shape)
        return jnp.ones((count, len(contexts)), bool).at[row, column].set(False, mode="drop")

    def count_eligible(self) -> Int[Array, "num_contexts"]:
        """Counts the items that each context may be shown: N less its history."""
        return jnp.int32(self.num_items) - self.history_ends

    def feedback(self, key: PRNGKey, contexts: Int[Array, "B"]) -> Feedback:
        """Returns the items of the feedback with their values.

        Of a feedback longer than `feedback_width`, it takes a run of that length, which starts at a random
        place and goes on at the beginning where it meets the end.
        """
        user, begin = self.context_users[contexts], self.history_ends[contexts]
        count = self.feedback_ends[contexts] - begin
        offset = jax.random.randint(key, count.shape, 0, jnp.maximum(count, 1), jnp.int32)
        offset = jnp.where(count > self.feedback_width, offset, 0)
        step = jnp.arange(self.feedback_width, dtype=jnp.int32)[None]
        there = step < count[:, None]
        turn = (offset[:, None] + step) % jnp.maximum(count, 1)[:, None]
        place = jnp.where(there, begin[:, None] + turn, 0)
        entry = self.row_starts[user][:, None] + place
        items = self.sequence.at[entry].get(mode="clip")
        items = jnp.where(there, items, items[:, :1])  # a repeat of an item counts once
        values = self.sequence_values.at[entry].get(mode="clip")
        if self.reward_weights is not None:
            values = values * self.reward_weights.at[entry].get(mode="clip")
        return Feedback(items=items, values=jnp.where(there, values, 0))

    def histories(self, contexts: Int[Array, "B"], length: int) -> Int[Array, "B length"]:
        """Returns the last `length` items of each history, newest last; -1 before its beginning."""
        user, end = self.context_users[contexts], self.history_ends[contexts]
        place = end[:, None] - length + jnp.arange(length, dtype=jnp.int32)[None]
        items = self.sequence.at[self.row_starts[user][:, None] + place].get(mode="clip")
        return jnp.where(place >= 0, items, -1)

    def take_items(self, rows: np.ndarray) -> Interactions:
        """Returns the interactions with these items alone, renumbered in this order."""
        new_row = np.full(self.num_items, -1, np.int32)
        new_row[rows] = np.arange(len(rows), dtype=np.int32)
        starts, sequence = np.asarray(self.row_starts), new_row[np.asarray(self.sequence)]
        stays = sequence >= 0
        before = np.concatenate([[0], np.cumsum(stays)])
        user, _ = users_and_places(self)

        def moved(ends):
            at = starts[np.asarray(self.context_users)]
            return before[at + np.asarray(ends)] - before[at]

        values = np.asarray(self.sequence_values)[stays]
        kept = interactions(user[stays], sequence[stays], values, self.num_users, len(rows))
        kept = dataclasses.replace(
            kept,
            context_features=self.context_features,
            item_features=None if self.item_features is None else self.item_features[rows],
            item_tags=None if self.item_tags is None else self.item_tags[rows],
            weights=None if self.weights is None else self.weights[stays],
            item_scores=None if self.item_scores is None else self.item_scores[:, rows],
        )
        if self.training_scores is not None:
            begin, ends_before = starts[:-1], np.asarray(self.training_ends)
            ends_after = before[begin + ends_before] - before[begin]
            kept = dataclasses.replace(
                kept,
                training_scores=self.training_scores[:, rows],
                training_ends=jnp.asarray(ends_after, jnp.int32),
            )
        ends = (moved(self.history_ends), moved(self.feedback_ends))
        return kept.at(Moments(np.asarray(self.context_users), *ends), self.feedback_width)

    def append_items(self, features: np.ndarray) -> Interactions:
        """Returns the interactions with further items at the end, without interactions."""
        more = append_rows(self.item_features, features)
        tags = self.item_tags
        if tags is not None:  # of new items, none is known
            tags = jnp.pad(tags, ((0, len(features)), (0, 0)), constant_values=-1)
        return dataclasses.replace(
            self,
            num_items=self.num_items + len(features),
            item_features=more,
            item_tags=tags,
            item_scores=padded_scores(self.item_scores, items=len(features)),
            training_scores=padded_scores(self.training_scores, items=len(features)),
        )

    def append_contexts(self, features: np.ndarray) -> Interactions:
        """Returns the interactions with further users at the end, each of them one context."""
        count = len(features)
        users = jnp.arange(self.num_users, self.num_users + count, dtype=jnp.int32)
        none = jnp.zeros(count, jnp.int32)
        return dataclasses.replace(
            self,
            row_starts=jnp.concatenate([self.row_starts, jnp.full(count, self.row_starts[-1])]),
            context_features=append_rows(self.context_features, features),
            item_scores=padded_scores(self.item_scores, users=count),
            training_scores=padded_scores(self.training_scores, users=count),
            training_ends=None
            if self.training_ends is None
            else jnp.concatenate([self.training_ends, none]),
            context_users=jnp.concatenate([self.context_users, users]),
            history_ends=jnp.concatenate([self.history_ends, none]),
            feedback_ends=jnp.concatenate([self.feedback_ends, none]),
        )


def users_and_places(world: Interactions) -> tuple[np.ndarray, np.ndarray]:
    """Returns user and place of every entry of `world.sequence`, int64[num_interactions] each."""
    starts = np.asarray(world.row_starts, np.int64)
    users = np.repeat(np.arange(world.num_users), np.diff(starts))
    return users, np.arange(len(users)) - starts[users]


def seen_items(world: Interactions) -> tuple[np.ndarray, np.ndarray]:
    """Returns the items of every context's history, which are not eligible, in CSR form.

    Args:
      world: the environment.

    Returns:
      Places int64[num_contexts + 1] where the items of each context start, and items int32, ascending for
      each context.

    >>> world = interactions(np.array([0, 0, 1]), np.array([3, 1, 2]), np.ones(3), 2, 4)
    >>> [part.tolist() for part in seen_items(world)]
    [[0, 2, 3], [1, 3, 2]]
    """
    starts, users = np.asarray(world.row_starts, np.int64), np.asarray(world.context_users)
    length = np.diff(starts)[users]
    first = np.cumsum(length) - length
    context = np.repeat(np.arange(len(users)), length)
    entry = np.arange(len(context)) + (starts[users] - first)[context]
    seen = np.asarray(world.places)[entry] < np.asarray(world.history_ends)[context]
    counts = np.bincount(context[seen], minlength=len(users))
    return np.concatenate([[0], np.cumsum(counts)]), np.asarray(world.items)[entry[seen]]


def interactions(
    users: np.ndarray, items: np.ndarray, values: np.ndarray, num_users: int, num_items: int
) -> Interactions:
    """Builds the environment from rows that are sorted by user, then time; each context is one user.

    Every user's whole sequence is the history; `Interactions.at` sets other moments.

    Args:
      users: rows of users, ascending.
      items: rows of items; no user has one item twice.
      values: rewards.
      num_users: number of users, with or without interactions.
      num_items: N.

    >>> world = interactions(np.array([0, 0, 1]), np.array([3, 1, 2]), np.ones(3), 2, 4)
    >>> world = world.at(Moments(np.array([0]), np.array([1]), np.array([2])))
    >>> world.mean_rewards(jnp.int32(0), jnp.arange(4)).tolist()
    [0.0, 1.0, 0.0, 0.0]
    >>> world.eligible(jnp.int32(0), jnp.arange(4)).tolist()
    [True, True, True, False]
    """
    counts = np.bincount(users, minlength=num_users)
    starts = np.concatenate([[0], np.cumsum(counts)])
    by_item = np.lexsort((items, users))
    place = np.arange(len(users)) - starts[users]
    return Interactions(
        row_starts=jnp.asarray(starts, jnp.int32),
        sequence=jnp.asarray(items, jnp.int32),
        sequence_values=jnp.asarray(values, jnp.float32),
        items=jnp.asarray(items[by_item], jnp.int32),
        places=jnp.asarray(place[by_item], jnp.int32),
        values=jnp.asarray(np.asarray(values, np.float32)[by_item]),
        context_users=jnp.arange(num_users, dtype=jnp.int32),
        history_ends=jnp.asarray(counts, jnp.int32),
        feedback_ends=jnp.asarray(counts, jnp.int32),
        num_items=num_items,
        longest=int(counts.max(initial=1)),
    )
