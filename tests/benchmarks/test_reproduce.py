"""`python -m benchmarks reproduce`: rows, interrupted or shared work, and reports."""

from __future__ import annotations

import copy
import functools
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from helpers.run_files import metrics_rows

from benchmarks.cli import main
from benchmarks.paper import greedy_error, published, rows, speed, tables
from benchmarks.paper.command import NAMES, reproduce
from benchmarks.paper.learning_speed import learning_speed, steps_to_reach
from benchmarks.paper.trials import SCALES, TRAINED, Scale, trial_name, table_trials
from benchmarks.speed.constant import ConstantRewards
from benchmarks.sweeps import run as work
from benchmarks.sweeps.files import read_json, write_json
from benchmarks.sweeps.run import train_trials
from benchmarks.sweeps.trials import unique_trials
from benchmarks.timing import training_call
from rankpg import TrainConfig
from rankpg._utils.files import Taken, lock
from rankpg.errors import ConfigError
from rankpg.runs import loop as loops

ENABLE_X64 = False
AS_SHIPPED = SCALES["smoke"]


pytestmark = pytest.mark.usefixtures("as_a_user")


# The rows.


@pytest.mark.parametrize("scale", SCALES)
def test_a_name_stands_for_one_config(scale):
    """Within a table every row has a name of its own; across tables one name is one config."""
    configs: dict[str, TrainConfig] = {}
    for table in TRAINED:
        found = table_trials(table, scale)
        assert len({row.name for row in found}) == len(found) > 0
        for row in found:
            assert row.name == trial_name(row.config)
            assert configs.setdefault(row.name, row.config) == row.config
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
def test_every_published_value_has_its_row(scale, table, figures, columns):
    """The values beside the rows of the paper's own estimators are the table's, each once."""
    assert all(len(values) == len(columns) for values in figures.values())
    beside = [r.published for r in table_trials(table, scale) if r.config.estimator != "ca_pg_swr"]
    of_the_paper = [value for values in figures.values() for value in values]
    assert sorted(map(str, beside)) == sorted(map(str, of_the_paper))


def test_the_paper_s_settings():
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


def test_what_is_trained_longest_comes_first():
    order = unique_trials(row for table in TRAINED for row in table_trials(table, "laptop"))
    long = [row.config.num_steps == 50_000 for row in order]
    assert sum(long) == 18  # 3 estimators x 6 columns of Table 2
    assert all(long[:18])
    assert {row.name for row in order[:3]} == {
        "paper-K10-v_pg_swr", "paper-K10-ca_pg", "paper-K10-top1_pg"
    }  # fmt: skip
    assert all(row.config.num_steps == 20_000 for row in order[18:])


def test_smoke_has_some_of_every_table():
    for table in TRAINED:
        assert 0 < len(table_trials(table, "smoke")) < len(table_trials(table, "laptop"))
    known = {row.name for table in TRAINED for row in table_trials(table, "laptop")}
    assert set(rows.SMOKE) <= known


def test_kuairec_is_read_where_it_is_given(tmp_path):
    file = tmp_path / "small_matrix.csv"
    file.write_text("user_id,video_id,watch_ratio\n1,2,0.5\n")
    found = table_trials("table4", "laptop", str(file))
    assert {row.config.path for row in found} == {str(file)}
    assert all(row.name.startswith("kuairec-") for row in found)
    assert all(row.name.startswith("standin1411x3327-") for row in table_trials("table4", "laptop"))


# Work: a real table, small. Table 4's stand-in, since its size is the scale's.

TINY = Scale(4, 4, 2, (0, 1), (9, 52))


@pytest.fixture(scope="module")
def tiny():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCALES, "smoke", TINY)
        yield


@pytest.fixture(scope="module")
def straight(tiny, tmp_path_factory):
    """Table 4 in one go."""
    out = tmp_path_factory.mktemp("straight")
    return reproduce(["table4"], "smoke", out), out


