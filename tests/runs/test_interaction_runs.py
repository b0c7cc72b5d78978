"""Runs on interactions: saved, loaded and resumed; no list shows an item that its user has seen."""

from __future__ import annotations

import dataclasses
import json
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.small_logs import (
    ITEMS,
    SETTINGS,
    K,
    log_columns,
    log_data,
    log_run,
    save_untrained,
    seen_by_hand,
)

import rankpg
from rankpg.cli.main import main
from rankpg.environments import from_interactions
from rankpg.environments.interactions import Parts
from rankpg.errors import ConfigError
from rankpg.online import Retriever
from rankpg.runs.evaluator import evaluate_run
from rankpg.runs.held_out import HeldOut
from rankpg.runs.storage.folder import RunFolder
from rankpg.runs.storage.interactions_file import arrays_of, interactions_of
from rankpg.runs.storage.load import load_run
from rankpg.runs.storage.metrics_file import read_metrics

ENABLE_X64 = False
pytestmark = pytest.mark.usefixtures("as_a_user")


@pytest.fixture(scope="module")
def data():
    return log_data()


@pytest.fixture(scope="module")
def users(data):
    return data.context_ids.ids.tolist()


def assert_unseen(lists, users):
    """No list holds an item of its user's history; -1 marks a list that is shorter."""
    seen = seen_by_hand(log_columns())
    for user, items in zip(users, lists, strict=True):
        own = [item for item in items.tolist() if item != -1]
        assert len(set(own)) == len(own) > 0
        assert not seen[user] & set(own), user


def test_oracle_of_seen_items_is_not_empty(data, users):
    """Negative control: the most popular lists would fail; user 0 has K items left."""
    seen = seen_by_hand(log_columns())
    assert [len(seen["user 0"]), min(map(len, seen.values()))] == [ITEMS - K, 2]
    with pytest.raises(AssertionError):
        assert_unseen(np.tile(100 + np.arange(K), (len(users), 1)), users)


# --- saved and loaded -----------------------------------------------------------------------------


def test_saved_arrays_rebuild_environment_and_split(data):
    tags = jnp.asarray(np.arange(2 * ITEMS).reshape(ITEMS, 2) % 7 - 1, jnp.int32)
    world = dataclasses.replace(data.environment, item_tags=tags)
    arrays = arrays_of(world, data.parts)
    again, parts = interactions_of(arrays, world.num_users, world.num_items)
    assert jax.tree.structure(again) == jax.tree.structure(world)
    for one, two in zip(jax.tree.leaves(world), jax.tree.leaves(again), strict=True):
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)
    assert parts is not None
    assert parts.checksum() == data.parts.checksum()
    assert (arrays["sequence"].dtype, arrays["values"].shape) == (np.uint8, (1,))


def test_saved_values_that_differ_are_kept():
    columns = log_columns() | {"value": np.arange(1, 1 + len(log_columns()["user"]))}
    world: Any = rankpg.environments.from_interactions(columns).environment
    again, _ = interactions_of(arrays_of(world, None), world.num_users, world.num_items)
    np.testing.assert_array_equal(again.values, world.values)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("counts", np.array([3]), "users; expected"),
        ("sequence", np.full(10, 77), "expected less than 30|interactions of"),
    ],
)
def test_damaged_arrays_are_rejected(data, name, value, words):
    arrays = arrays_of(data.environment, data.parts) | {name: value}
    with pytest.raises(ValueError, match=words):
        interactions_of(arrays, data.environment.num_users, ITEMS)


def test_fingerprint_holds_the_split(data):
    other = Parts(data.parts.validation_ends, *data.parts[1:])  # the environment is the same
    changed = dataclasses.replace(data, parts=other)
    one, two = data.fingerprint(), changed.fingerprint()
    assert [name for name in one if one[name] != two[name]] == ["split"]


@pytest.fixture(scope="module")
def saved(data, tmp_path_factory):
    run, path = log_run(data), tmp_path_factory.mktemp("saved") / "run"
    save_untrained(run, path)
    return run, path


