"""Runs with reranker='lightgbm': fitted on the training part, evaluated, saved, loaded and resumed."""

from __future__ import annotations

import dataclasses
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

import rankpg
from rankpg import ConfigError, TrainConfig
from rankpg.cli.main import main
from rankpg.environments import from_interactions
from rankpg.runs.evaluator import evaluate_run
from rankpg.runs.run import prepare
from rankpg.runs.storage.folder import RunFolder
from rankpg.runs.storage.load import load_run
from rankpg.training import lambdamart
from rankpg.training.lambdamart import attached, fit_lightgbm, load_fitted

pytest.importorskip("lightgbm")

ENABLE_X64 = False
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_a_user")]

USERS, ITEMS, LENGTH = 40, 30, 20


@pytest.fixture(autouse=True)
def small_leaves(monkeypatch):
    """The default, 200 rows in a leaf, is too many for this log."""
    monkeypatch.setitem(lambdamart._OPTIONS, "min_data_in_leaf", 5)


def log():
    """Users go round the items, with a step that depends on them."""
    start = np.random.default_rng(0).integers(0, ITEMS, USERS)
    place = np.arange(LENGTH)
    items = np.stack([(s + 7 * place if u % 2 else s - 7 * place) for u, s in enumerate(start)])
    return {
        "user": np.repeat(np.arange(USERS), LENGTH),
        "item": items.ravel() % ITEMS,
        "timestamp": np.tile(place, USERS),
    }


SETTINGS = {
    "reranker": "lightgbm", "objective": "inclusion", "context_tower": "history", "inclusion_at": (3,),
    "num_candidates": 8, "ranking_length": 3, "embedding_dim": 8, "batch_size": 16, "num_steps": 2,
    "eval_every": 1, "seeds": (0, 1),
}  # fmt: skip


@pytest.fixture(scope="module")
def data():
    return from_interactions(log(), validation_share=0.1)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("fitted") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(lambdamart._OPTIONS, "min_data_in_leaf", 5)
        return rankpg.train(TrainConfig(**SETTINGS), data, out=path), path


def final_by_loops(run, data, ends, later, seed):
    """The nDCG@3 and recall@3 of the K candidates, sorted by the model's scores at these moments."""
    scores = run.fitted.scores(data, ends)
    starts, sequence = (
        np.asarray(data.environment.row_starts),
        np.asarray(data.environment.sequence),
    )
    params = run.params(seed)
    moments = data.environment.at(
        rankpg.environments.interactions.Moments(np.arange(USERS), ends, later)
    )
    candidates = np.asarray(
        run.policy.greedy(params, moments, jnp.arange(USERS, dtype=jnp.int32))[0]
    )
    ndcg, recall = [], []
    for user in range(USERS):
        own = sequence[starts[user] : starts[user + 1]].tolist()
        wanted = own[ends[user] : later[user]]
        if not wanted:
            continue
        shown = sorted(candidates[user].tolist(), key=lambda a, u=user: -scores[u, a])[:3]
        gains = [1 / np.log2(2 + place) for place, a in enumerate(shown) if a in wanted]
        ideal = sum(1 / np.log2(2 + place) for place in range(min(3, len(wanted))))
        ndcg.append(sum(gains) / ideal)
        recall.append(len(gains) / len(wanted))
    return np.mean(ndcg), np.mean(recall)


@pytest.mark.slow
def test_final_metrics_by_loops(trained, data):
    run, _ = trained
    parts = data.parts
    for prefix, ends, later in (
        ("", parts.validation_ends, parts.test_ends),
        ("validation_", parts.train_ends, parts.validation_ends),
    ):
        for row in run.last_rows:
            ndcg, recall = final_by_loops(run, data, ends, later, row["seed"])
            assert row[f"{prefix}final_ndcg@3"] == pytest.approx(ndcg, abs=1e-6)
            assert row[f"{prefix}final_recall@3"] == pytest.approx(recall, abs=1e-6)
    assert run.last_rows[0]["final_ndcg@3"] > run.last_rows[0]["ndcg@10"] / 2 > 0


