"""Serving: noise after a restart, threads, eligibility, short lists, and bounds of rewards."""

from __future__ import annotations

import dataclasses
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.policies import slow

import rankpg
from rankpg import TrainConfig, online
from rankpg.core.plackett_luce import log_prob
from rankpg.environments.from_ratings import from_matrix
from rankpg.errors import ConfigError
from rankpg.online.noise import key_words, stream_root
from rankpg.online.update import FeedbackBatch, LoggedDraw, _effective_share, importance_weights

ENABLE_X64 = False

pytestmark = pytest.mark.usefixtures("standard_promotion")  # for optimizers of optax

CONTEXTS, ITEMS, K = 5, 30, 6
WORLD = online.catalogue(CONTEXTS, ITEMS)
EVERY = jnp.arange(4, dtype=jnp.int32)


def settings(**changes) -> TrainConfig:
    small = {"num_candidates": K, "ranking_length": 2, "batch_size": 4, "embedding_dim": 4}
    return TrainConfig(**(small | {"seeds": (0,), "learning_rate": 0.1} | changes))


def new(**changes) -> online.Retriever:
    return online.Retriever.new(settings(**changes), WORLD)


def parameters(retriever) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(retriever.run.state.params)]


def equal(one, other) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


# --- noise ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "run"
    retriever = new()
    retriever.act([0])
    retriever.save(folder)
    return folder, retriever.act([0, 1, 2, 3]).candidates


@pytest.mark.slow
def test_every_load_draws_with_noise_of_its_own(saved):
    folder, there = saved
    one, two = (online.Retriever.load(folder, environment=WORLD) for _ in range(2))
    first, second = (r.act([0, 1, 2, 3]).candidates for r in (one, two))
    assert one.stream != two.stream
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, there)
    again = online.Retriever.load(folder, environment=WORLD, stream=one.stream)
    assert np.array_equal(again.act([0, 1, 2, 3]).candidates, first)
    goes_on = online.Retriever.load(folder, environment=WORLD, stream="saved")
    assert np.array_equal(goes_on.act([0, 1, 2, 3]).candidates, there)
    for wrong in (-1, 2**63, True):
        with pytest.raises(ConfigError, match="expected a whole number from 0"):
            online.Retriever.load(folder, environment=WORLD, stream=wrong)


def test_a_draw_is_reproducible_from_the_log(saved, tmp_path):
    folder, _ = saved
    log = online.Log(tmp_path)
    retriever = online.Retriever.load(folder, environment=WORLD, log=log)
    drawn = retriever.act([3, 1, 4])
    log.flush()
    rows = online.read_log(tmp_path)[0].to_pylist()
    assert {row["stream"] for row in rows} == {retriever.stream} == {drawn.stream}
    serial = int(rows[0]["token"].split(".")[1])
    other = online.Retriever.load(folder, environment=WORLD)
    found = other.redraw(rows[0]["stream"], serial, [row["context"] for row in rows])
    assert found.tolist() == [row["candidates"] for row in rows] == drawn.candidates.tolist()


@pytest.mark.slow
def test_a_run_that_goes_online_draws_with_the_keys_of_its_next_steps():
    """Stream 0 goes on after the steps that were made; a fresh stream repeats none of it."""
    run = new().run
    run.state = run.state.replace(step=run.state.step + 2)
    fresh, same = new(), online.Retriever(run, stream=0)
    assert same.draws.serials == 2
    third = [fresh.act_on_batch() for _ in range(3)][2]
    own = same.act_on_batch()
    assert np.array_equal(own.contexts, third.contexts)
    assert np.array_equal(own.candidates, third.candidates)
    assert online.Retriever(run).stream not in (0, online.Retriever(run).stream)


@pytest.mark.slow
@pytest.mark.parametrize("serial", [2**31, slow(2**32), 2**40 + 1])
def test_draws_go_on_beyond_32_bits(serial):
    retriever = new()
    first = retriever.act([0, 1, 2, 3])
    retriever.draws.serials = serial
    drawn = retriever.act([0, 1, 2, 3])
    assert drawn.token.split(".")[1] == str(serial)
    assert not np.array_equal(drawn.candidates, first.candidates)
    assert retriever.update(drawn.token, drawn.candidates[:, :2], np.ones((4, 2))).step == 1


def test_keys_do_not_repeat_over_epochs_and_streams():
    roots = [stream_root(0, *which) for which in ((0, 0), (0, 1), (1, 0), (2**32, 0), (1, 1))]
    words = {tuple(np.asarray(jax.random.key_data(root)).tolist()) for root in roots}
    assert len(words) == len(roots)
    assert key_words(2**33 + 7) == (2, 7)


