"""Run folders from anyone: nothing outside of them is written or removed, and nothing of others in them."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.small_runs import train_into

from rankpg.cli.main import main
from rankpg.errors import ConfigError
from rankpg.runs.storage import checkpoint
from rankpg.runs.storage.checkpoint import CheckpointError
from rankpg.runs.storage.checkpoint_files import drop_beyond, tidy, write_checksums
from rankpg.runs.storage.first_save import clear_temporary_files
from rankpg.runs.storage.folder import RunFolder, _read_keeping
from rankpg.runs.storage.load import load_run

ENABLE_X64 = False

pytestmark = pytest.mark.usefixtures("as_a_user")

STATE = {"a": np.arange(3.0)}


@pytest.fixture(scope="module")
def trained(as_a_user, tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "run"
    train_into(path, num_steps=2, eval_every=1, seeds=(0,))
    return path


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def resume(path: Path) -> int:
    return main(["train", "--resume", "--out", str(path), "--num-steps", "3"])


LINKED = (
    "writer.lock", "checkpoint", "checkpoint/2", "checkpoint/2/notes.json", "metrics.jsonl", "config.yaml",
    "folder.json", "RUN.md", "learning_curve.png",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", LINKED)
def test_a_link_below_a_run_folder_is_refused(run, tmp_path, name, capsys):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "private").write_text("private")
    place = run / name
    target = outside / "moved"
    shutil.move(place, target)
    place.symlink_to(target)
    before = contents(outside)
    assert resume(run) == 2
    assert f"{name} is a symbolic link" in capsys.readouterr().err
    for use in (load_run, lambda path: RunFolder(path).check_free()):
        with pytest.raises(ConfigError, match="is a symbolic link"):
            use(run)
    assert contents(outside) == before


@pytest.mark.parametrize("name", ["data", "data/ids.json", "live", "tensorboard", "wandb"])
def test_a_link_in_place_of_what_is_not_there_yet_is_refused(tmp_path, name):
    (tmp_path / "outside").mkdir()
    (tmp_path / "run" / name).parent.mkdir(parents=True)
    (tmp_path / "run" / name).symlink_to(tmp_path / "outside" / "absent")
    with pytest.raises(ConfigError, match="is a symbolic link"):
        RunFolder(tmp_path / "run").check_free()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["writer.lock", "metrics.jsonl"])
def test_a_file_with_a_second_name_is_not_changed(run, tmp_path, name, capsys):
    """Hard links: the lock and the metrics are the files that are changed in place."""
    other = tmp_path / "other"
    os.link(run / name, other)
    before = other.read_bytes()
    code = resume(run)
    assert other.read_bytes() == before
    assert (code == 0) == (name == "metrics.jsonl")  # it is replaced as a whole when a run resumes
    assert code == 0 or "it has another name" in capsys.readouterr().err


def test_a_pipe_is_refused(run):
    (run / "metrics.jsonl").unlink()
    os.mkfifo(run / "metrics.jsonl")
    with pytest.raises(ConfigError, match="neither a file nor a folder"):
        load_run(run)


@pytest.mark.slow
def test_a_link_to_the_run_folder_itself_works(run, tmp_path):
    (tmp_path / "mine").symlink_to(run)
    assert resume(tmp_path / "mine") == 0
    assert load_run(tmp_path / "mine").step == load_run(run).step == 3


@pytest.mark.slow
def test_files_of_others_stay(run):
    """A Finder's file, notes, folders whose names are not of this program, and links among them."""
    place = run / "checkpoint"
    (place / ".DS_Store").touch()
    (place / "2" / ".DS_Store").touch()
    (place / "readme.txt").write_text("mine")
    for name in ("old", "7 copy", "007", "7.bak", "1e3"):
        (place / name).mkdir()
        (place / name / "precious").write_text("mine")
    (place / "mine").symlink_to(place / "old")
    assert resume(run) == 0
    assert load_run(run).step == 3
    for name in ("old", "7 copy", "007", "7.bak", "1e3"):
        assert (place / name / "precious").read_text() == "mine"
    assert (place / "readme.txt").exists()
    assert (place / "mine").is_symlink()


def test_a_file_of_somebody_else_in_a_removed_checkpoint_stays(tmp_path):
    checkpoint.save(tmp_path, 4, STATE)
    (tmp_path / "4" / "mine").write_text("mine")
    checkpoint.save(tmp_path, 8, STATE)
    assert checkpoint.saved_steps(tmp_path) == [8]
    assert [file.read_text() for file in tmp_path.rglob("mine")] == ["mine"]
    assert [p.name for p in tmp_path.rglob("*") if "removed" in str(p) and p.is_file()] == ["mine"]


def test_a_manifest_removes_nothing_outside(tmp_path):
    folder, outside = tmp_path / "checkpoint", tmp_path / "outside"
    checkpoint.save(folder, 4, STATE)
    outside.write_text("mine")
    lines = (folder / "4" / "SHA256SUMS").read_text()
    (folder / "4" / "SHA256SUMS").write_text(f"0  ../../outside\n0  {outside}\n" + lines)
    tidy(folder, [])
    assert outside.read_text() == "mine"
    assert not list(folder.iterdir())