def test_files_and_card(trained):
    run, path = trained
    saved = load_fitted(path)
    assert saved.booster.model_to_string() == run.fitted.booster.model_to_string()
    assert saved.metrics == run.fitted.metrics
    np.testing.assert_array_equal(saved.ends, run.fitted.ends)
    card = (path / "RUN.md").read_text()
    assert "- final_ndcg@3: " in card
    assert "- validation_final_ndcg@3: " in card
    assert f"{run.fitted.metrics['left_out_ndcg@10']:.4f} for those left out" in card
    row = json.loads((path / "metrics.jsonl").read_text().splitlines()[-1])
    assert row["final_recall@3"] == run.last_rows[-1]["final_recall@3"]


@pytest.mark.slow
def test_loaded_run_evaluates_to_the_same(trained, monkeypatch):
    run, path = trained
    monkeypatch.setattr(lambdamart, "fit_lightgbm", None)  # loaded, not fitted again
    loaded = load_run(path)
    np.testing.assert_array_equal(loaded.environment.item_scores, run.environment.item_scores)
    rows = evaluate_run(loaded)
    for row, before in zip(rows, run.last_rows, strict=True):
        for name in ("final_ndcg@3", "validation_final_ndcg@3", "ndcg@10", "policy_value"):
            assert row[name] == pytest.approx(before[name])


@pytest.mark.slow
def test_resumed_run_keeps_its_reranker(trained, data, tmp_path):
    path = shutil.copytree(trained[1], tmp_path / "run")
    other = fit_lightgbm(data, trees=3)
    lambdamart.save_fitted(path, other)  # as if the version of LightGBM had changed
    run = rankpg.train(TrainConfig(**SETTINGS | {"num_steps": 3}), data, out=path, resume=True)
    assert run.step == 3
    assert run.fitted.booster.num_trees() == 3


