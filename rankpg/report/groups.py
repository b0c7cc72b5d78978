"""Item groups from a file of item id and group: csv or tsv with a header, or Parquet."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from rankpg.data.faults import in_one_line
from rankpg.data.ids import TableError
from rankpg.data.optional import arrow

__all__ = ["NO_GROUP", "group_of_items", "read_groups"]

NO_GROUP = "(no group)"

_ITEM, _GROUP = ("item", "item_id", "id"), ("group", "item_group", "category")


def read_groups(path: Path | str) -> dict[str, str]:
    r"""Reads a mapping from item id to group, both as text.

    The columns are item (or item_id, id) and group (or item_group, category). In a file of two columns with
    other names, the item comes first.

    Raises:
      FileNotFoundError: the file does not exist.
      TableError: the file cannot be read, a line has too few fields, an id or group is empty, or an item is
        in two groups; the message names the line.
      ImportError: the file is Parquet and pyarrow is missing.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "groups.csv"
    >>> _ = file.write_text("item,group\n7,new\n9,old\n")
    >>> read_groups(file)
    {'7': 'new', '9': 'old'}
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"groups={str(path)!r}: no such file")
    kind = path.suffix.lower()
    if kind not in (".csv", ".tsv", ".parquet"):
        raise TableError(
            f"groups={str(path)!r}: unknown extension {path.suffix!r}; expected .csv, .tsv or .parquet"
        )
    rows = _parquet_rows(path) if kind == ".parquet" else _csv_rows(path)
    return _by_item(path, rows)


def group_of_items(groups: dict[str, str], item_ids: Iterable[int | str]) -> np.ndarray:
    """Returns the group of every item, [N]; NO_GROUP for an item that the file lacks.

    Raises:
      TableError: the file has none of the items.

    >>> group_of_items({"7": "new"}, [7, 8]).tolist()
    ['new', '(no group)']
    """
    names = [str(item) for item in item_ids]
    if not any(name in groups for name in names):
        raise TableError(
            f"groups= has no item of this run: its ids look like {next(iter(groups))!r}, those of the run "
            f"like {names[0]!r}"
        )
    return np.array([groups.get(name, NO_GROUP) for name in names])


def _by_item(path: Path, rows: Iterator[tuple[str, str, str]]) -> dict[str, str]:
    """Returns a mapping from item to group; rejects empty fields and items in two groups."""
    found: dict[str, str] = {}
    for place, item, group in rows:
        if not item or not group:
            raise TableError(
                f"{path}, {place}: the {'group' if item else 'item id'} is empty; fill it in or remove the "
                "row"
            )
        if found.setdefault(item, group) != group:
            raise TableError(
                f"{path}, {place}: item {item!r} is in the group {group!r} and, in an earlier row, in "
                f"{found[item]!r}; expected one group per item"
            )
    if not found:
        raise TableError(f"{path} has no rows; expected rows of item id and group")
    return found


def _csv_rows(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yields (line, item, group) of every row of a csv or tsv file."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            names = [name.strip() for name in next(reader, [])]
            item, group = _columns(path, names)
            for row in reader:
                place = f"line {reader.line_num}"
                if row and len(row) != len(names):
                    raise TableError(
                        f"{path}, {place}: {len(row)} fields, but the header has {len(names)}; correct or "
                        "remove the line"
                    )
                if row:
                    yield place, row[item].strip(), row[group].strip()
    except (OSError, UnicodeDecodeError, csv.Error) as cause:
        raise TableError(f"{path} cannot be read: {in_one_line(cause)}") from cause


def _parquet_rows(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yields (row, item, group) of every row of a Parquet file."""
    pyarrow, parquet = arrow("pyarrow"), arrow("pyarrow.parquet")
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            item, group = _columns(path, names)
            table = file.read(columns=[names[item], names[group]])
    except (OSError, pyarrow.ArrowException) as cause:
        raise TableError(f"{path} cannot be read: {in_one_line(cause)}") from cause
    items, of_item = (
        [
            "" if value is None else str(value).strip()
            for value in table.column(names[k]).to_pylist()
        ]
        for k in (item, group)
    )
    for row, pair in enumerate(zip(items, of_item, strict=True)):
        yield f"row {row}", *pair


def _columns(path: Path, names: list[str]) -> tuple[int, int]:
    """Returns the numbers of the columns item and group."""
    lower = [name.lower() for name in names]
    found = [
        next((lower.index(name) for name in known if name in lower), None)
        for known in (_ITEM, _GROUP)
    ]
    if found[0] is not None and found[1] is not None:
        return found[0], found[1]
    if len(names) == 2 and found[0] != 1 and found[1] != 0:
        return 0, 1
    listed = ", ".join(map(repr, names)) or "no columns"
    raise TableError(f"{path}: expected the columns item and group; found {listed}")