def test_loaded_run_masks_what_was_seen(saved, users):
    run, path = saved
    loaded = load_run(path)
    assert loaded.environment.knows_rewards
    found = loaded.candidates(users)
    assert_unseen(found, users)
    np.testing.assert_array_equal(found, run.candidates(users))
    assert loaded.dataset.fingerprint() == run.dataset.fingerprint()


def test_loaded_run_rejects_damaged_arrays(saved, tmp_path):
    path = shutil.copytree(saved[1], tmp_path / "copy")
    with np.load(path / "data" / "arrays.npz") as held:
        arrays = dict(held)
    arrays["sequence"] = arrays["sequence"][::-1]  # of the right shape
    np.savez(path / "data" / "arrays.npz", **arrays)
    with pytest.raises(ConfigError, match="checksum of numbers"):
        load_run(path)
    (path / "data" / "arrays.npz").write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_run(path)


def test_resume_rejects_another_split(saved):
    other = log_run(log_data(validation_share=0.3))
    with pytest.raises(
        ConfigError, match=r"the checksum of \w+ of the dataset has changed"
    ) as caught:
        RunFolder(saved[1]).resume(other)
    assert "\n" not in str(caught.value)


# --- no seen item on any way ----------------------------------------------------------------------


@pytest.mark.parametrize("tower", ["ids", "history"])
def test_candidates_and_held_out_lists_are_unseen(data, users, tower):
    run = log_run(data, context_tower=tower)
    assert_unseen(run.candidates(users), users)
    rows = jnp.arange(len(users), dtype=jnp.int32)
    items, available = run.policy.greedy(run.params(), run.environment, rows)
    assert int(available.min()) == K
    assert_unseen(data.item_ids[np.asarray(items)], users)
    held_out = HeldOut(run, cutoffs=(20,))
    part = held_out.parts[""]
    lists = held_out.lists(run.params(), part)
    named = np.where(lists < 0, -1, data.item_ids[np.maximum(lists, 0)])
    assert_unseen(named, [users[row] for row in part.users])
    assert (named[0] != -1).sum() == K  # all that user 0 has left


def test_restricted_run_shows_neither_seen_nor_removed_items(data, users):
    run = log_run(data, context_tower="history", num_candidates=2)  # user 0 has few left
    gone = np.unique(run.candidates(users))[:2]
    smaller = run.without_items(gone)
    found = smaller.candidates(users)
    assert_unseen(found, users)
    assert not np.isin(found, gone).any()
    assert smaller.learner.objective is run.learner.objective
    assert smaller.learner.environment.num_contexts == run.learner.environment.num_contexts


@pytest.mark.slow
@pytest.mark.parametrize("retrieval", ["dense", "streamed"])
def test_online_draws_are_unseen_and_learnt_from(data, users, retrieval, tmp_path):
    run = log_run(data, retrieval=retrieval, batch_size=len(users))
    retriever = Retriever(run)
    drawn = retriever.act(users)
    assert_unseen(drawn.candidates, users)
    for _ in range(5):
        batch = retriever.act_on_batch()
        assert_unseen(batch.candidates, batch.contexts.tolist())
    old = jax.device_get(run.state.params)
    rewards = np.ones((len(users), 1))
    assert retriever.update(drawn.token, drawn.candidates[:, :1], rewards).step == 1
    moved = jax.tree.map(lambda one, two: float(abs(one - two).max()), old, run.state.params)
    assert max(jax.tree.leaves(moved)) > 0
    retriever.save(tmp_path / "live")
    again = Retriever.load(tmp_path / "live")
    assert_unseen(again.act(users).candidates, users)


def test_unknown_users_get_the_mean_of_training_users(data):
    run = log_run(data)
    assert run.server.sampler.contexts.tolist() == data.parts.whole().users.tolist()
    with pytest.warns(UserWarning, match="1 of 1 contexts"):
        found = run.candidates(["unheard"], unknown="mean")
    tables = run.policy.embeddings(run.params(), run.environment, jnp.arange(12, dtype=jnp.int32))
    mean = np.asarray(tables.contexts, np.float64).mean(0)[0]
    order = np.argsort(-(np.asarray(tables.items)[0] @ mean))
    assert found[0].tolist() == data.item_ids[order[:K]].tolist()


