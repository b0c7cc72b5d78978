"""Pairs without interaction: weights of what was observed, what is left out, and a model of the rest."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rankpg
from rankpg.advantages import Advantage, batch_baseline, context_baseline, learned_baseline
from rankpg.config import ConfigError
from rankpg.data.ids import TableError
from rankpg.encoders import IdTower, from_nnx
from rankpg.environments import from_interactions, from_matrix
from rankpg.runs.run import prepare
from rankpg.runs.storage.interactions_file import arrays_of, interactions_of
from rankpg.training.moments import training_environment
from rankpg.training.unobserved import (
    fit_reward_model,
    popularity_weights,
    propensities,
    training_entries,
)
from rankpg.training.update import Learner

ENABLE_X64 = False
pytestmark = pytest.mark.usefixtures("as_a_user")

USERS, ITEMS, LENGTH = 7, 9, 6
RANDOM = np.random.default_rng(5)
LOG = {
    "user": np.repeat(np.arange(USERS), LENGTH),
    "item": np.concatenate(
        [
            RANDOM.choice(ITEMS, LENGTH, replace=False, p=np.arange(ITEMS, 0, -1) / 45)
            for _ in range(USERS)
        ]
    ),
    "timestamp": np.tile(np.arange(LENGTH), USERS),
    "rating": RANDOM.uniform(1, 5, USERS * LENGTH),
}
WEIGHTS = RANDOM.uniform(0.5, 2, USERS * LENGTH)
SETTINGS = {
    "num_candidates": 3,
    "ranking_length": 2,
    "embedding_dim": 3,
    "batch_size": 8,
    "num_steps": 2,
    "eval_every": 2,
    "seeds": (0,),
    "init_scale": 1.0,
}
SOFTMAX = {"objective": "softmax", "forward_share": 1.0, "ranking_length": 1}


@pytest.fixture(scope="module")
def data():
    return from_interactions(LOG, test_count=1)


def prepared(data, **settings):
    return prepare(rankpg.TrainConfig(**SETTINGS | settings), data)


def first_step(run, key=0):
    state = jax.tree.map(lambda leaf: leaf[0], run.state)
    return jax.jit(Learner.update)(run.learner, state, jax.random.key(key))


def counts_by_hand():
    """Interactions of every item, without the last one of each user."""
    counts = dict.fromkeys(range(ITEMS), 0)
    for place, item in zip(LOG["timestamp"], LOG["item"], strict=True):
        counts[int(item)] += place < LENGTH - 1
    return counts


def weights_by_hand(power, least):
    counts = counts_by_hand()
    most = max(counts.values())
    raw = [1 / max(least, (max(1, counts[int(a)]) / most) ** power) for a in LOG["item"]]
    trained = LOG["timestamp"] < LENGTH - 1
    return np.array(raw) / np.mean(np.array(raw)[trained])


def test_popularity_weights_by_hand(data):
    assert data.item_ids.ids.tolist() == list(range(ITEMS))
    for power, least in ((0.5, 0.1), (1.0, 0.5)):
        found = popularity_weights(data.environment, data.parts, power, least)
        np.testing.assert_allclose(found, weights_by_hand(power, least), rtol=1e-6)
    assert propensities(np.array([0, 4]), 0.0, 0.1).tolist() == [1, 1]


def test_test_part_has_no_part_in_weights_and_model(data):
    later = LOG["item"].copy()
    last = np.flatnonzero(LOG["timestamp"] == LENGTH - 1)
    for row in last:  # another item that the user has not had
        had = later[LOG["user"] == LOG["user"][row]]
        later[row] = next(a for a in range(ITEMS) if a not in had)
    other = from_interactions(LOG | {"item": later}, test_count=1)
    trained = training_entries(data.environment, data.parts)
    assert (later != LOG["item"]).sum() == USERS
    one, two = (popularity_weights(d.environment, d.parts, 0.5, 0.1) for d in (data, other))
    np.testing.assert_array_equal(one[trained], two[trained])
    models = [fit_reward_model(d.environment, d.parts, rank=3) for d in (data, other)]
    np.testing.assert_array_equal(models[0].items, models[1].items)


@pytest.mark.slow
def test_loss_is_that_of_values_times_weights(data):
    """A weight column and weights by popularity, against a log whose values were multiplied by both."""
    both = WEIGHTS * weights_by_hand(0.5, 0.3)
    weighted = from_interactions(LOG | {"weight": WEIGHTS}, test_count=1)
    multiplied = from_interactions(LOG | {"rating": LOG["rating"] * both}, test_count=1)
    run = prepared(weighted, popularity_weight=0.5, propensity_clip=0.3, **SOFTMAX)
    (state, found), (other, wanted) = map(first_step, (run, prepared(multiplied, **SOFTMAX)))
    assert found.loss == pytest.approx(float(wanted.loss), rel=1e-5)
    jax.tree.map(
        lambda one, two: np.testing.assert_allclose(one, two, atol=1e-5), state.params, other.params
    )
    plain = first_step(prepared(data, **SOFTMAX))[1].loss
    assert abs(float(found.loss) - float(plain)) > 1e-3
    items = jnp.arange(ITEMS, dtype=jnp.int32)
    np.testing.assert_array_equal(  # what is evaluated has no weights
        run.environment.mean_rewards(jnp.int32(2), items),
        data.environment.mean_rewards(jnp.int32(2), items),
    )


@pytest.mark.slow
def test_rewards_are_divided_by_propensities_and_the_reranker_sees_none(data):
    run = prepared(data, unobserved="propensity", popularity_weight=1.0, forward_share=0.5)
    world, items = run.learner.environment, jnp.arange(ITEMS, dtype=jnp.int32)
    weights, rewards = weights_by_hand(1.0, 0.1), np.zeros(ITEMS)
    for row in np.flatnonzero(LOG["user"] == 3)[2:5]:  # the last half of five, rounded up
        rewards[LOG["item"][row]] = LOG["rating"][row] * weights[row]
    np.testing.assert_allclose(world.mean_rewards(jnp.int32(3), items), rewards, rtol=1e-5)
    np.testing.assert_allclose(
        world.relevance(jnp.int32(3), items)[LOG["item"][20]], LOG["rating"][20], rtol=1e-6
    )
    assert world.observed(jnp.int32(3), items).tolist() == (rewards > 0).tolist()


def test_model_fills_what_was_not_observed(data):
    run = prepared(data, unobserved="model", forward_share=0.5)
    world, items = run.learner.environment, jnp.arange(ITEMS, dtype=jnp.int32)
    model = fit_reward_model(data.environment, data.parts)
    rewards = np.clip(np.asarray(model.users)[3] @ np.asarray(model.items).T, 0, model.high)
    for row in np.flatnonzero(LOG["user"] == 3)[2:5]:
        rewards[LOG["item"][row]] = LOG["rating"][row]
    np.testing.assert_allclose(world.mean_rewards(jnp.int32(3), items), rewards, rtol=1e-4)
    served = run.environment.mean_rewards(jnp.int32(3), items)
    assert np.count_nonzero(served) == 1
    again = training_environment(world, run.environment)
    assert again.reward_model is not None
    np.testing.assert_array_equal(
        again.mean_rewards(jnp.int32(3), items), world.mean_rewards(jnp.int32(3), items)
    )


def test_model_minimises_its_objective(data):
    """The items' factors are those at which the written-out objective, for the users' factors, is flat."""
    power, least, w0, penalty = 0.5, 0.2, 0.1, 0.7
    settings = {"power": power, "least": least, "unobserved_weight": w0, "penalty": penalty}
    model = fit_reward_model(data.environment, data.parts, rank=3, **settings)
    counts = np.array(list(counts_by_hand().values()))
    p = np.maximum(least, (np.maximum(counts, 1) / counts.max()) ** power)
    values, weights = np.zeros((USERS, ITEMS)), np.full((USERS, ITEMS), w0)
    for row in np.flatnonzero(LOG["timestamp"] < LENGTH - 1):
        user, item = LOG["user"][row], LOG["item"][row]
        values[user, item], weights[user, item] = LOG["rating"][row], 1 / p[item]

    def objective(items):
        error = jnp.asarray(values) - model.users @ items.T
        return jnp.sum(jnp.asarray(weights) * error**2) + penalty * jnp.sum(items**2)

    slope = jax.grad(objective)(model.items)
    size = jax.grad(objective)(jnp.zeros_like(model.items))
    assert np.abs(slope).max() < 1e-4 * np.abs(size).max()
    fitted = np.asarray(model.users @ model.items.T)
    assert np.abs(fitted - values)[values > 0].mean() < 0.6 * values[values > 0].mean()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["batch", "context", "learned"])
def test_what_is_left_out_has_no_credit_and_no_part_in_the_baseline(data, name):
    run = prepared(data, unobserved="left_out", advantage=name, forward_share=0.5)
    learner = run.learner
    state = jax.tree.map(lambda leaf: leaf[0], run.state)
    batch = learner.simulate(jax.random.key(2))
    candidates = batch.candidates(learner, state.params)
    ranking = batch.ranking(learner, candidates)
    observed = np.asarray(learner.observed(batch, ranking))
    rewards = np.asarray(batch.rewards(learner, ranking))
    assert 0 < observed.sum() < observed.size
    np.testing.assert_array_equal(observed, rewards > 0)  # ratings of a log are above 0
    scores = jnp.zeros(ranking.shape)
    arguments = state.baseline_state, batch.contexts, jnp.asarray(rewards), scores
    credit, _ = learner.credit(*arguments, jnp.asarray(observed))
    assert not np.asarray(credit)[~observed].any()
    garbage = jnp.where(jnp.asarray(observed), jnp.asarray(rewards), 1e3)
    same = learner.credit(*arguments[:2], garbage, scores, jnp.asarray(observed))
    jax.tree.map(
        np.testing.assert_array_equal, same, learner.credit(*arguments, jnp.asarray(observed))
    )
    if name == "batch":
        for row, place in zip(*np.nonzero(observed), strict=True):
            others = [i for i in np.flatnonzero(observed[:, place]) if i != row]
            mean = rewards[others, place].mean() if others else 0
            wanted = pytest.approx(rewards[row, place] - mean, rel=1e-4, abs=1e-5)
            assert float(credit[row, place]) == wanted
    after, _ = jax.jit(Learner.update)(learner, state, jax.random.key(0))
    assert int(after.fault) == 0


@pytest.mark.slow
def test_running_mean_is_that_of_what_was_observed():
    advantage = context_baseline(2, 2)
    state = advantage.init(jax.random.key(0))
    contexts, rewards = jnp.array([1, 1]), jnp.array([[4.0, 9.0], [2.0, 0.0]])
    observed = jnp.array([[True, False], [True, True]])
    first, state = advantage.apply(state, contexts, rewards, observed)
    np.testing.assert_array_equal(first, rewards)  # no earlier rewards
    second, _ = advantage.apply(state, contexts, rewards, observed)
    np.testing.assert_allclose(second, rewards - 2.0)  # the mean of 4, 2 and 0


@pytest.mark.slow
def test_all_observed_is_the_plain_advantage():
    contexts, rewards = jnp.array([0, 1, 1]), jnp.arange(6.0).reshape(3, 2)
    everything = jnp.ones((3, 2), bool)
    network = from_nnx(lambda rngs: IdTower(2, 2, 1, 0.0, rngs=rngs))
    for advantage in (batch_baseline(), learned_baseline(network)):
        state = advantage.init(jax.random.key(0))
        one, two = (advantage.apply(state, contexts, rewards, mask) for mask in (None, everything))
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), one, two)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unobserved": "left_out"}, "unobserved='left_out' needs an advantage whose baseline"),
        (
            {"unobserved": "left_out", "advantage": "group", "draws_per_context": 2},
            "unobserved='left_out' needs an advantage whose baseline",
        ),
        ({"unobserved": "propensity"}, "popularity_weight=0.0, which makes all propensities equal"),
        ({"popularity_weight": 0.5}, "popularity_weight=0.5 has no effect with"),
        ({"popularity_weight": 1.5, **SOFTMAX}, "popularity_weight=1.5; expected from 0 to 1"),
        ({"unobserved": "model", **SOFTMAX}, "unobserved='model' has no effect with"),
    ],
)
def test_settings_that_do_not_fit_are_refused(data, settings, message):
    with pytest.raises(ConfigError, match=message):
        prepared(data, **settings)


def test_data_without_a_training_part_is_refused():
    with pytest.raises(ConfigError, match="unobserved='model' needs a log of interactions"):
        prepared(from_matrix(np.eye(6)), unobserved="model")


def test_own_advantage_may_leave_out(data):
    def apply(state, contexts, rewards, observed=None):
        return rewards, state

    config = rankpg.TrainConfig(**SETTINGS, unobserved="left_out")
    run = prepare(config, data, advantage=Advantage(lambda key: (), apply))
    assert run.learner.leaves_out_unobserved


def test_weights_of_a_log_are_kept(tmp_path):
    """Read from a file, by their name or the caller's, saved with a run, and carried to other catalogues."""
    names = [*LOG, "weight"]
    rows = zip(*LOG.values(), WEIGHTS, strict=True)
    file = tmp_path / "log.csv"
    file.write_text("\n".join([",".join(names), *(",".join(map(str, row)) for row in rows)]))
    worlds = [
        from_interactions(file, test_count=1),
        from_interactions(LOG | {"weight": WEIGHTS}, test_count=1),
        from_interactions(LOG | {"w": WEIGHTS}, test_count=1, columns={"weight": "w"}),
    ]
    for data in worlds:
        np.testing.assert_allclose(data.environment.weights, WEIGHTS, rtol=1e-6)
        assert "weight from" in data.notes[0]
    world = worlds[0].environment
    again, _ = interactions_of(arrays_of(world, worlds[0].parts), USERS, ITEMS)
    np.testing.assert_array_equal(again.weights, world.weights)
    kept = world.take_items(np.arange(3))
    few = LOG["item"] < 3
    np.testing.assert_allclose(kept.weights, WEIGHTS[few], rtol=1e-6)
    assert worlds[0].fingerprint() != from_interactions(LOG, test_count=1).fingerprint()
    plain = from_interactions(LOG | {"weight": WEIGHTS}, test_count=1, columns={"weight": None})
    assert plain.environment.weights is None
    assert dataclasses.replace(world, weights=None).for_training().reward_weights is None


@pytest.mark.parametrize("wrong", [-1.0, np.nan, np.inf])
def test_weights_out_of_range_are_refused(wrong):
    weights = WEIGHTS.copy()
    weights[4] = wrong
    with pytest.raises(TableError, match=r"row 4.*column 'weight': the weight .* at least 0"):
        from_interactions(LOG | {"weight": weights})
    with pytest.raises(TableError, match="column 'weight' holds <U"):
        from_interactions(LOG | {"weight": np.full(USERS * LENGTH, "heavy")})


def test_weights_of_added_values_are_averaged():
    from rankpg.data.interactions import read_interactions

    log = {"user": [1, 1], "item": [2, 2], "value": [1.0, 3.0], "weight": [1.0, 2.0]}
    table = read_interactions(log, duplicates="sum")
    assert table.values.tolist() == [4.0]
    assert table.weights.tolist() == [7 / 4]
    assert read_interactions(log, duplicates="last").weights.tolist() == [2.0]
