"""Reading what a run leaves, for tests: strictly, and without the library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def metrics_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl; NaN and Infinity, which Python's json accepts, are not JSON."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]
