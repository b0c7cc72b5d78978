"""Text files of interactions: their separator, their header, and their columns parsed by pyarrow.

first lines -> which separator, header and columns -> TextFile -> ids, values and times

A file that pyarrow rejects is read again, line by line, to find the invalid line.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from rankpg._utils.files import open_text
from rankpg.data.arrow import arrow
from rankpg.data.ids import TableError, whole_numbers
from rankpg.data.interaction_columns import ColumnNames, Roles, columns_by_place, find_columns
from rankpg.data.ratings_table import Encoded, in_one_line, sorted_ids

__all__ = ["TEXT_SUFFIXES", "TextFile", "open_text_file"]

TEXT_SUFFIXES = (".csv", ".tsv", ".dat", ".data", ".inter", ".txt")
_SEPARATORS = ("::", "\t", ";", "|", ",")
_UNIT = "\x1f"
"""The separator that takes the place of "::", since pyarrow splits at single characters."""
_HEAD = 10
"""Lines from which the separator is found."""

_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
_EMPTY = re.compile(r"\s*|[+-]?nan|n/?a|null", re.IGNORECASE)
_DATE = re.compile(r"\s*\d{4}-\d\d-\d\d([T ]\d\d:\d\d.*)?\s*")
_FLOAT_ID = re.compile(r"-?(0|[1-9]\d*)(\.0*)?")
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

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yields (line number as in an editor, fields) of every interaction."""
        found = _scan(self.path, self.separator)
        return ((start, row) for start, end, row in found if end > self.skip)

    def place(self, *numbers: int) -> str:
        """Returns text such as `line 8` for rows of data, counted from 0."""
        lines = {n: line for n, (line, _) in enumerate(self.rows()) if n in numbers}
        return f"line{'s' * (len(numbers) > 1)} {' and '.join(str(lines[n]) for n in numbers)}"

    def shown(self, role: str) -> str:
        """Returns the name of the column of a role, for messages."""
        return self.roles[role] or f"({role})"

    def parse(self) -> tuple[Encoded, Encoded, np.ndarray, Any, np.ndarray | None]:
        """Returns users, items, values, the times as pyarrow holds them, and weights.

        A value or a weight that is missing is NaN; times and weights are None without a column.

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
        }
        roles = {role: self.names.index(name) for role, name in self.roles.items() if name}
        table = self._table({str(i): kinds[role] for role, i in roles.items()})
        if not len(table):
            raise TableError(f"{self.path}: no rows after the header")
        columns = {role: table[str(i)] for role, i in roles.items()}
        ids = [self._ids(columns[role], role) for role in ("user", "item")]
        values = np.ones(len(table))
        if "value" in columns:
            values = columns["value"].to_numpy()  # NaN where a number is missing
        weights = columns["weight"].to_numpy() if "weight" in columns else None
        return ids[0], ids[1], values, columns.get("timestamp"), weights

    def _table(self, types: dict[str, Any]) -> Any:
        """Parses columns, named by their places, and checks that there is a row."""
        pyarrow, reader = arrow("pyarrow"), arrow("pyarrow.csv")
        plain = self.separator == "::"  # these files have no quotes
        try:
            table = reader.read_csv(
                _with_units(self.path) if plain else str(self.path),
                reader.ReadOptions(
                    column_names=[str(i) for i in range(len(self.names))], skip_rows=self.skip
                ),
                reader.ParseOptions(
                    delimiter=_UNIT if plain else self.separator,
                    quote_char=False if plain else '"',
                    newlines_in_values=not plain,
                ),
                reader.ConvertOptions(column_types=types, include_columns=list(types)),
            )
        except pyarrow.ArrowException as cause:
            raise self._fault(
                [name for name, kind in types.items() if _is_number(kind)], cause
            ) from cause
        return table.unify_dictionaries()

    def _ids(self, column: Any, role: str) -> Encoded:
        column = column.combine_chunks()
        labels = np.asarray(column.dictionary.to_pylist(), dtype=str)
        labels = _without_fraction(whole_numbers(labels))
        return sorted_ids(labels, column.indices.to_numpy(), str(self.path), self.shown(role))

    def _fault(self, numbers: Sequence[str], cause: Exception) -> TableError:
        """Returns the error for the first line that pyarrow rejects, found by reading the file again."""
        empty = True
        for line, fields in self.rows():
            empty = False
            if len(fields) != len(self.names):
                return TableError(
                    f"{self.path}, line {line}: {len(fields)} fields where the first line has "
                    f"{len(self.names)}: correct or remove the line"
                )
            for i in map(int, numbers):
                if not (_NUMBER.fullmatch(fields[i]) or _EMPTY.fullmatch(fields[i])):
                    return TableError(
                        f"{self.path}, line {line}, column {self.names[i]!r}: {fields[i]!r} is not a number: "
                        "correct or remove the line"
                    )
        if empty:
            return TableError(f"{self.path}: no rows after the header")
        return TableError(
            f"{self.path}: not readable as text in UTF-8: {in_one_line(cause)}. A file in another encoding: "
            "save it as UTF-8"
        )


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
    {'user': '0', 'item': '1', 'value': '2', 'timestamp': '3', 'weight': None}
    """
    if path.suffix.lower() == ".gz" and Path(path.stem).suffix.lower() not in TEXT_SUFFIXES:
        raise TableError(
            f"{path}: unknown extension {Path(path.stem).suffix!r} of a compressed file: expected one of "
            f"{', '.join(TEXT_SUFFIXES)} before .gz"
        )
    separator = _separator(path)
    head = list(islice(_scan(path, separator), _HEAD))
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
        names, end = [str(i) for i in range(len(names))], 0
    at = None if roles["timestamp"] is None else names.index(roles["timestamp"])
    times = [row[at] for _, _, row in head if at is not None and at < len(row) and row[at].strip()]
    dates = bool(times) and not _NUMBER.fullmatch(times[0])
    return TextFile(path, separator, names, end, roles, dates, tuple(notes))


