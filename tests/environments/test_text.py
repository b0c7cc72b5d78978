"""Text retrieval: folders of BEIR and TREC files, adapters, and training that generalises to new queries."""

from __future__ import annotations

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.data_files import refusal, rewards

from rankpg import TrainConfig, train
from rankpg import rerankers as rerankers
from rankpg.cli.main import main
from rankpg.data.beir import read_collection
from rankpg.data.ids import TableError, UnknownIdError
from rankpg.environments.from_ratings import from_matrix, from_triples
from rankpg.environments.from_text import from_text, from_text_folder
from rankpg.errors import ConfigError
from rankpg.evaluation.metrics import TwoStage, evaluate
from rankpg.runs.run import prepare
from rankpg.runs.storage.load import load_run
from rankpg.training.build import build_learner

ENABLE_X64 = False


@pytest.fixture(scope="module", autouse=True)
def standard_promotion(jax_flags):
    """optax's Adam promotes dtypes by the standard rules."""
    jax.config.update("jax_numpy_dtype_promotion", "standard")


DOCUMENTS = ["d/1", "é 2", "d3", "d4", "007"]
QUERIES = ["q1", "unjudged", "q 2", "nothing relevant", "7"]
QRELS = {("q1", "é 2"): 2.0, ("q1", "d4"): 1.0, ("q 2", "007"): 1.0, ("q1", "d3"): 0.0,
         ("nothing relevant", "d/1"): 0.0, ("7", "d/1"): 0.5, ("7", "d3"): -1.0}  # fmt: skip


