"""A trained run on a user's data: from its folder, with items added and removed, for unknown contexts."""

from __future__ import annotations

import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import polars as pl
import pytest
from helpers.data_files import refusal, rewards

from rankpg import TrainConfig, online
from rankpg.cli.main import main
from rankpg.data.features import Features
from rankpg.data.ids import UnknownIdError, UnknownIdWarning
from rankpg.environments.from_ratings import from_matrix
from rankpg.environments.from_table import from_table
from rankpg.errors import ConfigError, DataWarning
from rankpg.online.retriever import Retriever
from rankpg.runs.evaluator import evaluate_run, evaluation_contexts
from rankpg.runs.loop import training_loop
from rankpg.runs.run import prepare
from rankpg.runs.storage.folder import RunFolder
from rankpg.runs.storage.load import load_run
from rankpg.runs.train import train

ENABLE_X64 = False

pytestmark = pytest.mark.usefixtures("as_a_user")

CONTEXTS, ITEMS, K = 6, 12, 3
USERS = pd.DataFrame({"user": [f"u{i}" for i in range(CONTEXTS)], "age": np.arange(CONTEXTS) * 7.0})
SHOP = pl.DataFrame(
    {
        "sku": [f"s{i}" for i in range(ITEMS)],
        "price": [float(i * i % 11) for i in range(ITEMS)],
        "brand": [["x", "y", "z"][i % 3] for i in range(ITEMS)],
    }
)
NEW = pl.DataFrame({"sku": ["n1", "n2"], "price": [4.5, 30.0], "brand": ["y", "never seen"]})


def ratings():
    rng = np.random.default_rng(0)
    pairs = [(u, s) for u in USERS["user"] for s in SHOP["sku"] if rng.random() < 0.6]
    return {
        "user": [u for u, _ in pairs],
        "item": [s for _, s in pairs],
        "value": rng.gamma(1.0, size=len(pairs)),
    }


def shop_data(**options):
    return from_table(
        ratings(), contexts=USERS, items=SHOP, context_features=Features(numeric=["age"]),
        item_features=Features(id="sku", numeric=["price"], categorical=["brand"], buckets=8),
        **options,
    )  # fmt: skip


def settings(**changes):
    few = {
        "num_candidates": K, "num_steps": 6, "eval_every": 6, "batch_size": 8, "seeds": (0, 1),
        "hidden": (8,), "context_tower": "features", "item_tower": "features", "num_experts": 2,
        "embedding_dim": 4,
    }  # fmt: skip
    return TrainConfig(**(few | changes))


def by_ids(**changes):
    return settings(context_tower="ids", item_tower="ids", hidden=(64,), **changes)


@pytest.fixture(scope="module")
def run(jax_flags):
    return train(settings(), shop_data())


@pytest.fixture(scope="module")
def id_run(jax_flags):
    with pytest.warns(DataWarning, match="item_tower='ids' does not read them"):
        return train(by_ids(), shop_data())


def logits(run, contexts):
    """Logits of every item by brute force: {item id: [contexts, M]}."""
    params = jax.tree.map(lambda leaf: leaf[0], run.state.params)
    rows = jnp.asarray(run.context_rows(contexts))
    found = np.asarray(run.policy.logits(params, run.environment, rows))
    ids = run.dataset.item_ids.ids.tolist()
    return {item: found[:, :, column] for column, item in enumerate(ids)}


def best(scores, quotas, context, allowed=None):
    """Filled by quota, expert after expert, from what is left: slow, and by the definition."""
    left = [item for item in scores if allowed is None or item in allowed]
    chosen = []
    for expert, quota in enumerate(quotas):
        for _ in range(quota):
            chosen.append(max(left, key=lambda item: scores[item][context, expert]))
            left.remove(chosen[-1])
    return chosen


def check_candidates(run, contexts=tuple(USERS["user"]), **options):
    scores = logits(run, contexts)
    found = run.candidates(list(contexts), **options).tolist()
    allowed = options.get("eligible")
    expected = [best(scores, run.policy.quotas, c, allowed) for c in range(len(contexts))]
    assert found == expected
    return scores


