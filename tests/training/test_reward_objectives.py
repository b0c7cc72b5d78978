"""Estimators that learn through predicted rewards: value_based and model_guided."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rankpg
from rankpg import TrainConfig
from rankpg.advantages import batch_baseline
from rankpg.config.reward_model_settings import BY_PREDICTIONS
from rankpg.environments import from_matrix, generate, with_list_reward
from rankpg.errors import ConfigError
from rankpg.online.validation import check_online
from rankpg.rerankers import custom
from rankpg.training import Fault, Learner, build_learner
from rankpg.training.exploration import draw_by_rewards
from rankpg.training.value_based import predicted_rewards
from rankpg.types import Embeddings

ENABLE_X64 = False
pytestmark = pytest.mark.usefixtures("standard_promotion")  # for optimizers of optax
CONTEXTS, ITEMS = 5, 8
SMALL = {"num_candidates": 2, "batch_size": 16, "embedding_dim": 4, "seeds": (0,)}


@pytest.fixture(scope="module")
def means():
    return np.float32(np.random.default_rng(1).uniform(1, 5, size=(CONTEXTS, ITEMS)))


@pytest.fixture(scope="module")
def world(means):
    return from_matrix(means).environment


def learner_of(world, **settings):
    return build_learner(TrainConfig(**(SMALL | settings)), world)


def stepped(learner, steps):
    def body(state, key):
        return learner.update(state, key)

    def run(key):
        return jax.lax.scan(body, learner.init(key), jax.random.split(key, steps))

    return jax.jit(run)(jax.random.key(0))


def value(learner, world, means, state):
    contexts = jnp.arange(CONTEXTS, dtype=jnp.int32)
    greedy, _ = learner.policy.greedy(state.params, world, contexts)
    return float(np.take_along_axis(means, np.asarray(greedy), axis=1).max(1).mean())


@pytest.mark.slow
@pytest.mark.parametrize("retrieval", ["dense", "streamed"])
def test_value_based_logits_become_the_rewards(world, means, retrieval):
    settings = {"retrieval": retrieval, "learning_rate": 0.05, "embedding_dim": 8}
    learner = learner_of(
        world,
        estimator="value_based",
        reranker="uniform",
        exploration_temperatures=(9.0, 9.0),
        **settings,
    )
    state, metrics = stepped(learner, 300)
    logits = learner.policy.logits(state.params, world, jnp.arange(CONTEXTS, dtype=jnp.int32))[:, 0]
    np.testing.assert_allclose(logits, means, atol=0.3)
    assert float(metrics.loss[-1]) < 0.1 < float(metrics.loss[0])


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"retrieval": "dense"}, {"retrieval": "streamed"}])
def test_a_guided_policy_finds_the_best_items(world, means, settings):
    learner = learner_of(
        world, estimator="model_guided", exploration_steps=60, learning_rate=0.05, **settings
    )
    state, metrics = stepped(learner, 150)
    assert value(learner, world, means, state) > 0.97 * means.max(1).mean()
    assert float(metrics.reward[-20:].mean()) > float(metrics.reward[:20].mean())
    assert float(state.reward_model_state.observed) == 150 * 16


@pytest.mark.slow
def test_a_guided_policy_leaves_out_what_the_reranker_never_shows(means):
    """Item 0 is the best of all, and the re-ranker shows the other candidate."""
    world = from_matrix(np.where(np.arange(ITEMS) == 0, 6, means)).environment
    last = custom(1, lambda key, context, items: jnp.where(items[0] == 0, items[1:], items[:1]))
    config = TrainConfig(
        **SMALL, estimator="model_guided", exploration_steps=60, learning_rate=0.05
    )
    learner = build_learner(config, world, reranker=last)
    state, _ = stepped(learner, 150)
    greedy, _ = learner.policy.greedy(state.params, world, jnp.arange(CONTEXTS, dtype=jnp.int32))
    assert not np.any(np.asarray(greedy) == 0)


@pytest.mark.slow
def test_a_model_without_embeddings_guides_dense_retrieval_alone():
    world = generate(jax.random.key(0), num_contexts=6, num_items=8, num_features=3)
    settings = {"estimator": "model_guided", "reward_model": "mlp", "reward_model_dim": 4}
    learner = learner_of(world, retrieval="dense", **settings)
    _, metrics = stepped(learner, 2)
    assert np.isfinite(metrics.loss).all()
    with pytest.raises(ConfigError, match="no embeddings"):
        learner_of(world, retrieval="streamed", **settings)


@pytest.mark.slow
def test_a_reward_out_of_bounds_stops_both(world):
    for estimator in ("value_based", "model_guided"):
        learner = learner_of(world, estimator=estimator)
        learner = dataclasses.replace(learner, reward_bounds=(0.0, 1.0))
        state, _ = stepped(learner, 2)
        assert int(state.fault) == Fault.REWARDS
        before = jax.jit(Learner.init)(learner, jax.random.key(0))
        for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(state), strict=True):
            if new.shape:
                np.testing.assert_array_equal(old, new)


@pytest.mark.slow
def test_candidates_are_drawn_in_proportion_to_exponential_rewards(world):
    learner = learner_of(world, estimator="value_based", num_candidates=1)
    rewards = jnp.broadcast_to(jnp.log(jnp.arange(1.0, ITEMS + 1)), (4000, 1, ITEMS))
    keys, contexts = jax.random.split(jax.random.key(0), 4000), jnp.zeros(4000, jnp.int32)
    drawn = draw_by_rewards(keys, learner.policy, world, contexts, rewards, jnp.float32(0.5))
    weights = np.arange(1, ITEMS + 1) ** 2
    shares = np.bincount(np.ravel(drawn.items), minlength=ITEMS) / 4000
    np.testing.assert_allclose(shares, weights / weights.sum(), atol=0.03)


def test_predicted_rewards_are_those_of_the_logits():
    keys = jax.random.split(jax.random.key(0))
    both = Embeddings(
        contexts=jax.random.normal(keys[0], (3, 1, 4)), items=jax.random.normal(keys[1], (1, 6, 4))
    )
    items = jnp.array([[0, 5], [2, 2], [4, 1]])
    dense = jnp.einsum("bmd,mnd->bmn", both.contexts, both.items)
    found = predicted_rewards(both, items), predicted_rewards(dense, items)
    np.testing.assert_allclose(*found, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (
            {"estimator": "model_guided", "advantage": "context"},
            "advantage='context' has no effect",
        ),
        ({"estimator": "value_based", "num_experts": 2}, "at most 1 expert"),
        ({"estimator": "value_based", "reward_model_dim": 4}, "reward_model_dim=4 has no effect"),
        ({"estimator": "ca_pg", "exploration_steps": 4}, "exploration_steps=4 has no effect"),
        (
            {"estimator": "value_based", "exploration_temperatures": (1.0,)},
            r"exploration_temperatures=\(1.0,\)",
        ),
        ({"reward_model": "mlp", "reward_model_members": 0}, "reward_model_members=0"),
    ],
)
def test_settings_without_an_effect_are_rejected(settings, match):
    with pytest.raises(ConfigError, match=match):
        TrainConfig(**settings)


@pytest.mark.parametrize("estimator", BY_PREDICTIONS)
def test_the_preset_of_the_paper_gives_no_setting_that_is_rejected(estimator):
    assert TrainConfig(estimator=estimator, preset="paper").resolve().optimizer == "adagrad"


@pytest.mark.slow
@pytest.mark.parametrize("estimator", BY_PREDICTIONS)
def test_an_advantage_without_an_effect_is_rejected(world, estimator):
    config = TrainConfig(**SMALL, estimator=estimator)
    with pytest.raises(ConfigError, match=f"advantage= has no effect with estimator='{estimator}'"):
        build_learner(config, world, advantage=batch_baseline())


@pytest.mark.slow
def test_auto_says_that_it_does_not_see_the_rewards_of_a_list(world):
    interacting = with_list_reward(world, lambda context, items: jnp.ones(items.shape))
    with pytest.raises(ConfigError, match=r"estimator='ca_pg_swap'.*estimator='auto' chooses by"):
        learner_of(interacting, estimator="auto")


@pytest.mark.slow
def test_a_guided_run_is_saved_and_goes_on(tmp_path, world):
    config = TrainConfig(**SMALL, estimator="model_guided", num_steps=20, eval_every=10)
    whole = rankpg.train(config, from_matrix(np.asarray(world.means)), out=tmp_path / "run")
    loaded = rankpg.load_run(tmp_path / "run")
    for old, new in zip(jax.tree.leaves(whole.state), jax.tree.leaves(loaded.state), strict=True):
        np.testing.assert_array_equal(old, new)
    with pytest.raises(ConfigError, match="policy gradient alone"):
        check_online(loaded, "item", 10.0)
