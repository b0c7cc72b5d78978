"""metrics.jsonl: one JSON object per evaluation and seed, appended during training."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from rankpg._utils.documents import DocumentError, SyntaxFault, kind_in_words, parse_json
from rankpg._utils.own_files import open_own
from rankpg.errors import ConfigError
from rankpg.evaluation.metrics import Row

__all__ = ["append_rows", "line", "read_metrics"]


_RENAMED = {"share_of_optimum": "normalised_value", "late_stage_regret": "reranker_regret"}
"""former name -> name of a column."""


def line(row: Row) -> str:
    """Returns a row as a line of the file."""
    return json.dumps(row, allow_nan=False) + "\n"


def append_rows(file: Path, rows: Iterable[Row]) -> None:
    """Appends all rows or none: an incomplete write, on a full disk for instance, is undone.

    Raises:
      OSError: the rows cannot be written, or the file is a link.
    """
    content = "".join(line(row) for row in rows).encode()
    descriptor = open_own(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with os.fdopen(descriptor, "ab", buffering=0) as end:
        before = end.seek(0, os.SEEK_END)
        try:
            while content:
                content = content[end.write(content) :]
            os.fsync(descriptor)
        except OSError:
            end.truncate(before)
            raise


def read_metrics(file: Path) -> list[Row]:
    """Returns the rows of a metrics file, without a last line that was cut off.

    Columns that an earlier version saved under another name get their current one.

    Raises:
      ConfigError: the file cannot be read, or a line is not a row.
    """
    rows = []
    try:
        lines = file.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {kind_in_words(error)}") from None
    while lines and not lines[-1].strip():
        lines.pop()
    for number, text in enumerate(lines, start=1):
        try:
            row = parse_json(text, f"{file}, line {number}")
        except SyntaxFault as error:
            if number == len(lines):  # the run was cut off while it wrote its last line
                break
            raise ConfigError(str(error)) from None
        except DocumentError as error:
            raise ConfigError(str(error)) from None
        if not isinstance(row, dict) or not _is_row(row):
            raise ConfigError(
                f"{file}, line {number} is not a row of metrics: step, seed or policy_value is missing, or a "
                "value is not a finite number; restore that line, or train again into another out="
            )
        rows.append({_RENAMED.get(name, name): value for name, value in row.items()})
    return rows


def _is_row(row: Row) -> bool:
    whole = all(type(n := row.get(name)) is int and 0 <= n < 2**63 for name in ("step", "seed"))
    others = [value for name, value in row.items() if name != "stopped_by"]
    numbers = all(value is None or _is_number(value) for value in others)
    return whole and numbers and "policy_value" in row


def _is_number(value: object) -> bool:
    """Returns True for a number of at most the size that a float has."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max  # pyright: ignore
