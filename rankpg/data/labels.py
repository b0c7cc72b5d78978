"""Arrays with labels, such as data frames: their rows and columns are found by label, never by place."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from rankpg._utils.labels import labelled
from rankpg.data.columns import column_role
from rankpg.data.ids import ArrayLike, IdMap, TableError, labels_of

__all__ = ["aligned", "aligned_mask", "check_series", "labelled_features"]


def check_series(arguments: dict[str, Any]) -> None:
    """Rejects pandas columns with different row labels, which would be paired by place.

    Raises:
      TableError: names the arguments.
    """
    pandas = sys.modules.get("pandas")
    if pandas is None:
        return
    series = {name: x for name, x in arguments.items() if isinstance(x, pandas.Series)}
    for name, one in list(series.items())[1:]:
        first, other = next(iter(series.items()))
        if len(one) == len(other) and not one.index.equals(other.index):
            raise TableError(
                f"{first} and {name} have different row labels, so that their rows may not belong together: "
                "take them from one table, or pass .to_numpy() if the order is right"
            )


def aligned(table: ArrayLike, name: str, contexts: IdMap, items: IdMap) -> Any:
    """Returns a matrix [num_contexts, N] in the order of the ids, by its labels where it has any.

    Args:
      table: a matrix, with or without labels.
      name: the argument, for messages.
      contexts, items: ids of its rows and columns.

    Raises:
      TableError: an id has no label.
    """
    found = labelled(table)
    values = found.values
    for axis, (labels, ids) in enumerate(((found.rows, contexts), (found.columns, items))):
        if labels is not None:
            values = np.take(values, _places(labels, ids.ids, ids.kind, name), axis=axis)
    return values


def aligned_mask(
    table: ArrayLike, name: str, contexts: np.ndarray, kind: str, items: IdMap
) -> np.ndarray:
    """Returns a mask [N] or [n, N] in the order of the contexts and items, by its labels if it has any.

    Args:
      table: a mask, with or without labels; a series has one value for each item.
      name: the argument, for messages.
      contexts: n ids of contexts, any of them several times.
      kind: name of these ids in messages.
      items: ids of the catalogue.

    Raises:
      TableError: an id has no label.
    """
    found = labelled(table)
    values = np.asarray(found.values)
    if found.rows is not None:
        values = values[_places(found.rows, contexts, kind, name)]
    if found.columns is not None:
        values = values[..., _places(found.columns, items.ids, items.kind, name)]
    return values


def _places(labels: np.ndarray, ids: np.ndarray, kind: str, name: str) -> np.ndarray:
    """Returns the place of every id among the labels."""
    known = IdMap(labels, f"{name}: {kind}")
    places = known.find(ids)
    if (places < 0).any():
        lacking = ids[np.argmax(places < 0) :][:1].tolist()[0]
        raise TableError(
            f"{name}: no row or column is labelled {lacking!r}, and {int(np.sum(places < 0))} of {len(ids)} "
            f"{kind} ids have no label; its labels are like {labels_of(labels[:3]).tolist()}: label it "
            "with the ids, or pass .to_numpy() if it is in the order of the ids"
        )
    return places


def labelled_features(table: Any, name: str, ids: IdMap) -> Any:
    """Returns features [n, F] in the order of the ids: by a column of ids, or else by row labels.

    Raises:
      TableError: an id has no row.
    """
    columns = _column_names(table)
    role = {"user": "user", "query": "user"}.get(ids.kind, "item")
    named = [x for x in columns if column_role(x) == role or x.lower() == "id"]
    if len(named) == 1 and len(columns) > 1:
        keys = np.asarray(table[named[0]].to_numpy())
        rest = table[[x for x in table.columns if str(x) != named[0]]]
        return rest.to_numpy()[_places(keys, ids.ids, ids.kind, name)]
    found = labelled(table)
    if found.rows is None:
        return table.to_numpy() if columns and hasattr(table, "to_numpy") else found.values
    return np.asarray(found.values)[_places(found.rows, ids.ids, ids.kind, name)]


def _column_names(table: object) -> Sequence[str]:
    """Returns the column names of a pandas or polars table; none of another array."""
    names = getattr(table, "columns", None)
    if names is None or not hasattr(table, "to_numpy"):
        return []
    return [str(name) for name in names]
