"""The loop around a re-ranker in plain Python: equal to training inside the program, robust to failures."""

from __future__ import annotations

import threading
import time

import jax
import numpy as np
import pytest

import rankpg
from rankpg import TrainConfig, online
from rankpg.environments.from_ratings import from_matrix
from rankpg.errors import ConfigError

ENABLE_X64 = False

pytestmark = pytest.mark.usefixtures("standard_promotion")  # for optimizers of optax

TABLE = np.random.default_rng(0).uniform(size=(6, 12))
WORLD = from_matrix(TABLE, noise_std=0.1)


def settings(**changes) -> TrainConfig:
    small = {"num_candidates": 4, "ranking_length": 2, "batch_size": 8, "embedding_dim": 4}
    run = {"num_steps": 4, "eval_every": 2, "seeds": (0,), "learning_rate": 0.1}
    return TrainConfig(**(small | run | changes))


def by_table(contexts, candidates):
    """The built-in optimal re-ranker, in NumPy."""
    return TABLE.astype(np.float32)[contexts[:, None], candidates]


def new(world=WORLD, **changes) -> online.Retriever:
    return online.Retriever.new(settings(**changes), world)


def state_of(run) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(run.state)]


def equal(one, other) -> bool:
    pairs = zip(state_of(one), state_of(other), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


@pytest.fixture(scope="module")
def reference():
    """The run that the loop makes when nothing goes wrong."""
    return online.train(new(), online.HostReranker(by_table))


# --- the same training as in the program ------------------------------------------------------------------


@pytest.mark.slow
def test_host_loop_equals_training_inside_the_program(reference):
    inside = rankpg.train(settings(), WORLD)
    for a, b in zip(state_of(inside), state_of(reference), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert [row["step"] for row in reference.metrics] == [0, 2, 4]
    for mine, theirs in zip(reference.metrics, inside.metrics, strict=True):
        for name in ("policy_value", "optimum", "normalised_value", "candidate_recall"):
            assert mine[name] == pytest.approx(theirs[name], rel=1e-5), name
    for mine, theirs in zip(reference.metrics[1:], inside.metrics[1:], strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-5)


def as_ranking(contexts, candidates):
    return np.take_along_axis(candidates, np.argsort(-by_table(contexts, candidates)), 1)[:, :2]


def with_rewards(contexts, candidates):
    shown = as_ranking(contexts, candidates)
    return shown, TABLE[contexts[:, None], shown]


@pytest.mark.slow
@pytest.mark.parametrize(
    "reranker",
    [
        online.HostReranker(as_ranking, returns="ranking"),
        online.HostReranker(by_table, rows_per_call=3, concurrency=2, timeout=60.0),
    ],
    ids=["ranking", "in parts, two at a time"],
)
def test_result_does_not_depend_on_how_the_reranker_is_called(reranker, reference):
    assert equal(online.train(new(), reranker), reference)


def test_rows_per_call_and_concurrency_are_respected():
    sizes, now, most, lock = [], [0], [0], threading.Lock()

    def watched(contexts, candidates):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
            sizes.append(len(contexts))
        time.sleep(0.02)
        with lock:
            now[0] -= 1
        return by_table(contexts, candidates)

    call = online.HostReranker(watched, rows_per_call=3, concurrency=2).call(
        np.arange(8) % 6, np.tile(np.arange(4), (8, 1)), 2
    )
    rows = np.concatenate([part.rows for part in call.results()])
    assert sorted(rows) == list(range(8))
    assert sorted(sizes) == [2, 3, 3]
    assert most[0] == 2


@pytest.mark.slow
def test_a_reranker_may_write_to_its_arguments(reference):
    def careless(contexts, candidates):
        scores = by_table(contexts, candidates)
        contexts[:], candidates[:] = 0, 0
        return scores

    assert equal(online.train(new(), online.HostReranker(careless)), reference)


@pytest.mark.slow
def test_rewards_from_the_reranker_need_no_simulator():
    retriever = new(online.catalogue(6, 12))
    run = online.train(retriever, online.HostReranker(with_rewards, returns="rewards"))
    assert retriever.step == 4
    assert run.metrics[-1]["policy_value"] is None
    assert 0 < run.metrics[-1]["reward"] < 2
    with pytest.raises(ConfigError, match="the environment has no rewards"):
        online.train(new(online.catalogue(6, 12)), online.HostReranker(by_table))


@pytest.mark.slow
def test_a_second_call_of_train_continues(reference):
    retriever = new()
    online.train(retriever, online.HostReranker(by_table), num_steps=3)
    online.train(retriever, online.HostReranker(by_table))
    assert equal(retriever.run, reference)


# --- overlap ----------------------------------------------------------------------------------------------


class Watched(online.Retriever):
    """A retriever that counts the batches it draws."""

    batches_drawn: int
    changed: threading.Condition

    def act_on_batch(self):
        draw = super().act_on_batch()
        with self.changed:
            self.batches_drawn += 1
            self.changed.notify_all()
        return draw


@pytest.mark.slow
@pytest.mark.parametrize("overlap", [True, False])
def test_the_next_batch_is_drawn_while_the_call_runs(overlap):
    retriever = Watched(new().run)
    retriever.batches_drawn, retriever.changed, in_time = 0, threading.Condition(), []

    def waits(contexts, candidates):
        if len(contexts) == 8:  # and not the six of an evaluation
            before = len(in_time) + 1  # each call has a draw of its own
            with retriever.changed:
                another = retriever.changed.wait_for(
                    lambda: retriever.batches_drawn > before, 30 if overlap else 0.3
                )
            in_time.append(another)
        return by_table(contexts, candidates)

    online.train(retriever, online.HostReranker(waits), overlap=overlap)
    assert in_time == [overlap] * 4


@pytest.mark.slow
def test_overlapped_draws_are_one_update_old_and_weighted(reference):
    retriever = new(eval_every=1)
    run = online.train(retriever, online.HostReranker(by_table), overlap=True)
    assert [row["age"] for row in run.metrics[1:]] == [0, 1, 1, 1]
    shares = [row["effective_sample_share"] for row in run.metrics[1:]]
    assert shares[0] == 1 > max(shares[1:])
    assert not retriever.draws.waiting  # what was drawn ahead is not left behind
    unweighted = online.Retriever.new(settings(), WORLD, importance="none")
    other = online.train(unweighted, online.HostReranker(by_table), overlap=True)
    assert not equal(run, other)
    assert not equal(run, reference)


# --- faults -----------------------------------------------------------------------------------------------


def raises(contexts, candidates):
    raise ConnectionError("the service is down")


def exits(contexts, candidates):
    raise SystemExit(1)


def hangs(contexts, candidates):
    threading.Event().wait(5)
    return by_table(contexts, candidates)


def nan(contexts, candidates):
    scores = by_table(contexts, candidates)
    scores[3, 1] = np.nan
    return scores


def unknown_item(contexts, candidates):
    ranking = as_ranking(contexts, candidates)
    ranking[5, 1] = 99
    return ranking


def too_few(contexts, candidates):
    return candidates[:, :1]


def wrong_shape(contexts, candidates):
    return by_table(contexts, candidates)[:, :2]


def ragged(contexts, candidates):
    return [row[: 1 + number % 2] for number, row in enumerate(candidates.tolist())]


def no_tuple(contexts, candidates):
    return by_table(contexts, candidates)


def nan_reward(contexts, candidates):
    return candidates[:, :2], np.full((len(contexts), 2), np.nan)


FAULTS = {
    raises: ("scores", "ConnectionError: the service is down"),
    exits: ("scores", "SystemExit: 1"),
    hangs: ("scores", r"TimeoutError: no result within 0\.3 s"),
    nan: ("scores", "returned NaN as the score of candidate 1 of row 3"),
    unknown_item: ("ranking", "row 5 shows 99 at position 2, which is not among its candidates"),
    too_few: ("ranking", "shows too few items, L is 2"),
    wrong_shape: ("scores", r"scores of shape \[8, 2\]; expected \[8, 4\]"),
    ragged: ("ranking", "rows of different lengths"),
    no_tuple: ("rewards", r"expected a tuple \(ranking, rewards\)"),
    nan_reward: ("rewards", "the reward of row 0, position 1, is nan"),
}


GOOD = {"scores": by_table, "ranking": as_ranking, "rewards": with_rewards}


def after_two_updates(fault, kind):
    """A re-ranker that works for two updates and then fails until the event `fixed` is set."""
    batches, fixed = [0], threading.Event()

    def function(contexts, candidates):
        batches[0] += len(contexts) == 8
        faulty = batches[0] > 2 and not fixed.is_set() and len(contexts) == 8
        return (fault if faulty else GOOD[kind])(contexts, candidates)

    return function, fixed


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_failing_reranker_loses_no_update(fault):
    kind, message = FAULTS[fault]
    function, fixed = after_two_updates(fault, kind)
    timeout = 0.3 if fault is hangs else None
    retriever = new()
    reranker = online.HostReranker(function, returns=kind, timeout=timeout, retries=1)
    began = time.perf_counter()
    with pytest.raises(online.RerankError, match=message) as error:
        online.train(retriever, reranker)
    assert time.perf_counter() - began < 60
    assert "failed 2 times on rows 0 to 7 of the batch" in str(error.value)
    assert "The 2 updates made so far are kept; this batch is discarded" in str(error.value)
    assert (retriever.step, retriever.waiting, len(retriever.draws.waiting)) == (2, 0, 0)
    kept = new()
    online.train(kept, online.HostReranker(GOOD[kind], returns=kind), num_steps=2)
    assert equal(retriever.run, kept.run)
    fixed.set()
    online.train(retriever, reranker)
    assert retriever.step == 4


@pytest.mark.slow
def test_failed_calls_are_retried_with_pauses(reference):
    failed, pauses = [], []

    def flaky(contexts, candidates):
        key = contexts.tobytes() + candidates.tobytes()
        pauses.append(time.perf_counter())
        if failed.count(key) < 2:
            failed.append(key)
            raise ConnectionError("try again")
        return by_table(contexts, candidates)

    run = online.train(new(), online.HostReranker(flaky, retries=2, pause=0.05))
    assert equal(run, reference)
    first, second, third = pauses[:3]
    assert second - first >= 0.05
    assert third - second >= 0.1


@pytest.mark.slow
def test_skip_continues_with_the_successful_calls():
    calls = [0]

    def half_down(contexts, candidates):
        calls[0] += 1
        if calls[0] % 2:
            raise ConnectionError("one of two")
        return by_table(contexts, candidates)

    retriever = new()
    reranker = online.HostReranker(half_down, rows_per_call=4, on_failure="skip")
    run = online.train(retriever, reranker, num_steps=2)
    assert retriever.step == 2
    # Four batches of two calls for two updates, between two evaluations that may end at their first failure.
    assert 8 + 2 <= calls[0] <= 8 + 2 + 2
    assert not retriever.draws.waiting
    assert [row["policy_value"] for row in run.metrics] == [None, None]


@pytest.mark.slow
def test_skip_gives_up_after_repeated_failures():
    function, _ = after_two_updates(raises, "scores")
    retriever = new()
    reranker = online.HostReranker(function, on_failure="skip", give_up_after=3)
    with pytest.raises(online.RerankError, match="3 calls in a row failed"):
        online.train(retriever, reranker)
    assert retriever.step == 2


@pytest.mark.slow
def test_leaving_the_loop_discards_open_draws():
    retriever = new()
    for progress in online.training_loop(retriever, online.HostReranker(by_table), overlap=True):
        if progress.step == 2:
            break
    assert not retriever.draws.waiting


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"function": 3}, "expected f"),
        ({"returns": "logits"}, "scores, ranking, rewards"),
        ({"on_failure": "pray"}, "stop, skip"),
        ({"retries": -1}, "at least 0"),
        ({"rows_per_call": 0}, "at least 1"),
        ({"timeout": 0.0}, "seconds above 0"),
        ({"pause": -1.0}, "at least 0"),
    ],
    ids=str,
)
def test_impossible_settings_are_rejected(changes, message):
    with pytest.raises(ConfigError, match=message):
        online.HostReranker(**({"function": by_table} | changes))


def test_rows_per_call_must_hold_whole_groups():
    retriever = new(advantage="group", draws_per_context=4)
    with pytest.raises(ConfigError, match="give a multiple"):
        online.train(retriever, online.HostReranker(by_table, rows_per_call=6))


# --- the last update, and the order of feedback -----------------------------------------------------------


@pytest.mark.slow
def test_the_last_update_is_evaluated_whatever_the_number_of_steps():
    run = online.train(new(num_steps=3), online.HostReranker(by_table))
    assert [row["step"] for row in run.metrics] == [0, 2, 3]
    assert run.metrics[-1]["policy_value"] is not None


@pytest.mark.slow
def test_rows_are_learnt_in_the_order_of_their_feedback():
    retriever = new(batch_size=4)
    later, first = retriever.act([3, 1, 0, 2]), retriever.act(5)
    for draw in (first, later):
        ranking = draw.candidates[:, :2]
        result = retriever.update(draw.token, ranking, np.ones(ranking.shape))
    assert (result.step, result.waiting) == (1, 1)
    assert retriever._queue[0].rows.contexts.tolist() == [2]  # the newest waits