# Items that come and go.


@pytest.mark.slow
def test_added_items_rank_where_brute_force_puts_them(run):
    before = logits(run, USERS["user"])
    wider = run.with_items(NEW)
    after = check_candidates(wider)
    for item, scores in before.items():
        np.testing.assert_allclose(after[item], scores, atol=1e-6)
    features = run.dataset.item_featurizer.transform(NEW)
    params = jax.tree.map(lambda leaf: leaf[0], run.state.params)
    world = online.catalogue(
        CONTEXTS, 2, context_features=run.environment.context_features, item_features=features
    )
    alone = run.policy.logits(params, world, jnp.arange(CONTEXTS, dtype=jnp.int32))
    np.testing.assert_allclose(np.stack([after["n1"], after["n2"]], -1), alone, atol=1e-6)
    assert any("n" in item[0] for row in wider.candidates(USERS["user"]) for item in row), (
        "a test of nothing: no new item is any context's candidate"
    )
    assert run.dataset.item_ids.ids.tolist() == SHOP["sku"].to_list()  # the run itself is as it was


def test_items_may_be_an_array_of_features(run):
    features = run.dataset.item_featurizer.transform(NEW)
    one, other = run.with_items(NEW), run.with_items(features, ["n1", "n2"])
    assert one.dataset.fingerprint() == other.dataset.fingerprint()
    refusal(
        lambda: run.with_items(features[:, :2], ["n1", "n2"]), "2 features in each row; expected 9"
    )
    refusal(lambda: run.with_items(features, ["n1"]), "[1, F]")


@pytest.mark.slow
def test_new_items_have_no_ratings_and_training_continues(run):
    wider = run.with_items(NEW)
    assert rewards(wider.dataset, "u1", ["n1", "n2"]) == [0.0, 0.0]
    for item in SHOP["sku"]:
        assert rewards(wider.dataset, "u1", [item]) == rewards(run.dataset, "u1", [item])
    rows = evaluate_run(wider)
    assert all(np.isfinite(row["policy_value"]) for row in rows)
    before = run.candidates(["u0"]).tolist()
    for _ in training_loop(train_on(wider)):
        pass
    assert wider.step == 8
    assert run.candidates(["u0"]).tolist() == before  # its parameters were not given away


def train_on(run):
    run.config = TrainConfig.from_dict(run.config.to_dict() | {"num_steps": 8, "eval_every": 2})
    return run


@pytest.mark.slow
def test_removed_items_are_never_candidates(run):
    gone = ["s0", "s5", "s11"]
    less = run.without_items(gone)
    after = check_candidates(less)
    assert not {*gone} & {*after}
    before = logits(run, USERS["user"])
    for item, scores in after.items():
        np.testing.assert_allclose(scores, before[item], atol=1e-6)
        assert rewards(less.dataset, "u2", [item]) == rewards(run.dataset, "u2", [item])
    assert not {*gone} & {*less.candidates(USERS["user"]).ravel().tolist()}
    back = less.with_items(SHOP.filter(pl.col("sku").is_in(gone)))
    np.testing.assert_allclose(logits(back, ["u3"])["s5"], before["s5"][3:4], atol=1e-6)


def test_k_items_must_remain(run):
    left = run.without_items(SHOP["sku"].to_list()[K:])
    assert sorted(left.candidates("u0")[0].tolist()) == ["s0", "s1", "s2"]
    refusal(lambda: left.without_items("s0"), "num_candidates=3", "2 items", error=ConfigError)
    refusal(
        lambda: run.without_items(SHOP["sku"].to_list()),
        "leave at least one in the catalogue",
        error=ValueError,
    )
    refusal(lambda: run.without_items("s99"), "unknown item 's99'", error=UnknownIdError)


def test_known_items_and_ids_of_another_type_are_rejected(run):
    refusal(lambda: run.with_items(SHOP[:2]), "'s0' exists already (2 do)", "without_items")
    numbered = NEW.with_columns(pl.Series("sku", [1, 2]))
    refusal(lambda: run.with_items(numbered), "ids are int64", "convert them to one type")
    refusal(lambda: run.with_items(NEW.drop("price")), "no column 'price'")


