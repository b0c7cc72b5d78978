"""Ratings: from files as users have them to rewards, and every way in which a file can be wrong."""

from __future__ import annotations

import math
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.data_files import refusal, rewards
from hypothesis import given, settings
from hypothesis import strategies as st

from rankpg.data.ids import IdMap, UnknownIdError
from rankpg.data.ratings_table import Matrix, Triples
from rankpg.data.read import read
from rankpg.environments import from_ratings as ratings

KUAIREC = """user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio
14,148,4381,6067,2020-07-05 05:27:48.378,20200705.0,1593898068.378,0.722103
14,183,11635,6100,2020-07-05 05:28:00.057,20200705.0,1593898080.057,1.907377
19,148,22422,10867,,,,2.063311
7,183,900000,6067,2020-07-05 05:29:09.479,20200705.0,1593898149.479,148.343
"""


def write(folder, text, name="ratings.csv"):
    file = folder / name
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


# Files that are right.


def test_kuairec_as_published(tmp_path):
    data = ratings.from_file(write(tmp_path, KUAIREC, "small_matrix.csv"))
    assert data.context_ids.ids.tolist() == [7, 14, 19]
    assert data.item_ids.ids.tolist() == [148, 183]
    assert data.missing_share == pytest.approx(2 / 6)
    assert rewards(data, 14, [183, 148]) == pytest.approx([1.907377, 0.722103])
    assert rewards(data, 19, [183]) == [0.0]
    assert rewards(data, 7, [183]) == [10.0]  # clipped as in the paper
    assert data.environment.values.dtype == jnp.float32


@pytest.mark.parametrize(
    ("clip", "expected"), [(None, 148.343), ((0, 3), 3.0), ((200.0, 300.0), 200.0)]
)
def test_clip(tmp_path, clip, expected):
    data = ratings.from_file(write(tmp_path, KUAIREC), clip=clip)
    assert rewards(data, 7, [183]) == pytest.approx([expected], rel=1e-6)


def test_only_the_watch_ratio_is_clipped_by_default(tmp_path):
    data = ratings.from_file(write(tmp_path, "userId,movieId,rating,timestamp\n1,2,50,9\n"))
    assert rewards(data, 1, [2]) == [50.0]


USERS, ITEMS, VALUES = ["bob", "ann", "bob"], ["x/1", "é", "é"], [0.5, 2.0, -1.0]


def save_csv(file):
    rows = zip(USERS, ITEMS, VALUES, strict=True)
    file.write_text("user,item,value\n" + "".join(f"{u},{i},{v}\n" for u, i, v in rows), "utf-8")


def save_tsv(file):
    rows = zip(USERS, ITEMS, VALUES, strict=True)
    file.write_text(
        "user\titem\tvalue\n" + "".join(f"{u}\t{i}\t{v}\n" for u, i, v in rows), "utf-8"
    )


def save_parquet(file):
    pq.write_table(pa.table({"user": USERS, "item": ITEMS, "value": VALUES}), file)


def save_categories(file):
    users = pa.array([*USERS, "nobody"]).dictionary_encode()[:3]
    pq.write_table(pa.table({"user": users, "item": ITEMS, "value": VALUES}), file)


def save_npz(file):
    np.savez(file, user=USERS, item=ITEMS, value=VALUES)


SAVERS = [
    (save_csv, "t.csv"),
    (save_tsv, "t.tsv"),
    (save_parquet, "t.parquet"),
    (save_categories, "t.parquet"),
    (save_npz, "t.npz"),
]


@pytest.mark.parametrize(("save", "name"), SAVERS)
def test_string_ids_there_and_back(tmp_path, save, name):
    save(tmp_path / name)
    data = ratings.from_file(tmp_path / name)
    assert data.context_ids.ids.tolist() == ["ann", "bob"]
    assert data.item_ids[data.item_ids.rows(ITEMS)].tolist() == ITEMS
    assert rewards(data, "bob", ["é", "x/1"]) == [-1.0, 0.5]
    assert rewards(data, "ann", ["é", "x/1"]) == [2.0, 0.0]
    assert data.missing_share == pytest.approx(1 / 4)


