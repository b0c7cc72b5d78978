"""The final list of a comparison: losses by loops, its choice of trials, and a run as one more row."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

import rankpg
from rankpg import ConfigError
from rankpg.cli.main import main
from rankpg.compare import METHODS, compare, final_list, trained
from rankpg.compare.final_list import RERANKER_WEIGHTS, FinalList, final_lists
from rankpg.compare.methods import Method
from rankpg.compare.of_run import THIS_RUN, data_of_run
from rankpg.compare.results import Schedule, Tuned
from rankpg.compare.stages import final_stage, tuning_stage
from rankpg.environments import from_interactions
from rankpg.training import lambdamart

pytest.importorskip("lightgbm")

ENABLE_X64 = False
pytestmark = pytest.mark.usefixtures("as_a_user")

SMALL = {
    "objective": "inclusion", "inclusion_at": (3,), "context_tower": "history", "num_candidates": 10,
    "embedding_dim": 8, "batch_size": 16, "num_steps": 2, "eval_every": 2, "seeds": (0, 1),
}  # fmt: skip


@pytest.fixture(autouse=True)
def small_leaves(monkeypatch):
    """The default, 200 rows in a leaf, is too many for this log."""
    monkeypatch.setitem(lambdamart._OPTIONS, "min_data_in_leaf", 5)


@pytest.fixture
def stage(data):
    stage = final_stage(data)
    return dataclasses.replace(stage, final=FinalList.of(stage.data, stage.part, 7))


def shuffled(stage, depth):
    """Lists of unseen items at random; those of the first two users end early."""
    draw, lists = np.random.default_rng(2), []
    for user in stage.part.users:
        unseen = np.setdiff1d(np.arange(40), stage.seen[[user]].indices)
        lists.append(draw.permutation(unseen)[:depth])
    lists = np.array(lists, np.int32)
    lists[:2, 3:] = -1
    return lists


@pytest.mark.parametrize("weight", [1.0, 0.4, 0.0])
def test_losses_by_loops(stage, weight):
    """The first 7 of 12 are sorted by the ranks of both stages, the re-ranker's before the test part."""
    final, lists = stage.final, shuffled(stage, 12)
    found = final.metrics(lists, stage.part, 5, weight)
    moments = stage.data.parts.test()
    scores = final.fitted.scores(stage.data, moments.history_ends)
    starts, later = stage.part.relevant
    discount = 1 / np.log2(2 + np.arange(40))
    for row, user in enumerate(stage.part.users):
        wanted = set(later[starts[row] : starts[row + 1]].tolist())
        candidates = [a for a in lists[row][:7].tolist() if a >= 0]
        by_score = sorted(candidates, key=lambda a, u=user: -scores[u, a])
        fused = {
            a: weight / (60 + by_score.index(a)) + (1 - weight) / (60 + candidates.index(a))
            for a in candidates
        }
        shown = sorted(candidates, key=lambda a, f=fused: -f[a])[:5]
        gain = sum(discount[place] for place, a in enumerate(shown) if a in wanted)
        ideal = discount[: min(5, len(wanted))].sum()
        best = discount[: len(wanted & set(candidates))].sum()
        assert found["final_ndcg@5"][row] == pytest.approx(gain / ideal)
        assert found["retriever_loss@5"][row] == pytest.approx(1 - best / ideal)
        assert found["reranker_loss@5"][row] == pytest.approx((best - gain) / ideal)
    assert len({round(x, 6) for x in found["retriever_loss@5"]}) > 1
    np.testing.assert_allclose(sum(found.values()), 1)


def test_best_weight_is_that_of_the_largest_mean(stage):
    means = []
    for lists in (shuffled(stage, 12), stage.final._fused(shuffled(stage, 12), 1.0)):
        by_weight = {
            weight: stage.final.metrics(lists, stage.part, 5, weight)["final_ndcg@5"].mean()
            for weight in RERANKER_WEIGHTS
        }
        mean, weight = stage.final.best(lists, stage.part, 5)
        assert mean == pytest.approx(max(by_weight.values()))
        assert by_weight[weight] == max(by_weight.values())
        means.append(weight)
    assert means[1] == 1.0  # all orders are alike: the larger weight


def test_scores_that_are_equal_keep_the_order_of_the_method(stage):
    lists = shuffled(stage, 7)
    equal = np.zeros_like(stage.final.scores)
    tied = dataclasses.replace(stage.final, scores=equal)
    found = tied.metrics(lists, stage.part, 5)["final_ndcg@5"]
    np.testing.assert_allclose(found, stage.metrics(lists, (5,))["ndcg@5"])


