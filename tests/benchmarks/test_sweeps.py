"""Sweeps: complete, interrupted, resumed, shared and damaged. The example is the paper's Table 4, reduced."""

from __future__ import annotations

import copy
import functools
import importlib
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
from benchmarks.paper.command import reproduce
from benchmarks.paper.trials import SCALES, Scale, table_trials
from benchmarks.sweeps.files import read_json, write_json
from benchmarks.sweeps.run import has_state, train_trials
from rankpg._utils.files import Taken, lock
from rankpg.errors import ConfigError

ENABLE_X64 = False

pytestmark = pytest.mark.usefixtures("as_a_user")

TRAIN = importlib.import_module("rankpg.runs.train")  # the package exports a function of this name
TINY = Scale(4, 4, 2, (0, 1), (9, 52))
"""A scale whose stand-in for Table 4 trains in seconds."""


@pytest.fixture(scope="module")
def tiny():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCALES, "smoke", TINY)
        yield


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """Table 4, trained in one call, and its folder."""
    out = tmp_path_factory.mktemp("trained")
    return reproduce(["table4"], "smoke", out), out


def values(out, name):
    """Returns a trial's metrics without its speed."""
    return [
        {key: value for key, value in row.items() if key != "steps_per_second"}
        for row in metrics_rows(out / "runs" / name)
    ]


@pytest.mark.slow
def test_report_holds_the_metrics_of_the_runs(trained):
    summary, out = trained
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
    assert "Not KuaiRec" in text
    assert "5.05" in text  # the paper's V-PG-SwR at K = 50
    assert "at 4" in text


@pytest.mark.slow
def test_complete_trials_are_not_trained_again(trained):
    summary, out = trained
    before = (out / "runs" / "standin9x52-K50-top1_pg" / "metrics.jsonl").stat().st_mtime_ns
    again = reproduce(["table4"], "smoke", out)
    assert again.outcome.trained == []
    assert sorted(again.outcome.complete) == sorted(summary.outcome.trained)
    after = (out / "runs" / "standin9x52-K50-top1_pg" / "metrics.jsonl").stat().st_mtime_ns
    assert after == before


@pytest.mark.slow
def test_sweep_resumes_from_its_report(trained, tmp_path):
    """Run folders are not needed; an entry that is not finished stays until there are more steps."""
    summary, out = trained
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
def test_invalid_report_is_refused_and_kept(trained, tmp_path):
    file, whole = tmp_path / "table4.json", read_json(trained[1] / "table4.json")
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

    refused(r"table4\.json: .* was run with learning_rate=9.0; expected learning_rate=0.1",
            **{f"rows__{first}__config__learning_rate": 9})  # fmt: skip
    refused(
        r"table4\.json: .* was written by another version",
        **{f"rows__{first}__config__colour": "red"},
    )
    refused(
        r"table4\.json: .* lacks config",
        **{f"rows__{first}": {"reached": 4, "at": {}, "steps": []}},
    )
    refused(r"table4\.json: .* is 3; expected an object", **{f"rows__{first}": 3})
    refused(r"has config=None; expected an object", **{f"rows__{first}__config": None})
    refused(r"has reached='x'; expected a whole number", **{f"rows__{first}__reached": "x"})
    refused(r"has no mean at its last step, 4", **{f"rows__{first}__at": {}})
    refused(
        r"has means or values at steps that it does not list",
        **{f"rows__{first}__policy_value__0": [1.0]},
    )
    refused(r"table4\.json holds no rows; move it away", rows=[])
    refused(
        r"table4\.json has kuairec-K50, which is not one of its trials now",
        **{"rows__kuairec-K50": {}},
    )
    refused(r"table4\.json is a report of KuaiRec; expected the stand-in", stand_in=False)
    refused(r"table4\.json is a report of table3", table="table3")
    del whole["rows"]
    refused(r"table4\.json holds no rows")


@pytest.mark.slow
def test_stand_in_is_announced(trained, capsys):
    reproduce(["table4"], "smoke", trained[1])
    error = capsys.readouterr().err
    assert "https://kuairec.com" in error
    assert "A generated problem of the same size stands in" in error