@pytest.mark.parametrize("kind", ["int", "uint", "date", "int with zeros in front"])
def test_ids_of_any_type(tmp_path, kind):
    if kind == "int with zeros in front":
        table = read(write(tmp_path, "user,item,value\n007,1,1\n7,10,1\n"))
        assert table.user_ids.ids.tolist() == ["007", "7"]
        assert table.item_ids.ids.tolist() == [1, 10]
        return
    types = {"int": pa.int64(), "uint": pa.uint8(), "date": pa.date32()}
    users = pa.array([9, 3], pa.int32()).cast(types[kind])
    pq.write_table(
        pa.table({"user": users, "item": [1, 2], "value": [1, 0]}), tmp_path / "t.parquet"
    )
    table = read(tmp_path / "t.parquet")
    assert table.user_ids[table.users].tolist() == users.to_pylist()
    assert table.user_ids.rows(table.user_ids.ids).tolist() == [0, 1]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffuser,item,value\r\n1,2,3\r\n",  # a spreadsheet's
        "user;item;value\n1;2;3",
        'user,item,value,"what ""they"" said"\n1,2,3,"two\nlines, one field"\n',
        "\n\nuser , item,value\n\n 1,2 , 3 \n\n",
        "user,video,watched\n1,2,3\n",  # the third column can only be the value
        ",value,item_id,User-ID,other\n0,3,2,1,\n",
    ],
)
def test_csv_as_it_comes(tmp_path, text):
    table = read(write(tmp_path, text))
    assert (table.user_ids.one(0), table.item_ids.one(0), table.values[0]) == (1, 2, 3.0)


@pytest.mark.parametrize("suffix", ["csv", "parquet", "npz"])
def test_named_columns(tmp_path, suffix):
    file, arrays = tmp_path / f"t.{suffix}", {"value": [8, 9], "who": [1, 2], "user": [3, 4]}
    if suffix == "csv":
        file.write_text("value,who,user\n8,1,3\n9,2,4\n")
    elif suffix == "parquet":
        pq.write_table(pa.table(arrays), file)
    else:
        np.savez(file, **arrays)
    table = read(file, columns=["who", "value", "user"])
    assert table.columns == ("who", "value", "user")
    assert table.user_ids.ids.tolist() == [1, 2]
    assert table.item_ids.ids.tolist() == [8, 9]
    assert table.values.tolist() == [3.0, 4.0]


def test_npz_beside_lists_of_another_length(tmp_path):
    triples = {"user": [0, 1, 1], "item": [0, 0, 1], "watch_ratio": [0.5, 20.0, 1.0]}
    np.savez(tmp_path / "t.npz", **triples, user_id=[14, 19], video_id=[3, 5, 7, 9])
    data = ratings.from_file(tmp_path / "t.npz")
    assert rewards(data, 1, [0, 1]) == [10.0, 1.0]


def test_npz_types_tell_the_value(tmp_path):
    np.savez(tmp_path / "t.npz", a=[0.5, 1.5], user=[1, 2], b=[3, 4])
    assert read(tmp_path / "t.npz").columns == ("user", "b", "a")


MATRIX = np.array([[0.5, 1.0, 2.0], [3.0, 0.0, 0.25]])


@pytest.mark.parametrize("name", ["t.npz", "t.npy", "t.csv", "ids.npz"])
def test_matrix_files(tmp_path, name):
    file = tmp_path / name
    if name == "t.csv":
        np.savetxt(file, MATRIX, delimiter=",", fmt="%g")
    elif name == "t.npy":
        np.save(file, MATRIX)
    elif name == "t.npz":
        np.savez(file, rewards=MATRIX)
    else:
        np.savez(file, rewards=MATRIX, users=["a", "b"], item_ids=[7, 8, 9])
    table = read(file)
    assert isinstance(table, Matrix)
    np.testing.assert_array_equal(table.values, MATRIX)
    data = ratings.from_file(file)
    np.testing.assert_allclose(data.environment.relative_noise, 0.3)
    if name == "ids.npz":
        assert rewards(data, "b", [9, 7]) == [0.25, 3.0]
    else:
        assert rewards(data, 1, [2, 0]) == [0.25, 3.0]


