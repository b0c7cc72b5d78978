"""Scores of a re-ranker in the environment of interactions."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from rankpg.environments.interactions import interactions

TABLE = np.arange(6.0, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def world():
    return interactions(np.array([0, 1, 1]), np.array([2, 0, 1]), np.ones(3), 2, 3)


def test_scores_of_training_replace_those_that_are_served(world):
    scored = world.with_scores(TABLE, -TABLE, np.array([0, 1]))
    np.testing.assert_array_equal(scored.item_scores, TABLE)
    trained = scored.for_training()
    np.testing.assert_array_equal(trained.item_scores, -TABLE)
    assert trained.training_scores is None
    assert trained.training_ends is None
    alone = world.with_scores(TABLE)
    assert alone.for_training() is alone


def test_scores_follow_the_catalogue(world):
    scored = world.with_scores(TABLE)
    np.testing.assert_array_equal(scored.take_items(np.array([2, 0])).item_scores, TABLE[:, [2, 0]])


def test_new_items_come_last_and_new_users_have_the_mean(world):
    world = world.with_scores(TABLE).replace(
        item_features=jnp.zeros((3, 2), jnp.float32),
        context_features=jnp.zeros((2, 2), jnp.float32),
    )
    items = world.append_items(np.zeros((1, 2), np.float32))
    np.testing.assert_array_equal(
        items.item_scores, np.pad(TABLE, ((0, 0), (0, 1)), constant_values=-np.inf)
    )
    users = world.append_contexts(np.zeros((1, 2), np.float32))
    np.testing.assert_array_equal(users.item_scores, [*TABLE, TABLE.mean(axis=0)])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((TABLE.T,), r"scores has the shape \[3, 2\]; expected \[2, 3\]"),
        ((TABLE, TABLE), "training_ends=None; expected both of"),
        ((np.where(TABLE == 4, np.nan, TABLE),), "scores is NaN for user 1, item 1"),
        ((TABLE, TABLE[:1], np.array([0, 1])), r"training_scores has the shape \[1, 3\]"),
    ],
)
def test_tables_that_do_not_fit_are_rejected(world, given, message):
    with pytest.raises(ValueError, match=message):
        world.with_scores(*given)