def test_file_with_too_few_items_is_refused_first(tiny, tmp_path):
    file = tmp_path / "small.csv"
    rows = [f"{user},{item},{item % 2 + 0.5}" for user in range(3) for item in range(30)]
    file.write_text("\n".join(["user_id,video_id,watch_ratio", *rows]))
    out = tmp_path / "out"
    with pytest.raises(
        ConfigError, match=r"path=.*small\.csv. cannot be used for table4 with K = 50: .*30"
    ):
        reproduce(["table2", "table4"], "smoke", out, path=str(file))
    assert not (out / "runs").exists()


# Interrupted and shared sweeps.


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_signal_saves_the_step_reached(trained, tmp_path, capsys, monkeypatch, number):
    """Also between two evaluations; the same command resumes and ends with the same metrics."""
    name, whole = "standin9x52-K50-v_pg_swr", TRAIN.training_loop

    def signalled(run):
        for progress in whole(run):
            if progress.phase == "train" and progress.step == 2:
                signal.raise_signal(number)
                time.sleep(0.2)  # a thread handles it
            yield progress

    monkeypatch.setattr(TRAIN, "training_loop", signalled)
    words = ["reproduce", "table4", "--scale", "smoke", "--out", str(tmp_path)]
    assert main(words) == 128 + number
    error = capsys.readouterr().err
    assert f"{name} is saved at step 2; run the same command again to resume" in error
    assert [row["step"] for row in metrics_rows(tmp_path / "runs" / name)] == [0, 0]
    monkeypatch.setattr(TRAIN, "training_loop", whole)
    assert main(words) == 0
    assert values(tmp_path, name) == values(trained[1], name)


@pytest.mark.slow
def test_resumed_trial_equals_an_uninterrupted_one(trained, tmp_path, monkeypatch):
    """Interrupted at step 2 of the first trial; the partial report lists what is missing."""
    _, out = trained
    whole = TRAIN.training_loop

    def until_step_2(run):
        for progress in whole(run):
            yield progress
            if progress.phase == "evaluate" and progress.step == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(TRAIN, "training_loop", until_step_2)
    with pytest.raises(KeyboardInterrupt):
        reproduce(["table4"], "smoke", tmp_path)
    monkeypatch.setattr(TRAIN, "training_loop", whole)

    partial = reproduce(["table4"], "smoke", tmp_path, report_only=True)
    assert partial.left == ["standin9x52-K50-top1_pg", "standin9x52-K50-v_pg_swr"]
    report = read_json(tmp_path / "table4.json")
    assert report["not_begun"] == ["standin9x52-K50-top1_pg"]
    assert report["unfinished"] == ["standin9x52-K50-v_pg_swr"]
    assert report["rows"]["standin9x52-K50-v_pg_swr"]["reached"] == 2
    assert "Not begun yet: `standin9x52-K50-top1_pg`" in (tmp_path / "table4.md").read_text()

    summary = reproduce(["table4"], "smoke", tmp_path, trials=["standin9x52-K50-v_pg_swr"])
    assert summary.outcome.trained == ["standin9x52-K50-v_pg_swr"]
    assert summary.left == ["standin9x52-K50-top1_pg"]
    name = "standin9x52-K50-v_pg_swr"
    assert values(tmp_path, name) == values(out, name)


@pytest.mark.slow
def test_trial_without_its_last_evaluation_is_not_complete(trained, tmp_path, monkeypatch):
    name, whole = "standin9x52-K50-v_pg_swr", TRAIN.training_loop

    def signalled(run):
        for progress in whole(run):
            if progress.phase == "train" and progress.step == 4:
                signal.raise_signal(signal.SIGINT)
                time.sleep(0.2)  # a thread handles it
            yield progress

    monkeypatch.setattr(TRAIN, "training_loop", signalled)
    with pytest.raises(KeyboardInterrupt, match=f"{name} is saved at step 4"):
        reproduce(["table4"], "smoke", tmp_path)
    monkeypatch.setattr(TRAIN, "training_loop", whole)
    assert name in reproduce(["table4"], "smoke", tmp_path).outcome.trained
    assert values(tmp_path, name) == values(trained[1], name)