# Files that are wrong.


def test_no_such_file(tmp_path):
    refusal(lambda: read(tmp_path / "no.csv"), "no.csv: no such file", error=FileNotFoundError)


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.npz"])
def test_empty_file(tmp_path, name):
    refusal(lambda: read(write(tmp_path, "", name)), f"{name}: the file is empty")


def test_a_folder(tmp_path):
    (tmp_path / "t.csv").mkdir()
    refusal(lambda: read(tmp_path / "t.csv"), "t.csv: not a file")


def test_unknown_extension(tmp_path):
    file = write(tmp_path, "x", "t.xlsx")
    refusal(lambda: read(file), "unknown extension '.xlsx'", ".csv", ".parquet", ".npz")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("user,item,value\n1,2,3\n\n1,2\n", ["line 4: 2 fields where the first line has 3"]),
        ('user,item,value,x\n1,2,3,"a\nb"\n1,2,3,4,5\n', ["line 4: 5 fields"]),
        ("user,item,value\n1,2,3\n1,3,good\n", ["line 3, column 'value': 'good' is not a number"]),
        ("user,item,value\n1,2,3\n1,3,\n", ["line 3, column 'value'", "missing or NaN"]),
        ("user,item,value\n1,2,3\n\n1,3,nan\n", ["line 4, column 'value'", "missing or NaN"]),
        ("user,item,value\n1,2,-inf\n1,3,4\n", ["line 2, column 'value'", "-inf is infinite"]),
        ("user,item,value\n1,2,1e39\n", ["line 2, column 'value'", "1e+39 is too large"]),
        ("user,item,value\n1,2,3\n1,,4\n", ["line 3, column 'item': the id is empty"]),
        ("user,item,value\n  ,2,3\n", ["line 2, column 'user': the id is empty"]),
        ("user,item,value\n", ["no rows"]),
        ("\n\n", ["the file is empty"]),
        ("user,item,value\n1,2,3\n1,'3,\"x\n", ["line 3, column 'value'"]),
        ("who,what,stars\n1,2,3\n", ["'who', 'what', 'stars'", "columns=(USER, ITEM, VALUE)"]),
        ("user,item,value,rating\n1,2,3,4\n", ["ambiguous", "columns=(USER, ITEM, VALUE)"]),
        ("1,2,0.5\n1,3,0.5\n", ["line 1: no header", "user,item,value"]),
        ("0,1,2,3\n1,2,3,4\n", ["line 1: these may be column numbers or the first row"]),
        ("1\n2\n", ["one column of numbers"]),
        ("0.5,0.5\n0.5,x\n", ["line 2, column 'field 2': 'x' is not a number"]),
        ("0.5,0.5\n\n0.5,nan\n", ["line 3, field 2: the value is missing or NaN"]),
        (b"user,item,value\n\xff\xfe,2,3\n", ["not readable as CSV in UTF-8"]),
    ],
)
def test_broken_csv(tmp_path, text, parts):
    refusal(lambda: read(write(tmp_path, text)), "ratings.csv", *parts)


def test_a_quote_left_open(tmp_path):
    text = 'user,item,value\n1,"2,3\n' + "1,2,3\n" * 500_000
    refusal(lambda: read(write(tmp_path, text)), "ratings.csv, line 2", "close the quote")


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.npz"])
def test_columns_that_are_not_there(tmp_path, name):
    {"t.csv": save_csv, "t.parquet": save_parquet, "t.npz": save_npz}[name](tmp_path / name)
    refusal(
        lambda: read(tmp_path / name, columns=("user", "film", "value")),
        f"{name}: no column 'film'; found 'user', 'item', 'value'",
        "columns=(USER, ITEM, VALUE)",
    )


