"""The seeds of one config, as they stand: stations, state and what was measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rankpg.config import TrainConfig
from rankpg.environments import Dataset
from rankpg.memory import Memory
from rankpg.pipeline import Pipeline
from rankpg.plackett_luce import greedy_candidates
from rankpg.retrieval import mask
from rankpg.stretch import Stretch
from rankpg.training import FAULTS, REMEDIES, TrainState
from rankpg.types import Environment

__all__ = ["Progress", "Row", "Run"]

Row = dict[str, Any]
"""One evaluation of one seed: plain numbers, or None where there is none."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    phase: str
    """compile, train or evaluate: what has just been done."""
    step: int
    steps_per_second: float | None = None
    rows: tuple[Row, ...] = ()
    """After an evaluation: one row a seed."""


@dataclass
class Run:
    """The seeds of one config: stations, state and what was measured."""

    config: TrainConfig
    environment: Environment
    pipeline: Pipeline
    state: TrainState
    """Every leaf carries a leading axis of seeds."""
    metrics: list[Row] = field(default_factory=list)
    dataset: Dataset | None = None
    """What the rows of a ratings table stand for; None for other environments."""
    memory: Memory | None = None
    """What the run was expected to need."""
    stretch: Stretch = field(default_factory=Stretch)
    """The updates since the last evaluation."""

    @property
    def step(self) -> int:
        """Updates asked of every seed so far; a stopped seed has done fewer."""
        return self.evaluated + self.stretch.steps

    @property
    def evaluated(self) -> int:
        """The step of the last evaluation."""
        return max((row["step"] for row in self.metrics), default=0)

    @property
    def last_rows(self) -> list[Row]:
        """The last evaluation, one row a seed."""
        return [row for row in self.metrics if row["step"] == self.evaluated]

    @property
    def policy_value(self) -> float:
        """Mean over seeds of the last evaluation."""
        last = [row["policy_value"] for row in self.last_rows]
        return float(np.mean([np.nan if value is None else value for value in last]))

    def candidates(self, contexts: Any, seed: int | None = None) -> Any:
        """The K greedy candidates of each context, best first: what goes to your re-ranker.

        Args:
          contexts: context ids: of the dataset where the run has one, else row numbers.
          seed: which of the trained seeds answers; the first by default.

        Returns:
          Item ids [contexts, K], of the dataset where the run has one.
        """
        rows = self.context_rows(contexts)
        if seed is not None and seed not in self.config.seeds:
            raise ValueError(f"seed {seed} was not trained; the run has {self.config.seeds}")
        index = 0 if seed is None else self.config.seeds.index(seed)
        params = jax.tree.map(lambda leaf: leaf[index], self.state.params)
        items = _greedy(
            self.pipeline, self.environment, params, self.copies(jnp.asarray(rows, jnp.int32))
        )
        return self.dataset.item_ids[np.asarray(items)] if self.dataset else np.asarray(items)

    def context_rows(self, contexts: Any) -> np.ndarray:
        """Row numbers, int[n], of one context id or of a list of them.

        Raises:
          ValueError: no ids, or one that the environment does not have.
        """
        rows = np.asarray(self.dataset.context_ids.rows(contexts) if self.dataset else contexts)
        if not np.issubdtype(rows.dtype, np.integer) or rows.ndim > 1 or not rows.size:
            raise ValueError(
                f"contexts is {rows.dtype}{list(rows.shape)}; expected one context id or a list of them"
            )
        rows = np.atleast_1d(rows)
        outside = rows[(rows < 0) | (rows >= self.environment.num_contexts)]
        if outside.size:
            raise ValueError(
                f"context {outside[0]} is unknown; the environment has the contexts 0 to "
                f"{self.environment.num_contexts - 1}"
            )
        return rows

    def copies(self, tree: Any) -> Any:
        """Arrays as the run's programs take them: of a sharded run, a copy on every device."""
        return self.pipeline.placement.copy(tree)

    def state_of_hosts(self) -> Any:
        """The state in this host's memory, as it is written: whatever the devices, of N items.

        Every process of a sharded run must call it.
        """
        return self.pipeline.placement.collect(self.state)

    def stopped(self) -> list[str]:
        """One sentence for every seed that did not reach the end."""
        return [
            f"seed {seed} stopped at step {int(step)} by {FAULTS[int(fault)]}; its state is the one before "
            f"that update. {REMEDIES[int(fault)]}"
            for seed, step, fault in zip(
                self.config.seeds, *jax.device_get((self.state.step, self.state.fault)), strict=True
            )
            if fault
        ]


def _greedy(pipeline: Pipeline, environment: Environment, params: Any, contexts: Any) -> Any:
    def one(context):
        logits = pipeline.logits(params, environment, context[None])[0]
        logits = mask(environment, context, logits)
        return greedy_candidates(logits, pipeline.quotas)

    return jax.lax.map(one, contexts, batch_size=min(64, contexts.shape[0]))
