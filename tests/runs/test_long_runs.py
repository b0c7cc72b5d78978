"""Runs that are stopped, killed, damaged or squeezed: with real signals, files and disks."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.run_files import metrics_rows

from rankpg import TrainConfig
from rankpg.cli.main import main
from rankpg.errors import ConfigError
from rankpg.runs.loop import training_loop
from rankpg.runs.run import Progress, prepare
from rankpg.runs.storage import checkpoint, checkpoint_files
from rankpg.runs.storage import folder as run_folder
from rankpg.runs.storage.checkpoint import CheckpointError, SaveError
from rankpg.runs.storage.folder import RunFolder
from rankpg.runs.storage.load import load_config, load_run

ENABLE_X64 = False

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_a_user")]  # each trains, several times

SCRIPT = Path(__file__).parents[1] / "helpers" / "forked_runs.py"
FLAGS = (
    "--num-contexts", "20", "--num-items", "30", "--num-candidates", "3", "--batch-size", "8",
    "--embedding-dim", "4", "--seeds", "0", "1", "--advantage", "context",
)  # fmt: skip
SHORT = (*FLAGS, "--num-steps", "160", "--eval-every", "80")
"""Two chunks of 40 updates to an evaluation."""


def settings(**changes) -> TrainConfig:
    small = {
        "num_contexts": 20, "num_items": 30, "num_candidates": 3, "batch_size": 8, "embedding_dim": 4,
        "seeds": (0, 1), "advantage": "context", "num_steps": 160, "eval_every": 80,
    }  # fmt: skip
    return TrainConfig(**(small | changes))


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The folder of a run that was not stopped."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    assert main(["train", *SHORT, "--out", str(folder)]) == 0
    return folder


def without_speed(folder: Path):
    return [
        {k: v for k, v in row.items() if k != "steps_per_second"} for row in metrics_rows(folder)
    ]


def saved_state(folder: Path, step: int | None = None):
    """The arrays of a checkpoint by their names, without the library's reader."""
    import orbax.checkpoint as ocp

    steps = checkpoint.saved_steps(folder / "checkpoint")
    path = (folder / "checkpoint" / str(step or steps[-1])).resolve()
    with ocp.PyTreeCheckpointer() as reader:
        return reader.restore(path)


def assert_same(one: Path, other: Path) -> None:
    """Asserts equal parameters, bit by bit, and equal rows except for the speed."""
    left, right = saved_state(one), saved_state(other)
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)
    assert without_speed(one) == without_speed(other)


# Stopped.


