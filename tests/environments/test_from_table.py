"""Datasets from tables of ratings, contexts and items, joined by their ids."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.data_files import ARTICLE_FEATURES, ARTICLES, in_memory, refusal, rewards

from rankpg.data.features import Features
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


def saved(table, name, folder):
    """Saves the table in every format; returns the paths by suffix."""
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
def test_every_kind_of_table_gives_one_dataset(kind, tmp_path):
    tables = [
        (in_memory(table) | saved(table, name, tmp_path))[kind]
        for name, table in (("ratings", RATINGS), ("users", USERS), ("items", ARTICLES))
    ]

    def made(ratings, contexts, items):
        return from_table(
            ratings, contexts=contexts, items=items,
            context_features=Features(numeric=["age"]), item_features=ARTICLE_FEATURES,
        )  # fmt: skip

    data = made(*tables)
    same(data, made(RATINGS, USERS, ARTICLES))
    assert data.item_ids.ids.tolist() == ARTICLES["item"]
    assert rewards(data, "bob", [10, 20, 30, 40]) == [1.0, 0.0, 0.5, 0.0]
    assert data.environment.item_features.shape == (4, 10)
    assert data.left_out is None


@pytest.mark.parametrize("kind", KINDS)
def test_ratings_alone_equal_those_of_a_file(kind, tmp_path):
    data = from_table((in_memory(RATINGS) | saved(RATINGS, "r", tmp_path))[kind])
    same(data, from_table(tmp_path / "r.npz"))
    assert data.context_ids.ids.tolist() == ["ann", "bob", "eve"]


def test_categorical_columns_equal_text():
    frame = pl.DataFrame(RATINGS).with_columns(pl.col("user").cast(pl.Categorical))
    same(from_table(frame), from_table(RATINGS))
    frame = pd.DataFrame(RATINGS).astype({"user": "category"})
    same(from_table(frame), from_table(RATINGS))


def test_large_ids_stay_distinct():
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
        ([True, False, True], ["occurs twice"]),
        (["a", 1, 2], ["item ids mix several types, int, str"]),
        ([1.5, 2.5, 2**63 + 1], ["item ids mix several types, float, int"]),
        (["a", "b", "c\0"], ["null character"]),
        ([-1, 2**63, 3], ["no 64-bit type", "make them text"]),
        ([("a",), ("b",), "c"], ["several types"]),
        ("abc", ["must be a list"]),
    ],
)
def test_invalid_ids_are_rejected(ids, parts):
    refusal(lambda: from_matrix(np.eye(3), item_ids=ids), *parts)


DAYS = ["2020-01-01", "2020-01-02", "2020-01-03"]


def test_dates_of_any_unit_are_ids():
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
        for given in (
            np.array(DAYS, "M8[ns]"),
            np.array(DAYS, "M8[D]"),
            python,
            list(times),
            times,
        ):
            assert data.item_ids.rows(given).tolist() == [0, 1, 2]
        assert data.item_ids.rows(python[1].date()) == data.item_ids.rows(times[1]) == 1
    refusal(
        lambda: from_matrix(np.eye(1), item_ids=np.array(["2020-01-01T00:00:00.000000001"], "M8[ns]")),
        "finer than a microsecond",
    )  # fmt: skip


def test_csv_error_of_a_side_table_names_the_line(tmp_path):
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


# Tables that do not fit.


def test_swapped_columns_are_detected():
    for call in (
        lambda: from_table(
            RATINGS, columns=("item", "user", "value"), contexts=USERS, items=ARTICLES,
            context_features=Features(), item_features=Features(),
        ),
        lambda: from_table(RATINGS, columns=("item", "user", "value"), items={"item": ARTICLES["item"]}),
        lambda: from_table(
            RATINGS, contexts=ARTICLES, items=USERS, unknown="drop",
            context_features=Features(id="item"), item_features=Features(id="user"),
        ),
    ):  # fmt: skip
        refusal(call, "contexts and items look swapped", "columns=")


def test_ids_on_both_sides_are_not_swapped():
    numbers = {"user": [0, 1, 2], "item": [2, 1, 5], "value": [1.0, 1.0, 1.0]}
    data = from_table(numbers, contexts={"user": [0, 1, 2]}, items={"item": [0, 1, 2, 5]})
    assert rewards(data, 2, [5]) == [1.0]


def test_transposed_matrix_is_detected():
    matrix = np.arange(12.0).reshape(4, 3)
    sides = {"contexts": {"user": USERS["user"]}, "items": {"item": ARTICLES["item"]}}
    refusal(lambda: from_table(matrix, **sides), "[4, 3]", "contexts 3, items 4", "pass it as .T")
    refusal(lambda: from_table(matrix[:2], **sides), "[2, 3]", "make the shapes equal")
    data = from_table(matrix.T, **sides)
    assert rewards(data, "bob", [10, 40]) == [1.0, 10.0]
    refusal(
        lambda: from_matrix(matrix, context_ids=USERS["user"], item_ids=ARTICLES["item"]),
        "3 user ids and 4 item ids", "(4, 3)", "matrix.T",
    )  # fmt: skip


def test_matrix_rows_follow_their_ids(tmp_path):
    np.savez(tmp_path / "m.npz", rewards=np.eye(3), users=["eve", "ann", "bob"], items=[20, 10, 30])
    data = from_table(
        tmp_path / "m.npz", items=ARTICLES, item_features=Features(numeric=["price"], scale="none")
    )
    alone = Features(numeric=["price"], scale="none").fit(ARTICLES).transform(ARTICLES)
    np.testing.assert_array_equal(data.environment.item_features, alone[[1, 0, 2]])
    assert rewards(data, "ann", [10, 20]) == [1.0, 0.0]


def test_ids_of_text_and_numbers_are_rejected():
    refusal(
        lambda: from_table(RATINGS, items={"item": ["10", "20", "30"]}),
        "the item ids are int64 in the first and text in the second", "convert both to one type",
    )  # fmt: skip


def test_unknown_ratings_are_rejected_or_counted():
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
        (
            {"items": ARTICLES},
            ["the feature columns are not declared", "numeric=['price', 'stock']", "brand"],
        ),
        ({"items": {"item": [1, 2], "p": [1.0]}}, ["columns of one length", "'p' of 1"]),
        ({"items": {"item": []}}, ["no rows"]),
        ({"item_features": ARTICLE_FEATURES}, ["item_features is declared", "items=None"]),
    ],
)
def test_invalid_tables_are_rejected(tables, parts):
    refusal(lambda: from_table(RATINGS, **tables), *parts)


def test_other_objects_are_not_tables():
    refusal(lambda: from_table([1, 2]), "ratings is a list", "pandas", error=TypeError)
    refusal(lambda: from_table(RATINGS, items=3), "items is a int", "path", error=TypeError)
    if hasattr(pd.Series, "__arrow_c_stream__"):  # an older pandas' is not a table to begin with
        refusal(lambda: from_table(pd.Series([1, 2])), "ratings: this Series is not a table")
    twice = pd.DataFrame([[1, 2, 3.0, 4]], columns=["user", "item", "value", "value"])
    refusal(lambda: from_table(twice), "ratings: this DataFrame is not a table", "uplicate")
    for option in ("unknown", "unrated"):
        refusal(lambda o=option: from_table(RATINGS, **{o: "x"}), option, "'x'", error=ValueError)