@pytest.mark.slow
def test_a_table_of_ids_rejects_new_items_and_allows_removal(id_run):
    for call in (lambda: id_run.with_items(NEW), lambda: id_run.with_contexts(NEW)):
        refusal(call, "cannot be added", "never saw has no embedding", error=ConfigError)
    before = logits(id_run, USERS["user"])
    gone = {item for row in id_run.candidates(USERS["user"]) for item in row[:1]}
    less = id_run.without_items(sorted(gone)).without_items("s7")
    found = less.candidates(USERS["user"]).tolist()
    kept = {*SHOP["sku"]} - gone - {"s7"}
    quotas = id_run.policy.quotas
    assert found == [best(before, quotas, c, kept) for c in range(CONTEXTS)]
    with pytest.warns(UnknownIdWarning):
        unknown = less.candidates(["missing"], unknown="mean")
    assert {*unknown[0].tolist()} <= kept


@pytest.mark.slow
def test_new_items_of_a_reward_matrix_have_no_rewards():
    rng = np.random.default_rng(1)
    data = from_matrix(
        rng.gamma(1.0, size=(4, 8)), noise_std=rng.uniform(size=(4, 8)),
        eligible=rng.random((4, 8)) < 0.9, item_features=rng.normal(size=(8, 5)),
    )  # fmt: skip
    run = train(settings(context_tower="ids", seeds=(0,), num_experts=1, num_candidates=2), data)
    less = run.without_items([0, 3])
    kept = [1, 2, 4, 5, 6, 7]
    world, whole = less.environment, run.environment
    np.testing.assert_array_equal(world.means, whole.means[:, np.array(kept)])
    np.testing.assert_array_equal(world.noise_std, whole.noise_std[:, np.array(kept)])
    np.testing.assert_array_equal(world.where, whole.where[:, np.array(kept)])
    assert np.isfinite(evaluate_run(less)[0]["policy_value"])
    wider = run.with_items(rng.normal(size=(1, 5)), [99])
    assert wider.candidates([0, 3]).shape == (2, 2)
    refusal(lambda: evaluate_run(wider), "has no rewards", error=ConfigError)
    refusal(lambda: run.with_items({"item": [1]}), "as an array [n, 5]")
    assert wider.environment.where[:, 8].all()


def test_new_contexts_are_embedded_by_their_features(run):
    wider = run.with_contexts({"user": ["new", "twin"], "age": [50.0, 14.0]})
    scores = check_candidates(wider, ("new", "twin", "u2"))
    twin = [scores[item][1] for item in scores]
    np.testing.assert_allclose(twin, [scores[item][2] for item in scores], atol=1e-6)  # u2 is 14
    assert wider.known(["new", "u0", "none"]).tolist() == [True, True, False]
    np.testing.assert_array_equal(wider.learner.sampler.contexts, np.arange(CONTEXTS))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::rankpg.errors.DataWarning")
def test_new_contexts_after_items_of_a_table_were_removed():
    run = prepare(settings(item_tower="ids", hidden=(4,), embedding_dim=4), shop_data())
    less = run.without_items(["s2", "s5"])
    wider = less.with_contexts({"user": ["new", "twin"], "age": [50.0, 14.0]})
    kept = [item for item in SHOP["sku"] if item not in ("s2", "s5")]
    check_candidates(wider, ("new", "twin"), eligible=kept)
    found = wider.candidates(["new", "twin"])
    np.testing.assert_array_equal(found, wider.candidates(["new", "twin"], eligible=kept))
    np.testing.assert_array_equal(found[1], less.candidates("u2")[0])  # who is 14
    for changed in (less, wider):
        refusal(
            lambda r=changed: r.with_items(NEW),
            "its item tower embeds ids, and an item that",
            error=ConfigError,
        )
    np.testing.assert_array_equal(
        run.with_contexts({"user": ["new"], "age": [50.0]})
        .without_items(["s2", "s5"])
        .candidates("new"),
        wider.candidates("new"),
    )


