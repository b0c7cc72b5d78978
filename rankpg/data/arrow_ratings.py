"""Ratings in tables of pyarrow, as triples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rankpg.data.arrow import ArrowTable, decoded
from rankpg.data.columns import positions
from rankpg.data.faults import in_one_line
from rankpg.data.id_types import AUTO, IdTypes
from rankpg.data.ids import TableError, text_array
from rankpg.data.optional import arrow
from rankpg.data.ratings_table import Encoded, Triples, sorted_ids

__all__ = ["arrow_ids", "arrow_triples", "encoded_triples"]


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
        arrow_ids(table[users], source, users),
        arrow_ids(table[items], source, items),
        numbers.to_numpy(zero_copy_only=False),
        source,
        (users, items, values),
        id_types=id_types,
        has_values=has_values,
        unused=unused,
        guessed=guessed,
    )


def arrow_ids(column: Any, source: str, name: str) -> Encoded:
    """Returns a column of ids as labels and codes, without the categories that no row uses.

    Raises:
      TableError: the column cannot hold ids.
    """
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
