"""Tables as people have them: separators, headers, encodings, columns that are left over, quotes, ids."""

from __future__ import annotations

import gzip
import unicodedata

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.data_files import refusal, write

from rankpg.data.ids import IdMap, TableError, UnknownIdError
from rankpg.data.interactions import read_interactions
from rankpg.data.read import read
from rankpg.environments import Features, from_file, from_matrix, from_table, from_triples


def triples(table):
    users = table.user_ids[table.users].tolist()
    return list(
        zip(users, table.item_ids[table.items].tolist(), table.values.tolist(), strict=True)
    )


WANTED = [(1, 10, 5.0), (1, 20, 3.0), (2, 10, 4.0)]
ROWS = [(1, 10, 5, 900), (1, 20, 3, 800), (2, 10, 4, 700)]


def text(separator, header=True, end="\n"):
    lines = [separator.join(["user", "item", "rating", "timestamp"])] * header
    return end.join([*lines, *(separator.join(map(str, row)) for row in ROWS)]) + end


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("r.dat", text("::", header=False)),
        ("r.csv", text("::")),
        ("r.csv", text("|")),
        ("r.txt", text(" ")),
        ("r.data", text("\t")),
        ("r.csv", text(";", end="\r\n")),
        ("r.csv", "sep=;\r\n" + text(";", end="\r\n")),
        ("r.csv", text(",").encode("utf-16")),
        ("r.csv", text("\t").encode("utf-16-le")),
        ("r.csv", text(",").encode("utf-16-be")),
        ("r.csv", text(";").encode("utf-32")),
        ("r.csv", text(",").encode("utf-32-le")),
        ("r.csv.gz", gzip.compress(text(",").encode("utf-32-be"), mtime=0)),
        ("r.csv.gz", gzip.compress(text(",").encode(), mtime=0)),
        ("r.csv", gzip.compress(text(",").encode(), mtime=0)),
        ("r.tsv", text("\t").replace("timestamp", "time, in s")),
    ],
)
def test_every_dialect_of_text_gives_one_table(tmp_path, name, content):
    table = read(write(tmp_path, content, name))
    assert triples(table) == WANTED
    assert "Read 3 rows of 3 lines" in table.notes[0]
    assert "user from" in table.notes[0]


ALMOST_NUMBERS = [
    ("1,000", "write 1000 if the comma separates thousands, or 1.000 if it is a decimal point"),
    ("-1,234,567", "without separators of thousands, -1234567"),
    ("1.000.000,5", "without separators of thousands, 1000000.5"),
    ("1\u00a0000", "without separators of thousands, 1000"),
    ("3,5", "write a decimal point"),
    ("\u0661\u0662", "digits of another script; write it in the digits 0 to 9, 12"),
    ("12 stars", "correct"),
]


@pytest.mark.parametrize(("field", "remedy"), ALMOST_NUMBERS)
def test_a_number_in_another_notation_is_named_with_its_remedy(tmp_path, field, remedy):
    file = write(tmp_path, f"user;item;rating\n1;2;3\n1;3;{field}\n")
    refusal(lambda: read(file), "line 3, column 'rating'", "is not a number", remedy)
    timed = write(tmp_path, f"user;item;timestamp\n1;2;2020-01-01\n1;3;{field}\n", "timed.csv")
    refusal(lambda: read_interactions(timed), "line 3", "is not a time", remedy)


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
def test_a_file_without_header_is_read_by_place(tmp_path, separator):
    file = write(tmp_path, text(separator, header=False), "r.txt")
    assert triples(read(file, header=False)) == WANTED
    assert triples(read(file, ("0", "1", "2"), header=False)) == WANTED
    assert [v for _, _, v in triples(read(file, ("0", "1"), header=False))] == [1.0, 1.0, 1.0]
    refusal(lambda: read(file, ("user", "item", "rating"), header=False), "named by their places")


def test_a_time_in_the_place_of_the_value_is_rejected(tmp_path):
    file = write(tmp_path, "1,10,1391040000\n2,11,1391040001\n")
    refusal(lambda: read(file, header=False), "'1391040000'", "looks like a time")


def test_a_first_row_is_never_taken_for_names(tmp_path):
    file = write(tmp_path, "AZ1,B00X,5.0,1391040000\nAZ2,B00X,3.0,1391040001\n")
    refusal(lambda: read(file), "header=False")
    refusal(lambda: read(file, ("AZ1", "B00X", "5.0")), "'5.0' is a number", "header=False")
    assert len(read(file, header=False).values) == 2


