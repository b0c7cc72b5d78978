"""Features from tables: numbers, categories and embeddings, the same for every kind of table."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.data_files import ARTICLE_FEATURES, ARTICLES, VECTORS, in_memory, refusal

from rankpg.data.features import Features, Featurizer

ENABLE_X64 = False

pytestmark = pytest.mark.usefixtures("as_a_user")


@pytest.mark.parametrize("kind", ["mapping", "pandas", "polars", "array", "pyarrow", "parquet"])
def test_embeddings_from_lists_or_a_matrix(kind, tmp_path):
    table = {"item": ARTICLES["item"], "vector": VECTORS}
    if kind == "array":
        found = pl.DataFrame(table).with_columns(pl.col("vector").cast(pl.Array(pl.Float64, 2)))
    elif kind == "parquet":
        pq.write_table(pa.table(table), tmp_path / "t.parquet")
        found = tmp_path / "t.parquet"
    else:
        found = in_memory(table)[kind]
    featurizer = Features(embedding=["vector"], scale="none").fit(found)
    np.testing.assert_array_equal(featurizer.transform(found), np.float32(VECTORS))


def test_numbers_are_standardised_by_the_fitted_table():
    featurizer = Features(numeric=["price"], scale="none").fit(ARTICLES)
    prices = np.array(ARTICLES["price"])
    expected = (prices - prices.mean()) / prices.std()
    np.testing.assert_allclose(featurizer.transform(ARTICLES)[:, 0], expected, rtol=1e-6)
    later = featurizer.transform({"price": [100.0]})[0, 0]
    np.testing.assert_allclose(later, (100 - prices.mean()) / prices.std(), rtol=1e-6)


def test_unit_scale_gives_mean_square_length_one():
    rows = ARTICLE_FEATURES.fit(ARTICLES).transform(ARTICLES)
    assert np.mean(np.sum(rows**2, axis=1)) == pytest.approx(1, rel=1e-5)


def test_constant_column_is_zero():
    featurizer = Features(numeric=["x"]).fit({"x": [0.1] * 7})
    np.testing.assert_array_equal(featurizer.transform({"x": [0.1, 5.0]}), 0)


def test_missing_values_follow_the_declared_rule():
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


@pytest.mark.slow
def test_hashing_is_signed_and_stable_across_processes():
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
    """Asserts that the column c has equal features in every table and its CSV file; returns them."""
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
def test_equal_times_are_one_category(text, tmp_path):
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


def test_equal_numbers_are_one_category(tmp_path):
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


def test_equal_categories_of_two_columns_differ():
    declared = Features(categorical=["a", "b"], buckets=2**16, scale="none")
    rows = declared.fit({"a": ["x"], "b": ["x"]}).transform({"a": ["x"], "b": ["x"]})
    assert (rows != 0).sum() == 2


def test_featurizer_round_trips_through_json():
    table = ARTICLES | {"vector": VECTORS, "odd": [1 / 3, 1e-300, 1e30, np.pi]}
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
def test_damaged_featurizer_is_rejected(change):
    held = json.loads(ARTICLE_FEATURES.fit(ARTICLES).to_json()) | change
    refusal(
        lambda: Featurizer.from_json(json.dumps(held), "f.json"), "f.json: not a saved featurizer"
    )


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
def test_invalid_features_name_row_and_column(table, declared, parts, kind):
    found = table if kind == "mapping" else pl.DataFrame(table, strict=False)
    if kind == "polars" and table.get("p", [0])[0] == "a":
        parts = ["'a' is not a number"]
    refusal(lambda: Features(**declared).fit(found, "items"), *parts)
