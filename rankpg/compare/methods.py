"""Table of the methods that a comparison has, with the settings that a tuning tries."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from rankpg.baselines import BASELINES, Baseline, top_lists
from rankpg.compare.budget import Deadline
from rankpg.compare.results import Schedule, Tuned
from rankpg.compare.stages import Stage
from rankpg.compare.trained import lists_of_config, tune_config
from rankpg.types import Int

__all__ = ["DEFAULT", "METHODS", "MOST_TRIALS", "FittedBaseline", "Method", "Trained", "Way"]

Settings = Mapping[str, Any]

_OF_PASSES = 0.7
"""Share of a baseline's trial that is left for passes; the rest is for lists and metrics."""

DEFAULT = "inclusion"
"""The method of rankpg that all others are compared with."""


@runtime_checkable
class Way(Protocol):
    """A way to tune and to fit a method."""

    def tune(
        self, stage: Stage, settings: Settings, *, seed: int, cutoff: int, seconds: float
    ) -> Tuned:
        """Fits to the training data of the tuning, and returns the mean of ndcg@cutoff of its users.

        Args:
          stage: that of the tuning.
          settings: an entry of the method's grid.
          seed: seed of all random numbers.
          cutoff: k of the metric.
          seconds: most seconds of a trial, for a method that has updates or passes; infinity for no limit.
        """
        ...

    def lists(
        self,
        stage: Stage,
        settings: Settings,
        schedules: Sequence[Schedule],
        *,
        seeds: tuple[int, ...],
        depth: int,
        deadline: Deadline | None = None,
    ) -> list[list[Int[np.ndarray, "n depth"]]]:
        """Fits with every seed, and returns the lists of the stage's users: of each schedule, of each seed.

        Args:
          stage: that of the final fit.
          settings: those of the chosen trial.
          schedules: those of the chosen trial, which differ in the number of updates alone.
          seeds: one fit each.
          depth: length of the lists; -1 after the last item of a shorter one.
          deadline: read on the way; after it, a baseline fits no further seed, and training ends.
        """
        ...


@dataclass(frozen=True)
class Method:
    """One method, as `METHODS` lists it."""

    description: str
    """A noun phrase."""
    grid: tuple[Settings, ...]
    """Settings to try, those of most expected worth first."""
    way: Way
    seeded: bool = True
    """False if one fit is enough, since the result does not depend on a seed."""

    @property
    def objective(self) -> str | None:
        """Objective by which rankpg trains the method; None for a baseline."""
        return self.way.fixed["objective"] if isinstance(self.way, Trained) else None


@dataclass(frozen=True)
class FittedBaseline:
    """The way of a baseline of `rankpg.baselines`."""

    name: str

    def tune(
        self, stage: Stage, settings: Settings, *, seed: int, cutoff: int, seconds: float
    ) -> Tuned:
        schedule = self._sized(stage, settings, seed, seconds)
        lists = self._lists(stage, _passes(settings, schedule), seed, stage.depth(cutoff))
        own, final, weight = stage.score(lists, cutoff)
        steps = 0 if final is None else schedule.steps
        return Tuned(own, schedule, final, steps, weight)

    def lists(
        self,
        stage: Stage,
        settings: Settings,
        schedules: Sequence[Schedule],
        *,
        seeds: tuple[int, ...],
        depth: int,
        deadline: Deadline | None = None,
    ) -> list[list[Int[np.ndarray, "n depth"]]]:
        found, settings = [], _passes(settings, schedules[0])
        for seed in seeds:
            if found and deadline is not None and deadline.over():
                break
            found.append(self._lists(stage, settings, seed, depth))
        return [found for _ in schedules]

    def _sized(self, stage: Stage, settings: Settings, seed: int, seconds: float) -> Schedule:
        """Returns fewer passes than the settings have if, by the time of one pass, these take too long."""
        baseline: Any = BASELINES[self.name].build(**settings)
        wanted = getattr(baseline, "iterations", 0)
        if not wanted or math.isinf(seconds):
            return Schedule()
        began = time.perf_counter()
        baseline.iterations = 1
        baseline.fit(stage.seen, seed=seed)
        allowed = int(_OF_PASSES * seconds / (time.perf_counter() - began))
        if allowed >= wanted:
            return Schedule()
        return Schedule(max(1, allowed), max(1, allowed), limited=True)

    def _lists(
        self, stage: Stage, settings: Settings, seed: int, depth: int
    ) -> Int[np.ndarray, "n depth"]:
        baseline: Baseline = BASELINES[self.name].build(**settings)
        baseline.fit(stage.seen, seed=seed)
        return top_lists(baseline, stage.seen, stage.part.users, depth)


def _passes(settings: Settings, schedule: Schedule) -> Settings:
    """Returns the settings of a baseline with the passes of a schedule that time limited."""
    return {**settings, "iterations": schedule.num_steps} if schedule.limited else settings


