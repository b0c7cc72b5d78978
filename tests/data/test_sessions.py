"""Sessions: how they are read, and that every split keeps them whole, against loops over users."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from rankpg.data.ids import TableError
from rankpg.data.interactions import read_interactions
from rankpg.data.leaks import check_no_leak
from rankpg.data.sessions import blocks_in_time
from rankpg.data.splits import (
    HISTORY,
    TEST,
    TRAIN,
    UNUSED,
    VALIDATION,
    split_interactions,
)
from rankpg.environments import from_interactions

LOG = {
    "user": ["a"] * 7 + ["b"] * 3 + ["c"] * 3,
    "item": [1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 1, 2, 3],
    "timestamp": [1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 1, 2, 3],
    "session_id": ["x", "x", "y", "y", "y", "z", "z", "x", "x", "x", "p", "q", "r"],
}


def drawn(seed=0, users=30):
    """Columns of users with sessions of one to four rows, one after the other."""
    rng = np.random.default_rng(seed)
    columns = {"user": [], "item": [], "timestamp": [], "session": []}
    for user in range(users):
        items = iter(rng.permutation(40))
        for session in range(rng.integers(1, 6)):
            for row in range(rng.integers(1, 5)):
                time = 100 * session + row
                values = user, int(next(items)), int(time), session
                for name, value in zip(columns, values, strict=True):
                    columns[name].append(value)
    return columns


def by_session(table, split):
    """The parts of every pair of user and session, without unused rows."""
    found = {}
    for user, session, part in zip(table.users, table.sessions, split.part, strict=True):
        if part != UNUSED:
            found.setdefault((user, session), set()).add(int(part))
    return found


@pytest.mark.parametrize("kind", ["arrays", "arrow", "csv", "parquet"])
def test_sessions_are_read_from_every_kind_of_table(tmp_path, kind):
    source = LOG
    if kind == "arrow":
        source = pa.table(LOG)
    elif kind != "arrays":
        source = tmp_path / f"log.{kind}"
        write = {"csv": pa.csv.write_csv, "parquet": pa.parquet.write_table}[kind]
        write(pa.table(LOG), source)
    table = read_interactions(source)
    assert table.sessions.tolist() == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 4, 5, 6]
    assert "session from 'session_id'" in table.notes[0]
    assert table.take(table.users == 1).sessions.tolist() == [3, 3, 3]


def test_sessions_of_rows_that_stay():
    """The rows of pairs that come twice and of other values go with their sessions."""
    log = {
        "user": [1, 1, 1, 1], "item": [5, 5, 6, 7], "ts": [4, 1, 2, 3], "rating": [5, 5, 1, 5],
        "session": ["late", "early", "early", "late"],
    }  # fmt: skip
    table = read_interactions(log, positive=">= 4")
    assert table.item_ids.ids[table.items].tolist() == [5, 7]
    assert len(set(table.sessions.tolist())) == 2
    last = read_interactions(log, positive=">= 4", duplicates="last")
    assert len(set(last.sessions.tolist())) == 1


def test_session_is_the_user_without_another_column():
    table = read_interactions({"session_id": [1, 1, 2], "item": [1, 2, 3]})
    assert table.sessions is None
    assert table.num_users == 2
    named = read_interactions(
        {"who": [1, 1], "item": [1, 2], "visit": [3, 4]},
        columns={"user": "who", "session": "visit"},
    )
    assert named.sessions.tolist() == [0, 1]
    without = read_interactions(LOG, columns={"session": None})
    assert without.sessions is None


@pytest.mark.parametrize("missing", ["", None])
def test_a_missing_session_is_named(tmp_path, missing):
    log = LOG | {"session_id": [missing if i == 4 else s for i, s in enumerate(LOG["session_id"])]}
    with pytest.raises(TableError, match=r"session is missing.*columns=\{'session': None\}"):
        read_interactions(pa.table(log))
    with pytest.raises(TableError, match=r"column 'session_id'.*row 4.*empty"):
        read_interactions(log)
    file = tmp_path / "log.csv"
    pa.csv.write_csv(pa.table(log), file)
    with pytest.raises(TableError, match=r"log.csv, line 6.*session is missing"):
        read_interactions(file)


def test_last_sessions_by_hand():
    """A fifth of seven rows is one: of user a the last session of two rows is tested, b has one session."""
    table = read_interactions(LOG)
    split = split_interactions(table, "last", validation_share=0.1, keep_new_items=True)
    assert split.part.tolist() == [0, 0, 1, 1, 1, 2, 2, 0, 0, 0, 0, 0, 2]
    counted = split_interactions(
        table, "last", test_count=1, validation_share=0.0, keep_new_items=True
    )
    assert counted.part.tolist() == [0, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 0, 2]
    assert any("No session is divided" in note for note in split.notes)


@pytest.mark.parametrize("kind", ["last", "random", "user"])
@pytest.mark.parametrize("seed", [0, 1])
def test_held_out_sessions_by_a_loop(kind, seed):
    table = read_interactions(drawn(seed))
    split = split_interactions(
        table, kind, test_share=0.3, validation_share=0.2, seed=seed, keep_new_items=True
    )
    assert all(len(parts) == 1 for parts in by_session(table, split).values())
    check_no_leak(table, split)
    for user in range(table.num_users):
        own = table.users == user
        parts, sessions = split.part[own], table.sessions[own]
        held = [np.count_nonzero(parts == part) for part in (VALIDATION, TEST)]
        if len(set(sessions.tolist())) == 1:
            assert sum(held) == 0
            continue
        assert (parts == TRAIN).any() or (parts == HISTORY).any()
        if kind == "last":  # without the first session of the test part there are too few rows
            wanted = max(int(0.3 * len(parts) + 1e-9), len(parts) >= 3)
            tested = sessions[parts == TEST]
            assert len(tested) >= min(wanted, np.count_nonzero(sessions != sessions[0]))
            assert np.count_nonzero(tested != tested[:1].sum()) < max(wanted, 1)
    assert (split.part == TEST).any()


def test_no_order_of_rows_changes_the_split():
    columns = drawn(3)
    order = np.random.default_rng(0).permutation(len(columns["user"]))
    shuffled = {name: [values[i] for i in order] for name, values in columns.items()}
    one, two = read_interactions(columns), read_interactions(shuffled)
    for kind in ("last", "random", "user", "time"):
        sums = [split_interactions(table, kind, seed=4).checksum() for table in (one, two)]
        assert sums[0] == sums[1]


def test_sessions_that_overlap_are_one_block():
    users, sessions = np.array([0, 0, 0, 0, 0, 1]), np.array([0, 1, 0, 2, 2, 3])
    assert blocks_in_time(users, sessions, np.array([1.0, 2, 3, 3, 4, 0])).tolist() == [
        0, 0, 0, 1, 1, 2,
    ]  # fmt: skip
    log = {"user": [1] * 6, "item": [*range(6)], "ts": [*range(6)], "session": [*"abacdc"]}
    table = read_interactions(log)
    split = split_interactions(table, "last", validation_share=0.0, keep_new_items=True)
    assert split.part.tolist() == [0, 0, 0, 2, 2, 2]
    check_no_leak(table, split)


def test_sessions_across_a_cut_in_time_are_unused():
    log = {
        "user": [1, 1, 2, 2, 3, 3, 4, 4], "item": [1, 2, 1, 2, 1, 2, 1, 2], "ts": [1, 2, 3, 7, 4, 5, 6, 8],
        "session": [1, 1, 2, 2, 3, 3, 4, 5],
    }  # fmt: skip
    table = read_interactions(log)
    split = split_interactions(table, "time", test_share=0.25, validation_share=0.0)
    rows = {int(time): int(part) for time, part in zip(table.times, split.part, strict=True)}
    assert rows == {1: 0, 2: 0, 3: UNUSED, 7: UNUSED, 4: 0, 5: 0, 6: 0, 8: TEST}
    assert any("2 rows of sessions that go on across a cut are unused" in n for n in split.notes)
    check_no_leak(table, split)


def test_a_divided_session_leaks():
    table = read_interactions(LOG)
    split = split_interactions(table, "last", validation_share=0.0, keep_new_items=True)
    part = split.part.copy()
    part[5] = TRAIN
    with pytest.raises(TableError, match="has its session in another part"):
        check_no_leak(table, dataclasses.replace(split, part=part))


def test_dataset_has_whole_sessions():
    data = from_interactions(LOG, validation_share=0.1)
    ends = data.parts
    assert ends.train_ends.tolist() == [2, 3, 2]
    assert ends.test_ends.tolist() == [7, 3, 3]
    plain = from_interactions(LOG, validation_share=0.1, columns={"session": None})
    assert plain.parts.train_ends.tolist() == [5, 2, 2]
