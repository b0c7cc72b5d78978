"""Data of a user's own: any table in, ids in and out, features, and what is wrong told at the door."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.data_files import refusal, rewards

from rankpg.data.features import Features, Featurizer
from rankpg.environments.from_ratings import from_matrix
from rankpg.environments.from_table import from_table

ENABLE_X64 = False

pytestmark = pytest.mark.usefixtures("as_a_user")

RATINGS = {
    "user": ["bob", "ann", "bob", "eve"],
    "item": [30, 10, 10, 20],
    "value": [0.5, 2.0, 1.0, 3.0],
}
USERS = {"user": ["ann", "bob", "eve"], "age": [20.0, 30.0, 55.0]}
ITEMS = {
    "item": [10, 20, 30, 40],
    "price": [1.5, 2.0, 9.25, 4.0],
    "stock": [3, 0, 7, 7],
    "brand": ["x", "y", "x", "é"],
}
VECTORS = [[1.0, 0.5], [0.0, 0.25], [2.0, -1.0], [0.5, 0.5]]
DECLARED = Features(numeric=["price", "stock"], categorical=["brand"], buckets=8)


def columns(table):
    """The same table in memory, as every library has it."""
    arrays = {name: np.array(values) for name, values in table.items()}
    return {
        "mapping": arrays,
        "pandas": pd.DataFrame(table, index=np.arange(len(next(iter(table.values())))) + 5),
        "polars": pl.DataFrame(table),
        "pyarrow": pa.table(table),
        "batch": pa.RecordBatch.from_pydict(table),
    }


def saved(table, name, folder):
    """The same table in a file."""
    frame = pd.DataFrame(table)
    for suffix in ("csv", "tsv"):
        frame.to_csv(folder / f"{name}.{suffix}", index=False, sep="\t" if suffix == "tsv" else ",")
    pq.write_table(pa.table(table), folder / f"{name}.parquet")
    np.savez(folder / f"{name}.npz", **{k: np.array(v) for k, v in table.items()})
    return {suffix: folder / f"{name}.{suffix}" for suffix in ("csv", "tsv", "parquet", "npz")}


KINDS = ["mapping", "pandas", "polars", "pyarrow", "batch", "csv", "tsv", "parquet", "npz"]


def same(one, other):
    assert one.fingerprint() == other.fingerprint()
    assert one.context_featurizer == other.context_featurizer
    assert one.item_featurizer == other.item_featurizer
    for side in ("context_ids", "item_ids"):
        assert getattr(one, side).ids.dtype.kind == getattr(other, side).ids.dtype.kind


@pytest.mark.parametrize("kind", KINDS)
def test_one_table_gives_one_dataset_whatever_it_comes_in(kind, tmp_path):
    tables = [
        (columns(table) | saved(table, name, tmp_path))[kind]
        for name, table in (("ratings", RATINGS), ("users", USERS), ("items", ITEMS))
    ]

    def made(ratings, contexts, items):
        return from_table(
            ratings, contexts=contexts, items=items,
            context_features=Features(numeric=["age"]), item_features=DECLARED,
        )  # fmt: skip

    data = made(*tables)
    same(data, made(RATINGS, USERS, ITEMS))
    assert data.item_ids.ids.tolist() == ITEMS["item"]
    assert rewards(data, "bob", [10, 20, 30, 40]) == [1.0, 0.0, 0.5, 0.0]
    assert data.environment.item_features.shape == (4, 10)
    assert data.left_out is None


@pytest.mark.parametrize("kind", KINDS)
def test_ratings_alone_are_those_of_the_file(kind, tmp_path):
    data = from_table((columns(RATINGS) | saved(RATINGS, "r", tmp_path))[kind])
    same(data, from_table(tmp_path / "r.npz"))
    assert data.context_ids.ids.tolist() == ["ann", "bob", "eve"]


def test_categories_of_polars_and_pandas_are_ids_and_values_as_text():
    frame = pl.DataFrame(RATINGS).with_columns(pl.col("user").cast(pl.Categorical))
    same(from_table(frame), from_table(RATINGS))
    frame = pd.DataFrame(RATINGS).astype({"user": "category"})
    same(from_table(frame), from_table(RATINGS))


def test_large_ids_are_told_apart_in_a_mapping():
    ids = [1, 2**63 + 5, 2**63 + 6]
    table = {"user": ids, "item": ids, "value": [1.0, 2.0, 3.0]}
    data = from_table(table, contexts={"user": ids[::-1]}, items={"item": ids[:2]}, unknown="drop")
    assert data.context_ids.ids.tolist() == ids[1::-1]
    assert data.item_ids.ids.tolist() == ids[:2]
    refusal(lambda: from_matrix(np.eye(2), item_ids=[1, 2**64]), "18446744073709551616", "text")


@pytest.mark.parametrize(
    ("ids", "parts"),
    [
        (["a", None, ""], ["row 1", "the id is empty"]),
        (["a", "b", ""], ["row 2", "the id is empty"]),
        ([1, np.nan, np.nan], ["row 1", "the id is empty"]),
        (np.array([1, np.nan, 2]), ["row 1", "the id is empty"]),
        ([True, False, True], ["item ids are bool"]),
        (["a", 1, 2], ["item ids mix several types, int, str"]),
        ([1.5, 2.5, 2**63 + 1], ["item ids mix several types, float, int"]),
        (["a", "b", "c\0"], ["null character"]),
        ([-1, 2**63, 3], ["no 64-bit type", "make them text"]),
        ([("a",), ("b",), "c"], ["several types"]),
        ("abc", ["must be a list"]),
    ],
)
def test_ids_in_memory_that_are_none(ids, parts):
    refusal(lambda: from_matrix(np.eye(3), item_ids=ids), *parts)


# Features.


@pytest.mark.parametrize("kind", ["mapping", "pandas", "polars", "array", "pyarrow", "parquet"])
def test_embeddings_are_lists_or_a_matrix(kind, tmp_path):
    table = {"item": ITEMS["item"], "vector": VECTORS}
    if kind == "array":
        found = pl.DataFrame(table).with_columns(pl.col("vector").cast(pl.Array(pl.Float64, 2)))
    elif kind == "parquet":
        pq.write_table(pa.table(table), tmp_path / "t.parquet")
        found = tmp_path / "t.parquet"
    else:
        found = columns(table)[kind]
    featurizer = Features(embedding=["vector"], scale="none").fit(found)
    np.testing.assert_array_equal(featurizer.transform(found), np.float32(VECTORS))


def test_numbers_are_standardised_by_what_was_fitted():
    featurizer = Features(numeric=["price"], scale="none").fit(ITEMS)
    prices = np.array(ITEMS["price"])
    expected = (prices - prices.mean()) / prices.std()
    np.testing.assert_allclose(featurizer.transform(ITEMS)[:, 0], expected, rtol=1e-6)
    later = featurizer.transform({"price": [100.0]})[0, 0]
    np.testing.assert_allclose(later, (100 - prices.mean()) / prices.std(), rtol=1e-6)


def test_unit_scale_gives_rows_of_length_one_on_average():
    rows = DECLARED.fit(ITEMS).transform(ITEMS)
    assert np.mean(np.sum(rows**2, axis=1)) == pytest.approx(1, rel=1e-5)


def test_a_constant_column_is_zero():
    featurizer = Features(numeric=["x"]).fit({"x": [0.1] * 7})
    np.testing.assert_array_equal(featurizer.transform({"x": [0.1, 5.0]}), 0)


def test_missing_values_by_the_declared_rule():
    table = {"p": [1.0, None, 3.0], "c": ["a", None, "b"], "v": [[1.0, 2.0], None, [3.0, 4.0]]}
    declared = {"numeric": ["p"], "categorical": ["c"], "embedding": ["v"], "buckets": 4}
    frame = pl.DataFrame(table)
    refusal(lambda: Features(**declared).fit(frame, "items"), "items, row 1", "'p'", "is missing")
    featurizer = Features(**declared, missing="indicate", scale="none").fit(frame)
    rows = featurizer.transform(frame)
    names = featurizer.names
    assert rows[:, names.index("p is missing")].tolist() == [0, 1, 0]
    assert rows[1, names.index("p")] == 0  # the mean
    assert rows[:, names.index("v is missing")].tolist() == [0, 1, 0]
    assert rows[1, names.index("v[0]") : names.index("v[0]") + 2].tolist() == [0, 0]
    assert np.abs(rows[1, 2:6]).sum() == 1  # a missing category is one
    for other in (table, pd.DataFrame(table), pa.table(table)):
        np.testing.assert_array_equal(featurizer.transform(other), rows)


def test_hashing_is_signed_stable_and_the_same_in_another_process():
    table = {"c": [f"c{i}" for i in range(2000)]}
    rows = Features(categorical=["c"], buckets=16, scale="none").fit(table).transform(table)
    assert (np.abs(rows).sum(axis=1) == 1).all()
    used = np.bincount(np.abs(rows).argmax(axis=1), minlength=16)
    assert used.min() > 80  # 125 expected, deviation 11
    assert abs(rows.sum()) < 4 * np.sqrt(2000)  # signs are fair
    code = (
        "import numpy as np; from rankpg.environments import Features;"
        "t = {'c': ['c0', 'c1', 'c2']};"
        "f = Features(categorical=['c'], buckets=16, scale='none').fit(t);"
        "print(f.transform(t).tolist())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == rows[:3].tolist()


def alike(tables, folder):
    """The features of the column c, the same of every table and of each as a CSV file."""
    declared = Features(categorical=["c"], missing="indicate", scale="none", buckets=1024)
    featurizer = declared.fit({"c": ["x"]})
    found = [featurizer.transform(table) for table in tables]
    for number, table in enumerate(tables):
        if isinstance(table, pd.DataFrame):
            table.to_csv(folder / f"{number}.csv", index=False)
            found.append(featurizer.transform(folder / f"{number}.csv"))
    for rows in found[1:]:
        np.testing.assert_array_equal(rows, found[0])
    return found[0]


DAYS = ["2020-01-01", "2020-01-02", "2020-01-03"]
TIMES = ["2020-01-01T12:30:00", "2020-01-02T00:00:00.25", "2020-01-03"]


@pytest.mark.parametrize("text", [DAYS, TIMES])
def test_a_time_is_one_category_whatever_it_comes_in(text, tmp_path):
    times = np.array(text, "M8[ns]")
    frame = pd.DataFrame({"c": pd.to_datetime(times)})
    python = [time.to_pydatetime() for time in frame["c"]]
    tables = [
        *({"c": times.astype(f"M8[{unit}]")} for unit in ("ms", "us", "ns")),
        {"c": text}, {"c": python}, frame, frame.astype("datetime64[us]"), frame.astype(str),
        frame.assign(c=frame["c"].dt.tz_localize("UTC")), pl.DataFrame({"c": python}),
    ]  # fmt: skip
    if text is DAYS:
        tables += [{"c": np.array(text, "M8[D]")}, pl.DataFrame({"c": python}).cast(pl.Date)]
    rows = alike(tables, tmp_path)
    assert len(np.unique(rows, axis=0)) == 3
    lacking = pd.concat([frame, pd.DataFrame({"c": [pd.NaT]})])
    others = [pl.from_pandas(lacking), {"c": np.array([*text, "NaT"], "M8[ns]")}]
    more = alike([lacking, *others], tmp_path)
    np.testing.assert_array_equal(more[:3], rows)
    fitted = Features(categorical=["c"]).fit(frame)
    for table in (lacking, *others):
        refusal(lambda t=table: fitted.transform(t), "row 3", "'c'", "is missing")


def test_a_whole_float_is_one_category_whatever_it_comes_in(tmp_path):
    values = [1.0, 2.0, -3.0, 2.5, 1e16]
    frame = pd.DataFrame({"c": values})
    tables = [{"c": values}, {"c": ["1", "2.0", "-3", "2.5", "1e+16"]}, frame, pl.DataFrame(frame)]
    alike(tables, tmp_path)
    alike([{"c": [1.0, 2.0]}, {"c": [1, 2]}, {"c": ["1.0", "2"]}], tmp_path)
    mixed = np.array([True, 1, 1.0, "True"], object)
    rows = alike([{"c": mixed}, {"c": ["true", "1", "1", "true"]}], tmp_path)
    assert len(np.unique(rows, axis=0)) == 2


def test_durations_are_categories(tmp_path):
    frame = pd.DataFrame({"c": pd.to_timedelta([1, 90_000], unit="s")})
    lacking = pd.concat([frame, pd.DataFrame({"c": [pd.NaT]})])
    found = Features(categorical=["c"], missing="indicate").fit({"c": ["x"]})
    one, other = found.transform(frame), found.transform(lacking)
    np.testing.assert_array_equal(other[:2], one)
    np.testing.assert_array_equal(found.transform(pl.from_pandas(lacking)), other)


def test_dates_are_ids_whatever_their_unit():
    times = pd.to_datetime(DAYS)
    ratings = pd.DataFrame({"user": ["a", "b", "c"], "item": times, "value": [1.0, 2.0, 3.0]})
    python = times.to_pydatetime().tolist()
    made = [
        from_table(ratings.astype({"item": f"datetime64[{unit}]"}), items={"item": items})
        for unit, items in (
            ("us", np.array(DAYS, "M8[s]")), ("s", times), ("ns", python),
        )
    ]  # fmt: skip
    made.append(from_table(ratings, items=pl.DataFrame({"item": python})))
    for data in made:
        same(data, made[0])
    days = [np.array(DAYS, "M8[D]"), [time.date() for time in python]]
    made += [from_table(ratings, items={"item": items}) for items in days]
    assert {data.item_ids[0].item() for data in made[-2:]} == {python[0].date()}
    for data in made:
        for asked in (
            np.array(DAYS, "M8[ns]"),
            np.array(DAYS, "M8[D]"),
            python,
            list(times),
            times,
        ):
            assert data.item_ids.rows(asked).tolist() == [0, 1, 2]
        assert data.item_ids.rows(python[1].date()) == data.item_ids.rows(times[1]) == 1
    refusal(
        lambda: from_matrix(np.eye(1), item_ids=np.array(["2020-01-01T00:00:00.000000001"], "M8[ns]")),
        "finer than a microsecond",
    )  # fmt: skip


def test_two_columns_with_one_category_are_told_apart():
    declared = Features(categorical=["a", "b"], buckets=2**16, scale="none")
    rows = declared.fit({"a": ["x"], "b": ["x"]}).transform({"a": ["x"], "b": ["x"]})
    assert (rows != 0).sum() == 2


def test_a_featurizer_goes_to_json_and_back_exactly():
    table = ITEMS | {"vector": VECTORS, "odd": [1 / 3, 1e-300, 1e30, np.pi]}
    declared = Features(
        numeric=["price", "odd"], categorical=["brand"], embedding=["vector"], missing="indicate"
    )
    featurizer = declared.fit(table)
    again = Featurizer.from_json(featurizer.to_json())
    assert again == featurizer
    np.testing.assert_array_equal(again.transform(table), featurizer.transform(table))


@pytest.mark.parametrize(
    "change",
    [
        {"means": [1.0]}, {"means": "ab"}, {"scale": 0}, {"scale": "1"}, {"features": 3},
        {"widths": [2]}, {"deviations": [float("inf"), 1.0]},
    ],
)  # fmt: skip
def test_a_damaged_featurizer_is_refused(change):
    held = json.loads(DECLARED.fit(ITEMS).to_json()) | change
    refusal(lambda: Featurizer.from_json(json.dumps(held), "f.json"), "f.json: not a saved featurizer")


@pytest.mark.parametrize(
    ("table", "declared", "parts"),
    [
        ({"p": [1.0, np.inf]}, {"numeric": ["p"]}, ["row 1", "'p'", "not a finite float32"]),
        ({"p": [1.0, 1e39]}, {"numeric": ["p"]}, ["row 1", "'p'", "not a finite float32"]),
        ({"p": ["a", "b"]}, {"numeric": ["p"]}, ["'p' is not a column of numbers"]),
        ({"p": [None, "b"]}, {"numeric": ["p"]}, ["row 1", "'b' is not a number"]),
        ({"p": [1.0, 2.0]}, {"numeric": ["q"]}, ["no column 'q'; found 'p'"]),
        ({"v": [[1.0], [np.nan]]}, {"embedding": ["v"]}, ["row 1", "number 0", "nan"]),
        ({"v": [[1.0], [1.0, 2.0]]}, {"embedding": ["v"]}, ["row 1", "2 numbers", "first has 1"]),
        ({"v": [1.0, 2.0]}, {"embedding": ["v"]}, ["'v' is not a column of vectors"]),
        ({"v": [[1.0], [2.0]]}, {"categorical": ["v"]}, ["'v'", "categor"]),
        ({"p": [None, None]}, {"numeric": ["p"], "missing": "indicate"}, ["has no number"]),
        ({"p": [1.0]}, {"numeric": ["p", "p"]}, ["'p' is declared twice"]),
        ({"p": [1.0]}, {"numeric": "p"}, ["numeric='p'; expected a list"]),
        ({"p": [1.0]}, {"numeric": ["p"], "missing": "mean"}, ["missing='mean'"]),
        ({"p": [1.0]}, {"numeric": ["p"], "buckets": 0}, ["buckets=0"]),
    ],
)
@pytest.mark.parametrize("kind", ["mapping", "polars"])
def test_features_that_are_none(table, declared, parts, kind):
    found = table if kind == "mapping" else pl.DataFrame(table, strict=False)
    if kind == "polars" and table.get("p", [0])[0] == "a":
        parts = ["'a' is not a number"]
    refusal(lambda: Features(**declared).fit(found, "items"), *parts)


def test_a_csv_names_the_line(tmp_path):
    file = tmp_path / "items.csv"
    file.write_text("item,price,brand\n1,2.5,a\n2,cheap,b\n")
    refusal(
        lambda: from_table(RATINGS, items=file, item_features=Features(numeric=["price"])),
        "items.csv, line 3, column 'price': 'cheap' is not a number",
    )
    file.write_text("item,price\n1,2.5\n2\n")
    refusal(lambda: from_table(RATINGS, items=file), "items.csv, line 3: 1 fields")
    file.write_text("item,price\n1,2.5\n2,\n1,3\n")
    refusal(lambda: from_table(RATINGS, items=file), "line 2", "line 4", "1 occurs twice")
    file.write_text("item,price\n10,\n20,nan\n30,4\n")
    declared = Features(numeric=["price"], missing="indicate", scale="none")
    data = from_table(RATINGS, items=file, item_features=declared)
    assert data.environment.item_features[:, 1].tolist() == [1, 1, 0]
    assert data.item_ids.ids.tolist() == [10, 20, 30]


# Mistakes at the door.


def test_columns_that_are_swapped():
    for call in (
        lambda: from_table(
            RATINGS, columns=("item", "user", "value"), contexts=USERS, items=ITEMS,
            context_features=Features(), item_features=Features(),
        ),
        lambda: from_table(RATINGS, columns=("item", "user", "value"), items={"item": ITEMS["item"]}),
        lambda: from_table(
            RATINGS, contexts=ITEMS, items=USERS, unknown="drop",
            context_features=Features(id="item"), item_features=Features(id="user"),
        ),
    ):  # fmt: skip
        refusal(call, "contexts and items look swapped", "columns=")


def test_ids_that_stand_on_both_sides_are_not_called_swapped():
    numbers = {"user": [0, 1, 2], "item": [2, 1, 5], "value": [1.0, 1.0, 1.0]}
    data = from_table(numbers, contexts={"user": [0, 1, 2]}, items={"item": [0, 1, 2, 5]})
    assert rewards(data, 2, [5]) == [1.0]


def test_a_matrix_that_is_transposed():
    matrix = np.arange(12.0).reshape(4, 3)
    sides = {"contexts": {"user": USERS["user"]}, "items": {"item": ITEMS["item"]}}
    refusal(lambda: from_table(matrix, **sides), "[4, 3]", "contexts 3, items 4", "pass it as .T")
    refusal(lambda: from_table(matrix[:2], **sides), "[2, 3]", "make the shapes equal")
    data = from_table(matrix.T, **sides)
    assert rewards(data, "bob", [10, 40]) == [1.0, 10.0]
    refusal(
        lambda: from_matrix(matrix, context_ids=USERS["user"], item_ids=ITEMS["item"]),
        "3 user ids and 4 item ids", "(4, 3)", "matrix.T",
    )  # fmt: skip


def test_a_matrix_with_ids_finds_its_rows_by_them(tmp_path):
    np.savez(tmp_path / "m.npz", rewards=np.eye(3), users=["eve", "ann", "bob"], items=[20, 10, 30])
    data = from_table(
        tmp_path / "m.npz", items=ITEMS, item_features=Features(numeric=["price"], scale="none")
    )
    alone = Features(numeric=["price"], scale="none").fit(ITEMS).transform(ITEMS)
    np.testing.assert_array_equal(data.environment.item_features, alone[[1, 0, 2]])
    assert rewards(data, "ann", [10, 20]) == [1.0, 0.0]


def test_ids_that_are_text_here_and_numbers_there():
    refusal(
        lambda: from_table(RATINGS, items={"item": ["10", "20", "30"]}),
        "the item ids are int64 in the first and text in the second", "convert both to one type",
    )  # fmt: skip


def test_ratings_of_what_the_tables_lack():
    few = {"item": [10, 30]}
    refusal(
        lambda: from_table(RATINGS, items=few),
        "row 3 (counted from 0), column 'item': the id 20 is not in items", "unknown='drop'",
    )  # fmt: skip
    data = from_table(
        RATINGS, items=few, contexts=USERS, context_features=Features(), unknown="drop"
    )
    left = data.left_out
    assert dataclasses.astuple(left) == (4, 1, 0, 1, 1)  # eve has no rating left
    assert left.unknown_share == 0.25
    assert "1 of 4 ratings (25.0%) left out" in str(left)
    assert data.context_ids.ids.tolist() == ["ann", "bob"]
    kept = from_table(
        RATINGS, items=few, contexts=USERS, context_features=Features(numeric=["age"]),
        unknown="drop", unrated="keep",
    )  # fmt: skip
    assert kept.context_ids.ids.tolist() == USERS["user"]
    assert kept.environment.context_features.shape == (3, 1)
    refusal(lambda: from_table(RATINGS, items={"item": [1]}, unknown="drop"), "no rating has both")


@pytest.mark.parametrize(
    ("tables", "parts"),
    [
        ({"items": {"item": [10, 20, 10, 30]}}, ["items, row 0", "row 2", "10 occurs twice"]),
        ({"items": {"item": ["a", ""]}}, ["items, row 1", "the id is empty"]),
        ({"items": {"sku": [10], "name": ["a"]}}, ["the column of item ids is ambiguous", "'sku'"]),
        ({"items": ITEMS}, ["the feature columns are not declared", "numeric=['price', 'stock']", "brand"]),
        ({"items": {"item": [1, 2], "p": [1.0]}}, ["columns of one length", "'p' of 1"]),
        ({"items": {"item": []}}, ["no rows"]),
        ({"item_features": DECLARED}, ["item_features is declared", "items=None"]),
    ],
)
def test_tables_that_are_wrong(tables, parts):
    refusal(lambda: from_table(RATINGS, **tables), *parts)


def test_what_is_no_table():
    refusal(lambda: from_table([1, 2]), "ratings is a list", "pandas", error=TypeError)
    refusal(lambda: from_table(RATINGS, items=3), "items is a int", "path", error=TypeError)
    if hasattr(pd.Series, "__arrow_c_stream__"):  # an older pandas' is no table to begin with
        refusal(lambda: from_table(pd.Series([1, 2])), "ratings: this Series is not a table")
    twice = pd.DataFrame([[1, 2, 3.0, 4]], columns=["user", "item", "value", "value"])
    refusal(lambda: from_table(twice), "ratings: this DataFrame is not a table", "uplicate")
    for option in ("unknown", "unrated"):
        refusal(lambda o=option: from_table(RATINGS, **{o: "x"}), option, "'x'", error=ValueError)
