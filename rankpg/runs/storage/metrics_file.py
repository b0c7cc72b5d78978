"""metrics.jsonl: one JSON object per evaluation and seed, appended during training."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import cast

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
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    for number, text in enumerate(lines, start=1):
        try:
            row = json.loads(text)
        except RecursionError:
            raise ConfigError(f"{file}, line {number} is nested too deeply") from None
        except json.JSONDecodeError as error:
            if number == len(lines):  # the run was cut off while it wrote its last line
                break
            raise ConfigError(f"{file}, line {number} is not JSON: {error}") from None
        if not isinstance(row, dict) or not _is_row(row):
            raise ConfigError(
                f"{file}, line {number} is not a row of metrics: step, seed or policy_value is missing, or a "
                "value is not a finite number; restore that line, or train again into another out="
            )
        rows.append({_RENAMED.get(name, name): value for name, value in row.items()})
    return rows


def _is_row(row: Row) -> bool:
    whole = all(type(row.get(name)) is int for name in ("step", "seed"))
    others = [value for name, value in row.items() if name != "stopped_by"]
    return whole and all(map(_is_number, others)) and "policy_value" in row


def _is_number(value: object) -> bool:
    """Returns True for None and for what a float can hold."""
    if value is None:
        return True
    try:
        return type(value) in (int, float) and math.isfinite(float(cast("float", value)))
    except OverflowError:
        return False
