"""The comparison as a whole: fairness, outputs, resume, and what is refused."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from rankpg import ConfigError
from rankpg.compare import METHODS, command, compare, trained
from rankpg.compare.methods import MOST_TRIALS, Method
from rankpg.compare.results import Schedule, Tuned
from rankpg.compare.stages import tuning_stage

ENABLE_X64 = False
pytestmark = pytest.mark.usefixtures("as_a_user")

CLOSED = ("popular", "item_knn", "ease")


class Spy:
    """A way that keeps the stages it was given and the seeds; the score is the entry's own."""

    def __init__(self):
        self.tuned, self.fitted = [], []

    def __repr__(self):
        return "Spy()"

    def tune(self, stage, settings, *, seed, cutoff, seconds):
        self.tuned.append((stage, settings, seed, cutoff, seconds))
        return Tuned(settings["score"], Schedule(steps=settings["steps"], num_steps=9))

    def lists(self, stage, settings, schedules, *, seeds, depth, deadline=None):
        self.fitted.append((stage, settings, schedules[0], seeds))
        lists = np.full((len(stage.part.users), depth), -1, np.int32)
        lists[:, 0] = stage.part.relevant[1][stage.part.relevant[0][:-1]]
        return [[lists for _ in seeds] for _ in schedules]


@pytest.fixture
def spy(monkeypatch):
    grid = tuple(
        {"score": score, "steps": steps}
        for score, steps in ((0.1, 3), (0.3, 5), (0.2, 7), (9.0, 9))
    )
    way = Spy()
    monkeypatch.setitem(METHODS, "spy", Method("a spy", grid, way))
    return way


def test_the_best_of_the_first_trials_is_refitted_with_every_seed(spy, data):
    found = compare(data, methods=["spy"], trials=3, seeds=(4, 5), minutes_per_trial=2.0)
    assert [settings["steps"] for _, settings, *_ in spy.tuned] == [3, 5, 7]
    assert all(call[2:] == (4, 10, 120.0) for call in spy.tuned)
    ((stage, settings, schedule, seeds),) = spy.fitted
    assert (settings["steps"], schedule.steps, seeds) == (5, 5, (4, 5))
    assert stage.data.parts.train_ends.tolist() == data.parts.validation_ends.tolist()
    (result,) = found.results
    assert result.values["recall@100"].shape == (2, 60)
    np.testing.assert_allclose(result.users("recall@100"), 0.5)


def test_no_test_item_is_used_in_the_tuning(spy, data):
    compare(data, methods=["spy"], trials=2)
    for stage, *_ in spy.tuned:
        starts, sequence = data.environment.row_starts, np.asarray(data.environment.sequence)
        for user in range(data.environment.num_users):
            first = int(starts[user])
            begin, end = (
                first + data.parts.validation_ends[user],
                first + data.parts.test_ends[user],
            )
            test_items = set(sequence[begin:end].tolist())
            known = stage.data.environment
            own = np.asarray(known.sequence)[known.row_starts[user] : known.row_starts[user + 1]]
            assert len(test_items) == 2
            assert not test_items & set(own.tolist())
            assert not test_items & set(stage.seen[[user]].indices.tolist())
        assert not set(stage.data.parts.evaluated().tolist()) - set(stage.part.users.tolist())


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("compared") / "a"
    said = []
    found = compare(data, methods=[*CLOSED, "als"], trials=2, out=out, on_progress=said.append)
    return found, out, said


@pytest.mark.slow
def test_metrics_of_popular_by_a_loop(finished, data):
    found = {result.name: result for result in finished[0].results}["popular"]
    parts, world = data.parts, data.environment
    starts, sequence = np.asarray(world.row_starts), np.asarray(world.sequence)
    own = [sequence[starts[u] : starts[u + 1]].tolist() for u in range(60)]
    before = [items[:end] for items, end in zip(own, parts.validation_ends, strict=True)]
    counts = np.zeros(40)
    for items in before:
        counts[items] += len(items) ** -found.chosen.settings["damping"]
    recalls = []
    for items, seen in zip(own, before, strict=True):
        order = [i for i in np.argsort(-counts.astype(np.float32), kind="stable") if i not in seen]
        later = set(items[len(seen) :])
        recalls.append(len(later & set(order[:10])) / len(later))
    np.testing.assert_allclose(found.users("recall@10"), recalls)


def test_verdict_says_if_time_ended_the_training(finished):
    found = dataclasses.replace(finished[0], reference="ease")
    results = []
    for result in found.results:
        limited = Schedule(limited=result.name == "ease")
        trials = tuple(dataclasses.replace(trial, schedule=limited) for trial in result.trials)
        results.append(dataclasses.replace(result, trials=trials))
    rows = command.rows_of(found.results, "ease", found.compared)
    found = dataclasses.replace(found, rows=rows)
    assert "The time of a trial" not in found.verdict
    said = dataclasses.replace(found, results=tuple(results)).verdict
    assert said == (
        f"{found.verdict} The time of a trial ended the training of ease early: a larger "
        "minutes_per_trial may change this."
    )


