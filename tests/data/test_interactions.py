"""Interactions from every format, and every way in which their source can be wrong."""

from __future__ import annotations

import datetime
import gzip
import re
from collections import Counter

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.data_files import in_memory, refusal, write
from hypothesis import given
from hypothesis import strategies as st

from rankpg.data.ids import TableError
from rankpg.data.interactions import read_interactions

ROWS = {
    "userId": [2, 1, 2, 1, 10],
    "movieId": [30, 7, 7, 30, 4],
    "rating": [4.0, 5.0, 0.5, 2.5, 3.0],
    "timestamp": [900, 800, 700, 850, 100],
}
SORTED = [
    (1, 7, 5.0, 800),
    (1, 30, 2.5, 850),
    (2, 7, 0.5, 700),
    (2, 30, 4.0, 900),
    (10, 4, 3.0, 100),
]
"""The rows of every source below, by user and time."""


def tuples(table):
    """Rows of a table as (user id, item id, value, time)."""
    times = [None] * len(table) if table.times is None else table.times.tolist()
    users, items = table.user_ids[table.users].tolist(), table.item_ids[table.items].tolist()
    return list(zip(users, items, table.values.tolist(), times, strict=True))


def lines(separator, header="userId movieId rating timestamp"):
    first = header.split() if header else []
    body = zip(*ROWS.values(), strict=True)
    return "".join(separator.join(map(str, row)) + "\n" for row in [first, *body] if row)


TEXTS = {
    "r.csv": lines(","),
    "r.tsv": lines("\t"),
    "semicolons.csv": lines(";"),
    "pipes.txt": lines("|"),
    "bom.csv": "\ufeff" + lines(",").replace("\n", "\r\n"),
    "blank.csv": "\n" + lines(" , ").replace("\n", "\n\n"),
    "ratings.dat": lines("::", ""),
    "header.dat": lines("::"),
    "bom.dat": "\ufeff" + lines("::", "").replace("\n", "\r\n"),
    "u.data": lines("\t", ""),
    "no_header.csv": lines(",", ""),
    "recbole.inter": lines("\t", "user_id:token item_id:token rating:float timestamp:float"),
    "fractions.csv": re.sub(r"(?m)^(\d+)", r"\1.0", lines(",")),
    "two_kinds.csv": "userId,movieId,rating,timestamp,genres|tags\n"
    + lines(",", "").replace("\n", ",a|b|c\n"),
    "quotes.csv": 'userId,title,Id,rating,timestamp\n2,"a, b",30,4,900\n1,c,7,5,800\n2,"d\ne",7,.5,700\n'
    "1,f,30,2.5,850\n10,g,4,3,1e2\n",
}  # fmt: skip


@pytest.mark.parametrize("name", [*TEXTS, *(f"{name}.gz" for name in ("r.csv", "ratings.dat"))])
def test_text_files_give_one_table(tmp_path, name):
    content = TEXTS[name.removesuffix(".gz")].encode()
    file = write(
        tmp_path, gzip.compress(content, mtime=0) if name.endswith(".gz") else content, name
    )
    table = read_interactions(file)
    assert tuples(table) == SORTED
    assert table.user_ids.ids.tolist() == [1, 2, 10]
    assert (table.num_users, table.num_items, len(table)) == (3, 3, 5)
    dtypes = (table.users.dtype, table.items.dtype, table.values.dtype)
    assert dtypes == (np.int32, np.int32, np.float32)


@pytest.mark.parametrize("kind", ["parquet", "npz", "categories", "floats", *in_memory(ROWS)])
def test_tables_give_one_table(tmp_path, kind):
    if kind == "parquet":
        source = tmp_path / "r.parquet"
        pq.write_table(pa.table({**ROWS, "mixed": [[1], [2], [], [], []]}), source)
    elif kind == "npz":
        source = tmp_path / "r.npz"
        np.savez(source, **ROWS, genres=np.ones((3, 2)), other=[1, 2])
    elif kind == "categories":
        source = pd.DataFrame(ROWS).astype({"userId": "category"})
    elif kind == "floats":  # as pandas stores whole numbers once one was missing
        source = pd.DataFrame(ROWS).astype({"userId": float, "movieId": float})
    else:
        source = in_memory(ROWS)[kind]
    table = read_interactions(source)
    assert tuples(table) == SORTED
    assert table.user_ids.ids.dtype.kind == "i"