@pytest.mark.slow
@pytest.mark.parametrize("held_out", [0, 2])
def test_evaluation_contexts_do_not_change(held_out):
    run = prepare(settings(held_out_contexts=held_out), shop_data())
    before = evaluation_contexts(run).tolist()
    wider = run.with_contexts({"user": ["new", "twin"], "age": [50.0, 14.0]})
    for later in (wider, wider.with_items(NEW).without_items("s3")):
        assert evaluation_contexts(later).tolist() == before
        training = set(later.learner.sampler.contexts.tolist())
        assert training == set(run.learner.sampler.contexts.tolist())
        assert not held_out or not training & {*before}


BIG = [1, 2**63 + 5, 2**64 - 1, 7, 8, 9]


def numbered(ids, **towers):
    """An untrained run whose contexts and items have these ids."""
    rows = np.eye(len(ids), dtype=np.float32)
    data = from_matrix(
        rows + 1, context_ids=ids, item_ids=ids, context_features=rows, item_features=rows
    )
    return prepare(settings(seeds=(0,), **towers), data)


@pytest.mark.slow
@pytest.mark.parametrize("ids", [BIG, np.array(BIG, np.uint64), pd.Series(BIG)])
def test_64_bit_ids_are_kept(ids):
    run = numbered(ids)
    assert run.dataset.item_ids.ids.dtype == np.uint64
    assert run.dataset.item_ids.ids.tolist() == BIG
    assert run.known([1, 2**63 + 5, 2**63 + 6, 9]).tolist() == [True, True, False, True]
    found = run.candidates(np.array(BIG[:2], np.uint64)).tolist()
    assert run.candidates(BIG[:2]).tolist() == found
    assert run.candidates(BIG[1]).tolist() == found[1:]
    assert sorted(run.candidates(1, eligible=BIG[:3])[0].tolist()) == sorted(BIG[:3])
    with pytest.warns(UnknownIdWarning, match="such as 9223372036854775814"):
        run.candidates([1, 2**63 + 6], unknown="mean")
    assert run.without_items(BIG[:2]).dataset.item_ids.ids.tolist() == BIG[2:]
    row = np.ones((1, 6), np.float32)
    for more in ([77], np.array([77]), [2**64 - 2]):
        wider = run.with_items(row, more).dataset.item_ids.ids
        assert (wider.dtype, wider.tolist()) == (np.uint64, [*BIG, *more])
    refusal(lambda: run.with_items(row, [-1]), "no 64-bit type holds", "make them text")


@pytest.mark.slow
def test_ids_of_both_signs_have_one_type():
    small = numbered(np.array([3, 4, 5, 6], np.uint64), num_experts=1)
    wider = small.with_items(np.ones((1, 4)), [-1]).dataset.item_ids.ids
    assert (wider.dtype, wider.tolist()) == (np.int64, [3, 4, 5, 6, -1])
    wider = numbered([3, 4, 5, 6]).with_items(np.ones((1, 4)), np.array([2**60 + 1], np.uint64))
    assert wider.dataset.item_ids.ids.tolist()[-1] == 2**60 + 1


@pytest.mark.slow
def test_text_ids_do_not_depend_on_the_array_type():
    text = ["a", "b", "c", "d"]
    for ids in (
        pd.Series(text, dtype=object),
        pd.Series(text, dtype="string"),
        np.array(text, object),
    ):
        run = numbered(ids)
        assert run.dataset.item_ids.ids.dtype == "<U1"
        for more in (["long"], pd.Series(["long"], dtype=object), np.array(["long"], object)):
            assert run.with_items(np.ones((1, 4)), more).dataset.item_ids.ids[-1] == "long"
        assert run.known(pd.Series(["b", "long"], dtype=object)).tolist() == [True, False]


