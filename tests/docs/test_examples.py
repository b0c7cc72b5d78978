"""The scripts of docs/examples run at toy size."""

from __future__ import annotations

import ast
import json
import runpy
import sys
from pathlib import Path

import pytest

import rankpg

ENABLE_X64 = False
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


pytestmark = pytest.mark.usefixtures("as_scripts_run")


@pytest.mark.slow
def test_lightgbm_example_reports_every_retriever(tmp_path, capsys):
    script = runpy.run_path(str(EXAMPLES / "lightgbm_reranker.py"))
    means = script["main"](["--toy", "--out", str(tmp_path / "numbers.json")])
    report = json.loads((tmp_path / "numbers.json").read_text())
    assert report["means"] == means
    assert list(means) == [
        "start", "softmax", "rankpg", "rankpg, no baseline", "softmax, then rankpg", "softmax, then v_pg_swr",
        "LambdaMART on all items",
    ]  # fmt: skip
    data = script["make_clicks"](40, 30)
    ideal = data["chance"].copy()
    ideal.sort(axis=1)
    for arm in means.values():  # no list is worth more than the best five items of every user
        assert 0 < arm["final_reward"] <= ideal[:, -5:].sum(axis=1).max()
        assert (
            20 / 30 - 0.3 < arm["candidate_recall"] <= 1
        )  # 20 of 30 items at random hold two thirds
    assert "recall@20" in capsys.readouterr().out


@pytest.mark.slow
def test_clicks_to_index_serves_the_run_candidates(tmp_path, monkeypatch, capsys):
    lightgbm, np = pytest.importorskip("lightgbm"), pytest.importorskip("numpy")
    pd = pytest.importorskip("pandas")
    draw = np.random.default_rng(0)
    users = pd.DataFrame({"user_id": [f"u{i}" for i in range(40)], "age": draw.normal(size=40)})
    items = pd.DataFrame({"item_id": [f"i{i}" for i in range(60)], "price": draw.normal(size=60)})
    pairs = users.merge(items, how="cross").sample(frac=0.5, random_state=0)
    pairs["clicked"] = draw.binomial(1, 1 / (1 + np.exp(-2 * pairs["age"] * pairs["price"])))
    pairs = pairs.sort_values("user_id", kind="stable")
    table = lightgbm.Dataset(
        pairs[["age", "price"]],
        pairs["clicked"],
        group=pairs.groupby("user_id", sort=False).size().to_numpy(),
    )
    options = {"objective": "lambdarank", "num_threads": 1, "verbose": -1, "min_data_in_leaf": 5}
    model = tmp_path / "ranker.txt"
    lightgbm.train(options, table, num_boost_round=10).save_model(str(model))
    for name, frame in (
        ("clicks", pairs[["user_id", "item_id", "clicked"]]), ("users", users), ("items", items),
    ):  # fmt: skip
        frame.to_parquet(tmp_path / f"{name}.parquet", index=False)
    files = [str(tmp_path / f"{name}.parquet") for name in ("clicks", "users", "items")]
    script, served = EXAMPLES / "clicks_to_index.py", tmp_path / "served"
    monkeypatch.setattr(sys, "argv", [str(script), *files, str(model), str(served), "20"])
    script_names = runpy.run_path(str(script))
    assert "clicks of a shown list" in capsys.readouterr().out

    server = runpy.run_path(str(EXAMPLES / "serve.py"))["Server"](served, "faiss")
    features = np.asarray(script_names["data"].environment.context_features)
    known = script_names["data"].context_ids.ids.tolist()
    served_ids = server.candidates(features)
    assert served_ids.tolist() == script_names["run"].candidates(known).tolist()
    assert set(served_ids.ravel()) <= set(items["item_id"])
    loaded = server.features(
        str(tmp_path / "users.parquet")
    )  # in the order of the file, not of the ids
    order = [known.index(user) for user in users["user_id"]]
    assert np.array_equal(loaded, features[order])
    with pytest.raises(ValueError, match="row 1, hold a number that is not finite"):
        server.candidates(np.array([[0.0], [np.nan]]))

    monkeypatch.setattr(sys, "argv", [str(script), *files, str(model), str(served), "20"])
    with pytest.raises(rankpg.errors.ConfigError, match="exists already"):  # before training
        runpy.run_path(str(script))
    assert "clicks of a shown list" not in capsys.readouterr().out


def test_clicks_to_index_is_under_forty_lines():
    text = (EXAMPLES / "clicks_to_index.py").read_text()
    body = ast.get_docstring(ast.parse(text), clean=False) or ""
    lines = [line for line in text.replace(body, "").splitlines() if line.strip().strip('"')]
    assert len(lines) < 40