# --- threads ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_member_can_be_read_while_another_thread_learns(tmp_path):
    retriever, stop, errors = new(batch_size=2), threading.Event(), []
    drawn = retriever.act([0, 1])
    retriever.update(drawn.token, drawn.candidates[:, :2], np.ones((2, 2)))  # compiled

    def read():
        held = retriever.run.state
        try:
            while not stop.is_set():
                assert retriever.step >= 1
                assert retriever.waiting in (0, 1)
                retriever.run.candidates([0, 1])
                jax.block_until_ready(held)  # a state that was current once
                held = retriever.run.state
                np.asarray(jax.tree.leaves(held.params)[0])
                retriever.discard_older_than(1000)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(30):
        drawn = retriever.act([0, 1])
        retriever.update(drawn.token, drawn.candidates[:, :2], np.ones((2, 2)))
        if number == 10:
            retriever.save(tmp_path / "run")
    stop.set()
    for thread in threads:
        thread.join(60)
    assert not errors
    assert retriever.step == 31


def test_an_update_leaves_the_former_state_as_it_was():
    retriever, copies = new(), parameters(new())
    held = retriever.run.state  # not read before the update: that would keep its buffers
    drawn = retriever.act([0, 1, 2, 3])
    retriever.update(drawn.token, drawn.candidates[:, :2], np.ones((4, 2)))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(held))
    assert equal([np.asarray(x) for x in jax.tree.leaves(held.params)], copies)
    assert not equal(parameters(retriever), copies)


# --- eligibility ------------------------------------------------------------------------------------------


def random_mask(least=K):
    mask = np.random.default_rng(0).uniform(size=(4, ITEMS)) < 0.5
    assert mask.sum(axis=1).min() >= least
    return mask


@pytest.mark.slow
@pytest.mark.parametrize("retrieval", ["dense", slow("streamed")])
def test_draws_are_of_eligible_items_with_the_propensities_of_these(retrieval):
    retriever, mask = new(retrieval=retrieval), random_mask()
    drawn = retriever.act([0, 1, 2, 3], eligible=mask)
    assert np.take_along_axis(mask, drawn.candidates, axis=1).all()
    run = retriever.run
    logits = run.policy.logits(run.params(), run.environment, EVERY)
    for row in range(4):
        own = np.where(mask[row], np.asarray(logits[row]), -np.inf)
        items = jnp.asarray(drawn.candidates[row], jnp.int32)
        wanted = log_prob(jnp.asarray(own), items, (K,))
        assert drawn.log_propensity[row] == pytest.approx(float(wanted), rel=1e-4)
    assert drawn.candidates.shape == (4, K)
    one = retriever.act([0, 1], eligible=[3, 4, 5, 6, 7, 8, 9])
    assert set(one.candidates.ravel()) <= {3, 4, 5, 6, 7, 8, 9}


@pytest.mark.slow
def test_what_was_eligible_at_the_draw_counts_when_its_feedback_is_learnt(tmp_path):
    """An update among the eligible items alone: no other item's logit moves."""
    retriever = new(optimizer="sgd", item_tower="ids", advantage="none", estimator="v_pg")
    items = np.arange(10)
    drawn = retriever.act([0, 1, 2, 3], eligible=items)
    retriever.save(tmp_path / "run")
    back = online.Retriever.load(tmp_path / "run", environment=WORLD)
    for one in (retriever, back):
        before = one.run.policy.embeddings(one.run.params(), WORLD, EVERY)
        one.update(drawn.token, drawn.candidates[:, :2], np.ones((4, 2)))
        after = one.run.policy.embeddings(one.run.params(), WORLD, EVERY)
        moved = np.abs(np.asarray(after.items - before.items)).max(axis=(0, 2)) > 0
        assert moved[:10].all()
        assert not moved[10:].any()
    assert equal(parameters(retriever), parameters(back))


def test_empty_arguments_name_what_is_required():
    retriever = new()
    with pytest.raises(ValueError, match=r"contexts is empty; expected one context id"):
        retriever.act([])
    with pytest.raises(
        ValueError, match=r"eligible is empty; expected the ids of at least one item"
    ):
        retriever.act([0], eligible=[])


