"""Splits of interactions, against parts that are found user by user in plain Python."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from helpers.data_files import refusal
from hypothesis import given
from hypothesis import strategies as st

from rankpg.data.interactions import read_interactions
from rankpg.data.leaks import check_no_leak
from rankpg.data.splits import (
    HISTORY,
    TEST,
    TRAIN,
    UNUSED,
    VALIDATION,
    split_interactions,
)
from rankpg.environments import from_interactions

KINDS = ("last", "time", "random", "user")
SHARES = (0.05, 0.1, 0.2, 0.29, 0.5, 0.9)

rows = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 12), st.integers(0, 9)),
    min_size=1,
    max_size=60,
    unique_by=lambda row: row[:2],
)
shares = st.sampled_from(SHARES)


def table_of(rows, times=True):
    columns = dict(zip(("user", "item", "time"), map(list, zip(*rows, strict=True)), strict=True))
    return read_interactions(columns, columns=None if times else {"timestamp": None})


def parts(table, split):
    """Part by (user id, item id)."""
    users, items = table.user_ids[table.users].tolist(), table.item_ids[table.items].tolist()
    return dict(zip(zip(users, items, strict=True), split.part.tolist(), strict=True))


def size(share, count):
    floor = math.floor(round(share * count, 6))
    return max(floor, 1) if count >= 3 and share > 0 else floor


def without_new(found, kind):
    """Parts with unused rows where the item, or for "time" the user, has no training row."""
    users = {u for (u, _), part in found.items() if part == TRAIN}
    items = {i for (_, i), part in found.items() if part == TRAIN}
    known = {(u, i): i in items and (kind != "time" or u in users) for u, i in found}
    return {pair: part if known[pair] else UNUSED for pair, part in found.items()}


def naive_last(rows, sizes):
    found = {}
    for user in {u for u, _, _ in rows}:
        mine = sorted((t, i) for u, i, t in rows if u == user)
        test, validation = sizes(len(mine))
        for place, (_, item) in enumerate(mine):
            left = len(mine) - place
            found[user, item] = (
                TEST if left <= test else VALIDATION if left <= test + validation else TRAIN
            )
    return found  # fmt: skip


def naive_time(rows, test_share, validation_share):
    def cut(times, share):
        return sorted(times)[len(times) - 1 - math.floor(round(share * len(times), 6))]

    end = cut([t for _, _, t in rows], test_share)
    start = cut([t for _, _, t in rows if t <= end], validation_share)
    return {(u, i): TEST if t > end else VALIDATION if t > start else TRAIN for u, i, t in rows}


def check_against(rows, kind, expected, **options):
    """Compares with the expected parts, or expects an error where no test row is left."""
    table = table_of(rows)
    for keep in (False, True):
        wanted = without_new(expected, kind)
        if keep:
            users = {u for (u, _), part in expected.items() if part == TRAIN}
            wanted = {(u, i): UNUSED if kind == "time" and u not in users else part
                      for (u, i), part in expected.items()}  # fmt: skip
        if TEST not in wanted.values():
            refusal(
                lambda keep=keep: split_interactions(table, kind, keep_new_items=keep, **options),
                f"kind={kind!r} leaves no test row",
            )
            continue
        split = split_interactions(table, kind, keep_new_items=keep, **options)
        found = parts(table, split)
        assert found == wanted
        check_no_leak(table, split)
        for which, users in ((TEST, split.test_users), (VALIDATION, split.validation_users)):
            named = {u for (u, _), part in found.items() if part == which}
            assert table.user_ids[users].tolist() == sorted(named)


@given(rows, shares, st.sampled_from((0.0, *SHARES)))
def test_last_equals_user_by_user(rows, test_share, validation_share):
    def sizes(n):
        test = size(test_share, n)
        return test, size(validation_share, n - test)

    options = {"test_share": test_share, "validation_share": validation_share}
    check_against(rows, "last", naive_last(rows, sizes), **options)


@pytest.mark.parametrize("kind", ["last", "time", "random"])
def test_a_share_is_not_rounded_below_its_number_of_rows(kind):
    table = table_of([(1, i, i) for i in range(100)])
    split = split_interactions(table, kind, test_share=0.29, keep_new_items=True)
    assert 0.29 * 100 < 29
    assert np.bincount(split.part).tolist() == [64, 7, 29]


@given(rows, st.integers(1, 3), st.sampled_from((0.0, 0.1)))
def test_last_with_a_count_equals_user_by_user(rows, count, validation_share):
    def sizes(n):
        test = count if n > count else 0
        return test, count if n > 2 * count and validation_share else 0

    options = {"test_count": count, "validation_share": validation_share}
    check_against(rows, "last", naive_last(rows, sizes), **options)


@given(rows, shares, st.sampled_from((0.0, *SHARES)))
def test_time_equals_one_cut(rows, test_share, validation_share):
    expected = naive_time(rows, test_share, validation_share)
    check_against(rows, "time", expected, test_share=test_share, validation_share=validation_share)


def many(seed=0, users=60, items=30, count=900):
    rng = np.random.default_rng(seed)
    pairs = rng.choice(users * items, count, replace=False)
    times = rng.integers(0, 200, count).tolist()
    return [(p // items, p % items, t) for p, t in zip(pairs.tolist(), times, strict=True)]


def test_random_takes_the_share_of_each_user_with_equal_chances():
    table = table_of(many())
    counts = np.bincount(table.users)
    chosen = np.zeros(len(table))
    for seed in range(200):
        split = split_interactions(table, "random", seed=seed, validation_share=0.25)
        test = np.bincount(table.users[split.rows(TEST)], minlength=len(counts))
        held = np.bincount(table.users[split.rows(VALIDATION)], minlength=len(counts))
        assert test.tolist() == [size(0.2, n) for n in counts]
        assert held.tolist() == [size(0.25, n - t) for n, t in zip(counts, test, strict=True)]
        chosen += split.rows(TEST)
    # each row is chosen Binomial(200, p) times; 5 standard errors
    p = np.array([size(0.2, n) / n for n in counts])[table.users]
    assert (np.abs(chosen - 200 * p) < 5 * np.sqrt(200 * p * (1 - p))).all()


@pytest.mark.parametrize("times", [True, False])
def test_users_are_held_out_whole(times):
    table = table_of([*many(), (99, 0, 5)], times)  # the last user has one row
    split = split_interactions(table, "user", test_share=0.25, validation_share=0.5, seed=3)
    eligible = table.num_users - 1
    assert len(split.test_users) == size(0.25, eligible)
    assert len(split.validation_users) == size(0.5, eligible - len(split.test_users))
    assert not {*split.test_users} & {*split.validation_users}
    for user in range(table.num_users):
        mine = split.part[table.users == user].tolist()
        later = max(math.floor(0.25 * len(mine)), 1)
        if user in split.test_users or user in split.validation_users:
            which = TEST if user in split.test_users else VALIDATION
            assert sorted(mine) == sorted([HISTORY] * (len(mine) - later) + [which] * later)
            at = table.times[table.users == user] if times else np.arange(len(mine))
            if times:
                assert at[np.array(mine) == HISTORY].max() <= at[np.array(mine) == which].min()
        else:
            assert mine == [TRAIN] * len(mine)
    assert "1 users have one row" in split.describe()
    other = split_interactions(table, "user", test_share=0.25, validation_share=0.5, seed=4)
    assert other.test_users.tolist() != split.test_users.tolist()


@given(rows, st.sampled_from(KINDS), st.randoms(use_true_random=False))
def test_no_order_of_rows_changes_a_split(rows, kind, shuffler):
    rows = [*rows, *((u + 6, i, t) for u, i, t in many(1, 6, 13, 60))]
    shuffled = list(rows)
    shuffler.shuffle(shuffled)
    one, two = table_of(rows), table_of(shuffled)
    first, second = (split_interactions(table, kind, seed=5) for table in (one, two))
    assert parts(one, first) == parts(two, second)
    assert first.checksum() == second.checksum()
    assert first.describe() == second.describe()


@pytest.mark.parametrize("kind", ["random", "user"])
def test_no_order_of_rows_without_times_changes_a_split(kind):
    one, two = table_of(many(), times=False), table_of(many()[::-1], times=False)
    assert one.items.tolist() != two.items.tolist()
    first, second = (split_interactions(table, kind) for table in (one, two))
    assert parts(one, first) == parts(two, second)
    assert first.checksum() == second.checksum()


@pytest.mark.parametrize("kind", KINDS)
def test_a_checksum_shows_every_change(kind):
    table = table_of(many())
    split = split_interactions(table, kind, seed=1)
    assert split.checksum() == split_interactions(table, kind, seed=1).checksum()
    changed = [
        split_interactions(table, kind, seed=1, test_share=0.4),
        split_interactions(table, kind, seed=1, validation_share=0.4),
        split_interactions(table_of([(u + 1, i, t) for u, i, t in many()]), kind, seed=1),
    ]
    if kind in ("random", "user"):
        changed.append(split_interactions(table, kind, seed=2))
    assert len({split.checksum(), *(one.checksum() for one in changed)}) == len(changed) + 1


def test_rows_at_one_time():
    table = table_of([(user, item, 5) for user in (1, 2) for item in range(4)])
    refusal(lambda: split_interactions(table, "last"), "leaves no test row", "of 2 items without")
    kept = split_interactions(table, "last", validation_share=0.0, keep_new_items=True)
    assert kept.part.tolist() == [0, 0, 0, 2] * 2
    assert "Rows at one time of 2 users fall into several parts" in kept.describe()
    refusal(
        lambda: split_interactions(table, "time"), "kind='time' leaves no test row", "test_share"
    )


def test_new_items_and_users_are_unused():
    rows = [(1, 0, 1), (1, 1, 2), (2, 0, 3), (2, 1, 4), (1, 2, 8), (2, 9, 8), (3, 0, 9), (3, 1, 9)]
    table = table_of([*rows, (2, 2, 5)])
    options = {"kind": "time", "test_share": 0.5, "validation_share": 0.0}
    split = split_interactions(table, **options)
    found = parts(table, split)
    assert {pair for pair, part in found.items() if part == UNUSED} == {(2, 9), (3, 0), (3, 1)}
    assert "1 rows (test 1) of 1 items without training row are unused" in split.describe()
    assert "2 rows (test 2) of 1 users without training row are unused" in split.describe()
    kept = parts(table, split_interactions(table, keep_new_items=True, **options))
    assert {pair for pair, part in kept.items() if part == UNUSED} == {(3, 0), (3, 1)}


@pytest.mark.parametrize(
    "options", [{"kind": "none"}, {"test_share": 0.0}, {"test_share": 0.0, "kind": "user"}]
)
def test_nothing_is_held_out(options):
    table = table_of(many(), times=False)
    split = split_interactions(table, **options)
    assert (split.part == TRAIN).all()
    assert split.kind == "none"
    assert split.describe() == "Split 'none': 900 rows, train 900."


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"kind": "first"}, ["kind='first'", "last, time, random, user or none"]),
        ({"test_share": 1.0}, ["test_share=1.0", "0 to 1"]),
        ({"test_share": -0.1}, ["test_share=-0.1"]),
        ({"test_share": math.nan}, ["test_share=nan"]),
        ({"validation_share": 1.5}, ["validation_share=1.5"]),
        ({"validation_share": -1.0}, ["validation_share=-1.0"]),
        ({"kind": "none", "validation_share": 0.2}, ["validation_share=0.2", "kind='none'"]),
        ({"test_count": 0}, ["test_count=0", "at least 1", "test_share=0"]),
        ({"test_count": -2}, ["test_count=-2"]),
        ({"test_count": 1, "test_share": 0.5}, ["test_share=0.5 and test_count=1 contradict"]),
        ({"test_count": 1, "kind": "time"}, ["test_count=1 with kind='time'", "test_share"]),
        ({"test_count": 1, "kind": "user"}, ["test_count=1 with kind='user'"]),
        ({"seed": -1}, ["seed=-1"]),
    ],
)
def test_faults_of_options(options, parts):
    refusal(lambda: split_interactions(table_of(many()), **options), *parts, error=ValueError)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"split": "none", "validation_share": 0.1}, ["validation_share=0.1", "split='none'"]),
        ({"test_share": 0.0, "validation_share": 0.1}, ["test_share=0", "give test_share=0.2"]),
        ({"split": "none", "test_share": 0.3}, ["test_share=0.3", "split='none'", "split='last'"]),
    ],
)
def test_shares_of_a_split_that_holds_nothing_out_are_rejected(options, parts):
    log = {"user": [1, 1, 1], "item": [5, 6, 7], "ts": [1, 2, 3]}
    refusal(lambda: from_interactions(log, **options), *parts, error=ValueError)
    assert from_interactions(log, split="none").parts.test_ends.tolist() == [3]


@pytest.mark.parametrize("kind", ["last", "time"])
def test_times_are_needed(kind):
    table = table_of(many(), times=False)
    refusal(
        lambda: split_interactions(table, kind),
        f"kind={kind!r} needs times",
        "kind='random'",
        "timestamp",
    )


def test_users_with_few_rows():
    table = table_of([(1, 0, 1), (1, 1, 2), (2, 0, 1), (2, 1, 2), (2, 2, 0)])
    refusal(lambda: split_interactions(table.take(table.users == 0), "last"), "2 rows and 1 users")
    split = split_interactions(table, "last", validation_share=0.0)
    assert "1 of 2 users have no test row." in split.notes
    counted = split_interactions(
        table, "last", test_count=2, validation_share=0.0, keep_new_items=True
    )
    assert parts(table, counted) == {(1, 0): 0, (1, 1): 0, (2, 2): 0, (2, 0): 2, (2, 1): 2}
    assert "test_count=2" in counted.describe()


@pytest.mark.parametrize("kind", ["last", "time", "user"])
@pytest.mark.parametrize("held", [TEST, VALIDATION])
def test_a_leak_is_found(kind, held):
    table = table_of(many())
    split = split_interactions(table, kind, validation_share=0.2)
    check_no_leak(table, split)
    early = HISTORY if kind == "user" else TRAIN
    users = split.test_users if held == TEST else split.validation_users
    mine = table.users == users[0] if kind != "time" else np.ones(len(table), bool)
    part = split.part.copy()
    last = np.flatnonzero(mine & (part == held))[-1]
    part[last] = early  # the latest of the rows that are held out
    part[np.flatnonzero(mine & (part == early))[0]] = held
    leaking = dataclasses.replace(split, part=part)
    refusal(lambda: check_no_leak(table, leaking), "the split leaks", "split_interactions")


@pytest.mark.parametrize(
    ("kind", "part", "message"),
    [
        ("last", [TRAIN, TEST, TEST], None),
        ("time", [TRAIN, TEST, TEST], "is not earlier than the first test row"),
        ("time", [TRAIN, TRAIN, TEST], None),
        ("last", [TRAIN, TEST, VALIDATION], "is not earlier than the first test row of its user"),
        ("last", [VALIDATION, VALIDATION, TRAIN], "the first validation row of its user"),
    ],
)
def test_times_of_a_leak(kind, part, message):
    table = table_of([(1, 0, 1), (1, 1, 1), (1, 2, 3)])
    split = split_interactions(table, "none")
    split = dataclasses.replace(split, kind=kind, part=np.array(part, np.int8))
    if message is None:
        check_no_leak(table, split)
    else:
        refusal(lambda: check_no_leak(table, split), message)


def test_other_leaks_are_found():
    table = table_of(many())
    split = split_interactions(table, "user")
    part = np.where(split.rows(HISTORY), TRAIN, split.part).astype(np.int8)
    refusal(
        lambda: check_no_leak(table, dataclasses.replace(split, part=part)),
        "belongs to a training user",
    )
    twice = dataclasses.replace(table, items=np.zeros_like(table.items))
    random = split_interactions(table, "random")
    refusal(lambda: check_no_leak(twice, random), "has its pair of user and item in another part")
    refusal(
        lambda: check_no_leak(table.take(table.users > 3), split),
        "the split has 900 rows",
        error=ValueError,
    )
