"""Lines and fields of text files: encoding, separator, quotes, and columns parsed by pyarrow.

file -> encoding, separator -> rows with their line numbers | columns

Every row of a table is one line, except for text in quotes that spans several. A quote that is left open
would join rows without a word, so the number of rows is compared with the number of lines.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import unicodedata
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from rankpg.data.ids import TableError
from rankpg.data.optional import arrow

__all__ = [
    "DATE",
    "NOT_FINITE",
    "NUMBER",
    "TEXT_SUFFIXES",
    "count_lines",
    "line_fault",
    "number_remedy",
    "open_lines",
    "parse_columns",
    "scan",
    "separator_of",
]

TEXT_SUFFIXES = (".csv", ".tsv", ".dat", ".data", ".inter", ".txt")
NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*")
NOT_FINITE = re.compile(r"\s*|[+-]?(nan|inf|infinity)|n/?a|null", re.IGNORECASE)
DATE = re.compile(r"\s*[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}.*)?\s*")
_DECIMAL_COMMA = re.compile(r"\s*[+-]?[0-9]+,[0-9]+\s*")
_THOUSANDS = re.compile(
    r"\s*[+-]?[0-9]{1,3}(?:(?P<mark>[,.' \u00a0\u2009\u202f\u2019])[0-9]{3})+(?:[.,][0-9]+)?\s*"
)
"""A number with separators of thousands; one group of three after a single comma may also be decimals."""
_SEP = re.compile(r"sep=(.)", re.IGNORECASE)
_BOOLEAN = {"true", "false"}

_SEPARATORS = ("::", "\t", ";", "|", ",")
_UNIT = "\x1f"
"""The separator that takes the place of "::", since pyarrow splits at single characters."""
_HEAD = 10
"""Lines from which the separator is found."""
_GZIP = b"\x1f\x8b"
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks, and the encodings that they name."""
_ZEROS = {
    "utf-32-le": (False, True, True, True),
    "utf-32-be": (True, True, True, False),
    "utf-16-le": (False, True),
    "utf-16-be": (True, False),
}
"""Encoding -> True for the bytes of a character that are 0 in text of the Latin alphabet."""


# --- bytes ----------------------------------------------------------------------------------------


def _start(path: Path) -> tuple[bool, bytes]:
    """Returns True for a gzip file, whatever its name, and its first bytes, unpacked."""
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            return packed, file.read(256)
    except (zlib.error, EOFError, OSError) as cause:
        raise _damaged_gzip(path) from cause


def _damaged_gzip(path: Path) -> TableError:
    return TableError(f"{path} is damaged: it cannot be unpacked (gzip): restore a copy of it")