def test_outputs_of_the_folder(finished):
    found, out, _ = finished
    assert {entry.name for entry in out.iterdir()} == {
        "comparison.json", "comparison.md", "comparison.html", "methods"
    }  # fmt: skip
    saved = json.loads((out / "comparison.json").read_text())
    assert saved["verdict"] == found.verdict
    assert saved["users"] == {"evaluated": 60, "left_out": 0}
    assert {"jax", "machine", "device"} <= set(saved["versions"])
    assert [entry["method"] for entry in saved["methods"]] == [row.method for row in found.rows]
    assert saved["methods"][0]["metrics"]["map@20"]["low"] > 0
    assert len(saved["methods"][0]["trials"]) == 2
    text = (out / "comparison.md").read_text()
    page = (out / "comparison.html").read_text()
    best = found.rows[0].intervals["ndcg@10"]
    cell = f"{best.mean:.4f} ({best.low:.4f} to {best.high:.4f})"
    assert f"| **{cell}** |" in text
    assert f"<strong>{cell}</strong>" in page
    assert page.count("data:image/svg+xml") == 3
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_a_method_that_needs_a_missing_package_is_left_out(monkeypatch, data):
    from rankpg.baselines import factors

    def missing(name):
        raise ImportError(f"the baseline {name!r} needs the package implicit")

    monkeypatch.setattr(factors, "_models", missing)
    found = compare(data, methods=["popular", "als"], trials=1)
    assert [row.method for row in found.rows] == ["popular"]
    assert any("als is left out" in note and "implicit" in note for note in found.notes)
    with pytest.raises(ConfigError, match=r"no method could be run: als.*implicit"):
        compare(data, methods=["als"], trials=1)


def test_settings_that_do_not_fit_are_a_failed_trial(monkeypatch, data):
    grid = ({"l2": -1.0}, {"l2": 10.0})
    monkeypatch.setitem(METHODS, "ease", dataclasses.replace(METHODS["ease"], grid=grid))
    found = compare(data, methods=["ease"], trials=2)
    assert found.results[0].chosen.settings == {"l2": 10.0}
    assert any("ease: the trial with" in note and "l2=-1.0" in note for note in found.notes)


@pytest.mark.slow
def test_an_interrupted_comparison_continues(spy, data, tmp_path, monkeypatch):
    def interrupted(*arguments, **named):
        raise KeyboardInterrupt

    settings = {"methods": ["popular", "spy"], "trials": 1, "out": tmp_path}
    with monkeypatch.context() as patch:
        patch.setattr(Spy, "tune", interrupted)
        with pytest.raises(KeyboardInterrupt):
            compare(data, **settings)
    said = []
    first = compare(data, **settings, on_progress=said.append)
    assert said[1].startswith("popular: already finished")
    assert len(spy.fitted) == 1
    again = compare(data, **settings)
    assert len(spy.fitted) == 1
    assert again.rows == first.rows
    compare(data, **settings, seeds=(7,))
    assert len(spy.fitted) == 2
    assert compare(data, **settings).rows == first.rows  # other settings replaced nothing
    assert len(spy.fitted) == 2


def test_grids_have_the_same_number_of_settings():
    assert {len(method.grid) for method in METHODS.values()} == {MOST_TRIALS} == {8}
    for method in METHODS.values():
        assert len({repr(sorted(entry.items())) for entry in method.grid}) == 8
    for name in ("softmax", "softmax_masked", "inclusion", "exposure", "policy_gradient"):
        way = METHODS[name].way
        for entry in METHODS[name].grid:  # every entry is a config
            trained.config_of({**way.fixed, **entry}, 1000, (0,))
            if way.start is not None:
                trained.config_of(way._start(entry), 1000, (0,))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"methods": ["eease"]},
            r"methods=\('eease',\); expected one or more of popular, item_knn",
        ),
        ({"methods": "ease"}, r"methods='ease'; expected a list: \['ease'\]"),
        ({"methods": []}, "expected one or more of"),
        ({"trials": 0}, "trials=0; expected a number of settings from 1 to 8"),
        ({"trials": 9}, "trials=9"),
        ({"seeds": ()}, r"seeds=\(\); expected distinct integers"),
        ({"seeds": (1, 1)}, r"seeds=\(1, 1\)"),
        ({"cutoffs": (0, 5)}, r"cutoffs=\(0, 5\); expected distinct numbers"),
        ({"minutes_per_trial": 0.0}, "minutes_per_trial=0.0; expected a number above 0"),
    ],
)
def test_wrong_arguments(data, settings, message):
    with pytest.raises(ConfigError, match=message):
        compare(data, **settings)


def test_wrong_folder(data, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ConfigError, match=r"out=.*cannot be made.*name of a folder"):
        compare(data, methods=["popular"], out=file)


def test_reference_is_the_default_method_of_rankpg():
    assert command._reference(["ease", "softmax", "inclusion"]) == "inclusion"
    assert command._reference(["ease", "softmax"]) == "softmax"
    assert command._reference(["ease"]) is None


# --- what rankpg trains ---------------------------------------------------------------------------


