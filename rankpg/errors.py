"""Errors that every layer of the package raises."""

from __future__ import annotations

__all__ = ["ConfigError", "DataWarning", "argument"]


class ConfigError(ValueError):
    """A setting that cannot be used; the message names it, its value and what is required."""


class DataWarning(UserWarning):
    """Data from which less can be learnt than it seems: rewards, features or columns that mislead."""


def argument(name: str, value: object) -> str:
    """Returns an argument and its value as an error message writes them: the command line makes a flag of it.

    >>> argument("retrieval", "dense")
    "retrieval='dense'"
    """
    return f"{name}={value!r}"