def test_text_ids_agree_where_they_are_read_from(tmp_path):
    rows = {"user": ["ann", "bob", "ann"], "asin": ["007", "7", "é x"]}
    text = "user,asin\n" + "".join(f"{u},{i}\n" for u, i in zip(*rows.values(), strict=True))
    pq.write_table(pa.table(rows), tmp_path / "r.parquet")
    found = [write(tmp_path, text), tmp_path / "r.parquet", rows, pd.DataFrame(rows)]
    expected = [("ann", "007", 1.0, None), ("ann", "é x", 1.0, None), ("bob", "7", 1.0, None)]
    assert [tuples(read_interactions(source)) for source in found] == [expected] * 4


DAY = datetime.datetime(2020, 1, 31, 10, 0, 0, 500000)
SECONDS = DAY.replace(tzinfo=datetime.UTC).timestamp()


@pytest.mark.parametrize(
    "times",
    [
        ["2020-01-31T10:00:00.5", "2020-01-31 10:00:00.5"],
        ["2020-01-31T10:00:00.5Z", "2020-01-31T12:00:00.5+02:00"],
        [DAY, DAY],
        [DAY.replace(tzinfo=datetime.UTC)] * 2,
        np.array([DAY, DAY], "datetime64[ns]"),
        [SECONDS, SECONDS],
        [str(SECONDS), f"{SECONDS:.3f}"],
    ],
)
def test_times_of_every_type(tmp_path, times):
    rows = {"user": [1, 2], "item": [1, 2], "date": times}
    text = write(
        tmp_path,
        "user,item,date\n" + "".join(f"{i + 1},{i + 1},{t}\n" for i, t in enumerate(times)),
    )
    for source in (rows, pa.table(rows), text):
        assert read_interactions(source).times.tolist() == [SECONDS, SECONDS], type(source)  # fmt: skip


def test_days_are_times():
    day = datetime.date(1970, 1, 3)
    for days in ([day], ["1970-01-03"], np.array([day], "datetime64[D]")):
        for source in ({"user": [1], "item": [1], "date": days},):
            assert read_interactions(source).times.tolist() == [2 * 86400.0]
            assert read_interactions(pa.table(source)).times.tolist() == [2 * 86400.0]


@pytest.mark.parametrize(
    ("header", "roles"),
    [
        ("reviewerID asin overall unixReviewTime reviewTime", "reviewerID asin overall unixReviewTime"),
        ("user_id item_id order", "user_id item_id None order"),
        ("user_id item_id order time", "user_id item_id None time"),
        ("session_id user Id ts price", "user Id None ts"),
        ("session session_id user Id ts", "user Id None ts"),
        ("session_id item_id time", "session_id item_id None time"),
        ("timestamp item user", "user item None timestamp"),
        ("item_id:token user_id:token label:float", "user_id:token item_id:token label:float None"),
    ],
)  # fmt: skip
def test_columns_by_name(tmp_path, header, roles):
    names = header.split()
    source = {name: np.array([i + 1]) for i, name in enumerate(names)}
    found = read_interactions(source)
    user, item, value, time = (None if r == "None" else names.index(r) + 1 for r in roles.split())
    assert tuples(found) == [(user, item, float(value or 1), time)]
    unused = {*names} - {*roles.split()}
    unused -= {"session_id"} if "user" in names else set()
    listed = "".join(note for note in found.notes if note.startswith("Columns that are not used"))
    assert all(repr(name) in listed for name in unused)


def test_named_columns_override():
    source = {
        "user": [1],
        "item": [2],
        "rating": [3.0],
        "score": [4.0],
        "timestamp": [5],
        "t0": [6],
    }
    refusal(
        lambda: read_interactions(source),
        "'rating', 'score' may each be the value column",
        "'t0'",
        "columns={'value': 'rating'}",
    )
    table = read_interactions(source, columns={"value": "score", "timestamp": "t0"})
    assert tuples(table) == [(1, 2, 4.0, 6.0)]
    table = read_interactions(
        source, columns={"value": None, "timestamp": None, "user": "item", "item": "t0"}
    )
    assert tuples(table) == [(2, 6, 1.0, None)]  # fmt: skip


