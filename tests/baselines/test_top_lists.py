"""Lists of a baseline: order, ties, seen items, short catalogues, chunks."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from helpers.data_files import refusal
from scipy import sparse

from rankpg.baselines import BASELINES, Baseline, top_lists
from rankpg.baselines.base import checked_interactions, largest
from rankpg.errors import ConfigError

USERS, ITEMS = 23, 17


class Fixed:
    """A baseline with given scores."""

    def __init__(self, scores):
        self.given = np.asarray(scores, np.float32)

    def fit(self, train, *, seed=0):
        del train, seed

    def scores(self, rows):
        return self.given[rows]


def table(rng, share=0.3, shape=(USERS, ITEMS)):
    return sparse.csr_array((rng.random(shape) < share).astype(np.float32))


def slow_list(scores, seen, depth):
    """Sorts (score, item) pairs in Python."""
    pairs = sorted((-score, item) for item, score in enumerate(scores) if not seen[item])
    found = [item for score, item in pairs if score < np.inf][:depth]
    return found + [-1] * (depth - len(found))


@pytest.mark.parametrize("levels", [2, 1000])
@pytest.mark.parametrize("depth", [1, 5, ITEMS, 30])
def test_lists_equal_a_sort(levels, depth):
    rng = np.random.default_rng(1)
    scores = rng.integers(levels, size=(USERS, ITEMS)).astype(np.float32)
    scores[3, :9] = -np.inf
    seen, rows = table(rng), rng.permutation(USERS)[:15]
    expected = [slow_list(scores[u], seen.toarray()[u], depth) for u in rows]
    found = top_lists(Fixed(scores), seen, rows, depth)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, expected)


def test_every_item_of_a_user_that_has_seen_all_is_missing():
    seen = sparse.csr_array(np.ones((1, 3), np.float32))
    assert top_lists(Fixed(np.zeros((1, 3))), seen, np.array([0]), 2).tolist() == [[-1, -1]]


def test_a_stored_zero_counts_as_seen():
    seen = sparse.csr_array((np.zeros(1, np.float32), [0], [0, 1]), shape=(1, 2))
    assert top_lists(Fixed([[2.0, 1.0]]), seen, np.array([0]), 2).tolist() == [[1, -1]]


def test_no_users_give_no_lists():
    lists = top_lists(
        Fixed(np.zeros((2, 3))), table(np.random.default_rng(0), shape=(2, 3)), np.array([], int), 4
    )
    assert lists.shape == (0, 4)


@pytest.mark.parametrize("name", ["popular", "item_knn", "ease"])
@pytest.mark.parametrize("chunk", [1, 7, USERS + 1])
def test_chunks_do_not_change_lists(name, chunk):
    train = table(np.random.default_rng(2))
    baseline = BASELINES[name].build()
    baseline.fit(train)
    rows = np.arange(USERS)
    whole = top_lists(baseline, train, rows, 6)
    np.testing.assert_array_equal(top_lists(baseline, train, rows, 6, chunk=chunk), whole)


def test_scores_of_one_chunk_exist_at_a_time():
    sizes = []

    class Counting(Fixed):
        def scores(self, rows):
            sizes.append(len(rows))
            return super().scores(rows)

    train = table(np.random.default_rng(2))
    top_lists(Counting(train.toarray()), train, np.arange(USERS), 2, chunk=10)
    assert sizes == [10, 10, 3]


def test_scores_of_the_baseline_are_not_changed():
    baseline, seen = Fixed(np.zeros((1, 2))), sparse.csr_array([[1.0, 0.0]])
    baseline.scores = lambda rows: baseline.given
    top_lists(baseline, seen, np.array([0]), 1)
    assert baseline.given.tolist() == [[0, 0]]


@pytest.mark.parametrize("count", [1, 4, 9, 20])
def test_largest_takes_the_first_of_equal_values(count):
    values = np.random.default_rng(3).integers(3, size=9).astype(np.float64)
    order = sorted(range(9), key=lambda place: (-values[place], place))
    assert largest(values, count).tolist() == sorted(order[:count])


def test_lists_reject_what_they_cannot_use():
    seen, rows = sparse.csr_array(np.eye(2, 3, dtype=np.float32)), np.array([0, 1])
    good = Fixed(np.zeros((2, 3)))
    refusal(
        lambda: top_lists(good, seen, rows, 0), "depth=0", "expected at least 1", error=ConfigError
    )
    refusal(lambda: top_lists(good, seen, rows, 1, chunk=0), "chunk=0", error=ConfigError)
    for outside in (2, -1):
        refusal(
            lambda row=outside: top_lists(good, seen, np.array([row]), 1),
            f"rows: {outside}",
            "0 to 1",
            error=ConfigError,
        )
    refusal(
        lambda: top_lists(Fixed(np.zeros((2, 2))), seen, rows, 1),
        "Fixed.scores",
        "[2, 2]",
        "[2, 3]",
        error=ValueError,
    )
    refusal(
        lambda: top_lists(Fixed([[0, 0, 0], [0, np.nan, 0]]), seen, rows, 1),
        "NaN for user 1, item 1",
        error=ValueError,
    )


def test_interactions_are_brought_into_one_form():
    given = ([3, 1, 2, 0], [2, 1, 1, 0], [0, 4])  # unsorted, item 1 twice, a stored zero
    found = checked_interactions(sparse.csr_array(given, shape=(1, 3)))
    assert found.dtype == np.float32
    assert (found.data.tolist(), found.indices.tolist()) == ([3, 3], [1, 2])


def test_interactions_of_the_caller_are_not_changed():
    train = sparse.csr_array((np.array([2, 0], np.float32), [1, 0], [0, 2]), shape=(1, 2))
    checked_interactions(train)
    assert (train.data.tolist(), train.indices.tolist()) == ([2, 0], [1, 0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_interactions_reject_a_value(value):
    train = sparse.csr_array(np.array([[0, 0, 0], [0, 1, value]], np.float32))
    refusal(lambda: checked_interactions(train), "user 1, item 2", "drop the", error=ConfigError)


def test_interactions_reject_other_objects():
    refusal(
        lambda: inspect.unwrap(checked_interactions)(np.eye(2)),
        "ndarray",
        "csr_array",
        error=ConfigError,
    )
    empty = sparse.csr_array((0, 3), dtype=np.float32)
    refusal(lambda: checked_interactions(empty), "[0, 3]", "at least one", error=ConfigError)


@pytest.mark.parametrize("name", list(BASELINES))
def test_grids_have_eight_different_settings_that_build(name):
    kind = BASELINES[name]
    assert len(kind.grid) == 8
    assert len({tuple(settings.items()) for settings in kind.grid}) == 8
    for settings in kind.grid:
        baseline = kind.build(**settings)
        assert isinstance(baseline, Baseline)
        assert {key: getattr(baseline, key) for key in settings} == settings
    assert kind.build() == kind.build(**kind.grid[0])


@pytest.mark.parametrize("name", list(BASELINES))
def test_scores_before_a_fit_are_rejected(name):
    baseline = BASELINES[name].build()
    refusal(
        lambda: baseline.scores(np.array([0])),
        type(baseline).__name__,
        "call fit(train)",
        error=RuntimeError,
    )
