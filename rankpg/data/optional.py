"""PyArrow, which is imported when a table needs it."""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ["arrow"]


def arrow(module: str) -> ModuleType:
    """Imports pyarrow, or a module of it, when a table needs it.

    Raises:
      ImportError: pyarrow is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as cause:
        raise ImportError(
            "CSV, Parquet and data frames need pyarrow: pip install 'rankpg[data]' (.npz and NumPy arrays do "
            "not)"
        ) from cause
