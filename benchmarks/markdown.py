"""Markdown tables."""

from __future__ import annotations

__all__ = ["grid"]


def grid(rows: list[list[str]]) -> str:
    """Returns rows as a markdown table; the first row is the header.

    >>> print(grid([["N", "K"], ["1,000", "10"]]))
    | N | K |
    |---|---|
    | 1,000 | 10 |
    """
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])
