"""Timing of several programs against each other."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

__all__ = ["interleaved"]


def interleaved(arms: dict[str, Callable[[], Any]], rounds: int = 5) -> dict[str, dict[str, float]]:
    """Seconds per call of every arm: one warm-up, then `rounds` rounds in which all arms take turns.

    So whatever else the machine does meanwhile slows all of them alike.

    >>> timing = interleaved({"nothing": lambda: None}, rounds=3)["nothing"]
    >>> 0 <= timing["min"] <= timing["median"] <= timing["max"]
    True
    """
    for call in arms.values():
        jax.block_until_ready(call())
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, call in arms.items():
            began = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name].append(time.perf_counter() - began)
    return {
        name: {"median": float(np.median(s)), "min": min(s), "max": max(s), "rounds": rounds}
        for name, s in seconds.items()
    }
