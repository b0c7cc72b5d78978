"""Every operation of an online retriever's save and of its log fails in turn."""

from __future__ import annotations

import copy
import functools
import os
import shutil

import jax
import numpy as np
import pytest
from helpers.file_faults import HOW, PlainCheckpointer, each_fault

from rankpg import TrainConfig, online
from rankpg.online import log as online_log
from rankpg.online import snapshot
from rankpg.runs.storage import checkpoint
from rankpg.runs.storage.checkpoint_files import saved_steps
from rankpg.runs.storage.load import load_state

pytestmark = pytest.mark.usefixtures("standard_promotion")

EACH = [("kill within", 4), *(pytest.param(how, 1, marks=pytest.mark.slow) for how in HOW)]


def new(log=None) -> online.Retriever:
    config = TrainConfig(
        num_candidates=3, ranking_length=2, batch_size=2, embedding_dim=2, seeds=(0,)
    )
    return online.Retriever.new(config, online.catalogue(4, 6), log=log)


@pytest.fixture
def saved(monkeypatch, tmp_path):
    """A folder that was saved at step 0 with an open draw, and its retriever, which has learnt since."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(checkpoint, "_checkpointer", PlainCheckpointer)
    monkeypatch.setattr(snapshot, "card", lambda run, **_: "card")
    retriever, start = new(), tmp_path / "start"
    drawn = retriever.act([0, 1])
    retriever.save(start)
    states = {0: jax.device_get(retriever.run.state)}
    empty = copy.copy(retriever.run)
    retriever.update(drawn.token, drawn.candidates[:, :2], np.ones((2, 2)))
    states[1] = jax.device_get(retriever.run.state)

    def load_run(path):  # without preparing another run
        run = copy.copy(empty)
        run.metrics, run.state = [], states[0]
        load_state(run, path)
        return run

    monkeypatch.setattr(snapshot, "load_run", load_run)
    return start, retriever, states, drawn


def loaded(path, states) -> tuple[int, list[int]]:
    """Returns step and open draws of a folder, after comparing its state."""
    found = snapshot.load(path)
    step = int(found.run.state.step[0])
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(found.run.state), states[step])
    assert found.owner.last_save
    return step, list(found.draws.waiting)


@pytest.mark.slow
@pytest.mark.parametrize(("how", "stride"), EACH)
def test_a_second_save_leaves_the_first_or_is_complete(saved, tmp_path, how, stride):
    start, retriever, states, drawn = saved
    known = retriever._saves[start.resolve()]
    first = loaded(start, states)
    assert first == (0, [int(drawn.token.split(".")[1])])

    def act(path):
        retriever._saves[path.resolve()] = known
        retriever.save(path)

    outcomes = set()
    for path, where, _ in each_fault(tmp_path, start, act, [how], stride):
        step, waiting = loaded(path, states)
        assert (step, waiting) in (first, (1, [])), where
        outcomes.add(step)
        if step == 0:  # the same process saves again, as when there is space
            act(path)
        assert loaded(path, states) == (1, []), where
    assert outcomes == {0, 1}


@pytest.mark.slow
@pytest.mark.parametrize(("how", "stride"), EACH)
def test_a_first_save_is_complete_or_can_be_repeated(saved, tmp_path, how, stride):
    _, retriever, states, _ = saved
    outcomes = set()
    for path, where, _ in each_fault(tmp_path, None, retriever.save, [how], stride):
        retriever._saves.clear()
        outcomes.add(there := bool(saved_steps(path / "checkpoint")))
        if not there:
            with pytest.raises(ValueError, match=r"holds no checkpoint|does not hold an online"):
                snapshot.load(path)
            retriever.save(path)
        assert loaded(path, states)[0] == 1, where
    assert outcomes == {True, False}


def test_a_failure_after_the_commit_does_not_fail_the_save(saved, tmp_path, monkeypatch):
    """The next save would otherwise take the folder for one of another process."""
    start, retriever, states, _ = saved

    def full(*_):
        raise OSError("no space")

    monkeypatch.setattr(snapshot, "card", lambda *_, **__: full())
    monkeypatch.setattr("rankpg.runs.storage.checkpoint_files._remove", full)
    retriever.save(start)
    retriever.save(start)
    assert loaded(start, states) == (1, [])


def test_a_save_removes_what_a_killed_one_left(saved):
    start, retriever, _, _ = saved
    left = [start / f"{name}.0123abcd.partial" for name in ("metrics.jsonl", "RUN.md")]
    for file in left:
        file.touch()
    retriever.save(start)
    assert not any(file.exists() for file in left)


def test_a_folder_of_an_earlier_version_is_loaded(saved):
    """Open draws and the owner were files beside the checkpoint."""
    start, _, states, drawn = saved
    place = start / "checkpoint" / "0"
    held = checkpoint.find(start / "checkpoint").metadata["retriever"]
    (start / "live" / "retriever.json").write_text(snapshot.json.dumps(held))
    shutil.move(place / "open_draws.npz", start / "live" / "0.npz")
    state = states[0]
    checkpoint.save(start / "checkpoint", 0, state)
    assert loaded(start, states) == (0, [int(drawn.token.split(".")[1])])


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)  # kills a thread
@pytest.mark.parametrize("how", HOW)
def test_a_log_has_whole_files(saved, tmp_path, how):
    """A flush that fails keeps its rows; one that is killed loses them, and nothing else."""
    retriever = new()

    def act(path, logs):
        log = online_log.Log(path)
        retriever.log = log
        log.declare(retriever.run.dataset.context_ids, retriever.run.dataset.item_ids)
        logs.append(log)
        for _ in range(2):
            retriever.act([0, 1])
            log.flush()

    logs: list[online_log.Log] = []
    seen = set()
    for path, where, _ in each_fault(tmp_path, None, functools.partial(act, logs=logs), [how]):
        draws, _ = online_log.read_log(path)
        before = 0 if draws is None else len(draws)
        assert before in (0, 2, 4), where
        seen.add(before)
        if not how.startswith("kill"):
            logs[-1].flush()
            after = len(online_log.read_log(path)[0])
            assert after >= max(before, 2), where
            assert len(set(online_log.read_log(path)[0]["token"].to_pylist())) == after / 2, where
    assert len(seen) > 1
