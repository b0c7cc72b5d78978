"""Figure 4: seconds for 1000 steps, with and without the environment.

The paper's simulator takes nine tenths of its time. Here the learner is also timed alone, in an environment
with constant rewards.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.paper import published
from benchmarks.paper.published import PAPER_NAMES
from benchmarks.paper.trials import RATES, WHOLE_SET_RATE
from benchmarks.speed.constant import ConstantRewards
from benchmarks.timing import interleaved, training_call
from rankpg.config.train_config import TrainConfig
from rankpg.core.estimators import ESTIMATORS

__all__ = ["measure"]


@dataclass(frozen=True)
class Effort:
    """Size of the measurement."""

    chunk: int
    """steps per call of a compiled program"""
    rounds: int
    estimators: tuple[str, ...]
    columns: tuple[tuple[int, int], ...]
    experts: bool
    """True to time M = 5, K = 200 as well"""


_ALL = ("v_pg", "ca_pg", "v_pg_swr", "top1_pg", "ca_pg_swr")
EFFORT = {
    "smoke": Effort(20, 2, ("v_pg_swr", "top1_pg"), ((10, 1),), experts=False),
    "laptop": Effort(100, 5, _ALL, published.FIGURE4_COLUMNS, experts=True),
    "full": Effort(200, 7, _ALL, published.FIGURE4_COLUMNS, experts=True),
}
"""scale -> size of the measurement"""


def measure(scale: str) -> dict[str, Any]:
    """Measures seconds for 1000 steps of one seed; in each round all settings are timed in turn."""
    effort = EFFORT[scale]
    settings = list(_settings(effort))
    calls = {}
    for index, (config, _) in enumerate(settings):
        calls[f"{index} whole"] = training_call(config, effort.chunk)
        constant = ConstantRewards(config.num_contexts, config.num_items)
        calls[f"{index} learner"] = training_call(config, effort.chunk, constant)
    load = os.getloadavg()[0]
    timings = interleaved(calls, effort.rounds)
    per_1000 = 1000 / effort.chunk
    arms = []
    for index, (config, paper) in enumerate(settings):
        seconds = {
            part: {key: per_1000 * timings[f"{index} {part}"][key] for key in ("median", "min")}
            for part in ("whole", "learner")
        }
        names = ("estimator", "num_candidates", "ranking_length", "num_experts", "batch_size")
        kept = {name: getattr(config, name) for name in names}
        arms.append({"settings": kept, "paper": paper, "seconds": seconds})
    return {
        "chunk": effort.chunk,
        "rounds": effort.rounds,
        "load_before": load,
        "arms": arms,
    }


def _settings(effort: Effort) -> Iterator[tuple[TrainConfig, float]]:
    """Yields (config, the paper's seconds) for every setting."""
    for estimator in effort.estimators:
        for column in effort.columns:
            seconds = published.FIGURE4[PAPER_NAMES[estimator]]
            paper = seconds[published.FIGURE4_COLUMNS.index(column)]
            yield _config(estimator, *column, 1), paper
    for estimator in ("v_pg_swr", "top1_pg", "ca_pg_swr") if effort.experts else ():
        yield _config(estimator, 200, 1, 5), published.FIGURE4_EXPERTS[PAPER_NAMES[estimator]]


def _config(estimator: str, k: int, length: int, experts: int) -> TrainConfig:
    rate = RATES["optimal"] if ESTIMATORS[estimator].credit_assigned else WHOLE_SET_RATE
    return TrainConfig(
        estimator=estimator,
        preset="paper",
        adaptive_learning_rate=False,
        learning_rate=rate,
        num_candidates=k,
        ranking_length=length,
        num_experts=experts,
        seeds=(0,),
    )
