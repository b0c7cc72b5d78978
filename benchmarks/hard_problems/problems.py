"""The hard problems, each a change of the paper's setting in one direction, and their trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.sweeps.trials import Trial
from rankpg.config.train_config import TrainConfig
from rankpg.core.estimators import ESTIMATORS
from rankpg.errors import ConfigError

__all__ = ["COMPARED", "PROBLEMS", "SCALES", "Problem", "Scale", "problem_trials"]

_PRESETS = (
    "v_pg",
    "v_pg_swr",
    "ca_pg",
    "ca_pg_swr",
    "top1_pg",
    "ca_pg_threshold",
    "v_pg_set",
    "ca_pg_swap",
    "value_based",
    "model_guided",
)

COMPARED: dict[str, dict[str, Any]] = {name: {"estimator": name} for name in _PRESETS} | {
    "exploring": {
        "estimator": "ca_pg_swr",
        "advantage": "context",
        "entropy_bonus": 0.3,
    }
}
"""name -> settings: every estimator with its tuned preset, and one that keeps exploring.

`ca_pg_exact` takes more than half a second per step at N = 1000; the estimator lab covers it."""


@dataclass(frozen=True)
class Problem:
    """A change of the paper's setting that makes retrieval harder."""

    title: str
    settings: Mapping[str, Any]
    measure: str = "policy_value"
    """metric to compare; `drawn_value` for a re-ranker that samples, whose greedy ranking would differ"""


@dataclass(frozen=True)
class Scale:
    """Amount of training."""

    num_steps: int
    eval_every: int
    seeds: tuple[int, ...]
    fit_steps: int
    """steps of the full-information fit of `find_reach`"""
    shrink: int = 1
    """divisor of the numbers of contexts and items"""
    compared: Sequence[str] = tuple(COMPARED)


SCALES = {
    "smoke": Scale(20, 20, (0, 1), 40, shrink=10, compared=("v_pg_swr", "exploring")),
    "laptop": Scale(20_000, 1000, (0, 1), 4000),
    "full": Scale(20_000, 1000, (0, 1, 2, 3, 4), 20_000),
}
"""smoke: to check that everything runs; laptop: hours on two cores; full: more seeds, for a GPU."""

_BASE: dict[str, Any] = {"num_contexts": 1000, "num_items": 1000, "instance_seed": 2}


def _drawing(inverse_temperature: float) -> dict[str, Any]:
    return {"reranker": "noisy", "inverse_temperature": inverse_temperature}


PROBLEMS: dict[str, Problem] = {
    "noise": Problem("rewards three times as noisy", {"noise_scale": 3.0}),
    "unseen": Problem(
        "contexts described by features; value on held-out contexts",
        {"num_contexts": 5000, "held_out_contexts": 1000, "context_tower": "features"},
    ),
    "positions": Problem("five positions", {"ranking_length": 5}),
    "experts": Problem("five experts", {"num_experts": 5}),
    "weak": Problem("a weak re-ranker", _drawing(0.1), "drawn_value"),
    "uniform": Problem("an uninformative re-ranker", {"reranker": "uniform"}),
    "adverse": Problem("an adverse re-ranker", _drawing(-0.1), "drawn_value"),
    "anti": Problem("a re-ranker that shows the worst candidate", {"reranker": "anti"}),
    "large_k10": Problem("10,000 items, K = 10", {"num_items": 10_000}),
    "large_k50": Problem("10,000 items, K = 50", {"num_items": 10_000, "num_candidates": 50}),
    "large_k200": Problem("10,000 items, K = 200", {"num_items": 10_000, "num_candidates": 200}),
}
"""name -> problem, on generated instances; by default K = 10, L = 1, M = 1 and the optimal re-ranker."""


def problem_trials(name: str, scale: str) -> list[Trial]:
    """Returns the trials of one problem: the settings in `COMPARED` that the scale includes.

    Raises:
      ConfigError: an unknown problem or scale.

    >>> [trial.name for trial in problem_trials("anti", "smoke")]
    ['anti-v_pg_swr', 'anti-exploring']
    """
    if name not in PROBLEMS:
        raise ConfigError(f"{name!r} is not a problem; expected one of {', '.join(PROBLEMS)}")
    if scale not in SCALES:
        raise ConfigError(f"scale={scale!r}; expected one of {', '.join(SCALES)}")
    size = SCALES[scale]
    settings = {"num_candidates": 10, **_BASE, **PROBLEMS[name].settings}
    for count in ("num_contexts", "num_items", "held_out_contexts"):
        if count in settings:
            settings[count] //= size.shrink
    settings["num_candidates"] = min(settings["num_candidates"], settings["num_items"] // 5)
    return [
        Trial(
            name=f"{name}-{compared}",
            config=TrainConfig(
                num_steps=size.num_steps,
                eval_every=size.eval_every,
                seeds=size.seeds,
                **settings,
                **COMPARED[compared],
            ),
            labels={"problem": name, "estimator": compared},
        )
        for compared in size.compared
        if (limit := ESTIMATORS[COMPARED[compared]["estimator"]].max_experts) is None
        or settings.get("num_experts", 1) <= limit
    ]