@pytest.mark.parametrize(
    ("ids", "parts"),
    [
        ([77.5], ["77.5 is not a whole number", "whole numbers or text"]),
        (["77"], ["ids are <U2", "those of the run are int64", "convert them to one type"]),
        (np.array(["2020-01-01"], "M8[D]"), ["ids are datetime64[D]", "convert them to one type"]),
        ([True], ["ids are <U5", "convert them to one type"]),
        (np.array([True]), ["ids are <U5", "convert them to one type"]),
        ([""], ["item ids, row 0", "the id is empty"]),
        ([None], ["item ids, row 0", "the id is empty"]),
        (np.array(["NaT"], "M8[D]"), ["item ids, row 0", "the id is empty"]),
        ([["a"]], ["item ids must be a list"]),
    ],
)
def test_invalid_new_ids_are_rejected(ids, parts):
    run = numbered([3, 4, 5, 6])
    refusal(lambda: run.with_items(np.ones((1, 4)), ids), *parts)


def test_invalid_contexts_are_rejected(run):
    numbers = numbered([0, 1, 2, 3])
    refusal(lambda: numbers.candidates(True), "unknown user 'True'", error=UnknownIdError)
    refusal(lambda: numbers.candidates([0, True]), "unknown user 'True'", error=UnknownIdError)
    refusal(lambda: numbers.without_items([True]), "unknown item 'True'", error=UnknownIdError)
    assert numbers.known([0, True, 4, None]).tolist() == [True, False, False, False]
    for unknown in ("error", "mean"):
        for contexts, said in (([["u3", "zz"]], "has shape [1, 2]"), ([], "is empty")):
            refusal(
                lambda a=contexts, u=unknown: run.candidates(a, unknown=u),
                f"contexts {said}; expected one context id or a list", error=ValueError,
            )  # fmt: skip


def test_a_run_without_ids_takes_row_numbers():
    run = prepare(TrainConfig(num_contexts=5, num_items=9, num_candidates=2, seeds=(0,)))
    refusal(lambda: run.without_items([1]), "row numbers and no ids", error=ConfigError)
    with pytest.warns(UnknownIdWarning, match=r"1 of 2 contexts \(50\.0%\) are unknown, such as 7"):
        assert run.candidates([1, 7], unknown="mean").shape == (2, 2)


# Questions.


def test_only_eligible_items_are_returned(run):
    allowed = ["s1", "s4", "s8", "s9"]
    check_candidates(run, eligible=allowed)
    mask = np.isin(run.dataset.item_ids.ids, allowed)
    expected = run.candidates(["u0", "u4"], eligible=allowed)
    np.testing.assert_array_equal(run.candidates(["u0", "u4"], eligible=mask), expected)
    rows = np.stack([mask, np.ones(ITEMS, bool)])
    found = run.candidates(["u0", "u4"], eligible=rows)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], run.candidates("u4")[0])


def test_labels_of_eligible_are_followed_in_any_order(run):
    rng, ids = np.random.default_rng(0), run.dataset.item_ids.ids
    mask = pd.DataFrame(rng.permuted(np.arange(3 * ITEMS).reshape(3, ITEMS) % 2, axis=1) == 0)
    mask.index, mask.columns = ["u4", "u1", "u0"], ids
    expected = run.candidates(["u4", "u1", "u0"], eligible=mask.to_numpy())
    shuffled = mask.iloc[::-1, rng.permutation(ITEMS)]
    np.testing.assert_array_equal(
        run.candidates(["u0", "u4", "u0"], eligible=shuffled), expected[[2, 0, 2]]
    )
    row = shuffled.loc["u1"]
    np.testing.assert_array_equal(run.candidates(["u1"], eligible=row), expected[[1]])
    lacks = shuffled.drop(columns=ids[3])
    refusal(lambda: run.candidates(["u0"], eligible=lacks), f"labelled {str(ids[3])!r}")
    refusal(lambda: run.candidates(["u2"], eligible=shuffled), "labelled 'u2'")


