"""Datasets from tables of ratings, contexts and items, joined by their ids."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rankpg.data.arrow import is_table, to_arrow
from rankpg.data.arrow_ratings import arrow_triples
from rankpg.data.files import Table
from rankpg.data.id_types import IdTypes, check_id_types
from rankpg.data.ids import IdMap, TableError, exact_array, labels_of
from rankpg.data.ratings_table import Matrix, Triples
from rankpg.data.read import check_columns, from_arrays, read
from rankpg.data.side_tables import Described, check_orientation, check_shape, describe
from rankpg.environments.catalogue import catalogue
from rankpg.environments.dataset import Dataset, LeftOut
from rankpg.environments.from_ratings import (
    RELATIVE_NOISE,
    Clip,
    Duplicates,
    Missing,
    clip_of,
    dataset_of_matrix,
    dataset_of_triples,
    with_features,
    with_ids,
)

__all__ = ["from_table"]

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from rankpg.data.features import Features, Featurizer

    Unknown = Literal["error", "drop"]
    Unrated = Literal["drop", "keep"]
    Declared = Features | Featurizer | None
else:
    ArrayLike = Unknown = Unrated = Declared = Any


def from_table(
    ratings: Table | None,
    *,
    columns: Sequence[str] | None = None,
    header: bool = True,
    id_type: str | Sequence[str] = "auto",
    contexts: Table | None = None,
    items: Table | None = None,
    context_features: Declared = None,
    item_features: Declared = None,
    unknown: Unknown = "error",
    unrated: Unrated = "drop",
    missing: Missing = "zero",
    duplicates: Duplicates = "error",
    clip: Clip | Literal["auto"] = "auto",
    relative_noise: float | int = RELATIVE_NOISE,
    eligible: ArrayLike | None = None,
) -> Dataset:
    """Builds a dataset from ratings in any table, with features from tables of contexts and items.

    A table is one of pandas, polars, pyarrow or another library that supports the Arrow stream interface, a
    mapping of names to NumPy arrays, or the path of a csv, tsv, parquet or npz file. Ids are text, whole
    numbers or dates.

    Args:
      ratings: a table with a user, an item and a value column, one row per rating; or a matrix
        [num_contexts, N]; None for a dataset without rewards, which serves online learning.
      columns, header: as for `from_file`.
      id_type: type of the ids in all three tables, as for `from_file`.
      contexts, items: tables of all contexts and items, one row per id, in their order; by default those
        with a rating, sorted.
      context_features, item_features: columns of these tables that are features; a fitted featurizer is used
        as it is.
      unknown: `error` rejects a rating whose context or item is not in its table; `drop` leaves it out.
      unrated: `drop` leaves out contexts without a rating; `keep` keeps them.
      missing, duplicates, clip, relative_noise, eligible: as for `from_file`.

    Returns:
      A dataset; its `left_out` counts the rows and ids that were dropped.

    Raises:
      FileNotFoundError, TableError: a table, or a row or column of it, is invalid; columns, tables or axes
        are swapped.
      TypeError: a table is of another kind.

    >>> from rankpg.environments import Features
    >>> data = from_table(
    ...     {"user": ["ann", "bob"], "item": [7, 9], "value": [0.5, 1.25]},
    ...     items={"item": [9, 8, 7], "price": [1.0, 2.0, 3.0]}, item_features=Features(numeric=["price"]),
    ... )
    >>> data.item_ids.ids.tolist(), data.environment.item_features.shape
    ([9, 8, 7], (3, 1))
    """
    for name, value, known in (
        ("unknown", unknown, ("error", "drop")),
        ("unrated", unrated, ("drop", "keep")),
    ):
        if value not in known:
            raise ValueError(f"{name}={value!r}; expected {' or '.join(known)}")
    id_types = check_id_types(id_type)
    table = None if ratings is None else _ratings(ratings, columns, header, id_types)
    hints = table.columns[:2] if isinstance(table, Triples) else (None, None)
    sides = [
        None if given is None else describe(given, declared, side, hint, kind)
        for given, declared, side, hint, kind in (
            (contexts, context_features, "context", hints[0], id_types[0]),
            (items, item_features, "item", hints[1], id_types[1]),
        )
    ]
    for side, declared, found in zip(
        ("context", "item"), (context_features, item_features), sides, strict=True
    ):
        if declared is not None and found is None:
            raise TableError(
                f"{side}_features is declared, but {side}s=None; give the table of {side}s with these columns"
            )
    if table is None:
        return _without_ratings(sides, eligible)
    if isinstance(table, Matrix):
        table, sides = _aligned(table, sides)
        data = dataset_of_matrix(table, relative_noise, 0.0, clip_of(table, clip), eligible)
        return _with_sides(data, sides, None)
    table, sides, left_out = _joined(table, sides, unknown, unrated)
    bounds = clip_of(table, clip)
    data = dataset_of_triples(table, missing, duplicates, bounds, relative_noise, eligible)
    return _with_sides(data, sides, left_out)


def _ratings(
    table: Table, columns: Sequence[str] | None, header: bool, id_types: IdTypes
) -> Triples | Matrix:
    """Returns the ratings of any table as triples or as a matrix."""
    if isinstance(table, str | os.PathLike):
        return read(table, columns, header=header, id_types=id_types)
    check_columns(columns)
    if not header:
        raise ValueError("header=False has no effect on a table in memory; it is for text files")
    if isinstance(table, np.ndarray):
        return Matrix.build(table)
    if isinstance(table, Mapping):
        arrays = {str(name): exact_array(values) for name, values in table.items()}
        return from_arrays("ratings", arrays, columns, id_types=id_types)
    if is_table(table):
        return arrow_triples(to_arrow(table, "ratings"), columns, "ratings", id_types)
    raise TypeError(
        f"ratings is a {type(table).__name__}; expected a table of pandas, polars or pyarrow, a mapping of "
        "names to NumPy arrays, a matrix, or the path of a file"
    )


def _without_ratings(sides: Sequence[Described | None], eligible: ArrayLike | None) -> Dataset:
    """Builds a dataset of contexts and items without ratings."""
    contexts, items = sides
    if contexts is None or items is None:
        raise TableError(
            "ratings=None, but the table of contexts or of items is missing; expected both"
        )
    world = catalogue(
        len(contexts.ids),
        len(items.ids),
        context_features=contexts.features,
        item_features=items.features,
        eligible=eligible,
    )
    data = Dataset(world, IdMap(contexts.ids, "user"), IdMap(items.ids, "item"), 1.0)
    return dataclasses.replace(
        data, context_featurizer=contexts.featurizer, item_featurizer=items.featurizer
    )


def _with_sides(
    data: Dataset, sides: Sequence[Described | None], left_out: LeftOut | None
) -> Dataset:
    """Returns the dataset with features in the order of its rows, and with their featurizers."""
    contexts, items = sides
    features = [side and side.features for side in sides]
    data = with_features(data, *features, as_given=True)
    return dataclasses.replace(
        data,
        context_featurizer=contexts and contexts.featurizer,
        item_featurizer=items and items.featurizer,
        left_out=left_out,
        notes=(*data.notes, *(side.note for side in sides if side is not None)),
    )


def _joined(
    table: Triples, sides: list[Described | None], unknown: str, unrated: str
) -> tuple[Triples, list[Described | None], LeftOut | None]:
    """Returns triples whose rows follow the tables, without unknown ids and unrated contexts."""
    check_orientation(table, sides)
    rows, known = len(table.values), np.ones(len(table.values), bool)
    unknown_ids = [0, 0]
    for place, (side, ids, codes) in enumerate(
        zip(sides, (table.user_ids, table.item_ids), (table.users, table.items), strict=True)
    ):
        if side is None:
            continue
        found = _are_in(ids.ids, side.ids)
        known &= found[codes]
        unknown_ids[place] = int(np.sum(~found))
        if unknown == "error" and not found.all():
            row = int(np.argmax(~found[codes]))
            raise TableError(
                f"{table.source}, {table.place(row)}, column {table.columns[place]!r}: the id "
                f"{ids.one(int(codes[row]))!r} is not in {side.source}; {unknown_ids[place]} ids, of "
                f"{int(np.sum(~found[codes]))} of the {rows} ratings, are missing there: add them, or give "
                "unknown='drop'"
            )
    if not known.any():
        raise TableError(
            f"{table.source}: no rating has both its context and its item in the tables: check that the "
            "tables belong to these ratings"
        )
    table = _kept(table, known)
    contexts, items = sides
    quiet = 0
    if contexts is not None and unrated == "drop":
        rated = _are_in(contexts.ids, table.user_ids.ids)
        quiet = int(np.sum(~rated))
        contexts = contexts.take(np.flatnonzero(rated))
    dropped = int(np.sum(~known))
    left_out = LeftOut(rows, dropped, unknown_ids[0], unknown_ids[1], quiet)
    table = with_ids(table, contexts and contexts.ids, items and items.ids)
    return table, [contexts, items], left_out if str(left_out) else None


def _are_in(ids: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns bool[n], True for ids that are among the others; the number 1 does not equal the text "1"."""
    held = set(labels_of(others).tolist())
    return np.array([label in held for label in labels_of(ids).tolist()], bool)


