"""Time and temporary memory of a step against N, with exponents of growth."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.speed.shapes import Shape, check_rounds, steps_per_call, suited_estimators
from benchmarks.timing import Training, in_turns, training_call
from rankpg.core.estimators import ESTIMATORS
from rankpg.errors import ConfigError
from rankpg.runs.memory import DoesNotFit
from rankpg.training.build import make_environment

__all__ = ["SCALES", "fit_power_law", "measure"]

RETRIEVALS = ("streamed", "dense")

_SIZES = (1000, 3162, 10_000, 31_623, 100_000, 316_228, 1_000_000)

SCALES: dict[str, dict[str, Any]] = {
    "smoke": {
        "shape": Shape(60, 4, 5, 8),
        "sizes": (60, 240),
        "estimators": ("top1_pg",),
        "rounds": 2,
        "items_per_call": 600,
        "fit_from": 60,
    },
    "laptop": {
        "shape": Shape(1000, 64, 100),
        "sizes": _SIZES,
        "rounds": 5,
        "items_per_call": 200_000,
        "fit_from": 10_000,
    },
    "full": {
        "shape": Shape(1000, 64, 100, 1024),
        "sizes": (*_SIZES, 3_162_278, 10_000_000),
        "rounds": 9,
        "items_per_call": 20_000_000,
        "fit_from": 10_000,
    },
}
"""Arguments of `measure`."""

Arm = tuple[str, str, int]
"""estimator, retrieval, N"""


def measure(
    shape: Shape,
    *,
    sizes: Sequence[int],
    rounds: int,
    items_per_call: int,
    fit_from: int,
    estimators: Sequence[str] = tuple(
        name for name, entry in ESTIMATORS.items() if entry.statistics != "catalogue"
    ),
) -> dict[str, Any]:
    """Times every estimator's step at every size, streamed and, where it fits the memory, dense.

    All estimators and sizes are timed in turn within a round, so that load on the machine affects every part
    of a curve alike.

    Args:
      shape: D, K, B and M.
      sizes: catalogue sizes N.
      rounds: timing repetitions, after one warm-up.
      items_per_call: steps times N of one timed call.
      fit_from: smallest N of the fits.
      estimators: names of the estimators to time.

    Returns:
      `rows`, one per estimator and retrieval: seconds per step and temporary memory by N, the power laws
      fitted to them, and the reason for every size left out.

    Raises:
      ConfigError: an argument is invalid, or the streamed programs do not fit the memory.
    """
    check_rounds(rounds)
    sizes = _checked(sizes, shape)
    trainings, left_out = _compile(shape, sizes, estimators, items_per_call)
    timings = in_turns({arm: t.seconds_per_step for arm, t in trainings.items()}, rounds)
    pairs = dict.fromkeys((name, retrieval) for name, retrieval, _ in (*trainings, *left_out))
    rows = []
    for name, retrieval in pairs:
        here = [n for n in sizes if (name, retrieval, n) in trainings]
        seconds = {n: timings[name, retrieval, n] for n in here}
        memory = {n: trainings[name, retrieval, n].temporary_bytes() for n in here}
        medians = {n: timing["median"] for n, timing in seconds.items()}
        rows.append(
            {
                "estimator": name,
                "retrieval": retrieval,
                "seconds_per_step": {str(n): timing for n, timing in seconds.items()},
                "temporary_bytes": {str(n): size for n, size in memory.items()},
                "growth": {
                    "time": fit_power_law(medians, fit_from),
                    "memory": fit_power_law(memory, fit_from),
                },
                "left_out": {
                    str(n): reason
                    for (*pair, n), reason in left_out.items()
                    if pair == [name, retrieval]
                },
            }
        )
    settings = {k: v for k, v in dataclasses.asdict(shape).items() if k != "num_items"}
    return {"settings": settings, "sizes": sizes, "fit_from": fit_from, "rows": rows}


def fit_power_law(values: Mapping[int, int | float], fit_from: int = 1) -> dict[str, float] | None:
    """Fits the power law factor * N^exponent by least squares in logarithms.

    Args:
      values: values by N; those that are not positive are left out.
      fit_from: smallest N to include.

    Returns:
      exponent, factor and points (the number of values included); None for fewer than two.

    >>> fit_power_law({n: 3 * n**0.5 for n in (1, 10, 100, 1000)}, fit_from=10)
    {'exponent': 0.5, 'factor': 3.0, 'points': 3}
    """
    points = [(n, value) for n, value in values.items() if n >= fit_from and value > 0]
    if len(points) < 2:
        return None
    log_sizes, log_values = np.log(np.asarray(points, float)).T
    exponent, constant = np.polyfit(log_sizes, log_values, 1)
    return {"exponent": float(exponent), "factor": float(np.exp(constant)), "points": len(points)}


def _checked(sizes: Sequence[int], shape: Shape) -> list[int]:
    for size in sizes:
        if size < shape.num_candidates:
            raise ConfigError(
                f"sizes={tuple(sizes)}: {size} is too small; expected at least num_candidates="
                f"{shape.num_candidates}"
            )
    return sorted(set(sizes))


def _compile(
    shape: Shape, sizes: list[int], estimators: Sequence[str], items_per_call: int
) -> tuple[dict[Arm, Training], dict[Arm, str]]:
    """Compiles every arm that fits the memory next to those before it; returns reasons for the others.

    The streamed arms come first and must fit; the dense arms follow, smallest first.
    """
    at = {n: dataclasses.replace(shape, num_items=n) for n in sizes}
    world = {n: make_environment(at[n].config("top1_pg")) for n in sizes}
    trainings: dict[Arm, Training] = {}
    left_out: dict[Arm, str] = {}
    for retrieval in RETRIEVALS:
        suited, reasons = suited_estimators(estimators, shape, retrieval)
        left_out |= {(e, retrieval, n): why for e, why in reasons.items() for n in sizes}
        for n in sizes:
            for name in suited:
                print(f"{name}, {retrieval}, N = {n:,}: compiling", file=sys.stderr)
                config = at[n].config(name, retrieval=retrieval)
                steps = steps_per_call(config, items_per_call)
                try:
                    trainings[name, retrieval, n] = training_call(config, steps, world[n])
                except DoesNotFit as error:
                    if retrieval == "streamed":
                        raise ConfigError(
                            f"{error}. All sizes and estimators are held at once: give fewer estimators=, or "
                            "reduce the largest of sizes="
                        ) from None
                    left_out[name, retrieval, n] = str(error)
                    print(f"left out: {error}", file=sys.stderr)
    return trainings, left_out
