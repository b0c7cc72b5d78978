"""Warnings before training: rewards that mislead, unread features, splits, raw scales."""

from __future__ import annotations

import json
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.data_files import refusal

import rankpg
from rankpg import TrainConfig
from rankpg.cli.arguments import plain_warnings
from rankpg.cli.main import main
from rankpg.environments import Features, from_file, from_matrix, from_table, from_text
from rankpg.environments.from_text import from_text_folder
from rankpg.errors import DataWarning
from rankpg.evaluation.metrics import normalised
from rankpg.runs.run import prepare

ENABLE_X64 = False
pytestmark = pytest.mark.usefixtures("as_a_user")

SMALL = {"num_candidates": 2, "num_steps": 2, "eval_every": 2, "seeds": (0,), "batch_size": 4}


def said(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call()
    return result, [str(x.message) for x in caught if issubclass(x.category, DataWarning)]


# --- rewards --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["matrix", "table", "file"])
def test_rewards_that_are_all_zero_are_rejected(tmp_path, kind):
    table = {"user": [1, 2], "item": [3, 4], "click": [0, 0]}
    (tmp_path / "d.csv").write_text("user,item,click\n1,3,0\n2,4,0\n")
    calls = {
        "matrix": lambda: from_matrix(np.zeros((2, 3))),
        "table": lambda: from_table(table),
        "file": lambda: from_file(tmp_path / "d.csv"),
    }
    refusal(calls[kind], "every reward is 0", "nothing to learn", "join")


def test_odd_rewards_are_said_before_training():
    config = TrainConfig(**SMALL)
    assert said(lambda: prepare(config, from_matrix(np.full((2, 3), 2.0))))[1] == [
        "matrix: every reward is 2, so every list is as good as any other: there is nothing to learn."
    ]
    some = {"user": [1, 1, 2], "item": [3, 4, 5], "rating": [1.0, -1.0, -2.0]}
    found = " ".join(said(lambda: prepare(config, from_table(some)))[1])
    assert "2 of 3 rewards are below 0, and a pair without a row counts as 0" in found
    assert "1 of 2 contexts have no reward above 0" in found
    assert said(lambda: prepare(config, from_matrix(np.eye(3))))[1] == []


@pytest.mark.slow
def test_the_share_of_the_optimum_falls_with_the_policy_below_zero():
    optimum, values = jnp.float32(-2.0), jnp.array([-2.0, -3.0, -6.0], jnp.float32)
    shares = [normalised(value, optimum).item() for value in values]
    assert shares == [1.0, 0.5, -1.0]
    assert normalised(jnp.float32(3.0), jnp.float32(4.0)).item() == 0.75
    assert np.isnan(normalised(jnp.float32(-1.0), jnp.float32(0.0)))
    run, _ = said(lambda: rankpg.train(TrainConfig(**SMALL), from_matrix(-1.0 - np.eye(4))))
    for row in run.metrics:
        regret = row["retrieval_regret"] + row["reranker_regret"]
        assert row["normalised_value"] == pytest.approx(1 - regret / abs(row["optimum"]), abs=1e-5)


# --- features -------------------------------------------------------------------------------------


def test_declared_features_that_no_tower_reads_are_said():
    table = {"user": [0, 1, 2], "item": [0, 1, 2], "rating": [1.0, 1.0, 1.0]}
    items = {"item": np.arange(4), "price": [1.0, 2.0, 3.0, 4.0]}
    data = from_table(table, items=items, item_features=Features(numeric=["price"]))
    _, found = said(lambda: prepare(TrainConfig(**SMALL), data))
    assert len(found) == 1
    assert "item features are declared, and item_tower='ids'" in found[0]
    assert said(lambda: prepare(TrainConfig(**SMALL, item_tower="features"), data))[1] == []
    assert said(lambda: prepare(TrainConfig(**SMALL), data, restored=True))[1] == []


@pytest.mark.parametrize("scale", [1e3, 1.6e9, 1e20])
def test_raw_features_are_standardised_with_a_notice(scale):
    rng = np.random.default_rng(0)
    raw = np.c_[rng.normal(size=(6, 2)), scale * (1 + rng.random(6))]
    data, found = said(lambda: from_matrix(np.eye(6), item_features=raw))
    assert len(found) == 1
    for part in ("item_features", "column 2", "scale", "1 of 3 columns", "standardised"):
        assert part in found[0]
    features = np.asarray(data.environment.item_features)
    np.testing.assert_allclose(features[:, 2].mean(), 0, atol=1e-5)
    np.testing.assert_allclose(features[:, 2].std(), 1, rtol=1e-4)
    assert np.array_equal(features[:, :2], raw[:, :2].astype(np.float32))
    config = TrainConfig(**SMALL, item_tower="features")
    run, _ = said(lambda: prepare(config, data))
    later = run.with_items(raw[:1], [77])
    np.testing.assert_allclose(later.environment.item_features[-1], features[0], rtol=1e-5)
    assert said(lambda: from_matrix(np.eye(2), item_features=[[99.0], [-99.0]]))[1] == []


def test_embeddings_of_text_stay_as_they_are():
    data = from_text(
        ["q"],
        ["d"],
        [1],
        query_ids=["q"],
        document_ids=["d", "e"],
        document_embeddings=[[500.0], [1.0]],
    )
    assert np.asarray(data.environment.item_features).tolist() == [[500.0], [1.0]]


# --- text -----------------------------------------------------------------------------------------


def write_collection(folder, queries, documents, judgements):
    for name, ids in (("queries", queries), ("corpus", documents)):
        lines = "".join(json.dumps({"_id": i}) + "\n" for i in ids)
        (folder / f"{name}.jsonl").write_text(lines)
    (folder / "qrels").mkdir()
    for split, pairs in judgements.items():
        rows = "".join(f"{q}\t{d}\t1\n" for q, d in pairs)
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows)
    return folder


