"""The online retriever: weights by enumeration, tokens, restarts, rejected input, and the log."""

from __future__ import annotations

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import oracle

import rankpg
from rankpg import TrainConfig, online
from rankpg._utils.files import lock
from rankpg.encoders import Encoder
from rankpg.environments.from_ratings import from_matrix
from rankpg.errors import ConfigError
from rankpg.online.update import (
    FeedbackBatch,
    LoggedDraw,
    _log_inclusion,
    _log_propensity,
    update_from_feedback,
)
from rankpg.online.validation import check_online, check_ranking
from rankpg.runs.storage.checkpoint import CheckpointError
from rankpg.runs.storage.checkpoint_files import METADATA, write_checksums
from rankpg.runs.storage.folder import RunFolder
from rankpg.runs.storage.load import load_run
from rankpg.training.build import build_learner

pytestmark = pytest.mark.usefixtures("standard_promotion")  # for optimizers of optax

CONTEXTS, ITEMS = 5, 8


def settings(**changes) -> TrainConfig:
    small = {"num_candidates": 3, "ranking_length": 2, "batch_size": 4, "embedding_dim": 4}
    return TrainConfig(**(small | {"seeds": (0,), "learning_rate": 0.1} | changes))


def new(log=None, importance="set", **changes) -> online.Retriever:
    world = online.catalogue(CONTEXTS, ITEMS)
    return online.Retriever.new(settings(**changes), world, log=log, importance=importance)


def parameters(retriever) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(retriever.run.state.params)]


def equal(one, other) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def first_two(draw):
    """A re-ranker that shows the first two candidates, and rewards for them."""
    return draw.candidates[:, :2], np.outer(draw.contexts + 1.0, [1.0, 0.5])


# --- weights: all draws of six items ----------------------------------------------------------------------

LENGTH, RATE = 2, 0.25
REWARDS = np.array([0.3, 1.7, 0.9, 2.4, 0.1, 1.1])
THEN = np.array([[0.5, -1.0, 0.2, 0.8, -0.4, 0.0], [-0.3, 0.7, 0.1, -0.9, 0.6, 0.2]])
NOW = np.array([[-0.4, 0.6, 0.9, -0.2, 0.3, -0.8], [0.8, -0.5, 0.4, 0.3, -0.6, 0.1]])
"""Logits at the draw and at the step, of two experts."""
STAGE = oracle.optimal_reranker(REWARDS, LENGTH)


def all_feedback(quotas):
    """Every ordered candidate set once, with its ranking, and P_then(S)."""
    sets, then = oracle.probabilities(THEN[: len(quotas)], quotas)
    ranking = np.take_along_axis(sets, np.argsort(-REWARDS[sets], axis=1)[:, :LENGTH], axis=1)
    return sets, then, ranking


def step_from(estimator, quotas, logits, importance, clip, age=1):
    """E over draws from THEN of the step that `update_from_feedback` makes at `logits`, in units of the rate.

    The probabilities of the draws stand in the rewards, so one batch is the expectation.
    """
    experts, then = logits.shape[0], THEN[: len(quotas)]
    sets, chance, ranking = all_feedback(quotas)
    batch = len(sets)
    config = settings(
        estimator=estimator, num_experts=experts, num_candidates=sum(quotas), ranking_length=LENGTH,
        batch_size=batch, optimizer="sgd", learning_rate=RATE, advantage="none",
    )  # fmt: skip
    encoder = Encoder(
        lambda key: jnp.asarray(logits),
        lambda params, contexts: jnp.broadcast_to(params[None], (len(contexts), *params.shape)),
    )
    world = from_matrix(REWARDS[None]).environment
    learner = build_learner(config, world, encoder=encoder)
    contexts = jnp.zeros(batch, jnp.int32)
    candidates = learner.policy.rescore(
        jnp.asarray(sets, jnp.int32),
        jnp.asarray(then),
        world,
        contexts,
        learner.estimator.statistics,
    )
    drawn = LoggedDraw(
        items=jnp.asarray(sets, jnp.int32),
        log_propensity=jax.vmap(partial(_log_propensity, learner))(candidates),
        log_inclusion=jax.vmap(partial(_log_inclusion, learner))(candidates, candidates.items),
        sound=jnp.ones(batch, bool),
    )
    feedback = FeedbackBatch(
        context=contexts,
        drawn=drawn,
        ranking=jnp.asarray(ranking, jnp.int32),
        rewards=jnp.asarray(REWARDS[ranking] * chance[:, None] * batch),
        age=jnp.full(batch, age, jnp.int32),
    )
    compiled = jax.jit(update_from_feedback, static_argnums=(1, 2))
    state = learner.init(jax.random.key(0))
    after, metrics = compiled(learner, importance, clip, state, feedback)
    assert int(after.fault) == 0
    return (np.asarray(after.params) - logits) / RATE, metrics


