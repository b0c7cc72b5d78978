"""Interactions as they stand in their source: columns, ids and their row numbers, values, times, weights.

file | table in memory  --raw_interactions-->  Raw, with one entry for each row of the source
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rankpg._utils.files import expanded
from rankpg.data.arrow import arrow, decoded, encoded_triples, is_table, to_arrow
from rankpg.data.files import Table, check_file, load_arrays, open_parquet
from rankpg.data.ids import IdMap, TableError, exact_array, id_array, objects
from rankpg.data.interaction_columns import ColumnNames, Roles, find_columns
from rankpg.data.interaction_text import TEXT_SUFFIXES, TextFile, open_text_file
from rankpg.data.ratings_table import Encoded, Triples, encode, in_one_line
from rankpg.data.times import array_times, arrow_times

__all__ = ["Raw", "raw_interactions"]

_SUFFIXES = (*TEXT_SUFFIXES, ".gz", ".parquet", ".npz")
_NO_VALUE = "(no value)"


@dataclasses.dataclass(frozen=True, eq=False)
class Raw:
    """Rows of a source in their order: `rows` with users, items and values, and the `times` of each row."""

    rows: Triples
    times: np.ndarray | None
    """float64[R]"""
    weights: np.ndarray | None
    """float64[R], at least 0"""
    user_ids: IdMap
    item_ids: IdMap
    has_values: bool
    notes: tuple[str, ...]


def raw_interactions(source: Table, columns: ColumnNames | None, header: bool) -> Raw:
    """Reads the interactions in a file or in a table in memory, and checks every column that is used.

    Args:
      source: the path of a text, Parquet or .npz file, or a table in memory.
      columns: names of columns by role; found by their names if None.
      header: False for a text file whose first line is an interaction.

    Raises:
      FileNotFoundError: the file does not exist.
      TableError: the file cannot be read, its columns are ambiguous, or a cell is wrong.
      TypeError: the source is of another kind.

    >>> raw_interactions({"user": ["a", "b"], "item": [3, 5]}, None, True).item_ids.ids
    array([3, 5])
    """
    if isinstance(source, str | os.PathLike):
        return _of_path(expanded(source), columns, header)
    if isinstance(source, Mapping):
        arrays = {str(name): _array(values) for name, values in source.items()}
        return _of_arrays(arrays, "interactions", columns)
    if is_table(source):
        table = to_arrow(source, "interactions")
        roles = find_columns("interactions", table.column_names, columns)
        return _of_arrow(table, "interactions", roles, table.column_names)
    raise TypeError(
        f"source is a {type(source).__name__}; expected the path of a file ({', '.join(_SUFFIXES)}), a "
        "mapping of names to NumPy arrays, or a table of pandas, polars or pyarrow"
    )


def _of_path(path: Path, columns: ColumnNames | None, header: bool) -> Raw:
    path = check_file(path, _SUFFIXES)
    suffix = path.suffix.lower()
    try:
        if suffix == ".npz":
            return _of_arrays(load_arrays(path)[0], str(path), columns)
        if suffix == ".parquet":
            with open_parquet(path) as file:
                names = file.schema_arrow.names
                roles = find_columns(str(path), names, columns)
                table = file.read(columns=[name for name in names if name in roles.values()])
                return _of_arrow(to_arrow(table, str(path)), str(path), roles, names)
        return _of_text(open_text_file(path, columns, header))
    except (OSError, EOFError) as cause:
        raise TableError(
            f"{path}: the file cannot be read and may be damaged: {in_one_line(cause)}"
        ) from cause


def _array(values: Any) -> np.ndarray:
    try:
        return exact_array(values)
    except ValueError:  # lists of different lengths
        return objects(list(values))


# --- from each kind of table --------------------------------------------------------------------


def _of_text(file: TextFile) -> Raw:
    """Returns the interactions in a text file, whose ids become whole numbers where all of them are."""
    users, items, values, times, weights = file.parse()
    names = (file.shown("user"), file.shown("item"), file.shown("value"))
    rows = Triples.build(users, items, values, str(file.path), names, file.place)
    found = None
    if times is not None:
        found = arrow_times(times, lambda row: _where(rows, row, file.shown("timestamp")))
    return _raw(rows, found, weights, file.roles, file.names, file.notes)


def _of_arrow(table: Any, source: str, roles: Roles, names: list[str]) -> Raw:
    """Returns the interactions in a pyarrow.Table; `names` are all columns of the source."""
    pyarrow = arrow("pyarrow")
    chosen = table.select([roles["user"], roles["item"]])
    if roles["value"] is None:
        chosen = chosen.append_column(_NO_VALUE, pyarrow.array(np.ones(len(table))))
    else:
        chosen = chosen.append_column(roles["value"], table[roles["value"]])
    rows = encoded_triples(chosen, source)
    times, name = None, roles["timestamp"]
    if name is not None:
        times = arrow_times(table[name], lambda row: _where(rows, row, name))
    weights, weight = None, roles["weight"]
    if weight is not None:
        column = decoded(table[weight]).to_numpy(zero_copy_only=False)
        weights = _numbers(column, source, weight)
    return _raw(rows, times, weights, roles, names)


def _of_arrays(arrays: dict[str, np.ndarray], source: str, columns: ColumnNames | None) -> Raw:
    """Returns the interactions in NumPy arrays by name; arrays that are not lists have no role."""
    lists = [name for name, array in arrays.items() if array.ndim == 1]
    roles = find_columns(source, lists, columns)
    used = [name for name in roles.values() if name is not None]
    if len({len(arrays[name]) for name in used}) > 1:
        found = ", ".join(f"{name!r} of {len(arrays[name])}" for name in used)
        raise TableError(f"{source}: expected columns of one length, got {found}")
    user, item, value, timestamp, weight = roles.values()
    assert user is not None
    assert item is not None
    rows = Triples.build(
        _encoded(arrays[user], source, user),
        _encoded(arrays[item], source, item),
        np.ones(len(arrays[user])) if value is None else _numbers(arrays[value], source, value),
        source,
        (user, item, value or _NO_VALUE),
    )
    times = None
    if timestamp is not None:
        times = array_times(arrays[timestamp], lambda row: _where(rows, row, timestamp))
    weights = None if weight is None else _numbers(arrays[weight], source, weight)
    return _raw(rows, times, weights, roles, list(arrays))


def _encoded(ids: np.ndarray, source: str, name: str) -> Encoded:
    return encode(id_array(ids, f"{source}, column {name!r}:"), source, name)


def _numbers(values: np.ndarray, source: str, name: str) -> np.ndarray:
    if values.dtype != object:
        return values  # Triples rejects text
    try:
        return np.array([np.nan if x is None else x for x in values.tolist()], np.float64)
    except (TypeError, ValueError) as cause:
        raise TableError(
            f"{source}: column {name!r} is not a column of numbers: {in_one_line(cause)}"
        ) from cause


def _where(rows: Triples, row: int, name: str) -> str:
    return f"{rows.source}, {rows.place(row)}, column {name!r}"


# --- in common ----------------------------------------------------------------------------------


def _raw(
    rows: Triples,
    times: np.ndarray | None,
    weights: np.ndarray | None,
    roles: Roles,
    names: list[str],
    notes: tuple[str, ...] = (),
) -> Raw:
    taken = [f"{role} from {name!r}" for role, name in roles.items() if name is not None]
    said = [*notes, f"Read {len(rows.values)} rows of {rows.source}: {', '.join(taken)}."]
    if roles["value"] is None:
        said.append("Without a value column, every row has the value 1.")
    if roles["timestamp"] is None:
        said.append("Without a timestamp column, rows of a user keep their order in the source.")
    if unused := [repr(name) for name in names if name not in roles.values()]:
        said.append(f"Columns that are not used: {', '.join(unused)}.")
    maps = []
    for role, ids in (("user", rows.user_ids), ("item", rows.item_ids)):
        maps.append(_whole_ids(ids, f"{rows.source}, column {roles[role]!r}"))
        if maps[-1] is not ids:
            said.append(f"The {role} ids are whole numbers stored as fractions: 7.0 is read as 7.")
    if weights is not None:
        weights = _checked_weights(rows, weights, roles["weight"] or "weight")
    return Raw(rows, times, weights, maps[0], maps[1], roles["value"] is not None, tuple(said))


def _checked_weights(rows: Triples, weights: np.ndarray, name: str) -> np.ndarray:
    """Returns weights as float64, none of which is negative or missing."""
    if weights.dtype.kind not in "fiub":
        raise TableError(
            f"{rows.source}: column {name!r} holds {weights.dtype}, not numbers; without a weight: "
            "columns={'weight': None}"
        )
    weights = weights.astype(np.float64)
    wrong = ~(np.isfinite(weights) & (weights >= 0))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise TableError(
            f"{_where(rows, row, name)}: the weight {weights[row]:g} is not a number of at least 0: "
            "correct it, remove the row, or give columns={'weight': None}"
        )
    return weights


def _whole_ids(ids: IdMap, where: str) -> IdMap:
    """Returns ids that are whole numbers stored as floats, as pandas makes them, as int64."""
    labels = ids.ids
    if labels.dtype.kind != "f":
        return ids
    wrong = (labels != np.floor(labels)) | (np.abs(labels) >= 2**53)
    if wrong.any():
        raise TableError(
            f"{where}: the id {labels[wrong][0]} is not a whole number: make the ids whole numbers or text"
        )
    return IdMap(labels.astype(np.int64), ids.kind)
