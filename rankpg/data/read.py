"""Ratings from CSV, TSV, Parquet, .npz and .npy files, as triples (user, item, value) or a matrix.

file -> which columns -> ids and their row numbers -> Triples | Matrix
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rankpg.data.arrow_ratings import encoded_triples
from rankpg.data.columns import NAME_COLUMNS, column_role, guess_columns, positions
from rankpg.data.csv_reader import read_csv
from rankpg.data.faults import in_one_line
from rankpg.data.files import check_file, load_arrays, parquet_names, read_parquet
from rankpg.data.id_types import AUTO, IdTypes
from rankpg.data.ids import TableError
from rankpg.data.optional import arrow
from rankpg.data.ratings_table import Matrix, Triples, encode
from rankpg.data.text_lines import TEXT_SUFFIXES

__all__ = ["check_columns", "from_arrays", "read"]


def read(
    path: str | os.PathLike[str],
    columns: Sequence[str] | None = None,
    *,
    header: bool = True,
    id_types: IdTypes = AUTO,
) -> Triples | Matrix:
    r"""Reads the ratings in a file; the rows of users and items follow the sorted order of their ids.

    Ids in a text file become whole numbers if all of them are (`007` stays text). A matrix comes from .npy,
    from an .npz that holds it and, at most, the ids of its rows and columns, or from a CSV without header
    that cannot be triples.

    Args:
      path: the file, whose extension names the format, or a folder of Parquet files.
      columns: names of the user, item and value columns, or of the first two, so that every row has the value
        1; places from 0 without a header line; found by their names if None.
      header: False for a text file whose first line is a rating.
      id_types: declared types of user and item ids; see `data.id_types`.

    Raises:
      FileNotFoundError: the file does not exist.
      TableError: the file cannot be read, or its columns are ambiguous.
      ImportError: CSV and Parquet need pyarrow.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "ratings.csv"
    >>> _ = file.write_text("user_id,video_id,watch_ratio\nann,7,0.5\nbob,9,1.25\n")
    >>> table = read(file)
    >>> table.user_ids[table.users].tolist(), table.item_ids[table.items].tolist()
    (['ann', 'bob'], [7, 9])
    """
    path = check_file(path, _READERS)
    check_columns(columns)
    reader = _read_parquet if path.is_dir() else _READERS[path.suffix.lower()]
    if not header and reader is not read_csv:
        raise ValueError(f"header=False has no effect on {path}; it is for text files")
    try:
        if reader is read_csv:
            return read_csv(path, columns, header, id_types)
        return reader(path, columns, id_types)
    except OSError as cause:
        raise TableError(
            f"{path}: the file cannot be read and may be damaged: {in_one_line(cause)}"
        ) from cause
    except MemoryError as cause:
        raise TableError(
            f"{path}: too large for memory, or damaged: {in_one_line(cause)}"
        ) from cause


def check_columns(columns: Sequence[str] | None) -> None:
    """Rejects names that cannot be those of the user, item and value columns."""
    if columns is not None and (
        isinstance(columns, str) or len({*columns}) != len(columns) or len(columns) not in (2, 3)
    ):
        raise TableError(
            f"columns={columns!r}; expected three different names (user, item, value), or two (user, item)"
        )


def _read_parquet(path: Path, columns: Sequence[str] | None, id_types: IdTypes) -> Triples:
    pyarrow = arrow("pyarrow")
    names, kinds = parquet_names(path)
    is_float = [pyarrow.types.is_floating(kind) for kind in kinds]
    chosen = [names[i] for i in positions(str(path), names, columns, is_float)]
    table = read_parquet(path, chosen).select(chosen)
    unused = [name for name in names if name not in chosen]
    return encoded_triples(table, str(path), id_types, unused=unused, guessed=columns is None)


def _read_numpy(path: Path, columns: Sequence[str] | None, id_types: IdTypes) -> Triples | Matrix:
    arrays, names = load_arrays(path, columns)
    return from_arrays(str(path), arrays, columns, names, id_types)


def from_arrays(
    source: str,
    arrays: Mapping[str, np.ndarray],
    columns: Sequence[str] | None,
    files: Sequence[str] = (),
    id_types: IdTypes = AUTO,
) -> Triples | Matrix:
    """Returns ratings from two or three arrays of equal length, or from one matrix.

    Raises:
      TableError: the arrays are neither, or are ambiguous.
    """
    if columns is not None:
        positions(source, list(files or arrays), columns)
        names = columns
    else:
        found = _guess_arrays(source, arrays)
        if isinstance(found, Matrix):
            return found
        names = found
    if len(names) == 2:
        names = (*names, _NO_VALUE)
        arrays = {**arrays, _NO_VALUE: np.ones(len(arrays[names[0]]))}
    users, items, values = (arrays[name] for name in names)
    if not (
        users.ndim == items.ndim == values.ndim == 1 and len(users) == len(items) == len(values)
    ):
        raise TableError(
            f"{source}: expected three lists of equal length, got {_listed(arrays, names)}"
        )
    return Triples.build(
        encode(users, source, names[0]),
        encode(items, source, names[1]),
        values,
        source,
        (names[0], names[1], names[2]),
        id_types=id_types,
        has_values=names[2] != _NO_VALUE,
        unused=[name for name in files or arrays if name not in names],
        guessed=columns is None,
    )


def _listed(arrays: Mapping[str, np.ndarray], names: Sequence[str]) -> str:
    return ", ".join(f"{name!r} {list(arrays[name].shape)}" for name in names)


def _guess_arrays(source: str, arrays: Mapping[str, np.ndarray]) -> Sequence[str] | Matrix:
    """Returns the names of the only three arrays that can be triples, or the only matrix."""
    matrices = [name for name, array in arrays.items() if array.ndim == 2]
    lists = {name: array for name, array in arrays.items() if array.ndim == 1}
    guesses = []
    for length in {len(array) for array in lists.values()}:
        names = [name for name, array in lists.items() if len(array) == length]
        where = guess_columns(names, [arrays[name].dtype.kind == "f" for name in names])
        if where and (len(where) == 3 or not matrices):
            guesses.append([names[i] for i in where])
    if len(guesses) == 1 and not matrices:
        return guesses[0]
    if len(matrices) == 1 and not guesses and len(lists) == len(arrays) - 1 <= 2:
        values = arrays[matrices[0]]
        ids = {column_role(name): array for name, array in lists.items()}
        if len(ids) == len(lists) and ids.keys() <= {"user", "item"}:
            origin: dict[str, Any] = {"source": source, "column": matrices[0]}
            return Matrix.build(values, ids.get("user"), ids.get("item"), **origin)
    raise TableError(
        f"{source}: the roles of the arrays are ambiguous; found {_listed(arrays, list(arrays))}. Keep one "
        "matrix [num_users, num_items] in the file (numpy.save), or three lists of equal length, and "
        f"{NAME_COLUMNS}"
    )


_NO_VALUE = "(no value)"
_READERS = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": _read_parquet,
    ".npz": _read_numpy,
    ".npy": _read_numpy,
    **dict.fromkeys((*TEXT_SUFFIXES, ".gz"), read_csv),
}