def ratios(quotas):
    """Every ordered candidate set, and P_now(S) / P_then(S)."""
    sets, now = oracle.probabilities(NOW[: len(quotas)], quotas)
    then = oracle.probabilities(THEN[: len(quotas)], quotas)[1]
    return sets, now / then


@pytest.mark.slow
@pytest.mark.parametrize("quotas", [(3,), (2, 1)], ids=str)
def test_set_weights_give_v_pg_the_policy_gradient(quotas):
    step, _ = step_from("v_pg", quotas, NOW[: len(quotas)], "set", 1e9)
    alpha = np.ones(LENGTH)
    there = oracle.policy_gradient(NOW[: len(quotas)], quotas, STAGE, REWARDS, alpha)
    np.testing.assert_allclose(step, there, atol=1e-6)
    unweighted, _ = step_from("v_pg", quotas, NOW[: len(quotas)], "none", 1e9)
    assert np.abs(unweighted - there).max() > 0.1  # what the weights are there for


@pytest.mark.slow
def test_set_weights_give_ca_pg_exact_the_credit_assigned_gradient():
    step, _ = step_from("ca_pg_exact", (3,), NOW[:1], "set", 1e9)
    there = oracle.credit_assigned_gradient(NOW[:1], (3,), STAGE, REWARDS, np.ones(LENGTH))
    np.testing.assert_allclose(step, there, atol=1e-6)


@pytest.mark.slow
def test_item_weights_keep_the_reranker_at_the_behaviour_policy():
    """sum_a q(a) P_then(a shown | a in S) grad P_now(a in S)."""
    chance = oracle.probabilities(THEN[:1], (3,))[1]
    shown = chance @ oracle.shown_weights(THEN[:1], (3,), STAGE, np.ones(LENGTH))
    given_in = shown / oracle.inclusion(THEN[:1], (3,))
    wanted = np.einsum("a,amn->mn", REWARDS * given_in, oracle.inclusion_gradients(NOW[:1], (3,)))
    step, _ = step_from("ca_pg_exact", (3,), NOW[:1], "item", 1e9)
    np.testing.assert_allclose(step, wanted, atol=1e-6)
    by_set, _ = step_from("ca_pg_exact", (3,), NOW[:1], "set", 1e9)
    assert np.abs(step - by_set).max() > 0.01  # another gradient, and not by rounding


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["v_pg_swr", "ca_pg", "ca_pg_swr", "top1_pg"])
def test_set_weights_give_every_estimator_its_expectation(estimator):
    quotas = (2, 1)
    step, _ = step_from(estimator, quotas, NOW, "set", 1e9)
    sets, ratio = ratios(quotas)
    chance = oracle.probabilities(THEN, quotas)[1] * ratio
    ranking = all_feedback(quotas)[2]

    def expected(logits):
        def one(candidates, shown):
            return rankpg.score(estimator, logits, candidates, shown, quotas)

        scores = jax.vmap(one)(jnp.asarray(sets, jnp.int32), jnp.asarray(ranking, jnp.int32))
        return jnp.sum(jnp.asarray(chance[:, None] * REWARDS[ranking]) * scores)

    np.testing.assert_allclose(step, jax.grad(expected)(jnp.asarray(NOW)), atol=1e-6)


@pytest.mark.slow
def test_weights_are_clipped():
    clip = 1.5
    sets, ratio = ratios((3,))
    chance, ranking = all_feedback((3,))[1:]
    scores = oracle.log_prob_gradients(NOW[:1], (3,), sets)
    earned = REWARDS[ranking].sum(axis=1) * chance * np.minimum(ratio, clip)
    step, metrics = step_from("v_pg", (3,), NOW[:1], "set", clip)
    np.testing.assert_allclose(step, np.einsum("p,pmn->mn", earned, scores), atol=1e-6)
    weights = np.minimum(ratio, clip)
    assert float(metrics.clipped_share) == pytest.approx((ratio > clip).mean())
    share = weights.sum() ** 2 / (len(weights) * (weights**2).sum())
    assert float(metrics.effective_sample_share) == pytest.approx(share, rel=1e-5)


