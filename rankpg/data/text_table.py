"""Layout of a text file with a header, and its columns as text."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rankpg.data.ids import TableError
from rankpg.data.optional import arrow
from rankpg.data.text_lines import TEXT_SUFFIXES, parse_columns, scan, separator_of

__all__ = ["TextLayout", "check_packed", "layout_of", "read_text"]


@dataclasses.dataclass(frozen=True)
class TextLayout:
    """Layout of a text file; `skip` physical lines come before the first row of data."""

    path: Path
    separator: str
    names: list[str]
    skip: int

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yields (line number as in an editor, fields) of every row of data."""
        found = scan(self.path, self.separator)
        return ((start, row) for start, end, row in found if end > self.skip)

    def place(self, *numbers: int) -> str:
        """Returns text such as `line 8` for rows of data, counted from 0."""
        lines = {n: line for n, (line, _) in enumerate(self.rows()) if n in numbers}
        return f"line{'s' * (len(numbers) > 1)} {' and '.join(str(lines[n]) for n in numbers)}"

    def cell(self, row: int, column: int) -> str:
        return f"{self.place(row)}, field {column + 1}"

    def without_header(self, by_place: bool = True) -> TextLayout:
        """Returns the layout of the file without a header line, whose columns are named by their places."""
        first = next(scan(self.path, self.separator))
        names = [str(i) if by_place else f"field {i + 1}" for i in range(len(first[2]))]
        return dataclasses.replace(self, names=names, skip=first[0] - 1)

    def parse(self, ids: Sequence[int], numbers: Sequence[int]) -> tuple[list[Any], int]:
        """Returns columns, ids as dictionaries of text, numbers as float64, and the number of their lines."""
        pyarrow = arrow("pyarrow")
        text = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
        types = {str(i): text for i in ids} | {str(i): pyarrow.float64() for i in numbers}
        table, lines = parse_columns(self.path, self.separator, self.names, self.skip, types)
        return [column.combine_chunks() for column in table.columns], lines


def check_packed(path: Path) -> None:
    """Rejects a .gz file that packs another kind of file than text."""
    inner = Path(path.stem).suffix
    if path.suffix.lower() == ".gz" and inner.lower() not in TEXT_SUFFIXES:
        raise TableError(
            f"{path}: unknown extension {inner!r} of a compressed file: expected one of "
            f"{', '.join(TEXT_SUFFIXES)} before .gz"
        )


def layout_of(path: Path) -> TextLayout:
    """Returns the layout of a file with a header.

    Raises:
      TableError: the file is empty or damaged.
    """
    check_packed(path)
    separator = separator_of(path) or ","
    first = next(scan(path, separator), None)
    if first is None:
        raise TableError(f"{path}: the file is empty")
    return TextLayout(path, separator, [name.strip() for name in first[2]], first[1])


def read_text(path: Path) -> tuple[dict[str, Any], Callable[[int], str], int]:
    """Reads every column of a text file with a header.

    Returns:
      The columns as Arrow text by name, a function from row to line, and the number of lines of the rows.

    Raises:
      TableError: a line is wrong, a name occurs twice, or there are no rows.
    """
    layout = layout_of(path)
    for name in layout.names:
        if layout.names.count(name) > 1:
            raise TableError(f"{path}: more than one column {name!r}: rename or drop one")
    columns, lines = layout.parse(range(len(layout.names)), [])
    return dict(zip(layout.names, columns, strict=True)), layout.place, lines
