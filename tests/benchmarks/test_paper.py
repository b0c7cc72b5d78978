"""The paper's tables and figures: their trials, published values, measurements and reports."""

from __future__ import annotations

import json
import re

import jax
import numpy as np
import pytest

from benchmarks import cli
from benchmarks.cli import main
from benchmarks.paper import greedy_error, published, speed, tables, trials
from benchmarks.paper.command import NAMES, reproduce
from benchmarks.paper.learning_speed import learning_speed, steps_to_reach
from benchmarks.paper.trials import SCALES, TRAINED, table_trials, trial_name
from benchmarks.speed.constant import ConstantRewards
from benchmarks.sweeps.files import read_json
from benchmarks.sweeps.trials import unique_trials
from benchmarks.timing import training_call
from rankpg import TrainConfig
from rankpg.errors import ConfigError

ENABLE_X64 = False

pytestmark = pytest.mark.usefixtures("as_a_user")


@pytest.mark.parametrize("scale", SCALES)
def test_equal_names_have_equal_configs(scale):
    """Names are unique within a table, and one name is one config across tables."""
    configs: dict[str, TrainConfig] = {}
    for table in TRAINED:
        found = table_trials(table, scale)
        assert len({trial.name for trial in found}) == len(found) > 0
        for trial in found:
            assert trial.name == trial_name(trial.config)
            assert configs.setdefault(trial.name, trial.config) == trial.config
    assert len({str(config.resolve()) for config in configs.values()}) == len(configs)


@pytest.mark.parametrize("scale", ["laptop", "full"])
@pytest.mark.parametrize(
    ("table", "figures", "columns"),
    [
        ("table2", published.TABLE2, published.TABLE2_COLUMNS),
        ("table3", published.TABLE3, published.TABLE3_COLUMNS),
        ("table4", published.TABLE4, published.TABLE4_COLUMNS),
        ("table6", published.TABLE6, published.TABLE6_COLUMNS),
    ],
)
def test_every_published_value_has_one_trial(scale, table, figures, columns):
    """The published values of the paper's own estimators are those of the table, each once."""
    assert all(len(values) == len(columns) for values in figures.values())
    beside = [r.published for r in table_trials(table, scale) if r.config.estimator != "ca_pg_swr"]
    of_the_paper = [value for values in figures.values() for value in values]
    assert sorted(map(str, beside)) == sorted(map(str, of_the_paper))


def test_trials_have_the_paper_s_settings():
    by_name = {r.name: r for table in TRAINED for r in table_trials(table, "laptop")}
    rates = {
        "paper-K10-ca_pg": 1e-2, "paper-K10-noisy-ca_pg": 2e-2, "paper-K10-uniform-top1_pg": 1e-1,
        "paper-K10-anti-ca_pg_swr": 1e-2, "paper-K10-uniform-v_pg": 1e-1, "paper-K5-v_pg_swr": 1e-1,
    }  # fmt: skip
    for name, rate in rates.items():
        assert by_name[name].config.learning_rate == rate
    for row in by_name.values():
        resolved = row.config.resolve()
        assert (resolved.optimizer, resolved.init_scale) == ("adagrad", 1.0)
        assert (resolved.adaptive_learning_rate, resolved.batch_size) == (False, 128)
    experts = by_name["paper-K200-M5-group8-top1_pg"].config
    assert (experts.num_experts, experts.draws_per_context) == (5, 8)
    assert experts.advantage == "group"
    assert by_name["paper-K10-L5-M5-v_pg"].config.ranking_length == 5


def test_longest_trials_come_first():
    order = unique_trials(row for table in TRAINED for row in table_trials(table, "laptop"))
    long = [row.config.num_steps == 50_000 for row in order]
    assert sum(long) == 18  # 3 estimators x 6 columns of Table 2
    assert all(long[:18])
    assert {row.name for row in order[:3]} == {
        "paper-K10-v_pg_swr", "paper-K10-ca_pg", "paper-K10-top1_pg"
    }  # fmt: skip
    assert all(row.config.num_steps == 20_000 for row in order[18:])


@pytest.mark.slow
def test_smoke_scale_has_trials_of_every_table():
    for table in TRAINED:
        assert 0 < len(table_trials(table, "smoke")) < len(table_trials(table, "laptop"))
    known = {row.name for table in TRAINED for row in table_trials(table, "laptop")}
    assert set(trials.SMOKE) <= known


