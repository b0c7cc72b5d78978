"""Updates per second of every estimator at one shape, with and without the environment."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.speed.constant import ConstantRewards
from benchmarks.speed.shapes import Shape, check_rounds, steps_per_call, suited_estimators
from benchmarks.timing import Training, in_turns, training_call
from rankpg.core.estimators import ESTIMATORS
from rankpg.errors import ConfigError

__all__ = ["SCALES", "measure"]

SCALES: dict[str, dict[str, Any]] = {
    "smoke": {
        "shape": Shape(60, 4, 5, 8),
        "estimators": ("top1_pg", "ca_pg"),
        "rounds": 2,
        "items_per_call": 600,
    },
    "laptop": {"shape": Shape(), "rounds": 5, "items_per_call": 200_000},
    "full": {"shape": Shape(), "rounds": 9, "items_per_call": 200_000},
}
"""Arguments of `measure`."""


def measure(
    shape: Shape,
    *,
    rounds: int,
    items_per_call: int,
    estimators: Sequence[str] = tuple(ESTIMATORS),
    retrieval: str = "auto",
) -> dict[str, Any]:
    """Times every estimator's update (tuned preset, one seed); all are timed in turn within a round.

    Args:
      shape: the shape to time.
      rounds: timing repetitions, after one warm-up.
      items_per_call: steps times N of one timed call.
      estimators: names of the estimators; those that do not support the shape are returned with the reason.
      retrieval: dense, streamed, or auto.

    Returns:
      `rows`: estimator -> steps per second and seconds per step, with and without the environment;
      `left_out`: estimator -> reason.

    Raises:
      ConfigError: an argument is invalid, or no estimator supports the shape.
    """
    check_rounds(rounds)
    suited, left_out = suited_estimators(estimators, shape, retrieval)
    if not suited:
        reasons = "; ".join(f"{name} {reason}" for name, reason in left_out.items())
        raise ConfigError(f"estimators={tuple(estimators)} leaves nothing to measure: {reasons}")
    calls: dict[str, tuple[Training, Training]] = {}
    configs = {
        name: shape.config(name, preset="tuned", adaptive_learning_rate=None, retrieval=retrieval)
        for name in suited
    }
    for name, config in configs.items():
        print(f"{name}: compiling", file=sys.stderr)
        steps = steps_per_call(config, items_per_call)
        constant = ConstantRewards(config.num_contexts, config.num_items)
        calls[name] = training_call(config, steps), training_call(config, steps, constant)
    arms = {
        (name, part): call.seconds_per_step
        for name, both in calls.items()
        for part, call in zip(("whole", "learner"), both, strict=True)
    }
    timings = in_turns(arms, rounds)
    rows = {
        name: {
            "retrieval": whole.run.policy.retrieval.name,
            "steps_per_call": whole.length,
            **_speed(timings[name, "whole"]),
            "without_environment": _speed(timings[name, "learner"]),
        }
        for name, (whole, _) in calls.items()
    }
    return {"settings": dataclasses.asdict(shape), "rows": rows, "left_out": left_out}


def _speed(timing: dict[str, float]) -> dict[str, Any]:
    return {"steps_per_second": 1 / timing["median"], "seconds_per_step": timing}
