"""Ratings from files: every format, and every way in which a file can be wrong."""

from __future__ import annotations

import math
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.data_files import refusal, save_csv, save_npz, save_parquet, write

from rankpg.data.ratings_table import Triples
from rankpg.data.read import read

MATRIX = np.array([[0.5, 1.0, 2.0], [3.0, 0.0, 0.25]])


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
def test_csv_dialects_give_one_table(tmp_path, text):
    table = read(write(tmp_path, text))
    assert (table.user_ids.one(0), table.item_ids.one(0), table.values[0]) == (1, 2, 3.0)


@pytest.mark.parametrize("suffix", ["csv", "parquet", "npz"])
def test_columns_are_read_by_name(tmp_path, suffix):
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


def test_npz_dtypes_name_the_value_array(tmp_path):
    np.savez(tmp_path / "t.npz", a=[0.5, 1.5], user=[1, 2], b=[3, 4])
    assert read(tmp_path / "t.npz").columns == ("user", "b", "a")


def test_missing_file_is_named(tmp_path):
    refusal(lambda: read(tmp_path / "no.csv"), "no.csv: no such file", error=FileNotFoundError)


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.npz"])
def test_empty_file_is_rejected(tmp_path, name):
    refusal(lambda: read(write(tmp_path, "", name)), f"{name}: the file is empty")


def test_folder_is_not_a_file(tmp_path):
    (tmp_path / "t.csv").mkdir()
    refusal(lambda: read(tmp_path / "t.csv"), "t.csv: not a file")


def test_unknown_extension_lists_the_known(tmp_path):
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
        (
            "who,what,stars\n1,2,3\n",
            ["'who', 'what', 'stars'", "columns=('USER', 'ITEM', 'VALUE')"],
        ),
        ("user,item,value,rating\n1,2,3,4\n", ["ambiguous", "columns=('USER', 'ITEM', 'VALUE')"]),
        ("1,2,0.5\n1,3,0.5\n", ["line 1: no header", "user,item,value"]),
        ("0,1,2,3\n1,2,3,4\n", ["line 1: these may be column numbers or the first row"]),
        ("1\n2\n", ["one column of numbers"]),
        ("0.5,0.5\n0.5,x\n", ["line 2, column 'field 2': 'x' is not a number"]),
        ("0.5,0.5\n\n0.5,nan\n", ["line 3, field 2: the value is missing or NaN"]),
        (b"user,item,value\n\xff\xfe,2,3\n", ["not readable as CSV in UTF-8"]),
    ],
)
def test_csv_error_names_line_and_column(tmp_path, text, parts):
    refusal(lambda: read(write(tmp_path, text)), "ratings.csv", *parts)


def test_open_quote_is_named(tmp_path):
    text = 'user,item,value\n1,"2,3\n' + "1,2,3\n" * 500_000
    refusal(lambda: read(write(tmp_path, text)), "ratings.csv, line 2", "close the quote")


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.npz"])
def test_missing_columns_are_named(tmp_path, name):
    {"t.csv": save_csv, "t.parquet": save_parquet, "t.npz": save_npz}[name](tmp_path / name)
    refusal(
        lambda: read(tmp_path / name, columns=("user", "film", "value")),
        f"{name}: no column 'film'; found 'user', 'item', 'value'",
        "columns=('USER', 'ITEM', 'VALUE')",
    )


@pytest.mark.parametrize("columns", [("a",), "abc", ("a", "b", "a"), ("a", "a")])
def test_columns_must_be_three_names(tmp_path, columns):
    save_csv(tmp_path / "t.csv")
    refusal(lambda: read(tmp_path / "t.csv", columns), "three different names", repr(columns))


def test_duplicate_column_is_named(tmp_path):
    file = write(tmp_path, "user,item,item,value\n1,2,3,4\n")
    refusal(lambda: read(file, ("user", "item", "value")), "more than one column 'item'")


@pytest.mark.parametrize("left", [4, 200])
def test_truncated_parquet_is_rejected(tmp_path, left):
    save_parquet(tmp_path / "t.parquet")
    content = (tmp_path / "t.parquet").read_bytes()
    file = write(tmp_path, content[:left], "t.parquet")
    refusal(lambda: read(file), "t.parquet: not a Parquet file, or damaged")