def values(out, name):
    return [
        {key: value for key, value in row.items() if key != "steps_per_second"}
        for row in metrics_rows(out / "runs" / name)
    ]


@pytest.mark.slow
def test_a_table_from_end_to_end(straight):
    summary, out = straight
    names = [f"standin9x52-K50-{estimator}" for estimator in ("v_pg_swr", "top1_pg")]
    assert summary.outcome.trained == names
    assert summary.left == []
    assert [file.name for file in summary.written] == ["table4.json", "table4.md", "table4.png"]
    report = read_json(out / "table4.json")
    assert (report["table"], report["scale"], report["stand_in"]) == ("table4", "smoke", True)
    for name in names:
        row, lines = report["rows"][name], values(out, name)
        assert row["steps"] == [0, 2, 4]
        assert row["config"]["num_candidates"] == 50
        for seed in ("0", "1"):
            mine = [line["policy_value"] for line in lines if str(line["seed"]) == seed]
            np.testing.assert_allclose(row["policy_value"][seed], mine, rtol=1e-6)
        last = [line["policy_value"] for line in lines if line["step"] == 4]
        assert row["at"]["4"]["mean"] == pytest.approx(sum(last) / 2)
        half = 12.706 * np.std(last, ddof=1) / np.sqrt(2)  # t of 1 degree of freedom
        assert row["at"]["4"]["half_width_95"] == pytest.approx(half, rel=1e-3)
        assert row["steps_per_second"] > 0
        assert row["versions"]["jax"] == jax.__version__
    text = (out / "table4.md").read_text()
    assert "A stand-in" in text
    assert "5.05" in text  # the paper's V-PG-SwR at K = 50
    assert "at 4" in text


@pytest.mark.slow
def test_what_is_complete_is_not_run_again(straight):
    summary, out = straight
    before = (out / "runs" / "standin9x52-K50-top1_pg" / "metrics.jsonl").stat().st_mtime_ns
    again = reproduce(["table4"], "smoke", out)
    assert again.outcome.trained == []
    assert sorted(again.outcome.complete) == sorted(summary.outcome.trained)
    after = (out / "runs" / "standin9x52-K50-top1_pg" / "metrics.jsonl").stat().st_mtime_ns
    assert after == before


@pytest.mark.slow
def test_a_report_is_enough_to_go_on_from(straight, tmp_path):
    """Without run folders; what was not trained to its end stays until there is more."""
    summary, out = straight
    report = read_json(out / "table4.json")
    write_json(tmp_path / "table4.json", report)
    again = reproduce(["table4"], "smoke", tmp_path)
    assert again.outcome.trained == []
    assert again.outcome.complete == summary.outcome.trained
    assert read_json(tmp_path / "table4.json")["rows"] == report["rows"]
    assert not (tmp_path / "runs").exists()

    first, second = summary.outcome.trained
    body = report["rows"][second]
    body |= {"reached": 2, "at": {"2": body["at"]["4"]}}
    body["config"] |= {"num_steps": 2, "eval_every": 2}
    write_json(tmp_path / "table4.json", report)
    other = reproduce(["table4"], "smoke", tmp_path, report_only=True)
    assert other.left == [second]
    again = reproduce(["table4"], "smoke", tmp_path)
    assert (again.outcome.complete, again.outcome.trained) == ([first], [second])
    assert read_json(tmp_path / "table4.json")["rows"][second]["reached"] == 4


