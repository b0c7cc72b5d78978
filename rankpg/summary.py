"""Figures over seeds: means with intervals, and tables of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

__all__ = ["curve", "mean_interval"]


def mean_interval(values: Iterable[float]) -> tuple[float, float | None]:
    """The mean and the half-width of its 95 % interval, t * s / sqrt(n); None from a single value.

    >>> mean, half = mean_interval([1.0, 2.0, 3.0])
    >>> f"{mean:.2f} +- {half:.2f}"  # t of 2 degrees of freedom is 4.303
    '2.00 +- 2.48'
    """
    from scipy.special import stdtrit  # slow to import

    sample = np.asarray(list(values), float)
    if sample.size < 2:
        return float(sample.mean()), None
    half = stdtrit(sample.size - 1, 0.975) * sample.std(ddof=1) / np.sqrt(sample.size)
    return float(sample.mean()), float(half)


def curve(
    metrics: Iterable[dict[str, Any]], name: str = "policy_value"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A metric over training: steps, means over seeds, half-widths of their intervals (0 for one seed)."""
    by_step: dict[int, list[float]] = {}
    for row in metrics:
        if row.get(name) is not None:
            by_step.setdefault(row["step"], []).append(row[name])
    steps = sorted(by_step)
    intervals = [mean_interval(by_step[step]) for step in steps]
    means = np.array([mean for mean, _ in intervals])
    return np.array(steps), means, np.array([half or 0.0 for _, half in intervals])
