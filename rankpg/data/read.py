"""Ratings from CSV, TSV, Parquet, .npz and .npy files, as triples (user, item, value) or a matrix.

file -> which columns -> ids and their row numbers -> Triples | Matrix
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rankpg.data.arrow import arrow, encoded_triples
from rankpg.data.columns import NAME_COLUMNS, column_role, guess_columns, positions
from rankpg.data.csv_reader import read_csv
from rankpg.data.files import check_file, load_arrays, open_parquet
from rankpg.data.ids import Columns, TableError
from rankpg.data.ratings_table import Matrix, Triples, encode, in_one_line

__all__ = ["check_columns", "from_arrays", "read"]


def read(path: str | os.PathLike[str], columns: Sequence[str] | None = None) -> Triples | Matrix:
    r"""Reads the ratings in a file; the rows of users and items follow the sorted order of their ids.

    Ids in a CSV are text, and become whole numbers if all of them are (`007` stays text). A matrix comes
    from .npy, from an .npz that holds it and, at most, the ids of its rows and columns, or from a CSV
    without header that cannot be triples.

    Args:
      path: the file; its extension names the format.
      columns: names of the user, item and value columns; found by their names if None.

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
    wanted = None if columns is None else (columns[0], columns[1], columns[2])
    try:
        return _READERS[path.suffix.lower()](path, wanted)
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
        isinstance(columns, str) or len({*columns}) != 3 or len(columns) != 3
    ):
        raise TableError(f"columns={columns!r}; expected three different names (user, item, value)")


def _read_parquet(path: Path, columns: Columns | None) -> Triples:
    pyarrow = arrow("pyarrow")
    with open_parquet(path) as file:
        schema = file.schema_arrow
        is_float = [pyarrow.types.is_floating(kind) for kind in schema.types]
        where = positions(str(path), schema.names, columns, is_float)
        table = file.read(columns=[schema.names[i] for i in where])
        table = table.select([schema.names[i] for i in where])
    return encoded_triples(table, str(path))


def _read_numpy(path: Path, columns: Columns | None) -> Triples | Matrix:
    arrays, names = load_arrays(path, columns)
    return from_arrays(str(path), arrays, columns, names)


def from_arrays(
    source: str,
    arrays: Mapping[str, np.ndarray],
    columns: Columns | None,
    files: Sequence[str] = (),
) -> Triples | Matrix:
    """Returns ratings from three arrays of equal length, or from one matrix.

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
        names,
    )


def _listed(arrays: Mapping[str, np.ndarray], names: Sequence[str]) -> str:
    return ", ".join(f"{name!r} {list(arrays[name].shape)}" for name in names)


def _guess_arrays(source: str, arrays: Mapping[str, np.ndarray]) -> Columns | Matrix:
    """Returns the names of the only three arrays that can be triples, or the only matrix."""
    matrices = [name for name, array in arrays.items() if array.ndim == 2]
    lists = {name: array for name, array in arrays.items() if array.ndim == 1}
    guesses = []
    for length in {len(array) for array in lists.values()}:
        names = [name for name, array in lists.items() if len(array) == length]
        if where := guess_columns(names, [arrays[name].dtype.kind == "f" for name in names]):
            guesses.append((names[where[0]], names[where[1]], names[where[2]]))
    if len(guesses) == 1 and not matrices:
        return guesses[0]
    if len(matrices) == 1 and not guesses and len(lists) == len(arrays) - 1 <= 2:
        values = arrays[matrices[0]]
        ids = {column_role(name): array for name, array in lists.items()}
        if len(ids) == len(lists) and ids.keys() <= {"user", "item"}:
            where = {"source": source, "column": matrices[0]}
            return Matrix.build(values, ids.get("user"), ids.get("item"), **where)
    raise TableError(
        f"{source}: the roles of the arrays are ambiguous; found {_listed(arrays, list(arrays))}. Keep one "
        "matrix [num_users, num_items] in the file (numpy.save), or three lists of equal length, and "
        f"{NAME_COLUMNS}"
    )


_READERS = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": _read_parquet,
    ".npz": _read_numpy,
    ".npy": _read_numpy,
}