@pytest.mark.parametrize("columns", [("a", "b"), "abc", ("a", "b", "a")])
def test_columns_are_three_names(tmp_path, columns):
    save_csv(tmp_path / "t.csv")
    refusal(lambda: read(tmp_path / "t.csv", columns), "three different names", repr(columns))


def test_a_column_name_that_occurs_twice(tmp_path):
    file = write(tmp_path, "user,item,item,value\n1,2,3,4\n")
    refusal(lambda: read(file, ("user", "item", "value")), "more than one column 'item'")


@pytest.mark.parametrize("left", [4, 200])
def test_truncated_parquet(tmp_path, left):
    save_parquet(tmp_path / "t.parquet")
    content = (tmp_path / "t.parquet").read_bytes()
    file = write(tmp_path, content[:left], "t.parquet")
    refusal(lambda: read(file), "t.parquet: not a Parquet file, or damaged")


def test_parquet_with_damaged_pages(tmp_path):
    save_parquet(tmp_path / "t.parquet")
    content = bytearray((tmp_path / "t.parquet").read_bytes())
    content[4:60] = bytes(56)
    refusal(lambda: read(write(tmp_path, bytes(content), "t.parquet")), "t.parquet: ", "damaged")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"value": [1.0, None]}, ["row 1 (counted from 0), column 'value'", "missing or NaN"]),
        ({"value": [math.inf, 1.0]}, ["row 0 (counted from 0), column 'value'", "infinite"]),
        ({"value": ["a", "b"]}, ["column 'value' is not a column of numbers"]),
        ({"user": ["a", ""]}, ["row 1 (counted from 0), column 'user': the id is empty"]),
        ({"user": ["a", None]}, ["row 1 (counted from 0), column 'user': the id is empty"]),
        ({"item": [None, 1]}, ["row 0 (counted from 0), column 'item': the id is empty"]),
        ({"item": [1.0, math.nan]}, ["row 1 (counted from 0), column 'item': the id is empty"]),
        ({"item": [[1], [2]]}, ["column 'item'", "cannot hold ids"]),
        ({"rating": [1.0, 2.0]}, ["ambiguous", "'rating'", "columns=("]),
    ],
)
def test_broken_parquet(tmp_path, change, parts):
    columns = {"user": [1, 2], "item": [3, 4], "value": [5.0, 6.0]} | change
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    refusal(lambda: read(tmp_path / "t.parquet"), "t.parquet", *parts)


def test_parquet_without_rows(tmp_path):
    empty = pa.array([], pa.int64())
    pq.write_table(pa.table({"user": empty, "item": empty, "value": empty}), tmp_path / "t.parquet")
    refusal(lambda: read(tmp_path / "t.parquet"), "no rows")


@pytest.mark.parametrize(
    ("arrays", "parts"),
    [
        ({"user": [1], "item": [2], "value": ["x"]}, ["column 'value' holds <U1, not numbers"]),
        ({"user": [1], "item": [2], "value": [math.nan]}, ["row 0 (counted from 0)", "NaN"]),
        ({"user": ["", "a"], "item": [1, 2], "value": [1, 2]}, ["row 0", "the id is empty"]),
        ({"user": [1], "item": [2], "value": [3], "m": MATRIX}, ["ambiguous", "'m' [2, 3]"]),
        ({"a": MATRIX, "b": MATRIX}, ["ambiguous", "'a' [2, 3], 'b' [2, 3]"]),
        ({"a": [1, 2], "b": [1, 2], "c": [1, 2]}, ["ambiguous", "'a' [2]", "columns=("]),
        ({"user": [1, 2], "item": [1], "value": [1]}, ["ambiguous", "'user' [2]", "'item' [1]"]),
        ({"m": MATRIX, "users": ["a"], "items": [1, 2, 3]}, ["1 user ids and 3 item ids"]),
        ({"m": MATRIX.astype(str)}, ["expected numbers in a matrix"]),
        ({"m": np.zeros((0, 3))}, ["expected numbers in a matrix", "(0, 3)"]),
        (
            {"m": np.where(MATRIX == 2, np.nan, MATRIX)},
            ["row 0, column 2 (both counted from 0): the value is missing or NaN"],
        ),
    ],
)
def test_broken_npz(tmp_path, arrays, parts):
    np.savez(tmp_path / "t.npz", **arrays)
    refusal(lambda: read(tmp_path / "t.npz"), "t.npz", *parts)


