"""List rewards with tables of the catalogue, the environment that has them, and its training and values."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rankpg
from rankpg import TrainConfig
from rankpg.core.sampling import greedy_candidates
from rankpg.environments import (
    catalogue,
    from_matrix,
    list_gains,
    list_rewards,
    paper_instance,
    with_embeddings,
    with_list_reward,
)
from rankpg.environments.catalogue import Restricted
from rankpg.environments.edits import add_items, remove_items
from rankpg.environments.subtopics import item_subtopics
from rankpg.environments.with_list_reward import items_alone
from rankpg.errors import ConfigError
from rankpg.evaluation import fairness
from rankpg.evaluation.metrics import OF_SINGLE_ITEMS, evaluate, share_aligned
from rankpg.report.measure import measure_exposure
from rankpg.runs.evaluator import evaluate_run
from rankpg.training.build import build_learner
from rankpg.types import check_environment

ENABLE_X64 = False
CONTEXTS, ITEMS, TOPICS = 3, 8, 4
CONTEXT = jnp.int32(1)
LIST = jnp.array([5, 0, 7, 2], jnp.int32)
random = np.random.default_rng(0)
SUBTOPICS = random.integers(0, 2, (CONTEXTS, ITEMS, TOPICS))
FEATURES = random.normal(size=(ITEMS, 3)).astype(np.float32)
RATES = random.random((CONTEXTS, ITEMS)).astype(np.float32)
MEANS = random.random((CONTEXTS, ITEMS)).astype(np.float32)
ROWS = jnp.asarray(SUBTOPICS[1, np.asarray(LIST)], jnp.float32)
SHOWN = jnp.asarray(FEATURES[np.asarray(LIST)])
EXPECTED = {
    "alpha_ndcg": (
        list_rewards.alpha_ndcg(SUBTOPICS),
        lambda: list_gains.alpha_dcg_gains(ROWS) / list_rewards.greedy_ideal(SUBTOPICS[1], 4)[-1],
    ),
    "err_ia": (
        list_rewards.err_ia(SUBTOPICS / 2),
        lambda: list_gains.err_ia_gains(ROWS / 2, jnp.full(TOPICS, 1 / TOPICS)),
    ),
    "trec_err_ia": (
        list_rewards.trec_err_ia(SUBTOPICS),
        lambda: list_gains.trec_err_ia_gains(ROWS, jnp.float32(TOPICS)),
    ),
    "subtopic_recall": (
        list_rewards.subtopic_recall(SUBTOPICS),
        lambda: list_gains.subtopic_recall_gains(ROWS, jnp.float32(TOPICS)),
    ),
    "coverage": (
        list_rewards.coverage(SUBTOPICS[1] / 3, weights=[1, 2, 3, 4]),
        lambda: list_gains.coverage_gains(ROWS / 3, jnp.arange(1.0, 5.0)),
    ),
    "diversity": (
        list_rewards.diversity(FEATURES),
        lambda: list_gains.diversity_gains(list_gains.cosine_distances(SHOWN)),
    ),
    "log_det": (
        list_rewards.log_det(FEATURES, quality=np.full(ITEMS, 2.0)),
        lambda: list_gains.log_det_gains(4 * SHOWN @ SHOWN.T),
    ),
    "cascade": (
        list_rewards.cascade(RATES),
        lambda: list_gains.expected_clicks(jnp.asarray(RATES)[1, LIST], jnp.zeros(4)),
    ),
    "dependent_clicks": (
        list_rewards.dependent_clicks(RATES[1], [0.5, 0.4, 0.3, 0.2]),
        lambda: list_gains.expected_clicks(
            jnp.asarray(RATES)[1, LIST], jnp.array([0.5, 0.4, 0.3, 0.2])
        ),
    ),
    "exposure_share": (
        list_rewards.exposure_share([0, 1, 0, 1, 0, 0, 0, 0]),
        lambda: list_gains.exposure_share_gains(
            jnp.array([[1, 0], [1, 0], [1, 0], [1, 0.0]]), jnp.array([0.75, 0.25])
        ),
    ),
    "a list of gains": (
        list_rewards.function(lambda context, items: items / (1 + context)),
        lambda: np.asarray(LIST) / 2,
    ),
    "one number": (
        list_rewards.function(lambda context, items: jnp.float32(2.5)),
        lambda: [0, 0, 0, 2.5],
    ),
}


@pytest.fixture(autouse=True)
def promotion(as_a_user):
    """Rewards of a user's function and the optimizer promote dtypes by the standard rules."""