@pytest.mark.slow
def test_no_report_is_written_with_less_than_it_had(straight, tmp_path):
    file, whole = tmp_path / "table4.json", read_json(straight[1] / "table4.json")
    first = next(iter(whole["rows"]))

    def refused(message, **changes):
        report = copy.deepcopy(whole)
        for path, value in changes.items():
            *above, last = path.split("__")
            place = functools.reduce(lambda body, name: body[name], above, report)
            place[last] = value
        write_json(file, report)
        before = file.read_bytes()
        for report_only in (True, False):
            with pytest.raises(ConfigError, match=message):
                reproduce(["table4"], "smoke", tmp_path, report_only=report_only)
        assert file.read_bytes() == before

    refused(r"table4\.json: .* was run with learning_rate = 9.0, and now it needs 0.1",
            **{f"rows__{first}__config__learning_rate": 9})  # fmt: skip
    refused(r"table4\.json: .* is of another version", **{f"rows__{first}__config__colour": "red"})
    refused(
        r"table4\.json: .* lacks config",
        **{f"rows__{first}": {"reached": 4, "at": {}, "steps": []}},
    )
    refused(r"table4\.json: .* is 3; expected an object", **{f"rows__{first}": 3})
    refused(r"has config = None; expected an object", **{f"rows__{first}__config": None})
    refused(r"has reached = 'x'; expected a whole number", **{f"rows__{first}__reached": "x"})
    refused(r"has no mean at step 4, its last", **{f"rows__{first}__at": {}})
    refused(r"has means or values of other steps", **{f"rows__{first}__policy_value__0": [1.0]})
    refused(r"table4\.json holds no rows; move it away", rows=[])
    refused(r"table4\.json has kuairec-K50, which is no row of it now", **{"rows__kuairec-K50": {}})
    refused(r"table4\.json is of KuaiRec, and this asks for the stand-in", stand_in=False)
    refused(r"table4\.json is a report of table3", table="table3")
    del whole["rows"]
    refused(r"table4\.json holds no rows")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_saves_the_step_that_was_reached(straight, tmp_path, capsys, monkeypatch, number):
    """Between two evaluations too; the same command goes on, and ends where one call does."""
    name, whole = "standin9x52-K50-v_pg_swr", loops.training_loop

    def heard(run):
        for progress in whole(run):
            if progress.phase == "train" and progress.step == 2:
                signal.raise_signal(number)
                time.sleep(0.2)  # a thread hears it
            yield progress

    monkeypatch.setattr(loops, "training_loop", heard)
    words = ["reproduce", "table4", "--scale", "smoke", "--out", str(tmp_path)]
    assert main(words) == 128 + number
    said = capsys.readouterr().err
    assert f"{name} is saved at step 2. The same command goes on" in said
    assert [row["step"] for row in metrics_rows(tmp_path / "runs" / name)] == [0, 0]
    monkeypatch.setattr(loops, "training_loop", whole)
    assert main(words) == 0
    assert values(tmp_path, name) == values(straight[1], name)


@pytest.mark.slow
def test_interrupted_and_resumed_is_the_same(straight, tmp_path, monkeypatch):
    """Interrupted at step 2 of the first row; the report of that moment says what is missing."""
    _, out = straight
    whole = loops.training_loop

    def until_step_2(run):
        for progress in whole(run):
            yield progress
            if progress.phase == "evaluate" and progress.step == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(loops, "training_loop", until_step_2)
    with pytest.raises(KeyboardInterrupt):
        reproduce(["table4"], "smoke", tmp_path)
    monkeypatch.setattr(loops, "training_loop", whole)

    partial = reproduce(["table4"], "smoke", tmp_path, report_only=True)
    assert partial.left == ["standin9x52-K50-top1_pg", "standin9x52-K50-v_pg_swr"]
    report = read_json(tmp_path / "table4.json")
    assert report["not_begun"] == ["standin9x52-K50-top1_pg"]
    assert report["unfinished"] == ["standin9x52-K50-v_pg_swr"]
    assert report["rows"]["standin9x52-K50-v_pg_swr"]["reached"] == 2
    assert "Not begun yet: `standin9x52-K50-top1_pg`" in (tmp_path / "table4.md").read_text()

    summary = reproduce(["table4"], "smoke", tmp_path, rows=["standin9x52-K50-v_pg_swr"])
    assert summary.outcome.trained == ["standin9x52-K50-v_pg_swr"]
    assert summary.left == ["standin9x52-K50-top1_pg"]
    name = "standin9x52-K50-v_pg_swr"
    assert values(tmp_path, name) == values(out, name)


