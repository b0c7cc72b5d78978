"""TensorBoard and Weights & Biases, offline: their files have every point once."""

from __future__ import annotations

import json
import struct
import time
from collections import Counter
from pathlib import Path

import pytest

from rankpg import TrainConfig
from rankpg.errors import ConfigError
from rankpg.runs.run import Progress, prepare
from rankpg.runs.storage.folder import RunFolder

ENABLE_X64 = False

pytestmark = pytest.mark.usefixtures("as_a_user")


@pytest.fixture(scope="module")
def run_of():
    """A fresh run each time, prepared as often as is needed."""
    config = TrainConfig(
        num_contexts=20, num_items=30, num_candidates=3, batch_size=8, embedding_dim=4, num_steps=50,
        eval_every=10, seeds=(0, 4),
    )  # fmt: skip
    return lambda: prepare(config)


def evaluated(folder, run, *steps):
    """Makes the calls after evaluations, whose values encode step and seed."""
    for step in steps:
        rows = tuple(
            {
                "step": step,
                "seed": seed,
                "policy_value": step + seed / 8,
                "loss": None if step == 0 else 0.5,
            }
            for seed in (0, 4)
        )
        run.metrics.extend(rows)
        folder.on_progress(run, Progress("evaluate", step, None, rows))


def expected(*steps):
    """(name, step, value) of every point, sorted."""
    found = []
    for step in steps:
        values = {
            "policy_value": step + 0.25,
            "seed_0/policy_value": step,
            "seed_4/policy_value": step + 0.5,
        }
        values |= dict.fromkeys(("loss", "seed_0/loss", "seed_4/loss"), 0.5) if step else {}
        found += [(name, step, float(value)) for name, value in values.items()]
    return sorted(found)


def interrupted_and_resumed(path, run_of, name, step=None):
    """Steps 0, 10, 20; then, perhaps from an earlier one, on to 40."""
    run, folder = run_of(), RunFolder(path, track=[name], keep_last=3)
    folder.open(run)
    evaluated(folder, run, 0, 10, 20)
    folder.close(run)
    time.sleep(1.1 if name == "wandb" else 0)  # it names its folders by id and second
    run, again = run_of(), RunFolder(path)
    again.resume(run, step)
    last = 20 if step is None else step
    evaluated(again, run, *range(last + 10, 41, 10))
    again.close(run)


# TensorBoard.


def events(folder: Path):
    """The scalars of all event files, read record by record: length, its checksum, content, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in sorted(folder.iterdir()):
        content, at = file.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            event = Event.FromString(content[at + 12 : at + 12 + length])
            at += length + 16
            found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
    return sorted(found)


@pytest.mark.slow
@pytest.mark.parametrize("step", [None, 10])
def test_tensorboard(step, run_of, tmp_path):
    interrupted_and_resumed(tmp_path / "run", run_of, "tensorboard", step)
    found = events(tmp_path / "run" / "tensorboard")
    assert found == expected(0, 10, 20, 30, 40)
    assert max(Counter((name, step) for name, step, _ in found).values()) == 1


# Weights & Biases.


def records(file: Path):
    """The records of a file of Weights & Biases, which is a LevelDB log behind a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, parts, found = file.read_bytes(), 7, b"", []
    while at + 7 <= len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            found.append(Record.FromString(parts))
            parts = b""
    return found


def logged(folder: Path):
    """(name, step, value) of every point of every track, by the track's id."""
    tracks = {}
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        track = tracks.setdefault(file.stem.removeprefix("run-"), [])
        for record in records(file):
            if record.WhichOneof("record_type") != "history":
                continue
            items = {
                i.key or "/".join(i.nested_key): json.loads(i.value_json)
                for i in record.history.item
            }
            step = items["step"]
            track += [
                (name, step, float(value))
                for name, value in items.items()
                if not name.startswith("_") and name != "step"
            ]
    return {name: sorted(track) for name, track in tracks.items()}


@pytest.mark.slow
@pytest.mark.parametrize("step", [None, 10])
def test_wandb_offline(step, run_of, tmp_path, monkeypatch):
    """A resumed run continues its track; from an earlier step it begins another one, which is complete."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name))
    interrupted_and_resumed(tmp_path / "run", run_of, "wandb", step)
    import wandb

    wandb.teardown()  # finish() returns before the file is complete; a process that ends waits for it
    tracks = logged(tmp_path / "run")
    track = json.loads((tmp_path / "run" / "wandb.json").read_text())
    assert track["step"] == 40
    assert tracks[track["id"]] == expected(0, 10, 20, 30, 40)
    assert len(tracks) == (1 if step is None else 2)


# Refusals.


def test_a_missing_package_names_the_extra(tmp_path, monkeypatch):
    from rankpg.runs.storage import trackers

    monkeypatch.setitem(trackers._PACKAGES, "wandb", "a_package_that_is_not_there")
    with pytest.raises(ModuleNotFoundError, match=r"track='wandb' needs .*rankpg\[track\]"):
        RunFolder(tmp_path, track=["wandb"])


def test_an_unknown_tracker(tmp_path):
    with pytest.raises(ConfigError, match="track='paper'; expected one of tensorboard, wandb"):
        RunFolder(tmp_path, track=["paper"])


def test_a_tracker_that_fails_does_not_end_the_run(run_of, tmp_path, capsys):
    run, folder = run_of(), RunFolder(tmp_path / "run", track=["tensorboard"])
    folder.open(run)
    evaluated(folder, run, 0)
    assert folder._tracks is not None
    tracker = folder._tracks._open["tensorboard"]
    tracker.close()

    def full(*_):
        raise OSError("no space left on device")

    tracker.log = full
    evaluated(folder, run, 10, 20)
    said = capsys.readouterr().err
    assert said.count("the tracker tensorboard failed and is dropped: no space left on device") == 1
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == 6
    folder.close(run)


def test_a_tracker_that_does_not_open_is_one_sentence(run_of, tmp_path, monkeypatch):
    from rankpg.runs.storage import trackers

    def not_logged_in(*_):
        raise RuntimeError("No API key configured.\nLog in first")

    monkeypatch.setitem(trackers.TRACKERS, "tensorboard", not_logged_in)
    folder = RunFolder(tmp_path / "run", track=["tensorboard"])
    with pytest.raises(ConfigError, match=r"cannot be opened: No API key .* Log in first\."):
        folder.open(run_of())


@pytest.mark.slow
def test_a_tracker_that_does_not_close_keeps_the_run(run_of, tmp_path, capsys):
    run, folder = run_of(), RunFolder(tmp_path / "run", track=["tensorboard"])
    folder.open(run)
    evaluated(folder, run, 0)
    assert folder._tracks is not None

    def no_network():
        raise RuntimeError("no network")

    folder._tracks._open["tensorboard"].close = no_network
    assert folder.close(run) is None
    assert "the tracker tensorboard did not close: no network" in capsys.readouterr().err
    assert (tmp_path / "run" / "RUN.md").exists()
    RunFolder(tmp_path / "run").resume(run_of())  # the lock was given back