SMALL = {"context_tower": "history", "history_length": 5, "embedding_dim": 8, "batch_size": 64}
TINY = SMALL | {"inclusion_at": (3,), "batch_size": 16}


@pytest.mark.slow
def test_inclusion_is_tuned_and_refitted(few_steps, data, monkeypatch):
    grid = ({**TINY, "learning_rate": 0.05},)
    monkeypatch.setitem(METHODS, "inclusion", dataclasses.replace(METHODS["inclusion"], grid=grid))
    found = compare(data, methods=["popular", "inclusion"], trials=1, seeds=(0,), cutoffs=(5, 100))
    assert found.reference == "inclusion"
    rows = {row.method: row for row in found.rows}
    assert set(rows["popular"].differences) == {"ndcg@5", "recall@100", *found.final[:1]}
    assert rows["inclusion"].mean("recall@100") == 1  # the lists hold the whole catalogue
    assert rows["inclusion"].mean("ndcg@5") > 0
    assert "inclusion" in found.verdict
    schedule = found.results[1].chosen.schedule
    assert 0 < schedule.steps <= schedule.num_steps
    assert not schedule.limited


@pytest.mark.slow
@pytest.mark.long
def test_every_method_of_rankpg_on_a_small_log(data, monkeypatch):
    ours = ("softmax", "softmax_masked", "inclusion", "exposure", "policy_gradient")
    for name in ours:
        known = METHODS[name]
        sizes = {k: v for k, v in SMALL.items() if name != "policy_gradient" or k != "batch_size"}
        grid = tuple({**sizes, "learning_rate": rate} for rate in (0.01, 0.02))
        monkeypatch.setitem(METHODS, name, dataclasses.replace(known, grid=grid))
    monkeypatch.setattr(trained, "LEAST_STEPS", 200)
    found = compare(data, methods=[*CLOSED, *ours], trials=2, seeds=(0, 1))
    rows = {row.method: row for row in found.rows}
    assert set(rows) == {*CLOSED, *ours}
    for name in ours:
        assert rows[name].mean("ndcg@10") > rows["popular"].mean("ndcg@10")
    again = compare(data, methods=["inclusion"], trials=2, seeds=(0, 1))
    (first,) = (result for result in found.results if result.name == "inclusion")
    for metric, values in again.results[0].values.items():
        np.testing.assert_array_equal(values, first.values[metric])


@pytest.mark.parametrize("start", [None, {"objective": "softmax"}])
def test_a_trial_keeps_its_best_step(data, monkeypatch, start):
    """The nDCG on the way is 1, 4, 4, 2 fifths: the first of the best steps counts."""
    stage = tuning_stage(data)
    starts, items = stage.part.relevant
    assert set(np.diff(starts)) == {1}
    shares = iter((0.2, 0.8, 0.8, 0.4))

    class Lists:
        def __init__(self, *arguments):
            pass

        def of(self, index):
            found = np.full((60, 10), -1, np.int32)
            found[:, 0] = np.where(np.arange(60) < 60 * next(shares), items, -1)
            return found

    def sized(config, data, seconds):
        assert seconds == (60 if start is None else 30)
        return dataclasses.replace(config, num_steps=40), start is not None

    monkeypatch.setattr(trained, "Lists", Lists)
    monkeypatch.setattr(trained, "_sized", sized)
    monkeypatch.setattr(trained, "_begun", lambda config, data, first: config)
    monkeypatch.setattr(trained, "_trained", lambda config, data, steps: config)
    monkeypatch.setattr(trained, "_training", lambda run, stops: iter((10, 20, 30, 40)))
    tuned = trained.tune_config(stage, {"objective": "softmax"}, 0, 10, 60.0, start)
    assert tuned.score == pytest.approx(0.8)
    assert tuned.schedule == Schedule(20, 40, 0 if start is None else 40, start is not None)


def test_time_limits_the_number_of_steps(data, monkeypatch):
    stage = tuning_stage(data)
    config = trained.config_of({"objective": "softmax", **SMALL}, stage.eligible, (0,))
    monkeypatch.setattr(trained, "LEAST_STEPS", 1000)
    monkeypatch.setattr(trained, "_seconds_of_step", lambda config, data: 0.1)
    sized, limited = trained._sized(config, stage.data, 60.0)
    assert limited
    assert 0.85 * 480 <= sized.num_steps <= 480  # 0.8 x 60 s / 0.1 s, rounded down
    sized, limited = trained._sized(config, stage.data, 6000.0)
    assert (sized.num_steps, limited) == (1000, False)
    sized, limited = trained._sized(config, stage.data, 1e-3)
    assert (sized.num_steps, limited) == (20, True)


def test_evaluated_steps_have_one_distance():
    for wanted in (*range(1, 130), 549, 1000, 12345):
        steps = trained._even(wanted)
        stops = trained._stops(steps)
        assert stops[-1] == steps <= wanted
        assert steps > 0.9 * wanted - 1 or wanted > 500
        every = set(np.diff([0, *stops]).tolist())
        assert len(every) == 1
        (every,) = every
        assert every <= 50 or every % 50 == 0
        assert trained._even(steps) == steps
    assert trained._stops(30, at_start=True)[0] == 0