@pytest.mark.parametrize(
    ("number", "code", "at"),
    [(signal.SIGTERM, 143, 40), (signal.SIGINT, 130, 120), (signal.SIGTERM, 143, 160)],
)
def test_a_signal_saves_the_step_that_was_reached(
    number, code, at, straight, tmp_path, monkeypatch, capsys
):
    """Stops between two evaluations, and just before one."""
    on_progress = RunFolder.on_progress

    def stop_at_step(self, run, progress):
        on_progress(self, run, progress)
        if progress.phase == "train" and progress.step == at:
            signal.raise_signal(number)
            time.sleep(0.2)  # a thread receives it

    monkeypatch.chdir(tmp_path)
    out = Path("-my run")
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "on_progress", stop_at_step)
        assert main(["train", *SHORT, f"--out={out}"]) == code
    said = capsys.readouterr().err
    assert (
        f"stopped by {number.name}. The state of step {at} is saved in {out}. Resume it with: "
        in said
    )
    command = said.split("Resume it with: ")[1].strip()
    assert command == "python -m rankpg train --resume --out './-my run'"
    assert checkpoint.latest_step(out / "checkpoint") == at
    run = load_run(out)
    assert (run.step, run.evaluated, run.state.step.tolist()) == (at, (at - 1) // 80 * 80, [at, at])
    assert "Stopped between evaluations" in (out / "RUN.md").read_text()
    assert main(["train", "--resume", "--out", str(out)]) == 0
    assert_same(straight, out)


def test_without_a_folder_a_signal_says_that_nothing_was_saved(monkeypatch, capsys):
    from rankpg.runs.progress import ProgressBar

    update = ProgressBar.update

    def stop_at_step(self, run, progress):
        update(self, run, progress)
        if progress.step == 40:
            signal.raise_signal(signal.SIGTERM)
            time.sleep(0.2)

    monkeypatch.setattr(ProgressBar, "update", stop_at_step)
    both = signal.SIGINT, signal.SIGTERM
    before = [
        signal.getsignal(number) for number in both
    ]  # a shell's background job ignores SIGINT
    assert main(["train", *SHORT]) == 143
    assert "It was at step 40. Nothing was saved: no --out" in capsys.readouterr().err
    assert [signal.getsignal(number) for number in both] == before


def test_a_second_signal_stops_at_once():
    """Even within a compiled program that never ends, where Python's own handlers are not called."""
    program = (
        "import jax\nfrom rankpg._utils.signals import listening\n"
        "spin = jax.jit(lambda x: jax.lax.while_loop(lambda c: c >= 0, lambda c: (c + 1) % 7, x))\n"
        "with listening():\n    print('ready', flush=True)\n    spin(0).block_until_ready()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for number in (signal.SIGINT, signal.SIGTERM):
            time.sleep(1.5)
            assert process.poll() is None
            process.send_signal(number)
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 143
    assert "SIGINT: stopping after the updates under way" in said
    assert "SIGTERM again: stopped at once" in said


def test_a_repeated_signal_counts_once(monkeypatch):
    from rankpg._utils import signals

    exits = []
    monkeypatch.setattr(signals, "_exit", exits.append)
    stop = signals.StopRequest()
    stop.receive(signal.SIGINT)
    stop.receive(signal.SIGINT)
    assert (stop.signal, exits) == (signal.SIGINT, [])
    monkeypatch.setattr(signals, "_SAME_SIGNAL_SECONDS", 0.0)
    stop.receive(signal.SIGINT)
    assert exits == [signal.SIGINT]


def run_script(*arguments) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("how", "seed"), [pytest.param("SIGTERM", 1, marks=pytest.mark.long), ("SIGKILL", 2)]
)
def test_ten_runs_killed_at_random_moments(how, seed, tmp_path):
    """Signals fall into updates, evaluations and saves; nothing of it shows in the end."""
    flags = (*FLAGS, "--num-steps", "2000", "--eval-every", "400")
    run_script(how, 10, seed, tmp_path, *flags)
    ends = json.loads((tmp_path / "ends.json").read_text())
    stopped = [end for end in ends if end["code"] != 0 and end["step"] < 2000]
    expected = {"SIGTERM": 143, "SIGKILL": -9}[how]
    assert {end["code"] for end in stopped} == {expected}
    # The others had trained to the end before the signal came.
    assert {end["code"] for end in ends if end["step"] == 2000} <= {
        0,
        expected,
        -signal.Signals[how],
    }
    assert len(stopped) >= 5
    assert len({end["step"] for end in stopped}) > 1
    if how == "SIGTERM":
        assert any(end["step"] % 400 for end in stopped)  # between evaluations
    for number in range(10):
        assert_same(tmp_path / "straight", tmp_path / str(number))


# Two writers.


def test_another_writer_is_refused(straight, tmp_path):
    copy = shutil.copytree(straight, tmp_path / "run")
    run = prepare(settings(num_steps=240))
    first, second = RunFolder(copy), RunFolder(copy)
    first.resume(run)
    for refused in (second.check_free, lambda: second.resume(prepare(settings(num_steps=240)))):
        with pytest.raises(ConfigError, match=rf"is being written by process {os.getpid()} on "):
            refused()
    assert load_run(copy).step == 160  # reading is for everyone
    first.close(run)
    second.resume(prepare(settings(num_steps=240)))


def test_two_processes_and_a_lock_that_dies_with_its_owner(tmp_path):
    run_script("two-writers", tmp_path, *FLAGS, "--num-steps", 1_000_000, "--eval-every", 50)
    ends = json.loads((tmp_path / "ends.json").read_text())
    assert (ends["first"], ends["second"], ends["third"]) == (-9, 2, 0)
    said = (tmp_path / "second.txt").read_text()
    assert f"is being written by process {ends['pid']} on " in said
    assert "Traceback" not in said
    rows = metrics_rows(tmp_path / "shared")
    assert sorted({row["step"] for row in rows}) == list(range(0, ends["reached"] + 51, 50))


# What is kept.


def evaluated(folder: RunFolder, run, step: int, value: float | None) -> None:
    """Makes the calls after an evaluation with this value for both seeds."""
    rows = tuple({"step": step, "seed": seed, "policy_value": value} for seed in (0, 1))
    run.metrics.extend(rows)
    folder.on_progress(run, Progress("evaluate", step, None, rows))


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        ({}, [40, 50]),
        ({"keep_last": 1}, [50]),
        ({"keep_last": 3}, [30, 40, 50]),
        ({"keep_last": 1, "keep_best": True}, [20, 50]),
    ],
)
def test_the_last_and_the_best_are_kept(keep, kept, tmp_path):
    run, folder = prepare(settings()), RunFolder(tmp_path / "run", **keep)
    folder.open(run)
    for step, value in ((0, 1.0), (10, 2.0), (20, 4.0), (30, None), (40, 3.0), (50, 3.5)):
        evaluated(folder, run, step, value)
    assert checkpoint.saved_steps(folder.path / "checkpoint") == kept
    assert load_run(folder.path).step == 50
    assert load_run(folder.path, step=kept[0]).step == kept[0]
    if keep.get("keep_best"):
        assert load_run(folder.path, step="best").step == 20
    else:
        message = r"the best evaluation of .* was at step 20, whose .*keep_best=True.*step=50"
        with pytest.raises(CheckpointError, match=message):
            load_run(folder.path, step="best")
    with pytest.raises(CheckpointError, match="holds no checkpoint of step 7; it has step "):
        load_run(folder.path, step=7)
    with pytest.raises(ConfigError, match="step='worst'; expected a number or 'best'"):
        load_run(folder.path, step="worst")