def embeddings(rows, width=3, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


def jsonl(ids):
    return "".join(json.dumps({"_id": i, "text": f"about {i}"}) + "\n" for i in ids)


def tsv(judgements):
    rows = "".join(f"{q}\t{d}\t{r:g}\n" for (q, d), r in judgements.items())
    return "query-id\tcorpus-id\tscore\n" + rows


@pytest.fixture
def folder(tmp_path):
    """A collection without embeddings."""
    (tmp_path / "corpus.jsonl").write_text(jsonl(DOCUMENTS), "utf-8")
    (tmp_path / "queries.jsonl").write_text(jsonl(QUERIES), "utf-8")
    (tmp_path / "qrels.tsv").write_text(tsv(QRELS), "utf-8")
    return tmp_path


def with_embeddings(folder):
    np.save(folder / "corpus.npy", embeddings(len(DOCUMENTS), seed=1))
    np.save(folder / "queries.npy", embeddings(len(QUERIES), seed=2))
    return folder


# Folders that are right.


def judged_as_written(data):
    assert data.context_ids.ids.tolist() == ["q1", "q 2", "7"]  # in the order of the file
    assert data.item_ids.ids.tolist() == DOCUMENTS
    assert rewards(data, "q1", DOCUMENTS) == [0, 2, 0, 1, 0]
    assert rewards(data, "q 2", DOCUMENTS) == [0, 0, 0, 0, 1]
    assert rewards(data, "7", DOCUMENTS) == [0.5, 0, 0, 0, 0]  # below 0 is not relevant


def test_beir_folder(folder):
    judged_as_written(from_text_folder(folder))


def test_judgements_of_several_files_are_joined(folder):
    (folder / "qrels.tsv").unlink()
    (folder / "qrels").mkdir()
    pairs = list(QRELS.items())
    (folder / "qrels" / "train.tsv").write_text(tsv(dict(pairs[:3])), "utf-8")
    (folder / "qrels" / "test.tsv").write_text(tsv(dict(pairs[3:])), "utf-8")
    (folder / "qrels" / "README.md").write_text("not judgements")
    refusal(lambda: from_text_folder(folder), "2 files: test, train", "qrels_split=('train',)")
    judged_as_written(from_text_folder(folder, split=["train", "test"]))
    refusal(lambda: from_text_folder(folder, split="dev"), "'dev'", "test, train")
    of_train = from_text_folder(folder, split="train")
    assert of_train.context_ids.ids.tolist() == ["q1", "q 2"]
    assert "train.tsv" in of_train.notes[0]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_trec_columns_and_line_ends(folder, end):
    """Blanks separate where there is no tab, so ids hold none; and an empty line is none."""
    ids = ["d1", "d2"]
    (folder / "qrels.tsv").unlink()
    (folder / "corpus.jsonl").write_bytes(jsonl(ids).replace("\n", end).encode())
    (folder / "queries.jsonl").write_bytes(b"\xef\xbb\xbf" + jsonl(["1", "2"]).encode())
    (folder / "qrels.txt").write_bytes(f"1 0 d2 3{end}2 Q0  d1 1{end}".encode())
    data = from_text_folder(folder)
    assert rewards(data, "1", ids) == [0, 3]
    assert rewards(data, "2", ids) == [1, 0]


def test_numeric_ids_are_text(folder):
    (folder / "queries.jsonl").write_text('{"_id": 1}\n{"_id": "2"}\n')
    (folder / "qrels.tsv").write_text("1\td3\t1\n2\td4\t1\n")  # and no header
    data = from_text_folder(folder)
    assert data.context_ids.ids.tolist() == ["1", "2"]
    assert rewards(data, "1", ["d3", "d4"]) == [1, 0]


def test_embeddings_follow_their_ids(folder):
    data = from_text_folder(with_embeddings(folder))
    kept = [QUERIES.index(q) for q in data.context_ids.ids.tolist()]
    world = data.environment
    assert np.array_equal(world.context_features, embeddings(len(QUERIES), seed=2)[kept])
    assert np.array_equal(world.item_features, embeddings(len(DOCUMENTS), seed=1))
    assert world.context_features.dtype == jnp.float32


def test_judgements_are_sparse(folder):
    """No array has the size queries x documents."""
    ids = [f"d{i}" for i in range(5000)]
    queries = [f"q{i}" for i in range(300)]
    data = from_text(queries, ids[:300], np.ones(300), query_ids=queries, document_ids=ids)
    assert sum(leaf.size for leaf in jax.tree.leaves(data.environment)) < 1000
    for row in (0, 131, 299):
        found = data.environment.mean_rewards(jnp.int32(row), jnp.arange(5000, dtype=jnp.int32))
        assert np.flatnonzero(found).tolist() == [row]


def test_arrays_equal_the_folder(folder):
    read = from_text_folder(with_embeddings(folder))
    made = from_text(
        *zip(*QRELS, strict=True), list(QRELS.values()), query_ids=QUERIES, document_ids=DOCUMENTS,
        query_embeddings=embeddings(len(QUERIES), seed=2),
        document_embeddings=embeddings(len(DOCUMENTS), seed=1),
    )  # fmt: skip
    assert read.fingerprint() == made.fingerprint()
    changed = from_text_folder(folder)
    np.save(folder / "corpus.npy", embeddings(len(DOCUMENTS), seed=3))
    assert from_text_folder(folder).fingerprint()["numbers"] != changed.fingerprint()["numbers"]


# Folders that are wrong.


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels.tsv"])
def test_missing_file_of_a_collection_is_named(folder, name):
    (folder / name).unlink()
    refusal(lambda: from_text_folder(folder), folder, name, error=FileNotFoundError)


def test_missing_folder_is_named(tmp_path):
    refusal(lambda: from_text_folder(tmp_path / "x"), "x: no such folder", error=FileNotFoundError)


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ('{"_id": "d9"', ["not JSON", "fix the line"]),
        ("__import__('os').abort()", ["not JSON"]),
        ("[" * 100_000, ["not JSON"]),
        ("[1, 2]", ["the id is missing"]),
        ('{"id": "d9"}', ["the id is missing", '"_id"']),
        ('{"_id": " "}', ["the id is missing"]),
        ('{"_id": null}', ["the id is missing"]),
        ('{"_id": true}', ["the id is missing"]),
        ('{"_id": "d3"}', ["the id 'd3' is already on line 3", "make it unique"]),
    ],
)
@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl"])
def test_invalid_line_is_named(folder, name, line, parts):
    ids = ["d1", "d2", "d3"]
    (folder / name).write_text(jsonl(ids) + line + "\n" + jsonl(["d5"]))
    refusal(lambda: from_text_folder(folder), f"{folder / name}, line 4: ", *parts)