def _kept(table: Triples, known: np.ndarray) -> Triples:
    """Returns some of the rows; messages still name their original places."""
    if known.all():
        return table
    rows = np.flatnonzero(known)
    changes: dict[str, Any] = {"values": table.values[rows]}
    for kind in ("user", "item"):
        codes = getattr(table, f"{kind}s")[rows]
        used, codes = np.unique(codes, return_inverse=True)
        changes[f"{kind}s"] = codes.astype(np.int32)
        changes[f"{kind}_ids"] = IdMap(getattr(table, f"{kind}_ids").ids[used], kind)
    place = table.place
    return dataclasses.replace(
        table, **changes, place=lambda *numbers: place(*(int(rows[n]) for n in numbers))
    )


def _aligned(table: Matrix, sides: list[Described | None]) -> tuple[Matrix, list[Described | None]]:
    """Returns a matrix, and the tables in its order: by id where it has ids, else row by row."""
    check_shape(table, sides)
    check_orientation(table, sides)
    changes, found = {}, list(sides)
    for place, (kind, side) in enumerate(zip(("user", "item"), sides, strict=True)):
        if side is None:
            continue
        ids: IdMap = getattr(table, f"{kind}_ids")
        named = set(labels_of(ids.ids).tolist()) & set(labels_of(side.ids).tolist())
        if not named and np.array_equal(ids.ids, np.arange(len(ids))):
            changes[f"{kind}_ids"] = IdMap(side.ids, kind)
            continue
        if len(named) < len(ids):
            missing_id = next(label for label in labels_of(ids.ids).tolist() if label not in named)
            raise TableError(
                f"{table.source}: the {kind} id {missing_id!r} of the matrix is not in {side.source} "
                f"({len(ids) - len(named)} are not): add them there"
            )
        found[place] = side.take(IdMap(side.ids, kind).rows(ids.ids))
    return dataclasses.replace(table, **changes), found