# --- lines ----------------------------------------------------------------------------------------


def _scan(path: Path, separator: str) -> Iterator[tuple[int, int, list[str]]]:
    """Yields (first line, last line, fields) of every row that is not blank."""
    start = 1
    try:
        with open_text(path) as file:
            if separator == "::":
                for start, line in enumerate(file, 1):
                    if line.strip():
                        yield start, start, line.rstrip("\r\n").split("::")
                return
            reader = csv.reader(file, delimiter=separator)
            for row in reader:
                if row:
                    yield start, reader.line_num, row
                start = reader.line_num + 1
    except csv.Error as cause:
        raise TableError(
            f"{path}, line {start}: {cause}: close the quote, if one is open"
        ) from cause
    except zlib.error as cause:
        raise TableError(f"{path}: damaged .gz file: {in_one_line(cause)}") from cause


def _separator(path: Path) -> str:
    """Returns the separator that splits the first lines into equally many fields."""
    try:
        with open_text(path) as file:
            lines = list(islice((line for line in file if line.strip()), _HEAD))
    except zlib.error as cause:
        raise TableError(f"{path}: damaged .gz file: {in_one_line(cause)}") from cause
    if not lines:
        raise TableError(f"{path}: the file is empty")
    counts = {s: [line.count(s) for line in lines] for s in _SEPARATORS}
    present = [s for s in _SEPARATORS if counts[s][0]]
    even = [s for s in present if len({*counts[s]}) == 1]
    if not present:
        raise TableError(
            f"{path}, line 1: {lines[0].strip()[:60]!r} has a single field; expected fields separated by "
            "a comma, a tab, a semicolon, | or ::"
        )
    return (even or present)[0]


def _with_units(path: Path) -> Any:
    """Returns the bytes of a file, unpacked, with single characters in place of "::"."""
    content = path.read_bytes()
    if path.suffix.lower() == ".gz":
        content = gzip.decompress(content)
    return arrow("pyarrow").BufferReader(content.replace(b"::", _UNIT.encode()))


# --- the first line -------------------------------------------------------------------------------


def _is_header(path: Path, first: Sequence[str], separator: str) -> bool:
    """Returns False for a first line that is an interaction; rejects one that may be either."""
    if separator == "::":
        try:
            find_columns(str(path), first, None)
        except TableError:
            return False
        return True
    if not all(_NUMBER.fullmatch(field) or _DATE.fullmatch(field) for field in first):
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
    number = _NUMBER.fullmatch(field) and abs(float(field)) >= _EARLIEST
    if number or _DATE.fullmatch(field):
        raise TableError(
            f"{path}, line 1: no header line, and {field!r} in the place of the value looks like a time: "
            f"give the places, columns={{'user': 0, 'item': 1, 'timestamp': {roles['value']}}}, or with "
            "'value' if it is one"
        )


def _is_number(kind: Any) -> bool:
    return arrow("pyarrow").types.is_floating(kind)


def _without_fraction(labels: np.ndarray) -> np.ndarray:
    """Returns ids as int64 if all are whole numbers written as 7.0, as pandas writes them."""
    if labels.dtype.kind != "U" or not all(map(_FLOAT_ID.fullmatch, labels.tolist())):
        return labels
    return whole_numbers(np.array([label.partition(".")[0] for label in labels.tolist()]))