def test_kuairec_replaces_the_stand_in(tmp_path):
    file = tmp_path / "small_matrix.csv"
    file.write_text("user_id,video_id,watch_ratio\n1,2,0.5\n")
    found = table_trials("table4", "laptop", str(file))
    assert {row.config.path for row in found} == {str(file)}
    assert all(row.name.startswith("kuairec-") for row in found)
    assert all(row.name.startswith("standin1411x3327-") for row in table_trials("table4", "laptop"))


# Reports.


def report_row(estimator, curves, published=None, stopped=()):
    """Returns a row of a report with these values by seed, at steps 0, 50,000, ..."""
    steps = [50_000 * i for i in range(len(curves[0]))]
    ends = [curve[-1] for curve in curves]
    return {
        "labels": {"estimator": estimator, "K": "10"},
        "published": published or {},
        "config": {"seeds": list(range(len(curves)))},
        "reached": steps[-1],
        "at": {str(steps[-1]): {"mean": sum(ends) / len(ends), "half_width_95": 0.1}},
        "steps": steps,
        "policy_value": {str(seed): curve for seed, curve in enumerate(curves)},
        "optimum": 9.1,
        "stopped": list(stopped),
        "versions": None,
    }


def test_learning_speed_counts_steps_to_95_percent():
    found = learning_speed(
        {
            "a": report_row("v_pg_swr", [[1.0, 7.0, 8.0], [1.0, 9.0, 8.0]]),  # final 8; target 7.6
            "b": report_row(
                "ca_pg", [[1.0, 7.0, 7.7], [1.0, 7.0, 7.3]]
            ),  # means 1, 7, 7.5: not there
        }
    )
    assert [entry["target"] for entry in found] == pytest.approx([7.6, 7.6])
    assert [entry["steps"] for entry in found] == [50_000, None]
    assert [entry["steps_by_seed"] for entry in found] == [[100_000, 50_000], [100_000, None]]
    assert steps_to_reach([0, 1], [None, 2.0], 1.0) == 1


def test_markdown_compares_with_the_paper():
    report = {
        "table": "table2", "stand_in": False, "not_begun": ["x"], "unfinished": [],
        "rows": {
            "a": report_row("ca_pg", [[1.0, 8.0], [1.0, 8.2]], {"50000": 7.99, "500000": 8.44}),
            "b": report_row("v_pg", [[1.0], [3.0]], {"50000": 7.16, "500000": 7.17},
                        [{"seed": 1, "step": 17, "by": "a gradient that is NaN or infinite"}]),
        },
    }  # fmt: skip
    lines = tables.markdown(report).splitlines()
    assert lines[0] == "| estimator | K | paper, 50,000 steps | ours, 50,000 steps | difference |"
    assert lines[2] == "| `ca_pg` | 10 | 7.99 | 8.10 ± 0.10 | +0.11 |"
    assert lines[3] == "| `v_pg` | 10 | 7.16 | 2.00 ± 0.10 at 0 | — |"
    assert "- `b`: seed 1 stopped at step 17 by a gradient that is NaN or infinite" in lines
    assert "- Not begun yet: `x`" in lines


def test_report_lists_what_has_not_begun(tmp_path):
    summary = reproduce(NAMES, "smoke", tmp_path, report_only=True)
    assert set(summary.left) >= {"table5", "figure4", "paper-K10-ca_pg"}
    assert {file.suffix for file in summary.written} == {".json", ".md"}
    assert "Not begun yet" in (tmp_path / "figure3.md").read_text()
    assert "**" not in (tmp_path / "figure3.md").read_text()
    assert summary.limited_by == "report_only"


def test_unfinished_trials_name_the_limiting_flag(tmp_path):
    for given, flag in (({"report_only": True}, "--report-only"), ({"trials": []}, "--trials")):
        summary = reproduce(["table2"], "smoke", tmp_path, **given)
        sentence = cli._unfinished(summary.left, summary.limited_by)
        assert sentence.endswith(f". Run the command without {flag} to resume")