def test_a_row_that_somebody_works_on_is_left_to_them(tiny, tmp_path):
    """Until they die: a killed process holds nothing."""
    name = "standin9x52-K50-top1_pg"
    program = (
        "import sys, pathlib; from rankpg._utils.files import lock\n"
        "with lock(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "locks" / name)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        row = next(row for row in table_trials("table4", "smoke") if row.name == name)
        outcome = train_trials([row], tmp_path)
        assert outcome.trained == []
        assert f"process {other.pid} on " in outcome.taken[name]
        assert not (tmp_path / "runs" / name).exists()
    finally:
        other.kill()
        other.wait(30)
        for pipe in (other.stdin, other.stdout):
            pipe.close()
    with lock(tmp_path / "locks" / name), pytest.raises(Taken), lock(tmp_path / "locks" / name):
        pass


@pytest.mark.slow
def test_what_was_cut_off_before_its_first_checkpoint_begins_anew(straight, tmp_path):
    _, out = straight
    name = "standin9x52-K50-top1_pg"
    shutil.copytree(out / "runs" / name, tmp_path / name)
    shutil.rmtree(tmp_path / name / "checkpoint")
    with pytest.raises(ConfigError, match="metrics up to step 4 but no checkpoint"):
        work.has_state(tmp_path / name)
    first = (tmp_path / name / "metrics.jsonl").read_text().splitlines(keepends=True)[:2]
    (tmp_path / name / "metrics.jsonl").write_text("".join(first))
    assert not work.has_state(tmp_path / name)
    assert not (tmp_path / name / "metrics.jsonl").exists()


# Refusals.


@pytest.fixture
def damaged(straight, tmp_path):
    """A copy of the finished table."""
    return shutil.copytree(straight[1], tmp_path / "out")


@pytest.mark.slow
def test_a_row_whose_last_values_are_lost_is_neither_complete_nor_passed_over(damaged, capsys):
    """The others are trained, and reported, first."""
    first, second = (f"standin9x52-K50-{name}" for name in ("v_pg_swr", "top1_pg"))
    metrics = damaged / "runs" / first / "metrics.jsonl"
    metrics.write_text(metrics.read_text()[:-30])
    shutil.rmtree(damaged / "runs" / second)
    for file in damaged.glob("table4.*"):
        file.unlink()
    assert main(["reproduce", "table4", "--scale", "smoke", "--out", str(damaged)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"{first}: {metrics} lacks rows of step 4, which the checkpoint holds" in said
    assert f"move {metrics.parent} away and train again" in said
    report = read_json(damaged / "table4.json")
    assert report["rows"][second]["reached"] == 4
    assert report["unfinished"] == [first]
    shutil.rmtree(metrics.parent)
    assert reproduce(["table4"], "smoke", damaged).outcome.trained == [first]


@pytest.mark.slow
def test_stopped_before_its_last_evaluation_is_not_complete(straight, tmp_path, monkeypatch):
    name, whole = "standin9x52-K50-v_pg_swr", loops.training_loop

    def heard(run):
        for progress in whole(run):
            if progress.phase == "train" and progress.step == 4:
                signal.raise_signal(signal.SIGINT)
                time.sleep(0.2)  # a thread hears it
            yield progress

    monkeypatch.setattr(loops, "training_loop", heard)
    with pytest.raises(KeyboardInterrupt, match=f"{name} is saved at step 4"):
        reproduce(["table4"], "smoke", tmp_path)
    monkeypatch.setattr(loops, "training_loop", whole)
    assert name in reproduce(["table4"], "smoke", tmp_path).outcome.trained
    assert values(tmp_path, name) == values(straight[1], name)


@pytest.mark.slow
def test_a_folder_of_other_settings_is_refused(damaged):
    file = damaged / "runs" / "standin9x52-K50-top1_pg" / "config.yaml"
    file.write_text(file.read_text().replace("learning_rate: 0.01", "learning_rate: 0.5"))
    for report_only in (True, False):
        with pytest.raises(ConfigError, match=r"was run with learning_rate = 0.5, .*it needs 0.01"):
            reproduce(["table4"], "smoke", damaged, report_only=report_only)


@pytest.mark.slow
def test_damaged_files_are_named(damaged):
    folder = damaged / "runs" / "standin9x52-K50-top1_pg"
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("batch_size: 128", "batch_size: -1"))
    with pytest.raises(ConfigError, match=r"top1_pg/config\.yaml: --batch-size is -1"):
        reproduce(["table4"], "smoke", damaged)
    (folder / "config.yaml").write_text(config)
    (folder / "versions.json").write_text("{")
    with pytest.raises(ConfigError, match=r"versions\.json is not JSON"):
        reproduce(["table4"], "smoke", damaged)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join([lines[0][:9], *lines[1:]]))
    with pytest.raises(ConfigError, match=r"metrics\.jsonl, line 1 is not JSON"):
        reproduce(["table4"], "smoke", damaged)


def test_several_may_write_one_report_at_once(tmp_path):
    """Nobody meets a file that another one has taken away, or half of one."""
    file, bodies = tmp_path / "table2.json", [{"rows": [n] * 5000} for n in range(4)]

    def write(body):
        for _ in range(50):
            write_json(file, body)
            assert read_json(file) in bodies

    with ThreadPoolExecutor(len(bodies)) as pool:
        list(pool.map(write, bodies))
    assert [path.name for path in tmp_path.iterdir()] == ["table2.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2", r"table5\.json is not JSON: .*move it away"),
        ("[1, 2]", r"table5\.json holds a list; expected a JSON object"),
        ('{"table": "table5", "scale": "full"}', "is a report of table5 at scale full; expected .*smoke"),
        ('{"table": "table5", "scale": "smoke"}', "holds no cells; move it away"),
        ('{"table": "table5", "scale": "smoke", "cells": [3]}', "number 1 of its cells lacks some of errors"),
    ],
)  # fmt: skip
def test_a_report_that_is_none_is_refused(tmp_path, content, message):
    (tmp_path / "table5.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        reproduce(["table5"], "smoke", tmp_path, report_only=True)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["table4", "--path", "nowhere.csv"], "--path nowhere.csv is no file. .*https://kuairec.com"),
        (["table2", "--path", "x.csv"], "--path is KuaiRec's file, which table2 does not read"),
        (["table2", "--rows", "paper-K10-ca"], "'paper-K10-ca' is no row of table2; .* paper-K10-ca_pg"),
        (["table5", "--rows", "paper-K10-ca_pg"], "--rows: table5 trains no rows"),
    ],
)  # fmt: skip
def test_the_command_says_what_is_wrong(tmp_path, capsys, flags, message):
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
def test_a_folder_that_cannot_be_is_refused_before_anything_is_measured(tmp_path, capsys, words):
    (tmp_path / "file").write_text("")
    for place in ("file", "file/below"):
        assert main([*words, "--out", str(tmp_path / place)]) == 2
        assert "is no folder that can be written" in capsys.readouterr().err