@pytest.mark.slow
def test_an_official_test_split_is_kept_out_by_name(tmp_path, capsys):
    splits = {"train": [("q0", "d0"), ("q1", "d1")], "test": [("q2", "d2")]}
    folder = write_collection(tmp_path, ["q0", "q1", "q2"], ["d0", "d1", "d2", "d3"], splits)
    flags = ["train", "--environment", "text", "--path", str(folder)]
    flags += ["--num-candidates", "2", "--num-steps", "2", "--eval-every", "2", "--seeds", "0"]
    assert main(flags) == 2
    assert "2 files: test, train" in (error := capsys.readouterr().err)
    assert "--qrels-split train" in error
    assert main([*flags, "--qrels-split", "train"]) == 0
    error = capsys.readouterr().err
    assert "text: 2 contexts, 4 items" in error
    assert "Read 2 judgements of" in error
    assert "train.tsv" in error


@pytest.mark.slow
def test_a_query_never_finds_itself(tmp_path):
    ids = [f"a{i}" for i in range(6)]
    pairs = [(f"a{i}", f"a{i + 3}") for i in range(3)]
    folder = write_collection(tmp_path, ids[:3], ids, {"test": pairs})
    data = from_text_folder(folder)
    world, rows = data.environment, jnp.arange(6, dtype=jnp.int32)
    assert np.asarray(world.eligible(jnp.int32(1), rows)).tolist() == [True, False, *[True] * 4]
    assert any("3 of 3 queries have the id of a document" in note for note in data.notes)
    assert (
        from_text_folder(folder, own_document="keep").environment.eligible(jnp.int32(0), rows)
        is None
    )
    run = prepare(TrainConfig(**SMALL | {"num_candidates": 4}), data)
    for context, found in zip(ids[:3], run.candidates(ids[:3]).tolist(), strict=True):
        assert context not in found
    less = run.without_items(["a0"])
    assert "a1" not in less.candidates(["a1"])[0].tolist()


def test_a_document_with_a_relevant_judgement_stays_a_candidate():
    ids = {"query_ids": ["1", "2"], "document_ids": ["1", "2", "3"]}
    data = from_text(["1", "2"], ["1", "3"], [1, 1], **ids)
    assert np.asarray(data.environment.own).tolist() == [-1, 1]
    other = from_text(
        ["1", "2"], ["1", "3"], [1, 1], **ids, eligible=np.eye(2, 3, dtype=bool) ^ True
    )
    seen = other.environment.eligible(jnp.int32(1), jnp.arange(3, dtype=jnp.int32))
    assert np.asarray(seen).tolist() == [True, False, True]


@pytest.mark.slow
def test_own_documents_come_back_with_a_run(tmp_path):
    ids = ["a", "b", "c"]
    data = from_text(["a", "b"], ["c", "a"], [1, 1], query_ids=ids[:2], document_ids=ids)
    rankpg.train(TrainConfig(**SMALL), data, out=tmp_path / "run")
    again = rankpg.load_run(tmp_path / "run")
    assert np.asarray(again.environment.own).tolist() == [0, 1]
    assert "a" not in again.candidates(["a"])[0]


# --- the command line -----------------------------------------------------------------------------


def test_warnings_are_one_sentence_in_flags():
    with plain_warnings("rankpg", ["missing"]):
        text = warnings.formatwarning("give missing='zero' \x1b[31m", DataWarning, "file.py", 1)
        other = warnings.formatwarning("plain", UserWarning, "file.py", 1)
    assert text == "rankpg: give --missing zero \\x1b[31m\n"
    assert "UserWarning" in other
    assert "DataWarning" in warnings.formatwarning("plain", DataWarning, "file.py", 1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::rankpg.errors.DataWarning")
def test_train_prints_what_was_read_and_escapes_it(tmp_path, capsys):
    file = tmp_path / "ratings\x1b[31m.csv"
    file.write_text(
        "user,item,value,when\n" + "".join(f"{i},{i % 3},{i - 1},1\n" for i in range(4))
    )
    flags = [
        "--environment",
        "ratings",
        "--path",
        str(file),
        "--num-candidates",
        "2",
        "--num-steps",
        "2",
    ]
    assert (
        main(["train", *flags, "--eval-every", "2", "--seeds", "0", "--id-type", "text", "integer"])
        == 0
    )
    error = capsys.readouterr().err
    assert "Read 4 rows of 4 lines of" in error
    assert "user from 'user' (text), item from 'item' (whole numbers), value from 'value'" in error
    assert "Columns that are not used: 'when'" in error
    assert "\x1b" not in error
    assert "\\x1b[31m" in error
    assert main(["train", *flags, "--no-header"]) == 2
    assert "is not a number" in capsys.readouterr().err
