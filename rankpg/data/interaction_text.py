"""Text files of interactions: their separator, their header, and their columns parsed by pyarrow.

first lines -> which separator, header and columns -> TextFile -> ids, values and times

A file that pyarrow rejects is read again, line by line, to find the invalid line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from rankpg.data.ids import TableError
from rankpg.data.interaction_columns import ColumnNames, Roles, columns_by_place, find_columns
from rankpg.data.optional import arrow
from rankpg.data.ratings_table import Encoded, text_ids
from rankpg.data.text_lines import DATE, NUMBER, TEXT_SUFFIXES, parse_columns, scan, separator_of
from rankpg.data.text_table import TextLayout, check_packed

__all__ = ["TEXT_SUFFIXES", "TextFile", "open_text_file"]

_HEAD = 10
"""Lines that show whether times are dates."""
_EARLIEST = 1e8
"""Numbers from here on look like times: 1e8 seconds after 1970 is in 1973."""
_NO_HEADER = " (if the first line is an interaction, give header=False)"


@dataclasses.dataclass(frozen=True)
class TextFile:
    """A text file with known columns; `skip` physical lines come before its first interaction."""

    path: Path
    separator: str
    names: list[str]
    skip: int
    roles: Roles
    dates: bool
    """True if the timestamps are dates, not numbers."""
    notes: tuple[str, ...]

    def place(self, *numbers: int) -> str:
        """Returns text such as `line 8` for rows of data, counted from 0."""
        return TextLayout(self.path, self.separator, self.names, self.skip).place(*numbers)

    def shown(self, role: str) -> str:
        """Returns the name of the column of a role, for messages."""
        return self.roles[role] or f"({role})"

    def parse(
        self,
    ) -> tuple[Encoded, Encoded, np.ndarray, Any, np.ndarray | None, Encoded | None, int]:
        """Returns users, items, values, times as pyarrow holds them, weights, sessions, and their lines.

        A value or a weight that is missing is NaN; times, weights and sessions are None without a column.
        The last is the number of lines.

        Raises:
          TableError: a line is wrong, or there is none.
        """
        pyarrow = arrow("pyarrow")
        text = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
        kinds = {
            "user": text,
            "item": text,
            "value": pyarrow.float64(),
            "timestamp": pyarrow.large_string() if self.dates else pyarrow.float64(),
            "weight": pyarrow.float64(),
            "session": text,
        }
        roles = {role: self.names.index(name) for role, name in self.roles.items() if name}
        types = {str(i): kinds[role] for role, i in roles.items()}
        table, lines = parse_columns(self.path, self.separator, self.names, self.skip, types)
        columns = {role: table[str(i)] for role, i in roles.items()}
        ids = [self._ids(columns[role], role) for role in ("user", "item")]
        values = np.ones(len(table))
        if "value" in columns:
            values = columns["value"].to_numpy()  # NaN where a number is missing
        weights = columns["weight"].to_numpy() if "weight" in columns else None
        sessions = self._ids(columns["session"], "session") if "session" in columns else None
        return ids[0], ids[1], values, columns.get("timestamp"), weights, sessions, lines

    def _ids(self, column: Any, role: str) -> Encoded:
        return text_ids(column.combine_chunks(), str(self.path), self.shown(role))


def open_text_file(path: Path, columns: ColumnNames | None, header: bool) -> TextFile:
    r"""Returns the layout of a text file, plain or compressed as .gz, found from its first lines.

    A file has no header line if `header` is False, if its separator is `::`, or if all fields of its first
    line are numbers or dates.

    Args:
      path: the file; its extension names the kind.
      columns: names of columns by role, or their places, from 0, in a file without a header line.
      header: False if the first line is an interaction.

    Raises:
      TableError: the extension is unknown, the file is empty, or its columns are ambiguous.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "ratings.dat"
    >>> _ = file.write_text("1::1193::5::978300760\n1::661::3::978302109\n")
    >>> open_text_file(file, None, True).roles
    {'user': '0', 'item': '1', 'value': '2', 'timestamp': '3', 'weight': None, 'session': None}
    """
    check_packed(path)
    separator = separator_of(path)
    head = list(islice(scan(path, separator or ","), _HEAD))
    if separator is None:
        raise TableError(
            f"{path}, line 1: {head[0][2][0].strip()[:60]!r} has a single field; expected fields separated "
            "by a comma, a tab, a semicolon, |, :: or a blank"
        )
    before = head[0][0] - 1
    _, end, first = head[0]
    names, notes = [name.strip() for name in first], []
    if header and _is_header(path, names, separator):
        if twice := [name for name in names if names.count(name) > 1]:
            raise TableError(f"{path}: more than one column {twice[0]!r}: rename or drop one")
        hint = "" if path.suffix.lower() == ".inter" else _NO_HEADER
        roles = find_columns(str(path), names, columns, hint)
        head = head[1:]
    else:
        roles = columns_by_place(str(path), len(names), columns)
        _check_value(path, names, roles, columns)
        why = "its first line is an interaction" if header else "header=False"
        notes = [f"No header line ({why}): columns are named by their places, from 0."]
        names, end = [str(i) for i in range(len(names))], before
    at = None if roles["timestamp"] is None else names.index(roles["timestamp"])
    times = [row[at] for _, _, row in head if at is not None and at < len(row) and row[at].strip()]
    dates = bool(times) and not NUMBER.fullmatch(times[0])
    return TextFile(path, separator, names, end, roles, dates, tuple(notes))


# --- the first line -------------------------------------------------------------------------------


def _is_header(path: Path, first: Sequence[str], separator: str) -> bool:
    """Returns False for a first line that is an interaction; rejects one that may be either."""
    if separator == "::":
        try:
            find_columns(str(path), first, None)
        except TableError:
            return False
        return True
    if not all(NUMBER.fullmatch(field) or DATE.fullmatch(field) for field in first):
        return True
    if list(first) == [str(i) for i in range(len(first))]:
        raise TableError(
            f"{path}, line 1: {', '.join(first)} may be the places of columns or an interaction: give "
            "header=False if it is an interaction, or else write names such as user,item,value"
        )
    return False


def _check_value(
    path: Path, first: Sequence[str], roles: Roles, columns: ColumnNames | None
) -> None:
    """Rejects a column of a file without header that looks like times and is taken for values."""
    if roles["value"] is None or (columns and "value" in columns):
        return
    field = first[int(roles["value"])]
    number = NUMBER.fullmatch(field) and abs(float(field)) >= _EARLIEST
    if number or DATE.fullmatch(field):
        raise TableError(
            f"{path}, line 1: no header line, and {field!r} in the place of the value looks like a time: "
            f"give the places, columns={{'user': 0, 'item': 1, 'timestamp': {roles['value']}}}, or with "
            "'value' if it is one"
        )
