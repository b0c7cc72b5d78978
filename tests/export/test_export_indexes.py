"""Recall of the indexes of an export, with the real FAISS and usearch."""

from __future__ import annotations

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.exports import USERS, Server, make_run, manifest_of

from rankpg.core.sampling import greedy_candidates
from rankpg.environments.from_ratings import from_matrix
from rankpg.export.folder import export
from rankpg.export.indexes import INDEXES, FaissIndex, UsearchIndex, index_choices
from rankpg.export.recall import (
    choose_effort,
    exact_orders,
    exact_rows,
    measure_recall,
    merge,
    recall_by_expert,
)

ENABLE_X64 = False
pytestmark = pytest.mark.usefixtures("as_a_user")


@pytest.mark.parametrize("search", ["faiss", "usearch"])
def test_small_catalogue_is_indexed_exactly(exported, search):
    run, folder = exported("ids", 3, exact_below=1000)
    assert manifest_of(folder)["indexes"][search]["kind"] == "flat"
    np.testing.assert_array_equal(Server(folder, search).candidates(USERS), run.candidates(USERS))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("search", "kind", "least"), [("faiss", "ivf", 8), ("usearch", "hnsw", 64)]
)
def test_manifest_holds_measured_recall(tmp_path, search, kind, least):
    """Uses 3000 items of width 32 at the least effort, so that recall is below 1."""
    rng = np.random.default_rng(1)
    data = from_matrix(rng.gamma(1.0, size=(40, 3000)))
    run = make_run(data, embedding_dim=32, num_candidates=60, num_experts=2, seeds=(0,))
    folder = export(run, tmp_path / "out", index=search, exact_below=0, recall=1e-9)
    entry = manifest_of(folder)["indexes"][search]
    assert (entry["kind"], entry["effort"], entry["depth"]) == (kind, least, 60)
    measured = np.arange(0, 40, 2)  # the effort was chosen on the other contexts
    assert entry["recall"]["contexts"] == len(measured)
    served, exact = (Server(folder, how).candidates(measured) for how in (search, "exact"))
    np.testing.assert_array_equal(exact, run.candidates(measured))
    recall = np.mean(
        [len({*a} & {*b}) / 60 for a, b in zip(served.tolist(), exact.tolist(), strict=True)]
    )
    assert entry["recall"]["candidates"] == pytest.approx(recall, abs=1e-6)
    assert 0.3 < recall < 1


@pytest.mark.parametrize(("found", "reached"), [(0.5, False), (0.995, True)])
def test_an_index_below_the_required_recall_is_said(
    exported, monkeypatch, tmp_path, found, reached
):
    run, _ = exported("ids", 3, exact_below=1000)
    measured = {"candidates": 1.0, "experts": [1.0, found], "contexts": 3}
    monkeypatch.setattr("rankpg.export.folder.measure_recall", lambda *_: measured)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        folder = export(run, tmp_path / "out", index="faiss", exact_below=1000)
    assert manifest_of(folder)["indexes"]["faiss"]["reached"] is reached
    sentences = [str(x.message) for x in said if "the index faiss finds" in str(x.message)]
    assert len(sentences) == (not reached)
    assert (
        reached
        or "finds 0.5000 of an expert's best items at its largest search effort" in sentences[0]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "index_class"), [("ivf", FaissIndex), ("hnsw", FaissIndex), ("hnsw", UsearchIndex)]
)
def test_recall_rises_with_search_effort(kind, index_class):
    rng = np.random.default_rng(2)
    items = rng.normal(size=(1, 4000, 48)).astype(np.float32)
    queries = rng.normal(size=(50, 1, 48)).astype(np.float32)
    exact = exact_rows(queries, items, 60)
    brute = np.argsort(-(queries[:, 0] @ items[0].T), axis=1, kind="stable")[:, :60]
    np.testing.assert_array_equal(exact[:, 0], brute)
    index = index_class(items[0], kind)
    low = choose_effort([index], queries, exact, 1e-9)
    at_low = measure_recall([index], queries, exact, (60,))
    high = choose_effort([index], queries, exact, 0.995)
    at_high = measure_recall([index], queries, exact, (60,))
    assert low == index.efforts[0] < high
    assert at_low["candidates"] < 0.995 <= at_high["candidates"] == at_high["experts"][0]