def test_reranker_of_the_tuning_has_no_test_row(data):
    """Other items in the test part change neither the model of the tuning nor its features."""
    world, parts = data.environment, data.parts
    sequence = np.asarray(world.sequence).copy()
    users = np.repeat(np.arange(world.num_users), np.diff(world.row_starts))
    place = np.arange(len(users)) - np.asarray(world.row_starts)[users]
    late = place >= parts.validation_ends[users]
    before = {"user": users, "item": sequence, "timestamp": place}
    changed = sequence.copy()
    for user in range(world.num_users):
        own = late & (users == user)
        changed[own] = np.setdiff1d(np.arange(40), sequence[users == user])[: own.sum()]
    other = before | {"item": changed}
    both = []
    for table in (before, other):
        stage = tuning_stage(from_interactions(table, validation_share=0.1))
        both.append(FinalList.of(stage.data, stage.part, stage.eligible))
    one, two = both
    assert one.fitted.booster.model_to_string() == two.fitted.booster.model_to_string()
    np.testing.assert_array_equal(one.features, two.features)


class Scripted:
    """A way whose entries have a score of each kind; its lists start with the test item in the fit."""

    def __init__(self):
        self.fits = []

    def __repr__(self):
        return "Scripted()"

    def tune(self, stage, settings, *, seed, cutoff, seconds):
        steps = Schedule(steps=settings["steps"], num_steps=9)
        final = settings["final"], settings["final_steps"], settings["final"] / 2
        return Tuned(settings["own"], steps, *final)

    def lists(self, stage, settings, schedules, *, seeds, depth, deadline=None):
        self.fits.append((settings["own"], [schedule.steps for schedule in schedules]))
        found = []
        for schedule in schedules:
            lists = np.full((len(stage.part.users), depth), -1, np.int32)
            if schedule.steps == 7:  # the step of the best final list
                lists[:, 0] = stage.part.relevant[1][stage.part.relevant[0][:-1]]
            else:
                lists[:, 0] = np.argmin(stage.seen.toarray(), axis=1)
            found.append([lists for _ in seeds])
        return found


@pytest.mark.parametrize("same", [True, False])
def test_final_list_has_a_choice_of_its_own(data, monkeypatch, same):
    way = Scripted()
    grid = tuple(
        {"own": own, "steps": 5, "final": final, "final_steps": 7}
        for own, final in ((0.1, 0.1), (0.3, 0.5 if same else 0.2), (0.2, 0.4))
    )
    monkeypatch.setitem(METHODS, "scripted", Method("scripted", grid, way))
    found = compare(data, methods=["scripted"], trials=3, seeds=(0,))
    assert way.fits == ([(0.3, [5, 7])] if same else [(0.3, [5]), (0.2, [7])])
    (row,) = found.rows
    best = 1 / (1 + 1 / np.log2(3))  # one of two test items, at the first place
    assert row.mean("final_ndcg@10") == pytest.approx(best)
    assert row.mean("ndcg@10") < best
    weight = 0.25 if same else 0.2
    assert any(note.endswith(f"to 1: scripted {weight}.") for note in found.notes)


def test_outputs_have_the_final_list(data, tmp_path):
    found = compare(data, methods=["popular", "item_knn", "ease"], trials=1, out=tmp_path)
    assert found.final == ("final_ndcg@10", "retriever_loss@10", "reranker_loss@10")
    for row in found.rows:
        assert sum(row.mean(name) for name in found.final) == pytest.approx(1)
    best = max(found.rows, key=lambda row: row.mean("final_ndcg@10"))
    sentence = f"Behind the re-ranker, {best.method} has the best final list"
    assert sentence in found.verdict
    text, page = ((tmp_path / f"comparison.{kind}").read_text() for kind in ("md", "html"))
    assert "| method | final_ndcg@10 | retriever_loss@10 | reranker_loss@10 |" in text
    assert "retriever_loss@10" in page
    assert sentence in page
    saved = json.loads((tmp_path / "comparison.json").read_text())
    assert saved["final"] == list(found.final)
    assert saved["methods"][0]["metrics"]["final_ndcg@10"]["mean"] > 0
    assert any("that of one LambdaMART for all methods" in note for note in found.notes)
    again = compare(data, methods=["popular", "item_knn", "ease"], trials=1, out=tmp_path)
    assert again.rows == found.rows
    none = compare(data, methods=["popular"], trials=1, reranker="none", out=tmp_path)
    assert none.final == ()
    assert "final_ndcg@10" not in none.results[0].values


