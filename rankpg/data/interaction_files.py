"""Interactions as they stand in their source: ids and their row numbers, values, times, weights, sessions.

file | table in memory  --raw_interactions-->  Raw, with one entry for each row of the source
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rankpg._utils.paths import expanded
from rankpg.data.arrow import decoded, is_table, to_arrow
from rankpg.data.arrow_ratings import arrow_ids, encoded_triples
from rankpg.data.faults import in_one_line
from rankpg.data.files import Table, check_file, load_arrays, parquet_names, read_parquet
from rankpg.data.id_types import AUTO, IdTypes
from rankpg.data.ids import IdMap, TableError, exact_array, id_array, is_empty, objects
from rankpg.data.interaction_columns import ColumnNames, Roles, find_columns
from rankpg.data.interaction_text import TEXT_SUFFIXES, TextFile, open_text_file
from rankpg.data.optional import arrow
from rankpg.data.ratings_table import Encoded, Triples, encode
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
    sessions: np.ndarray | None
    """int32[R], numbers of the ids of sessions"""
    user_ids: IdMap
    item_ids: IdMap
    has_values: bool
    notes: tuple[str, ...]


def raw_interactions(
    source: Table, columns: ColumnNames | None, header: bool, id_types: IdTypes = AUTO
) -> Raw:
    """Reads the interactions in a file or in a table in memory, and checks every column that is used.

    Args:
      source: the path of a text, Parquet or .npz file, or a table in memory.
      columns: names of columns by role; found by their names if None.
      header: False for a text file whose first line is an interaction.
      id_types: declared types of user and item ids; see `data.id_types`.

    Raises:
      FileNotFoundError: the file does not exist.
      TableError: the file cannot be read, its columns are ambiguous, or a cell is wrong.
      TypeError: the source is of another kind.

    >>> raw_interactions({"user": ["a", "b"], "item": [3, 5]}, None, True).item_ids.ids
    array([3, 5])
    """
    if isinstance(source, str | os.PathLike):
        return _of_path(expanded(source), columns, header, id_types)
    if isinstance(source, Mapping):
        arrays = {str(name): _array(values) for name, values in source.items()}
        return _of_arrays(arrays, "interactions", columns, id_types)
    if is_table(source):
        table = to_arrow(source, "interactions")
        roles = find_columns("interactions", table.column_names, columns)
        return _of_arrow(table, "interactions", roles, table.column_names, id_types)
    raise TypeError(
        f"source is a {type(source).__name__}; expected the path of a file ({', '.join(_SUFFIXES)}), a "
        "mapping of names to NumPy arrays, or a table of pandas, polars or pyarrow"
    )


def _of_path(path: Path, columns: ColumnNames | None, header: bool, id_types: IdTypes) -> Raw:
    path = check_file(path, _SUFFIXES)
    suffix = path.suffix.lower()
    try:
        if suffix == ".npz":
            return _of_arrays(load_arrays(path)[0], str(path), columns, id_types)
        if suffix == ".parquet" or path.is_dir():
            names = parquet_names(path)[0]
            roles = find_columns(str(path), names, columns)
            table = read_parquet(path, [name for name in names if name in roles.values()])
            return _of_arrow(to_arrow(table, str(path)), str(path), roles, names, id_types)
        return _of_text(open_text_file(path, columns, header), id_types)
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


def _of_text(file: TextFile, id_types: IdTypes) -> Raw:
    """Returns the interactions in a text file, whose ids become whole numbers where all of them are."""
    users, items, values, times, weights, sessions, lines = file.parse()
    names = (file.shown("user"), file.shown("item"), file.shown("value"))
    rows = Triples.build(
        users, items, values, str(file.path), names, file.place, id_types=id_types, is_text=True
    )
    found = None
    if times is not None:
        found = arrow_times(times, lambda row: _where(rows, row, file.shown("timestamp")))
    return _raw(rows, found, weights, sessions, file.roles, file.names, file.notes, lines)


def _of_arrow(table: Any, source: str, roles: Roles, names: list[str], id_types: IdTypes) -> Raw:
    """Returns the interactions in a pyarrow.Table; `names` are all columns of the source."""
    pyarrow = arrow("pyarrow")
    chosen = table.select([roles["user"], roles["item"]])
    if roles["value"] is None:
        chosen = chosen.append_column(_NO_VALUE, pyarrow.array(np.ones(len(table))))
    else:
        chosen = chosen.append_column(roles["value"], table[roles["value"]])
    rows = encoded_triples(chosen, source, id_types)
    times, name = None, roles["timestamp"]
    if name is not None:
        times = arrow_times(table[name], lambda row: _where(rows, row, name))
    weights, weight = None, roles["weight"]
    if weight is not None:
        column = decoded(table[weight]).to_numpy(zero_copy_only=False)
        weights = _numbers(column, source, weight)
    session = roles["session"]
    sessions = None if session is None else arrow_ids(table[session], source, session)
    return _raw(rows, times, weights, sessions, roles, names)


def _of_arrays(
    arrays: dict[str, np.ndarray],
    source: str,
    columns: ColumnNames | None,
    id_types: IdTypes,
) -> Raw:
    """Returns the interactions in NumPy arrays by name; arrays that are not lists have no role."""
    lists = [name for name, array in arrays.items() if array.ndim == 1]
    roles = find_columns(source, lists, columns)
    used = [name for name in roles.values() if name is not None]
    if len({len(arrays[name]) for name in used}) > 1:
        found = ", ".join(f"{name!r} of {len(arrays[name])}" for name in used)
        raise TableError(f"{source}: expected columns of one length, got {found}")
    user, item, value, timestamp, weight, session = roles.values()
    assert user is not None
    assert item is not None
    rows = Triples.build(
        _encoded(arrays[user], source, user),
        _encoded(arrays[item], source, item),
        np.ones(len(arrays[user])) if value is None else _numbers(arrays[value], source, value),
        source,
        (user, item, value or _NO_VALUE),
        id_types=id_types,
    )
    times = None
    if timestamp is not None:
        times = array_times(arrays[timestamp], lambda row: _where(rows, row, timestamp))
    weights = None if weight is None else _numbers(arrays[weight], source, weight)
    sessions = None if session is None else _encoded(arrays[session], source, session)
    return _raw(rows, times, weights, sessions, roles, list(arrays))


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
    sessions: Encoded | None,
    roles: Roles,
    names: list[str],
    notes: tuple[str, ...] = (),
    lines: int | None = None,
) -> Raw:
    taken = [f"{role} from {name!r}" for role, name in roles.items() if name is not None]
    of_lines = "" if lines is None else f" of {lines} lines"
    said = [*notes, f"Read {len(rows.values)} rows{of_lines} of {rows.source}: {', '.join(taken)}."]
    if roles["value"] is None:
        said.append("Without a value column, every row has the value 1.")
    if roles["timestamp"] is None:
        said.append("Without a timestamp column, rows of a user keep their order in the source.")
    said += rows.id_notes
    if unused := [repr(name) for name in names if name not in roles.values()]:
        said.append(f"Columns that are not used: {', '.join(unused)}.")
    if weights is not None:
        weights = _checked_weights(rows, weights, roles["weight"] or "weight")
    has_values = roles["value"] is not None
    codes = None if sessions is None else _checked_sessions(rows, sessions, roles["session"] or "")
    return Raw(rows, times, weights, codes, rows.user_ids, rows.item_ids, has_values, tuple(said))


def _checked_sessions(rows: Triples, sessions: Encoded, name: str) -> np.ndarray:
    """Returns the number of every row's session, none of which is missing."""
    labels, codes = sessions
    empty = is_empty(labels)[codes]
    if empty.any():
        row = int(np.argmax(empty))
        raise TableError(
            f"{_where(rows, row, name)}: the session is missing: give every row the id of its session, or "
            "columns={'session': None}, so that none is read"
        )
    return codes.astype(np.int32)


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