def test_empty_and_binary_files_are_rejected(folder):
    (folder / "corpus.jsonl").write_text("\n\n")
    refusal(lambda: from_text_folder(folder), folder / "corpus.jsonl", "no lines")
    (folder / "corpus.jsonl").write_bytes(b'{"_id": "\xff"}\n')
    refusal(lambda: from_text_folder(folder), folder / "corpus.jsonl", "not UTF-8")


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("7\td4\thigh", ["relevance 'high' is not a finite number"]),
        ("7\td4\tnan", ["relevance 'nan'"]),
        ("7\td4\tinf", ["relevance 'inf'"]),
        ("7\td4", ["2 columns", "TREC's four"]),
        ("7\t0\td4\t1\tx", ["5 columns"]),
        ("7", ["1 columns"]),
    ],
)
def test_invalid_judgement_is_named(folder, line, parts):
    with (folder / "qrels.tsv").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    where = f"{folder / 'qrels.tsv'}, line {len(QRELS) + 2}: "
    refusal(lambda: from_text_folder(folder), where, *parts)


def test_judgements_beyond_the_files_are_one_refusal_with_policies(folder):
    with (folder / "qrels.tsv").open("a", encoding="utf-8") as file:
        file.write("q1\td9\t1\nq9\td3\t1\nq1\td4\t7\n")
    count, line = len(QRELS) + 3, len(QRELS) + 2
    refusal(
        lambda: from_text_folder(folder),
        f"2 of {count} judgements", f"line {line}: corpus.jsonl has no id 'd9'", "unknown='drop'",
        "judged more than once (1 judgements", "'q1' and document 'd4'", "duplicates='last'",
    )  # fmt: skip
    refusal(lambda: from_text_folder(folder, unknown="drop"), "judged more than once")
    data = from_text_folder(folder, unknown="drop", duplicates="sum")
    assert rewards(data, "q1", ["d4"]) == [8]
    assert any("2 judgements are left out" in note for note in data.notes)
    assert any("duplicates='sum'" in note for note in data.notes)


def test_invalid_first_judgement_is_not_a_header(folder):
    (folder / "qrels.tsv").write_text("q1\td4\thigh\nq1\td3\t1\n")
    refusal(
        lambda: from_text_folder(folder), "qrels.tsv, line 1: ", "'high' is not a finite number"
    )


def test_collection_needs_relevant_documents(folder):
    (folder / "qrels.tsv").write_text(tsv({}))
    refusal(lambda: from_text_folder(folder), "qrels.tsv", "no judgements")
    (folder / "qrels.tsv").write_text(tsv({("q1", "d3"): 0}))
    refusal(lambda: from_text_folder(folder), folder, "no judgement is above 0")


@pytest.mark.parametrize("name", ["corpus.npy", "queries.npy"])
def test_invalid_embeddings_are_rejected(folder, name):
    with_embeddings(folder)
    rows = len(np.load(folder / name))
    for array, part in (
        (
            embeddings(rows - 1),
            f"shape [{rows}, F], one row per id, got float32 of shape [{rows - 1}",
        ),
        (embeddings(rows)[:, 0], f"shape [{rows}, F]"),
        (np.array([["x"] * 3] * rows), f"shape [{rows}, F]"),
        (np.where(np.arange(rows * 2).reshape(rows, 2) == 3, np.nan, 0), "row 1, column 1"),
    ):
        np.save(folder / name, array)
        refusal(lambda: from_text_folder(folder), folder / name, part)
    np.save(folder / name, np.array([[object()]] * rows), allow_pickle=True)
    refusal(lambda: from_text_folder(folder), folder / name, "never loaded")
    (folder / name).write_bytes(b"\x93NUMPY\x01\x00")
    refusal(lambda: from_text_folder(folder), folder / name, "damaged")
    (folder / name).write_text("1 2 3\n")
    refusal(lambda: from_text_folder(folder), folder / name, "numpy.save")


# Arrays that are wrong.

RIGHT = {"query_ids": ["a", "b"], "document_ids": ["x", "y", "z"]}


