"""ALS and BPR: the objective, determinism, threads, and what is reported without `implicit`."""

from __future__ import annotations

import math
import sys
import warnings

import numpy as np
import pytest
from helpers.data_files import refusal
from scipy import sparse

from rankpg.baselines import BASELINES, Als, Bpr, top_lists
from rankpg.errors import ConfigError

GROUPS, SIZE, ITEMS = 3, 12, 8
USERS = GROUPS * SIZE


@pytest.fixture(scope="module")
def train():
    """Users of three groups, each with items of its own; the last user has none."""
    rng = np.random.default_rng(0)
    found = np.zeros((USERS + 1, GROUPS * ITEMS), np.float32)
    for user in range(USERS):
        first = ITEMS * (user // SIZE)
        found[user, first + rng.permutation(ITEMS)[:5]] = 1
    return sparse.csr_array(found)


def with_implicit(name):
    pytest.importorskip("implicit")
    iterations = {"als": 20, "bpr": 500}[name]  # an iteration of BPR is 180 steps here
    return BASELINES[name].build(factors=4, iterations=iterations)


@pytest.mark.parametrize("name", ["als", "bpr"])
def test_unseen_items_of_the_own_group_come_first(name, train):
    baseline = with_implicit(name)
    baseline.fit(train)
    lists = top_lists(baseline, train, np.arange(USERS), 3)
    own = lists // ITEMS == (np.arange(USERS) // SIZE)[:, None]
    assert own.mean() > 0.9  # a sixth by chance: 3 of 19 unseen items


@pytest.mark.parametrize("name", ["als", "bpr"])
def test_one_seed_gives_one_result(name, train):
    scores = []
    for seed in (5, 5, 6):
        baseline = with_implicit(name)
        baseline.fit(train, seed=seed)
        scores.append(baseline.scores(np.arange(USERS + 1)))
    assert scores[0].dtype == np.float32
    np.testing.assert_array_equal(scores[0], scores[1])
    assert not np.array_equal(scores[0], scores[2])


def test_als_scores_of_a_user_without_items_are_zeros(train):
    als = with_implicit("als")
    als.fit(train)
    np.testing.assert_allclose(als.scores(np.array([USERS])), 0, atol=1e-6)


def test_bpr_scores_of_a_user_without_items_follow_popularity():
    """A user without items has the biases as scores; the last item has no user, and comes last."""
    table = np.zeros((42, 4), np.float32)
    table[:40, 0], table[:20, 1], table[20:25, 2] = 1, 1, 1
    bpr = with_implicit("bpr")
    bpr.fit(sparse.csr_array(table))
    scores = bpr.scores(np.array([41]))[0]
    assert scores[0] > scores[1] > scores[2] == scores[3]


@pytest.mark.parametrize("name", ["als", "bpr"])
def test_fit_does_not_warn_of_threads(name, train, monkeypatch):
    baseline = with_implicit(name)
    monkeypatch.setattr("implicit.utils._checked_blas_config", False)  # warns once a process
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        baseline.fit(train)


@pytest.mark.parametrize("name", ["als", "bpr"])
def test_fit_restores_the_threads_of_blas(name, train):
    baseline = with_implicit(name)
    blas = pytest.importorskip("threadpoolctl")
    with blas.threadpool_limits(2, "blas"):
        before = blas.threadpool_info()
        baseline.fit(train)
        assert blas.threadpool_info() == before


def test_als_is_at_a_minimum_of_its_objective(train):
    """Solving for one item's vector by hand changes nothing after the last round, which ends with items."""
    pytest.importorskip("implicit")
    als = Als(factors=3, l2=0.5, alpha=4.0, iterations=200)
    als.fit(train)
    assert als._factors is not None
    users, items = als._factors
    x = train.toarray().astype(np.float64)
    for item in range(GROUPS * ITEMS):
        confidence = 1 + 4.0 * x[:, item]
        gram = users.T @ (confidence[:, None] * users) + 0.5 * np.eye(3)
        expected = np.linalg.solve(gram, users.T @ (confidence * (x[:, item] > 0)))
        np.testing.assert_allclose(items[item], expected, rtol=0.02, atol=2e-3)


@pytest.mark.parametrize("name", ["als", "bpr"])
def test_without_implicit_the_extra_is_named(name, train, monkeypatch):
    monkeypatch.setitem(sys.modules, "implicit", None)
    for module in ("als", "bpr"):
        monkeypatch.setitem(sys.modules, f"implicit.cpu.{module}", None)
    baseline = BASELINES[name].build()
    refusal(lambda: baseline.fit(train), name, "pip install 'rankpg[baselines]'", error=ImportError)


@pytest.mark.parametrize(
    ("build", "settings"),
    [
        (Als, {"factors": 0}),
        (Als, {"l2": -1.0}),
        (Als, {"alpha": math.nan}),
        (Als, {"iterations": 0}),
        (Bpr, {"factors": 0}),
        (Bpr, {"learning_rate": 0.0}),
        (Bpr, {"l2": math.inf}),
        (Bpr, {"iterations": 0}),
    ],
)
def test_settings_out_of_range_are_rejected(build, settings):
    ((name, value),) = settings.items()
    refusal(lambda: build(**settings), f"{name}={value!r}", "expected", error=ConfigError)
