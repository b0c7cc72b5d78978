"""Tables of pandas, polars and other libraries that support Arrow, as pyarrow tables."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from rankpg.data.columns import positions
from rankpg.data.id_types import AUTO, IdTypes
from rankpg.data.ids import TableError, text_array
from rankpg.data.ratings_table import Encoded, Triples, in_one_line, sorted_ids

__all__ = ["arrow", "arrow_triples", "decoded", "encoded_triples", "is_table", "to_arrow"]


if TYPE_CHECKING:
    import pyarrow

    ArrowTable: TypeAlias = pyarrow.Table
    ArrowColumn: TypeAlias = pyarrow.Array | pyarrow.ChunkedArray
else:
    ArrowTable = ArrowColumn = Any


def arrow(module: str) -> ModuleType:
    """Imports pyarrow, or a module of it, when a table needs it.

    Raises:
      ImportError: pyarrow is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as cause:
        raise ImportError(
            "CSV, Parquet and data frames need pyarrow: pip install 'rankpg[data]' (.npz and NumPy arrays do "
            "not)"
        ) from cause


def is_table(table: object) -> bool:
    """Returns True for a table of pandas, polars, pyarrow or another library that supports Arrow."""
    return hasattr(table, "__arrow_c_stream__") or _is_pandas(table)


def _is_pandas(table: object) -> bool:
    pandas = sys.modules.get("pandas")  # a caller with such a table has imported it
    return pandas is not None and isinstance(table, pandas.DataFrame)


def to_arrow(table: Any, source: str) -> ArrowTable:
    """Returns a pyarrow.Table of the same columns, with those of a pandas index that have names.

    A frame that `groupby` made has its keys there. An index without a name is left out.

    Raises:
      TableError: the table is a single column, a name occurs twice, or a column mixes types.

    >>> import pyarrow
    >>> to_arrow(pyarrow.RecordBatch.from_pydict({"user": [1, 2]}), "ratings").column_names
    ['user']
    """
    pyarrow = arrow("pyarrow")
    try:
        if isinstance(table, pyarrow.Table):
            found = table
        elif _is_pandas(table):
            found = pyarrow.Table.from_pandas(_with_index(table, source), preserve_index=False)
        elif hasattr(
            table, "to_arrow"
        ):  # polars: in types that every version of pyarrow can decode
            found = table.to_arrow()
        else:
            found = pyarrow.table(table)
        if not isinstance(found, pyarrow.Table):
            raise TypeError("it has one column and no names")
    except (pyarrow.ArrowException, TypeError, ValueError) as cause:
        raise TableError(
            f"{source}: this {type(table).__name__} is not a table of columns: {in_one_line(cause)}"
        ) from cause
    names = found.column_names
    for name in names:
        if names.count(name) > 1:
            raise TableError(f"{source}: more than one column {name!r}: rename or drop one")
    return found


def _with_index(table: Any, source: str) -> Any:
    """Returns a pandas table whose named index is among its columns."""
    named = [name for name in table.index.names if name is not None and name not in table.columns]
    if table.columns.nlevels > 1:
        raise TableError(
            f"{source}: the columns have names of {table.columns.nlevels} parts: join them, for instance "
            "table.columns = ['_'.join(name) for name in table.columns], after reset_index()"
        )
    return table.reset_index(level=named) if named else table


def decoded(column: Any) -> Any:
    """Returns a column as one array without categories, text in a type that all functions support."""
    pyarrow = arrow("pyarrow")
    column = column.combine_chunks()
    if isinstance(column, pyarrow.ChunkedArray):  # some versions of pyarrow return one
        if column.num_chunks != 1:
            return pyarrow.array([], column.type)
        column = column.chunk(0)
    if pyarrow.types.is_dictionary(column.type):
        return decoded(pyarrow.chunked_array([column.dictionary])).take(column.indices)
    if str(column.type) in ("string_view", "utf8_view"):
        return column.cast(pyarrow.large_string())
    return column


def arrow_triples(
    table: ArrowTable, columns: Sequence[str] | None, source: str, id_types: IdTypes = AUTO
) -> Triples:
    """Returns two or three columns of a pyarrow.Table as triples.

    Raises:
      TableError: a column is missing, or an id or a value is invalid.
    """
    pyarrow = arrow("pyarrow")
    is_float = [pyarrow.types.is_floating(kind) for kind in table.schema.types]
    every = table.column_names
    names = [every[i] for i in positions(source, every, columns, is_float)]
    unused = [name for name in every if name not in names]
    return encoded_triples(
        table.select(names), source, id_types, unused=unused, guessed=columns is None
    )


def encoded_triples(
    table: ArrowTable,
    source: str,
    id_types: IdTypes = AUTO,
    *,
    unused: Sequence[str] = (),
    guessed: bool = False,
) -> Triples:
    """Returns a pyarrow.Table of exactly user, item and, if there is one, value as triples."""
    pyarrow = arrow("pyarrow")
    has_values = table.num_columns > 2
    users, items, values = (*table.column_names, "(no value)")[:3]
    try:
        numbers = decoded(table[values]) if has_values else pyarrow.array(np.ones(len(table)))
        if pyarrow.types.is_boolean(numbers.type):
            numbers = numbers.cast(pyarrow.uint8())
        numbers = numbers.cast(pyarrow.float64())
    except pyarrow.ArrowException as cause:
        raise TableError(
            f"{source}: column {values!r} is not a column of numbers: {in_one_line(cause)}"
        ) from cause
    return Triples.build(
        _ids(table[users], source, users),
        _ids(table[items], source, items),
        numbers.to_numpy(zero_copy_only=False),
        source,
        (users, items, values),
        id_types=id_types,
        has_values=has_values,
        unused=unused,
        guessed=guessed,
    )


def _ids(column: Any, source: str, name: str) -> Encoded:
    """Returns a column of ids as labels and codes, without the categories that no row uses."""
    pyarrow = arrow("pyarrow")
    try:
        column = decoded(column).dictionary_encode("encode")
        labels = column.dictionary.to_numpy(zero_copy_only=False)
    except (pyarrow.ArrowException, UnicodeDecodeError) as cause:
        raise TableError(
            f"{source}: column {name!r} of {column.type} cannot hold ids: {in_one_line(cause)}"
        ) from cause
    if labels.dtype == object and all(isinstance(label, str) for label in labels):
        labels = text_array(labels.tolist(), f"{source}, column {name!r}")
    return sorted_ids(labels, column.indices.to_numpy(), source, name)
