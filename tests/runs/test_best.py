"""The best evaluation, and the end of training by patience."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.small_logs import log_data, log_run
from hypothesis import given
from hypothesis import strategies as st

from rankpg import TrainConfig
from rankpg.environments import from_matrix
from rankpg.errors import ConfigError
from rankpg.runs import loop
from rankpg.runs.best import VALIDATION, best_step, is_exhausted
from rankpg.runs.evaluator import Evaluator
from rankpg.runs.run import Progress, prepare
from rankpg.runs.storage import checkpoint
from rankpg.runs.storage.folder import RunFolder
from rankpg.runs.storage.load import load_run

ENABLE_X64 = False
pytestmark = pytest.mark.usefixtures("as_a_user")


def _rows(values, name=VALIDATION):
    """One row of every step and seed; `values` has a list of seeds for each step."""
    return [
        {"step": 10 * index, "seed": seed, "policy_value": 0.0} | {name: value}
        for index, of_seeds in enumerate(values)
        for seed, value in enumerate(of_seeds)
    ]


@given(
    st.lists(st.tuples(*[st.sampled_from([0.0, 0.25, 0.5, None])] * 2), min_size=1, max_size=7),
    st.integers(1, 4),
)
def test_patience_counts_evaluations_without_a_rise(values, patience):
    rows = _rows(values)
    best, since, step = -np.inf, 0, None
    stopped = False
    for index, of_seeds in enumerate(values):  # the rule, evaluation by evaluation
        mean = np.nan if None in of_seeds else np.mean(of_seeds)
        since += 1
        if mean > best:
            best, since, step = mean, 0, 10 * index
        seen = [row for row in rows if row["step"] <= 10 * index]
        some = any(row[VALIDATION] is not None for row in seen)
        if some:  # else the data has no validation part
            stopped = since >= patience
            assert is_exhausted(seen, patience) == stopped
            assert best_step(seen) == step


def test_best_step_without_validation_is_the_latest_of_equals():
    rows = _rows([[1.0, 3.0], [4.0, 0.0], [2.0, 2.0], [9.0, None]], name="policy_value")
    assert best_step(rows) == 20
    assert best_step([]) is None


def test_patience_needs_a_validation_part():
    config = TrainConfig(patience=2, num_candidates=2, num_steps=1, seeds=(0,))
    for data in (log_data(validation_share=0.0), from_matrix(np.eye(12))):
        with pytest.raises(ConfigError, match=r"patience=2.*no validation part; give"):
            prepare(config, data)


class _Scripted(Evaluator):
    """An evaluator whose validation metrics are given, one for each evaluation."""

    values: tuple[float, ...] = ()

    def __init__(self, run):
        self.run = run

    def evaluate_now(self):
        run, step = self.run, self.run.step
        value = self.values[step // run.config.eval_every]
        rows = tuple(
            {"step": step, "seed": seed, "policy_value": 0.0, VALIDATION: value}
            for seed in run.config.seeds
        )
        run.metrics.extend(rows)
        run.accumulator = type(run.accumulator)()
        return Progress("evaluate", step, None, rows)


class _Counting:
    """A chunk that sets every parameter to the number of updates made."""

    def __init__(self, learner, length):
        self.length = length

    def __call__(self, learner, state, roots):
        step = state.step + self.length
        params = jax.tree.map(
            lambda x: jnp.full_like(x, step.astype(x.dtype).reshape(-1)[0]), state.params
        )
        metrics = _Metrics(jnp.zeros((len(state.step), self.length)))
        return dataclasses.replace(state, step=step, params=params), metrics


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class _Metrics:
    loss: jax.Array


@pytest.fixture
def scripted(monkeypatch):
    monkeypatch.setattr(loop, "Evaluator", _Scripted)
    monkeypatch.setattr(loop, "train_chunk", _Counting)

    def script(*values):
        monkeypatch.setattr(_Scripted, "values", values)

    return script


def _number(run, seed=None):
    """The number that all parameters are."""
    (value,) = {float(x) for leaf in jax.tree.leaves(run.params(seed)) for x in np.ravel(leaf)}
    return value


def _train(run, folder=None):
    for progress in loop.training_loop(run):
        if folder is not None:
            folder.on_progress(run, progress)
    return run


LONG = {"num_steps": 20, "eval_every": 2, "seeds": (0, 1)}


@pytest.fixture(scope="module")
def base():
    return log_run(log_data(), patience=2, **LONG)


def _fresh(base, **changes):
    config = dataclasses.replace(base.config, **changes)
    state = jax.tree.map(jnp.copy, base.state)
    return dataclasses.replace(base, config=config, state=state, metrics=[], best_state=None)


def test_training_stops_and_holds_the_best_state(base, scripted):
    scripted(0.1, 0.2, 0.4, 0.4, 0.3, 0.9)
    run = _train(_fresh(base))
    assert (run.step, run.best_step, run.state_step) == (8, 4, 4)
    assert (_number(run, 0), _number(run, 1)) == (4.0, 4.0)
    assert {row["step"] for row in run.state_rows} == {4}
    assert [row["step"] for row in run.last_rows] == [8, 8]
    assert [p.phase for p in loop.training_loop(run)] == []  # it has ended
    assert _number(run) == 4.0


def test_training_without_patience_goes_on(base, scripted):
    """Negative control."""
    scripted(0.9, *[0.1] * 10)
    run = _train(_fresh(base, patience=None))
    assert (run.step, run.best_step, _number(run)) == (20, 0, 20.0)
    assert run.best_state is None


def test_run_that_uses_all_steps_holds_the_best_state(base, scripted):
    scripted(0.1, 0.2, 0.6, 0.5, 0.7, 0.65)
    run = _train(_fresh(base, num_steps=10))
    assert (run.step, run.state_step, _number(run)) == (10, 8, 8.0)
    more = dataclasses.replace(run, config=dataclasses.replace(run.config, num_steps=12))
    scripted(0.1, 0.2, 0.6, 0.5, 0.7, 0.8, 0.9)
    more = _train(more)  # goes on from step 8
    assert [row["step"] for row in more.metrics][::2] == [0, 2, 4, 6, 8, 10, 12]
    assert _number(more) == 12.0


@pytest.mark.slow
def test_folder_keeps_and_resumes_the_best(base, scripted, tmp_path):
    scripted(0.1, 0.5, 0.2, 0.3, 0.3)
    run, folder = _fresh(base, patience=3), RunFolder(tmp_path / "run", keep_last=1)
    folder.open(run)
    for progress in loop.training_loop(run):
        folder.on_progress(run, progress)
        if progress.phase == "evaluate" and progress.step == 6:
            break  # stopped from outside
    folder.close(run)
    kept = tmp_path / "run" / "checkpoint"
    assert checkpoint.saved_steps(kept) == [2, 6]
    assert load_run(tmp_path / "run").step == 2  # the best
    assert load_run(tmp_path / "run", step=6).step == 6

    resumed = _fresh(base, patience=3)
    folder = RunFolder(tmp_path / "run")
    folder.resume(resumed)
    assert resumed.step == 6
    _train(resumed, folder)
    folder.close(resumed)
    assert (resumed.step, resumed.best_step, _number(resumed)) == (8, 2, 2.0)
    loaded = load_run(tmp_path / "run")
    assert (loaded.step, _number(loaded)) == (2, 2.0)
    assert "step 2" in (tmp_path / "run" / "RUN.md").read_text().splitlines()[0]
    with pytest.raises(ConfigError, match="needs patience above 3"):
        RunFolder(tmp_path / "run").resume(_fresh(base, patience=3))
    RunFolder(tmp_path / "run").resume(_fresh(base, patience=4))