@pytest.mark.slow
def test_merged_exact_orders_are_greedy_candidates(monkeypatch):
    """Covers a partial block, ties within and between blocks, -0.0, quotas of 0, and shared best items."""
    monkeypatch.setattr("rankpg.export.recall._ITEMS_AT_ONCE", 50)
    rng = np.random.default_rng(3)
    items = rng.integers(-1, 2, size=(3, 230, 2)).astype(np.float32)  # nearly all are ties
    items[:, 90:110] = rng.normal(size=(1, 20, 2)) * 3  # the same best items for every expert
    contexts = rng.normal(size=(4, 3, 2)).astype(np.float32)
    contexts[0] *= -0.0
    logits = jnp.einsum("bmd,mnd->bmn", contexts, items, precision="highest")
    for quotas in ((5, 4, 3), (1, 0, 11)):
        orders = jax.jit(exact_orders, static_argnums=2)(contexts, items, 12)
        wanted = jax.jit(jax.vmap(partial(greedy_candidates, quotas=quotas)))(logits)
        np.testing.assert_array_equal(merge(orders, quotas), wanted)


def test_recall_counts_missing_rows():
    assert recall_by_expert(np.array([[[1, -1]]]), np.array([[[2, 1]]])) == [0.5]


class NumpyIndex:
    """Brute force, as an example of an index of one's own."""

    approximate_kind = "flat"

    def __init__(self, items, kind):
        self.items, self.kind, self.efforts = items, kind, ()

    def search(self, queries, depth):
        return np.argsort(-(queries @ self.items.T), axis=1, kind="stable")[:, :depth]

    def set_effort(self, effort):
        raise NotImplementedError

    def save(self, file):
        with file.open("wb") as content:
            np.save(content, self.items)

    @staticmethod
    def version():
        return np.__version__


def test_custom_index_is_exported(monkeypatch, tmp_path):
    monkeypatch.setitem(INDEXES, "numpy", NumpyIndex)
    assert index_choices() == ("none", "faiss", "usearch", "numpy", "all")
    folder = export(make_run(seeds=(0,)), tmp_path / "out", index="numpy", platforms=("cpu",))
    entry = manifest_of(folder)["indexes"]["numpy"]
    assert (entry["files"], entry["recall"]["candidates"]) == (["numpy_0.numpy"], 1.0)
    assert np.load(folder / "numpy_0.numpy").shape == (300, 10)


def test_the_effort_is_chosen_on_other_contexts_than_recall_is_measured_on(monkeypatch, tmp_path):
    seen = {}

    def choose(indexes, queries, exact, target):
        seen["chosen on"] = queries
        return choose_effort(indexes, queries, exact, target)

    def measure(indexes, queries, exact, quotas):
        seen["measured on"] = queries
        return measure_recall(indexes, queries, exact, quotas)

    monkeypatch.setitem(INDEXES, "numpy", NumpyIndex)
    monkeypatch.setattr("rankpg.export.folder.choose_effort", choose)
    monkeypatch.setattr("rankpg.export.folder.measure_recall", measure)
    export(make_run(seeds=(0,)), tmp_path / "out", index="numpy", platforms=("cpu",))
    one, other = ({row.tobytes() for row in queries} for queries in seen.values())
    assert len(one) > 1 < len(other)
    assert not one & other


def test_exact_search_takes_zeros_of_either_sign_as_a_tie():
    """A product of width 1 keeps the sign of its zero."""
    contexts, items = jnp.full((1, 1, 1), -1.0), jnp.asarray([[[0.0], [-0.0], [0.0], [1.0]]])
    search = jax.jit(exact_orders, static_argnums=2)
    assert search(contexts, items, 3).tolist() == [[[0, 1, 2]]]
