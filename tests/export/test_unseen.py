"""Exports of runs on interactions: no search of the example server finds an item that was seen."""

from __future__ import annotations

import runpy

import numpy as np
import pytest
from helpers.exports import SCRIPT, Server, manifest_of
from helpers.small_logs import ITEMS, K, log_columns, log_data, log_run, seen_by_hand

from rankpg.export.folder import export
from rankpg.export.parts import seen_of
from rankpg.runs.recommend import ShortListWarning

ENABLE_X64 = False
pytestmark = pytest.mark.usefixtures("as_a_user")

unseen_order = runpy.run_path(str(SCRIPT))["unseen_order"]


def _search(calls):
    """Exact search over 40 items whose order is their row, with the sizes of its calls."""

    def search(queries, depth):
        calls.append((len(queries), depth))
        return np.tile(np.arange(depth), (len(queries), 1))

    return search


def test_unseen_order_fetches_in_growing_rounds():
    seen = [np.array([], int), np.arange(4), np.arange(37), np.arange(0, 20, 2)]
    calls = []
    found = unseen_order(_search(calls), np.zeros((4, 2)), 3, seen, 40)
    for row, own in zip(found, seen, strict=True):
        assert row.tolist() == [item for item in range(40) if item not in own][:3]
    assert calls == [(4, 6), (2, 12), (1, 24), (1, 40)]


def test_unseen_order_marks_what_an_index_did_not_find():
    def few(queries, depth):
        rows = np.full((len(queries), depth), -1)
        rows[:, :3] = [4, 1, 2]
        return rows

    found = unseen_order(few, np.zeros((1, 2)), 3, [np.array([1])], 40)
    assert found.tolist() == [[4, 2, -1]]


def test_seen_of_an_export_names_exported_rows():
    run = log_run(num_candidates=2)  # user 0 has fewer than K left
    smaller = run.without_items([100, 107, 129])
    seen = seen_of(smaller)
    assert seen is not None
    ids = np.setdiff1d(100 + np.arange(ITEMS), [100, 107, 129])
    for row, (_, own) in enumerate(sorted(seen_by_hand(log_columns()).items())):
        found = ids[seen.items[seen.row_starts[row] : seen.row_starts[row + 1]]]
        assert found.tolist() == sorted(own - {100, 107, 129})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tower", "experts", "exact_below"), [("ids", 2, 0), ("history", 1, 0), ("history", 1, 10**6)]
)
def test_every_search_leaves_out_what_was_seen(tmp_path, tower, experts, exact_below):
    data = log_data()
    run = log_run(data, context_tower=tower, num_experts=experts)
    folder = export(run, tmp_path / "out", exact_below=exact_below, platforms=("cpu",))
    manifest = manifest_of(folder)
    assert (manifest["seen"]["file"], manifest["seen"]["longest"]) == ("seen.npz", ITEMS - K)
    assert (manifest["masks"], manifest["context_tower"]["takes"]) == (False, "rows")
    users, seen = data.context_ids.ids.tolist(), seen_by_hand(log_columns())
    wanted = run.candidates(users)
    for search in ("exact", "faiss", "usearch"):
        server = Server(folder, search)
        found = server.candidates(users)
        np.testing.assert_array_equal(found, wanted)
        for user, items in zip(users, found.tolist(), strict=True):
            assert not seen[user] & set(items)
        # Negative control: without its lists the same search shows seen items.
        server.seen_lists = None
        shown = server.candidates(users)
        assert any(
            seen[user] & set(items) for user, items in zip(users, shown.tolist(), strict=True)
        )


@pytest.mark.slow
def test_a_context_with_too_few_items_left_gets_those(tmp_path):
    run = log_run()
    folder = export(run, tmp_path / "out", index="none", platforms=("cpu",))
    found = Server(folder).candidates(["user 3", "user 0"], k=K + 1)
    with pytest.warns(ShortListWarning, match="1 of 2 contexts, such as 'user 0' with"):
        wanted = run.candidates(["user 3", "user 0"], k=K + 1)
    assert found[0].tolist() == wanted[0].tolist()
    assert found[1].tolist() == [*wanted[1, :K].tolist(), None]
    fewer = Server(folder).candidates(["user 3"], k=2)
    assert fewer.tolist() == run.candidates(["user 3"], k=2).tolist()
    with pytest.raises(ValueError, match="k is 0; expected 1"):
        Server(folder).candidates(["user 3"], k=0)