@pytest.mark.parametrize(
    "names",
    [
        ["user_id", "item_id", "timestamp"],
        ["user_id", "timestamp", "rating"],
        ["timestamp", "item_id", "rating"],
        ["user_id", "item_id", "created_at"],
        ["user_id", "item_id", "Unnamed: 0"],
        ["user_id", "item_id", "index"],
        ["row_id", "item_id", "rating"],
        ["user_id", "item_id", "fold"],
        ["user_id", "item_id", "is_train"],
        ["user_id", "item_id", "sample_weight"],
        ["user_id", "item_id", "Date"],
    ],
)
@pytest.mark.parametrize("kind", ["csv", "parquet", "memory"])
def test_times_folds_and_row_numbers_take_no_role(tmp_path, names, kind):
    columns = {name: [float(i), 1.0] for i, name in enumerate(names)}
    if kind == "csv":
        file = write(tmp_path, ",".join(names) + "\n1,2,3\n4,5,6\n")
        refusal(lambda: read(file), "ambiguous", "columns=(")
    elif kind == "parquet":
        pq.write_table(pa.table(columns), tmp_path / "t.parquet")
        refusal(lambda: read(tmp_path / "t.parquet"), "ambiguous", "columns=(")
    else:
        refusal(lambda: from_table(pd.DataFrame(columns)), "ambiguous", "columns=(")


@pytest.mark.parametrize(
    ("values", "what"), [(range(6), "row numbers"), ([1.6e9 + i for i in range(6)], "times")]
)
def test_a_column_left_over_is_not_a_value_by_its_content(tmp_path, values, what):
    rows = "".join(f"{i},{i + 1},{value:.0f}\n" for i, value in enumerate(values))
    file = write(tmp_path, "user_id,item_id,x\n" + rows)
    refusal(lambda: read(file), "'x'", f"look like {what}", "columns=('user_id', 'item_id', 'x')")
    assert len(read(file, ("user_id", "item_id", "x")).values) == 6


@pytest.mark.parametrize("kind", ["csv", "parquet", "npz", "frame"])
def test_without_values_every_row_counts_as_one(tmp_path, kind):
    columns = {"user_id": [1, 2], "item_id": [7, 9]}
    if kind == "csv":
        data = from_file(write(tmp_path, "user_id,item_id\n1,7\n2,9\n"))
    elif kind == "parquet":
        pq.write_table(pa.table(columns), tmp_path / "t.parquet")
        data = from_file(tmp_path / "t.parquet")
    elif kind == "npz":
        np.savez(tmp_path / "t.npz", **columns)
        data = from_file(tmp_path / "t.npz")
    else:
        data = from_table(pd.DataFrame(columns))
    assert np.asarray(data.environment.values).tolist() == [1.0, 1.0]
    assert "Without a value column, every row has the value 1." in data.notes


# --- quotes ---------------------------------------------------------------------------------------


def rows_with_quote(first, last):
    rows = [f"{i},{i + 100},1,title {i}" for i in range(100)]
    rows[4] = rows[4].replace("title 4", first)
    rows[30] = rows[30].replace("title 30", last)
    return "user,item,value,title\n" + "\n".join(rows) + "\n"


@pytest.mark.parametrize(
    ("first", "last"), [('"Lone', 'end"'), ('"Lone', '"other"'), ('"Lone', "plain")]
)
def test_a_stray_quote_never_swallows_rows(tmp_path, first, last):
    file = write(tmp_path, rows_with_quote(first, last))
    refusal(lambda: read(file), "line 6", "quote")
    refusal(lambda: read_interactions(file), "line 6", "quote")
    tabs = write(tmp_path, rows_with_quote(first, last).replace(",", "\t"), "t.tsv")
    refusal(lambda: read(tabs), "line 6", "quote")


def test_text_of_several_lines_is_counted(tmp_path):
    table = read(write(tmp_path, 'user,item,value,title\n1,2,3,"two\nlines"\n4,5,6,"one, line"\n'))
    assert len(table.values) == 2
    assert "Read 2 rows of 3 lines" in table.notes[0]


def test_a_side_table_with_a_stray_quote_is_rejected(tmp_path):
    file = write(tmp_path, 'item,title\n1,"Lone\n2,b\n3,c"\n4,d\n', "items.csv")
    table = {"user": [1, 1], "item": [1, 4], "value": [1.0, 2.0]}

    refusal(lambda: from_table(table, items=file, item_features=Features()), "line 2", "quote")


# --- kinds of files -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:a\nsize 1\n", "git lfs pull"),
        (b"PK\x03\x04" + bytes(60), "Excel"),
        (b"PAR1" + bytes(60), "rename it to .parquet"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"user,item,value\n1,2,3\n1,3,4,5\n", "line 3: 4 fields"),
        (b"user;item;value\n1;2;3,5\n", "decimal point"),
    ],
)
def test_a_file_of_another_kind_is_named_with_its_remedy(tmp_path, content, part):
    refusal(lambda: read(write(tmp_path, content)), part)