@pytest.mark.parametrize(
    ("arguments", "changes", "parts", "error"),
    [
        ((["a"], ["x", "y"], [1, 1]), {}, ["one length", "[1], [2], [2]"], TableError),
        ((["a"], ["x"], [0]), {}, ["no query has one above 0"], TableError),
        (([], [], []), {}, ["no query"], TableError),
        ((["a", "b"], ["x", "x"], [math.nan, 1]), {}, ["finite numbers"], TableError),
        ((["a"], ["x"], ["1"]), {}, ["finite numbers, got <U1"], TableError),
        ((["c"], ["x"], [1]), {}, ["unknown query 'c'"], UnknownIdError),
        ((["a", "a"], ["x", "w"], [1, 0]), {}, ["unknown item 'w'"], UnknownIdError),
        ((["a", "a"], ["x", "x"], [1, 0]), {}, ["occurs 2 times"], TableError),
        ((["a"], ["x"], [1]), {"query_ids": ["a", "a"]}, ["'a' occurs twice"], TableError),
        ((["a"], ["x"], [1]), {"document_ids": ["x", "x"]}, ["'x' occurs twice"], TableError),
        ((["a"], ["x"], [1]), {"query_embeddings": np.ones((1, 2))}, ["query_emb", "[2, F]"], TableError),
        ((["a"], ["x"], [1]), {"document_embeddings": np.ones(3)}, ["document_emb", "[3, F]"], TableError),
    ],
)  # fmt: skip
def test_invalid_arrays_are_rejected(arguments, changes, parts, error):
    refusal(lambda: from_text(*arguments, **RIGHT | changes), *parts, error=error)


def test_duplicate_judgements_are_merged():
    twice = (["a", "a"], ["x", "x"], [1, 3])
    for how, worth in (("mean", 2), ("last", 3)):
        assert rewards(from_text(*twice, **RIGHT, duplicates=how), "a", ["x"]) == [worth]


def test_features_need_ids():
    refusal(
        lambda: from_triples(["a"], ["x"], [1], item_features=[[1.0]]), "item_features", "item_ids"
    )
    refusal(lambda: from_matrix(np.ones((2, 3)), item_features=np.ones((2, 2))), "[3, F]")
    data = from_matrix(np.ones((2, 3)), context_features=np.eye(2))
    assert np.array_equal(data.environment.context_features, np.eye(2))
    assert data.environment.item_features is None


# Adapters: the start, and what they refuse.


def small(width=3, items=6, contexts=4, item_width=None):
    judged = np.random.default_rng(5).integers(0, 3, (contexts, items))
    judged[:, 0] += 1
    q, d = np.nonzero(judged >= 0)
    return from_text(
        q, d, judged[q, d], query_ids=np.arange(contexts), document_ids=np.arange(items),
        own_document="keep",
        query_embeddings=embeddings(contexts, width, 7),
        document_embeddings=embeddings(items, item_width or width, 8),
    )  # fmt: skip


ADAPTERS = {"context_tower": "adapter", "item_tower": "adapter"}


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [(), (5,)])
@pytest.mark.parametrize("experts", [1, 2])
def test_adapters_start_at_the_inner_products(hidden, experts):
    """Equal to the last bit for every seed; then every part of the adapters learns."""
    world = small().environment
    config = TrainConfig(
        **ADAPTERS, hidden=hidden, num_experts=experts, num_candidates=2, batch_size=4,
        estimator="top1_pg", temperature=0.5, num_steps=2, eval_every=2, seeds=(3,),
    )  # fmt: skip
    run = prepare(config, world)
    params = jax.tree.map(lambda leaf: leaf[0], run.state.params)
    contexts = jnp.arange(4, dtype=jnp.int32)
    encoded = run.policy.encoder.encode(params, world, contexts)
    for expert in range(experts):
        assert np.array_equal(encoded.items[expert], world.item_features)
        assert np.array_equal(encoded.contexts[:, expert], world.context_features)
    logits = run.policy.logits(params, world, contexts)
    inner = np.asarray(world.context_features) @ np.asarray(world.item_features).T
    for expert in range(experts):
        np.testing.assert_allclose(logits[:, expert], inner / 0.5, rtol=1e-5, atol=1e-6)
    if experts == 1:
        assert np.array_equal(run.candidates(contexts), np.argsort(-inner, axis=1)[:, :2])
    after = jax.tree.map(lambda leaf: leaf[0], train(config, world).state.params)
    for before, now in zip(jax.tree.leaves(params), jax.tree.leaves(after), strict=True):
        last_item_bias = before.ndim == 3 and before.shape[1:] == (1, 3)
        assert last_item_bias or jnp.any(before != now)