@pytest.mark.slow
def test_trial_without_a_checkpoint_starts_again(trained, tmp_path):
    _, out = trained
    name = "standin9x52-K50-top1_pg"
    shutil.copytree(out / "runs" / name, tmp_path / name)
    shutil.rmtree(tmp_path / name / "checkpoint")
    with pytest.raises(ConfigError, match="metrics up to step 4 but no checkpoint"):
        has_state(tmp_path / name)
    first = (tmp_path / name / "metrics.jsonl").read_text().splitlines(keepends=True)[:2]
    (tmp_path / name / "metrics.jsonl").write_text("".join(first))
    assert not has_state(tmp_path / name)
    assert not (tmp_path / name / "metrics.jsonl").exists()


def test_locked_trial_is_skipped(tiny, tmp_path):
    """The lock ends with the process that holds it."""
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
        trial = next(t for t in table_trials("table4", "smoke") if t.name == name)
        outcome = train_trials([trial], tmp_path)
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


def test_concurrent_writers_leave_a_complete_report(tmp_path):
    """No reader meets a missing or partial file."""
    file, bodies = tmp_path / "table2.json", [{"rows": [n] * 5000} for n in range(4)]

    def write(body):
        for _ in range(50):
            write_json(file, body)
            assert read_json(file) in bodies

    with ThreadPoolExecutor(len(bodies)) as pool:
        list(pool.map(write, bodies))
    assert [path.name for path in tmp_path.iterdir()] == ["table2.json"]


# Damaged folders.


@pytest.fixture
def damaged(trained, tmp_path):
    """A copy of the finished table, to damage."""
    return shutil.copytree(trained[1], tmp_path / "out")


@pytest.mark.slow
def test_trial_without_its_last_values_is_refused_last(damaged, capsys):
    """The other trials are trained and reported first."""
    first, second = (f"standin9x52-K50-{name}" for name in ("v_pg_swr", "top1_pg"))
    metrics = damaged / "runs" / first / "metrics.jsonl"
    metrics.write_text(metrics.read_text()[:-30])
    shutil.rmtree(damaged / "runs" / second)
    for file in damaged.glob("table4.*"):
        file.unlink()
    assert main(["reproduce", "table4", "--scale", "smoke", "--out", str(damaged)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"{first}: {metrics} lacks rows of step 4, which the checkpoint has" in error
    assert f"move {metrics.parent} away and train again" in error
    report = read_json(damaged / "table4.json")
    assert report["rows"][second]["reached"] == 4
    assert report["unfinished"] == [first]
    shutil.rmtree(metrics.parent)
    assert reproduce(["table4"], "smoke", damaged).outcome.trained == [first]


@pytest.mark.slow
def test_folder_of_other_settings_is_refused(damaged):
    file = damaged / "runs" / "standin9x52-K50-top1_pg" / "config.yaml"
    file.write_text(file.read_text().replace("learning_rate: 0.01", "learning_rate: 0.5"))
    for report_only in (True, False):
        with pytest.raises(
            ConfigError, match=r"was run with learning_rate=0.5; expected learning_rate=0.01"
        ):
            reproduce(["table4"], "smoke", damaged, report_only=report_only)


@pytest.mark.slow
def test_damaged_file_is_named(damaged):
    folder = damaged / "runs" / "standin9x52-K50-top1_pg"
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("batch_size: 128", "batch_size: -1"))
    with pytest.raises(ConfigError, match=r"top1_pg/config\.yaml: batch_size=-1"):
        reproduce(["table4"], "smoke", damaged)
    (folder / "config.yaml").write_text(config)
    (folder / "versions.json").write_text("{")
    with pytest.raises(ConfigError, match=r"versions\.json is not JSON"):
        reproduce(["table4"], "smoke", damaged)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join([lines[0][:9], *lines[1:]]))
    with pytest.raises(ConfigError, match=r"metrics\.jsonl, line 1: not JSON"):
        reproduce(["table4"], "smoke", damaged)
