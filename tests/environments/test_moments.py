"""The environment of interactions, against plain loops over the sequences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankpg.data.ids import TableError
from rankpg.environments import from_interactions
from rankpg.environments.catalogue import Restricted
from rankpg.environments.interactions import Moments, interactions, seen_items

NUM_ITEMS = 12
SEQUENCES = [[3, 7, 1, 9], [5], [], [0, 2, 4, 6, 8, 10, 11]]
VALUES = [[1.0, 2.0, 3.0, 4.0], [0.5], [], [1.0] * 7]


@pytest.fixture(scope="module")
def world():
    users = np.repeat(np.arange(4), [len(own) for own in SEQUENCES])
    return interactions(
        users, np.concatenate(SEQUENCES).astype(int), np.concatenate(VALUES), 4, NUM_ITEMS
    )


MOMENTS = Moments(
    np.array([0, 3, 3, 1, 2], np.int32),
    np.array([2, 0, 3, 1, 0], np.int32),
    np.array([4, 2, 7, 1, 0], np.int32),
)
EVERY = jnp.arange(NUM_ITEMS)


def test_rewards_are_the_values_of_the_feedback(world):
    there = world.at(MOMENTS)
    for context, (user, begin, end) in enumerate(zip(*MOMENTS, strict=True)):
        wanted = np.zeros(NUM_ITEMS)
        wanted[SEQUENCES[user][begin:end]] = VALUES[user][begin:end]
        np.testing.assert_array_equal(there.mean_rewards(jnp.int32(context), EVERY), wanted)


def test_history_is_not_eligible(world):
    there = world.at(MOMENTS)
    counts = there.count_eligible()
    for context, (user, begin, _) in enumerate(zip(*MOMENTS, strict=True)):
        wanted = np.ones(NUM_ITEMS, bool)
        wanted[SEQUENCES[user][:begin]] = False
        np.testing.assert_array_equal(there.eligible(jnp.int32(context), EVERY), wanted)
        logits = jnp.ones((2, NUM_ITEMS))
        masked = there.mask_ineligible(jnp.int32(context), logits)
        np.testing.assert_array_equal(masked[1] > -jnp.inf, wanted)
        assert int(counts[context]) == wanted.sum()


def test_feedback_lists_each_item_with_its_value(world):
    there = world.at(MOMENTS)
    contexts = jnp.arange(5)
    found = jax.jit(lambda w, k, c: w.feedback(k, c))(there, jax.random.key(0), contexts)
    for context, (user, begin, end) in enumerate(zip(*MOMENTS, strict=True)):
        values = np.asarray(found.values[context])
        listed = np.asarray(found.items[context])[values > 0]
        assert listed.tolist() == SEQUENCES[user][begin:end]
        assert values[values > 0].tolist() == VALUES[user][begin:end]
        assert len(np.unique(np.asarray(found.items[context]))) <= max(1, end - begin)


@pytest.mark.slow
def test_long_feedback_is_read_in_runs_that_cover_it_evenly(world):
    whole = world.at(Moments(np.array([3]), np.array([1]), np.array([7])), feedback_width=2)
    keys = jax.random.split(jax.random.key(0), 3000)
    found = jax.vmap(lambda key: whole.feedback(key, jnp.zeros(1, jnp.int32)))(keys)
    assert found.items.shape == (3000, 1, 2)
    count = np.bincount(np.asarray(found.items).ravel(), minlength=NUM_ITEMS)
    assert set(np.flatnonzero(count)) == set(SEQUENCES[3][1:])
    np.testing.assert_allclose(count[SEQUENCES[3][1:]], 1000, atol=150)


def test_histories_end_with_the_newest_item(world):
    found = np.asarray(world.at(MOMENTS).histories(jnp.arange(5), 3))
    assert found.tolist() == [
        [-1, 3, 7],
        [-1, -1, -1],
        [0, 2, 4],
        [-1, -1, 5],
        [-1, -1, -1],
    ]


@pytest.mark.slow
def test_items_can_be_taken_and_appended(world):
    there = world.at(MOMENTS)
    rows = np.array([9, 3, 4, 6, 1])
    fewer = there.take_items(rows)
    for context in range(5):
        np.testing.assert_array_equal(
            fewer.mean_rewards(jnp.int32(context), jnp.arange(5)),
            there.mean_rewards(jnp.int32(context), jnp.asarray(rows)),
        )
        np.testing.assert_array_equal(
            fewer.eligible(jnp.int32(context), jnp.arange(5)),
            there.eligible(jnp.int32(context), jnp.asarray(rows)),
        )


LOG = {
    "user": ["b"] * 5 + ["a"] * 5,
    "item": [1, 2, 3, 4, 5, 5, 4, 3, 2, 1],
    "timestamp": [5, 4, 3, 2, 1, 1, 2, 3, 4, 5],
}


def test_parts_of_the_last_items():
    data = from_interactions(LOG, test_share=0.2, validation_share=0.25)
    parts, ids = data.parts, data.item_ids.ids
    assert parts.train_ends.tolist() == [3, 3]
    assert parts.validation_ends.tolist() == [4, 4]
    assert parts.test_ends.tolist() == [5, 5]
    rewards = data.environment.mean_rewards(jnp.int32(0), jnp.arange(5))
    assert ids[np.flatnonzero(rewards)].tolist() == [1]
    assert parts.evaluated().tolist() == [0, 1]


def test_moments_of_training_stay_in_the_training_part():
    parts = from_interactions(LOG, test_share=0.2, validation_share=0.25).parts
    every = parts.every_next(1)
    assert every.users.tolist() == [0, 0, 1, 1]
    assert every.history_ends.tolist() == [1, 2, 1, 2]
    assert every.feedback_ends.tolist() == [2, 3, 2, 3]
    assert parts.every_next(5).feedback_ends.tolist() == [3, 3, 3, 3]
    assert parts.whole().feedback_ends.tolist() == [3, 3]
    later, before = parts.forward(0.3), parts.before(0.3)
    assert later.history_ends.tolist() == [2, 2] == before.feedback_ends.tolist()
    assert later.feedback_ends.tolist() == [3, 3]
    assert before.history_ends.tolist() == [0, 0]
    both = before.followed_by(later)
    assert both.history_ends.tolist() == [0, 0, 2, 2]
    assert both.width == 2


@pytest.mark.parametrize("split", ["last", "time", "random", "user"])
def test_refit_trains_on_the_validation_part_too(split):
    log = {
        "user": [u for u in range(8) for _ in range(6)],
        "item": [(u + 2 * i) % 9 for u in range(8) for i in range(6)],
        "timestamp": [10 * i + u for u in range(8) for i in range(6)],
    }
    parts = from_interactions(log, split=split, test_share=0.3, validation_share=0.3).parts
    both = parts.refit()
    for user in range(len(parts.trains)):
        last = parts.validation_ends[user]
        assert both.train_ends[user] == both.validation_ends[user] == last
        assert both.test_ends[user] == parts.test_ends[user]
        validated = parts.validation_ends[user] > parts.train_ends[user]
        assert both.trains[user] == (parts.trains[user] or validated)
    assert both.validation().width == 1
    assert both.test().users.tolist() == parts.test().users.tolist()
    assert both.test().history_ends.tolist() == parts.test().history_ends.tolist()
    assert (both.train_ends > parts.train_ends).any()


def test_held_out_users_are_not_trained_on():
    data = from_interactions(LOG, split="user", test_share=0.5)
    (held,) = np.flatnonzero(~data.parts.trains)
    assert held not in data.parts.every_next(1).users
    assert held in data.parts.evaluated()


def test_seen_items_are_those_that_the_mask_removes(world):
    there = world.at(MOMENTS)
    starts, items = seen_items(there)
    for context, (user, begin) in enumerate(zip(*MOMENTS[:2], strict=True)):
        own = items[starts[context] : starts[context + 1]]
        assert own.tolist() == sorted(SEQUENCES[user][:begin])


def test_restricted_interactions_lose_seen_and_removed_items(world):
    there = world.at(MOMENTS)
    allowed = np.ones(NUM_ITEMS, bool)
    allowed[[7, 11]] = False
    restricted = Restricted(there, jnp.asarray(allowed))
    logits = jnp.zeros((2, NUM_ITEMS))
    for context, (user, begin) in enumerate(zip(*MOMENTS[:2], strict=True)):
        gone = {7, 11, *SEQUENCES[user][:begin]}
        found = np.asarray(restricted.mask_ineligible(jnp.int32(context), logits))
        assert np.flatnonzero(np.isneginf(found[1])).tolist() == sorted(gone)
        assert int(restricted.count_eligible()[context]) == NUM_ITEMS - len(gone)
    contexts = jnp.arange(2, dtype=jnp.int32)
    np.testing.assert_array_equal(restricted.histories(contexts, 3), there.histories(contexts, 3))


def test_a_log_without_a_weight_above_0_in_training_is_rejected():
    log = {"user": [1, 1, 1], "item": [5, 6, 7], "ts": [1, 2, 3], "weight": [0.0, 0.0, 1.0]}
    with pytest.raises(
        TableError, match="2 rows of the training part is 0, so there is nothing to"
    ):
        from_interactions(log)  # the test part has one
    from_interactions({**log, "weight": [0.0, 0.5, 0.0]})