def test_reasons_for_a_comparison_without_reranker(data, monkeypatch):
    found = compare(data, methods=["popular", "exposure"], trials=1, reranker="none")
    assert [row.method for row in found.rows] == ["popular"]
    assert any("exposure is left out" in n and "reranker='lightgbm'" in n for n in found.notes)
    with pytest.raises(ConfigError, match="reranker='gbm'; expected one of lightgbm, none"):
        compare(data, methods=["popular"], trials=1, reranker="gbm")
    stages = tuple((s.data, s.part, 9) for s in (tuning_stage(data), final_stage(data)))
    monkeypatch.setattr(final_list, "_LARGEST_UNASKED", 1000)
    lists, said = final_lists(None, stages)
    assert lists is None
    assert "60 users x 40 items are 67,200 bytes" in said
    assert "reranker='lightgbm' to compute it in any case" in said
    monkeypatch.setattr(final_list, "_LARGEST", 1000)
    with pytest.raises(ConfigError, match=r"at most 1,000 are allowed.*min_per_user=5"):
        final_lists("lightgbm", stages)
    monkeypatch.undo()
    monkeypatch.setattr(final_list.importlib.util, "find_spec", lambda name: None)
    assert "LightGBM is not installed: pip install" in final_lists(None, stages)[1]


@pytest.mark.slow
def test_exposure_is_tuned_through_the_order_of_the_stage(few_steps, data, monkeypatch):
    grid = ({k: v for k, v in SMALL.items() if k in ("inclusion_at", "context_tower", "embedding_dim",
             "batch_size")} | {"learning_rate": 0.05},)  # fmt: skip
    monkeypatch.setitem(METHODS, "exposure", dataclasses.replace(METHODS["exposure"], grid=grid))
    trained_on = []
    begun = trained._begun

    def spy(config, given, first=None):
        trained_on.append(given)
        return begun(config, given, first)

    monkeypatch.setattr(trained, "_begun", spy)
    found = compare(data, methods=["popular", "exposure"], trials=1, seeds=(0,), cutoffs=(5, 20))
    assert found.reference == "exposure"
    assert "final_ndcg@5" in next(r for r in found.rows if r.method == "popular").differences
    tuning, final = trained_on
    assert tuning.parts.train_ends.tolist() == data.parts.train_ends.tolist()
    assert final.parts.train_ends.tolist() == data.parts.validation_ends.tolist()
    for given in trained_on:
        ends = given.parts.forward(0.25).history_ends
        np.testing.assert_array_equal(given.environment.training_ends, ends)


# --- a run ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.1, 0.0])
def test_run_is_one_more_row(columns, share, tmp_path, capsys):
    data = from_interactions(columns, validation_share=share)
    out = tmp_path / "run"
    run = rankpg.train(rankpg.TrainConfig(**SMALL), data, out=out)
    found = compare(run, methods=["popular", "item_knn"], trials=1, cutoffs=(10, 20))
    assert found.reference == THIS_RUN
    rows = {row.method: row for row in found.rows}
    assert set(rows) == {THIS_RUN, "popular", "item_knn"}
    for name, metric in (("ndcg@10", "ndcg@10"), ("recall@20", "recall@20")):
        means = [row[metric] for row in run.last_rows]
        assert rows[THIS_RUN].mean(name) == pytest.approx(np.mean(means))
    assert set(rows["popular"].differences) == {"ndcg@10", "recall@20", "final_ndcg@10"}
    assert f"{THIS_RUN} " in found.verdict
    said = " ".join(found.notes)
    assert ("was trained without the validation part" in said) == (share > 0)
    assert ("has no validation part" in said) == (share == 0)
    seen = data_of_run(run)[0].parts
    assert (seen.train_ends < data.parts.train_ends).all() == (share == 0)
    assert (seen.validation_ends == data.parts.validation_ends).all()
    if share:
        words = ["compare", "--run", str(out), "--methods", "popular", "--trials", "1"]
        assert main([*words, "--cutoffs", "10", "20", "--reranker", "none"]) == 0
        assert f"| {THIS_RUN} |" in capsys.readouterr().out
        assert main([*words, "--path", "log.csv"]) == 2
        assert "--path has no effect with --run" in capsys.readouterr().err


def test_run_on_other_data_is_refused():
    run = rankpg.runs.run.prepare(rankpg.TrainConfig(num_candidates=3, seeds=(0,)))
    with pytest.raises(
        ConfigError, match=r"the run is on a Synthetic; expected a run on interactions"
    ):
        compare(run, methods=["popular"])
