"""Former names of settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["RENAMED", "with_current_names"]

RENAMED = {"late_stage": "reranker", "reward_transform": "advantage"}
"""former name -> name of a setting."""


def with_current_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings that an earlier version saved under their current names.

    >>> with_current_names({"late_stage": "optimal", "num_steps": 5})
    {'reranker': 'optimal', 'num_steps': 5}
    """
    return {RENAMED.get(name, name): value for name, value in settings.items()}
