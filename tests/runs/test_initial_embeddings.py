"""Runs that start at embeddings of a file: first evaluation, training, resumption, export and refusals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.small_logs import ITEMS, SETTINGS, USERS, K, log_columns, log_data
from scipy import sparse

import rankpg
from rankpg.baselines import Als, top_lists
from rankpg.cli.main import main
from rankpg.data.ids import TableError
from rankpg.encoders import from_embeddings
from rankpg.environments import from_interactions, generate_log
from rankpg.environments.interactions import seen_items
from rankpg.errors import ConfigError
from rankpg.evaluation.ranking import ranking_metrics
from rankpg.runs.held_out import HeldOut
from rankpg.runs.run import prepare
from rankpg.runs.storage.load import load_run
from rankpg.training.build import build_learner

ENABLE_X64 = False
pytestmark = pytest.mark.usefixtures("as_a_user")
RNG = np.random.default_rng(0)
WIDTH = 6
VECTORS = RNG.normal(size=(ITEMS, WIDTH)).astype(np.float32)
TASTES = RNG.normal(size=(USERS, WIDTH)).astype(np.float32)
ADAPTERS = {"context_tower": "adapter", "item_tower": "adapter"}
LEFT_OPEN = {name: value for name, value in SETTINGS.items() if name != "embedding_dim"}


@pytest.fixture(scope="module")
def data():
    return log_data()


@pytest.fixture
def file(data, tmp_path):
    path = tmp_path / "mine.npz"
    ids = {"item_ids": data.item_ids.ids, "user_ids": data.context_ids.ids}
    np.savez(path, items=VECTORS, users=TASTES, **ids)
    return path


def config(file, **changes):
    return rankpg.TrainConfig(**{**LEFT_OPEN, "init_embeddings": str(file), **changes})


# --- the first evaluation -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted():
    """ALS on what is known before the test part of a generated log, and that log."""
    pytest.importorskip("implicit")
    log, _ = generate_log(num_users=60, num_items=80, length=15, seed=0)
    data = from_interactions(log, test_share=0.2)
    starts, items = seen_items(data.environment)
    shape = data.environment.num_users, data.environment.num_items
    seen = sparse.csr_array((np.ones(len(items), np.float32), items, starts), shape=shape)
    als = Als(factors=8)
    als.fit(seen)
    return data, als, seen


def assert_same_order(als, users, found, lists):
    """The scores are the same at every place, and so are the items, apart from ties up to rounding."""
    assert (found == lists).mean() > 0.99
    of_users = als.user_factors[users][:, None]
    scores = [(of_users * als.item_factors[items]).sum(-1) for items in (found, lists)]
    np.testing.assert_allclose(*scores, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("towers", [{}, ADAPTERS, {**ADAPTERS, "item_tower": "given"}])
def test_first_lists_and_metrics_are_those_of_als(fitted, towers, tmp_path):
    data, als, seen = fitted
    shuffled = np.random.default_rng(0).permutation(len(data.item_ids))
    np.savez(tmp_path / "als.npz", user_factors=als.user_factors,
             item_factors=als.item_factors[shuffled])  # fmt: skip
    ids = {"item_ids": data.item_ids.ids[shuffled], "user_ids": data.context_ids.ids}
    np.savez(tmp_path / "ids.npz", **ids)
    run = prepare(
        config(tmp_path / "als.npz", init_ids=str(tmp_path / "ids.npz"), num_candidates=20,
               temperature=0.2, **towers), data,
    )  # fmt: skip
    lists = top_lists(als, seen, np.arange(len(data.context_ids)), 20)
    candidates = data.item_ids.rows(run.candidates(data.context_ids.ids))
    assert_same_order(als, np.arange(len(lists)), candidates, lists)

    held_out = HeldOut(run, cutoffs=(20,))
    part = held_out.parts[""]
    assert_same_order(als, part.users, held_out.lists(run.params(), part), lists[part.users])
    expected = ranking_metrics(lists[part.users], part.relevant, at=(10, 20))
    found = held_out.columns(run.state.params)
    assert found["recall@20"].tolist() == pytest.approx([np.mean(expected["recall@20"])], abs=0.01)
    assert np.mean(expected["recall@20"]) > 0.1  # lists at random would have equal metrics of 0


@pytest.mark.slow
def test_first_row_of_a_run_is_that_of_the_embeddings(data, file):
    run = rankpg.train(config(file, num_steps=1, eval_every=1), data)
    starts, items = seen_items(data.environment)
    scores = TASTES @ VECTORS.T
    for user in range(USERS):
        scores[user, items[starts[user] : starts[user + 1]]] = -np.inf
    lists = np.argsort(-scores, axis=1)[:, :20]
    lists = np.where(np.take_along_axis(scores, lists, 1) > -np.inf, lists, -1)
    part = HeldOut(run).parts[""]
    wanted = ranking_metrics(lists[part.users], part.relevant, at=(10, 20))
    row = run.metrics[0]
    assert row["step"] == 0
    assert row["recall@20"] == pytest.approx(np.mean(wanted["recall@20"]))
    assert row["ndcg@10"] == pytest.approx(np.mean(wanted["ndcg@10"]))


# --- training -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["softmax", "policy_gradient"])
def test_tables_are_trained(data, file, objective):
    plain = {name: value for name, value in LEFT_OPEN.items() if name != "inclusion_at"}
    settings = rankpg.TrainConfig(**plain | {
        "init_embeddings": str(file), "objective": objective, "num_steps": 20, "eval_every": 20,
    })  # fmt: skip
    run = rankpg.train(settings, data)
    assert run.config.embedding_dim == WIDTH
    users, items = (np.asarray(leaf)[0] for leaf in jax.tree.leaves(run.params()))
    for now, before in ((users, TASTES), (items, VECTORS)):
        assert 0 < np.abs(now - before).max() < 1


@pytest.mark.slow
@pytest.mark.parametrize("tower", ["ids", "history"])
def test_adapters_are_trained_and_features_stay(data, file, tower):
    towers = ADAPTERS if tower == "ids" else {"context_tower": "history", "item_tower": "adapter"}
    run = rankpg.train(config(file, num_steps=20, eval_every=20, learning_rate=0.1, **towers), data)
    items = run.policy.embeddings(run.params(), run.environment, jnp.zeros(1, jnp.int32)).items
    np.testing.assert_array_equal(run.environment.item_features, VECTORS)
    unit = np.linalg.norm(VECTORS, axis=1, keepdims=True) if tower == "history" else 1
    assert np.abs(np.asarray(items)[0] - VECTORS / unit).max() > 0.01


# --- saved, resumed, exported ---------------------------------------------------------------------


@pytest.mark.slow
def test_loaded_run_does_not_need_the_file_of_its_tables(data, file, tmp_path):
    run = rankpg.train(config(file, num_steps=4, eval_every=2), data, out=tmp_path / "run")
    file.unlink()
    loaded = load_run(tmp_path / "run")
    ids = data.context_ids.ids
    np.testing.assert_array_equal(loaded.candidates(ids), run.candidates(ids))
    assert loaded.config.init_embeddings == str(file)
    jax.tree.map(np.testing.assert_array_equal, loaded.params(), run.params())


@pytest.mark.slow
def test_resumed_run_equals_one_that_was_not_stopped(data, file, tmp_path):
    first = {"eval_every": 2, "first_share": 1.0}  # so that nothing depends on num_steps
    whole = rankpg.train(config(file, num_steps=8, **first), data)
    rankpg.train(config(file, num_steps=4, **first), data, out=tmp_path / "run")
    file.unlink()
    again = config(file, num_steps=8, embedding_dim=WIDTH, **first)
    resumed = rankpg.train(again, data, out=tmp_path / "run", resume=True)
    jax.tree.map(np.testing.assert_array_equal, resumed.params(), whole.params())


@pytest.mark.slow
def test_loaded_run_over_adapters_has_its_embeddings_in_its_folder(data, file, tmp_path):
    run = rankpg.train(config(file, **ADAPTERS), data, out=tmp_path / "run")
    file.unlink()
    loaded = load_run(tmp_path / "run")
    np.testing.assert_array_equal(loaded.environment.item_features, VECTORS)
    ids = data.context_ids.ids
    np.testing.assert_array_equal(loaded.candidates(ids), run.candidates(ids))


def _write(path, columns):
    lines = [",".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
    path.write_text("\n".join([",".join(columns), *lines]) + "\n")


@pytest.mark.slow
@pytest.mark.parametrize("towers", ["", "--context-tower adapter --item-tower adapter"])
def test_command_line_trains_resumes_and_exports(data, file, towers, tmp_path, monkeypatch, capsys):
    pytest.importorskip("safetensors")
    _write(tmp_path / "log.csv", log_columns())
    monkeypatch.chdir(tmp_path)
    flags = f"--environment interactions --path log.csv --objective softmax --num-candidates {K} {towers}"
    flags += (
        " --test-share 0.1667 --num-steps 4 --eval-every 2 --seeds 0 --init-embeddings mine.npz"
    )
    assert main(["train", *flags.split(), "--out", "run"]) == 0
    assert "The logits of the embeddings" in capsys.readouterr().err
    monkeypatch.chdir("/")
    if not towers:
        file.unlink()
    run_folder = str(tmp_path / "run")
    assert main(["train", "--resume", "--out", run_folder, "--num-steps", "6"]) == 0
    arguments = ["export", run_folder, "--out", str(tmp_path / "served"), "--index", "none"]
    assert main(arguments) == 0
    from helpers.exports import Server  # a script of the docs

    server, run = Server(tmp_path / "served"), load_run(run_folder)
    assert run.step == 6
    ids = run.dataset.context_ids.ids.tolist()
    if not towers:
        assert server.candidates(ids).tolist() == run.candidates(ids).tolist()
        return
    inputs = np.asarray(run.environment.context_features)  # of no user, who could have seen items
    rows = jnp.arange(len(ids), dtype=jnp.int32)
    found = run.policy.embeddings(run.params(), run.environment, rows)
    logits = np.asarray(found.contexts)[:, 0] @ np.asarray(found.items)[0].T
    best = run.dataset.item_ids[np.argsort(-logits, axis=1)[:, :K]]
    assert server.candidates(inputs).tolist() == best.tolist()


@pytest.mark.slow
def test_new_items_are_served_by_their_embeddings(data, file):
    run = prepare(config(file, **ADAPTERS, num_candidates=3), data)
    best = 100 * TASTES[3:4] / np.linalg.norm(TASTES[3])
    with_new = run.with_items(best, np.array([999]))
    user = data.context_ids.ids[3]
    assert with_new.candidates([user])[0, 0] == 999


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"embedding_dim": 4},
         r"embedding_dim=4, but the embeddings of .*mine.npz have width 6; .*embedding_dim=6"),
        ({"init_embeddings": "none.npz"}, "none.npz: no such file"),
        ({"init_ids": "none.npz"}, "none.npz: no such file"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_the_file(data, file, changes, words):
    with pytest.raises((ConfigError, FileNotFoundError), match=words):
        prepare(config(file, **changes), data)


def test_missing_contexts_and_items_are_refused(data, tmp_path):
    ids = {"item_ids": data.item_ids.ids[2:], "user_ids": data.context_ids.ids}
    np.savez(tmp_path / "some.npz", items=VECTORS[2:], users=TASTES, **ids)
    with pytest.raises(TableError, match=r"2 of 30 items have no embedding, such as 100, 101"):
        prepare(config(tmp_path / "some.npz"), data)
    run = prepare(config(tmp_path / "some.npz", init_missing="mean"), data)
    items = np.asarray(jax.tree.leaves(run.params())[1])[0]
    np.testing.assert_allclose(items[:2], np.tile(VECTORS[2:].mean(axis=0), (2, 1)), rtol=1e-5)
    assert "2 of 30 items, such as 100, 101" in " ".join(run.dataset.notes)
    np.savez(tmp_path / "items.npz", items=VECTORS, item_ids=data.item_ids.ids)
    with pytest.raises(ConfigError, match="has none of the contexts"):
        prepare(config(tmp_path / "items.npz"), data)
    prepare(config(tmp_path / "items.npz", context_tower="history"), data)


def test_settings_without_effect_are_refused(data, file):
    for changes in ({"init_ids": "ids.npz"}, {"init_missing": "mean"}):
        with pytest.raises(ConfigError, match="has no effect without init_embeddings"):
            rankpg.TrainConfig(**changes)
    with pytest.raises(ConfigError, match="init_embeddings=' '; expected the name of a file"):
        rankpg.TrainConfig(init_embeddings=" ")
    encoder = from_embeddings(data, str(file))
    with pytest.raises(ConfigError, match="no effect on an encoder of yours"):
        prepare(config(file), data, encoder=encoder)
    with pytest.raises(ConfigError, match="needs the ids of a dataset"):
        build_learner(config(file), data.environment)
    learner = build_learner(config(file), data.environment, encoder=encoder)
    assert learner.policy.encoder is encoder


def test_command_line_names_flags(file, tmp_path, capsys):
    _write(tmp_path / "log.csv", log_columns())
    with np.load(file) as held:
        arrays = dict(held)
    np.savez(file, **arrays | {"items": VECTORS[1:], "item_ids": arrays["item_ids"][1:]})
    flags = ["train", "--environment", "interactions", "--path", str(tmp_path / "log.csv")]
    assert main([*flags, "--init-embeddings", str(file)]) == 2
    message = capsys.readouterr().err.strip()
    assert "1 of 30 items have no embedding, such as 100; add them" in message
    assert "--init-missing mean or --init-missing random" in message
    assert main([*flags, "--init-embeddings", f"{file}::itms"]) == 2
    message = capsys.readouterr().err
    assert "no array is named 'itms'; did you mean 'items'?" in message
