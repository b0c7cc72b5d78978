"""Timing of several programs against each other."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from rankpg.config import TrainConfig
from rankpg.run import prepare, seed_keys
from rankpg.training import train_chunk
from rankpg.types import Environment

__all__ = ["interleaved", "training_call"]


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


def training_call(
    config: TrainConfig, length: int, environment: Environment | None = None
) -> Callable[[], Any]:
    """A call that trains `length` more steps of a config, compiled already, and waits for them."""
    run = prepare(config, environment)
    roots = seed_keys(run.config, "steps")
    chunk = train_chunk(run.pipeline, length).lower(run.environment, run.state, roots).compile()

    def call():
        run.state, metrics = chunk(run.environment, run.state, roots)
        return jax.block_until_ready(metrics)

    return call