@pytest.mark.slow
def test_rows_of_the_present_parameters_have_weight_one():
    fresh, _ = step_from("v_pg", (3,), NOW[:1], "set", 1e9, age=0)
    unweighted, _ = step_from("v_pg", (3,), NOW[:1], "none", 1e9)
    assert np.array_equal(fresh, unweighted)


# --- rescored candidates equal drawn ones -----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("estimator", "experts", "retrieval"),
    [
        ("ca_pg", 2, "dense"),
        ("ca_pg", 2, "streamed"),
        ("v_pg", 1, "dense"),
        ("v_pg", 1, "streamed"),
        ("ca_pg_exact", 1, "dense"),
    ],
)
def test_rescored_candidates_have_the_scores_and_gradient_of_the_draw(
    estimator, experts, retrieval
):
    config = settings(estimator=estimator, num_experts=experts, retrieval=retrieval, batch_size=6)
    where = np.random.default_rng(0).uniform(size=(CONTEXTS, 40)) < 0.8
    world = online.catalogue(CONTEXTS, 40, eligible=where)
    learner = build_learner(config, world)
    policy, statistics = learner.policy, learner.estimator.statistics
    params = learner.init(jax.random.key(1)).params
    keys, contexts = jax.random.split(jax.random.key(2), 6), jnp.arange(6, dtype=jnp.int32) % 5

    def scores(draw):
        def total(params):
            candidates = draw(params)
            each = learner.score(candidates, candidates.items[:, :2])
            return jnp.sum(each * jnp.arange(12.0).reshape(6, 2)), candidates

        return jax.jit(jax.value_and_grad(total, has_aux=True))(params)

    (value, drawn), gradient = scores(lambda p: policy.sample(keys, p, world, contexts, statistics))
    (again, _), same = scores(lambda p: policy.rescore(drawn.items, p, world, contexts, statistics))
    assert float(again) == float(value)
    assert equal(*([np.asarray(x) for x in jax.tree.leaves(g)] for g in (gradient, same)))


# --- act and update ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_feedback_waits_until_it_makes_a_batch():
    retriever = new()
    first, second = retriever.act([0, 1, 2]), retriever.act(4)
    ranking, rewards = first_two(first)
    learnt = retriever.update(second.token, *first_two(second))
    assert (learnt.step, learnt.waiting, learnt.metrics) == (0, 1, ())
    learnt = retriever.update(first.token, ranking[[2, 0]], rewards[[2, 0]], rows=[2, 0])
    assert (learnt.step, learnt.waiting) == (0, 3)
    before = parameters(retriever)
    learnt = retriever.update(first.token, ranking[1:2], rewards[1:2], rows=1)
    assert (learnt.step, learnt.waiting, len(learnt.metrics)) == (1, 0, 1)
    assert learnt.metrics[0]["age"] == 0
    assert not equal(before, parameters(retriever))


@pytest.mark.slow
def test_feedback_in_parts_equals_feedback_at_once():
    whole, parts = new(), new()
    drawn, same = whole.act([3, 1, 0, 2]), parts.act([3, 1, 0, 2])
    assert np.array_equal(drawn.candidates, same.candidates)
    whole.update(drawn.token, *first_two(drawn))
    ranking, rewards = first_two(same)
    for rows in ([0], [1, 2], [3]):
        parts.update(same.token, ranking[rows], rewards[rows], rows)
    assert equal(parameters(whole), parameters(parts))


@pytest.mark.slow
def test_several_batches_at_once_make_several_updates():
    retriever = new()
    drawn = retriever.act([0, 1, 2, 3, 4, 0, 1, 2, 3])
    learnt = retriever.update(drawn.token, *first_two(drawn))
    assert (learnt.step, learnt.waiting) == (2, 1)
    assert [m["age"] for m in learnt.metrics] == [0, 1]
    assert (
        learnt.metrics[0]["effective_sample_share"]
        == 1
        > learnt.metrics[1]["effective_sample_share"]
    )


