"""A LambdaMART on the log: its features by loops, its scores, and that the test part changes nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import rankpg
from rankpg.config import ConfigError
from rankpg.environments import from_interactions, from_matrix
from rankpg.environments.interactions import Moments
from rankpg.training.lambdamart import fit_lightgbm
from rankpg.training.pair_features import FEATURES, ItemStatistics, pair_features

lightgbm = pytest.importorskip("lightgbm")

ENABLE_X64 = False
pytestmark = pytest.mark.usefixtures("as_a_user")

USERS, ITEMS, LENGTH = 40, 30, 20
OPTIONS = {"min_data_in_leaf": 5}


def log(seed=0):
    """Users go round the items, with a step that depends on them."""
    random = np.random.default_rng(seed)
    start = random.integers(0, ITEMS, USERS)
    place = np.arange(LENGTH)
    items = np.stack([(s + 7 * place if u % 2 else s - 7 * place) for u, s in enumerate(start)])
    return {
        "user": np.repeat(np.arange(USERS), LENGTH),
        "item": items.ravel() % ITEMS,
        "timestamp": np.tile(place, USERS),
    }


TAGS = {"item": np.arange(ITEMS), "kind": [f"{i % 3}|{3 + i % 2}" for i in range(ITEMS)]}


@pytest.fixture(scope="module")
def data():
    return from_interactions(log(), items=TAGS, validation_share=0.1)


@pytest.fixture(scope="module")
def fitted(data):
    return fit_lightgbm(data, candidates=15, trees=20, options=OPTIONS)


def test_features_by_loops(data):
    world, parts = data.environment, data.parts
    ends = parts.forward(0.25).history_ends
    found = pair_features(world, ItemStatistics.of(world, parts, ends), ends, np.array([4, 9]))
    taken = [set(log()["item"][u * LENGTH : u * LENGTH + ends[u]].tolist()) for u in range(USERS)]
    holds = np.array([[a in own for a in range(ITEMS)] for own in taken], float)
    counts = holds.sum(axis=0)
    near = holds.T @ holds
    near /= np.sqrt(np.outer(counts, counts)) + 10
    np.fill_diagonal(near, 0)
    tags = np.zeros((ITEMS, 5))
    tags[np.arange(ITEMS), np.arange(ITEMS) % 3] = tags[
        np.arange(ITEMS), 3 + np.arange(ITEMS) % 2
    ] = 1
    for row, user in enumerate([4, 9]):
        own = log()["item"][user * LENGTH : user * LENGTH + ends[user]]
        for a in range(ITEMS):
            wanted = {
                "item_popularity": np.log1p(counts[a]),
                "item_recency": 1.0 if counts[a] else 0.0,  # no history is longer than 20
                "near_recent_items": np.mean([near[a, j] for j in own]),
                "near_last_item": near[a, own[-1]],
                "near_all_items": sum(near[a, j] for j in own) / np.sqrt(len(own)),
                "tag_overlap": np.mean([tags[a] @ tags[j] / 2 for j in own]),
                "user_activity": np.log1p(len(own)),
            }
            np.testing.assert_allclose(
                found[row, a], [wanted[name] for name in FEATURES], rtol=1e-5, atol=1e-6
            )


def test_scores_are_those_of_the_model(data, fitted):
    world, parts = data.environment, data.parts
    ends = parts.test().history_ends
    scores = fitted.scores(data, ends)
    assert (scores.shape, scores.dtype) == ((USERS, ITEMS), np.float32)
    features = pair_features(world, ItemStatistics.of(world, parts, ends), ends, np.arange(USERS))
    for user in (0, 17):
        np.testing.assert_allclose(scores[user], fitted.booster.predict(features[user]), rtol=1e-5)
    assert len(np.unique(scores)) > 20


def test_model_orders_better_than_chance(fitted):
    assert fitted.metrics["left_out_ndcg@10"] > 0.6
    assert fitted.metrics["users"] == USERS


def test_scores_of_training_end_where_its_feedback_begins(data, fitted):
    world = fitted.on(data).environment
    np.testing.assert_array_equal(world.training_ends, data.parts.forward(0.25).history_ends)
    np.testing.assert_allclose(
        world.training_scores, fitted.scores(data, data.parts.forward(0.25).history_ends)
    )
    assert np.abs(np.asarray(world.training_scores - world.item_scores)).max() > 0.1


def changed(part, last):
    """The log with other items in the last rows of every user."""
    table = log()
    rows = np.tile(np.arange(LENGTH) >= LENGTH - last, USERS)
    before = {(u, a) for u, a in zip(table["user"][~rows], table["item"][~rows], strict=True)}
    random, items = np.random.default_rng(1), table["item"].copy()
    for user in range(USERS):
        free = [a for a in range(ITEMS) if (user, a) not in before]
        items[np.flatnonzero(rows & (table["user"] == user))] = random.permutation(free)[:last]
    return from_interactions(table | {"item": items}, items=TAGS, validation_share=0.1)


def test_test_part_changes_nothing(data, fitted):
    test = int(LENGTH - data.parts.validation_ends[0])
    other = changed("test", test)
    assert not np.array_equal(other.environment.sequence, data.environment.sequence)
    again = fit_lightgbm(other, candidates=15, trees=20, options=OPTIONS).on(other).environment
    first = fitted.on(data).environment
    np.testing.assert_array_equal(again.item_scores, first.item_scores)
    np.testing.assert_array_equal(again.training_scores, first.training_scores)


def test_validation_part_is_history_alone(data, fitted):
    held = int(LENGTH - data.parts.train_ends[0])
    other = changed("validation", held)
    again = fit_lightgbm(other, candidates=15, trees=20, options=OPTIONS)
    assert again.booster.model_to_string() == fitted.booster.model_to_string()
    served = other.parts.test().history_ends
    assert not np.array_equal(again.scores(other, served), fitted.scores(data, served))


@pytest.mark.parametrize("part", ["test", "validation"])
def test_feedback_outside_of_the_training_part_is_refused(data, part):
    moments = getattr(data.parts, part)()
    with pytest.raises(ConfigError, match="a re-ranker fitted on the test part"):
        fit_lightgbm(data, moments=moments)


def test_other_refusals(data, monkeypatch):
    with pytest.raises(ConfigError, match="a RewardMatrix without parts; expected a dataset of"):
        fit_lightgbm(from_matrix(np.eye(3)))
    twice = Moments(*(np.array([x, x]) for x in (0, 2, 4)))
    with pytest.raises(ConfigError, match="a user has several; expected one moment"):
        fit_lightgbm(data, moments=twice)
    none = Moments(*(np.array([x]) for x in (0, 4, 4)))
    with pytest.raises(ConfigError, match="0 users took one of them"):
        fit_lightgbm(data, moments=none)
    monkeypatch.setitem(__import__("sys").modules, "lightgbm", None)
    with pytest.raises(ConfigError, match=r"pip install 'rankpg\[rerank\]'"):
        fit_lightgbm(data)


@pytest.mark.slow
def test_retriever_is_trained_through_its_order(data, fitted):
    config = rankpg.TrainConfig(
        objective="exposure",
        reranker="stored",
        context_tower="history",
        num_candidates=6,
        ranking_length=3,
        num_steps=20,
        eval_every=20,
        batch_size=16,
        seeds=(0,),
    )
    run = rankpg.train(config, dataclasses.replace(fitted.on(data)))
    assert run.step == 20
    assert run.metrics[-1]["policy_value"] > run.metrics[0]["policy_value"]
