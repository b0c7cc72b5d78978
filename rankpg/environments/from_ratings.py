"""Ratings in memory as an environment: users are contexts, and the rating of an item is its mean reward.

Rewards are stored as `Ratings` or as a `RewardMatrix` (see tabular.py), inside a `Dataset`, which keeps the
ids of the rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import jax.numpy as jnp
import numpy as np

from rankpg._utils.labels import labelled
from rankpg.data.arrays import feature_rows
from rankpg.data.features import standardised
from rankpg.data.id_types import AUTO, IdTypes, check_id_types, typed_ids
from rankpg.data.ids import IdMap, TableError, exact_array, id_array
from rankpg.data.labels import aligned, check_series, labelled_features
from rankpg.data.ratings_table import Compressed, Matrix, Triples, compress, encode
from rankpg.environments.dataset import Dataset
from rankpg.environments.reward_checks import cautions_of
from rankpg.environments.tabular import Ratings, RewardMatrix
from rankpg.types import Array, Bool, Float

__all__ = [
    "RELATIVE_NOISE",
    "Clip",
    "Duplicates",
    "Missing",
    "clip_of",
    "dataset_of_matrix",
    "dataset_of_triples",
    "from_matrix",
    "from_triples",
    "with_features",
    "with_ids",
]

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    Clip: TypeAlias = tuple[float, float] | None
    Missing: TypeAlias = Literal["zero", "error"]
    Duplicates: TypeAlias = Literal["mean", "sum", "last", "error"]
else:  # checked here, with messages of our own
    ArrayLike = Clip = Missing = Duplicates = Any

RELATIVE_NOISE = 0.3
CLIPS = {"watch_ratio": (0.0, 10.0)}
"""Bounds of clip='auto' by column: a KuaiRec video that runs in a loop has a ratio of hundreds."""


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
    id_type: str | Sequence[str] = "auto",
) -> Dataset:
    """Builds a dataset from R ratings in memory: a user id, an item id and a value each.

    Args:
      users, items: R ids of one type.
      values: R numbers.
      context_ids, item_ids: all ids, in the order of the rows; by default those that occur, sorted.
      context_features, item_features: one row of numbers per id, for feature towers; in the order of
        `context_ids` and `item_ids`, which are then required, or a data frame with a column or an index of
        ids. Columns beyond 100 are standardised, with a warning.
      id_type: as for `from_file`.
      missing, duplicates, clip, relative_noise, eligible: as for `from_file`.

    Raises:
      TableError: the lengths differ, there are no rows, an id is empty, a value is not a finite number, or a
        pair occurs twice or is missing where that is an error.
      UnknownIdError: `context_ids` or `item_ids` lacks an id.

    >>> data = from_triples(["ann", "bob"], [7, 9], [0.5, 1.25], item_ids=[9, 8, 7])
    >>> data.environment.mean_rewards(jnp.int32(0), jnp.arange(3))
    Array([0. , 0. , 0.5], dtype=float32)
    """
    id_types = check_id_types(id_type)
    check_series({"users": users, "items": items, "values": values})
    columns = [*(_id_column(x, kind) for x, kind in ((users, "users"), (items, "items")))]
    columns.append(np.asarray(values))
    if any(column.ndim != 1 or column.shape != columns[0].shape for column in columns):
        shapes = ", ".join(str(column.shape) for column in columns)
        raise TableError(
            f"triples: users, items and values must be lists of one length, got shapes {shapes}"
        )
    table = Triples.build(
        encode(columns[0], "triples", "users"),
        encode(columns[1], "triples", "items"),
        columns[2],
        id_types=id_types,
    )
    for side, ids, given in (
        ("context", context_ids, context_features),
        ("item", item_ids, item_features),
    ):
        if given is not None and ids is None:
            raise TableError(
                f"{side}_features: the ids of its rows are missing; give them in this order as {side}_ids"
            )
    table = with_ids(table, context_ids, item_ids, id_types)
    data = dataset_of_triples(table, missing, duplicates, clip, relative_noise, eligible)
    return with_features(data, context_features, item_features)


def _id_column(ids: ArrayLike, name: str) -> np.ndarray:
    """Returns ids as an array, in which no text lost a character."""
    if isinstance(ids, list | tuple) and any(isinstance(x, str) for x in ids):
        return exact_array(id_array(ids, f"triples, {name}:"))
    return exact_array(ids)


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
    """Builds a dataset from a matrix of mean rewards, matrix[num_contexts, N].

    Args:
      matrix: finite numbers. The labels of a pandas table, such as one of `pivot_table`, are its ids.
      noise_std: standard deviation of a reward, one number or one for each cell.
      relative_noise: standard deviation in units of the mean; the two add up.
      clip, eligible: as for `from_file`.
      context_ids, item_ids: ids of the rows and columns; their numbers by default.
      context_features, item_features: one row of numbers for each row and column, for feature towers. Columns
        beyond 100 are standardised, with a warning.

    A data frame in place of an array is put in the order of the ids by its labels.

    Raises:
      TableError: the matrix does not hold finite numbers, noise has another shape or is below 0, or a context
        has no eligible item.

    >>> data = from_matrix([[1.0, 0.0, 2.0], [0.0, 3.0, 0.5]])
    >>> data.environment.mean_rewards(jnp.int32(1), jnp.array([2, 1]))
    Array([0.5, 3. ], dtype=float32)
    """
    found = labelled(matrix)
    context_ids = found.rows if context_ids is None else context_ids
    item_ids = found.columns if item_ids is None else item_ids
    try:
        values = np.asarray(found.values)
    except ValueError:
        raise TableError("matrix: its rows have different lengths; expected one length") from None
    if values.dtype == jnp.bfloat16:
        values = values.astype(np.float32)
    table = Matrix.build(values, context_ids, item_ids)
    if found.rows is not None or found.columns is not None:  # also where other ids are given
        in_order = aligned(matrix, "matrix", table.user_ids, table.item_ids)
        table = dataclasses.replace(table, values=np.asarray(in_order).astype(values.dtype))
    noise_std = aligned(noise_std, "noise_std", table.user_ids, table.item_ids)
    data = dataset_of_matrix(table, relative_noise, noise_std, clip, eligible)
    return with_features(data, context_features, item_features)


def clip_of(table: Triples | Matrix, clip: Clip | Literal["auto"]) -> Clip:
    """Returns the bounds that clip='auto' has for this table, or the given bounds."""
    name = table.column if isinstance(table, Matrix) else table.columns[2]
    return CLIPS.get(name) if isinstance(clip, str) and clip == "auto" else clip


def _clipped(values: np.ndarray, clip: Clip) -> np.ndarray:
    if clip is None:
        return values
    if isinstance(clip, str) or len(clip) != 2 or not clip[0] < clip[1]:
        raise ValueError(f"clip={clip!r}; expected (lowest, highest) or None")
    return np.clip(values, clip[0], clip[1])


def _noise(value: ArrayLike, name: str, shape: tuple[int, ...] = ()) -> Float[Array, "..."]:
    noise = np.asarray(value, np.float32)
    if noise.shape not in ((), shape) or not np.all(np.isfinite(noise) & (noise >= 0)):
        expected = f"one number or a matrix of shape {shape}" if shape else "one number"
        given = f"={value}" if noise.ndim == 0 else f" has shape {noise.shape}"
        raise TableError(f"{name}{given}; expected {expected}, finite and at least 0")
    return jnp.asarray(noise)


def _mask(
    eligible: ArrayLike | None, contexts: IdMap, items: IdMap
) -> Bool[Array, "num_contexts N"] | None:
    if eligible is None:
        return None
    mask = np.asarray(aligned(eligible, "eligible", contexts, items))
    shape = (len(contexts), len(items))
    if mask.dtype != bool or mask.shape != shape:
        raise TableError(
            f"eligible has the type {mask.dtype} and the shape {mask.shape}; expected bool of shape "
            f"{shape} (contexts, items)"
        )
    nothing = ~mask.any(axis=1)
    if nothing.any():
        row = int(np.argmax(nothing))
        raise TableError(
            f"eligible: context {contexts.one(row)!r} (row {row}) has no eligible item; expected at least "
            "one per context"
        )
    return jnp.asarray(mask)


def with_features(
    data: Dataset, contexts: ArrayLike | None, items: ArrayLike | None, *, as_given: bool = False
) -> Dataset:
    """Returns the dataset with features of its contexts and items, one row per id.

    Columns on a raw scale are standardised unless `as_given`; the dataset then keeps how.
    """
    sides = (("context", contexts, data.context_ids), ("item", items, data.item_ids))
    given, fitted = {}, {}
    for side, table, ids in sides:
        if table is None:
            continue
        name = f"{side}_features"
        rows = feature_rows(labelled_features(table, name, ids), name, len(ids))
        if not as_given:
            rows, featurizer = standardised(rows, name)
            fitted |= {} if featurizer is None else {f"{side}_featurizer": featurizer}
        given[name] = jnp.asarray(rows)
    environment: Any = data.environment
    environment = dataclasses.replace(environment, **given)
    return dataclasses.replace(data, environment=environment, **fitted)


def dataset_of_matrix(
    table: Matrix,
    relative: float | int,
    noise_std: ArrayLike,
    clip: Clip,
    eligible: ArrayLike | None,
) -> Dataset:
    """Builds a dataset with the rewards of a checked matrix."""
    means = _clipped(table.values, clip).astype(np.float32)
    environment = RewardMatrix(
        means=jnp.asarray(means),
        relative_noise=_noise(relative, "relative_noise"),
        noise_std=_noise(noise_std, "noise_std", means.shape),
        where=_mask(eligible, table.user_ids, table.item_ids),
    )
    without = int(np.sum(means.max(axis=1) <= 0))
    cautions = cautions_of(table.source, means, 0.0, without, len(means))
    return Dataset(
        environment, table.user_ids, table.item_ids, 0.0, notes=table.notes, cautions=cautions
    )


def with_ids(
    table: Triples,
    context_ids: ArrayLike | None,
    item_ids: ArrayLike | None,
    id_types: IdTypes = AUTO,
) -> Triples:
    """Returns the triples with rows in the order of the given ids."""
    changes: dict[str, Any] = {}
    for kind, given, id_type in (
        ("user", context_ids, id_types[0]),
        ("item", item_ids, id_types[1]),
    ):
        if given is not None:
            ids = IdMap(typed_ids(id_array(given, kind), id_type, f"{kind} ids"), kind)
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
    """Builds a dataset with the rewards of checked triples."""
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
    return Dataset(
        environment,
        table.user_ids,
        table.item_ids,
        rows.missing_share,
        notes=(*table.notes, *rows.notes),
        cautions=_cautions_of(table, rows),
    )


def _cautions_of(table: Triples, rows: Compressed) -> tuple[str, ...]:
    positive = np.concatenate([[0], np.cumsum(rows.values > 0)])
    without = int(np.sum(np.diff(positive[rows.starts]) == 0))
    count = len(table.user_ids)
    return cautions_of(table.source, rows.values, rows.missing_share, without, count)