@pytest.mark.parametrize("name", EXPECTED)
def test_rewards_of_tables_are_those_of_their_rows(name):
    reward, expected = EXPECTED[name]
    world = with_list_reward(from_matrix(MEANS), reward).environment
    check_environment(world)
    found = jax.jit(lambda world: world.mean_rewards(CONTEXT, LIST))(world)
    np.testing.assert_allclose(found, np.asarray(expected()), rtol=2e-5, atol=1e-6)
    sampled = world.sample_rewards(jax.random.key(0), CONTEXT, LIST)
    assert sampled.shape == LIST.shape


@pytest.mark.parametrize("members", [1, 3, 7])
def test_rnd_is_minus_that_of_the_evaluation(members):
    group = np.arange(12) % 12 < members
    reward = list_rewards.rnd(group, every=2)
    for seed in range(3):
        items = np.random.default_rng(seed).permutation(12)[:7]
        found = reward.gains(CONTEXT, jnp.asarray(items, jnp.int32)).sum()
        expected = fairness.rnd(group[items], 12, members, every=2)
        assert float(found) == pytest.approx(-float(expected), abs=1e-5)


def test_tables_of_every_context_and_of_all(key):
    of_each, of_all = item_subtopics(SUBTOPICS), item_subtopics(SUBTOPICS[0])
    for context in range(CONTEXTS):
        rows = jax.vmap(of_each.rows, (None, 0))(jnp.int32(context), jnp.arange(ITEMS)[:, None])
        np.testing.assert_array_equal(rows[:, 0], SUBTOPICS[context])
        np.testing.assert_array_equal(of_all.rows(jnp.int32(context), LIST), SUBTOPICS[0][LIST])
    nothing = item_subtopics(np.zeros((2, 3, 2)))
    assert not nothing.rows(jnp.int32(1), jnp.arange(3)).any()


def test_rewards_of_items_are_added_by_their_weight():
    plain = from_matrix(MEANS, noise_std=0.5)
    world = with_list_reward(plain, list_rewards.diversity(FEATURES), item_weight=2.0).environment
    gains = list_rewards.diversity(FEATURES).gains(CONTEXT, LIST)
    means = world.mean_rewards(CONTEXT, LIST)
    np.testing.assert_allclose(means, gains + 2 * MEANS[1, np.asarray(LIST)], rtol=1e-6)
    assert np.ptp(np.asarray(world.sample_rewards(jax.random.key(0), CONTEXT, LIST) - means)) > 0


def test_all_but_the_rewards_is_that_of_the_inner_environment():
    eligible = np.ones((CONTEXTS, ITEMS), bool)
    eligible[1, 3] = False
    data = from_matrix(MEANS, eligible=eligible, item_features=FEATURES, item_ids=list("abcdefgh"))
    found = with_list_reward(data, list_rewards.diversity(FEATURES))
    world, every = found.environment, jnp.arange(ITEMS)
    assert world.rewards_interact
    assert not data.environment.rewards_interact
    assert found.item_ids is data.item_ids
    np.testing.assert_array_equal(world.relevance(CONTEXT, every), MEANS[1])
    np.testing.assert_array_equal(world.eligible(CONTEXT, every), eligible[1])
    np.testing.assert_array_equal(world.count_eligible(), [8, 7, 8])
    np.testing.assert_array_equal(world.item_features, FEATURES)
    assert items_alone(world) is data.environment
    assert found.notes[-1] == "The reward is that of the whole shown list: intra-list diversity."
    unknown = catalogue(2, ITEMS)
    assert with_list_reward(unknown, lambda context, items: 1.0).knows_rewards
    assert not with_list_reward(unknown, lambda context, items: 1.0, item_weight=1.0).knows_rewards


