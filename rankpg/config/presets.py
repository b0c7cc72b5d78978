"""Presets: values of the settings that a config leaves open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rankpg.config.reward_settings import BY_PREDICTIONS
from rankpg.core.estimators import ESTIMATORS

__all__ = [
    "HISTORY_PRESET",
    "KNOWN_FEEDBACK_PRESET",
    "PRESETS",
    "PRESET_SETTINGS",
]

PRESET_SETTINGS = (
    "init_scale",
    "optimizer",
    "optimizer_options",
    "learning_rate",
    "adaptive_learning_rate",
    "advantage",
)
"""The settings that a preset decides where they are left open."""


def _paper(estimator: str, over_features: bool) -> dict[str, Any]:
    """Settings of Kiyohara et al. 2026, Appendix: Adagrad from 0 on tables initialised from N(0, 1)."""
    del over_features  # the paper has tables only
    credit_assigned = ESTIMATORS[estimator].credit_assigned
    return {
        "init_scale": 1.0,
        "optimizer": "adagrad",
        "optimizer_options": ("initial_accumulator_value=0", "eps=1e-20"),
        "learning_rate": 1e-2 if credit_assigned else 1e-1,
        "adaptive_learning_rate": credit_assigned and estimator not in BY_PREDICTIONS,
        "advantage": "none",
    }


_FASTER = {"model_guided": 2}
"""Factors on the learning rate of estimators whose gradient has less noise and whose steps shrink."""


def _tuned(estimator: str, over_features: bool) -> dict[str, Any]:
    """The best settings of benchmarks/scripts/sweep.py and tower_rates.py; see docs/settings.md.

    All estimators gain from Adam and a nearly uniform initial policy. The score of the whole candidate set
    gains from a baseline per context; a credit-assigned score is harmed by it, and `ca_pg_swap` is its own
    baseline. A step of a tower over
    features moves all contexts or items at once, and has to be smaller.
    """
    return {
        "init_scale": 0.1,
        "optimizer": "adam",
        "optimizer_options": (),
        "learning_rate": (3e-3 if over_features else 1e-2) * _FASTER.get(estimator, 1),
        "adaptive_learning_rate": False,
        "advantage": "none" if ESTIMATORS[estimator].credit_assigned else "context",
    }


PRESETS: dict[str, Callable[[str, bool], dict[str, Any]]] = {"tuned": _tuned, "paper": _paper}
"""name -> settings, given an estimator and whether a tower learns over features (`features`, `adapter`)."""

KNOWN_FEEDBACK_PRESET: dict[str, Any] = {"learning_rate": 1e-3, "advantage": "none"}
"""Settings that an objective on known feedback changes: its gradient has no noise from draws."""

HISTORY_PRESET: dict[str, Any] = {"learning_rate": 2e-3}
"""Settings that a history tower changes further."""