@pytest.mark.slow
def test_the_count_of_updates_ends_at_the_largest_int32(tmp_path):
    """Checkpoints are named by the count, which must not become negative."""
    retriever, most = new(advantage="none"), 2**31 - 1
    state = retriever.run.state
    retriever.run.state = dataclasses.replace(state, step=jnp.full_like(state.step, most - 1))
    for _ in range(3):
        before, drawn = parameters(retriever), retriever.act([0, 1, 2, 3])
        result = retriever.update(drawn.token, drawn.candidates[:, :2], np.eye(4, 2))
        assert result.step == most
        assert not equal(before, parameters(retriever))
    retriever.save(tmp_path / "run")
    assert online.Retriever.load(tmp_path / "run", environment=WORLD).step == most


def test_a_row_with_too_few_eligible_items_does_not_stop_the_batch():
    retriever, mask = new(), random_mask()
    mask[1] = False
    mask[1, [4, 8]] = True
    drawn = retriever.act([0, 1, 2, 3], eligible=mask)
    assert set(drawn.candidates[1, :2]) == {4, 8}
    assert drawn.candidates[1, 2:].tolist() == [-1] * (K - 2)
    assert np.isnan(drawn.log_propensity).tolist() == [False, True, False, False]
    assert np.take_along_axis(mask, drawn.candidates, axis=1)[[0, 2, 3]].all()
    before = parameters(retriever)
    result = retriever.update(drawn.token, drawn.candidates[:, :2], np.ones((4, 2)))
    assert (result.waiting, result.unusable, result.step) == (3, 1, 0)
    assert equal(parameters(retriever), before)
    nothing = retriever.act([0], eligible=np.zeros(ITEMS, bool))
    assert nothing.candidates.tolist() == [[-1] * K]


# --- fewer items in a list --------------------------------------------------------------------------------


def short_lists(drawn):
    """Lists of two, one, two and one items, in the forms that may come."""
    own = drawn.candidates
    ragged = [own[0, :2].tolist(), [int(own[1, 0])], own[2, :2].tolist(), [int(own[3, 0])]]
    filled = own[:, :2].copy()
    filled[[1, 3], 1] = -1
    named = [[*row, *[None] * (2 - len(row))] for row in ragged]
    return {
        "shorter rows": (ragged, [[1.0, 0.5], [1.0], [0.0, 2.0], [3.0]]),
        "filled with -1": (filled, [[1.0, 0.5], [1.0, 0.0], [0.0, 2.0], [3.0, 7.0]]),
        "filled with None": (named, [[1.0, 0.5], [1.0, np.nan], [0.0, 2.0], [3.0, None]]),
    }


@pytest.mark.slow
@pytest.mark.parametrize("advantage", [slow("none"), "context", slow("batch")])
def test_short_lists_of_every_form_teach_the_same(advantage):
    results = []
    for form in ("shorter rows", "filled with -1", "filled with None"):
        retriever = new(advantage=advantage)
        drawn = retriever.act([0, 1, 2, 3])
        result = retriever.update(drawn.token, *short_lists(drawn)[form])
        assert result.step == 1
        results.append(parameters(retriever))
    assert equal(results[0], results[1])
    assert equal(results[0], results[2])


@pytest.mark.slow
def test_positions_that_were_not_shown_have_no_effect():
    """The gradient of a list of one item is that of the first position alone."""
    alone, weighted = new(advantage="none"), new(advantage="none", position_weights="1,0")
    for retriever, count in ((alone, 1), (weighted, 2)):
        drawn = retriever.act([0, 1, 2, 3])
        result = retriever.update(drawn.token, drawn.candidates[:, :count], np.ones((4, count)))
        assert result.step == 1
    assert equal(parameters(alone), parameters(weighted))


