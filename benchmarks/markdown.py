"""Reports as markdown: the paper's figure in one column and ours in the next."""

from __future__ import annotations

__all__ = ["grid"]


def grid(rows: list[list[str]]) -> str:
    """A markdown table; the first row is its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])
