"""Ratings as an environment: users are contexts, and what a user gave to an item is its mean reward.

Rewards are stored as `Ratings` or as a `RewardMatrix` (see stored.py), inside a `Dataset`, which keeps what
JAX cannot hold: the ids of the rows.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import jax.numpy as jnp
import numpy as np

from rankpg.data.features import feature_rows
from rankpg.data.ids import IdMap, TableError, id_array
from rankpg.data.ratings_table import Matrix, Triples, compress, encode
from rankpg.data.read import read
from rankpg.environments.dataset import Dataset
from rankpg.environments.tabular import Ratings, RewardMatrix
from rankpg.types import Array, Bool, Float

__all__ = [
    "clip_of",
    "dataset_of_matrix",
    "dataset_of_triples",
    "from_file",
    "from_matrix",
    "from_triples",
    "with_features",
    "with_ids",
]

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    Clip: TypeAlias = tuple[float, float] | None
    Missing: TypeAlias = Literal["zero", "error"]
    Duplicates: TypeAlias = Literal["mean", "last", "error"]
else:  # what a user passes is checked here, in words, and not by a type checker at run time
    ArrayLike = Clip = Missing = Duplicates = Any

RELATIVE_NOISE = 0.3
CLIPS = {"watch_ratio": (0.0, 10.0)}
"""What `clip="auto"` does, by column: a KuaiRec video left running in a loop has a ratio of hundreds."""


def from_file(
    path: str | os.PathLike[str],
    *,
    columns: Sequence[str] | None = None,
    missing: Missing = "zero",
    duplicates: Duplicates = "error",
    clip: Clip | Literal["auto"] = "auto",
    relative_noise: float | int = RELATIVE_NOISE,
    eligible: ArrayLike | None = None,
) -> Dataset:
    """The ratings of a CSV, TSV, Parquet, .npz or .npy file, for instance KuaiRec's `small_matrix.csv`.

    Args:
      path: triples (user, item, value), or a dense matrix; see `tables.read`.
      columns: the names of the user, item and value columns; guessed where only one reading is possible.
      missing: a pair without rating earns 0 (`zero`), or is refused (`error`).
      duplicates: a pair rated several times is refused (`error`), averaged, or keeps its `last` row.
      clip: (lowest, highest) value, applied to each row; `auto` is (0, 10) for a column named
        watch_ratio and None, no clipping, for any other.
      relative_noise: standard deviation of a reward, in units of its mean.
      eligible: bool[num_contexts, N], in the order of `context_ids` and `item_ids`; None: all items.

    Raises:
      FileNotFoundError: there is no such file.
      TableError: the file, or a row or cell of it, cannot be used.
      ValueError: an option has a value that does not exist.
      ImportError: CSV and Parquet need pyarrow.

    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "ratings.csv"
    >>> _ = file.write_text("user_id,video_id,watch_ratio\\nann,7,0.5\\nann,9,25\\nbob,9,1.25\\n")
    >>> data = from_file(file)
    >>> data.environment.mean_rewards(jnp.int32(0), jnp.array(data.item_ids.rows([9, 7])))
    Array([10. ,  0.5], dtype=float32)
    >>> data.context_ids[0].item(), data.missing_share
    ('ann', 0.25)
    """
    table = read(path, columns)
    bounds = clip_of(table, clip)
    if isinstance(table, Matrix):
        return dataset_of_matrix(table, relative_noise, 0.0, bounds, eligible)
    return dataset_of_triples(table, missing, duplicates, bounds, relative_noise, eligible)


def from_triples(
    users: ArrayLike,
    items: ArrayLike,
    values: ArrayLike,
    *,
    missing: Missing = "zero",
    duplicates: Duplicates = "error",
    clip: Clip = None,
    relative_noise: float | int = RELATIVE_NOISE,
    eligible: ArrayLike | None = None,
    context_ids: ArrayLike | None = None,
    item_ids: ArrayLike | None = None,
    context_features: ArrayLike | None = None,
    item_features: ArrayLike | None = None,
) -> Dataset:
    """The ratings of R triples in memory: one id of a user, one of an item and one value each.

    Args:
      users, items: R ids of any one type.
      values: R numbers.
      context_ids, item_ids: all ids, in the order of the rows; by default those that occur, sorted.
      context_features, item_features: one row of numbers an id, for feature towers; in the order of
        `context_ids` and `item_ids`, which they need.
      missing, duplicates, clip, relative_noise, eligible: as for `from_file`.

    Raises:
      TableError: lengths that differ, no rows, an empty id, a value that is not a finite number, a pair
        that occurs twice (unless `duplicates` says otherwise) or is missing (if that is an error).
      UnknownIdError: an id that `context_ids` or `item_ids` lacks.

    >>> data = from_triples(["ann", "bob"], [7, 9], [0.5, 1.25], item_ids=[9, 8, 7])
    >>> data.environment.mean_rewards(jnp.int32(0), jnp.arange(3))
    Array([0. , 0. , 0.5], dtype=float32)
    """
    columns = [np.asarray(column) for column in (users, items, values)]
    if any(column.ndim != 1 or column.shape != columns[0].shape for column in columns):
        shapes = ", ".join(str(column.shape) for column in columns)
        raise TableError(
            f"triples: users, items and values must be lists of one length, got shapes {shapes}"
        )
    table = Triples.build(
        encode(columns[0], "triples", "users"), encode(columns[1], "triples", "items"), columns[2]
    )
    for side, ids, given in (
        ("context", context_ids, context_features),
        ("item", item_ids, item_features),
    ):
        if given is not None and ids is None:
            raise TableError(
                f"{side}_features: say which row is which with {side}_ids, in their order"
            )
    table = with_ids(table, context_ids, item_ids)
    data = dataset_of_triples(table, missing, duplicates, clip, relative_noise, eligible)
    return with_features(data, context_features, item_features)


def from_matrix(
    matrix: ArrayLike,
    *,
    noise_std: ArrayLike = 0.0,
    relative_noise: float | int = 0.0,
    clip: Clip = None,
    eligible: ArrayLike | None = None,
    context_ids: ArrayLike | None = None,
    item_ids: ArrayLike | None = None,
    context_features: ArrayLike | None = None,
    item_features: ArrayLike | None = None,
) -> Dataset:
    """A reward matrix of your own: matrix[num_contexts, N], mean rewards.

    Args:
      matrix: finite numbers.
      noise_std: standard deviation of a reward, one number or one for each cell.
      relative_noise: the same in units of the mean; the two add up.
      clip, eligible: as for `from_file`.
      context_ids, item_ids: what the rows and columns stand for; their numbers by default.
      context_features, item_features: one row of numbers for each row and column, for feature towers.

    Raises:
      TableError: not a matrix of finite numbers, noise of another shape or below 0, a context without
        any eligible item.

    >>> data = from_matrix([[1.0, 0.0, 2.0], [0.0, 3.0, 0.5]])
    >>> data.environment.mean_rewards(jnp.int32(1), jnp.array([2, 1]))
    Array([0.5, 3. ], dtype=float32)
    """
    try:
        values = np.asarray(matrix)
    except ValueError as cause:
        raise TableError(f"matrix: rows of different lengths: {cause}") from None
    if values.dtype == jnp.bfloat16:
        values = values.astype(np.float32)
    table = Matrix.build(values, context_ids, item_ids)
    data = dataset_of_matrix(table, relative_noise, noise_std, clip, eligible)
    return with_features(data, context_features, item_features)


def clip_of(table: Triples | Matrix, clip: Clip | Literal["auto"]) -> Clip:
    """What `auto` means for this table."""
    name = table.column if isinstance(table, Matrix) else table.columns[2]
    return CLIPS.get(name) if isinstance(clip, str) and clip == "auto" else clip


def _clipped(values: np.ndarray, clip: Clip) -> np.ndarray:
    if clip is None:
        return values
    if isinstance(clip, str) or len(clip) != 2 or not clip[0] < clip[1]:
        raise ValueError(f"clip: expected (lowest, highest) or None, got {clip!r}")
    return np.clip(values, clip[0], clip[1])


def _noise(value: ArrayLike, name: str, shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
    noise = np.asarray(value, np.float32)
    if noise.shape not in ((), shape) or not np.all(np.isfinite(noise) & (noise >= 0)):
        expected = f"one number or a matrix of shape {shape}" if shape else "one number"
        got = value if noise.ndim == 0 else f"shape {noise.shape}"
        raise TableError(f"{name}: expected {expected}, finite and at least 0, got {got}")
    return jnp.asarray(noise)


def _mask(
    eligible: ArrayLike | None, contexts: IdMap, items: IdMap
) -> Bool[Array, "num_contexts N"] | None:
    if eligible is None:
        return None
    mask = np.asarray(eligible)
    shape = (len(contexts), len(items))
    if mask.dtype != bool or mask.shape != shape:
        raise TableError(
            f"eligible: expected bool of shape {shape} (contexts, items), got {mask.dtype} of {mask.shape}"
        )
    nothing = ~mask.any(axis=1)
    if nothing.any():
        row = int(np.argmax(nothing))
        raise TableError(
            f"eligible: context {contexts.one(row)!r} (row {row}) has no eligible item"
        )
    return jnp.asarray(mask)


def with_features(data: Dataset, contexts: ArrayLike | None, items: ArrayLike | None) -> Dataset:
    sides = (("context", contexts, data.context_ids), ("item", items, data.item_ids))
    given = {
        f"{side}_features": jnp.asarray(feature_rows(rows, f"{side}_features", len(ids)))
        for side, rows, ids in sides
        if rows is not None
    }
    environment: Any = data.environment
    return dataclasses.replace(data, environment=dataclasses.replace(environment, **given))


def dataset_of_matrix(
    table: Matrix, relative: float | int, noise_std: ArrayLike, clip: Clip, eligible: Any
) -> Dataset:
    means = _clipped(table.values, clip).astype(np.float32)
    environment = RewardMatrix(
        means=jnp.asarray(means),
        relative_noise=_noise(relative, "relative_noise"),
        noise_std=_noise(noise_std, "noise_std", means.shape),
        where=_mask(eligible, table.user_ids, table.item_ids),
    )
    return Dataset(environment, table.user_ids, table.item_ids, 0.0)


def with_ids(table: Triples, context_ids: Any, item_ids: Any) -> Triples:
    """The same triples, with rows in the order of the ids that the user gave."""
    changes: dict[str, Any] = {}
    for kind, given in (("user", context_ids), ("item", item_ids)):
        if given is not None:
            ids = IdMap(id_array(given, kind), kind)
            row_of_label = ids.rows(getattr(table, f"{kind}_ids").ids)
            changes |= {f"{kind}s": row_of_label[getattr(table, f"{kind}s")], f"{kind}_ids": ids}
    return dataclasses.replace(table, **changes)


def dataset_of_triples(
    table: Triples,
    missing: Missing,
    duplicates: Duplicates,
    clip: Clip,
    relative_noise: float | int,
    eligible: ArrayLike | None,
) -> Dataset:
    table = dataclasses.replace(table, values=_clipped(table.values, clip))
    rows = compress(table, missing, duplicates)
    environment = Ratings(
        row_starts=jnp.asarray(rows.starts),
        items=jnp.asarray(rows.items),
        values=jnp.asarray(rows.values.astype(np.float32)),
        relative_noise=_noise(relative_noise, "relative_noise"),
        where=_mask(eligible, table.user_ids, table.item_ids),
        num_items=len(table.item_ids),
        search_steps=int(np.diff(rows.starts).max()).bit_length(),
    )
    return Dataset(environment, table.user_ids, table.item_ids, rows.missing_share)