def test_places_of_columns_without_header(tmp_path):
    file = write(tmp_path, "a,x,1600000000,z\nb,y,1600000001,z\n")
    refusal(lambda: read_interactions(file), "no column is known as the user", "header=False")
    looks = "'1600000000' in the place of the value looks like a time"
    refusal(lambda: read_interactions(file, header=False), looks, "'timestamp': 2")
    columns = {"user": 1, "item": 0, "timestamp": 2, "value": None}
    table = read_interactions(file, header=False, columns=columns)
    assert tuples(table) == [("x", "a", 1.0, 1.6e9), ("y", "b", 1.0, 1600000001.0)]
    assert "No header line (header=False)" in table.notes[0]
    dated = write(tmp_path, "1,2,2020-01-31\n", "dated.csv")
    refusal(lambda: read_interactions(dated), "'2020-01-31' in the place of the value")
    valued = read_interactions(write(tmp_path, "1,2,5e9\n", "v.csv"), columns={"value": 2})
    assert tuples(valued) == [(1, 2, 5e9, None)]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("user,item,rating,score\n1,2,3,4\n", ["'rating', 'score'", "columns={'value': 'rating'}"]),
        ("who,item\n1,2\n", ["no column is known as the user", "'who'", "columns={'user': 'who'}"]),
        ("user,item,user\n1,2,3\n", ["more than one column 'user'"]),
        ("0,1,2,3\n1,2,3,4\n", ["line 1", "may be the places of columns", "header=False"]),
        ("7\n8\n", ["line 1", "'7' has a single field"]),
        ("1,2,3,4,5\n", ["no header line and 5 columns", "columns={'user': 0"]),
        ("user,item\n", ["no rows after the header"]),
        ("\n\n", ["the file is empty"]),
        ("user,item,ts\n1,2,3\n\n1,2\n", ["line 4: 2 fields where the first line has 3"]),
        ("user,item,rating\n1,2,3\n1,3,x\n", ["line 3, column 'rating': 'x' is not a number"]),
        ("user,item,ts\n1,2,3\n1,3,x\n", ["line 3, column 'ts': 'x' is not a number"]),
        ("user,item,ts\n1,2,3\n1,3,\n", ["line 3, column 'ts': the time is missing or NaN"]),
        ("user,item,ts\n1,2,2020-01-31\n1,3,2020-02-31\n", ["line 3", "'2020-02-31' is not a time"]),
        ("user,item,rating\n1,2,3\n\n1,3,\n", ["line 4, column 'rating': the value is missing"]),
        ("user,item,rating\n1,2,3\n1,,1\n", ["line 3, column 'item': the id is empty"]),
        ("user,item,rating\n1,2,3\n1,3,inf\n", ["line 3, column 'rating': the value inf is infinite"]),
        ("user,item,rating\n1,2,3\n1,3,0\n", ["line 3, column 'rating': the value 0", "positive='>= 4'"]),
        ("user,item,rating\n1,2,-1\n", ["line 2, column 'rating': the value -1 is not positive"]),
        (b"user,item\n\xff,2\n", ["not readable as CSV in UTF-8"]),
        ('user,item\n"1,2\n', ["line 2: 1 fields"]),
    ],
)  # fmt: skip
def test_faults_of_text_name_the_line(tmp_path, text, parts):
    file = write(tmp_path, text)
    refusal(lambda: read_interactions(file), file, *parts)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"rating": [4.0, np.nan, 1, 1, 1]}, ["row 1 (counted from 0), column 'rating'"]),
        ({"timestamp": [1, 2, np.nan, 4, 5]}, ["row 2 (counted from 0)", "the time is missing"]),
        ({"timestamp": ["1", "2", "x", "4", "5"]}, ["row 2 (counted from 0)", "'x' is not a time"]),
        ({"timestamp": ["2020-01-31", "", "x", "", ""]}, ["row 1 (counted", "the time is missing"]),
        ({"timestamp": [1, None, 3, 4, 5]}, ["row 1 (counted from 0)", "the time is missing"]),
        ({"userId": ["a", "", "b", "c", "d"]}, ["'userId'", "row 1", "the id is empty"]),
        ({"userId": ["a", None, "b", "c", "d"]}, ["'userId'", "row 1", "the id is empty"]),
        ({"userId": [1, 2, 0.5, 1, 2]}, ["'userId'", "the id 0.5 is not a whole number"]),
        ({"rating": ["a"] * 5}, ["'rating'", "not"]),
    ],
)
@pytest.mark.parametrize("kind", ["mapping", "arrow"])
def test_faults_in_memory_name_the_row(change, parts, kind):
    source = {**ROWS, **change}
    found = pa.table(source, schema=None) if kind == "arrow" else source
    refusal(lambda: read_interactions(found), *parts)