def test_the_baseline_counts_only_positions_that_were_shown():
    retriever = new(advantage="context")
    drawn = retriever.act([0, 1, 2, 3])
    retriever.update(drawn.token, *short_lists(drawn)["shorter rows"])
    seen = retriever.run.state.baseline_state
    assert seen.visits[0, :4].tolist() == [[1, 1], [1, 0], [1, 1], [1, 0]]
    assert seen.total[0, :4].tolist() == [[1.0, 0.5], [1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]


@pytest.mark.slow
def test_short_lists_are_logged_as_they_were_shown_and_survive_a_restart(tmp_path):
    log = online.Log(tmp_path / "log")
    retriever = online.Retriever.new(settings(batch_size=8), WORLD, log=log)
    drawn = retriever.act([0, 1, 2, 3])
    lists, rewards = short_lists(drawn)["shorter rows"]
    retriever.update(drawn.token, lists, rewards)
    log.flush()
    feedback = online.read_log(tmp_path / "log")[1]
    assert feedback["ranking"].to_pylist() == lists
    assert feedback["rewards"].to_pylist() == rewards
    retriever.save(tmp_path / "run")
    back = online.Retriever.load(tmp_path / "run", environment=WORLD)
    later = retriever.act([4, 3, 2, 1])
    for one in (retriever, back):
        token = later.token if one is retriever else one.act([0]).token
        if one is retriever:
            one.update(token, later.candidates[:, :2], np.ones((4, 2)))
    assert back.waiting == 4
    assert back._queue[0].seen.sum() == 6


@pytest.mark.slow
def test_impossible_short_lists_are_rejected():
    retriever = new()
    drawn = retriever.act([0, 1, 2, 3])
    lists, rewards = short_lists(drawn)["shorter rows"]
    with pytest.raises(ValueError, match="list 1 of the ranking shows 0 items"):
        retriever.update(drawn.token, [lists[0], [], *lists[2:]], rewards)
    with pytest.raises(ValueError, match="list 0 of the ranking shows 2 items and has 1 rewards"):
        retriever.update(drawn.token, lists, [[1.0], *rewards[1:]])
    grouped = new(advantage="group", draws_per_context=2)
    drawn = grouped.act([0, 0, 1, 1])
    with pytest.raises(ValueError, match="compares whole lists"):
        grouped.update(drawn.token, drawn.candidates[:, :1], np.ones((4, 1)))


# --- bounds of rewards ------------------------------------------------------------------------------------


@pytest.mark.parametrize("reward", [1e18, -4e19])
def test_a_wild_reward_is_refused(reward):
    retriever = new()
    drawn = retriever.act([0, 1, 2, 3])
    rewards = np.ones((4, 2))
    rewards[2, 1] = reward
    with pytest.raises(
        ValueError, match=r"row 2, position 2, is .*outside of reward_bounds=-1e\+09"
    ):
        retriever.update(drawn.token, drawn.candidates[:, :2], rewards)
    assert not retriever.draws.find(drawn.token).settled.any()


def test_rewards_are_clipped_and_counted_on_request(tmp_path):
    retriever = online.Retriever.new(
        settings(reward_bounds=(0.0, 2.0), outside_bounds="clip"),
        WORLD,
        log=online.Log(tmp_path),
    )
    drawn = retriever.act([0, 1, 2, 3])
    rewards = [[1.0, 5.0], [-1.0, 2.0], [0.0, 1e18], [1.0, 1.0]]
    result = retriever.update(drawn.token, drawn.candidates[:, :2], rewards)
    assert result.clipped == retriever.clipped_rewards == 3
    retriever.log.flush()
    logged = online.read_log(tmp_path)[1]["rewards"].to_pylist()
    assert logged == [[1.0, 2.0], [0.0, 2.0], [0.0, 2.0], [1.0, 1.0]]


@pytest.mark.slow
def test_training_refuses_or_clips_stored_and_simulated_rewards():
    table = np.ones((4, 12))
    table[1, 2] = 1e18
    config = settings(num_steps=2, eval_every=2)
    with pytest.raises(ConfigError, match=r"1 of 48 rewards are outside of .*such as 1e\+18"):
        rankpg.train(config, from_matrix(table))
    clips = settings(
        num_steps=2, eval_every=2, reward_bounds=(0.0, 1.5), outside_bounds="clip", advantage="none"
    )
    with pytest.warns(UserWarning, match="1 of 48 rewards are outside"):
        run = rankpg.train(clips, from_matrix(table))
    assert not run.stopped()
    assert 0 < run.metrics[-1]["reward"] <= 3
    noisy = settings(num_steps=2, eval_every=2, reward_bounds=(0.5, 2.5))
    run = rankpg.train(noisy, from_matrix(np.eye(4, 12) + 1, noise_std=3.0))
    assert "outside of reward_bounds" in run.stopped()[0]


@pytest.mark.slow
@pytest.mark.parametrize("outside", ["refuse", "clip"])
def test_positions_that_were_not_shown_have_no_bounds(outside):
    """A short list is filled up with rewards of 0, which these bounds exclude."""
    retriever = new(reward_bounds=(1.0, 5.0), outside_bounds=outside, batch_size=2)
    drawn = retriever.act([0, 1])
    lists = [drawn.candidates[0, :1].tolist(), drawn.candidates[1, :2].tolist()]
    retriever.update(drawn.token, lists, [[2.0], [1.0, 3.0]])
    assert (retriever.step, retriever.clipped_rewards) == (1, 0)


@pytest.mark.parametrize("bounds", [(1.0, 0.0), (1.0, 1.0), (0.0,), (0.0, 1.0, 2.0), (0.0, 1e10)])
def test_impossible_bounds_of_rewards_are_rejected(bounds):
    with pytest.raises(ConfigError, match=r"expected two numbers LOW < HIGH from -1e9 to 1e9"):
        settings(reward_bounds=bounds)


# --- weights and flags ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def old_feedback():
    """Feedback on draws whose log-probabilities are known to be off by given amounts."""
    retriever = online.Retriever.new(settings(), WORLD, importance="item")
    drawn = retriever.act([0, 1, 2, 3])
    off = np.random.default_rng(2).uniform(-1, 1, (4, K)).astype(np.float32)
    slots = np.array([[4, 1], [0, 5], [2, 3], [5, 0]])
    batch = FeedbackBatch(
        context=jnp.arange(4, dtype=jnp.int32),
        drawn=LoggedDraw(
            items=jnp.asarray(drawn.candidates, jnp.int32),
            log_propensity=jnp.asarray(drawn.log_propensity + off[:, 0]),
            log_inclusion=jnp.asarray(drawn.log_inclusion + off),
            sound=jnp.ones(4, bool),
        ),
        ranking=jnp.asarray(np.take_along_axis(drawn.candidates, slots, axis=1), jnp.int32),
        rewards=jnp.ones((4, 2)),
        age=jnp.ones(4, jnp.int32),
    )
    params = jax.tree.map(lambda leaf: leaf[0], retriever.run.state.params)
    weights = jax.jit(importance_weights, static_argnums=(1, 2))

    def of(importance, clip, **changes):
        found, clipped = weights(
            retriever.run.learner, importance, clip, params, batch.replace(**changes)
        )
        return np.asarray(found), float(clipped)

    return of, off, slots


def test_item_weights_are_those_of_the_slots_that_the_items_came_from(old_feedback):
    of, off, slots = old_feedback
    found, _ = of("item", 1e9)
    wanted = np.exp(-np.take_along_axis(off, slots, axis=1))
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    assert np.abs(found - np.exp(-off[:, :2])).max() > 0.1  # another order of the slots
    np.testing.assert_allclose(of("set", 1e9)[0], np.exp(-off[:, [0, 0]]), rtol=1e-4)


def test_clipped_share_counts_the_weights_above_the_clip(old_feedback):
    of, off, slots = old_feedback
    wanted = np.exp(-np.take_along_axis(off, slots, axis=1))
    found, share = of("item", 1.2)
    assert 0 < share < 1
    assert share == pytest.approx((wanted > 1.2).mean())
    np.testing.assert_allclose(found, np.minimum(wanted, 1.2), rtol=1e-4)
    seen = np.array([[True, False]] * 4)
    assert of("item", 1.2, seen=jnp.asarray(seen))[1] == pytest.approx((wanted[:, 0] > 1.2).mean())


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_effective_sample_share_at_any_scale(scale):
    """Float32 holds the weights, but not their squares."""
    weights = jnp.asarray([[1.0, 1.0], [2.0, 0.0]]) * scale
    assert float(_effective_share(weights, None)) == pytest.approx(16 / (4 * 6), rel=1e-5)
    seen = jnp.asarray([[True, True], [True, False]])
    assert float(_effective_share(weights, seen)) == pytest.approx(16 / (3 * 6), rel=1e-5)
    assert float(_effective_share(0 * weights, None)) == 0


def test_rows_with_feedback_are_known_after_a_restart(tmp_path):
    retriever = new(batch_size=8)
    first, drawn = retriever.act([0, 1]), retriever.act([2, 3, 4])
    retriever.update(drawn.token, drawn.candidates[[1], :2], np.ones((1, 2)), rows=[1])
    retriever.discard(first.token, rows=[0])
    retriever.save(tmp_path / "run")
    back = online.Retriever.load(tmp_path / "run", environment=WORLD)
    assert back.draws.find(drawn.token).settled.tolist() == [False, True, False]
    assert back.draws.find(first.token).settled.tolist() == [True, False]
    with pytest.raises(online.TokenError, match=r"row 1 of draw .* already has feedback"):
        back.update(drawn.token, drawn.candidates[[1], :2], np.ones((1, 2)), rows=[1])
