"""Share of the hardware's limit that a step reaches, by shape."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.speed.limit import Work, hardware_limit, work_of
from benchmarks.speed.shapes import Shape, check_rounds, steps_per_call
from benchmarks.timing import in_turns, training_call

__all__ = ["SCALES", "measure"]

SCALES: dict[str, dict[str, Any]] = {
    "smoke": {
        "shapes": (Shape(60, 4, 5, 8), Shape(600, 4, 5, 8)),
        "rounds": 2,
        "items_per_call": 600,
    },
    "laptop": {
        "shapes": (
            Shape(),
            Shape(100_000),
            Shape(100_000, 64, 100),
            Shape(1_000_000, 64, 100),
        ),
        "rounds": 5,
        "items_per_call": 200_000,
    },
    "full": {
        "shapes": (
            Shape(100_000, 64, 100, 1024),
            Shape(1_000_000, 64, 100, 1024),
            Shape(10_000_000, 64, 100, 1024),
        ),
        "rounds": 9,
        "items_per_call": 20_000_000,
    },
}
"""Arguments of `measure`."""


def measure(
    shapes: Sequence[Shape],
    *,
    rounds: int,
    items_per_call: int,
    estimator: str = "top1_pg",
    retrieval: str = "auto",
) -> dict[str, Any]:
    """Times a step and the parts of the limit in turn, shape by shape.

    Args:
      shapes: shapes to time.
      rounds: timing repetitions, after one warm-up.
      items_per_call: steps times N of one timed call.
      estimator: name of the estimator to time.
      retrieval: dense, streamed, or auto.

    Returns:
      `rows`, one per shape: the work counted; seconds of the step, of the limit and of its parts; the share
      of the limit that the step reaches.

    Raises:
      ConfigError: an argument is invalid, or the estimator does not support the retrieval.
    """
    check_rounds(rounds)
    configs = [shape.config(estimator, retrieval=retrieval) for shape in shapes]
    rows = []
    for shape, config in zip(shapes, configs, strict=True):
        print(f"{estimator}, {shape}: compiling", file=sys.stderr)
        training = training_call(config, steps_per_call(config, items_per_call))
        rows.append(_row(shape, training, rounds))
        del training  # frees its memory before the next shape
    return {"estimator": estimator, "rows": rows}


def _row(shape: Shape, training: Any, rounds: int) -> dict[str, Any]:
    limit = hardware_limit(training.run)
    timings = in_turns({"step": training.seconds_per_step, **limit.parts}, rounds)
    step = timings.pop("step")
    least = limit.of({name: timing["median"] for name, timing in timings.items()})
    work: Work = work_of(training.run)
    return {
        "shape": dataclasses.asdict(shape),
        "title": str(shape),
        "retrieval": training.run.policy.retrieval.name,
        "temporary_bytes": training.temporary_bytes(),
        "work": work._asdict(),
        "seconds_per_step": step,
        "parts": timings,
        "combined_by": "sum" if limit.added else "max",
        "limit_seconds": least,
        "share_of_limit": least / step["median"],
    }
