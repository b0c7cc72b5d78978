"""The tables of components hold what the settings of a config may name, and build it."""

from __future__ import annotations

import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankpg import TrainConfig
from rankpg.advantages import ADVANTAGES, Advantage, AdvantageSettings
from rankpg.config.fields import choices_of
from rankpg.core.estimators import ESTIMATORS, Estimator
from rankpg.encoders import TOWERS
from rankpg.environments.from_ratings import from_matrix
from rankpg.rerankers import RERANKERS
from rankpg.retrieval import RETRIEVALS
from rankpg.training.build import ENVIRONMENTS, build_learner
from rankpg.types import Reranker

ENABLE_X64 = False

pytestmark = pytest.mark.usefixtures("standard_promotion")  # for optimizers of optax

TABLES = {
    "advantage": set(ADVANTAGES),
    "environment": set(ENVIRONMENTS),
    "estimator": {*ESTIMATORS, "auto"},
    "reranker": set(RERANKERS),
    "retrieval": {*RETRIEVALS, "auto"},
}


@pytest.fixture(scope="module")
def environment():
    features = np.random.default_rng(1).normal(size=(6, 3))
    return from_matrix(np.eye(6), context_features=features, item_features=features).environment


@pytest.mark.parametrize("setting", TABLES)
def test_choices_of_a_setting_are_the_names_of_its_table(setting):
    field = TrainConfig.__dataclass_fields__[setting]
    choices = choices_of(field, typing.get_type_hints(TrainConfig)[setting])
    assert sorted(choices) == sorted(TABLES[setting])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(RERANKERS) - {"stored", "lightgbm"}))  # scores
def test_every_reranker_shows_as_many_items_as_the_config_says(name, environment):
    reranker = RERANKERS[name](TrainConfig(ranking_length=2), environment)
    assert isinstance(reranker, Reranker)
    key, context, items = jax.random.key(0), jnp.int32(1), jnp.arange(4, dtype=jnp.int32)
    ranking = jax.jit(lambda: reranker(key, environment, context, items))()
    assert ranking.items.shape == (reranker.ranking_length,) == (2,)


@pytest.mark.slow
@pytest.mark.parametrize("name", ADVANTAGES)
def test_every_advantage_keeps_the_shape_of_the_rewards(name):
    settings = AdvantageSettings(
        num_contexts=6, ranking_length=2, draws_per_context=2, credit_assigned=True
    )
    advantage = ADVANTAGES[name](settings)
    assert isinstance(advantage, Advantage)
    rewards = jax.random.normal(jax.random.key(1), (4, 2))
    contexts = jnp.array([0, 0, 3, 3], jnp.int32)
    state = advantage.init(jax.random.key(0))
    advantages, after = advantage.apply(state, contexts, rewards)
    assert advantages.shape == rewards.shape
    assert jax.tree.structure(after) == jax.tree.structure(state)


def test_components_that_are_passed_take_the_place_of_named_ones(environment):
    config = TrainConfig(num_candidates=2, batch_size=4, reranker="noisy", advantage="context")
    named = build_learner(config, environment)
    given = {name: getattr(named, name) for name in ("reranker", "advantage", "optimizer")}
    again = build_learner(config, environment, encoder=named.policy.encoder, **given)
    assert again.policy.encoder is named.policy.encoder
    assert all(getattr(again, name) is component for name, component in given.items())


def test_the_learner_has_the_settings_of_its_config(environment):
    config = TrainConfig(
        num_candidates=4, num_experts=2, temperature=0.5, batch_size=12, draws_per_context=3,
        ranking_length=2, position_weights="dcg", entropy_bonus=0.1, product_dtype="bfloat16",
    )  # fmt: skip
    learner = build_learner(config, environment)
    policy = learner.policy
    assert (policy.quotas, policy.num_candidates, policy.temperature) == ((2, 2), 4, 0.5)
    assert policy.product_dtype == jnp.bfloat16
    assert (learner.sampler.batch_size, learner.sampler.draws_per_context) == (12, 3)
    np.testing.assert_array_equal(learner.sampler.contexts, np.arange(6))
    np.testing.assert_allclose(learner.position_weights, 1 / np.log2([2, 3]), rtol=1e-6)
    assert learner.entropy_bonus == 0.1


# Entries of a table that a user added, and that are wrong.


@pytest.mark.parametrize(
    ("table", "setting", "entry", "message"),
    [
        (RERANKERS, "reranker", lambda config, environment: None, r"RERANKERS.* returned None"),
        (ADVANTAGES, "advantage", lambda settings: None, r"ADVANTAGES.* returned None"),
        (RETRIEVALS, "retrieval", lambda settings, reason: None, "returned a NoneType"),
        (ESTIMATORS, "estimator", 3, r"ESTIMATORS\['mine'\] is 3; expected an Estimator"),
        (TOWERS, "item_tower", 3, r"TOWERS\['mine'\] is 3; expected an encoders.TowerKind"),
    ],
)  # fmt: skip
def test_entry_of_another_kind_is_named(monkeypatch, environment, table, setting, entry, message):
    monkeypatch.setitem(table, "mine", entry)
    with pytest.raises((TypeError, ValueError), match=message):
        build_learner(TrainConfig(num_candidates=2, **{setting: "mine"}), environment)


@pytest.mark.parametrize("wrong", [None, jnp.zeros((4, 0))])
def test_advantage_of_another_shape_is_named(environment, wrong):
    advantage = Advantage(lambda key: (), lambda state, contexts, rewards: (wrong, state))
    config = TrainConfig(num_candidates=2, batch_size=4)
    with pytest.raises(ValueError, match=r"the advantage returns .* expected"):
        build_learner(config, environment, advantage=advantage)


@pytest.mark.parametrize("wrong", [None, jnp.zeros(9)])
def test_score_of_another_shape_is_named(monkeypatch, environment, wrong):
    mine = Estimator(lambda candidates, ranking, quotas: wrong, "candidates", True)
    monkeypatch.setitem(ESTIMATORS, "mine", mine)
    learner = build_learner(TrainConfig(num_candidates=2, estimator="mine"), environment)
    with pytest.raises(ValueError, match="the estimator's score returns"):
        jax.eval_shape(learner.update, learner.init(jax.random.key(0)), jax.random.key(1))
