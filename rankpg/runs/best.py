"""The best evaluation of a run, and the end of training that no longer improves on it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from rankpg.config.train_config import TrainConfig
from rankpg.environments.dataset import Dataset
from rankpg.errors import ConfigError, argument
from rankpg.evaluation.metrics import Row

__all__ = ["VALIDATION", "best_step", "check_patience", "is_exhausted"]

VALIDATION = "validation_ndcg@10"
"""Metric of the validation part that chooses the best evaluation and ends training."""

_CUTOFF = 10


def best_step(rows: Iterable[Row]) -> int | None:
    """Returns the step of the best evaluation, by the mean over seeds; None if there is none.

    Where rows have validation_ndcg@10, it is the largest one, and the earliest of equals. Otherwise it is the
    largest policy value, and the latest of equals.

    >>> best_step([{"step": s, "seed": 0, "policy_value": v} for s, v in ((0, 1.0), (5, 3.0), (9, 2.0))])
    5
    >>> best_step([{"step": 4, "seed": 0, "policy_value": 1.0, "validation_ndcg@10": 0.25}])
    4
    """
    rows = list(rows)
    by_validation = any(row.get(VALIDATION) is not None for row in rows)
    means = _means(rows, VALIDATION if by_validation else "policy_value")
    sign = -1 if by_validation else 1
    return max(means, key=lambda step: (means[step], sign * step), default=None)


def is_exhausted(rows: Iterable[Row], patience: int) -> bool:
    """Returns True where `patience` evaluations or more follow the best one.

    >>> rows = [{"step": s, "seed": 0, "policy_value": 0.0, VALIDATION: v} for s, v in ((0, 0.5), (5, 0.5))]
    >>> is_exhausted(rows, 1), is_exhausted(rows, 2)
    (True, False)
    """
    rows = list(rows)
    best = best_step(rows)
    later = {row["step"] for row in rows if best is None or row["step"] > best}
    return len(later) >= patience


def check_patience(config: TrainConfig, data: Dataset) -> None:
    """Rejects patience where no validation metric can be computed.

    Args:
      config: settings.
      data: contexts, and their parts if they are interactions.

    Raises:
      ConfigError: the data has no validation part, or the catalogue is smaller than the metric's cut-off.
    """
    if config.patience is None:
        return
    given, parts = argument("patience", config.patience), data.parts
    if parts is None or not np.any(parts.validation_ends > parts.train_ends):
        also = " and test_share=0.2" if config.test_share == 0 else ""
        also += " and split='last'" if config.split == "none" else ""
        raise ConfigError(
            f"{given} stops training by {VALIDATION}, and the data has no validation part; give interactions "
            f"with validation_share=0.1{also}, or leave patience out"
        )
    if data.environment.num_items < _CUTOFF:
        raise ConfigError(
            f"{given} stops training by {VALIDATION}, and the catalogue has only "
            f"{data.environment.num_items} items; expected {_CUTOFF} or more, or leave patience out"
        )


def _means(rows: Iterable[Row], name: str) -> dict[int, float]:
    """Returns step -> mean over seeds, for steps at which the metric of every seed is finite."""
    values: dict[int, list[float]] = {}
    for row in rows:
        value = row.get(name)
        values.setdefault(row["step"], []).append(np.nan if value is None else value)
    return {step: float(np.mean(v)) for step, v in values.items() if np.isfinite(v).all()}