@pytest.mark.slow
def test_patience_in_memory_holds_the_best_evaluation(data):
    settings = SETTINGS | {"num_steps": 40, "eval_every": 2, "patience": 2, "seeds": (0, 1)}
    states = {}

    def record(run, progress):
        if progress.phase == "evaluate":
            states[progress.step] = jax.tree.map(jnp.copy, run.state.params)

    run = rankpg.train(rankpg.TrainConfig(**settings, learning_rate=0.3), data, on_progress=record)
    assert run.step < 40  # it stopped early
    assert run.step > run.best_step
    wanted = jax.tree.map(lambda leaf: leaf[1], states[run.best_step])
    jax.tree.map(np.testing.assert_array_equal, run.params(1), wanted)
    rows = evaluate_run(run)
    best = [row["validation_ndcg@10"] for row in run.state_rows]
    assert [row["validation_ndcg@10"] for row in rows] == best


# --- the command line -----------------------------------------------------------------------------


def _write(file, columns):
    lines = [",".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
    file.write_text("\n".join([",".join(columns), *lines]) + "\n")


@pytest.mark.slow
def test_command_line_trains_evaluates_and_resumes(tmp_path, capsys, users):
    file, out = tmp_path / "log.csv", tmp_path / "run"
    columns = log_columns()
    _write(file, columns)
    flags = "--environment interactions --split last --test-share 0.2 --objective inclusion"
    flags += " --num-candidates 5 --embedding-dim 4 --num-epochs 2 --batch-size 8"
    flags += " --inclusion-at 3 --seeds 0 1"
    assert main(["train", *flags.split(), "--path", str(file), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    order = [
        printed.index(words) for words in ("held out, test part:", "recall@20", "training part:")
    ]
    assert order == sorted(order)
    assert printed.index("reward  ") > order[2]
    card = (out / "RUN.md").read_text()
    assert card.index("Held out, test part") < card.index("recall@20") < card.index("Training part")
    assert main(["evaluate", str(out), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    trained = read_metrics(out / "metrics.jsonl")[-2:]
    for name in ("recall@20", "ndcg@10", "policy_value"):
        assert [row[name] for row in rows] == [row[name] for row in trained]

    resume = ["train", "--resume", "--out", str(out), "--num-epochs", "4"]
    _write(file, {name: column[:-1] for name, column in columns.items()})
    assert main(resume) == 2
    refusal = capsys.readouterr().err.strip().splitlines()[-1]
    assert "was trained on other data" in refusal
    _write(file, columns)
    assert main(resume) == 0
    file.unlink()  # the folder is enough for candidates
    run = load_run(out)
    assert run.step == run.config.num_steps
    found = run.candidates(users, seed=1)
    assert found.shape == (len(users), K)


@pytest.mark.slow
def test_evaluation_names_the_part_of_every_metric(data):
    run = rankpg.train(rankpg.TrainConfig(**SETTINGS), data)
    (row,) = evaluate_run(run)
    last = run.metrics[-1]
    for name in ("recall@20", "ndcg@10", "validation_ndcg@10"):
        assert row[name] == last[name]
    assert "reward" not in row  # in-sample


@pytest.mark.slow
def test_a_catalogue_below_every_cutoff_is_measured_at_its_size():
    log = {
        "user": np.repeat(np.arange(5), 5),
        "item": np.concatenate([(np.arange(5) + user) % 6 for user in range(5)]),
    }
    config = rankpg.TrainConfig(
        objective="softmax", num_candidates=1, num_steps=2, eval_every=2, seeds=(0,)
    )
    run = rankpg.train(config, from_interactions(log, split="random"))
    # Each user has one of two items left, so the wanted one stands first or second.
    assert 1 / np.log2(3) <= run.metrics[-1]["ndcg@6"] <= 1
    assert "ndcg@10" not in run.metrics[-1]
