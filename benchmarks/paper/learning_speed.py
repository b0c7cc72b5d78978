"""Learning speed of the trials of Figure 3: steps to 95 % of V-PG-SwR's final value."""

from __future__ import annotations

from typing import Any

from benchmarks.sweeps.results import mean_of

__all__ = ["learning_speed", "steps_to_reach"]


def learning_speed(rows: dict[str, Any], share: float = 0.95) -> list[dict[str, Any]]:
    """Returns the steps every trial of Figure 3 needs for a share of V-PG-SwR's final value at the same K.

    Returns:
      One entry per trial: the target, and the first evaluated step at which the mean over seeds, and each
      seed, reaches it; None if it does not.
    """
    finals = {
        row["labels"]["K"]: row["at"][str(row["reached"])]["mean"]
        for row in rows.values()
        if row["labels"]["estimator"] == "v_pg_swr"
    }
    entries = []
    for name, row in rows.items():
        final = finals.get(row["labels"]["K"])
        if final is None:
            continue
        target, curves = share * final, list(row["policy_value"].values())
        means = [mean_of(values)["mean"] for values in zip(*curves, strict=True)]
        entries.append(
            {
                "row": name,
                "target": target,
                "steps": steps_to_reach(row["steps"], means, target),
                "steps_by_seed": [steps_to_reach(row["steps"], c, target) for c in curves],
            }
        )
    return entries


def steps_to_reach(steps: list[int], values: list[float | None], target: float) -> int | None:
    """Returns the first evaluated step whose value is at least the target, or None.

    >>> steps_to_reach([0, 10, 20, 30], [1.0, 2.0, 3.0, 2.5], 2.5)
    20
    """
    reached = (s for s, v in zip(steps, values, strict=True) if v is not None and v >= target)
    return next(reached, None)