@pytest.mark.slow
def test_retriever_takes_and_returns_dataset_ids():
    names = np.array([f"item-{i}" for i in range(ITEMS)])
    data = from_matrix(np.eye(CONTEXTS, ITEMS), context_ids=list("abcde"), item_ids=names)
    retriever = online.Retriever.new(settings(batch_size=2), data)
    drawn = retriever.act(["e", "a"])
    assert drawn.contexts.tolist() == ["e", "a"]
    assert set(drawn.candidates.ravel()) <= set(names)
    assert retriever.update(drawn.token, drawn.candidates[:, :2], np.ones((2, 2))).step == 1


def bad_feedback():
    other = "which is not among its candidates"
    return {
        "an item that is not a candidate": (
            lambda r, w: (np.where(r == r[1, 0], r[0, 0], r), w),
            other,
        ),
        "an unknown item": (lambda r, w: (np.where(r == r[1, 0], 99, r), w), "item 99 is unknown"),
        "an item twice": (lambda r, w: (r[:, [0, 0]], w), "shows an item twice"),
        "more rewards than items": (lambda r, w: (r[:, :1], w), "shows 1 items and has 2 rewards"),
        "rows missing": (lambda r, w: (r[:2], w), r"ranking has shape \[2, 2\]; expected \[4, 2\]"),
        "positions as floats": (lambda r, w: (r * 1.0, w), "expected item ids"),
        "rewards of another shape": (lambda r, w: (r, w[:, 0]), "one per shown item"),
        "text": (lambda r, w: (r, [["a", "b"]] * 4), "must be numbers of one shape"),
        "NaN": (lambda r, w: (r, np.where(w == w[2, 1], np.nan, w)), "row 2, position 2, is nan"),
        "infinity": (lambda r, w: (r, w * np.inf), "expected a finite number"),
    }


@pytest.fixture(scope="module")
def waiting():
    """A retriever with one row that waits and one open draw."""
    retriever = new(batch_size=5)
    lone = retriever.act(2)
    retriever.update(lone.token, *first_two(lone))
    return retriever, retriever.act([0, 1, 2, 3]), lone


@pytest.mark.parametrize("name", bad_feedback())
def test_invalid_feedback_changes_nothing(name, waiting):
    retriever, drawn, _ = waiting
    spoil, message = bad_feedback()[name]
    before = parameters(retriever)
    with pytest.raises(ValueError, match=message):
        retriever.update(drawn.token, *spoil(*first_two(drawn)))
    assert equal(before, parameters(retriever))
    assert retriever.waiting == 1
    assert not retriever.draws.find(drawn.token).settled.any()  # valid feedback may follow


def test_invalid_tokens_are_rejected_with_a_reason(waiting):
    retriever, drawn, lone = waiting
    identity, serial, seal = drawn.token.split(".")
    cases = {
        "nonsense": "expected a token that `act` returned",
        f"{identity}.-1.{seal}": "expected a token that `act` returned",
        new(batch_size=5).act(0).token: f"and this one is {identity}",
        f"{identity}.99.{seal}": "unknown to this retriever",
        f"{identity}.{serial}.00000000": "unknown to this retriever",
        lone.token: "is used up",
    }
    for token, message in cases.items():
        with pytest.raises(online.TokenError, match=message):
            retriever.update(token, *first_two(drawn))
    for rows, message in (([0, 0], "at most once"), ([4], "rows 0 to 3"), ([], "rows 0 to 3")):
        with pytest.raises(ValueError, match=message):
            retriever.update(drawn.token, *first_two(drawn), rows=rows)
    with pytest.raises(ValueError, match="context 5 is unknown"):
        retriever.act([0, 5])


def test_a_row_is_used_once_and_discarded_rows_are_gone():
    retriever = new()
    drawn = retriever.act([0, 1, 2])
    ranking, rewards = first_two(drawn)
    retriever.update(drawn.token, ranking[:1], rewards[:1], rows=[0])
    with pytest.raises(
        online.TokenError, match=r"row 0 of draw .* already has feedback or was discarded"
    ):
        retriever.update(drawn.token, ranking, rewards)
    retriever.discard(drawn.token, rows=[1])
    retriever.discard(drawn.token)
    with pytest.raises(online.TokenError, match="used up"):
        retriever.discard(drawn.token)
    old = retriever.act([0, 1])
    young = retriever.act([0, 1, 2])
    assert retriever.update(young.token, *first_two(young)).step == 1
    assert retriever.discard_older_than(1) == 0
    assert retriever.discard_older_than(0) == 1
    with pytest.raises(online.TokenError, match="used up"):
        retriever.update(old.token, *first_two(old))