@pytest.mark.slow
def test_without_the_file_the_stand_in_is_announced(straight, capsys):
    reproduce(["table4"], "smoke", straight[1])
    said = capsys.readouterr().err
    assert "https://kuairec.com" in said
    assert "a generated problem of its size stands in" in said


# Reports.


def test_a_file_with_too_few_items_is_refused_before_anything_is_trained(tiny, tmp_path):
    file = tmp_path / "small.csv"
    rows = [f"{user},{item},0.5" for user in range(3) for item in range(30)]
    file.write_text("\n".join(["user_id,video_id,watch_ratio", *rows]))
    out = tmp_path / "out"
    with pytest.raises(
        ConfigError, match=r"--path .*small\.csv cannot be used for table4, with K = 50: .*30"
    ):
        reproduce(["table2", "table4"], "smoke", out, path=str(file))
    assert not (out / "runs").exists()


def test_what_is_left_names_the_flag_that_left_it(tmp_path):
    for flags, flag in (({"report_only": True}, "--report-only"), ({"rows": []}, "--rows")):
        left = reproduce(["table2"], "smoke", tmp_path, **flags).left_in_words()
        assert left[0].endswith(f". Without {flag} the command goes on")


def test_nothing_begun_is_a_report_too(tmp_path):
    summary = reproduce(NAMES, "smoke", tmp_path, report_only=True)
    assert set(summary.left) >= {"table5", "figure4", "paper-K10-ca_pg"}
    assert {file.suffix for file in summary.written} == {".json", ".md"}
    assert "Not begun yet" in (tmp_path / "figure3.md").read_text()
    assert "**" not in (tmp_path / "figure3.md").read_text()
    assert "Without --report-only the command goes on" in summary.left_in_words()[0]


