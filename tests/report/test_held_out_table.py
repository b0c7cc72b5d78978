"""The table of held-out interactions on the page of a report."""

from __future__ import annotations

from rankpg import TrainConfig
from rankpg.report.records import ReportedRun
from rankpg.report.sections import summary


def reported(name, rows):
    config = TrainConfig(objective="softmax", num_candidates=4).resolve()
    return ReportedRun(name=name, source="in memory", index=0, config=config, metrics=rows)


def row(seed, **metrics):
    return {"step": 5, "seed": seed, "policy_value": 1.0, **metrics}


def test_runs_of_a_log_have_a_table_of_what_is_held_out():
    metrics = {"recall@20": 0.25, "recall@100": 0.5, "ndcg@10": 0.125, "final_ndcg@10": 0.75}
    of_log = reported(
        "log", [row(seed, **metrics, **{"validation_ndcg@10": 0.5}) for seed in (0, 1)]
    )
    other = reported("matrix", [row(0)])
    tables = summary([of_log, other], []).tables
    assert len(tables) == 2
    names = ("recall@20", "recall@100", "ndcg@10", "final_ndcg@10", "validation_ndcg@10")
    assert tables[1].head == ("run", "objective", *names)
    assert tables[1].rows == [("log", "softmax", "0.25", "0.5", "0.125", "0.75", "0.5")]


def test_runs_without_a_log_have_none():
    assert len(summary([reported("matrix", [row(0)])], []).tables) == 1
