"""JSON files that are whole or not there, and that a reader of diffs can read."""

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
    """Make the folder of a report before anything is measured for it.

    Raises:
      ConfigError: there is a file of this name, or no folder can be made or written there.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError("it may not be written")
    except OSError as error:
        raise ConfigError(f"--out {path} is no folder that can be written: {error}") from error


def write_json(file: Path, body: dict[str, Any]) -> None:
    """Write a file whole or not at all; a list of plain values stands on one line."""
    text = json.dumps(body, indent=1, allow_nan=False)
    text = re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found.group().split()), text)
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(file, text + "\n")


def read_json(file: Path) -> dict[str, Any]:
    """What `write_json` wrote.

    Raises:
      ConfigError: it cannot be read, or is no JSON object.
    """
    try:
        body = json.loads(file.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{file} is not JSON: {error}. Put a whole copy in its place, or move it away: what run folders "
            "hold is then written again, and the rest is measured again"
        ) from None
    if not isinstance(body, dict):
        raise ConfigError(f"{file} holds a {type(body).__name__}; expected a JSON object")
    return body