def test_npz_named_columns_of_other_lengths(tmp_path):
    np.savez(tmp_path / "t.npz", user=[1, 2], item=[1], value=[1])
    refusal(
        lambda: read(tmp_path / "t.npz", ("user", "item", "value")),
        "three lists of equal length, got 'user' [2], 'item' [1], 'value' [1]",
    )


def test_not_a_zip_and_damaged_zip(tmp_path):
    refusal(lambda: read(write(tmp_path, "user,item", "t.npz")), "t.npz: not a NumPy file")
    save_npz(tmp_path / "t.npz")
    content = (tmp_path / "t.npz").read_bytes()
    refusal(lambda: read(write(tmp_path, content[:300], "t.npz")), "t.npz: damaged NumPy file")
    damaged = bytearray(content)
    damaged[100:140] = bytes(40)
    refusal(lambda: read(write(tmp_path, bytes(damaged), "t.npz")), "t.npz: damaged NumPy file")


def test_pickles_are_never_loaded(tmp_path):
    np.savez(tmp_path / "t.npz", user=np.array(["a", None], object), item=[1, 2], value=[1, 2])
    refusal(lambda: read(tmp_path / "t.npz"), "t.npz: holds pickled Python objects", "astype(str)")


def test_without_pyarrow(tmp_path, monkeypatch):
    save_npz(tmp_path / "t.npz")
    save_csv(tmp_path / "t.csv")
    for module in ("pyarrow", "pyarrow.csv", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, module, None)
    assert len(read(tmp_path / "t.npz").values) == 3
    refusal(lambda: read(tmp_path / "t.csv"), "pip install 'rankpg[data]'", error=ImportError)


# Policies.

TWICE = "user,item,value\nb,1,1\na,2,5\n\nb,1,4\na,1,7\nb,1,1\n"


@pytest.mark.parametrize(("policy", "expected"), [("mean", 2.0), ("last", 1.0)])
def test_duplicates(tmp_path, policy, expected):
    data = ratings.from_file(write(tmp_path, TWICE), duplicates=policy)
    assert rewards(data, "b", [1, 2]) == [expected, 0.0]
    assert rewards(data, "a", [1, 2]) == [7.0, 5.0]
    assert data.missing_share == pytest.approx(1 / 4)


def test_duplicates_are_an_error_by_default(tmp_path):
    refusal(
        lambda: ratings.from_file(write(tmp_path, TWICE)),
        "ratings.csv, lines 2 and 5: the pair user 'b', item 1 occurs 3 times",
        "duplicates='mean'",
    )


def test_rows_are_clipped_before_they_are_averaged():
    data = ratings.from_triples([1, 1], [1, 1], [2.0, 30.0], duplicates="mean", clip=(0, 10))
    assert rewards(data, 1, [1]) == [6.0]


def test_missing():
    users, items = [0, 0, 1, 2, 2], [0, 1, 0, 0, 1]
    call = lambda: ratings.from_triples(users, items, np.ones(5), missing="error")  # noqa: E731
    refusal(call, "1 of 6 (user, item) pairs", "the first is user 1, item 1", "missing='zero'")
    call = lambda: ratings.from_triples(users[:4], items[:4], np.ones(4), missing="error")  # noqa: E731
    refusal(call, "2 of 6", "the first is user 1, item 1")
    complete = ratings.from_triples([*users, 1], [*items, 1], np.ones(6), missing="error")
    assert complete.missing_share == 0.0