@dataclass(frozen=True)
class Trained:
    """The way of a method that rankpg trains."""

    fixed: Settings
    """Settings that are the same in all trials."""
    start: Settings | None = None
    """Settings of the run that comes first; it shares the encoder's settings."""

    def tune(
        self, stage: Stage, settings: Settings, *, seed: int, cutoff: int, seconds: float
    ) -> Tuned:
        return tune_config(
            stage, {**self.fixed, **settings}, seed, cutoff, seconds, self._start(settings)
        )

    def lists(
        self,
        stage: Stage,
        settings: Settings,
        schedules: Sequence[Schedule],
        *,
        seeds: tuple[int, ...],
        depth: int,
        deadline: Deadline | None = None,
    ) -> list[list[Int[np.ndarray, "n depth"]]]:
        own, start = {**self.fixed, **settings}, self._start(settings)
        return lists_of_config(stage, own, schedules, seeds, depth, start, deadline)

    def _start(self, settings: Settings) -> Settings | None:
        if self.start is None:
            return None
        encoder = {name: settings[name] for name in _OF_ENCODER if name in settings}
        return {**self.start, **encoder}


_OF_ENCODER = (
    "context_tower",
    "embedding_dim",
    "history_encoder",
    "attention_layers",
    "attention_heads",
    "history_length",
    "next_items",
    "dropout",
)
"""Settings that a run has in common with the one that it begins with."""

_SIZES = {"embedding_dim": 64, "batch_size": 256}
_HISTORY = {
    "context_tower": "history",
    "history_length": 20,
    "next_items": 1,
    "dropout": 0.2,
    "learning_rate": 2e-3,
    **_SIZES,
}
_CURRICULUM = {"first_share": 0.7, "later_rate": 0.5}
_KNOWN: tuple[Settings, ...] = (
    _HISTORY,
    _HISTORY | {"dropout": 0.4},
    _HISTORY | {"history_length": 50},
    _HISTORY | {"embedding_dim": 128},
    _HISTORY | {"next_items": 5, "dropout": 0.4, "learning_rate": 1e-3},
    {"context_tower": "ids", "learning_rate": 1e-3, **_SIZES},
    _HISTORY | {"learning_rate": 4e-3},
    _HISTORY | {"dropout": 0.0},
)
_GRADIENT_HISTORY = {k: v for k, v in _HISTORY.items() if k not in ("batch_size", "learning_rate")}
_GRADIENT: tuple[Settings, ...] = (
    _GRADIENT_HISTORY | {"learning_rate": 3e-4},
    _GRADIENT_HISTORY | {"learning_rate": 3e-4, "dropout": 0.4},
    _GRADIENT_HISTORY | {"learning_rate": 1e-3},
    _GRADIENT_HISTORY | {"learning_rate": 3e-4, "embedding_dim": 128},
    {"context_tower": "ids", "embedding_dim": 64, "learning_rate": 3e-4},
    _GRADIENT_HISTORY | {"learning_rate": 1e-4},
    _GRADIENT_HISTORY | {"learning_rate": 3e-3},
    _GRADIENT_HISTORY | {"learning_rate": 1e-3, "embedding_dim": 128},
)

_INCLUSION = {"objective": "inclusion", **_CURRICULUM}


def _baseline(name: str, description: str, *, seeded: bool = False) -> Method:
    return Method(description, BASELINES[name].grid, FittedBaseline(name), seeded)


METHODS: dict[str, Method] = {
    "popular": _baseline("popular", "most popular items, the same for every user"),
    "item_knn": _baseline("item_knn", "item-based nearest neighbours"),
    "ease": _baseline("ease", "EASE, a linear model in closed form"),
    "als": _baseline("als", "matrix factorisation by alternating least squares", seeded=True),
    "bpr": _baseline("bpr", "matrix factorisation by personalised ranking", seeded=True),
    "softmax": Method(
        "retriever of rankpg, likelihood of the next items",
        _KNOWN,
        Trained({"objective": "softmax", "mask_positives": False, **_CURRICULUM}),
    ),
    "softmax_masked": Method(
        "retriever of rankpg, likelihood of each next item against items that are not among them",
        _KNOWN,
        Trained({"objective": "softmax", **_CURRICULUM}),
    ),
    "inclusion": Method(
        "retriever of rankpg, number of next items among the candidates",
        _KNOWN,
        Trained(_INCLUSION),
    ),
    "exposure": Method(
        "retriever of rankpg, gain of the next items in the final list, mixed with inclusion",
        _KNOWN,
        Trained(
            {**_INCLUSION, "objective": "exposure", "reranker": "stored", "ranking_length": 10}
        ),
    ),
    "policy_gradient": Method(
        "retriever of rankpg, policy gradient of the final list's reward, after a start by inclusion",
        _GRADIENT,
        Trained(
            {"objective": "policy_gradient", "ranking_length": 10},
            start={**_INCLUSION, "batch_size": 256, "learning_rate": 2e-3},
        ),
    ),
}
"""Methods by name. Every grid has `MOST_TRIALS` entries, so that a tuning tries equally many of each."""

MOST_TRIALS = min(len(method.grid) for method in METHODS.values())