def test_removed_items_and_embeddings_keep_the_list_reward():
    data = with_list_reward(from_matrix(MEANS), list_rewards.alpha_ndcg(SUBTOPICS))
    before = data.environment.mean_rewards(CONTEXT, LIST)
    hidden = remove_items(data, np.array([1]), renumber=False).environment
    assert isinstance(hidden, Restricted)
    assert hidden.rewards_interact
    np.testing.assert_array_equal(hidden.mean_rewards(CONTEXT, LIST), before)
    assert hidden.eligible(CONTEXT, jnp.array([1, 2])).tolist() == [False, True]
    inside = with_list_reward(
        remove_items(from_matrix(MEANS), np.array([1]), renumber=False).environment,
        list_rewards.alpha_ndcg(SUBTOPICS),
    )
    assert inside.whole.rewards_interact
    assert inside.whole.allowed is None
    fewer = remove_items(data, np.array([1]), renumber=True).environment
    np.testing.assert_array_equal(fewer.mean_rewards(CONTEXT, LIST - (LIST > 1)), before)
    more = with_embeddings(data, FEATURES, item_ids=range(ITEMS)).environment
    np.testing.assert_array_equal(more.item_features, FEATURES)
    np.testing.assert_array_equal(more.mean_rewards(CONTEXT, LIST), before)


def test_added_rows_cover_nothing():
    plain = from_matrix(MEANS, item_features=FEATURES)
    data = with_list_reward(plain, list_rewards.subtopic_recall(SUBTOPICS))
    before = data.environment.mean_rewards(CONTEXT, LIST)
    data = add_items(data, np.array([100]), FEATURES[:1])
    with_new = LIST.at[0].set(ITEMS)
    assert data.environment.num_items == ITEMS + 1
    assert float(data.environment.mean_rewards(CONTEXT, with_new)[0]) == 0
    np.testing.assert_array_equal(data.environment.mean_rewards(CONTEXT, LIST), before)
    table = item_subtopics(SUBTOPICS).append_contexts(2)
    assert table.num_tables == CONTEXTS + 2
    assert not table.rows(jnp.int32(CONTEXTS), LIST).any()
    fixed = with_list_reward(plain, lambda context, items: 1.0)
    with pytest.raises(TypeError, match="belongs to one catalogue: it cannot add items"):
        add_items(fixed, np.array([100]), FEATURES[:1])


CONFIG = TrainConfig(
    num_candidates=5, ranking_length=3, batch_size=4, num_steps=2, eval_every=2, seeds=(0, 1),
    embedding_dim=2,
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["v_pg", "ca_pg_swr"])
def test_training_and_values_against_loops(estimator):
    reward = list_rewards.alpha_ndcg(SUBTOPICS)
    data = with_list_reward(from_matrix(MEANS), reward)
    run = rankpg.train(dataclasses.replace(CONFIG, estimator=estimator), data)
    assert run.stopped() == []
    params = jax.tree.map(lambda leaf: leaf[0], run.state.params)
    values = []
    for context in range(CONTEXTS):
        logits = run.policy.logits(params, run.environment, jnp.array([context]))[0]
        candidates = np.asarray(greedy_candidates(logits, run.policy.quotas))
        shown = candidates[np.argsort(-MEANS[context, candidates])][:3]
        seen, total = np.zeros(TOPICS), 0.0
        for place, item in enumerate(shown, start=1):
            covers = SUBTOPICS[context, item]
            total += (covers * 0.5**seen).sum() / np.log2(1 + place)
            seen += covers
        values.append(total / list_rewards.greedy_ideal(SUBTOPICS[context], 3)[-1])
    row = run.metrics[-2]
    assert row["policy_value"] == pytest.approx(np.mean(values), abs=1e-6)
    assert row["drawn_value"] == row["policy_value"]
    assert all(row[name] is None for name in OF_SINGLE_ITEMS)
    assert row["reward"] > 0
    evaluated = evaluate_run(run)[0]
    assert evaluated["policy_value"] == row["policy_value"]
    assert evaluated["aligned"] is None
    exposure = measure_exposure(run)
    assert exposure.best is None
    assert exposure.shown.sum() == 2 * CONTEXTS * 3


