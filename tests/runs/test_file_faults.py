"""Every operation on files fails in turn: a folder is as before or as after, and both can be loaded."""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from helpers.file_faults import HOW, Killed, PlainCheckpointer, each_fault

from rankpg import TrainConfig
from rankpg._utils.files import atomic_write_text
from rankpg.environments.from_ratings import from_matrix
from rankpg.errors import ConfigError
from rankpg.runs.loop import training_loop
from rankpg.runs.run import prepare
from rankpg.runs.storage import checkpoint
from rankpg.runs.storage import folder as run_folder
from rankpg.runs.storage.dataset_file import load as load_dataset
from rankpg.runs.storage.folder import RunFolder
from rankpg.runs.storage.load import load_state

ENABLE_X64 = False

pytestmark = pytest.mark.usefixtures("as_a_user")

EACH = [("kill within", 5), *(pytest.param(how, 1, marks=pytest.mark.slow) for how in HOW)]
"""Kinds of faults, and the distance of the operations that they are tried at."""
KILLS = tuple(how for how in HOW if how.startswith("kill"))


@pytest.fixture(autouse=True)
def plain(monkeypatch, evaluations):
    """Replaces what is slow: Orbax, matplotlib, the Python part of PyYAML, and waiting for the disk."""
    monkeypatch.setattr(yaml, "safe_load", lambda text: yaml.load(text, yaml.CSafeLoader))
    dump = functools.partial(yaml.dump, Dumper=yaml.CSafeDumper)
    monkeypatch.setattr(yaml, "safe_dump", dump)
    monkeypatch.setattr(run_folder, "card", lambda run: "card")

    def read_config(path):  # a config takes long to check, and this one was
        settings = yaml.safe_load((path / "config.yaml").read_text())
        assert settings == evaluations[0][0].config.to_dict()
        return evaluations[0][0].config

    monkeypatch.setattr(run_folder, "load_config", read_config)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(checkpoint, "_checkpointer", PlainCheckpointer)
    monkeypatch.setattr(run_folder, "learning_curves", lambda _, path: atomic_write_text(path, "x"))


@pytest.fixture(scope="module")
def evaluations(as_a_user):
    """A run on data from memory as it was at each of its evaluations, and the progress of each."""
    data = from_matrix(np.random.default_rng(0).uniform(size=(6, 8)), item_ids=list("abcdefgh"))
    config = TrainConfig(
        num_candidates=2, batch_size=4, embedding_dim=2, num_steps=2, eval_every=1, seeds=(0,)
    )
    run, found = prepare(config, data), []
    for progress in training_loop(run):
        if progress.phase == "evaluate":
            then = copy.copy(run)
            then.state, then.metrics = jax.device_get(run.state), list(run.metrics)
            then.accumulator = copy.deepcopy(run.accumulator)
            found.append((then, progress))
    return found


def prepared(evaluations):
    """Returns the run as `prepare` returns it."""
    run = copy.copy(evaluations[0][0])
    run.metrics = []
    return run


def save(path: Path, evaluations, *steps: int) -> None:
    """Saves evaluations in a folder, as one process does."""
    folder, resumed, run = RunFolder(path), steps[0] > 0, prepared(evaluations)
    try:
        folder.resume(run) if resumed else folder.open(run)
        for step in steps:
            then, progress = evaluations[step]
            folder.on_progress(then, progress)
        folder.close(evaluations[steps[-1]][0])
    finally:
        folder.release()  # as the end of a process does


def loaded_step(path: Path, evaluations) -> int:
    """Returns the step of a folder, after comparing all that it holds with what was saved."""
    assert run_folder.load_config(path).num_steps == 2
    assert load_dataset(path / "data").item_ids.ids.tolist() == list("abcdefgh")
    run = prepared(evaluations)
    load_state(run, path)
    then = evaluations[run.step][0]
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(run.state), then.state)
    assert run.metrics == then.metrics
    return run.step