@pytest.mark.slow
def test_adapter_sets_the_width_of_a_table():
    data = small(item_width=4)
    config = TrainConfig(item_tower="adapter", num_candidates=2)
    policy = build_learner(config, data.environment).policy
    params = policy.init(jax.random.key(0))
    encoded = policy.encoder.encode(params, data.environment, jnp.arange(2, dtype=jnp.int32))
    assert encoded.contexts.shape == (2, 1, 4)


@pytest.mark.slow
@pytest.mark.parametrize("frozen", ["context", "item"])
def test_given_embeddings_stay_and_the_other_side_learns(frozen):
    world = small().environment
    other = {"context": "item", "item": "context"}[frozen]
    config = TrainConfig(
        **{f"{frozen}_tower": "given", f"{other}_tower": "adapter"}, num_experts=2, hidden=(),
        num_candidates=2, batch_size=4, num_steps=2, eval_every=2, seeds=(0,),
    )  # fmt: skip
    run = train(config, world)
    params = jax.tree.map(lambda leaf: leaf[0], run.state.params)
    contexts = jnp.arange(4, dtype=jnp.int32)
    encoded = run.policy.encoder.encode(params, world, contexts)
    embedded = {"context": jnp.swapaxes(encoded.contexts, 0, 1), "item": encoded.items}
    for side, towers in embedded.items():
        for expert in range(2):
            kept = np.array_equal(towers[expert], getattr(world, f"{side}_features"))
            assert kept == (side == frozen)


def test_invalid_adapters_are_rejected():
    def assembled(data, **settings):
        config = TrainConfig(num_candidates=2, **settings)
        return lambda: build_learner(config, data.environment)

    refusal(
        assembled(small(item_width=4), **ADAPTERS), "width 3", "item_features 4", error=ConfigError
    )
    nothing = {"context_tower": "given", "item_tower": "given"}
    refusal(assembled(small(), **nothing), "no trainable parameters", error=ConfigError)
    bare = from_text(["a"], ["x"], [1], **RIGHT)
    refusal(
        assembled(bare, item_tower="adapter"), "item_tower='adapter'", "corpus.npy",
        error=ConfigError,
    )  # fmt: skip
    refusal(
        lambda: TrainConfig(item_tower="adapter", embedding_dim=8), "embedding_dim=8",
        error=ConfigError,
    )  # fmt: skip


def test_similarity_orders_by_the_given_embeddings():
    world = small().environment
    stage = rerankers.similarity(2)
    scores = np.asarray(world.context_features) @ np.asarray(world.item_features).T
    some = np.array([4, 1, 5, 2])
    for context in range(4):
        shown = stage(jax.random.key(0), world, jnp.int32(context), jnp.asarray(some, jnp.int32))
        assert shown.items.tolist() == some[np.argsort(-scores[context, some])[:2]].tolist()
    with pytest.raises(
        ValueError, match="reranker='similarity' needs features of contexts and items"
    ):
        build_learner(
            TrainConfig(num_candidates=2, reranker="similarity"),
            from_matrix(np.eye(3)).environment,
        )


# What is measured.


def oracle(scores, judged, depth, shown):
    """Recall of what is relevant, recall of the best `depth`, and NDCG, by loops, no ties among the best."""
    candidates = list(np.argsort(-scores)[: len(shown)])
    relevant = {d for d, r in enumerate(judged) if r > 0}
    best = set(np.argsort(-judged, kind="stable")[:depth])
    gain = sum(judged[d] / math.log2(place + 2) for place, d in enumerate(shown[:2]))
    ideal = sum(r / math.log2(place + 2) for place, r in enumerate(sorted(judged)[::-1][:2]))
    return {
        "relevant_recall": len(relevant & set(candidates)) / len(relevant) if relevant else 0.0,
        "candidate_recall": len(best & set(candidates)) / depth,
        "ndcg": gain / ideal if ideal else 0.0,
    }


def two_stage(config, world):
    learner = build_learner(config, world)
    return TwoStage(learner.policy, learner.reranker, learner.position_weights, config.recall_depth)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 2, 4, 6])