@pytest.mark.parametrize("option", ["missing", "duplicates"])
def test_unknown_option(option):
    call = lambda: ratings.from_triples([1], [1], [1.0], **{option: "none"})  # noqa: E731
    refusal(call, f"{option}='none'; expected", error=ValueError)


def test_unknown_ids():
    data = ratings.from_triples(["a", "b"], [1, 2], [1.0, 2.0])
    refusal(lambda: data.context_ids.rows("c"), "unknown user 'c'", "'a'", error=UnknownIdError)
    refusal(lambda: data.item_ids.rows([1, 9]), "unknown item 9", error=KeyError)
    refusal(lambda: IdMap(np.array([1, 2, 1])), "id 1 occurs twice")
    refusal(
        lambda: ratings.from_triples(["a"], [1], [1.0], item_ids=[2]),
        "unknown item 1",
        error=KeyError,
    )


def test_all_items_of_a_catalogue():
    data = ratings.from_triples(
        ["b", "a"], [7, 9], [1.0, 2.0], item_ids=[9, 8, 7], context_ids=["b", "a"]
    )
    table = [rewards(data, user, [9, 8, 7]) for user in ("b", "a")]
    assert table == [[0.0, 0.0, 1.0], [2.0, 0.0, 0.0]]
    assert data.environment.num_items == 3
    assert data.missing_share == pytest.approx(4 / 6)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (([1, 2], [1], [1.0]), ["one length", "(2,), (1,), (1,)"]),
        (([[1]], [[1]], [[1.0]]), ["one length", "(1, 1)"]),
        (([1], [1], ["x"]), ["column 'values' holds <U1"]),
        (([1, 2], [1, 2], [1.0, math.nan]), ["row 1 (counted from 0), column 'values'"]),
        ((["a", None], [1, 2], [1.0, 2.0]), ["column 'users' mixes ids"]),
        (([], [], []), ["no rows"]),
    ],
)
def test_wrong_triples(arguments, parts):
    refusal(lambda: ratings.from_triples(*arguments), *parts)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"matrix": [1.0, 2.0]}, ["[num_contexts, num_items]", "(2,)"]),
        ({"matrix": [[1.0, math.inf]]}, ["row 0, column 1", "infinite"]),
        (
            {"noise_std": -1.0},
            ["noise_std=-1.0; expected one number or a matrix of shape (2, 3)"],
        ),
        ({"noise_std": np.ones(3)}, ["noise_std has shape (3,)"]),
        ({"relative_noise": math.nan}, ["relative_noise=nan; expected one number"]),
        ({"clip": (2.0, 1.0)}, ["clip=(2.0, 1.0); expected (lowest, highest)"]),
        ({"clip": "on"}, ["clip='on'; expected (lowest, highest)"]),
        ({"eligible": np.ones((3, 2), bool)}, ["expected bool of shape (2, 3)"]),
        ({"eligible": np.ones((2, 3))}, ["expected bool of shape (2, 3)", "float64"]),
        ({"eligible": [[True] * 3, [False] * 3]}, ["context 1 (row 1) has no eligible item"]),
        ({"item_ids": [1, 2, 1]}, ["item id 1 occurs twice"]),
    ],
)
def test_wrong_matrix(options, parts):
    arguments = {"matrix": MATRIX} | options
    refusal(lambda: ratings.from_matrix(**arguments), *parts, error=ValueError)


# The environment.


@jax.jit
def whole_table(environment):
    contexts, items = jnp.arange(environment.num_contexts), jnp.arange(environment.num_items)
    return jax.vmap(environment.mean_rewards, (0, None))(contexts, items)


