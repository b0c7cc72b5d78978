"""JSON files that are whole or not there, and that a reader of diffs can read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from rankpg.settings import ConfigError
from rankpg.whole_files import write_whole

__all__ = ["read_json", "write_json"]


def write_json(file: Path, body: dict[str, Any]) -> None:
    """Write a file whole or not at all; a list of plain values stands on one line."""
    text = json.dumps(body, indent=1, allow_nan=False)
    text = re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found.group().split()), text)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, text + "\n")


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
            f"{file} is not JSON: {error}; remove it, and `rankpg reproduce` writes it again"
        ) from None
    if not isinstance(body, dict):
        raise ConfigError(f"{file} holds a {type(body).__name__}; expected a JSON object")
    return body