def test_a_resumed_run_keeps_the_same_checkpoints(tmp_path):
    """A resumed run keeps the best checkpoint although keep_best is not given again."""
    run, folder = prepare(settings()), RunFolder(tmp_path / "run", keep_last=1, keep_best=True)
    folder.open(run)
    evaluated(folder, run, 0, 5.0)
    evaluated(folder, run, 10, 1.0)
    folder.close(run)
    run, again = prepare(settings()), RunFolder(folder.path)
    again.resume(run)
    evaluated(again, run, 20, 2.0)
    assert checkpoint.saved_steps(folder.path / "checkpoint") == [0, 20]
    again.close(run)
    (folder.path / "folder.json").write_text('{"keep_last": 0, "keep_best": true, "track": []}')
    with pytest.raises(ConfigError, match=r"folder\.json holds .*expected values like"):
        RunFolder(folder.path).resume(prepare(settings()))


def test_evaluate_at_a_step(straight, capsys):
    for step, expected in (("80", 80), ("160", 160)):
        assert main(["evaluate", str(straight), "--json", "--step", step]) == 0
        found = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
        rows = [row for row in metrics_rows(straight) if row["step"] == expected]
        assert [row["policy_value"] for row in found] == [row["policy_value"] for row in rows]
    assert main(["evaluate", str(straight), "--step", "81"]) == 2
    assert "holds no checkpoint of step 81; it has step 80, 160" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--step", "5", "--out", "x"), "--step is the checkpoint of --resume"),
        (("--keep-best",), "--keep-best needs --out"),
        (("--keep-last", "0", "--out", "x"), "--keep-last 0; expected at least 1"),
    ],
)
def test_flags_without_effect_are_refused(flags, message, capsys):
    assert main(["train", *flags]) == 2
    assert message in capsys.readouterr().err