def test_invalid_eligible_is_rejected(run):
    for eligible, parts in (
        (["s1", "s2"], ["context 'u0' has 2 eligible items", "3 candidates"]),
        (np.ones(5, bool), ["bool[5]", "[12] (items)"]),
        (np.ones((3, ITEMS), bool), ["bool[3, 12]", "[1, 12]"]),
        ([], ["eligible is empty", "at least one item", "None for every item"]),
    ):
        refusal(
            lambda e=eligible: run.candidates("u0", eligible=e, too_few="error"),
            *parts,
            error=ValueError,
        )
    refusal(
        lambda: run.candidates("u0", eligible=["zz"]), "unknown item 'zz'", error=UnknownIdError
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::rankpg.errors.DataWarning")
def test_eligibility_of_data_and_call_both_hold():
    where = np.random.default_rng(3).random((CONTEXTS, ITEMS)) < 0.8
    run = train(by_ids(seeds=(0,)), shop_data(eligible=where))
    allowed = np.arange(ITEMS) % 2 == 0
    for context, row in enumerate(run.candidates(USERS["user"], eligible=allowed)):
        found = run.dataset.item_ids.rows(row)
        assert where[context, found].all()
        assert allowed[found].all()


@pytest.mark.slow
@pytest.mark.parametrize("which", ["run", "id_run"])
def test_unknown_contexts_get_the_candidates_of_the_mean(which, request):
    run = request.getfixturevalue(which)
    refusal(lambda: run.candidates(["u0", "who"]), "unknown user 'who'", error=UnknownIdError)
    with pytest.warns(UnknownIdWarning, match=r"2 of 3 contexts \(66\.7%\).*'who'"):
        found = run.candidates(["who", "u1", "me"], unknown="mean")
    assert run.known(["who", "u1", "me"]).tolist() == [False, True, False]
    np.testing.assert_array_equal(found[1], run.candidates("u1")[0])
    scores = {item: s.mean(axis=0, keepdims=True) for item, s in logits(run, USERS["user"]).items()}
    expected = best(scores, run.policy.quotas, 0)
    assert found[0].tolist() == found[2].tolist() == expected
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.candidates(["u0"], unknown="mean")  # every context is known: no warning
    with pytest.warns(UnknownIdWarning):
        few = run.candidates(["who"], unknown="mean", eligible=["s1", "s2", "s3"])
    assert few[0].tolist() == best(scores, run.policy.quotas, 0, ["s1", "s2", "s3"])
    refusal(lambda: run.candidates("u0", unknown="guess"), "'error' or 'mean'", error=ValueError)


# The folder.


def saved(run, path):
    folder = RunFolder(path)
    folder.open(run)
    for progress in training_loop(run):
        folder.on_progress(run, progress)
    folder.close(run)
    return folder.path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::rankpg.errors.DataWarning")
@pytest.mark.parametrize("towers", ["features", "ids"])
def test_a_loaded_run_needs_only_its_folder(towers, tmp_path):
    where = np.random.default_rng(3).random((CONTEXTS, ITEMS)) < 0.8
    config = settings() if towers == "features" else by_ids(reranker="noisy")
    run = prepare(config, shop_data(eligible=where))
    path = saved(run, tmp_path / "run")
    again = load_run(path)
    for seed in (0, 1):
        np.testing.assert_array_equal(
            again.candidates(USERS["user"], seed), run.candidates(USERS["user"], seed)
        )
    assert again.config == run.config
    assert again.dataset.item_featurizer == run.dataset.item_featurizer
    assert again.dataset.context_featurizer == run.dataset.context_featurizer
    refusal(lambda: evaluate_run(again), "load_run(path, environment=data)", error=ConfigError)
    whole = load_run(path, environment=shop_data(eligible=where))
    np.testing.assert_equal(
        [row["policy_value"] for row in evaluate_run(whole)],
        [row["policy_value"] for row in run.metrics if row["step"] == run.step],
    )
    if towers == "features":
        np.testing.assert_array_equal(
            again.with_items(NEW).candidates("u0"), run.with_items(NEW).candidates("u0")
        )
    other = shop_data(eligible=where, clip=(0, 0.5))
    refusal(lambda: load_run(path, environment=other), "trained on other data", error=ConfigError)


@pytest.mark.slow
@pytest.mark.parametrize(
    "ids",
    [
        ["a", "é", "\0x", "<b>", "12", " "],
        [5, 3, 2**40, 0, -7, 1],
        [0, 1, 2, 3, 4, 5],
        np.array([2**64 - 1, 1, 2, 3, 4, 5], np.uint64),
        np.arange(6).astype("datetime64[D]"),
    ],
    ids=["text", "numbers", "places", "unsigned", "dates"],
)
def test_ids_are_loaded_exactly(ids, tmp_path):
    data = from_matrix(np.eye(6) + 1, context_ids=ids, item_ids=ids)
    run = prepare(TrainConfig(num_candidates=2, seeds=(0,), num_steps=1, batch_size=2), data)
    again = load_run(saved(run, tmp_path / "run"))
    assert again.dataset.item_ids.ids.dtype == data.item_ids.ids.dtype
    assert again.dataset.item_ids.ids.tolist() == data.item_ids.ids.tolist()
    np.testing.assert_array_equal(again.candidates(ids), run.candidates(ids))


@pytest.mark.slow
def test_the_folder_is_plain_and_damage_is_reported(tmp_path, capsys):
    path = saved(prepare(settings(), shop_data()), tmp_path / "run")
    held = json.loads((path / "data" / "ids.json").read_text())
    assert held["item"] == {"type": "text", "values": SHOP["sku"].to_list()}
    assert set(np.load(path / "data" / "arrays.npz", allow_pickle=False)) == {
        "context_features", "item_features",
    }  # fmt: skip
    assert main(["evaluate", str(path)]) == 2
    assert "load_run(path, environment=data)" in capsys.readouterr().err
    ids = (path / "data" / "ids.json").read_text()
    (path / "data" / "ids.json").write_text(ids.replace('"s1"', '"s0"'))
    refusal(lambda: load_run(path), "'s0' occurs twice", "environment=data", error=ConfigError)
    (path / "data" / "ids.json").write_text(ids.replace('"s1"', '"zz"'))
    refusal(
        lambda: load_run(path), "trained on other data: the checksum of item ids", error=ConfigError
    )
    (path / "data" / "ids.json").write_text(ids[:50])
    refusal(lambda: load_run(path), "data cannot be read", error=ConfigError)
    (path / "data" / "ids.json").write_text(ids)
    (path / "data" / "arrays.npz").write_bytes(b"PK")
    refusal(lambda: load_run(path), "arrays.npz", error=ConfigError)


@pytest.mark.slow
def test_the_run_card_lists_what_was_left_out(tmp_path):
    more = {"user": "u0", "item": "x", "value": 1.0}
    table = {name: [*values, more[name]] for name, values in ratings().items()}
    data = from_table(
        table, items=SHOP, item_features=Features(id="sku", categorical=["brand"], buckets=4),
        unknown="drop",
    )  # fmt: skip
    config = settings(context_tower="ids", seeds=(0,), num_steps=1, eval_every=1)
    card = (saved(prepare(config, data), tmp_path / "run") / "RUN.md").read_text()
    assert f"1 of {len(table['user'])} ratings" in card
    assert "4 item features from brand" in card


@pytest.mark.slow
def test_an_online_retriever_keeps_its_ids(tmp_path):
    config = settings(seeds=(0,), estimator="ca_pg_swr", batch_size=2)
    data = from_table(
        None, contexts=USERS, items=SHOP, context_features=Features(numeric=["age"]),
        item_features=Features(id="sku", numeric=["price"]),
    )  # fmt: skip
    retriever = Retriever.new(config, data)
    drawn = retriever.act(["u1", "u2"])
    retriever.update(drawn.token, drawn.candidates[:, :1], [[1.0], [0.5]])
    retriever.save(tmp_path / "live")
    again = Retriever.load(tmp_path / "live")
    assert again.step == 1
    np.testing.assert_array_equal(again.run.candidates("u3"), retriever.run.candidates("u3"))
    drawn = again.act(["u1"])
    assert again.update(drawn.token, drawn.candidates[:, :1], [[1.0]]).waiting == 1