def test_an_update_that_overflows_is_undone():
    retriever = new(optimizer="sgd", learning_rate=1e38)
    drawn, before = retriever.act([0, 1, 2, 3]), parameters(retriever)
    ranking, rewards = first_two(drawn)
    with pytest.raises(online.UpdateError, match="update 1 was not made: it met parameters"):
        retriever.update(drawn.token, ranking, np.full(rewards.shape, 1e9))
    assert equal(before, parameters(retriever))
    again = retriever.act([0, 1, 2, 3])
    ranking, rewards = first_two(again)
    assert retriever.update(again.token, ranking, 0 * rewards).step == 1


def test_feedback_must_hold_whole_groups():
    retriever = new(advantage="group", draws_per_context=2)
    drawn = retriever.act_on_batch()
    assert np.array_equal(drawn.contexts[::2], drawn.contexts[1::2])
    ranking, rewards = first_two(drawn)
    for rows in ([1, 2], [0], [1, 0]):
        with pytest.raises(ValueError, match="whole groups of draws_per_context=2"):
            retriever.update(drawn.token, ranking[rows], rewards[rows], rows)
    learnt = retriever.update(drawn.token, ranking[[2, 3]], rewards[[2, 3]], [2, 3])
    assert learnt.waiting == 2


REFUSED = {
    "several seeds": ({"seeds": (0, 1)}, "give one seed"),
    "noise of the draw": ({"estimator": "ca_pg_threshold"}, "needs the Gumbel noise of the draw"),
    "sharded": ({"retrieval": "sharded"}, "uses one device"),
    "items of a set": (
        {"estimator": "v_pg", "importance": "item"},
        "scores the whole candidate set",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_runs_that_cannot_learn_online_are_rejected(name):
    changes, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message):
        new(**changes)


@pytest.mark.parametrize(("importance", "clip"), [("both", 10.0), ("set", 0.5), ("set", np.inf)])
def test_impossible_weights_are_rejected(importance, clip, waiting):
    with pytest.raises(ConfigError, match=r"expected set, item or none|a number of at least 1"):
        check_online(waiting[0].run, importance, clip)


@pytest.mark.slow
def test_adaptive_learning_rate_is_rejected_online():
    world = from_matrix(np.eye(CONTEXTS, ITEMS))
    config = settings(adaptive_learning_rate=True, reranker="noisy")
    with pytest.raises(ConfigError, match="give adaptive_learning_rate=False"):
        online.Retriever.new(config, world)


def test_a_catalogue_rejects_arrays_of_other_shapes():
    for changes, message in (
        ({"num_items": 0}, "at least 1"),
        ({"item_features": np.ones((3, 2))}, r"expected finite numbers \[8, features\]"),
        ({"eligible": np.ones((2, 2), bool)}, r"expected bool\[5, 8\]"),
    ):
        with pytest.raises(ValueError, match=message):
            online.catalogue(**({"num_contexts": CONTEXTS, "num_items": ITEMS} | changes))


# --- restarts ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_restart_continues_from_the_last_save(tmp_path):
    folder, world = tmp_path / "run", online.catalogue(CONTEXTS, ITEMS)
    through = new()
    a, b, lone = through.act([0, 1]), through.act([2, 3, 4]), through.act(1)
    through.update(lone.token, *first_two(lone))
    ranking, rewards = first_two(b)
    through.update(b.token, ranking[1:2], rewards[1:2], rows=[1])
    through.save(folder)
    after = through.act([0])

    back = online.Retriever.load(folder, environment=world)
    assert (back.step, back.waiting) == (0, 2)
    reissued = back.act([4])
    assert reissued.token.split(".")[1] == after.token.split(".")[1]
    with pytest.raises(online.TokenError, match="made after the last save"):
        back.update(after.token, *first_two(after))
    with pytest.raises(online.TokenError, match=r"row 1 of draw .* already has feedback"):
        back.update(b.token, ranking, rewards)
    for retriever in (through, back):
        retriever.update(a.token, *first_two(a))
        retriever.update(b.token, ranking[[0, 2]], rewards[[0, 2]], rows=[0, 2])
    assert through.step == 1
    assert equal(parameters(through), parameters(back))
    with pytest.raises(online.TokenError, match="used up"):
        back.update(lone.token, *first_two(lone))

    back.save(folder)  # over the older one
    assert equal(parameters(back), parameters(online.Retriever.load(folder, environment=world)))
    assert [file.parent.name for file in folder.rglob("open_draws.npz")] == ["1"]
    assert "step 1" in (folder / "RUN.md").read_text()
    run = load_run(folder, environment=world)  # and it is a run folder like any other
    assert run.step == 1
    assert np.array_equal(run.candidates([0, 1]), back.run.candidates([0, 1]))


def test_a_folder_of_another_run_or_a_damaged_one_is_rejected(tmp_path):
    folder, world = tmp_path / "run", online.catalogue(CONTEXTS, ITEMS)
    retriever = new()
    with pytest.raises(ConfigError, match="does not hold an online retriever"):
        online.Retriever.load(folder, environment=world)
    retriever.save(folder)
    with pytest.raises(
        ConfigError, match=f"already holds the retriever {retriever.draws.identity}"
    ):
        new().save(folder)
    file = folder / "checkpoint" / "0" / "open_draws.npz"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(CheckpointError, match=r"its file open_draws\.npz is missing or differs"):
        online.Retriever.load(folder, environment=world)
    retriever.save(folder)  # the state in memory replaces it
    assert online.Retriever.load(folder, environment=world).step == 0


@pytest.mark.slow
def test_a_folder_saved_by_another_process_is_not_overwritten(tmp_path):
    folder, world = tmp_path / "run", online.catalogue(CONTEXTS, ITEMS)
    one = new()
    one.save(folder)
    other = online.Retriever.load(folder, environment=world)
    drawn = one.act([0, 1, 2, 3])
    one.update(drawn.token, *first_two(drawn))
    one.save(folder)
    with pytest.raises(ConfigError, match="was saved by another process since"):
        other.save(folder)
    assert online.Retriever.load(folder, environment=world).step == 1
    with (
        lock(folder / "writer.lock"),
        pytest.raises(ConfigError, match="is being written by process"),
    ):
        one.save(folder)
    other.save(tmp_path / "elsewhere")
    one.save(folder)  # it goes on


def test_an_interrupted_first_save_can_be_repeated(tmp_path, monkeypatch):
    folder, world, retriever = tmp_path / "run", online.catalogue(CONTEXTS, ITEMS), new()

    def full(*arguments, **more):
        (folder / "checkpoint" / "0.partial").mkdir(parents=True)
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr("rankpg.runs.storage.checkpoint.save", full)
        with pytest.raises(OSError, match="no space"):
            retriever.save(folder)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        online.Retriever.load(folder, environment=world)
    new().save(folder)  # after a restart: another one
    assert online.Retriever.load(folder, environment=world).step == 0
    folder.rename(tmp_path / "away")
    retriever.save(folder)
    (tmp_path / "away").rename(tmp_path / "further")
    retriever.save(folder)


def test_training_does_not_resume_in_a_folder_of_a_retriever(tmp_path):
    retriever = new()
    retriever.save(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"has an online retriever.*online\.Retriever\.load"):
        RunFolder(tmp_path / "run").resume(retriever.run)


def test_load_keeps_importance_and_clip(tmp_path):
    world = online.catalogue(CONTEXTS, ITEMS)
    retriever = online.Retriever.new(settings(), world, importance="item", clip=3.0)
    retriever.save(tmp_path / "run")
    back = online.Retriever.load(tmp_path / "run", environment=world)
    assert (back.importance, back.clip) == ("item", 3.0)
    changed = online.Retriever.load(tmp_path / "run", environment=world, importance="set", clip=5.0)
    assert (changed.importance, changed.clip) == ("set", 5.0)


@pytest.mark.slow
def test_open_draws_of_another_retriever_are_rejected(tmp_path):
    world, other = online.catalogue(CONTEXTS, ITEMS), new(num_candidates=4)
    new().save(tmp_path / "run")
    other.act([0])
    other.save(tmp_path / "other")
    saved = tmp_path / "run" / "checkpoint" / "0"
    (saved / "open_draws.npz").write_bytes(
        (tmp_path / "other" / "checkpoint" / "0" / "open_draws.npz").read_bytes()
    )
    write_checksums(saved)
    with pytest.raises(CheckpointError, match=r"open_candidates holds int32\[1, 4\]; expected"):
        online.Retriever.load(tmp_path / "run", environment=world)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", np.array([-1])), ("size", np.array([1000])), ("serials", np.array(0)),
        ("serials", np.array([1])), ("stream", np.array([-9])), ("told", np.array([0.0])),
        ("serial", np.array([-1])), ("seal", np.array([7])),
    ],
)  # fmt: skip
def test_open_draws_whose_numbers_do_not_fit_are_damaged(name, value, tmp_path):
    retriever = new()
    retriever.act([0])
    retriever.save(tmp_path / "run")
    folder = tmp_path / "run" / "checkpoint" / "0"
    with np.load(folder / "open_draws.npz") as saved:
        arrays = dict(saved)
    np.savez(folder / "open_draws.npz", **arrays | {name: value})
    write_checksums(folder)
    with pytest.raises(CheckpointError, match=rf"open_draws\.npz is damaged \({name} "):
        online.Retriever.load(tmp_path / "run", environment=online.catalogue(CONTEXTS, ITEMS))


