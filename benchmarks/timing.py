"""Times several programs against each other, in interleaved rounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import jax
import numpy as np

from rankpg.config.train_config import TrainConfig
from rankpg.environments.dataset import Dataset
from rankpg.runs.run import Run, prepare
from rankpg.training.update import seed_keys, train_chunk
from rankpg.types import Environment

__all__ = ["Training", "in_turns", "interleaved", "seconds_of", "training_call"]

Name = TypeVar("Name")


def in_turns(
    arms: Mapping[Name, Callable[[], float]], rounds: int = 5
) -> dict[Name, dict[str, float]]:
    """Median, min and max of the seconds that every arm returns, over rounds in which all arms take turns.

    One warm-up comes first. Because the arms alternate, other load on the machine slows all of them alike.

    >>> in_turns({"two": lambda: 2.0}, rounds=3)
    {'two': {'median': 2.0, 'min': 2.0, 'max': 2.0, 'rounds': 3}}
    """
    for arm in arms.values():
        arm()
    seconds: dict[Name, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            seconds[name].append(arm())
    return {
        name: {"median": float(np.median(s)), "min": min(s), "max": max(s), "rounds": rounds}
        for name, s in seconds.items()
    }


def interleaved(
    arms: Mapping[Name, Callable[[], Any]], rounds: int = 5
) -> dict[Name, dict[str, float]]:
    """Times a call of every arm, as `in_turns`.

    >>> timing = interleaved({"nothing": lambda: None}, rounds=3)["nothing"]
    >>> 0 <= timing["min"] <= timing["median"] <= timing["max"]
    True
    """
    return in_turns({name: partial(seconds_of, call) for name, call in arms.items()}, rounds)


def seconds_of(call: Callable[[], Any]) -> float:
    """Wall time of one call, in seconds, until its arrays are ready."""
    began = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - began


@dataclass
class Training:
    """A compiled call that trains `length` more steps and waits for them."""

    run: Run
    length: int
    program: Any
    roots: Any

    def __call__(self) -> Any:
        """Trains one chunk and returns its metrics."""
        run = self.run
        run.state, metrics = self.program(run.learner, run.state, self.roots)
        return jax.block_until_ready(metrics)

    def seconds_per_step(self) -> float:
        """Trains one chunk and returns its seconds per step."""
        return seconds_of(self) / self.length

    def temporary_bytes(self) -> int:
        """Memory that the compiler plans for the step beyond parameters, gradient and optimizer state."""
        gradient = sum(x.nbytes for x in jax.tree.leaves(self.run.state.params))
        return max(0, self.program.memory_analysis().temp_size_in_bytes - gradient)


def training_call(
    config: TrainConfig, length: int, environment: Environment | Dataset | None = None
) -> Training:
    """Compiles `length` steps of a config as one program."""
    run = prepare(config, environment)
    roots = seed_keys(run.config.seeds, "steps")
    program = train_chunk(run.learner, length).lower(run.learner, run.state, roots).compile()
    return Training(run, length, program, roots)