def test_a_folder_of_parquet_files_is_one_table(tmp_path):
    folder = tmp_path / "parts"
    (folder / "year=2024").mkdir(parents=True)
    for name, row in (("part-0", 0), ("year=2024/part-1", 1)):
        columns = {"user": [row], "item": [row + 5], "value": [1.0 + row]}
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    (folder / "_SUCCESS").touch()
    assert triples(read(folder)) == [(0, 5, 1.0), (1, 6, 2.0)]
    assert len(read_interactions(folder)) == 2
    pq.write_table(pa.table({"who": [1]}), folder / "part-2.parquet")
    refusal(lambda: read(folder), "part-2.parquet", "its columns are who")


def test_frames_with_a_named_index_keep_it():
    frame = pd.DataFrame({"user": [1, 1, 2], "item": [3, 3, 4], "plays": [1, 1, 2]})
    data = from_table(frame.groupby(["user", "item"]).sum())
    assert np.asarray(data.environment.values).tolist() == [2.0, 2.0]
    wide = frame.pivot_table(index="user", columns=["item", "plays"], aggfunc="size")
    refusal(lambda: from_table(wide), "parts")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_true_and_false_are_one_and_zero(tmp_path, kind):
    if kind == "csv":
        file = write(tmp_path, "user,item,click\n1,2,True\n1,3,false\n")
    else:
        file = tmp_path / "t.parquet"
        pq.write_table(pa.table({"user": [1, 1], "item": [2, 3], "click": [True, False]}), file)
    assert read(file).values.tolist() == [1.0, 0.0]


# --- ids ------------------------------------------------------------------------------------------


def in_every_form(folder, users, items):
    """Returns readers of one table as CSV, Parquet, NumPy and in memory."""
    frame = pd.DataFrame({"user": users, "item": items, "value": np.ones(len(users))})
    frame.to_csv(folder / "t.csv", index=False)
    frame.to_parquet(folder / "t.parquet", index=False)
    return {
        "csv": lambda **how: from_file(folder / "t.csv", **how),
        "parquet": lambda **how: from_file(folder / "t.parquet", **how),
        "frame": lambda **how: from_table(frame, **how),
        "arrays": lambda **how: from_triples(users, items, np.ones(len(users)), **how),
    }


@pytest.mark.parametrize(
    ("users", "id_type", "wanted"),
    [
        ([1.0, 2.0], "auto", [1, 2]),
        ([1.0, 2.0], "text", ["1", "2"]),
        ([1, 2], "text", ["1", "2"]),
        (["1", "2"], "integer", [1, 2]),
        (["1", "2"], "text", ["1", "2"]),
        ([True, False], "auto", ["False", "True"]),
        (["a", "2"], "text", ["2", "a"]),
    ],
)
def test_a_declared_type_is_the_same_in_every_table(tmp_path, users, id_type, wanted):
    for name, reader in in_every_form(tmp_path, users, [5, 6]).items():
        found = reader(id_type=(id_type, "auto"))
        assert found.context_ids.ids.tolist() == wanted, name
        assert found.item_ids.ids.tolist() == [5, 6], name


def test_ids_of_another_type_are_rejected_when_they_are_read(tmp_path):
    for reader in in_every_form(tmp_path, ["a", "2"], [5, 6]).values():
        refusal(
            lambda reader=reader: reader(id_type="integer"),
            "'a' is not a whole number",
            "id_type='text'",
        )
    frame = pd.DataFrame({"user": [0.5, 1.0], "item": [1, 2], "value": [1.0, 1.0]})
    refusal(lambda: from_table(frame), "0.5 is not a whole number")
    with pytest.raises(ValueError, match="id_type='float'"):
        from_table(frame, id_type="float")


def test_numbers_in_one_csv_and_text_in_another_are_brought_to_one_type(tmp_path):
    ratings = write(tmp_path, "user,item,value\n1,10,5\n2,20,3\n")
    items = write(tmp_path, "item,price\n10,1\n20,2\nB7,3\n", "items.csv")

    declared = {"items": items, "item_features": Features(numeric=["price"])}
    refusal(lambda: from_table(ratings, **declared), "id_type='text'")
    data = from_table(ratings, **declared, id_type=["auto", "text"])
    assert data.item_ids.ids.tolist() == ["10", "20", "B7"]
    assert data.context_ids.ids.tolist() == [1, 2]