@pytest.mark.parametrize(
    ("name", "value"),
    [("identity", 5), ("identity", "\x1b[31m"), ("stream", "a"), ("clip", -1), ("last_save", 7)],
)
def test_an_owner_of_another_form_is_damaged(name, value, tmp_path):
    new().save(tmp_path / "run")
    folder = tmp_path / "run" / "checkpoint" / "0"
    held = json.loads((folder / METADATA).read_text())
    held["retriever"][name] = value
    (folder / METADATA).write_text(json.dumps(held))
    write_checksums(folder)
    with pytest.raises(CheckpointError, match=rf"is damaged \({name} is ") as caught:
        online.Retriever.load(tmp_path / "run", environment=online.catalogue(CONTEXTS, ITEMS))
    assert "\x1b" not in str(caught.value)


@pytest.mark.slow
def test_frequent_saves_keep_one_row_per_evaluation(tmp_path):
    data = from_matrix(np.random.default_rng(0).uniform(size=(CONTEXTS, ITEMS)))
    retriever = online.Retriever.new(settings(num_steps=4, eval_every=2), data)
    run = online.train(
        retriever,
        online.HostReranker(lambda contexts, candidates: candidates % 3),
        on_progress=lambda run, progress: retriever.save(tmp_path / "run"),
    )
    for found in (run, load_run(tmp_path / "run", environment=data)):
        assert [row["step"] for row in found.metrics] == [0, 2, 4]
        assert all(row["policy_value"] is not None for row in found.metrics)


