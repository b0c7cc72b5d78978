"""Candidates of a run: their number, and contexts with fewer eligible items than candidates."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.policies import slow

from rankpg import TrainConfig
from rankpg.environments.from_ratings import from_matrix
from rankpg.runs.recommend import ShortListWarning, fill_value
from rankpg.runs.run import prepare

pytestmark = pytest.mark.usefixtures("as_a_user")

USERS, ITEMS, K = 4, 12, 5
TABLE = np.random.default_rng(0).uniform(size=(USERS, ITEMS))


def run_of(experts=1, **ids):
    config = TrainConfig(num_candidates=K, num_experts=experts, batch_size=4, seeds=(0,))
    return prepare(config, from_matrix(TABLE, **ids))


@pytest.fixture(scope="module")
def run():
    return run_of()


def mask(few):
    """Everything is eligible for all users but the second, who may be shown these items alone."""
    allowed = np.ones((USERS, ITEMS), bool)
    allowed[1] = np.isin(np.arange(ITEMS), few)
    return allowed


@pytest.mark.parametrize("k", [1, 3, 7])
def test_candidates_of_any_number_are_the_best(run, k):
    found, every = run.candidates(range(USERS), k=k), run.candidates(range(USERS), k=ITEMS)
    assert found.tolist() == every[:, :k].tolist()
    assert np.sort(every, axis=1).tolist() == [list(range(ITEMS))] * USERS
    assert run.candidates(range(USERS)).tolist() == every[:, :K].tolist()


@pytest.mark.parametrize("k", [0, ITEMS + 1, 2.5, True])
def test_an_impossible_number_is_rejected(run, k):
    with pytest.raises((ValueError, TypeError), match=r"k=.*; expected a whole number from 1|k"):
        run.candidates([0], k=k)


@pytest.mark.parametrize("experts", [slow(1), 2])
@pytest.mark.parametrize("few", [slow(()), (2, 5, 7)])
def test_a_row_with_too_few_items_ends_in_the_fill_value(experts, few):
    own = run_of(experts)
    with pytest.warns(ShortListWarning, match=rf"1 of 4 contexts, such as 1 with {len(few)}"):
        found = own.candidates(range(USERS), eligible=mask(few))
    assert set(found[1, : len(few)]) == set(few)
    assert found[1, len(few) :].tolist() == [-1] * (K - len(few))
    whole = own.candidates(range(USERS))
    assert found[[0, 2, 3]].tolist() == whole[[0, 2, 3]].tolist()
    with pytest.raises(ValueError, match=f"context 1 has {len(few)} eligible items, fewer than"):
        own.candidates(range(USERS), eligible=mask(few), too_few="error")


@pytest.mark.slow
def test_fill_values_are_not_ids():
    dates = np.arange("2020-01-01", "2020-01-13", dtype="datetime64[D]")
    for ids, wanted in (
        ([f"item {n}" for n in range(ITEMS)], ""),
        (np.arange(ITEMS) - 1, np.iinfo(np.int64).min),
        (np.arange(ITEMS, dtype=np.uint64), np.iinfo(np.uint64).max),
        (dates, np.datetime64("NaT")),
    ):
        own = run_of(item_ids=ids)
        fill = fill_value(own.dataset.item_ids)
        assert fill == wanted or (fill != fill and wanted != wanted)
        with pytest.warns(ShortListWarning):
            found = own.candidates(range(USERS), eligible=mask((2, 4)))
        assert found.dtype == own.dataset.item_ids[np.arange(2)].dtype
        assert set(found[1, :2].tolist()) == set(np.asarray(ids)[[2, 4]].tolist())