def test_recall_and_ndcg_against_loops(depth):
    """Three candidates of seven, the best two of them shown; the last query has no relevant document."""
    rng = np.random.default_rng(depth)
    judged = rng.permuted(np.tile([0.0, 0, 1, 2, 3, 0.5, 4], (6, 1)), axis=1)
    judged += np.where(judged == 0, -rng.uniform(1, 2, judged.shape), 0)  # no ties
    judged[5] = -rng.permutation(7) - 1.0
    scores = rng.normal(size=judged.shape)
    world = from_matrix(judged, context_features=scores, item_features=np.eye(7)).environment
    config = TrainConfig(**ADAPTERS, num_candidates=3, ranking_length=2, recall_depth=depth)
    system = two_stage(config, world)
    params = system.policy.init(jax.random.key(0))
    evaluator = jax.jit(lambda c: evaluate(system, world, params, c[None], jax.random.key(0)))
    for query in range(6):
        shown = sorted(np.argsort(-scores[query])[:3], key=lambda d: -judged[query, d])
        measured = evaluator(jnp.int32(query))
        expected = oracle(scores[query], judged[query], depth, shown)
        if query == 5:
            del expected["ndcg"]  # of gains below 0 it says nothing
        for name, value in expected.items():
            assert float(getattr(measured, name)) == pytest.approx(value, abs=1e-6), (query, name)


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "recall"), [(None, 1 / 2), (1, 1), (2, 1 / 2), (4, 2 / 3)])
def test_recall_depth_counts_eligible_items(depth, recall):
    """Items 1 and 3 are handed over; the best of those that are eligible are 1, 2 and 3, in this order."""
    world = from_matrix(
        [[4.0, 3, 2, 1]], eligible=np.array([[False, True, True, True]]),
        context_features=[[0.0, 1, 0, 2]], item_features=np.eye(4),
    ).environment  # fmt: skip
    system = two_stage(TrainConfig(**ADAPTERS, num_candidates=2, recall_depth=depth), world)
    params = system.policy.init(jax.random.key(0))
    evaluator = jax.jit(lambda c: evaluate(system, world, params, c, jax.random.key(0)))
    assert float(evaluator(jnp.zeros(1, jnp.int32)).candidate_recall) == pytest.approx(recall)


def test_invalid_recall_depth_is_rejected():
    refusal(lambda: TrainConfig(recall_depth=0), "recall_depth=0", error=ConfigError)
    world = from_matrix(np.eye(3)).environment
    config = TrainConfig(num_candidates=2, recall_depth=4)
    refusal(
        lambda: build_learner(config, world), "recall_depth=4", "only 3 items", error=ConfigError
    )


# Training: what queries teach holds for queries that were never seen.


def problem(queries=80, documents=120, width=6):
    """Relevance is by the first half of the embeddings; the second half misleads their inner product."""
    rng = np.random.default_rng(11)
    q, d = (rng.normal(size=(n, width)).astype(np.float32) for n in (queries, documents))
    true = q[:, : width // 2] @ d[:, : width // 2].T
    relevant = np.argsort(-true, axis=1)[:, :4]
    return {
        "queries": [f"q{i}" for i in range(queries) for _ in range(4)],
        "documents": [f"d{j}" for j in relevant.ravel()],
        "relevance": np.tile([3, 2, 1, 1], queries),
        "query_ids": [f"q{i}" for i in range(queries)],
        "document_ids": [f"d{j}" for j in range(documents)],
        "query_embeddings": q,
        "document_embeddings": d,
    }


LEARN = {
    "num_candidates": 8, "ranking_length": 3, "hidden": (), "batch_size": 32, "num_steps": 200,
    "eval_every": 200, "learning_rate": 1e-2, "held_out_contexts": 30,
}  # fmt: skip


@pytest.fixture(scope="module")
def collection():
    arrays = problem()
    judged = [arrays.pop(name) for name in ("queries", "documents", "relevance")]
    return from_text(*judged, **arrays)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "gain"), [("optimal", 0.15), ("similarity", 0.07)])
def test_training_generalises_to_held_out_queries(collection, stage, gain):
    config = TrainConfig(**LEARN, **ADAPTERS, reranker=stage, seeds=(0, 1))
    rows = train(config, collection).metrics
    for seed in (0, 1):
        first, last = (r for r in rows if r["seed"] == seed)
        assert last["relevant_recall"] > first["relevant_recall"] + gain
        assert last["policy_value"] > first["policy_value"] + gain
        assert last["ndcg"] > first["ndcg"] + gain / 3