# Damage.


def truncate(folder: Path, step: int) -> Path:
    files = [f for f in (folder / "checkpoint" / str(step)).rglob("*") if f.is_file()]
    largest = max(files, key=lambda file: file.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    return largest


def test_a_damaged_checkpoint_offers_the_one_before(straight, tmp_path, capsys):
    copy = shutil.copytree(straight, tmp_path / "run")
    damaged = truncate(copy, 160)
    assert main(["train", "--resume", "--out", str(copy), "--num-steps", "240"]) == 2
    said = capsys.readouterr().err
    assert damaged.name in said
    assert "the one of step 80 is intact: continue from it with --resume and --step 80" in said
    assert without_speed(copy) == without_speed(straight)  # a refusal changes nothing
    assert main(["train", "--resume", "--step", "80", "--out", str(copy)]) == 0
    assert_same(straight, copy)


def test_no_damaged_checkpoint_is_offered(straight, tmp_path):
    copy = shutil.copytree(straight, tmp_path / "run")
    truncate(copy, 160)
    truncate(copy, 80)
    with pytest.raises(CheckpointError, match=r"160 cannot be read .* restore a copy of it"):
        load_run(copy)


def test_a_crash_while_one_checkpoint_takes_the_place_of_another(tmp_path):
    """Step 4 is saved again, as where a run was stopped just before its evaluation."""
    state = {"a": jnp.arange(5.0)}
    checkpoint.save(tmp_path, 4, state)
    os.replace(tmp_path / "4", tmp_path / "4.before")
    assert checkpoint.saved_steps(tmp_path) == [4]
    np.testing.assert_array_equal(checkpoint.restore(tmp_path, state)[1]["a"], np.arange(5.0))
    checkpoint.save(tmp_path, 8, state, keep=(4,))
    assert checkpoint.saved_steps(tmp_path) == [4, 8]
    checkpoint.save(tmp_path, 4, state)
    assert [entry.name for entry in tmp_path.iterdir()] == ["4"]


def change_metadata(folder: Path, step: int, **changes) -> None:
    """Changes the metadata of a checkpoint and its checksums, as another version would have saved it."""
    path = folder / "checkpoint" / str(step)
    metadata = json.loads((path / "notes.json").read_text())
    (path / "notes.json").write_text(json.dumps(metadata | changes))
    checksums = checkpoint_files.checksums_of(path)
    (path / "SHA256SUMS").write_text("".join(f"{d}  {name}\n" for name, d in checksums.items()))


def test_a_checkpoint_of_another_version(straight, tmp_path):
    copy = shutil.copytree(straight, tmp_path / "run")
    change_metadata(copy, 160, format=7, rankpg="9.9.9")
    message = r"160 has format 7, .*reads format 1 \(rankpg 9\.9\.9 wrote it, and this is "
    with pytest.raises(CheckpointError, match=message):
        load_run(copy)
    with (copy / "config.yaml").open("a") as file:
        file.write("colour: red\n")
    with pytest.raises(ConfigError, match=r"unknown setting 'colour'.* \(rankpg 9\.9\.9 wrote it"):
        load_run(copy)


def test_a_checkpoint_of_another_run_of_the_same_shape(straight, tmp_path):
    copy = shutil.copytree(straight, tmp_path / "run")
    config = load_config(copy).to_dict()
    change_metadata(copy, 160, config=config | {"learning_rate": 0.5})
    message = r"160 is of another config: learning_rate is 0\.5 there, and 0\.01 here"
    with pytest.raises(CheckpointError, match=message):
        load_run(copy)


def test_metrics_cut_in_the_middle_of_a_line(straight, tmp_path):
    """A crash within an append leaves such a file: the row is of an evaluation whose state was not saved."""
    copy = shutil.copytree(straight, tmp_path / "run")
    shutil.rmtree(copy / "checkpoint" / "160")
    lines = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_text("".join(lines[:4]) + lines[4][:57])
    assert main(["train", "--resume", "--out", str(copy)]) == 0
    assert_same(straight, copy)


# Full disks.


@contextlib.contextmanager
def small_disk(folder: Path, kib: int):
    """Mounts a file system of `kib` KiB."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)], capture_output=True
    )
    if done.returncode:
        pytest.skip("mounting a small file system needs rights")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def filled(disk: Path, but: int) -> None:
    """Fills the disk except for `but` bytes."""
    free = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - but)))


def test_a_disk_that_is_full(straight, tmp_path, capsys):
    disk = tmp_path / "disk"
    with small_disk(disk, 2048):
        copy = shutil.copytree(straight, disk / "run")
        filled(disk, 16 * 1024)
        before = saved_state(copy)
        assert main(["train", "--resume", "--out", str(copy), "--num-steps", "240"]) == 2
        said = capsys.readouterr().err
        assert "the state of step 240 (" in said
        assert "No space left on device" in said
        assert "Earlier checkpoints are kept: --resume continues from step 160" in said
        assert "--keep-last 1" in said
        assert "Traceback" not in said
        assert checkpoint.saved_steps(copy / "checkpoint") == [80, 160]
        assert all(np.array_equal(before[name], x) for name, x in saved_state(copy).items())
        assert not list((copy / "checkpoint").glob("*partial*"))
        (disk / "filler").unlink()
        assert main(["train", "--resume", "--out", str(copy)]) == 0
        assert load_run(copy).state.step.tolist() == [240, 240]


@contextlib.contextmanager
def files_up_to(size: int):
    """Limits the size of files that this process writes; beyond it the kernel returns EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # half a .pyc would stay
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        sys.dont_write_bytecode = bytecode


def test_a_state_that_does_not_fit(tmp_path):
    small, large = {"a": jnp.zeros(10)}, {"a": jax.random.normal(jax.random.key(0), (300_000,))}
    checkpoint.save(tmp_path, 4, small)
    message = r"the state of step 8 \(1\.1 MiB\) could not be saved in .*continues from step 4"
    with files_up_to(200_000), pytest.raises(SaveError, match=message):
        checkpoint.save(tmp_path, 8, large)
    assert [entry.name for entry in tmp_path.iterdir()] == ["4"]
    assert checkpoint.restore(tmp_path, small)[0] == 4


def test_rows_that_do_not_fit_are_removed(straight, tmp_path):
    copy = shutil.copytree(straight, tmp_path / "run")
    run, folder = prepare(settings(num_steps=240)), RunFolder(copy)
    folder.resume(run)
    before = (copy / "metrics.jsonl").read_bytes()
    rows = tuple(row | {"step": 240} for row in run.metrics[-2:])
    with files_up_to(len(before) + 100), pytest.raises(SaveError, match="rows of step 240"):
        folder.on_progress(run, Progress("evaluate", 240, None, rows))
    assert (copy / "metrics.jsonl").read_bytes() == before


def test_a_card_that_cannot_be_written_is_reported(straight, tmp_path):
    copy = shutil.copytree(straight, tmp_path / "run")
    card, run = (copy / "RUN.md").read_text(), load_run(copy)
    with files_up_to(100):
        problem = RunFolder(copy).close(run)
    assert problem is not None
    assert "no RUN.md" in problem
    assert (copy / "RUN.md").read_text() == card
    assert run_folder.CARD == "RUN.md"


def test_the_loop_can_be_left_and_entered_anywhere(tmp_path):
    """A run without a folder keeps its own position."""
    config, whole, parts = settings(num_steps=160), None, prepare(settings(num_steps=160))
    whole = prepare(config)
    for _ in training_loop(whole):
        pass
    while parts.evaluated < 160:
        for progress in training_loop(parts):
            if progress.phase == "train":
                break
    assert jax.tree.all(jax.tree.map(np.array_equal, whole.state, parts.state))
    drop = "steps_per_second"
    left, right = (
        [{k: v for k, v in r.items() if k != drop} for r in run.metrics] for run in (whole, parts)
    )
    assert left == right
