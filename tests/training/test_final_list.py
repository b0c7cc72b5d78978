"""The objective that goes through the order of a re-ranker: its loss, its gradient, and what it refuses."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.policies import slow

import rankpg
from rankpg import rerankers
from rankpg.config import ConfigError
from rankpg.environments import from_interactions
from rankpg.retrieval import Streamed
from rankpg.runs.run import prepare
from rankpg.training.final_list import FinalList
from rankpg.training.known_feedback import with_all_logits

ENABLE_X64 = False
pytestmark = pytest.mark.usefixtures("as_a_user")

SETTINGS = {
    "context_tower": "ids",
    "objective": "exposure",
    "exposure_method": "exact",
    "reranker": "stored",
    "num_candidates": 3,
    "ranking_length": 2,
    "embedding_dim": 3,
    "batch_size": 5,
    "num_steps": 4,
    "eval_every": 4,
    "seeds": (0,),
    "first_share": 0.0,
    "init_scale": 1.0,
    "inclusion_at": (2, 3),
    "optimizer": "sgd",
    "learning_rate": 1.0,
    "later_rate": 1.0,
}
USERS, ITEMS, LENGTH = 7, 10, 6
RANDOM = np.random.default_rng(0)
LOG = {
    "user": np.repeat(np.arange(USERS), LENGTH),
    "item": np.concatenate([RANDOM.permutation(ITEMS)[:LENGTH] for _ in range(USERS)]),
    "timestamp": np.tile(np.arange(LENGTH), USERS),
}
SCORES = RANDOM.normal(size=(USERS, ITEMS))


@pytest.fixture(scope="module")
def plain():
    return from_interactions(LOG)


@pytest.fixture(scope="module")
def data(plain):
    return dataclasses.replace(plain, environment=plain.environment.with_scores(SCORES))


def prepared(data, components=None, **settings):
    return prepare(rankpg.TrainConfig(**SETTINGS | settings), data, **components or {})


def stepped(run, key, step=0):
    """State after one update, and its metrics."""
    state = jax.tree.map(lambda leaf: leaf[0], run.state)
    state = dataclasses.replace(state, step=jnp.int32(step))
    return jax.jit(type(run.learner).update)(run.learner, state, key)


def slow_gain(logits, scores, item, slots, weights):
    """Every ordered draw of K eligible items, sorted by the score."""
    total = 0.0
    weight = np.exp(np.asarray(logits, np.float64))
    for drawn in itertools.permutations(np.flatnonzero(weight), slots):
        chance, left = 1.0, weight.sum()
        for a in drawn:
            chance *= weight[a] / left
            left -= weight[a]
        shown = sorted(drawn, key=lambda a: -scores[a])[: len(weights)]
        if item in shown:
            total += chance * weights[shown.index(item)]
    return total


def slow_list_loss(run, key, masks):
    """Mean over contexts and wanted items of the negative gain, by loops."""
    learner, objective = run.learner, run.learner.objective
    of_feedback, _ = jax.random.split(key)
    contexts = objective.sampler(jax.random.fold_in(key, np.uint32(2**32 - 1)), jnp.int32(0))
    world = learner.environment
    wanted = world.feedback(of_feedback, contexts)
    params = jax.tree.map(lambda leaf: leaf[0], run.state.params)
    logits = learner.policy.logits(params, world, contexts)
    total, weight = 0.0, 0.0
    for row, context in enumerate(np.asarray(contexts)):
        f = np.array(world.mask_ineligible(jnp.int32(context), logits[row])[0])
        mine = [int(a) for a, v in zip(wanted.items[row], wanted.values[row], strict=True) if v]
        for item in mine:
            own = f.copy()
            if masks:
                own[[a for a in mine if a != item]] = -np.inf
            scores = SCORES[int(world.context_users[context])]
            total -= slow_gain(own, scores, item, 3, [1, 1 / np.log2(3)])
            weight += 1
    return total / weight


@pytest.mark.slow
@pytest.mark.parametrize("masks", [None, slow(True)])
def test_loss_by_enumeration_of_draws(data, masks):
    run = prepared(data, exposure_share=1.0, mask_positives=masks, forward_share=0.4)
    key = jax.random.key(2)
    loss = stepped(run, key)[1].loss
    assert loss == pytest.approx(slow_list_loss(run, key, masks), rel=1e-4)
    other = slow_list_loss(run, key, not masks)
    assert abs(loss - other) > 1e-3  # the masks matter


@pytest.mark.slow
def test_loss_and_gradient_of_the_mixture(data):
    """The steps are those of plain gradient descent, so that they are the gradients."""
    key = jax.random.key(3)
    mixed, (inclusion, gain) = (
        [stepped(prepared(data, exposure_share=share), key) for share in shares]
        for shares in ((0.25,), (0.0, 1.0))
    )
    state, metrics = mixed[0]
    wanted = 0.75 * inclusion[1].loss + 0.25 * gain[1].loss
    assert metrics.loss == pytest.approx(float(wanted), rel=1e-5)
    jax.tree.map(
        lambda m, i, g: np.testing.assert_allclose(m, 0.75 * i + 0.25 * g, atol=1e-5),
        state.params,
        inclusion[0].params,
        gain[0].params,
    )
    plain = stepped(prepared(data, objective="inclusion", exposure_method="independent"), key)
    assert inclusion[1].loss == pytest.approx(float(plain[1].loss), rel=1e-6)


@pytest.mark.slow
def test_softmax_comes_first(data):
    key = jax.random.key(4)
    first = stepped(prepared(data, first_share=0.5), key)[1].loss
    settings = {"objective": "softmax", "exposure_method": "independent", "first_share": 0.5}
    softmax = stepped(prepared(data, **settings, inclusion_at=(3, 10, 30, 100)), key)[1].loss
    assert first == pytest.approx(float(softmax), rel=1e-6)
    later = stepped(prepared(data, first_share=0.5), key, step=2)[1].loss
    assert abs(later - first) > 0.1


@pytest.mark.slow
def test_gain_grows_in_training(data):
    settings = {"num_steps": 200, "eval_every": 200, "optimizer": "adam", "learning_rate": 3e-2}
    settings |= {"exposure_method": "independent", "forward_share": 0.4}
    run = rankpg.train(rankpg.TrainConfig(**SETTINGS | settings, exposure_share=0.8), data)
    before = prepared(data, exposure_share=1.0, forward_share=0.4)
    after = dataclasses.replace(before, state=run.state)
    key = jax.random.key(0)
    losses = [slow_list_loss(one, key, False) for one in (before, after)]
    assert losses[1] < losses[0] - 0.2


def test_scores_of_training_take_the_place_of_those_served(plain):
    ends = plain.parts.forward(0.4).history_ends
    world = plain.environment.with_scores(SCORES, -SCORES, ends)
    run = prepared(dataclasses.replace(plain, environment=world), forward_share=0.4)
    trained, item = run.learner.environment, jnp.arange(2)
    assert trained.training_scores is None
    user = int(trained.context_users[3])
    np.testing.assert_allclose(
        run.learner.reranker.scores(trained, jnp.int32(3), item), -SCORES[user, :2], rtol=1e-6
    )
    np.testing.assert_allclose(
        run.learner.reranker.scores(run.environment, jnp.int32(3), item), SCORES[3, :2], rtol=1e-6
    )


@pytest.mark.parametrize("objective", ["exposure", "policy_gradient"])
def test_moments_before_the_scores_are_not_trained_on(plain, objective):
    ends = np.full(USERS, 3)
    world = plain.environment.with_scores(SCORES, SCORES, ends)
    data = dataclasses.replace(plain, environment=world)
    settings = {"objective": objective, "context_tower": "history", "forward_share": 0.4}
    if objective == "policy_gradient":
        settings |= {"exposure_method": "independent", "inclusion_at": (3, 10, 30, 100)}
        unset = ("first_share", "later_rate", "forward_share")
        defaults = {name: getattr(rankpg.TrainConfig, name) for name in unset}
        settings |= defaults | {"context_tower": "ids", "forward_share": 0.4}
        learner = prepared(data, **settings).learner
        assert int(jnp.min(learner.environment.history_ends)) >= 3
        return
    learner = prepared(data, **settings).learner
    low, high = learner.objective.sampler.later
    assert int(jnp.min(learner.environment.history_ends[low:high])) == 3
    assert int(jnp.min(learner.environment.history_ends)) == 1
    late = dataclasses.replace(plain, environment=world.with_scores(SCORES, SCORES, ends + 9))
    with pytest.raises(ConfigError, match="training_ends is later than each of"):
        prepared(late, **settings)


def test_automatic_retrieval_is_dense(data):
    learner = prepared(data).learner
    streamed = dataclasses.replace(learner.policy, retrieval=Streamed(reason="many items"))
    learner, reason = dataclasses.replace(learner, policy=streamed), "objective='exposure'"
    assert with_all_logits(learner, "auto", reason).policy.retrieval.name == "dense"
    with pytest.raises(ConfigError, match="retrieval='streamed' with objective='exposure'"):
        with_all_logits(learner, "streamed", reason)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reranker": "optimal"}, "sorts by scores that change with the feedback"),
        ({"reranker": "anti"}, "sorts by scores that change with the feedback"),
        ({"reranker": "uniform"}, "reranker='uniform' has no scores"),
        ({"reranker": "noisy"}, "reranker='noisy' has no scores"),
        ({"retrieval": "streamed"}, "retrieval='streamed' with objective='exposure'"),
        ({"num_experts": 2, "estimator": "ca_pg_swr"}, "num_experts=2 with objective='exposure'"),
        ({"exposure_share": 1.5}, "exposure_share=1.5; expected from 0 to 1"),
        (
            {"objective": "inclusion", "exposure_share": 0.1, "exposure_method": "independent"},
            "exposure_share=0.1 has no effect with objective='inclusion'",
        ),
    ],
)
def test_refusals(data, settings, message):
    with pytest.raises(ConfigError, match=message):
        prepared(data, **settings)


def test_reranker_that_is_fitted_on_the_test_part_is_refused(data, monkeypatch):
    quick = lambda settings, world: rerankers.learned(2, lambda w, c, items: items * 1.0)  # noqa: E731
    monkeypatch.setitem(rerankers.RERANKERS, "learned", quick)
    with pytest.raises(ConfigError, match="a re-ranker fitted on the test part"):
        prepared(data, reranker="learned")


@pytest.mark.slow
def test_score_of_a_function_is_trained_through(plain):
    reranker = rerankers.by_score(2, lambda world, context, items: jnp.cos(items * 1.0))
    loss = stepped(prepared(plain, {"reranker": reranker}), jax.random.key(0))[1].loss
    other = rerankers.by_score(2, lambda world, context, items: jnp.sin(items * 1.0))
    assert loss != stepped(prepared(plain, {"reranker": other}), jax.random.key(0))[1].loss
    knowing = rerankers.by_score(2, lambda world, context, items: world.relevance(context, items))
    with pytest.raises(ConfigError, match="change with the feedback"):
        prepared(plain, {"reranker": knowing})


def test_stored_scores_are_required(plain):
    with pytest.raises(ValueError, match="reranker='stored' sorts by item_scores, which the env"):
        prepared(plain)


@pytest.mark.slow
def test_other_wanted_items_compete_unless_they_are_masked():
    logits, scores, items = jnp.zeros(4), jnp.array([4.0, 3.0, 2.0, 1.0]), jnp.array([0, 1])
    settings = {"num_candidates": 2, "weights": (1.0,), "method": "exact"}
    competing = FinalList(**settings).gains(logits, scores, items)
    np.testing.assert_allclose(competing, [3 / 6, 2 / 6], atol=1e-5)
    alone = FinalList(**settings, mask_others=True).gains(logits, scores, items)
    np.testing.assert_allclose(alone, [2 / 3, 2 / 3], atol=1e-5)