@pytest.mark.slow
def test_a_trained_run_continues_online():
    data = from_matrix(np.random.default_rng(0).uniform(size=(CONTEXTS, ITEMS)))
    run = rankpg.train(settings(num_steps=2, eval_every=2), data)
    retriever = online.Retriever(run)
    drawn = retriever.act([0, 1, 2, 3])
    assert (drawn.step, retriever.update(drawn.token, *first_two(drawn)).step) == (2, 3)
    assert drawn.token.split(".")[1] == "2"  # the keys of steps 0 and 1 are used up


# --- the log ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_log_holds_propensities_and_feedback(tmp_path):
    retriever = new(log=online.Log(tmp_path, rows_per_file=3), estimator="ca_pg")
    first, second = retriever.act([0, 1, 2, 3]), retriever.act([4])
    ranking, rewards = first_two(first)
    retriever.update(first.token, ranking[[3, 1]], rewards[[3, 1]], rows=[3, 1])
    retriever.log.flush()
    draws, feedback = online.read_log(tmp_path)
    assert draws.schema.metadata[b"rankpg.inclusion_method"] == b"greedy"
    assert [str(kind) for kind in draws.schema.types] == [
        "string", "int32", "timestamp[us, tz=UTC]", "int64", "int64", "int64", "list<element: int64>",
        "float", "list<element: float>",
    ]  # fmt: skip
    rows = draws.sort_by([("step", "ascending"), ("context", "ascending")]).to_pylist()
    assert [row["context"] for row in rows] == [0, 1, 2, 3, 4]
    assert rows[4]["token"] == second.token
    run, every = retriever.run, jnp.arange(CONTEXTS, dtype=jnp.int32)
    logits = run.policy.logits(run.params(), run.environment, every)
    for row, of_context in zip(rows, logits, strict=True):
        candidates = jnp.asarray(row["candidates"], jnp.int32)
        log_prob = rankpg.log_prob(of_context, candidates, (3,))
        inclusion = [rankpg.log_inclusion(of_context, a, (3,), method="greedy") for a in candidates]
        assert row["log_propensity"] == pytest.approx(float(log_prob), rel=1e-5)
        np.testing.assert_allclose(row["log_inclusion"], inclusion, rtol=1e-5)
    logged = {(row["token"], row["row"]): row for row in feedback.to_pylist()}
    assert set(logged) == {(first.token, 3), (first.token, 1)}
    assert logged[first.token, 3]["ranking"] == ranking[3].tolist()
    assert logged[first.token, 1]["rewards"] == rewards[1].tolist()