def _encoding(start: bytes) -> str:
    """Returns the encoding that the first bytes show; UTF-16 is what spreadsheets call Unicode text.

    A mark at the start names it. Without one, it shows in which bytes of each character are 0.

    >>> _encoding("user,item".encode("utf-16-be")), _encoding("user,item".encode("utf-32"))
    ('utf-16-be', 'utf-32')
    """
    for mark, name in _MARKS:
        if start.startswith(mark):
            return name
    for name, places in _ZEROS.items():
        whole = start[: len(start) // len(places) * len(places)]
        zeros = [whole[i :: len(places)].count(0) * len(places) for i in range(len(places))]
        fits = [
            n > 0.8 * len(whole) if zero else not n for n, zero in zip(zeros, places, strict=True)
        ]
        if len(whole) > 4 * len(places) and all(fits):
            return name
    return "utf-8-sig"


def open_lines(path: Path) -> io.TextIOWrapper:
    """Opens a file as text, unpacked if it is a gzip file; the caller closes it."""
    packed, start = _start(path)
    content = gzip.GzipFile(path) if packed else path.open("rb")
    return io.TextIOWrapper(content, newline="", encoding=_encoding(start), errors="replace")


def _source(path: Path, separator: str) -> Any:
    """Returns what pyarrow reads: the path of a plain UTF-8 file, or else its bytes as UTF-8."""
    packed, start = _start(path)
    encoding, named = _encoding(start), path.suffix.lower() == ".gz"
    if encoding == "utf-8-sig" and separator != "::" and packed == named:
        return str(path)
    content = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
    if encoding != "utf-8-sig":
        content = content.decode(encoding, "replace").encode()
    if separator == "::":
        content = content.replace(b"::", _UNIT.encode())
    return arrow("pyarrow").BufferReader(content)


# --- lines ----------------------------------------------------------------------------------------


def separator_of(path: Path) -> str | None:
    """Returns the separator that splits the first lines into equally many fields; None if there is none.

    Raises:
      TableError: the file is empty or damaged.
    """
    try:
        with open_lines(path) as file:
            lines = list(islice((line for line in file if line.strip()), _HEAD))
    except (zlib.error, EOFError) as cause:
        raise _damaged_gzip(path) from cause
    if not lines:
        raise TableError(f"{path}: the file is empty")
    if named := _SEP.fullmatch(lines[0].strip()):
        return named[1]
    if Path(path.name.removesuffix(".gz")).suffix.lower() == ".tsv" and "\t" in lines[0]:
        return "\t"
    counts = {s: [line.count(s) for line in lines] for s in _SEPARATORS}
    present = [s for s in _SEPARATORS if counts[s][0]]
    even = [s for s in present if len({*counts[s]}) == 1]
    if even:
        return even[0]
    if present:
        return max(present, key=lambda s: counts[s][0])
    return " " if " " in lines[0].strip() else None


def scan(path: Path, separator: str) -> Iterator[tuple[int, int, list[str]]]:
    """Yields (first line, last line, fields) of every row that is not blank, without a line sep=.

    Raises:
      TableError: a quote is open at the end, or the file is damaged.
    """
    start = 1
    try:
        with open_lines(path) as file:
            if separator == "::":  # these files have no quotes
                for start, line in enumerate(file, 1):
                    if line.strip():
                        yield start, start, line.rstrip("\r\n").split("::")
                return
            reader = csv.reader(file, delimiter=separator)
            for row in reader:
                is_sep = start == 1 and row and row[0].lower().startswith("sep=")
                if row and not (is_sep and not "".join(row[1:])):
                    yield start, reader.line_num, row
                start = reader.line_num + 1
    except csv.Error as cause:
        raise TableError(
            f"{path}, line {start}: this row never ends: close the quote, if one is open"
        ) from cause
    except (zlib.error, EOFError) as cause:
        raise _damaged_gzip(path) from cause


def count_lines(path: Path, separator: str, skip: int, rows: int) -> int:
    """Returns the number of lines that hold rows, after checking that no quote joins some of them.

    Args:
      path: a text file.
      separator: the separator of its fields.
      skip: number of lines before the first row.
      rows: number of rows that were read.

    Raises:
      TableError: a text in quotes spans lines that are rows by themselves.
    """
    if separator == "::" or rows == _newlines(path) - skip:
        return rows
    width, lines = 0, 0
    for start, end, row in scan(path, separator):
        width = width or len(row)
        if end <= skip:
            continue
        lines += end - start + 1
        if end > start:
            _check_joined(path, separator, start, end, width)
    return lines


def _newlines(path: Path) -> int:
    """Returns the number of lines, blank ones included; -1 where it is not worth counting them."""
    packed, start = _start(path)
    if packed or _encoding(start) != "utf-8-sig":
        return -1
    count, last = 0, b"\n"
    with path.open("rb") as file:
        while block := file.read(2**22):
            count, last = count + block.count(b"\n"), block[-1:]
    return count + (last != b"\n")


def _check_joined(path: Path, separator: str, start: int, end: int, width: int) -> None:
    """Rejects a row of several lines, some of which would be rows if no quote joined them."""
    with open_lines(path) as file:
        inside = list(islice(file, start - 1, end))[1:]
    alike = [line for line in inside if line.count(separator) == width - 1]
    if alike and width > 1:
        raise TableError(
            f"{path}, line {start}: a quote opens a text that goes on to line {end}, over lines that look "
            'like rows: remove the quote, or write it as "" in a text in quotes'
        )


# --- columns --------------------------------------------------------------------------------------


def parse_columns(
    path: Path, separator: str, names: Sequence[str], skip: int, types: Mapping[str, Any]
) -> tuple[Any, int]:
    """Returns columns by their places as a pyarrow.Table, and the number of lines that they came from.

    Text becomes dictionaries, and an empty number NaN. Numbers may be written as true and false.

    Args:
      path: a text file.
      separator: the separator of its fields.
      names: names of its columns, for messages.
      skip: number of lines before the first row.
      types: type of pyarrow by place, "0", "1", ...

    Raises:
      TableError: a line is wrong, or there is none; the message names it.
    """
    pyarrow, reader = arrow("pyarrow"), arrow("pyarrow.csv")
    plain = separator == "::"

    def read(kinds: Mapping[str, Any]) -> Any:
        return reader.read_csv(
            _source(path, separator),
            reader.ReadOptions(column_names=[str(i) for i in range(len(names))], skip_rows=skip),
            reader.ParseOptions(
                delimiter=_UNIT if plain else separator,
                quote_char=False if plain else '"',
                newlines_in_values=not plain,
            ),
            reader.ConvertOptions(column_types=dict(kinds), include_columns=list(kinds)),
        )

    numbers = [name for name, kind in types.items() if pyarrow.types.is_floating(kind)]
    try:
        table = read(types)
    except pyarrow.ArrowException as cause:
        booleans = _booleans(path, separator, skip, [int(name) for name in numbers])
        fault = line_fault(path, separator, names, skip, [int(n) for n in numbers], booleans)
        if fault is not None or not booleans:
            raise fault or TableError(
                f"{path}: not readable as CSV in UTF-8. A file in another encoding: save it as UTF-8"
            ) from cause
        table = _with_booleans(read, types, {str(i) for i in booleans})
    if not len(table):
        raise TableError(f"{path}: no rows after the header")
    return table.unify_dictionaries(), count_lines(path, separator, skip, len(table))


def _booleans(path: Path, separator: str, skip: int, places: Sequence[int]) -> set[int]:
    """Returns the places of columns that hold true and false alone."""
    found = set(places)
    for _, end, row in scan(path, separator):
        if end > skip and found:
            found = {i for i in found if i < len(row) and row[i].strip().lower() in _BOOLEAN}
    return found


def _with_booleans(read: Any, types: Mapping[str, Any], booleans: set[str]) -> Any:
    """Returns the columns, true and false as 1 and 0."""
    pyarrow = arrow("pyarrow")
    table = read({n: pyarrow.bool_() if n in booleans else kind for n, kind in types.items()})
    for place, name in enumerate(table.column_names):
        if name in booleans:
            column = table[name].cast(pyarrow.uint8()).cast(pyarrow.float64())
            table = table.set_column(place, name, column)
    return table


def line_fault(
    path: Path,
    separator: str,
    names: Sequence[str],
    skip: int,
    numbers: Sequence[int],
    booleans: set[int],
) -> TableError | None:
    """Returns the error for the first line that pyarrow rejects, found by reading the file again."""
    empty = True
    for line, end, fields in scan(path, separator):
        if end <= skip:
            continue
        empty = False
        if len(fields) != len(names):
            return TableError(
                f"{path}, line {line}: {len(fields)} fields where the first line has {len(names)}: "
                "correct or remove the line"
            )
        for i in numbers:
            if i in booleans or NUMBER.fullmatch(fields[i]) or NOT_FINITE.fullmatch(fields[i]):
                continue
            return TableError(
                f"{path}, line {line}, column {names[i]!r}: {fields[i]!r} is not a number: "
                f"{number_remedy(fields[i]) or 'correct or remove the line'}"
            )
    return TableError(f"{path}: no rows after the header") if empty else None


def number_remedy(field: str) -> str | None:
    """Returns how to write a field that is almost a number; None for other text.

    >>> number_remedy("12,5"), number_remedy("1,234,567"), number_remedy("twelve")
    ('write a decimal point', 'write it without separators of thousands, 1234567', None)
    """
    given = field.strip()
    plain = "".join(str(unicodedata.decimal(c, c)) for c in given)
    if plain != given and NUMBER.fullmatch(plain):
        return f"it has digits of another script; write it in the digits 0 to 9, {plain}"
    thousands = _THOUSANDS.fullmatch(plain)
    if thousands is None:
        return "write a decimal point" if _DECIMAL_COMMA.fullmatch(plain) else None
    whole = plain.replace(thousands["mark"], "").replace(",", ".")
    if thousands["mark"] == "," and plain.count(",") == 1 and "." not in plain:
        decimal = plain.replace(",", ".")
        return (
            f"write {whole} if the comma separates thousands, or {decimal} if it is a decimal point"
        )
    return f"write it without separators of thousands, {whole}"