def row_of(estimator, curves, published=None, stopped=()):
    """A row of a report, from values by seed at steps 0, 50,000, ..."""
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


def test_steps_to_95_percent():
    found = learning_speed(
        {
            "a": row_of("v_pg_swr", [[1.0, 7.0, 8.0], [1.0, 9.0, 8.0]]),  # final 8; target 7.6
            "b": row_of("ca_pg", [[1.0, 7.0, 7.7], [1.0, 7.0, 7.3]]),  # means 1, 7, 7.5: not there
        }
    )
    assert [entry["target"] for entry in found] == pytest.approx([7.6, 7.6])
    assert [entry["steps"] for entry in found] == [50_000, None]
    assert [entry["steps_by_seed"] for entry in found] == [[100_000, 50_000], [100_000, None]]
    assert steps_to_reach([0, 1], [None, 2.0], 1.0) == 1


def test_markdown_puts_the_paper_beside_ours():
    report = {
        "table": "table2", "stand_in": False, "not_begun": ["x"], "unfinished": [],
        "rows": {
            "a": row_of("ca_pg", [[1.0, 8.0], [1.0, 8.2]], {"50000": 7.99, "500000": 8.44}),
            "b": row_of("v_pg", [[1.0], [3.0]], {"50000": 7.16, "500000": 7.17},
                        [{"seed": 1, "step": 17, "by": "a gradient that is NaN or infinite"}]),
        },
    }  # fmt: skip
    lines = tables.markdown(report).splitlines()
    assert lines[0] == "| estimator | K | paper, 50,000 steps | ours, 50,000 steps | difference |"
    assert lines[2] == "| `ca_pg` | 10 | 7.99 | 8.10 ± 0.10 | +0.11 |"
    assert lines[3] == "| `v_pg` | 10 | 7.16 | 2.00 ± 0.10 at 0 | — |"
    assert "- `b`: seed 1 stopped at step 17 by a gradient that is NaN or infinite" in lines
    assert "- Not begun yet: `x`" in lines


@pytest.mark.slow
def test_greedy_error_at_small_size(monkeypatch, tmp_path):
    """For N = 3 and K = 2, P(a in S) by enumeration of the pairs."""
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
def test_constant_rewards_cost_nothing_and_train():
    config = speed._config("top1_pg", 3, 1, 1)
    environment = ConstantRewards(7, 9)
    call = training_call(config, 2, environment)
    assert call().reward.tolist() == [[1.0, 1.0]]  # of every seed and update
    assert jax.tree.leaves(environment) == []


def test_every_arm_of_figure_4_has_the_paper_s_figure():
    settings = list(speed._settings(speed.EFFORT["laptop"]))
    assert len(settings) == 5 * 4 + 3
    by_arm = {
        (c.estimator, c.num_candidates, c.ranking_length, c.num_experts): paper
        for c, paper in settings
    }
    assert by_arm["ca_pg", 20, 5, 1] == 56.7
    assert by_arm["top1_pg", 200, 1, 5] == 50.5


@pytest.mark.slow
def test_all_of_the_smoke_scale(tmp_path, monkeypatch):
    monkeypatch.setitem(SCALES, "smoke", AS_SHIPPED)  # `tiny` holds for the whole module
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