def test_damaged_model_names_its_file(trained, tmp_path):
    path = shutil.copytree(trained[1], tmp_path / "run")
    (path / "reranker.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"reranker\.txt and reranker\.json cannot be read"):
        load_run(path)


def test_run_without_lightgbm_says_so(trained, data, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lightgbm", None)
    with pytest.raises(ConfigError, match=r"needs the package lightgbm.*rankpg\[rerank\]"):
        prepare(TrainConfig(**SETTINGS), data)
    uniform = rankpg.rerankers.uniform(3)
    assert load_run(trained[1], reranker=uniform).fitted is None


def test_a_given_fit_takes_the_place_of_the_named_reranker(data):
    fitted = fit_lightgbm(data, trees=4, features=("near_all_items", "item_popularity"))
    settings = SETTINGS | {"reranker": "optimal"}
    run = prepare(TrainConfig(**settings), data, reranker=fitted)
    assert run.fitted is fitted
    assert run.fitted.features == ("near_all_items", "item_popularity")
    assert run.environment.item_scores.shape == (USERS, ITEMS)


def test_features_of_the_config_are_those_of_the_fit(data):
    config = TrainConfig(**SETTINGS, reranker_features=("near_last_item",))
    run = prepare(config, data)
    assert run.fitted.features == ("near_last_item",)
    assert "It reads near_last_item." in run.dataset.notes[-1]


def test_fit_sees_neither_validation_nor_test_part(data):
    table = log()
    late = np.tile(np.arange(LENGTH) >= data.parts.train_ends[0], USERS)
    items = table["item"].copy()
    items[late] = np.tile(items[late].reshape(USERS, -1)[:, ::-1].ravel(), 1)
    other = from_interactions(table | {"item": items}, validation_share=0.1)
    assert not np.array_equal(other.environment.sequence, data.environment.sequence)
    one, two = (prepare(TrainConfig(**SETTINGS), x).fitted for x in (data, other))
    assert one.booster.model_to_string() == two.booster.model_to_string()


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["policy_gradient", "exposure"])
def test_objectives_that_go_through_its_order(data, objective):
    settings = {k: v for k, v in SETTINGS.items() if k != "inclusion_at" or objective == "exposure"}
    if objective == "policy_gradient":
        settings["context_tower"] = "ids"
    run = rankpg.train(TrainConfig(**settings | {"objective": objective, "seeds": (0,)}), data)
    assert run.step == 2
    assert 0 <= run.last_rows[0]["final_ndcg@3"] <= 1


@pytest.mark.slow
def test_scores_of_a_users_own_have_a_final_list_of_the_test_part(data):
    scores = np.random.default_rng(1).random((USERS, ITEMS))
    own = dataclasses.replace(data, environment=data.environment.with_scores(scores))
    run = rankpg.train(TrainConfig(**SETTINGS | {"reranker": "stored", "num_steps": 1}), own)
    assert "final_ndcg@3" in run.last_rows[0]
    assert "validation_final_ndcg@3" not in run.last_rows[0]
    one, two = data.fingerprint(), own.fingerprint()
    assert one == {name: value for name, value in two.items() if name != "scores"}


def test_refusals(data):
    config = TrainConfig(**SETTINGS)
    matrix = rankpg.environments.from_matrix(np.eye(9))
    with pytest.raises(ConfigError, match="fitted to a log of interactions, and the data is a"):
        prepare(TrainConfig(reranker="lightgbm", num_candidates=3), matrix)
    with pytest.raises(ConfigError, match=r"environment='interactions' and path="):
        prepare(TrainConfig(reranker="lightgbm", num_candidates=3))
    with pytest.raises(ConfigError, match=r"14,400 bytes in all.*half of the 20,000.*min_per_user"):
        attached(data, None, None, 20_000)
    few = from_interactions({name: column[LENGTH:] for name, column in log().items()})
    fitted = fit_lightgbm(data, trees=2)
    with pytest.raises(ConfigError, match="fitted to 40 users, and the data has 39"):
        prepare(config, few, reranker=fitted)
    with pytest.raises(ConfigError, match=r"reranker_features=.*expected one or more of item_pop"):
        TrainConfig(**SETTINGS, reranker_features=("price",))
    with pytest.raises(ConfigError, match="has no effect with reranker='optimal'"):
        TrainConfig(reranker_features=("tag_overlap",))
    with pytest.raises(ConfigError, match=r"features=\('price',\); expected one or more of item_p"):
        fit_lightgbm(data, features=("price",))


@pytest.mark.slow
def test_command_line_trains_saves_and_resumes(tmp_path, capsys):
    file, out = tmp_path / "log.csv", tmp_path / "run"
    table = log()
    rows = zip(*table.values(), strict=True)
    file.write_text("\n".join([",".join(table), *(",".join(map(str, row)) for row in rows)]) + "\n")
    words = [
        "train",
        "--environment",
        "interactions",
        "--path",
        str(file),
        "--reranker",
        "lightgbm",
    ]
    for name, value in SETTINGS.items():
        if name != "reranker":
            values = value if isinstance(value, tuple) else (value,)
            words += ["--" + name.replace("_", "-"), *map(str, values)]
    words += ["--reranker-features", "near_all_items", "near_last_item", "--out", str(out)]
    assert main(words) == 0
    assert "final_ndcg@3" in capsys.readouterr().out
    assert main(["train", "--resume", "--out", str(out), "--num-steps", "3"]) == 0
    assert main(["evaluate", str(out)]) == 0
    assert "final_ndcg@3" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*words, "--reranker-features", "price"])
    assert "--reranker-features price; expected one of item_popularity" in capsys.readouterr().err
    assert RunFolder(out).components()["reranker"].features == ("near_all_items", "near_last_item")