@pytest.mark.parametrize("kind", ["csv", "parquet", "frame", "arrays", "mapping"])
def test_a_null_character_at_the_end_of_an_id_is_rejected(tmp_path, kind):
    users = ["a\0", "a"]
    frame = pd.DataFrame({"user": users, "item": [1, 2], "value": [1.0, 2.0]})
    if kind == "csv":
        file = write(tmp_path, "user,item,value\na\0,1,1\na,2,2\n")
        refusal(lambda: read(file), "null character")
    elif kind == "parquet":
        frame.to_parquet(tmp_path / "t.parquet")
        refusal(lambda: read(tmp_path / "t.parquet"), "null character")
    elif kind == "frame":
        refusal(lambda: from_table(frame), "null character")
    elif kind == "arrays":
        refusal(lambda: from_triples(users, [1, 2], [1.0, 2.0]), "null character")
    else:
        refusal(
            lambda: from_table({"user": users, "item": [1, 2], "value": [1.0, 2.0]}),
            "null character",
        )


def test_two_forms_of_one_text_are_one_id():
    composed, apart = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    refusal(lambda: IdMap([composed, apart], "user"), "two ways", r"e\u0301", "NFC")
    refusal(lambda: from_triples([composed, apart], [1, 2], [1.0, 1.0]), "two ways")
    ids = IdMap([apart, "b"], "user")
    assert ids.rows([composed]).tolist() == [0]
    assert ids.ids.tolist()[0] == apart  # as it was given
    data = from_table(
        {"user": [composed, "b"], "item": [1, 2], "value": [1.0, 1.0]},
        contexts={"user": ["b", apart]},
    )
    assert len(data.context_ids) == 2
    with pytest.raises(UnknownIdError):
        ids.rows(["cafe"])


# --- labels ---------------------------------------------------------------------------------------


def test_labels_of_a_matrix_are_its_ids():
    frame = pd.DataFrame([[1.0, 2.0], [3.0, 4.0]], index=[7, 5], columns=["b", "a"])
    data = from_matrix(frame)
    assert data.context_ids.ids.tolist() == [7, 5]
    assert data.item_ids.ids.tolist() == ["b", "a"]
    turned = from_matrix(frame, context_ids=[5, 7], item_ids=["a", "b"])
    assert np.asarray(turned.environment.means).tolist() == [[4.0, 3.0], [2.0, 1.0]]
    refusal(lambda: from_matrix(frame, context_ids=[5, 8]), "matrix", "labelled 8")
    plain = from_matrix(pd.DataFrame([[1.0, 2.0], [3.0, 4.0]]), context_ids=["x", "y"])
    assert plain.context_ids.ids.tolist() == ["x", "y"]


@pytest.mark.parametrize("by", ["index", "column"])
def test_labels_of_features_are_followed(by):
    frame = pd.DataFrame({"item_id": ["c", "a", "b"], "x": [3.0, 1.0, 2.0]})
    frame = frame.set_index("item_id") if by == "index" else frame
    data = from_matrix(np.eye(3), item_ids=["a", "b", "c"], item_features=frame)
    assert np.asarray(data.environment.item_features).tolist() == [[1.0], [2.0], [3.0]]
    refusal(
        lambda: from_matrix(np.eye(3), item_ids=["a", "b", "d"], item_features=frame),
        "labelled 'd'",
    )


def test_labels_of_a_mask_are_followed():
    mask = pd.DataFrame([[True, False], [True, True]], index=["v", "u"], columns=[2, 1])
    data = from_triples(["u", "v"], [1, 2], [1.0, 1.0], eligible=mask)
    assert np.asarray(data.environment.where).tolist() == [[True, True], [False, True]]


def test_columns_with_other_row_labels_are_not_paired():
    one, other = pd.Series([1, 2], index=[0, 1]), pd.Series([3, 4], index=[1, 0])
    refusal(lambda: from_triples(one, other, [1.0, 1.0]), "different row labels")


# --- duplicates -----------------------------------------------------------------------------------


def test_duplicates_add_up():
    users, items = [1] * 40 + [1, 2], ["song"] * 40 + ["other", "song"]
    data = from_triples(users, items, [1.0] * 42, duplicates="sum")
    assert np.asarray(data.environment.values).tolist() == [1.0, 40.0, 1.0]
    assert any("39 of 42 rows repeat a pair" in note for note in data.notes)
    refusal(lambda: from_triples(users, items, [1.0] * 42), "duplicates='sum'")
    big = [3e38] * 2
    with pytest.raises(TableError, match="too large for float32"):
        from_triples([1, 1], ["a", "a"], big, duplicates="sum")