@pytest.mark.slow
@pytest.mark.parametrize(("how", "stride"), EACH)
def test_a_first_save_is_there_or_begins_anew(evaluations, tmp_path, how, stride):
    act = lambda path: save(path, evaluations, 0)  # noqa: E731
    outcomes, ways = set(), itertools.cycle(["the same command", "--resume"])
    for path, where, _ in each_fault(tmp_path, None, act, [how], stride):
        is_there = bool(checkpoint.saved_steps(path / "checkpoint"))
        outcomes.add(is_there)
        if is_there:
            with pytest.raises(ConfigError, match="already has a run"):
                RunFolder(path).check_free()
        elif next(ways) == "the same command":
            save(path, evaluations, 0)
        elif (path / "config.yaml").exists():
            folder = RunFolder(path)
            folder.resume(prepared(evaluations))
            assert "begins anew" in str(folder.notice), where
            folder.on_progress(*evaluations[0])
            folder.close(evaluations[0][0])
        else:
            with pytest.raises(ConfigError, match="holds no run to resume; leave out"):
                RunFolder(path).check_resumable()
            continue
        assert loaded_step(path, evaluations) == 0, where
    assert outcomes == {True, False}


@pytest.mark.slow
@pytest.mark.parametrize(("how", "stride"), EACH)
def test_a_later_save_leaves_the_earlier_or_the_later_state(evaluations, tmp_path, how, stride):
    start = tmp_path / "start"
    save(start, evaluations, 0, 1)
    outcomes, turns = set(), itertools.cycle(range(9))
    for path, where, _ in each_fault(
        tmp_path, start, lambda p: save(p, evaluations, 2), [how], stride
    ):
        step = loaded_step(path, evaluations)
        outcomes.add(step)
        if step == 1 and next(turns) == 0:  # it goes on, and nothing is left behind
            save(path, evaluations, 2)
            assert loaded_step(path, evaluations) == 2, where
            assert not list(path.rglob("*partial*")), where
    assert outcomes == {1, 2}


@pytest.mark.parametrize(("how", "stride"), EACH)
def test_the_same_step_is_replaced_or_not(evaluations, tmp_path, how, stride):
    state = {"a": np.arange(3.0)}
    checkpoint.save(tmp_path / "start", 4, state, metadata={"n": 1})
    act = lambda path: checkpoint.save(path, 4, {"a": np.arange(3.0) + 1}, metadata={"n": 2})  # noqa: E731
    outcomes = set()
    for path, where, _ in each_fault(tmp_path, tmp_path / "start", act, [how], stride):
        saved = checkpoint.find(path)
        assert saved.state(state)["a"][0] == saved.metadata["n"] - 1, where
        outcomes.add(saved.metadata["n"])
        act(path)
        assert [entry.name for entry in path.iterdir()] == ["4"], where
    assert outcomes == {1, 2}


@pytest.mark.parametrize(("how", "stride"), EACH)
def test_resuming_from_an_earlier_step_ends_there_or_changes_nothing(
    evaluations, tmp_path, how, stride
):
    start = tmp_path / "start"
    writer = RunFolder(start, keep_last=3)
    writer.open(evaluations[0][0])
    for then, progress in evaluations:
        writer.on_progress(then, progress)
    writer.close(evaluations[-1][0])

    def resume(path):
        folder = RunFolder(path)
        try:
            folder.resume(prepared(evaluations), step=0)
        finally:
            folder.release()

    faulty = each_fault(tmp_path, start, resume, [how], stride)
    assert {loaded_step(path, evaluations) for path, *_ in faulty} == {0, 2}


def test_a_file_is_replaced_or_not(tmp_path):
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "notes").write_text("before")
    seen = set()
    for path, where, error in each_fault(
        tmp_path, tmp_path / "start", lambda p: atomic_write_text(p / "notes", "after" * 99)
    ):
        seen.add(content := (path / "notes").read_text())
        assert content in ("before", "after" * 99), where
        assert isinstance(error, Killed) or (content == "before") == (error is not None), where
    assert len(seen) == 2


def test_the_faults_are_noticed(tmp_path):
    """A file that is written in place is lost."""
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "notes").write_text("before")

    def in_place(path):
        for _ in range(2):
            (path / "notes").write_text(json.dumps(list(range(99))))
            (path / "notes").chmod(0o600)

    found = [p for p, *_ in each_fault(tmp_path, tmp_path / "start", in_place, KILLS) if _lost(p)]
    assert found


def _lost(path: Path) -> bool:
    with contextlib.suppress(ValueError):
        return (path / "notes").read_text() != "before" and not json.loads(
            (path / "notes").read_text()
        )
    return True
