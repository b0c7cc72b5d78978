"""Atomic, diff-friendly JSON files."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from rankpg._utils.files import atomic_write_text
from rankpg.errors import ConfigError

__all__ = ["make_folder", "read_json", "write_json"]


def make_folder(path: Path) -> None:
    """Creates the output folder of a report before anything is measured.

    Raises:
      ConfigError: the path is a file, or the folder cannot be created or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError("no write permission")
    except OSError as error:
        raise ConfigError(f"out={str(path)!r} is not a writable folder: {error}") from error


def write_json(file: Path, body: dict[str, Any]) -> None:
    """Writes a JSON file atomically; a list of plain values stands on one line."""
    text = json.dumps(body, indent=1, allow_nan=False)
    text = re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found.group().split()), text)
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(file, text + "\n")


def read_json(file: Path) -> dict[str, Any]:
    """Reads a file written by `write_json`.

    Raises:
      ConfigError: the file cannot be read, or does not hold a JSON object.
    """
    try:
        body = json.loads(file.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{file} is not JSON: {error}. Replace it by an intact copy, or move it away: the results of run "
            "folders are then collected again, and everything else is measured again"
        ) from None
    if not isinstance(body, dict):
        raise ConfigError(f"{file} holds a {type(body).__name__}; expected a JSON object")
    return body
