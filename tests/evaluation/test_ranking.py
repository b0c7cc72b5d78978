"""Held-out metrics against loops in plain Python and against ir-measures, which runs trec_eval."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

from rankpg.evaluation import ranking
from rankpg.evaluation.ranking import METRICS, catalogue_metrics, ranking_metrics

ENABLE_X64 = False
CUTOFFS = (1, 3, 7)
GAIN = {"linear": lambda v: v, "exponential": lambda v: 2**v - 1}


def random_rows(seed, *, num_rows=40, depth=9, num_items=25):
    """Lists of 0 to `depth` items, and {item: grade} for every row, empty for some rows."""
    rng = np.random.default_rng(seed)
    lists = np.full((num_rows, depth), -1, np.int32)
    relevant = []
    for row in range(num_rows):
        length = rng.integers(depth + 1) if rng.random() < 0.5 else depth
        lists[row, :length] = rng.choice(num_items, length, replace=False)
        chosen = rng.choice(num_items, rng.integers(13), replace=False)
        relevant.append({int(item): int(rng.integers(1, 5)) for item in chosen})
    return lists, relevant


def compressed(relevant):
    """(row_starts, items) and the grades of a list of {item: grade}."""
    items = np.array([item for row in relevant for item in row], np.int64)
    grades = np.array([grade for row in relevant for grade in row.values()], float)
    return (np.cumsum([0, *map(len, relevant)]), items), grades


def slow_metrics(row, relevant, k, gain):
    """All metrics of one row by their definitions."""
    if not relevant:
        return dict.fromkeys(METRICS, math.nan)
    shown = [int(item) for item in row[:k] if item >= 0]
    hits = [item in relevant for item in shown]
    gains = [gain(relevant[item]) if item in relevant else 0 for item in shown]
    best = sorted(map(gain, relevant.values()), reverse=True)[:k]
    precisions = [sum(hits[: j + 1]) / (j + 1) for j in range(len(hits)) if hits[j]]
    return {
        "recall": sum(hits) / len(relevant),
        "precision": sum(hits) / k,
        "hit_rate": float(any(hits)),
        "ndcg": dcg(gains) / dcg(best),
        "mrr": next((1 / (j + 1) for j, hit in enumerate(hits) if hit), 0.0),
        "map": sum(precisions) / len(relevant),
    }


def dcg(gains):
    return sum(gain / math.log2(j + 2) for j, gain in enumerate(gains))


@pytest.mark.parametrize("gain", list(GAIN))
@pytest.mark.parametrize("seed", range(3))
def test_metrics_match_their_definitions(seed, gain, monkeypatch):
    monkeypatch.setattr(ranking, "_CELLS", 60)  # several blocks, the last one shorter
    lists, relevant = random_rows(seed)
    known, grades = compressed(relevant)
    metrics = ranking_metrics(lists, known, at=CUTOFFS, grades=grades, gain=gain)
    assert set(metrics) == {f"{name}@{k}" for name in METRICS for k in CUTOFFS}
    for k in CUTOFFS:
        expected = [
            slow_metrics(row, rel, k, GAIN[gain]) for row, rel in zip(lists, relevant, strict=True)
        ]
        for name in METRICS:
            values = np.array([row[name] for row in expected])
            np.testing.assert_allclose(metrics[f"{name}@{k}"], values, rtol=1e-12, atol=0)


@pytest.mark.parametrize("seed", range(3))
def test_metrics_match_ir_measures(seed):
    reference = pytest.importorskip("ir_measures")
    lists, relevant = random_rows(seed)
    known, grades = compressed(relevant)
    metrics = ranking_metrics(lists, known, at=CUTOFFS, grades=grades)
    relevance = [
        reference.Qrel(str(row), str(item), grade)
        for row, rel in enumerate(relevant)
        for item, grade in rel.items()
    ]
    run = [  # trec_eval breaks ties by name, so the scores differ
        reference.ScoredDoc(str(row), str(item), 1000.0 - position)
        for row, items in enumerate(lists)
        for position, item in enumerate(items)
        if item >= 0
    ]
    names = {"recall": "R", "precision": "P", "hit_rate": "Success", "ndcg": "nDCG"}
    names |= {"mrr": "RR", "map": "AP"}
    measures = {
        reference.parse_measure(f"{names[name]}@{k}"): f"{name}@{k}"
        for name in METRICS
        for k in CUTOFFS
    }
    compared = {name: np.full(len(lists), np.nan) for name in metrics}
    for result in reference.iter_calc(list(measures), relevance, run):
        compared[measures[result.measure]][int(result.query_id)] = result.value
    for name, values in compared.items():
        np.testing.assert_allclose(metrics[name], values, rtol=0, atol=1e-9, err_msg=name)
    assert np.isnan(metrics["map@3"]).any()
    assert any(rel and max(row) < 0 for row, rel in zip(lists, relevant, strict=True))


def test_perfect_lists_have_ndcg_one():
    lists = np.arange(12).reshape(2, 6)
    known, grades = (np.array([0, 3, 4]), np.array([2, 0, 1, 6])), np.array([1.5, 4.0, 1.5, 0.25])
    metrics = ranking_metrics(lists, known, at=[1, 6], grades=grades, gain="exponential")
    assert metrics["ndcg@1"].tolist() == metrics["ndcg@6"].tolist() == [1, 1]
    assert metrics["recall@1"].tolist() == [1 / 3, 1]
    assert metrics["precision@6"].tolist() == [3 / 6, 1 / 6]


def test_one_relevant_item_makes_metrics_of_its_position():
    lists = np.array([[3, 1, 2], [3, 1, 2], [3, 1, 2], [3, 1, 2]])
    metrics = ranking_metrics(lists, (np.arange(5), np.array([3, 1, 2, 0])), at=[2])
    assert metrics["hit_rate@2"].tolist() == metrics["recall@2"].tolist() == [1, 1, 0, 0]
    assert metrics["mrr@2"].tolist() == metrics["map@2"].tolist() == [1, 0.5, 0, 0]
    assert metrics["ndcg@2"].tolist() == [1, 1 / math.log2(3), 0, 0]


def test_rows_without_relevant_items_are_nan():
    metrics = ranking_metrics(
        np.array([[0, 1], [1, 0]]), (np.zeros(3, int), np.zeros(0, int)), at=[2]
    )
    assert all(np.isnan(values).all() for values in metrics.values())


def test_end_of_a_list_is_not_an_item():
    """The number of -1 in a row is that of the largest item in the row before."""
    lists = np.array([[1, 2], [3, -1]])
    largest = np.iinfo(np.int32).max
    metrics = ranking_metrics(lists, (np.array([0, 1, 2]), np.array([largest, 5])), at=[2])
    assert metrics["recall@2"].tolist() == [0, 0]
    lists[0, 1] = largest
    metrics = ranking_metrics(lists, (np.array([0, 1, 2]), np.array([largest, 5])), at=[2])
    assert metrics["recall@2"].tolist() == [1, 0]


def test_memory_does_not_grow_with_the_catalogue():
    lists = np.arange(2000)[:, None] * 1_000_000 + np.arange(20)  # items up to 2 * 10^9
    tracemalloc.start()
    metrics = ranking_metrics(lists, (np.arange(2001), lists[:, 4].copy()), at=[20])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (metrics["mrr@20"] == 1 / 5).all()
    assert peak < 20e6


KNOWN = np.array([0, 1, 2]), np.array([4, 5])


@pytest.mark.parametrize(
    ("lists", "known", "options", "words"),
    [
        ([[1, 2, 3], [3, 5, 3]], KNOWN, {}, "lists holds item 3 twice in row 1"),
        ([[1, 2, 3], [3, -1, 5]], KNOWN, {}, "lists holds 5 in row 1, position 2.*after the last"),
        ([[1, 2, 3], [3, 5, -2]], KNOWN, {}, "lists holds -2 in row 1, position 2"),
        ([[1, 2, 3], [3, 5, 2**31]], KNOWN, {}, "lists holds 2147483648 in row 1"),
        ([[1, 2, 3], [3, 5, 7]], KNOWN, {"at": [4]}, "at holds 4, but lists has 3 positions"),
        ([[1, 2, 3], [3, 5, 7]], KNOWN, {"at": [0]}, "at holds 0; expected whole numbers"),
        ([[1, 2, 3], [3, 5, 7]], KNOWN, {"at": []}, "at is empty"),
        ([[1, 2, 3]], KNOWN, {}, r"relevant has row_starts int64\[3\].*expected integers \[2\]"),
        ([[1, 2, 3]], ([0, 1], [4, 5]), {}, "row_starts from 0 to 1.*to the 2 items"),
        ([[1, 2, 3]] * 2, ([0, 3, 2], [4, 5]), {}, "expected numbers that ascend"),
        ([[1, 2, 3]] * 2, ([0, 1, 3], [4, 5, 5]), {}, "relevant holds item 5 twice in row 1"),
        ([[1, 2, 3]] * 2, ([0, 1, 2], [4, -1]), {}, "relevant holds item -1 in row 1"),
        ([[1, 2, 3]] * 2, KNOWN, {"grades": [1.0]}, r"grades has shape \(1,\); expected \[2\]"),
        ([[1, 2, 3]] * 2, KNOWN, {"grades": [1, 0]}, "grades holds 0.0 in row 1.*above 0"),
        ([[1, 2, 3]] * 2, KNOWN, {"grades": [1, np.nan]}, "grades holds nan in row 1"),
        ([[1, 2, 3]] * 2, KNOWN, {"grades": [1, 2e3], "gain": "exponential"}, "holds 2000.0 in row 1"),
        ([[1, 2, 3]] * 2, KNOWN, {"gain": "log"}, "gain='log' is unknown; expected one of linear"),
        (np.zeros((0, 3), int), KNOWN, {}, r"lists is int64\[0, 3\]; expected integers \[n, depth\]"),
    ],
)  # fmt: skip
def test_error_names_the_row(lists, known, options, words, monkeypatch):
    monkeypatch.setattr(ranking, "_CELLS", 3)  # one row a block
    options = {"at": [2], **options}
    if "grades" in options:
        options["grades"] = np.array(options["grades"], float)
    with pytest.raises(ValueError, match=words):
        ranking_metrics(np.array(lists), (np.array(known[0]), np.array(known[1])), **options)


@pytest.mark.parametrize("seed", range(3))
def test_catalogue_metrics_match_their_definitions(seed, monkeypatch):
    monkeypatch.setattr(ranking, "_CELLS", 60)
    lists, _ = random_rows(seed)
    popularity = np.random.default_rng(seed).integers(0, 6, 25)
    assert (popularity == 0).any()
    metrics = catalogue_metrics(lists, 25, popularity, num_users=6, at=CUTOFFS)
    assert list(metrics) == [
        f"{name}@{k}" for k in CUTOFFS for name in ("coverage", "gini", "novelty")
    ]
    for k in CUTOFFS:
        shown = [[int(item) for item in row[:k] if item >= 0] for row in lists]
        exposure = [sum(item in row for row in shown) for item in range(25)]
        pairs = sum(abs(a - b) for a in exposure for b in exposure)
        news = [[-math.log2(max(1, popularity[item]) / 6) for item in row] for row in shown if row]
        assert metrics[f"coverage@{k}"] == sum(x > 0 for x in exposure) / 25
        assert metrics[f"gini@{k}"] == pytest.approx(pairs / (2 * 25 * sum(exposure)), rel=1e-12)
        expected = sum(sum(row) / len(row) for row in news) / len(news)
        assert metrics[f"novelty@{k}"] == pytest.approx(expected, rel=1e-12)


def test_equal_exposure_has_gini_zero():
    lists = np.array([[0, 1], [2, 3]])
    metrics = catalogue_metrics(lists, 4, np.array([5, 5, 5, 5]), num_users=5, at=[1, 2])
    assert metrics == {
        "coverage@1": 0.5, "gini@1": 0.5, "novelty@1": 0,
        "coverage@2": 1, "gini@2": 0, "novelty@2": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("lists", "popularity", "words"),
    [
        ([[0, 3]], [1, 1, 1], "lists holds 3 in row 0, position 1.*expected items 0 to 2"),
        ([[-1, -1]], [1, 1, 1], "lists has no items"),
        ([[0, 1]], [1, 1], r"popularity is int64\[2\]; expected integers \[3\]"),
        ([[0, 1]], [1, 1, 9], "popularity holds 9 for item 2; expected 0 to num_users=4"),
        ([[0, 1]], [1, -1, 2], "popularity holds -1 for item 1"),
    ],
)
def test_unusable_catalogue_is_rejected(lists, popularity, words):
    with pytest.raises(ValueError, match=words):
        catalogue_metrics(np.array(lists), 3, np.array(popularity), num_users=4, at=[1])
    with pytest.raises(ValueError, match="num_users=0"):
        catalogue_metrics(np.array([[0]]), 3, np.array([0, 0, 0]), num_users=0, at=[1])