IDS = {
    "text": (["it em", "b", "ü", "d", "e", "f", "g", "h"], "string"),
    "dates": (np.arange("2020-01-01", "2020-01-09", dtype="datetime64[D]"), "date32[day]"),
    "times": (np.arange(0, 8, dtype="datetime64[s]"), "timestamp[us]"),
    "large": (np.arange(8, dtype=np.uint64) + 2**63, "uint64"),
    "small": (np.arange(8, dtype=np.int16), "int64"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", IDS)
def test_the_log_keeps_the_type_of_ids(kind, tmp_path):
    ids, wanted = IDS[kind]
    data = from_matrix(np.eye(CONTEXTS, ITEMS) + 1, item_ids=ids, context_ids=ids[:CONTEXTS])
    retriever = online.Retriever.new(settings(), data, log=online.Log(tmp_path, rows_per_file=1))
    drawn = retriever.act(ids[:3])
    retriever.update(drawn.token, drawn.candidates[:, :2].tolist(), np.ones((3, 2)))
    retriever.log.flush()
    draws, feedback = online.read_log(tmp_path)
    assert str(draws.schema.field("context").type) == wanted
    assert draws.schema.field("candidates").type == feedback.schema.field("ranking").type
    assert draws["context"].to_pylist() == np.asarray(ids)[:3].tolist()
    assert draws["candidates"].to_pylist() == drawn.candidates.tolist()
    assert feedback["ranking"].to_pylist() == drawn.candidates[:, :2].tolist()


def test_ids_that_parquet_cannot_hold_are_rejected_early(tmp_path):
    ids = [*"abcdefg", "\ud800"]
    data = from_matrix(np.eye(CONTEXTS, ITEMS) + 1, item_ids=ids)
    with pytest.raises(ValueError, match=r"item id '.ud800' is not valid Unicode"):
        online.Retriever.new(settings(), data, log=online.Log(tmp_path))


def test_an_item_that_is_not_a_candidate_is_named_by_its_id():
    ids = [f"it{n}" for n in range(ITEMS)]
    data = from_matrix(np.eye(CONTEXTS, ITEMS) + 1, item_ids=ids)
    retriever = online.Retriever.new(settings(), data)
    drawn = retriever.act([0])
    strange = next(x for x in ids if x not in drawn.candidates)
    with pytest.raises(ValueError, match=f"shows {strange} at position 1, .* candidates \\['it"):
        retriever.update(drawn.token, [[strange, drawn.candidates[0, 0]]], [[1.0, 0.0]])
    with pytest.raises(ValueError, match="rows of different lengths"):
        retriever.update(drawn.token, [["it0", "it1"], ["it2"]], [[1.0, 0.0]])


def test_rankings_of_objects_take_the_type_of_their_values():
    dates = np.arange("2020-01-01", "2020-01-05", dtype="datetime64[D]")
    for candidates in (np.array([["a", "bcd"]]), np.array([[3, 4]]), dates[None, :2]):
        shown = check_ranking(candidates.astype(object), candidates, 2, np.array([0]), "f")
        assert shown.dtype == candidates.dtype
        assert np.array_equal(shown, candidates)
    with pytest.raises(ValueError, match="shows abc"):
        check_ranking(np.array([["abc"]], object), np.array([["ab"]]), 1, np.array([0]), "f")