def test_damaged_parquet_is_rejected(tmp_path):
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
def test_parquet_error_names_row_and_column(tmp_path, change, parts):
    columns = {"user": [1, 2], "item": [3, 4], "value": [5.0, 6.0]} | change
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    refusal(lambda: read(tmp_path / "t.parquet"), "t.parquet", *parts)


def test_parquet_without_rows_is_rejected(tmp_path):
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
def test_npz_error_names_the_array(tmp_path, arrays, parts):
    np.savez(tmp_path / "t.npz", **arrays)
    refusal(lambda: read(tmp_path / "t.npz"), "t.npz", *parts)


def test_npz_columns_must_have_one_length(tmp_path):
    np.savez(tmp_path / "t.npz", user=[1, 2], item=[1], value=[1])
    refusal(
        lambda: read(tmp_path / "t.npz", ("user", "item", "value")),
        "three lists of equal length, got 'user' [2], 'item' [1], 'value' [1]",
    )


def test_damaged_npz_is_rejected(tmp_path):
    refusal(lambda: read(write(tmp_path, "user,item", "t.npz")), "t.npz: not a NumPy file")
    save_npz(tmp_path / "t.npz")
    content = (tmp_path / "t.npz").read_bytes()
    refusal(lambda: read(write(tmp_path, content[:300], "t.npz")), "t.npz is damaged")
    damaged = bytearray(content)
    damaged[100:140] = bytes(40)
    refusal(lambda: read(write(tmp_path, bytes(damaged), "t.npz")), "t.npz is damaged")


def test_damage_of_any_kind_is_named(tmp_path):
    np.save(tmp_path / "m.npy", MATRIX)
    content = (tmp_path / "m.npy").read_bytes()
    for damaged in (
        content.replace(b"'descr': ", b"'descr':(("),  # a header that is not a value of Python
        content.replace(b"<f8", b"<q!"),
        content.replace(b"(2, 3)", b"(2, 9)"),
        content.replace(b"(2, 3)", b"(2,-3)"),
        content[:-1],
    ):
        assert damaged != content
        refusal(lambda d=damaged: read(write(tmp_path, d, "d.npy")), "d.npy is damaged")
    np.savez(tmp_path / "t.npz", m=MATRIX)
    packed = bytearray((tmp_path / "t.npz").read_bytes())
    central = packed.index(b"PK\x01\x02")
    packed[6] |= 1  # the bit of encryption, in both headers
    packed[central + 8] |= 1
    refusal(lambda: read(write(tmp_path, bytes(packed), "e.npz")), "e.npz is damaged")


def test_pickles_are_never_loaded(tmp_path):
    np.savez(tmp_path / "t.npz", user=np.array(["a", None], object), item=[1, 2], value=[1, 2])
    refusal(lambda: read(tmp_path / "t.npz"), "t.npz: holds pickled Python objects", "astype(str)")


def test_npz_needs_no_pyarrow(tmp_path, monkeypatch):
    save_npz(tmp_path / "t.npz")
    save_csv(tmp_path / "t.csv")
    for module in ("pyarrow", "pyarrow.csv", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, module, None)
    assert len(read(tmp_path / "t.npz").values) == 3
    refusal(lambda: read(tmp_path / "t.csv"), "pip install 'rankpg[data]'", error=ImportError)


def test_triples_in_memory_name_rows():
    table = Triples.build(
        (np.array([1, 2]), np.array([0, 1])), (np.array([3]), np.array([0, 0])), np.ones(2)
    )
    assert table.place(0, 1) == "rows 0 and 1 (counted from 0)"


def test_npy_header_beyond_memory_is_rejected(tmp_path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000, 1000000), }"
    padded = header.ljust(117) + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded
    refusal(lambda: read(write(tmp_path, content, "t.npy")), "t.npy is damaged", "memory")


def test_parquet_ids_of_invalid_text_are_rejected(tmp_path):
    """A flipped byte inside a string: valid Parquet, invalid UTF-8."""
    column = pa.array([b"u\xff\xfe", b"u2"], pa.binary()).cast(pa.string(), safe=False)
    columns = {"user": column, "item": ["a", "b"], "value": [1.0, 2.0]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    refusal(lambda: read(tmp_path / "t.parquet"), "t.parquet", "cannot hold ids")


def test_other_encoding_is_named(tmp_path):
    content = "user,item,value\nMüller,1,0.5\n".encode("latin-1")
    refusal(lambda: read(write(tmp_path, content, "t.csv")), "t.csv", "save it as UTF-8")