@pytest.mark.slow
def test_greedy_error_equals_enumeration(monkeypatch, tmp_path):
    """P(a in S) for N = 3 and K = 2, by enumeration of the pairs."""
    logits = np.array([1.0, 0.0, -1.0])
    w = np.exp(logits)
    total = w.sum()
    exact, greedy = greedy_error.inclusion_of_all(logits, 2)
    truth = [
        w[a] / total + sum(w[b] / total * w[a] / (total - w[b]) for b in range(3) if b != a)
        for a in range(3)
    ]
    np.testing.assert_allclose(exact, truth, rtol=1e-7)
    first = np.array([1, 0, 0])  # the greedy pick among the others
    hits = 1 - (1 - w / total) * (1 - w / (total - w[first]))
    np.testing.assert_allclose(greedy, hits, rtol=1e-12)
    errors = {name: error(exact, greedy) for name, error in greedy_error.DEFINITIONS.items()}
    assert errors["all items"] == pytest.approx(np.mean(np.abs(hits / truth - 1)), rel=1e-5)
    assert errors["weighted by P"] >= errors["excess of the sum"] - 1e-9
    assert errors["excess of the sum"] == pytest.approx(abs(hits.sum() / 2 - 1))
    monkeypatch.setitem(greedy_error.EFFORT, "smoke", greedy_error.Effort(8, 2, (1.0,), (5,)))
    summary = reproduce(["table5"], "smoke", tmp_path)
    assert [file.suffix for file in summary.written] == [".json", ".md", ".png"]
    assert read_json(tmp_path / "table5.json")["cells"][0]["paper"] is None  # not the paper's N


@pytest.mark.slow
def test_constant_rewards_train_and_hold_no_arrays():
    config = speed._config("top1_pg", 3, 1, 1)
    environment = ConstantRewards(7, 9)
    call = training_call(config, 2, environment)
    assert call().reward.tolist() == [[1.0, 1.0]]  # by seed and update
    assert jax.tree.leaves(environment) == []


def test_figure_4_has_the_paper_s_seconds():
    settings = list(speed._settings(speed.EFFORT["laptop"]))
    assert len(settings) == 5 * 4 + 3
    by_arm = {
        (c.estimator, c.num_candidates, c.ranking_length, c.num_experts): paper
        for c, paper in settings
    }
    assert by_arm["ca_pg", 20, 5, 1] == 56.7
    assert by_arm["top1_pg", 200, 1, 5] == 50.5


@pytest.mark.slow
@pytest.mark.long
def test_smoke_scale_reproduces_everything(tmp_path):
    out = tmp_path / "smoke"
    assert main(["reproduce", "all", "--scale", "smoke", "--out", str(out)]) == 0
    for name in NAMES:
        report = json.loads((out / f"{name}.json").read_text())
        assert report["title"] == tables.TITLES[name]
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        for row in report.get("rows", {}).values():
            assert row["reached"] == 200
            assert row["stopped"] == []
    assert main(["reproduce", "all", "--scale", "smoke", "--out", str(out)]) == 0


# Invalid arguments and reports.


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2", r"table5\.json is not JSON: .*move it away"),
        ("[1, 2]", r"table5\.json holds a list; expected a JSON object"),
        ('{"table": "table5", "scale": "full"}', "is a report of table5 at scale full; expected .*smoke"),
        ('{"table": "table5", "scale": "smoke"}', "holds no cells; move it away"),
        ('{"table": "table5", "scale": "smoke", "cells": [3]}', "entry 1 of cells lacks some of errors"),
    ],
)  # fmt: skip
def test_invalid_report_is_refused(tmp_path, content, message):
    (tmp_path / "table5.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        reproduce(["table5"], "smoke", tmp_path, report_only=True)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["table4", "--path", "nowhere.csv"], "--path nowhere.csv is not a file. .*https://kuairec.com"),
        (["table2", "--path", "x.csv"], "--path x.csv is the file for table4; table2 does not read it"),
        (["table2", "--trials", "paper-K10-ca"], "'paper-K10-ca' is not a trial of .* paper-K10-ca_pg"),
        (["table5", "--trials", "paper-K10-ca_pg"], "--trials paper-K10-ca_pg: table5 needs no training"),
        (["table2", "--rows", "paper-K10-ca_pg"], "--rows is now named --trials"),
    ],
)  # fmt: skip
def test_command_refuses_in_one_line(tmp_path, capsys, flags, message):
    assert main(["reproduce", *flags, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert re.search(message, error)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words",
    [["reproduce", "table2"], ["hard-problems"], ["lab"]],
    ids=lambda words: words[-1],
)
def test_unwritable_folder_is_refused_first(tmp_path, capsys, words):
    (tmp_path / "file").write_text("")
    for place in ("file", "file/below"):
        assert main([*words, "--out", str(tmp_path / place)]) == 2
        assert "is not a writable folder" in capsys.readouterr().err
