"""Tables of pandas, polars and other libraries that support Arrow, as pyarrow tables."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeAlias

from rankpg.data.faults import in_one_line
from rankpg.data.ids import TableError
from rankpg.data.optional import arrow

__all__ = ["decoded", "is_table", "to_arrow"]


if TYPE_CHECKING:
    import pyarrow

    ArrowTable: TypeAlias = pyarrow.Table
    ArrowColumn: TypeAlias = pyarrow.Array | pyarrow.ChunkedArray
else:
    ArrowTable = ArrowColumn = Any


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
