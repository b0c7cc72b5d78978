"""Hard problems: the attainable value against NumPy, and the command on a small problem."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.cli import main
from benchmarks.hard_problems import report
from benchmarks.hard_problems.problems import COMPARED, PROBLEMS, SCALES, problem_trials
from benchmarks.hard_problems.reach import find_limit, find_reach, targets
from benchmarks.hard_problems.report import learning
from rankpg import TrainConfig
from rankpg.core.estimators import ESTIMATORS
from rankpg.environments.synthetic import generate
from rankpg.errors import ConfigError

ENABLE_X64 = False

pytestmark = pytest.mark.usefixtures("as_a_user")


@pytest.mark.parametrize("scale", SCALES)
def test_every_problem_has_its_own_config(scale):
    firsts = []
    for name in PROBLEMS:
        trials = problem_trials(name, scale)
        names = [compared for compared in SCALES[scale].compared if _defined(name, compared)]
        assert [t.labels["estimator"] for t in trials] == names
        assert trials[0].config not in firsts
        assert all(trial.config.preset == "tuned" for trial in trials)
        firsts.append(trials[0].config)


def _defined(problem, compared):
    """True unless the problem has more experts than the estimator is defined for."""
    limit = ESTIMATORS[COMPARED[compared]["estimator"]].max_experts
    return limit is None or PROBLEMS[problem].settings.get("num_experts", 1) <= limit


def test_unknown_name_is_refused():
    with pytest.raises(ConfigError, match="'easy' is not a problem; expected one of noise, unseen"):
        problem_trials("easy", "smoke")
    with pytest.raises(ConfigError, match="scale='tiny'; expected one of smoke, laptop, full"):
        problem_trials("noise", "tiny")


def test_targets_are_distributions_over_the_best_items(key):
    rewards = jax.random.normal(key, (9,))
    best_l, best_k, soft = np.asarray(targets(rewards, 2, 4))
    order = np.argsort(-np.asarray(rewards))
    assert set(np.flatnonzero(best_l)) == set(order[:2])
    assert set(np.flatnonzero(best_k)) == set(order[:4])
    weights = np.exp(2 * np.asarray(rewards))
    np.testing.assert_allclose(soft, weights / weights.sum(), rtol=1e-5)
    np.testing.assert_allclose([best_l.sum(), best_k.sum(), soft.sum()], 1, rtol=1e-6)


ROOT = Path(__file__).parents[2]
SMALL = TrainConfig(
    num_contexts=12, num_items=30, instance_seed=3, num_candidates=5, batch_size=32,
    embedding_dim=8, seeds=(0,),
)  # fmt: skip


def rewards_of(config):
    world = generate(jax.random.key(config.instance_seed), config.num_contexts, config.num_items)
    catalogue = jnp.arange(config.num_items, dtype=jnp.int32)
    contexts = jnp.arange(config.num_contexts, dtype=jnp.int32)
    return np.asarray(jax.vmap(lambda c: world.mean_rewards(c, catalogue))(contexts))


@pytest.mark.slow
@pytest.mark.parametrize(("reranker", "place"), [("optimal", 0), ("anti", 4)])
def test_wide_tables_reach_the_value_of_the_k_best(reranker, place):
    """The re-ranker shows the best of the five best items, or the worst of them."""
    found = find_reach(dataclasses.replace(SMALL, reranker=reranker), "policy_value", 400)
    limit = np.sort(rewards_of(SMALL), axis=1)[:, ::-1][:, place].mean()
    assert found.limit == pytest.approx(limit, rel=1e-5)
    several = dataclasses.replace(SMALL, reranker=reranker, num_experts=5)
    assert find_limit(several, "policy_value") == found.limit
    assert 0.98 * limit < found.reach <= limit * (1 + 1e-5)
    assert found.reach == max(found.by_target.values())


@pytest.mark.slow
def test_narrow_tables_reach_less_than_the_limit():
    """Width 1 gives two orders of the items; the worst candidate is shown."""
    narrow = dataclasses.replace(SMALL, embedding_dim=1, reranker="anti")
    found = find_reach(narrow, "policy_value", 400)
    assert found.reach < 0.9 * found.limit


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("learning")
    words = ["hard-problems", "--scale", "smoke", "--problems", "adverse"]
    assert main([*words, "--out", str(out)]) == 0
    return out


@pytest.mark.slow
def test_report_holds_every_estimator_and_lists_the_missing(trained):
    body = json.loads((trained / "learning.json").read_text())
    assert list(body["problems"]) == ["adverse"]
    assert body["not_begun"] == [name for name in PROBLEMS if name != "adverse"]
    problem = body["problems"]["adverse"]
    assert list(problem["rows"]) == list(SCALES["smoke"].compared)
    for row in problem["rows"].values():
        ends = [curve[-1] for curve in row["drawn_value"].values()]
        share = np.mean(ends) / problem["reach"]["reach"]
        assert row["share_of_reach"]["mean"] == pytest.approx(share, rel=1e-5)
        assert row["reached"] == 20
    text = (trained / "learning.md").read_text()
    assert "`adverse`" in text
    assert "Not begun: `noise`" in text
    assert (trained / "learning.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_second_call_trains_nothing(trained, capsys):
    before = json.loads((trained / "learning.json").read_text())
    outcome, _ = learning(["adverse"], "smoke", trained)
    assert outcome.trained == []
    assert len(outcome.complete) == 2
    assert json.loads((trained / "learning.json").read_text()) == before
    words = ["hard-problems", "--scale", "smoke", "--report-only"]
    assert main([*words, "--out", str(trained)]) == 0
    assert "learning.md" in capsys.readouterr().out


@pytest.mark.slow
def test_sweep_resumes_from_its_report(trained, tmp_path):
    text = (trained / "learning.json").read_text()
    (tmp_path / "learning.json").write_text(text)
    outcome, _ = learning(["adverse"], "smoke", tmp_path)
    assert outcome.trained == []
    assert len(outcome.complete) == 2
    assert (tmp_path / "learning.json").read_text() == text


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_signal_ends_the_fit(tmp_path, number):
    words = [
        "-m",
        "benchmarks",
        "hard-problems",
        "--scale",
        "smoke",
        "--problems",
        "anti",
        "--out",
    ]
    process = subprocess.Popen(
        [sys.executable, *words, str(tmp_path)], stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "anti: fitting the policy to the rewards\n"
    process.send_signal(number)
    error = process.communicate(timeout=300)[1]
    assert process.returncode == 128 + number
    assert "anti is not fitted; run the same command again to restart the fit" in error
    assert not (tmp_path / "reach").exists()


@pytest.mark.slow
def test_incomplete_report_is_refused(trained, tmp_path, capsys):
    for name, body in (("adverse.json", "{}"), ("learning.json", '{"problems": {"adverse": 3}}')):
        out = shutil.copytree(trained, tmp_path / name)
        file = out / ("reach" if name == "adverse.json" else "") / name
        report = {"table": "learning", "scale": "smoke"} if name == "learning.json" else {}
        file.write_text(json.dumps(report | json.loads(body)))
        words = ["hard-problems", "--scale", "smoke", "--report-only", "--out", str(out)]
        assert main(words) == 2
        assert re.search(rf"{name}.* lacks (a limit|its reach)", capsys.readouterr().err)


@pytest.mark.slow
def test_folder_of_another_scale_is_refused(trained):
    with pytest.raises(ConfigError, match=r"report of learning at scale smoke; .* another out="):
        learning(["adverse"], "laptop", trained)


def test_empty_folder_is_reported(tmp_path, capsys):
    words = ["hard-problems", "--scale", "smoke", "--report-only"]
    assert main([*words, "--out", str(tmp_path)]) == 0
    assert "no results yet" in capsys.readouterr().out


def test_goal_is_reached_by_the_mean_over_seeds():
    body = {"policy_value": {"0": [1.0, 9.7, 9.9], "1": [2.0, 9.9, 9.9]}, "steps": [0, 10, 20]}
    progress = report._progress(body, "policy_value", 10.0)
    assert progress["steps_to_goal"] == 10
    assert progress["share_of_reach"]["mean"] == pytest.approx(0.99)


def test_seed_without_a_value_is_left_out():
    body = {"policy_value": {"0": [1.0, None], "1": [2.0, 9.0]}, "steps": [0, 10]}
    progress = report._progress(body, "policy_value", 10.0)
    assert progress["steps_to_goal"] is None
    assert progress["share_of_reach"] == {"mean": 0.9, "half_width_95": None, "seeds": 1}
    none = report._progress({**body, "policy_value": {"0": [1.0, None]}}, "policy_value", 10.0)
    assert report._cell(body | none, 0.0) == "not finite"
    assert report._progress(body, "policy_value", 11.0)["steps_to_goal"] is None
