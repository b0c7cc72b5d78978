"""The verdict on made-up numbers, one test for each branch, and the rows behind it."""

from __future__ import annotations

import numpy as np
import pytest

from rankpg.compare.results import Result, Trial
from rankpg.compare.verdict import Row, best_of, rows_of, verdict
from rankpg.evaluation.intervals import Difference, Interval, paired_difference

METRICS = ("ndcg@10", "recall@100")


def row(name, ndcg, recall, gaps=None):
    """A row; gaps hold (low, high) of the difference to inclusion in both metrics."""
    intervals = {
        m: Interval(v, v - 0.01, v + 0.01) for m, v in zip(METRICS, (ndcg, recall), strict=True)
    }
    differences = {
        m: Difference((low + high) / 2, low, high, 0.5)
        for m, (low, high) in zip(METRICS, gaps or (), strict=False)
    }
    return Row(name, intervals, differences)


def test_use_ours_where_both_intervals_exclude_zero():
    rows = [row("inclusion", 0.2, 0.5), row("ease", 0.1, 0.4, [(-0.12, -0.08), (-0.11, -0.09)])]
    said = verdict(rows, "inclusion", METRICS)
    assert said.startswith(
        "inclusion is best in ndcg@10 (0.2000) and recall@100 (0.5000). Use inclusion:"
    )
    assert (
        "0.1000 above ease, the best other method, in ndcg@10 (95 % interval 0.0800 to 0.1200)"
        in said
    )


def test_use_ease_where_it_is_above():
    rows = [row("inclusion", 0.1, 0.4), row("ease", 0.2, 0.5, [(0.08, 0.12), (0.09, 0.11)])]
    said = verdict(rows, "inclusion", METRICS)
    assert said.startswith("ease is best in ndcg@10 (0.2000) and recall@100 (0.5000). Use ease:")
    assert "inclusion is 0.1000 below it in ndcg@10 (95 % interval 0.0800 to 0.1200)" in said


@pytest.mark.parametrize("best", ["inclusion", "ease"])
def test_use_ease_where_the_interval_has_zero(best):
    """A lead that may be chance is not a reason to take ours."""
    shift = 0.01 if best == "inclusion" else -0.01
    gap = (-0.03 - shift, 0.03 - shift)
    rows = [row("inclusion", 0.1 + shift, 0.4 + shift), row("ease", 0.1, 0.4, [gap, gap])]
    said = verdict(rows, "inclusion", METRICS)
    assert said.startswith(f"{best} is best in ndcg@10")
    assert "Use ease: inclusion is not above it in ndcg@10 by more than chance allows" in said


def test_an_end_at_zero_is_not_above():
    rows = [row("inclusion", 0.1, 0.4), row("ease", 0.09, 0.3, [(-0.02, 0.0), (-0.02, 0.0)])]
    assert "Use ease:" in verdict(rows, "inclusion", METRICS)


def test_metrics_may_disagree():
    rows = [row("inclusion", 0.1, 0.5), row("ease", 0.2, 0.4, [(0.08, 0.12), (-0.11, -0.09)])]
    said = verdict(rows, "inclusion", METRICS)
    assert "ease is best in ndcg@10 (0.2000), and inclusion is best in recall@100 (0.5000)." in said
    assert "Use ease for ndcg@10: " in said
    assert "; use inclusion for recall@100: it is 0.1000 above ease" in said
    assert said.count(". ") == 1  # two sentences


def test_the_best_other_may_differ_by_metric():
    none = [(-0.12, -0.08), (-0.12, -0.08)]
    rows = [row("inclusion", 0.2, 0.5), row("ease", 0.1, 0.3, none), row("als", 0.05, 0.4, none)]
    said = verdict(rows, "inclusion", METRICS)
    assert "above ease, the best other method, in ndcg@10" in said
    assert "above als, the best other method, in recall@100" in said


def test_without_ours_or_without_others():
    assert verdict([row("ease", 0.2, 0.4)], None, METRICS) == (
        "ease is best in ndcg@10 (0.2000) and recall@100 (0.4000)."
    )
    alone = verdict([row("inclusion", 0.2, 0.4)], "inclusion", METRICS)
    assert alone.startswith("inclusion is best")
    assert "Use" not in alone
    with pytest.raises(ValueError, match="at least one method"):
        verdict([], None, METRICS)


def test_rows_are_sorted_and_differences_paired():
    draw = np.random.default_rng(0)
    values = {name: {m: draw.random((seeds, 30)) for m in METRICS} for name, seeds in
              (("popular", 1), ("inclusion", 3))}  # fmt: skip
    values["popular"]["ndcg@10"] += 1
    results = [
        Result(n, (Trial({}, 0.1, seconds=2.0), Trial({}, 0.3, seconds=3.0)), v, {}, 7.0)
        for n, v in values.items()
    ]
    rows = rows_of(results, "inclusion", METRICS)
    assert [found.method for found in rows] == ["popular", "inclusion"]
    first, last = rows
    assert not last.differences
    for m in METRICS:
        wanted = paired_difference(values["popular"][m], values["inclusion"][m].mean(axis=0))
        assert first.differences[m] == wanted
        assert last.mean(m) == pytest.approx(values["inclusion"][m].mean())
    assert (first.trials, first.tuning_seconds, first.fit_seconds) == (2, 5.0, 7.0)
    assert best_of(rows, "ndcg@10").method == "popular"
    assert rows_of(results, None, METRICS)[0].differences == {}
