"""Tables of pandas, polars and pyarrow, and of whatever else speaks Arrow, as pyarrow's."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from rankpg.data.columns import positions
from rankpg.data.ids import TableError
from rankpg.data.ratings_table import Columns, Encoded, Triples, in_one_line, sorted_ids

__all__ = ["arrow", "arrow_triples", "decoded", "encoded_triples", "is_table", "to_arrow"]


def arrow(module: str) -> Any:
    """pyarrow, or a module of it, loaded when a table needs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as cause:
        raise ImportError(
            "CSV, Parquet and data frames are read by pyarrow: pip install 'rankpg[data]' (.npz and NumPy "
            "arrays need nothing)"
        ) from cause


def is_table(table: Any) -> bool:
    """Whether this is a table of pandas, polars, pyarrow or another library that speaks Arrow."""
    return hasattr(table, "__arrow_c_stream__") or _is_pandas(table)


def _is_pandas(table: Any) -> bool:
    pandas = sys.modules.get("pandas")  # whoever has such a table has loaded it
    return pandas is not None and isinstance(table, pandas.DataFrame)


def to_arrow(table: Any, source: str) -> Any:
    """A pyarrow.Table of the same columns; the index of a pandas table is no column.

    Raises:
      TableError: it cannot be had: a single column, a name that occurs twice, a column of mixed types.

    >>> import pyarrow
    >>> to_arrow(pyarrow.RecordBatch.from_pydict({"user": [1, 2]}), "ratings").column_names
    ['user']
    """
    pyarrow = arrow("pyarrow")
    try:
        if isinstance(table, pyarrow.Table):
            found = table
        elif _is_pandas(table):
            found = pyarrow.Table.from_pandas(table, preserve_index=False)
        elif hasattr(
            table, "to_arrow"
        ):  # polars: in types that every version of pyarrow can decode
            found = table.to_arrow()
        else:
            found = pyarrow.table(table)
        if not isinstance(found, pyarrow.Table):
            raise TypeError("it is one column")
    except (pyarrow.ArrowException, TypeError, ValueError) as cause:
        raise TableError(
            f"{source}: a {type(table).__name__} that is no table of columns: {in_one_line(cause)}"
        ) from cause
    names = found.column_names
    for name in names:
        if names.count(name) > 1:
            raise TableError(f"{source}: more than one column {name!r}: rename or drop one")
    return found


def decoded(column: Any) -> Any:
    """A column as one array without categories, its text in a type that can be computed with."""
    pyarrow = arrow("pyarrow")
    column = column.combine_chunks()
    if isinstance(column, pyarrow.ChunkedArray):  # so do some versions
        if column.num_chunks != 1:
            return pyarrow.array([], column.type)
        column = column.chunk(0)
    if pyarrow.types.is_dictionary(column.type):
        return decoded(pyarrow.chunked_array([column.dictionary])).take(column.indices)
    if str(column.type) in ("string_view", "utf8_view"):
        return column.cast(pyarrow.large_string())
    return column


def arrow_triples(table: Any, columns: Columns | None, source: str) -> Triples:
    """Three columns of a pyarrow.Table as triples.

    Raises:
      TableError: no such columns, ids or values that are none.
    """
    pyarrow = arrow("pyarrow")
    is_float = [pyarrow.types.is_floating(kind) for kind in table.schema.types]
    names = [
        table.column_names[i] for i in positions(source, table.column_names, columns, is_float)
    ]
    return encoded_triples(table.select(names), source)


def encoded_triples(table: Any, source: str) -> Triples:
    """The only three columns of a pyarrow.Table, user, item and value, as triples."""
    pyarrow = arrow("pyarrow")
    users, items, values = table.column_names
    try:
        numbers = decoded(table[values]).cast(pyarrow.float64())
    except pyarrow.ArrowException as cause:
        raise TableError(
            f"{source}: column {values!r} is no column of numbers: {in_one_line(cause)}"
        ) from cause
    return Triples.build(
        _ids(table[users], source, users),
        _ids(table[items], source, items),
        numbers.to_numpy(zero_copy_only=False),
        source,
        (users, items, values),
    )


def _ids(column: Any, source: str, name: str) -> Encoded:
    """A column of ids as labels and codes; a category that no row uses is no id."""
    pyarrow = arrow("pyarrow")
    try:
        column = decoded(column).dictionary_encode("encode")
        labels = column.dictionary.to_numpy(zero_copy_only=False)
    except (pyarrow.ArrowException, UnicodeDecodeError) as cause:
        raise TableError(
            f"{source}: column {name!r} of {column.type} cannot hold ids: {in_one_line(cause)}"
        ) from cause
    if labels.dtype == object and all(isinstance(label, str) for label in labels):
        labels = labels.astype(str)
    return sorted_ids(labels, column.indices.to_numpy(), source, name)