def test_faults_of_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_interactions(tmp_path / "absent.csv")
    other = write(tmp_path, "x", "r.xlsx")
    refusal(lambda: read_interactions(other), "unknown extension '.xlsx'", ".parquet")
    packed = write(tmp_path, gzip.compress(b"x", mtime=0), "r.xlsx.gz")
    refusal(lambda: read_interactions(packed), "unknown extension '.xlsx' of a compressed file")
    whole = gzip.compress(np.random.default_rng(0).bytes(5000))
    for content in (b"no gzip", whole[:-500], whole[:40] + b"????" + whole[44:]):
        broken = write(tmp_path, content, "broken.dat.gz")
        with pytest.raises(TableError, match=r"broken\.dat\.gz"):
            read_interactions(broken)
    refusal(lambda: read_interactions(write(tmp_path, "x", "r.npz")), "not a NumPy file")
    refusal(lambda: read_interactions(write(tmp_path, "x", "r.parquet")), "not a Parquet file")
    uneven = {"user": [1, 2], "item": [1]}
    refusal(lambda: read_interactions(uneven), "columns of one length", "'item' of 1")
    refusal(lambda: read_interactions({"user": [], "item": []}), "no rows")
    with pytest.raises(TypeError, match=r"source is a int; expected the path"):
        read_interactions(3)


@pytest.mark.parametrize(
    ("options", "error", "parts"),
    [
        ({"positive": "4"}, ValueError, ["positive='4'", "'>= 4'"]),
        ({"positive": "> 5"}, TableError, ["keeps none of 5 rows", "between 0.5 and 5"]),
        ({"positive": "> 1", "columns": {"value": None}}, TableError, ["the source has no value column"]),
        ({"duplicates": "mean"}, ValueError, ["duplicates='mean'", "first, last, sum or error"]),
        ({"min_per_user": 0}, ValueError, ["min_per_user=0", "at least 1"]),
        ({"min_per_item": 3}, TableError, ["no row is left", "min_per_item=3", "lower them"]),
        ({"columns": {"users": "userId"}}, TableError, ["{'users': 'userId'}", "names by role"]),
        ({"columns": {"user": "movieId", "item": "movieId"}}, TableError, ["name one column twice"]),
        ({"columns": {"user": "who"}}, TableError, ["there is no column 'who'", "'userId'"]),
        ({"columns": {"user": None}}, TableError, ["the user is needed"]),
    ],
)  # fmt: skip
def test_faults_of_options(options, error, parts):
    refusal(lambda: read_interactions(ROWS, **options), *parts, error=error)


@pytest.mark.parametrize("sign", [">=", ">", "<", "<=", "=="])
def test_positive_keeps_rows_and_drops_their_values(sign):
    table = read_interactions(ROWS, positive=f"{sign} 2.5")
    compare = {">=": "__ge__", ">": "__gt__", "<": "__lt__", "<=": "__le__", "==": "__eq__"}[sign]
    expected = [(u, i, 1.0, t) for u, i, v, t in SORTED if getattr(v, compare)(2.5)]
    assert tuples(table) == expected
    assert f"keeps {len(expected)} of 5 rows" in table.notes[1]
    zero = {"user": [1, 2], "item": [1, 2], "value": [0, -1]}
    assert tuples(read_interactions(zero, positive=">= 0")) == [(1, 1, 1.0, None)]


@pytest.mark.parametrize(
    ("duplicates", "kept"),
    [("first", (5.0, 1.0)), ("last", (2.0, 9.0)), ("sum", (10.0, 1.0))],
)
def test_duplicates(duplicates, kept):
    rows = {
        "user": [1, 1, 3, 1, 1],
        "item": [2, 2, 2, 2, 1],
        "value": [3, 2, 1, 5, 7],
        "time": [4, 9, 2, 1, 5],
    }
    table = read_interactions(rows, duplicates=duplicates)
    first_user = sorted([(1, 2, *kept), (1, 1, 7.0, 5.0)], key=lambda row: row[3])
    assert tuples(table) == [*first_user, (3, 2, 1.0, 2.0)]
    assert "2 rows repeat a pair" in table.notes[-2]


