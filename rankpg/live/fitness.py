"""Which runs can go live."""

from __future__ import annotations

import numpy as np

from rankpg.config import ConfigError
from rankpg.run import Run

__all__ = ["check_live"]


def check_live(run: Run, importance: str, clip: float) -> None:
    """Refuse a run whose stations need late stage and user inside the program.

    Raises:
      ConfigError: it says what to choose.
    """
    pipeline = run.pipeline
    if len(run.config.seeds) != 1:
        raise ConfigError(
            f"--seeds is {' '.join(map(str, run.config.seeds))}; a live retriever is one policy, so "
            "expected one seed"
        )
    if pipeline.adaptive_learning_rate:
        raise ConfigError(
            "--adaptive-learning-rate needs the late stage's propensity, and the late stage is outside; "
            "choose "
            "--no-adaptive-learning-rate"
        )
    if pipeline.estimator.statistics == "arrivals":
        raise ConfigError(
            f"--estimator {run.config.estimator} scores with the noise that drew, which belongs to the "
            "parameters of "
            "the draw, and they may have moved; choose ca_pg_swr or another one"
        )
    if pipeline.retrieval.name == "sharded":
        raise ConfigError("a live retriever uses one device; choose --retrieval streamed or dense")
    if importance not in ("set", "item", "none"):
        raise ConfigError(f"importance is {importance!r}; expected set, item or none")
    if importance == "item" and not pipeline.estimator.credit_assigned:
        raise ConfigError(
            f"importance 'item' weights items, and --estimator {run.config.estimator} scores the whole "
            "candidate "
            "set; choose importance 'set'"
        )
    if not 1 <= clip < np.inf:
        raise ConfigError(f"clip is {clip}; expected a number of at least 1")
