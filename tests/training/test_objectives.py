"""Training on known feedback: the loss by its formula, what is drawn, and what is learnt."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rankpg
from rankpg.config import ConfigError
from rankpg.data.ids import TableError
from rankpg.encoders import towers_of
from rankpg.environments import from_interactions, from_matrix
from rankpg.retrieval import Dense, Streamed
from rankpg.runs.run import prepare
from rankpg.training.known_feedback import Curriculum, Term, expected_reward
from rankpg.training.moments import training_moments

ENABLE_X64 = False
pytestmark = pytest.mark.usefixtures("as_a_user")

SETTINGS = {
    "context_tower": "ids",
    "num_candidates": 4,
    "embedding_dim": 4,
    "batch_size": 8,
    "num_steps": 4,
    "eval_every": 4,
    "seeds": (0,),
}


def log(num_users=12, num_items=10, length=6, seed=0):
    random = np.random.default_rng(seed)
    items = np.concatenate([random.permutation(num_items)[:length] for _ in range(num_users)])
    return {
        "user": np.repeat(np.arange(num_users), length),
        "item": items,
        "timestamp": np.tile(np.arange(length), num_users),
    }


@pytest.fixture(scope="module")
def data():
    return from_interactions(log(), validation_share=0.2)


def prepared(data, **settings):
    return prepare(rankpg.TrainConfig(**SETTINGS | settings), data)


def slow_loss(run, state, key):
    """The loss of one update, by loops over contexts and wanted items."""
    learner, objective = run.learner, run.learner.objective
    of_feedback, _ = jax.random.split(key)
    contexts = objective.sampler(jax.random.fold_in(key, np.uint32(2**32 - 1)), state.step)
    wanted = learner.environment.feedback(of_feedback, contexts)
    logits = learner.policy.logits(state.params, learner.environment, contexts)
    first = int(state.step) < objective.curriculum.switch
    term = objective.curriculum.first if first else objective.curriculum.second
    total, weight = 0.0, 0.0
    for row, context in enumerate(np.asarray(contexts)):
        masked = learner.environment.mask_ineligible(jnp.int32(context), logits[row])
        weights = np.exp(np.asarray(masked[0], np.float64))
        kept = np.asarray(wanted.values[row]) > 0
        mine = np.asarray(wanted.items[row])[kept]
        for item, value in zip(mine, np.asarray(wanted.values[row])[kept], strict=True):
            others = weights.copy()
            if objective.mask_others:
                others[[a for a in mine if a != item]] = 0
            pi = others[item] / others.sum()
            p = [1 - (1 - pi) ** k for k in term.at]
            power = term.power
            gains = np.log(p) if power == 0 else (np.array(p) ** power - 1) / power
            total -= value * np.mean(gains)
            weight += value
    return total / weight


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"objective": "softmax"},
        {"objective": "softmax", "mask_positives": False, "forward_share": 1.0},
        {"objective": "inclusion", "first_share": 0.0, "inclusion_at": (2, 5)},
        {"objective": "inclusion", "first_share": 0.0, "inclusion_power": 0.5},
    ],
)
@pytest.mark.parametrize("retrieval", ["dense", "streamed"])
def test_loss_by_its_formula(data, settings, retrieval):
    run = prepared(data, retrieval=retrieval, init_scale=1.0, **settings)
    state = jax.tree.map(lambda leaf: leaf[0], run.state)
    key = jax.random.key(3)
    _, metrics = jax.jit(type(run.learner).update)(run.learner, state, key)
    np.testing.assert_allclose(metrics.loss, slow_loss(run, state, key), rtol=2e-5)


@pytest.mark.slow
def test_objectives_learn_what_is_wanted(data):
    settings = {"num_steps": 300, "eval_every": 300, "learning_rate": 3e-2, "forward_share": 1.0}
    for objective in ("softmax", "inclusion"):
        run = rankpg.train(
            rankpg.TrainConfig(**SETTINGS | settings | {"objective": objective}), data
        )
        expected = run.metrics[-1]["reward"]
        assert (
            1.7 < expected < 2.0
        )  # half of the four wanted items, were they alone; drawn with replacement


@pytest.mark.slow
def test_seen_items_are_never_candidates(data):
    for settings in (
        {"objective": "softmax"},
        {"context_tower": "history", "objective": "softmax"},
    ):
        run = rankpg.train(rankpg.TrainConfig(**SETTINGS | settings), data)
        users = data.context_ids.ids
        handed = run.candidates(users)
        table = log()
        for user, row in zip(users, handed, strict=True):
            history = table["item"][table["user"] == user][:5]  # all but the test part
            assert not set(row) & set(history)


@pytest.mark.slow
def test_terms_of_a_curriculum_follow_each_other(data):
    run = prepared(data, objective="inclusion", first_share=0.5, inclusion_at=(3,))
    objective = run.learner.objective
    assert objective.curriculum == Curriculum(Term.softmax(), Term((3,)), 2, 4, 0.5)
    state = jax.tree.map(lambda leaf: leaf[0], run.state)
    later = dataclasses.replace(state, step=jnp.int32(2))
    for at in (state, later):
        key = jax.random.key(1)
        _, metrics = jax.jit(type(run.learner).update)(run.learner, at, key)
        np.testing.assert_allclose(metrics.loss, slow_loss(run, at, key), rtol=2e-5)


@pytest.mark.slow
def test_moments_of_the_optimizer_start_anew_with_the_second_term(data):
    """The first update of adam moves every touched number by about the learning rate."""
    run = prepared(data, objective="inclusion", first_share=0.5, learning_rate=1e-2, later_rate=1.0)
    update = jax.jit(type(run.learner).update)
    state = jax.tree.map(lambda leaf: leaf[0], run.state)
    for step in range(3):
        before = state.params
        state, _ = update(run.learner, state, jax.random.key(step))
    moved = jax.tree.map(lambda new, old: jnp.max(jnp.abs(new - old)), state.params, before)
    assert max(map(float, jax.tree.leaves(moved))) == pytest.approx(1e-2, rel=0.05)
    counts = [x for x in jax.tree.leaves(state.optimizer_state) if x.ndim == 0]
    assert [int(count) for count in counts] == [1]


@pytest.mark.slow
def test_every_expert_is_trained(data):
    for objective in ("softmax", "inclusion"):
        run = prepared(data, objective=objective, num_experts=2, context_tower="history")
        state = jax.tree.map(lambda leaf: leaf[0], run.state)
        after, _ = jax.jit(type(run.learner).update)(run.learner, state, jax.random.key(0))
        moved = jax.tree.leaves(jax.tree.map(jnp.subtract, after.params, state.params))
        (table,) = (leaf for leaf in moved if leaf.ndim == 3)
        assert (jnp.abs(table).max(axis=(1, 2)) > 0).all()


def test_held_out_users_without_a_tower_for_them_are_refused():
    whole = from_interactions(log(), split="user", test_share=0.3)
    with pytest.raises(ConfigError, match="users are held out whole, but context_tower='ids'"):
        prepared(whole, objective="softmax")
    assert prepared(whole, objective="softmax", context_tower="history")


def test_weights_whose_sum_overflows_are_refused():
    with pytest.raises(
        TableError, match="the value 1e\\+38 is above 1e\\+30, so that a batch overflows"
    ):
        from_interactions(log() | {"value": np.full(72, 1e38)})


def test_histories_are_trained_on_every_moment(data):
    config = rankpg.TrainConfig(**SETTINGS | {"objective": "softmax", "context_tower": "history"})
    first, later = training_moments(config, data.parts, of_histories=True)
    assert first is later
    assert len(first.users) == int(np.sum(data.parts.train_ends - 1))


@pytest.mark.slow
def test_expected_reward_by_its_formula():
    from rankpg.core.plackett_luce import gather_logits
    from rankpg.types import Feedback

    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7)), jnp.float32)
    items, values = jnp.array([[3, 5]]), jnp.array([[2.0, 1.0]])
    sparse = jax.vmap(gather_logits, in_axes=(None, 0))(logits, items)
    pi = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    p = 1 - (1 - pi[0]) ** 3 * (1 - pi[1]) ** 2
    found = expected_reward(sparse, Feedback(items=items, values=values), (3, 2))
    np.testing.assert_allclose(found, [2 * p[3] + p[5]], rtol=1e-5)


def test_epochs_are_counted_in_moments(data):
    run = prepared(data, objective="softmax", context_tower="history", num_epochs=3)
    moments = int(np.sum(data.parts.train_ends - 1))
    assert run.config.num_steps == -(-3 * moments // SETTINGS["batch_size"])


def test_environment_without_known_feedback_is_refused():
    with pytest.raises(ConfigError, match="need known feedback, and the environment RewardMatrix"):
        prepared(from_matrix(np.eye(6)), objective="softmax")


def test_history_tower_without_histories_is_refused():
    with pytest.raises(ConfigError, match="context_tower='history' needs the sequences of users"):
        prepared(from_matrix(np.eye(6)), context_tower="history")


@pytest.mark.slow
def test_fault_stops_training_and_changes_nothing(data):
    run = prepared(data, objective="softmax", retrieval="dense")
    state = jax.tree.map(lambda leaf: leaf[0], run.state)
    broken = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), state.params)
    state = dataclasses.replace(state, params=broken)
    after, _ = jax.jit(type(run.learner).update)(run.learner, state, jax.random.key(0))
    assert int(after.fault) > 0
    assert int(after.step) == 0


def test_retrieval_classes_are_those_that_were_chosen(data):
    assert isinstance(prepared(data, objective="softmax").policy.retrieval, Dense)
    streamed = prepared(data, objective="softmax", retrieval="streamed")
    assert isinstance(streamed.policy.retrieval, Streamed)


@pytest.mark.slow
def test_interactions_are_learnt_by_a_history_tower_where_none_is_named(data):
    def tower(**settings):
        return prepare(rankpg.TrainConfig(num_candidates=4, **settings), data).config.context_tower

    assert tower(objective="softmax") == tower(objective="inclusion") == "history"
    assert tower(objective="policy_gradient") == tower() == "ids"
    assert tower(objective="softmax", context_tower="ids") == "ids"
    config = rankpg.TrainConfig(num_candidates=4, objective="softmax")
    assert (
        prepare(config, data, encoder=towers_of(data.environment, 10)).config.context_tower == "ids"
    )


def test_settings_of_a_history_tower_are_accepted_with_the_automatic_tower():
    assert rankpg.TrainConfig(history_length=5, objective="softmax").history_length == 5
    with pytest.raises(
        ConfigError, match="history_length=5 has no effect with context_tower='ids'"
    ):
        rankpg.TrainConfig(history_length=5, context_tower="ids", objective="softmax")
