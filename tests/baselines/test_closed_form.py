"""Popularity, nearest neighbours and EASE against dense loops; what they reject."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from helpers.data_files import refusal
from scipy import sparse

from rankpg.baselines import BASELINES, Ease, ItemKnn, Popular
from rankpg.baselines import neighbours as neighbours_module
from rankpg.baselines.ease import MAX_ITEMS, ease_weights
from rankpg.baselines.neighbours import WEIGHTINGS, item_similarities, weighted
from rankpg.baselines.popular import popularity
from rankpg.errors import ConfigError

USERS, ITEMS = 19, 11
EMPTY_USER, EMPTY_ITEM = 4, 6


@pytest.fixture(scope="module", params=[0, 1])
def dense(request):
    """Interactions of different values; one user and one item have none."""
    rng = np.random.default_rng(request.param)
    found = np.where(rng.random((USERS, ITEMS)) < 0.35, rng.uniform(0.5, 3, (USERS, ITEMS)), 0)
    found[EMPTY_USER], found[:, EMPTY_ITEM] = 0, 0
    return found.astype(np.float32)


@pytest.mark.parametrize("damping", [0.0, 0.5, 2.0])
def test_popularity_equals_a_loop(dense, damping):
    expected = np.zeros(ITEMS)
    for user in range(USERS):
        for item in range(ITEMS):
            if dense[user, item]:
                expected[item] += dense[user, item] / np.count_nonzero(dense[user]) ** damping
    np.testing.assert_allclose(popularity(sparse.csr_array(dense), damping), expected, rtol=1e-5)


def slow_weights(dense, weighting):
    """One interaction at a time."""
    found = dense.astype(np.float64)
    mean = dense.sum() / ITEMS
    for user, item in np.argwhere(dense):
        x, idf = float(dense[user, item]), math.log(1 + ITEMS / np.count_nonzero(dense[user]))
        length = float(dense[:, item].sum()) / mean
        found[user, item] = {
            "none": x,
            "tf_idf": x * idf,
            "bm25": idf * x * 2.2 / (x + 1.2 * (0.25 + 0.75 * length)),
        }[weighting]
    return found


def slow_similarities(dense, neighbours, shrinkage, weighting):
    """One pair of items at a time."""
    w = slow_weights(dense, weighting)
    found = np.zeros((ITEMS, ITEMS))
    for i in range(ITEMS):
        pairs = []
        for j in range(ITEMS):
            product = float(w[:, i] @ w[:, j])
            if j != i and product > 0:
                lengths = math.sqrt(w[:, i] @ w[:, i]) * math.sqrt(w[:, j] @ w[:, j])
                pairs.append((product / (lengths + shrinkage), j))
        for similarity, j in sorted(pairs, reverse=True)[:neighbours]:
            found[i, j] = similarity
    return found


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_weights_equal_a_loop(dense, weighting):
    found = weighted(sparse.csr_array(dense), weighting).toarray()
    np.testing.assert_allclose(found, slow_weights(dense, weighting), rtol=1e-5)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize(("neighbours", "shrinkage"), [(1, 0.0), (3, 7.0), (50, 0.5)])
def test_similarities_equal_a_loop(dense, weighting, neighbours, shrinkage):
    found = item_similarities(sparse.csr_array(dense), neighbours, shrinkage, weighting)
    expected = slow_similarities(dense, neighbours, shrinkage, weighting)
    np.testing.assert_allclose(found.toarray(), expected, rtol=1e-4)


def test_scores_add_the_similarities_of_the_neighbours(dense):
    knn = ItemKnn(neighbours=3, shrinkage=2.0)
    knn.fit(sparse.csr_array(dense))
    similar = slow_similarities(dense, 3, 2.0, "none")
    expected = [
        [sum(dense[u, j] * similar[i, j] for j in range(ITEMS)) for i in range(ITEMS)]
        for u in (7, 0)
    ]
    np.testing.assert_allclose(knn.scores(np.array([7, 0])), expected, rtol=1e-4)


@pytest.mark.parametrize("values", [ITEMS, 4 * ITEMS])
def test_blocks_of_items_do_not_change_similarities(dense, values, monkeypatch):
    train = sparse.csr_array(dense)
    whole = item_similarities(train, 3)
    monkeypatch.setattr(neighbours_module, "_BLOCK_VALUES", values)
    np.testing.assert_array_equal(item_similarities(train, 3).toarray(), whole.toarray())


def test_equal_similarities_are_taken_by_item_row():
    train = sparse.csr_array(np.ones((2, 4), np.float32))
    near = item_similarities(train, neighbours=2).toarray() > 0
    assert [np.flatnonzero(row).tolist() for row in near] == [[1, 2], [0, 2], [0, 1], [0, 1]]


@pytest.mark.parametrize("l2", [0.3, 20.0])
@pytest.mark.parametrize("users", [ITEMS - 2, USERS])  # inverted by users, by items
def test_ease_is_a_ridge_regression_on_the_other_items(dense, l2, users):
    dense = dense[:users]
    x = dense.astype(np.float64)
    expected = np.zeros((ITEMS, ITEMS))
    for item in range(ITEMS):
        others = [j for j in range(ITEMS) if j != item]
        a = x[:, others]
        expected[others, item] = np.linalg.solve(a.T @ a + l2 * np.eye(ITEMS - 1), a.T @ x[:, item])
    found = ease_weights(sparse.csr_array(dense), l2)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    ease = Ease(l2)
    ease.fit(sparse.csr_array(dense))
    np.testing.assert_allclose(
        ease.scores(np.array([3, 1])), x[[3, 1]] @ expected, rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("name", ["popular", "item_knn", "ease"])
def test_a_user_without_items_has_scores(name, dense):
    baseline = BASELINES[name].build()
    baseline.fit(sparse.csr_array(dense))
    scores = baseline.scores(np.array([EMPTY_USER]))
    assert (scores.dtype, scores.shape) == (np.float32, (1, ITEMS))
    expected = popularity(sparse.csr_array(dense)) if name == "popular" else np.zeros(ITEMS)
    np.testing.assert_array_equal(scores[0], expected)


@pytest.mark.parametrize("name", ["popular", "item_knn", "ease"])
def test_a_table_without_interactions_gives_zeros(name):
    baseline = BASELINES[name].build()
    baseline.fit(sparse.csr_array((2, 3), dtype=np.float32))
    np.testing.assert_array_equal(baseline.scores(np.array([0, 1])), np.zeros((2, 3)))


@pytest.mark.parametrize("name", ["popular", "item_knn", "ease"])
def test_two_fits_are_equal(name, dense):
    scores = []
    for seed in (0, 0, 1):  # none of them draws, so that the seed has no effect
        baseline = BASELINES[name].build()
        baseline.fit(sparse.csr_array(dense), seed=seed)
        scores.append(baseline.scores(np.arange(USERS)))
    np.testing.assert_array_equal(scores[0], scores[1])
    np.testing.assert_array_equal(scores[0], scores[2])


@pytest.mark.parametrize(
    ("build", "settings"),
    [
        (Popular, {"damping": -1.0}),
        (Popular, {"damping": math.nan}),
        (ItemKnn, {"neighbours": 0}),
        (ItemKnn, {"shrinkage": -1.0}),
        (ItemKnn, {"weighting": "cosine"}),
        (Ease, {"l2": 0.0}),
        (Ease, {"l2": math.inf}),
    ],
)
def test_settings_out_of_range_are_rejected(build, settings):
    ((name, value),) = settings.items()
    refusal(lambda: build(**settings), f"{name}={value!r}", "expected", error=ConfigError)


def test_ease_rejects_a_large_catalogue_before_it_allocates():
    train = sparse.csr_array((2, MAX_ITEMS + 1), dtype=np.float32)
    refusal(lambda: ease_weights(train), "20001 items", "at most 20000", "als", error=ConfigError)


def test_ease_rejects_a_penalty_that_float32_loses():
    train = sparse.csr_array(np.full((3, 2), 1e4, np.float32))
    refusal(lambda: ease_weights(train, 1e-3), "l2=0.001", "larger", error=ConfigError)


def test_baselines_import_no_jax():
    code = (
        "import importlib, importlib.util, pathlib, sys, types\n"
        "root = pathlib.Path(importlib.util.find_spec('rankpg').origin).parent\n"
        "package = types.ModuleType('rankpg'); package.__path__ = [str(root)]\n"
        "sys.modules['rankpg'] = package\n"
        "importlib.import_module('rankpg.baselines')\n"
        "print(sorted({'jax', 'flax', 'optax', 'implicit'} & set(sys.modules)))\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
