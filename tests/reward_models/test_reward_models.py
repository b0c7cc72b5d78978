"""Reward models: what they learn, what they remember, and what they say about themselves."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rankpg.encoders import to_logits
from rankpg.environments import from_matrix, generate
from rankpg.errors import ConfigError
from rankpg.reward_models import (
    REWARD_MODELS,
    Memory,
    Observed,
    Replay,
    begin_assessment,
    custom,
    ensemble,
    learn_and_assess,
    mlp,
    reliability,
    squared_error,
    two_tower,
)

ENABLE_X64 = False
pytestmark = pytest.mark.usefixtures("standard_promotion")  # for optimizers of optax
CONTEXTS, ITEMS = 6, 5


@pytest.fixture(scope="module")
def means():
    low_rank = np.random.default_rng(0).normal(size=(2, 12, 2))
    return np.float32(7 + low_rank[0, :CONTEXTS] @ low_rank[1, :ITEMS].T)


@pytest.fixture(scope="module")
def world(means):
    return from_matrix(means).environment


@pytest.fixture(scope="module")
def pairs(means):
    """Contexts, items and rewards of a batch in which every pair occurs once."""
    contexts = jnp.arange(CONTEXTS, dtype=jnp.int32)
    items = jnp.broadcast_to(jnp.arange(ITEMS, dtype=jnp.int32), (CONTEXTS, ITEMS))
    return contexts, items, jnp.asarray(means)


def fitted(model, world, pairs, steps=300, observed=None):
    """The state after some batches, and its predictions of the pairs."""

    def run(key):
        def step(state, _):
            return model.learn(state, world, *pairs, observed), None

        state, _ = jax.lax.scan(step, model.init(key), length=steps)
        return state, model.predict(state, world, *pairs[:2])

    return jax.jit(run)(jax.random.key(0))


def embedded(model, state, world, contexts):
    embed = jax.jit(lambda state: to_logits(model.embed(state, world, contexts))[:, 0])
    return np.asarray(embed(state))


def test_two_towers_fit_rewards_and_their_embeddings_order_them(world, pairs, means):
    model = two_tower(world, dim=3, optimizer=optax.adam(0.03), penalty=0.0)
    state, found = fitted(model, world, pairs)
    np.testing.assert_allclose(found, means, atol=0.05)
    difference = embedded(model, state, world, pairs[0]) - found
    np.testing.assert_allclose(difference - difference[:, :1], 0, atol=1e-4)
    assert float(model.unit(state)) == pytest.approx(means.std(), rel=1e-3)


def test_a_penalty_shrinks_predictions_towards_the_mean(world, pairs):
    models = [two_tower(world, dim=3, penalty=penalty) for penalty in (0.0, 300.0)]
    spreads = [float(jnp.std(fitted(model, world, pairs, 100)[1])) for model in models]
    assert spreads[1] < 0.8 * spreads[0]


def test_what_was_not_observed_changes_nothing(world, pairs):
    model = two_tower(world, dim=2, replay=Replay(64, 2, 8))
    hidden = jnp.zeros((CONTEXTS, ITEMS), bool)
    after, _ = fitted(model, world, pairs, 1, hidden)
    before, _ = fitted(model, world, pairs, 0)
    for old, new in zip(jax.tree.leaves(before.params), jax.tree.leaves(after.params), strict=True):
        np.testing.assert_array_equal(old, new)
    assert float(after.observed) == 0 == int(after.memory.count)


@pytest.mark.slow
def test_unobserved_rewards_are_not_read(world, pairs):
    model = two_tower(world, dim=2, replay=Replay(64, 2, 8))
    seen = jnp.ones((CONTEXTS, ITEMS), bool).at[0, 0].set(False)
    predicted = [
        fitted(model, world, (*pairs[:2], pairs[2].at[0, 0].set(reward)), 2, seen)[1]
        for reward in (0.0, jnp.nan)
    ]
    np.testing.assert_array_equal(*predicted)


@pytest.mark.slow
def test_replay_learns_faster_from_the_same_rewards(world, pairs, means):
    models = [
        two_tower(world, dim=3, penalty=0.0, replay=replay)
        for replay in (None, Replay(1000, 8, 64))
    ]
    errors = [float(np.mean((fitted(m, world, pairs, 30)[1] - means) ** 2)) for m in models]
    assert errors[1] < 0.5 * errors[0]


def test_memory_is_a_uniform_sample_of_what_was_seen():
    ids = jnp.arange(6, dtype=jnp.int32)
    seen = jnp.array([True, True, False, True, True, True])
    new = Observed(ids, ids, ids.astype(jnp.float32), seen)

    def kept(key):
        return Memory.empty(3).add(key, new).items

    shares = np.bincount(
        np.ravel(jax.jit(jax.vmap(kept))(jax.random.split(jax.random.key(0), 900)))
    )
    # Items of one batch may meet at one place, so the first ones are kept a little more often.
    np.testing.assert_allclose(shares[[0, 1, 3, 4, 5]] / 900, 0.6, atol=0.1)
    assert shares[2] == 0
    drawn = jax.jit(lambda key: Memory.empty(8).add(key, new).draw(key, 60))(jax.random.key(0))
    assert set(drawn.items.tolist()) == {0, 1, 3, 4, 5}
    assert drawn.seen.all()


@pytest.mark.slow
def test_ensemble_is_the_mean_of_members_that_differ(world, pairs):
    model = two_tower(world, dim=2)
    several = ensemble(model, 3)
    state, found = fitted(several, world, pairs, 20)
    predict = jax.jit(jax.vmap(lambda own: model.predict(own, world, *pairs[:2])))
    each = predict(state.states)
    np.testing.assert_allclose(found, np.mean(each, axis=0), rtol=1e-5)
    spread = jax.jit(lambda state: several.spread(state, world, *pairs[:2]))(state)
    np.testing.assert_allclose(spread, np.std(each, axis=0, ddof=1), rtol=1e-3, atol=1e-5)
    difference = embedded(several, state, world, pairs[0]) - found
    np.testing.assert_allclose(difference - difference[:, :1], 0, atol=1e-4)


def test_members_learn_from_different_halves(world, pairs):
    count = custom(
        lambda key: jnp.zeros(()), lambda p, w, x, a: p + jnp.zeros(a.shape), optax.sgd(0.1)
    )
    state, _ = fitted(ensemble(count, 4), world, pairs, 1)
    counts = np.asarray(state.states.observed)
    assert len(set(counts.tolist())) > 1
    assert 0 < counts.sum() < 4 * CONTEXTS * ITEMS
    with pytest.raises(ValueError, match="size=1"):
        ensemble(count, 1)


@pytest.mark.slow
def test_perceptron_predicts_items_that_were_never_shown():
    world = generate(jax.random.key(0), num_contexts=40, num_items=30, num_features=3)
    contexts = jnp.arange(40, dtype=jnp.int32)
    every = jnp.broadcast_to(jnp.arange(30, dtype=jnp.int32), (40, 30))
    rewards = jax.vmap(world.mean_rewards)(contexts, every)
    model = mlp(world, dim=8, optimizer=optax.adam(1e-2))
    state, _ = fitted(model, world, (contexts, every[:, :20], rewards[:, :20]), 200)
    new = jax.jit(lambda state: model.predict(state, world, contexts, every[:, 20:]))(state)
    error = float(jnp.mean((new - rewards[:, 20:]) ** 2))
    assert error < 0.1 * float(jnp.var(rewards[:, 20:]))


def test_features_that_are_missing_are_named(world):
    with pytest.raises(ConfigError, match="context_features"):
        mlp(world)
    with pytest.raises(ConfigError, match="item_tower='features'"):
        two_tower(world, item_tower="features")
    with pytest.raises(ConfigError, match="context_tower='given'"):
        two_tower(world, context_tower="given")
    assert set(REWARD_MODELS) >= {"two_tower", "mlp"}


def test_a_network_of_another_shape_is_rejected(world, pairs):
    model = custom(lambda key: jnp.zeros(()), lambda params, world, x, a: params)
    with pytest.raises(ValueError, match=r"items of shape \(6, 5\)"):
        model.predict(model.init(jax.random.key(0)), world, *pairs[:2])


@pytest.mark.slow
def test_assessment_predicts_before_it_learns(world, pairs, means):
    count = custom(
        lambda key: jnp.zeros(()), lambda p, w, x, a: p + jnp.zeros(a.shape), optax.sgd(0.5)
    )
    first = begin_assessment(4.0, 10.0, bins=6)
    seen = jnp.ones((CONTEXTS, ITEMS), bool).at[0].set(False)
    state, done = learn_and_assess(count, count.init(jax.random.key(0)), first, world, *pairs, seen)
    assert squared_error(done) == pytest.approx(np.mean(means[1:] ** 2), rel=1e-4)
    state, done = learn_and_assess(count, state, first, world, *pairs, seen)
    assert squared_error(done) == pytest.approx(np.var(means[1:]), rel=1e-4)
    (row,) = reliability(done)
    assert row.count == (CONTEXTS - 1) * ITEMS
    assert row.observed == pytest.approx(row.predicted, rel=1e-4) == pytest.approx(means[1:].mean())
    error = means[1:].std() / np.sqrt(row.count - 1)
    assert row.standard_error == pytest.approx(error, rel=1e-3)
    assert np.isnan(squared_error(first))
    with pytest.raises(ValueError, match="low < high"):
        begin_assessment(1.0, 1.0)
