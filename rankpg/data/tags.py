"""Tags of items, such as categories and brands, from a table with one row for each item or for each pair."""

from __future__ import annotations

import dataclasses

import numpy as np

from rankpg.data.files import Table
from rankpg.data.frame import frame_of
from rankpg.data.id_types import typed_ids
from rankpg.data.ids import IdMap, TableError, is_missing

__all__ = ["Tags", "read_tags"]

_MOST = 256
"""Most tags of one item."""


@dataclasses.dataclass(frozen=True, eq=False)
class Tags:
    """Tags of every item, as numbers, and their names."""

    rows: np.ndarray
    """int32[N, T], numbers of tags, ascending; -1 fills a row up."""
    names: tuple[str, ...]
    """Names of the tags, such as `genre=Drama`, by their numbers."""
    notes: tuple[str, ...]


def read_tags(table: Table, item_ids: IdMap, separator: str = "|", id_type: str = "auto") -> Tags:
    """Reads the tags of items: every column but that of the ids, and each part of a text of several parts.

    An item may have several rows. A tag that a single item has says no more than the item itself, so it is
    left out, and with it columns such as titles.

    Args:
      table: a data frame, arrays by name, or the path of a csv, tsv, parquet or npz file; one column holds
        item ids, named item or id.
      item_ids: ids of the items; rows of other items are left out.
      separator: separates several tags in one text.
      id_type: declared type of the ids; see `data.id_types`.

    Raises:
      FileNotFoundError: the file does not exist.
      TableError: the id column is ambiguous, no tag is left, or an item has more than 256 tags.

    >>> films = {"item": [1, 2, 3], "genre": ["Drama|War", "Drama", "War"], "title": ["A", "B", "C"]}
    >>> tags = read_tags(films, IdMap([3, 1]))
    >>> tags.names, tags.rows.tolist()
    (('genre=Drama', 'genre=War'), [[1, -1], [0, 1]])
    """
    frame = frame_of(table, "items")
    name = frame.find_id("item")
    ids = typed_ids(frame.array(name), id_type, frame.source, is_text=frame.is_text)
    items = item_ids.find(ids)
    pairs: set[tuple[str, int]] = set()
    owners: dict[str, set[object]] = {}
    labels = items.tolist()
    for column in frame.columns:
        if column == name:
            continue
        for row, value in enumerate(frame.array(column).tolist()):
            if is_missing(value):
                continue
            for part in str(value).split(separator):
                if part.strip():
                    tag = f"{column}={part.strip()}"
                    owners.setdefault(tag, set()).add(labels[row] if labels[row] >= 0 else ~row)
                    if labels[row] >= 0:
                        pairs.add((tag, labels[row]))
    names = sorted({tag for tag, _ in pairs if len(owners[tag]) > 1})
    if not names:
        raise TableError(
            f"{frame.source}: no tag is shared by two items; expected a column of categories beside "
            f"{name!r}, several of them in one cell separated by {separator!r}"
        )
    number = {tag: place for place, tag in enumerate(names)}
    found: list[list[int]] = [[] for _ in range(len(item_ids))]
    for tag, item in pairs:
        if tag in number:
            found[item].append(number[tag])
    widest = max(map(len, found))
    if widest > _MOST:
        raise TableError(
            f"{frame.source}: item {item_ids.one(int(np.argmax([*map(len, found)])))!r} has {widest} tags; "
            f"expected at most {_MOST}"
        )
    rows = np.full((len(item_ids), widest), -1, np.int32)
    for item, own in enumerate(found):
        rows[item, : len(own)] = sorted(own)
    without = sum(not own for own in found)
    note = f"{len(names)} tags of {len(item_ids) - without} items from {frame.source}."
    if without:
        note += f" {without} items have none."
    return Tags(rows, tuple(names), (note,))
