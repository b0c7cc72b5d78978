"""Runs that travel: other working folders, moved tables, other machines, and ~ for the home directory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from rankpg import TrainConfig, load_run, train
from rankpg.cli.main import main
from rankpg.environments.from_ratings import from_matrix
from rankpg.errors import ConfigError
from rankpg.export.folder import export
from rankpg.runs.evaluator import evaluate_run
from rankpg.runs.storage.checkpoint import CheckpointError

ENABLE_X64 = False

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_a_user")]

TABLE = "user,item,rating\n" + "".join(
    f"u{u},i{i},{1 + (u * i) % 3}\n" for u in range(4) for i in range(6)
)
SMALL: dict[str, Any] = {
    "num_candidates": 2,
    "batch_size": 4,
    "num_steps": 2,
    "eval_every": 1,
    "seeds": (0,),
}


@pytest.fixture(scope="module")
def trained(as_a_user, tmp_path_factory):
    """A folder with a table and a run on it, whose config named the table relative to that folder."""
    base = tmp_path_factory.mktemp("project")
    (base / "data").mkdir()
    (base / "data" / "ratings.csv").write_text(TABLE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        train(
            TrainConfig(environment="ratings", path="data/ratings.csv", **SMALL), out="runs/first"
        )
    return base


@pytest.fixture
def project(trained, tmp_path):
    """A copy of it in which the absolute path of the run's settings leads nowhere."""
    moved = shutil.copytree(trained, tmp_path / "moved")
    file = moved / "runs" / "first" / "config.yaml"
    file.write_text(file.read_text().replace(str(trained), "/nowhere"))
    return moved


@pytest.mark.slow
def test_a_relative_path_is_stored_absolute(trained, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    settings = yaml.safe_load((trained / "runs" / "first" / "config.yaml").read_text())
    assert settings["path"] == str(trained / "data" / "ratings.csv")
    saved = json.loads((trained / "runs" / "first" / "folder.json").read_text())
    assert saved["paths"] == {"path": "../../data/ratings.csv"}
    assert load_run(trained / "runs" / "first").environment.knows_rewards


@pytest.mark.slow
def test_a_relative_path_of_a_settings_file_is_stored_absolute(trained, monkeypatch, tmp_path):
    monkeypatch.chdir(trained / "data")
    (tmp_path / "mine.yaml").write_text("environment: ratings\npath: ratings.csv\nnum_steps: 1\n")
    flags = ["--num-candidates", "2", "--seeds", "0", "--eval-every", "1"]
    out = str(tmp_path / "run")
    assert main(["train", "--config", str(tmp_path / "mine.yaml"), "--out", out, *flags]) == 0
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", out]) == 0


@pytest.mark.slow
def test_a_run_that_moved_together_with_its_table_finds_it(project):
    run = load_run(project / "runs" / "first")
    assert run.config.path == str(project / "data" / "ratings.csv")
    assert run.environment.knows_rewards
    assert main(["evaluate", str(project / "runs" / "first")]) == 0
    flags = ["--resume", "--num-steps", "3", "--out", str(project / "runs" / "first")]
    assert main(["train", *flags]) == 0
    settings = yaml.safe_load((project / "runs" / "first" / "config.yaml").read_text())
    assert settings["path"] == str(project / "data" / "ratings.csv")


@pytest.mark.slow
def test_a_moved_table_is_given_by_path(project, tmp_path, capsys):
    path, elsewhere = project / "runs" / "first", tmp_path / "elsewhere.csv"
    shutil.move(project / "data" / "ratings.csv", elsewhere)
    for command in (
        ["evaluate", str(path)],
        ["train", "--resume", "--num-steps", "3", "--out", str(path)],
    ):
        assert main(command) == 2
        said = capsys.readouterr().err
        assert f"the data of {path} is not at /nowhere/data/ratings.csv" in said
        assert "pass its present place, --path" in said
        elsewhere.write_text(TABLE.replace("u1,i1,2", "u1,i1,3"))
        assert main([*command, "--path", str(elsewhere)]) == 2
        assert "the checksum of numbers" in capsys.readouterr().err
        elsewhere.write_text(TABLE)
        assert main([*command, "--path", str(elsewhere)]) == 0
        capsys.readouterr()
    assert load_run(path).config.path == str(elsewhere)  # a resumed run knows where it is
    assert load_run(path).step == 3


def test_a_run_without_its_table_serves_and_is_exported(project, trained, tmp_path):
    shutil.rmtree(project / "data")
    run, original = load_run(project / "runs" / "first"), load_run(trained / "runs" / "first")
    assert not run.environment.knows_rewards
    users = [f"u{u}" for u in range(4)]
    assert run.candidates(users).tolist() == original.candidates(users).tolist()
    with pytest.raises(ConfigError, match=r"data_path="):
        evaluate_run(run)
    pytest.importorskip("safetensors")
    folders = [
        export(r, tmp_path / name, index="none") for r, name in ((run, "a"), (original, "b"))
    ]
    for name in ("items.safetensors", "items.json", "context_tower.safetensors", "contexts.json"):
        assert len({(folder / name).read_bytes() for folder in folders}) == 1, name
    modes = {file.stat().st_mode & 0o777 for folder in folders for file in folder.iterdir()}
    assert len(modes) == 1


def test_another_table_is_refused_without_checksums(project):
    """A folder without data.json cannot recognise its table."""
    path = project / "runs" / "first"
    (path / "data.json").unlink()
    with pytest.raises(CheckpointError, match="of another config: path is "):
        load_run(path)


@pytest.fixture
def home(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


@pytest.mark.slow
def test_a_tilde_is_the_home_directory(home):
    (home / "ratings.csv").write_text(TABLE)
    config = TrainConfig(environment="ratings", path="~/ratings.csv", **SMALL)
    assert config.path == str(home / "ratings.csv")
    run = train(config, out="~/runs/first")
    assert load_run("~/runs/first").step == run.step == 2
    assert main(["evaluate", "~/runs/first", "--path", "~/ratings.csv"]) == 0
    assert main(["report", "~/runs/first", "--out", "~/page.html"]) == 0
    assert {entry.name for entry in home.iterdir()} == {"ratings.csv", "runs", "page.html"}
    assert not list(Path().iterdir())


def test_a_tilde_in_every_other_place(home):
    from rankpg import online
    from rankpg.data.files import check_file

    data = from_matrix(np.random.default_rng(0).random((4, 6)))
    retriever = online.Retriever.new(TrainConfig(**SMALL), data, log=online.Log("~/log"))
    retriever.save("~/online")
    assert online.Retriever.load("~/online", environment=data).step == 0
    (home / "x.csv").write_text(TABLE)
    assert check_file("~/x.csv", [".csv"]) == home / "x.csv"
    assert not list(Path().iterdir())


@pytest.mark.parametrize("name", ["init_embeddings", "path"])
def test_a_blank_path_is_refused(name):
    with pytest.raises(ConfigError):
        TrainConfig.from_dict({"environment": "ratings", "path": "x.csv"} | {name: " "})