@pytest.mark.slow
def test_a_sum_of_single_rewards_has_the_values_of_its_environment():
    """The list reward that adds up the items' own rewards changes no value."""
    plain = from_matrix(MEANS)
    listed = with_list_reward(plain, lambda context, items: jnp.zeros(items.shape), item_weight=1.0)
    found = []
    for environment in (plain.environment, listed.environment):
        learner = build_learner(dataclasses.replace(CONFIG, reranker="noisy"), environment)
        system = rankpg.evaluation.metrics.TwoStage(
            learner.policy, learner.reranker, learner.position_weights
        )
        params = learner.init(jax.random.key(0)).params
        contexts = jnp.arange(CONTEXTS)
        found.append(evaluate(system, environment, params, contexts, jax.random.key(1)))
        aligned = share_aligned(learner.policy, environment, params, contexts)
        assert bool(jnp.isnan(aligned)) == environment.rewards_interact
    one, other = found
    for name in ("policy_value", "drawn_value", "sampled_value", "effective_items"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-6)
    assert all(bool(jnp.isnan(getattr(other, name))) for name in OF_SINGLE_ITEMS)


def test_settings_that_weigh_single_items_are_rejected():
    world = with_list_reward(from_matrix(MEANS), list_rewards.diversity(FEATURES)).environment
    with pytest.raises(ConfigError, match=r"position_weights='dcg', but .* give position_weights="):
        build_learner(dataclasses.replace(CONFIG, position_weights="dcg"), world)
    with pytest.raises(ConfigError, match="objective='softmax' learns from the rewards of single"):
        build_learner(dataclasses.replace(CONFIG, objective="softmax"), world)
    shallow = with_list_reward(from_matrix(MEANS), list_rewards.alpha_ndcg(SUBTOPICS, depth=2))
    with pytest.raises(ValueError, match="list of 3 items is longer than depth=2"):
        build_learner(CONFIG, shallow.environment)


WRONG = {
    "shape": (lambda: list_rewards.alpha_ndcg([1, 0]), "expected .items, subtopics."),
    "range": (lambda: list_rewards.coverage([[1.5]]), "subtopics holds 1.5; expected numbers from 0"),
    "counts": (lambda: list_rewards.subtopic_recall([[0.5]]), "holds 0.5, and subtopic_recall counts"),
    "alpha": (lambda: list_rewards.alpha_ndcg([[1]], alpha=2), "alpha=2; expected a number from 0"),
    "depth": (lambda: list_rewards.alpha_ndcg([[1]], depth=0), "depth=0; expected at least 1"),
    "weights": (lambda: list_rewards.coverage([[1]], weights=[1, 2]), "expected numbers of at least 0"),
    "features": (lambda: list_rewards.diversity([1.0]), "expected finite numbers .items, features."),
    "quality": (lambda: list_rewards.log_det([[1.0]], quality=[1, 2]), "expected .1., one number"),
    "ridge": (lambda: list_rewards.log_det([[1.0]], ridge=0), "ridge=0; expected a number above 0"),
    "rates": (lambda: list_rewards.cascade([[2.0]]), "attraction has the shape .1, 1.; expected prob"),
    "group": (lambda: list_rewards.rnd([True, True]), "bool.2. with 2 members"),
    "groups": (lambda: list_rewards.exposure_share([0.5]), "expected whole numbers from 0"),
    "targets": (lambda: list_rewards.exposure_share([0, 1], targets=[1, 1]), "that add up to 1"),
    "gains": (
        lambda: list_rewards.function(lambda c, i: i[:2]).gains(CONTEXT, LIST),
        r"returns the shape \[2\] for 4 items",
    ),
    "positions": (
        lambda: list_rewards.dependent_clicks(RATES, [0.1, 0.2]).gains(CONTEXT, LIST),
        "continuation holds 2 probabilities, and the list has 4 positions",
    ),
    "weight": (
        lambda: with_list_reward(paper_instance(), lambda c, i: 0.0, item_weight=np.inf),
        "item_weight=inf; expected a finite number",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_inputs_that_cannot_be_used(name):
    call, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_environments_that_cannot_have_a_list_reward():
    once = with_list_reward(paper_instance(), lambda context, items: 0.0)
    with pytest.raises(TypeError, match="has rewards of a list already"):
        with_list_reward(once, lambda context, items: 0.0)
    with pytest.raises(TypeError, match="reward is a str; expected one"):
        with_list_reward(paper_instance(), "alpha_ndcg")
    log, _ = rankpg.environments.generate_log(num_users=4, num_items=8, length=5)
    split = rankpg.environments.from_interactions(log, split="last")
    with pytest.raises(TypeError, match="interactions with a split"):
        with_list_reward(split, lambda context, items: 0.0)