CELLS = st.tuples(st.integers(0, 3), st.integers(0, 6))


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.sets(CELLS, min_size=12, max_size=12), st.randoms(use_true_random=False))
def test_sparse_equals_dense(cells, random):
    """In rows of 0 to 7 ratings, whatever the order of the file."""
    rows = sorted(cells)
    random.shuffle(rows)
    users, items = np.array(rows).T
    values = np.arange(1.0, 13.0)
    dense = np.zeros((4, 7), np.float32)
    dense[users, items] = values
    ids = {"context_ids": range(4), "item_ids": range(7)}
    sparse = ratings.from_triples(users, items, values, **ids)
    np.testing.assert_array_equal(whole_table(sparse.environment), dense)
    np.testing.assert_array_equal(whole_table(ratings.from_matrix(dense).environment), dense)


def environments():
    rng = np.random.default_rng(0)
    users, items = np.nonzero(rng.random((5, 11)) < 0.5)
    eligible = rng.random((5, 11)) < 0.5
    eligible[:, 0] = True
    matrix = rng.normal(size=(5, 11))
    ids = {"context_ids": range(5), "item_ids": range(11), "eligible": eligible}
    return {
        "ratings": ratings.from_triples(users, items, 1 + rng.random(len(users)), **ids),
        "matrix": ratings.from_matrix(matrix, noise_std=2.0, eligible=eligible),
        "noise": ratings.from_matrix(matrix, noise_std=rng.random((5, 11)), relative_noise=0.3),
    }


@pytest.mark.parametrize("name", ["ratings", "matrix", "noise"])
def test_jit_and_vmap_equal_eager(name):
    environment = environments()[name].environment
    keys = jax.random.split(jax.random.key(1), 8)
    contexts = jnp.arange(8) % 5
    items = jnp.asarray(np.random.default_rng(1).integers(0, 11, (8, 4)).astype(np.int32))

    def both(environment, key, context, items):
        mean = environment.mean_rewards(context, items)
        same = environment.relevance(context, items)
        mask = environment.eligible(context, items)
        return mean, same, environment.sample_rewards(key, context, items), mask

    rows = list(zip(keys, contexts, items, strict=True))[:2]
    eager = [both(environment, *row) for row in rows]
    batched = jax.jit(jax.vmap(both, in_axes=(None, 0, 0, 0)))(environment, keys, contexts, items)
    for i, alone in enumerate(eager):
        row = jax.tree.map(lambda x, i=i: x[i], batched)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), row, alone)
        np.testing.assert_array_equal(row[0], row[1])
    assert (batched[3] is None) == (name == "noise")
    assert all(x.dtype == jnp.float32 for x in batched[:3])


@pytest.mark.parametrize("name", ["ratings", "matrix", "noise"])
def test_the_rewards_have_the_mean_and_the_noise_they_claim(name):
    environment = environments()[name].environment
    context, items, n = jnp.int32(2), jnp.arange(11), 20_000
    keys = jax.random.split(jax.random.key(7), n)
    draws = jax.jit(jax.vmap(environment.sample_rewards, (0, None, None)))(keys, context, items)
    draws = np.asarray(draws, np.float64)
    mean = np.asarray(environment.mean_rewards(context, items), np.float64)
    std = {
        "ratings": lambda: 0.3 * mean,
        "matrix": lambda: np.full(11, 2.0),
        "noise": lambda: np.abs(0.3 * mean + np.asarray(environment.noise_std[2])),
    }[name]()
    # the standard error of a mean is std / sqrt(n), that of a standard deviation std / sqrt(2 n)
    assert np.all(np.abs(draws.mean(0) - mean) <= 5 * std / math.sqrt(n) + 1e-6)
    assert np.all(np.abs(draws.std(0) - std) <= 5 * std / math.sqrt(2 * n) + 1e-6)
    noise = np.corrcoef(draws[:, std > 0].T) - np.eye(int((std > 0).sum()))
    assert np.abs(noise).max() < 5 / math.sqrt(n)


def test_a_matrix_has_no_noise_unless_asked_for():
    environment = ratings.from_matrix(MATRIX).environment
    drawn = environment.sample_rewards(jax.random.key(0), jnp.int32(1), jnp.arange(3))
    np.testing.assert_array_equal(drawn, MATRIX[1].astype(np.float32))


