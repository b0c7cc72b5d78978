"""Ratings and tables of items as files and in memory, and the checks of tests that read them."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rankpg.data.features import Features
from rankpg.data.ids import TableError


def rewards(data, context, items):
    """Mean rewards of items for a context of a dataset, by ids."""
    row = jnp.asarray(data.context_ids.rows(context))
    return data.environment.mean_rewards(row, jnp.asarray(data.item_ids.rows(items))).tolist()


def refusal(call, *parts, error: type[Exception] = TableError):
    """Asserts that the call raises this error, with a message of one line that holds every part."""
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message, message


def write(folder, text, name="ratings.csv"):
    """Writes a file and returns its path."""
    file = folder / name
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


USERS, ITEMS, VALUES = ["bob", "ann", "bob"], ["x/1", "é", "é"], [0.5, 2.0, -1.0]
"""Three ratings, as the `save_` functions write them."""


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
    users = pa.array([*USERS, "unused"]).dictionary_encode()[:3]
    pq.write_table(pa.table({"user": users, "item": ITEMS, "value": VALUES}), file)


def save_npz(file):
    np.savez(file, user=USERS, item=ITEMS, value=VALUES)


ARTICLES = {
    "item": [10, 20, 30, 40],
    "price": [1.5, 2.0, 9.25, 4.0],
    "stock": [3, 0, 7, 7],
    "brand": ["x", "y", "x", "é"],
}
VECTORS = [[1.0, 0.5], [0.0, 0.25], [2.0, -1.0], [0.5, 0.5]]
ARTICLE_FEATURES = Features(numeric=["price", "stock"], categorical=["brand"], buckets=8)
"""A table of four items, an embedding of each, and a declaration of the features in the table."""


def in_memory(table):
    """Returns the table in the form of every library."""
    arrays = {name: np.array(values) for name, values in table.items()}
    return {
        "mapping": arrays,
        "pandas": pd.DataFrame(table, index=np.arange(len(next(iter(table.values())))) + 5),
        "polars": pl.DataFrame(table),
        "pyarrow": pa.table(table),
        "batch": pa.RecordBatch.from_pydict(table),
    }