@pytest.mark.slow
def test_random_relevance_teaches_nothing():
    """Relevant documents drawn uniformly: the gain above is not an artefact.

    Those of another query would not do: some documents are relevant to many, and that can be learned.
    """
    arrays = problem()
    queries, _, relevance = (arrays.pop(name) for name in ("queries", "documents", "relevance"))
    rng = np.random.default_rng(0)
    drawn = np.concatenate(
        [rng.choice(arrays["document_ids"], 4, replace=False) for _ in range(80)]
    )
    data = from_text(queries, drawn, relevance, **arrays)
    rows = train(TrainConfig(**LEARN, **ADAPTERS, seeds=(0, 1)), data).metrics
    for seed in (0, 1):
        first, last = (r for r in rows if r["seed"] == seed)
        assert last["relevant_recall"] < first["relevant_recall"] + 0.1


# The command line.


def write_problem(folder):
    arrays = problem()
    (folder / "corpus.jsonl").write_text(jsonl(arrays["document_ids"]))
    (folder / "queries.jsonl").write_text(jsonl(arrays["query_ids"]))
    names = zip(arrays["queries"], arrays["documents"], strict=True)
    (folder / "qrels.tsv").write_text(tsv(dict(zip(names, arrays["relevance"], strict=True))))
    np.save(folder / "corpus.npy", arrays["document_embeddings"])
    np.save(folder / "queries.npy", arrays["query_embeddings"])


def call(*arguments) -> int:
    """The exit code of the process that this would be."""
    try:
        return main([str(a) for a in arguments])
    except SystemExit as end:
        return int(end.code or 0)


FLAGS = (
    "--environment", "text", "--context-tower", "adapter", "--item-tower", "adapter",
    "--num-candidates", 8, "--ranking-length", 3, "--batch-size", 16, "--num-steps", 40,
    "--eval-every", 40, "--held-out-contexts", 30, "--seeds", 0,
)  # fmt: skip


@pytest.mark.slow
def test_from_a_folder_to_candidates(tmp_path, capsys):
    """Trained without hidden layers, evaluated, read back, queried by ids; other embeddings are noticed."""
    (tmp_path / "data").mkdir()
    write_problem(tmp_path / "data")
    out = tmp_path / "run"
    assert call("train", *FLAGS, "--path", tmp_path / "data", "--out", out, "--hidden") == 0
    said = capsys.readouterr()
    assert "80 contexts, 120 items" in said.err
    assert "96.7% of all (context, item) pairs have no judgement and count as 0" in said.err
    assert call("evaluate", out, "--json") == 0
    row = json.loads(capsys.readouterr().out)
    run = load_run(out)
    assert row["relevant_recall"] == run.metrics[-1]["relevant_recall"]
    assert run.metrics[-1]["relevant_recall"] > run.metrics[0]["relevant_recall"]
    handed = run.candidates(["q3", "q70"])
    assert handed.shape == (2, 8)
    assert set(handed.ravel()) <= set(problem()["document_ids"])
    np.save(tmp_path / "data" / "queries.npy", embeddings(80, 6))
    assert call("evaluate", out) == 2
    assert "was trained on other data: the checksum of numbers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        ((), "--environment text needs --path FOLDER"),
        (("--path", "{}", "--columns", "a", "b", "c"), "--columns"),
        (("--path", "{}/none"), "no such folder"),
        (
            ("--path", "{}", "--context-tower", "ids"),
            "give --context-tower features, --context-tower adapter or --context-tower given",
        ),
        (("--path", "{}", "--recall-depth", 121), "--recall-depth 121"),
        (("--path", "{}", "--missing", "error"), "--missing"),
    ],
)
def test_errors_name_flags_and_remedy(tmp_path, capsys, flags, part):
    write_problem(tmp_path)
    assert call("train", *FLAGS, *(str(f).replace("{}", str(tmp_path)) for f in flags)) == 2
    assert part in capsys.readouterr().err


def test_collection_keeps_the_order_of_the_files(folder):
    found = read_collection(folder)
    assert found.query_ids.tolist() == QUERIES
    assert found.document_ids.tolist() == DOCUMENTS
    assert found.query_embeddings is None
    assert (
        dict(zip(zip(found.queries, found.documents, strict=True), found.relevance, strict=True))
        == QRELS
    )