def test_a_folder_without_a_manifest_is_set_aside_and_keeps_its_files(tmp_path):
    checkpoint.save(tmp_path, 4, STATE)
    (tmp_path / "12").mkdir()
    (tmp_path / "12" / "precious").write_text("mine")
    checkpoint.save(tmp_path, 5, STATE)
    assert (tmp_path / "12" / "precious").exists()
    drop_beyond(tmp_path, 5)
    assert checkpoint.saved_steps(tmp_path) == [5]
    assert [file.read_text() for file in tmp_path.rglob("precious")] == ["mine"]


DAMAGED_MANIFESTS = {
    "zeros, as after a power failure": b"\0" * 300,
    "a zero in a name": b"0  a\0b\n",
    "a folder": b"0  d\n",
    "itself": b"0  .\n",
    "no name": b"0\n",
    "not text": b"\xff\xfe",
    "too long a name": b"0  " + b"x" * 5000 + b"\n",
}


@pytest.mark.parametrize("content", DAMAGED_MANIFESTS.values(), ids=DAMAGED_MANIFESTS)
def test_a_damaged_manifest_neither_stops_a_save_nor_a_return_to_an_earlier_step(tmp_path, content):
    for step in (4, 5):
        (tmp_path / str(step) / "d").mkdir(parents=True)
        (tmp_path / str(step) / "d" / "mine").write_text("mine")
        (tmp_path / str(step) / "SHA256SUMS").write_bytes(content)
    drop_beyond(tmp_path, 4)
    assert checkpoint.saved_steps(tmp_path) == [4]
    tidy(tmp_path, [])
    assert checkpoint.saved_steps(tmp_path) == []
    assert len([*tmp_path.rglob("mine")]) == 2


def test_a_line_without_a_name_is_damage(tmp_path):
    checkpoint.save(tmp_path, 4, STATE)
    (tmp_path / "4" / "SHA256SUMS").write_bytes(b"\0" * 300)
    with pytest.raises(CheckpointError, match="a line of SHA256SUMS names no file"):
        checkpoint.find(tmp_path)


@pytest.mark.parametrize("metadata", [[], {}, "x", {"format": 1, "config": "x"}])
def test_metadata_of_another_form_is_damage(tmp_path, metadata):
    checkpoint.save(tmp_path, 4, STATE)
    (tmp_path / "4" / "notes.json").write_text(json.dumps(metadata))
    write_checksums(tmp_path / "4")
    with pytest.raises(CheckpointError, match=r"4 cannot be read \(notes\.json: "):
        checkpoint.find(tmp_path)


def test_temporary_files_go_and_a_folder_of_such_a_name_stays(tmp_path):
    left = [f"{name}.0123abcd.partial" for name in ("config.yaml", "wandb.json", "data/ids.json")]
    (tmp_path / "data").mkdir()
    for name in left:
        (tmp_path / name).touch()
    others = ["config.yaml.0123abcd.partial2", "config.yaml.xyz.partial", "mine.0123abcd.partial"]
    for name in others:
        (tmp_path / name).touch()
    (tmp_path / "metrics.jsonl.0123abcd.partial").mkdir()
    clear_temporary_files(tmp_path)
    assert not [name for name in left if (tmp_path / name).exists()]
    assert all((tmp_path / name).exists() for name in others)
    assert (tmp_path / "metrics.jsonl.0123abcd.partial").is_dir()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[1]", "another form"),
        ("{}", "it lacks 'keep_last'"),
        ('{"keep_last": 2, "keep_best": false, "track": ["x"]}', "track='x'"),
        ('{"keep_last": 2, "keep_best": false, "track": [[1]]}', "another form"),
        ('{"keep_last": 1e400}', "not finite"),
    ],
)
def test_a_damaged_record_of_what_is_kept_is_named(run, content, reason):
    (run / "folder.json").write_text(content)
    with pytest.raises(ConfigError, match=rf"folder\.json cannot be read \(.*{reason}"):
        _read_keeping(run)


def test_a_data_folder_of_somebody_else_is_not_overwritten(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ids.json").write_text("mine")
    with pytest.raises(ConfigError, match=r"has data/ids\.json, which would be overwritten"):
        RunFolder(tmp_path).check_free()
    assert (tmp_path / "data" / "ids.json").read_text() == "mine"


@pytest.mark.parametrize("number", ["Infinity", "NaN", "1e400", "1" + "0" * 400])
def test_a_row_of_metrics_that_is_not_finite_is_named(run, number, capsys):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    lines[-1] = lines[-1].replace('"policy_value": ', f'"policy_value": {number}, "x": ')
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert resume(run) == 2
    said = capsys.readouterr().err
    assert f"metrics.jsonl, line {len(lines)}" in said
    assert re.search("a number is not finite|a value is not a finite number|digits", said)


@pytest.mark.parametrize("step", [-1, 10**40])
def test_a_step_that_no_run_can_have_is_named(run, step, capsys):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    row = json.loads(lines[-1]) | {"step": step}
    (run / "metrics.jsonl").write_text("\n".join([*lines[:-1], json.dumps(row)]) + "\n")
    assert resume(run) == 2
    assert f"metrics.jsonl, line {len(lines)} is not a row of metrics" in capsys.readouterr().err


def test_all_files_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        checkpoint.save(tmp_path / "checkpoint", 4, STATE, files={"more": b"x"})
        RunFolder(tmp_path)._hold()
    finally:
        os.umask(before)
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) > 5
    assert {oct(p.stat().st_mode & 0o777) for p in files} == {"0o640"}