@pytest.mark.slow
def test_no_table_of_contexts_times_items():
    n = 200_000
    data = ratings.from_triples(np.arange(n), np.arange(n)[::-1], np.ones(n))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(data.environment))
    assert size < 20 * n  # a table would be 4 * n * n = 160 GB
    found = data.environment.mean_rewards(jnp.int32(5), jnp.array([n - 6, 5]))
    assert found.tolist() == [1.0, 0.0]


@pytest.mark.slow
def test_a_million_and_a_half_rows(tmp_path):
    n, rng = 1_500_000, np.random.default_rng(0)
    pairs = rng.permutation(1400 * 3000)[:n]
    users, items, values = pairs // 3000, pairs % 3000, rng.random(n)
    rest = "100,200,2020-07-05 05:27:48.378,20200705.0,1593898068.378"
    rows = zip(users, items, values, strict=True)
    header = KUAIREC.splitlines()[0]
    file = write(tmp_path, header + "\n" + "\n".join(f"{u},{i},{rest},{v}" for u, i, v in rows))
    start = time.perf_counter()
    data = ratings.from_file(file)
    assert time.perf_counter() - start < 30
    assert data.environment.values.shape == (n,)
    assert data.missing_share == pytest.approx(1 - n / (1400 * 3000))
    for row in rng.integers(0, n, 5):
        assert rewards(data, users[row], [items[row]]) == pytest.approx([values[row]], rel=1e-6)


def test_place_of_triples_in_memory():
    table = Triples.build(
        (np.array([1, 2]), np.array([0, 1])), (np.array([3]), np.array([0, 0])), np.ones(2)
    )
    assert table.place(0, 1) == "rows 0 and 1 (counted from 0)"


# Found by a reviewer.


def test_a_header_that_claims_more_than_memory_holds(tmp_path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000, 1000000), }"
    padded = header.ljust(117) + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded
    refusal(lambda: read(write(tmp_path, content, "t.npy")), "t.npy: ", "memory")


def test_parquet_ids_that_are_no_text(tmp_path):
    """A flipped byte inside a string: valid Parquet, invalid UTF-8."""
    column = pa.array([b"u\xff\xfe", b"u2"], pa.binary()).cast(pa.string(), safe=False)
    columns = {"user": column, "item": ["a", "b"], "value": [1.0, 2.0]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    refusal(lambda: read(tmp_path / "t.parquet"), "t.parquet", "cannot hold ids")


def test_a_file_in_another_encoding_is_told_what_to_do(tmp_path):
    content = "user,item,value\nMüller,1,0.5\n".encode("latin-1")
    refusal(lambda: read(write(tmp_path, content, "t.csv")), "t.csv", "save it as UTF-8")


def test_rows_of_different_lengths_are_no_matrix():
    refusal(lambda: ratings.from_matrix([[1.0, 2.0], [3.0]]), "matrix: rows of different lengths")


def test_a_matrix_of_bfloat16_is_a_matrix():
    data = ratings.from_matrix(jnp.asarray([[1.0, 0.5]], jnp.bfloat16))
    np.testing.assert_array_equal(data.environment.means, [[1.0, 0.5]])


@pytest.mark.parametrize("change", ["context_ids", "item_ids", "numbers"])
def test_the_sums_of_a_dataset_tell_ids_and_numbers(change):
    ids = {"context_ids": ["a", "b"], "item_ids": [1, 2, 3]}
    matrix = np.arange(6.0).reshape(2, 3)
    sums = ratings.from_matrix(matrix, **ids).fingerprint()
    assert ratings.from_matrix(matrix.copy(), **ids).fingerprint() == sums
    if change == "numbers":
        matrix[1, 1] += 1
    else:
        ids[change] = [*ids[change][:-1], "zz" if change == "context_ids" else 9]
    other = ratings.from_matrix(matrix, **ids).fingerprint()
    assert [name for name in sums if sums[name] != other[name]] == [change]
