"""Ratings in a file as an environment."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

from rankpg.data.id_types import check_id_types
from rankpg.data.ids import ArrayLike
from rankpg.data.ratings_table import Matrix
from rankpg.data.read import read
from rankpg.environments.dataset import Dataset
from rankpg.environments.from_ratings import (
    RELATIVE_NOISE,
    Clip,
    Duplicates,
    Missing,
    clip_of,
    dataset_of_matrix,
    dataset_of_triples,
)

__all__ = ["from_file"]


def from_file(
    path: str | os.PathLike[str],
    *,
    columns: Sequence[str] | None = None,
    header: bool = True,
    id_type: str | Sequence[str] = "auto",
    missing: Missing = "zero",
    duplicates: Duplicates = "error",
    clip: Clip | Literal["auto"] = "auto",
    relative_noise: float | int = RELATIVE_NOISE,
    eligible: ArrayLike | None = None,
) -> Dataset:
    r"""Reads ratings from a text, Parquet, .npz or .npy file, such as `small_matrix.csv` of KuaiRec.

    Args:
      path: triples (user, item, value), or a dense matrix; see `data.read.read`.
      columns: names of the user, item and value columns, or of the first two, so that every row has the value
        1; found by their names if None.
      header: False for a text file without a header line, whose columns are named by their places, from 0.
      id_type: `text` or `integer` ids in every kind of file, or ("text", "integer") for users and items;
        `auto` takes whole numbers where all ids of a text file are, and else what the file holds.
      missing: `zero` gives a pair without rating the reward 0; `error` rejects it.
      duplicates: `error` rejects a pair with several ratings; `mean` averages them; `sum` adds them up, as
        for plays or clicks; `last` keeps the last.
      clip: (lowest, highest) value, applied to each row; `auto` is (0, 10) for a column named
        watch_ratio and None, no clipping, for any other.
      relative_noise: standard deviation of a reward, in units of its mean.
      eligible: bool[num_contexts, N], in the order of `context_ids` and `item_ids`; all items if None.

    Returns:
      A dataset whose contexts are the users.

    Raises:
      FileNotFoundError: the file does not exist.
      TableError: the file, or a row or cell of it, is invalid.
      ValueError: an option has an unknown value.
      ImportError: CSV and Parquet need pyarrow.

    >>> import pathlib, tempfile
    >>> import jax.numpy as jnp
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "ratings.csv"
    >>> _ = file.write_text("user_id,video_id,watch_ratio\nann,7,0.5\nann,9,25\nbob,9,1.25\n")
    >>> data = from_file(file)
    >>> data.environment.mean_rewards(jnp.int32(0), jnp.array(data.item_ids.rows([9, 7])))
    Array([10. ,  0.5], dtype=float32)
    >>> data.context_ids[0].item(), data.missing_share
    ('ann', 0.25)
    """
    table = read(path, columns, header=header, id_types=check_id_types(id_type))
    bounds = clip_of(table, clip)
    if isinstance(table, Matrix):
        return dataset_of_matrix(table, relative_noise, 0.0, bounds, eligible)
    return dataset_of_triples(table, missing, duplicates, bounds, relative_noise, eligible)
