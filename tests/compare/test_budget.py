"""The time of a comparison: what it takes from methods, by a clock that only fake methods move."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from rankpg import ConfigError
from rankpg.baselines import BASELINES
from rankpg.compare import METHODS, command, compare, methods, trained, tuning
from rankpg.compare.budget import Budget, Deadline
from rankpg.compare.methods import FittedBaseline, Method, Trained
from rankpg.compare.results import Schedule, Tuned
from rankpg.compare.stages import final_stage, tuning_stage
from rankpg.compare.tables import plain

ENABLE_X64 = False
pytestmark = pytest.mark.usefixtures("as_a_user")

MINUTE = 60 * 0.97
"""Seconds of a minute without the share of the tables."""


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Timed:
    """A way whose trial takes `cost` seconds, or those that it is given; a fit takes `cost` for each seed."""

    least = 0.0  # seconds of a trial that cannot be divided, as of compiling

    def __init__(self, clock, cost):
        self.clock, self.cost = clock, cost
        self.given, self.seeds, self.began = [], [], []

    def tune(self, stage, settings, *, seed, cutoff, seconds):
        self.given.append(seconds)
        self.began.append(self.clock.now)
        limited = isinstance(self, Trained) and self.cost > seconds
        self.clock.now += min(self.cost, max(seconds, self.least)) if limited else self.cost
        return Tuned(0.5, Schedule(5, 10, 0, limited))

    def lists(self, stage, settings, schedules, *, seeds, depth, deadline=None):
        found = np.full((len(stage.part.users), depth), -1, np.int32)
        found[:, 0] = stage.part.relevant[1][stage.part.relevant[0][:-1]]
        done = []
        for seed in seeds:
            if done and deadline is not None and deadline.over():
                break
            cost = self.cost
            if deadline is not None and isinstance(self, Trained):
                cost = min(cost, deadline.seconds / len(seeds))
            self.clock.now += cost
            done.append(seed)
        self.seeds.append(len(done))
        return [[found for _ in done] for _ in schedules]


class TimedTraining(Timed, Trained):
    def __init__(self, *arguments):
        Timed.__init__(self, *arguments)
        object.__setattr__(self, "fixed", {"objective": "softmax"})


TimedTraining.__setattr__ = object.__setattr__


class Fakes:
    """Replaces all methods by fake ones, whose trials take these seconds."""

    def __init__(self):
        self.clock = Clock()

    def __call__(self, baselines, trained):
        ways = {name: Timed(self.clock, cost) for name, cost in baselines.items()}
        ways |= {name: TimedTraining(self.clock, cost) for name, cost in trained.items()}
        grid = tuple({"entry": number} for number in range(8))
        METHODS.clear()
        METHODS.update({name: Method(name, grid, way) for name, way in ways.items()})
        return ways


@pytest.fixture
def timed(monkeypatch):
    kept, fakes = dict(METHODS), Fakes()
    monkeypatch.setattr(tuning, "time", SimpleNamespace(perf_counter=fakes.clock))
    monkeypatch.setattr(command, "Budget", lambda minutes: Budget(minutes, fakes.clock))
    monkeypatch.setattr(command.Comparison, "write", lambda self, folder: None)
    yield fakes
    METHODS.clear()
    METHODS.update(kept)  # in their order, which a patch of single entries would not restore


def run(data, **settings):
    return compare(data, **{"reranker": "none", "cutoffs": (5,)} | settings)


def counts(found):
    return {row.method: (row.trials, row.seeds) for row in found.rows}


def test_small_data_has_all_trials_and_seeds(timed, data):
    ways = timed({"a": 1.0}, {"b": 2.0, "c": 3.0})
    found = run(data, minutes=2.0)
    assert counts(found) == dict.fromkeys("abc", (4, 3))
    assert not any(row.cut for row in found.rows)
    assert not any("cut methods short" in note for note in found.notes)
    assert "†" not in found.markdown
    # Rounds: the first trial of each before the second of any.
    assert ways["b"].began[0] < ways["c"].began[0] < ways["b"].began[1]


@pytest.mark.parametrize(
    ("minutes", "expected"),
    [
        (70 / MINUTE, (4, 3)),  # (4 + 3) 10
        (69 / MINUTE, (4, 2)),
        (50 / MINUTE, (4, 1)),
        (49 / MINUTE, (3, 1)),
        (20 / MINUTE, (1, 1)),
    ],
)
def test_seeds_are_given_up_before_trials(timed, data, minutes, expected):
    timed({}, {"b": 4.0, "c": 6.0})
    found = run(data, minutes=minutes + 1e-9)
    assert counts(found) == {"b": expected, "c": expected}
    assert all(row.cut == (expected != (4, 3)) for row in found.rows)
    assert timed.clock.now <= 60 * minutes


def test_trials_have_equal_seconds_where_time_is_short(timed, data):
    ways = timed({}, {"b": 1000.0, "c": 500.0, "d": 6.0})
    found = run(data, minutes=60 / MINUTE)
    given = [seconds for way in ways.values() for seconds in way.given]
    np.testing.assert_allclose(given, 10.0)  # 60 / (2 x 3)
    assert [len(way.given) for way in ways.values()] == [1, 1, 1]
    said = " ".join(found.notes)
    assert "b had 1 of 4 trials, 1 of 3 seeds, trials with fewer updates" in said
    assert "d had 1 of 4 trials, 1 of 3 seeds. A trial" in said
    assert "had at most 10 s" in said
    assert "| b † |" in found.markdown
    assert "larger minutes may change this" in found.verdict


def test_baselines_leave_their_time_to_others(timed, data):
    ways = timed({"a": 0.0, "b": 30.0}, {"c": 1000.0})
    found = run(data, minutes=120 / MINUTE)
    # b has a third of 120 s, and is not interrupted: a trial and a fit of 30 s. c has the rest.
    assert counts(found) == {"a": (4, 3), "b": (1, 1), "c": (1, 1)}
    assert ways["c"].given == [pytest.approx(30.0)]
    timed.clock.now = 0.0
    fast = timed({"a": 0.0, "b": 1.0}, {"c": 1000.0})
    run(data, minutes=120 / MINUTE)
    assert fast["c"].given == [pytest.approx((120 - 7) / 2)]


def test_passes_of_a_baseline_are_fewer_where_time_is_short(data, monkeypatch):
    """A pass takes a second: in 10 s there are 7, for the final fit as well."""
    clock, passes = Clock(), []

    @dataclasses.dataclass
    class Slow:
        iterations: int = 15

        def fit(self, train, *, seed):
            clock.now += self.iterations
            passes.append(self.iterations)

        def scores(self, rows):
            return np.zeros((len(rows), 40), np.float32)

    entry = dataclasses.replace(BASELINES["als"], build=Slow)
    monkeypatch.setitem(BASELINES, "als", entry)
    monkeypatch.setattr(methods, "time", SimpleNamespace(perf_counter=clock))
    way, stage = FittedBaseline("als"), tuning_stage(data)
    for seconds, expected in ((10.0, 7), (0.1, 1), (60.0, 15), (float("inf"), 15)):
        passes.clear()
        tuned = way.tune(stage, {}, seed=0, cutoff=5, seconds=seconds)
        assert tuned.schedule.limited == (expected < 15)
        way.lists(stage, {}, [tuned.schedule], seeds=(0,), depth=5)
        assert passes == [1][: seconds < 1e9] + [expected] * 2


def test_methods_are_left_out_last_and_named(timed, data):
    timed({"a": 1.0, "b": 100.0}, {"c": 1.0})
    found = run(data, minutes=50 / MINUTE)
    assert [row.method for row in found.rows] == ["a"]
    said = " ".join(found.notes)
    assert "b is left out: the time of the comparison, minutes=" in said
    assert "is too short for its final fit" in said
    assert "c is left out" in said


def test_later_methods_are_left_out_where_a_trial_cannot_be_short(timed, data):
    """A trial has 80 / 6 s, and takes 30: one is tuned and fitted, the reference of all, not three tuned."""
    ways = timed({}, {"b": 1000.0, "c": 1000.0, "inclusion": 1000.0})
    for way in ways.values():
        way.least = 30.0
    found = run(data, minutes=80 / MINUTE)
    assert [row.method for row in found.rows] == ["inclusion"]
    assert sum("is too short for its first trial" in note for note in found.notes) == 2


def test_no_limit(timed, data):
    ways = timed({"a": 100.0}, {"c": 300.0})
    found = run(data, minutes=0.0, trials=2, minutes_per_trial=6.0)
    assert counts(found) == {"a": (2, 3), "c": (2, 3)}
    assert ways["c"].given == [360.0, 360.0]
    assert not any(row.cut for row in found.rows)


def test_an_interrupted_comparison_continues_its_trials(timed, data, tmp_path, monkeypatch):
    """Trials and fits that were made are used, and their seconds count as spent."""
    ways = timed({"a": 3.0}, {"b": 1000.0, "c": 1000.0})
    settings = {"minutes": 127 / MINUTE, "out": tmp_path, "seeds": (0,), "trials": 1}
    with monkeypatch.context() as patch:
        patch.setattr(ways["c"], "lists", None)  # stops after all trials and the fit of b
        with pytest.raises(TypeError):
            run(data, **settings)
    assert ways["b"].given == ways["c"].given == [pytest.approx((127 - 6) / 4)]
    (kept,) = (tmp_path / "methods").glob("*.trials.json")
    assert kept.name.startswith("c-")
    budgets = []
    monkeypatch.setattr(
        command, "Budget", lambda m: budgets.append(Budget(m, timed.clock)) or budgets[0]
    )
    found = run(data, **settings)
    assert [len(ways[name].given) for name in "abc"] == [1, 1, 1]
    assert [len(ways[name].seeds) for name in "abc"] == [1, 1, 1]
    assert {row.method for row in found.rows} == {*"abc"}
    assert budgets[0].spent == pytest.approx(6 + 3 * (127 - 6) / 4)
    assert not list((tmp_path / "methods").glob("*.trials.json"))
    saved = plain(found.rows, found.results, "", {})["methods"]
    assert {one["method"]: one["cut"] for one in saved} == {"a": False, "b": True, "c": True}


def test_seconds_of_an_interrupted_round_stay(timed, data, tmp_path, monkeypatch):
    ways = timed({}, {"b": 1000.0, "c": 1000.0})
    settings = {"minutes": 120 / MINUTE, "out": tmp_path, "seeds": (0,), "trials": 1}
    with monkeypatch.context() as patch:
        patch.setattr(ways["c"], "tune", None)
        with pytest.raises(TypeError):
            run(data, **settings)
    run(data, **settings)
    assert ways["b"].given == ways["c"].given == [pytest.approx(30.0)]


@pytest.mark.parametrize(("seconds", "expected"), [(2.5, 3), (1.5, 2), (9.0, 5)])
def test_training_ends_at_its_deadline(data, monkeypatch, seconds, expected):
    """Every step takes a second: lists of a later step are those of the last one."""
    clock, stage = Clock(), final_stage(data)

    class Lists:
        def __init__(self, *arguments):
            pass

        def of(self, index):
            return np.full((60, 5), clock.now, np.int32)

    def training(run, stops):
        for stop in stops:
            clock.now = float(stop)
            yield stop

    monkeypatch.setattr(trained, "Lists", Lists)
    monkeypatch.setattr(trained, "_begun", lambda config, data, first: config)
    monkeypatch.setattr(trained, "_training", training)
    deadline = Deadline(seconds, clock)
    schedules = [Schedule(steps=steps, num_steps=10) for steps in (2, 5)]
    way = Trained({"objective": "softmax"})
    found = way.lists(stage, {}, schedules, seeds=(0,), depth=5, deadline=deadline)
    assert [int(lists[0, 0]) for (lists,) in found] == [2, expected]
    assert deadline.reached == (seconds < 5)


def test_trial_ends_at_its_seconds(data, monkeypatch):
    """The second evaluation is after the end: it is the last, and the best step is chosen of the two."""
    clock, stage = Clock(), tuning_stage(data)
    _, items = stage.part.relevant

    class Lists:
        def __init__(self, *arguments):
            pass

        def of(self, index):
            found = np.full((60, 5), -1, np.int32)
            found[:, 0] = np.where(np.arange(60) < clock.now, items, -1)
            return found

    def training(run, stops):
        for stop in stops:
            clock.now = float(stop)
            yield stop

    monkeypatch.setattr(trained, "Lists", Lists)
    monkeypatch.setattr(trained, "Deadline", lambda seconds: Deadline(seconds, clock))
    monkeypatch.setattr(trained, "_begun", lambda config, data, first: config)
    monkeypatch.setattr(trained, "_training", training)
    sized = lambda config, data, seconds: (dataclasses.replace(config, num_steps=50), False)  # noqa: E731
    monkeypatch.setattr(trained, "_sized", sized)
    for seconds, steps in ((7.0, 10), (1000.0, 50)):
        tuned = trained.tune_config(stage, {"objective": "softmax"}, 0, 5, seconds)
        assert tuned.schedule == Schedule(steps, 50, 0, steps < 50)
        assert tuned.score == pytest.approx(steps / 60)
        clock.now = 0.0


@pytest.mark.parametrize("minutes", [-1.0, float("inf"), float("nan")])
def test_wrong_minutes(data, minutes):
    with pytest.raises(ConfigError, match=r"minutes=.*above 0, or 0 for no limit"):
        compare(data, methods=["popular"], minutes=minutes)