def test_duplicates_are_rejected_with_both_lines(tmp_path):
    file = write(tmp_path, "user,item\n1,x\n\n2,x\n1,x\n")
    refusal(
        lambda: read_interactions(file, duplicates="error"),
        "lines 2 and 5: the pair user 1, item 'x' occurs 2 times",
        "duplicates='first'",
    )
    assert tuples(read_interactions(ROWS, duplicates="error")) == SORTED
    valued = write(tmp_path, "user,item,value\n1,x,0\n2,x,1\n1,x,1\n1,x,1\n", "valued.csv")
    refusal(lambda: read_interactions(valued, duplicates="error", positive="> 0"), "lines 4 and 5")


def test_times_of_two_units_are_rejected(tmp_path):
    times = [1_600_000_000, 1_600_000_001_000, 1_600_000_002]
    rows = "".join(f"1,{i},{t}\n" for i, t in enumerate(times))
    parts = [
        "2 look like seconds, from 1600000000 to 1600000002",
        "1 look like milliseconds, from 1600000001000 to 1600000001000",
        "convert them to one unit",
    ]
    file = write(tmp_path, "user,item,ts\n" + rows)
    refusal(lambda: read_interactions(file), "line 3, column 'ts'", *parts)
    table = {"user": [1, 1, 1], "item": [1, 2, 3], "ts": times}
    for source in (table, pd.DataFrame(table), {**table, "ts": [*map(str, times)]}):
        refusal(lambda s=source: read_interactions(s), "row 1 (counted from 0)", *parts)


@pytest.mark.parametrize(
    "times",
    [
        [0, 3, 2_000],  # counters
        [-1, 99_999_999, 1_600_000_000],  # before 1973, and now
        [50_000_000_000, 99_000_000_000, 110_000_000_000],  # milliseconds from 1971 to 1973
        [1.6e18, 1.7e18, 1.65e18],
    ],
)
def test_times_of_one_unit_are_kept(times):
    table = read_interactions({"user": [1, 1, 1], "item": [1, 2, 3], "ts": times})
    assert table.times.tolist() == sorted(times)
    dates = ["1960-01-01", "2020-01-01", "9999-12-31"]  # their unit is known
    read_interactions({"user": [1, 1, 1], "item": [1, 2, 3], "ts": dates})


def test_rows_at_one_time_keep_their_order():
    rows = {"user": [1] * 4, "item": [9, 3, 5, 1], "time": [1, 1, 0, 1]}
    for source in (
        rows,
        {**rows, "time": [0, 0, 0, 0]},
        {"user": rows["user"], "item": rows["item"]},
    ):
        table = read_interactions(source)
        order = [5, 9, 3, 1] if source is rows else [9, 3, 5, 1]
        assert table.item_ids[table.items].tolist() == order


def core(pairs, least):
    """The k-core of distinct pairs, by dropping one pair after the other."""
    pairs = list(pairs)
    while True:
        users, items = Counter(u for u, _ in pairs), Counter(i for _, i in pairs)
        bad = [p for p in pairs if users[p[0]] < least[0] or items[p[1]] < least[1]]
        if not bad:
            return pairs
        pairs.remove(bad[0])


@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=50, unique=True),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
def test_core_equals_dropping_rows_one_by_one(pairs, least):
    source = {"user": [u for u, _ in pairs], "item": [i for _, i in pairs]}
    expected = core(pairs, least)

    def read():
        return read_interactions(source, min_per_user=least[0], min_per_item=least[1])

    if not expected:
        refusal(read, "no row is left", f"min_per_user={least[0]}")
        return
    table = read()
    assert {(u, i) for u, i, _, _ in tuples(table)} == {*expected}
    assert len(table) == len(expected)
    assert table.user_ids.ids.tolist() == sorted({u for u, _ in expected})
    assert table.item_ids.ids.tolist() == sorted({i for _, i in expected})
    if len(expected) < len(pairs):
        users = len({u for u, _ in pairs} - {u for u, _ in expected})
        items = len({i for _, i in pairs} - {i for _, i in expected})
        dropped = f"dropped {len(pairs) - len(expected)} rows, {users} users and {items} items in "
        assert dropped in table.notes[-2]


def test_take_keeps_the_ids():
    table = read_interactions(ROWS)
    kept = table.take(table.values > 3)
    assert tuples(kept) == [row for row in SORTED if row[2] > 3]
    assert kept.user_ids is table.user_ids
    untimed = read_interactions(ROWS, columns={"timestamp": None})
    assert untimed.take(untimed.users == 0).times is None
    refusal(
        lambda: table.take(np.arange(2)), "keep is int64", "bool of shape [5]", error=ValueError
    )
