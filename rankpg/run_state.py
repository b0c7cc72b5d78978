"""The seeds of one config, as they stand: stations, state and what was measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np

from rankpg import asking, changed_catalogue
from rankpg.config import TrainConfig
from rankpg.environments import Dataset
from rankpg.memory import Memory
from rankpg.pipeline import Pipeline
from rankpg.stretch import Stretch
from rankpg.training import FAULTS, REMEDIES, TrainState
from rankpg.types import Environment

__all__ = ["Progress", "Row", "Run"]

if TYPE_CHECKING:
    UnknownContexts = Literal["error", "mean"]
else:  # what a user passes is checked here, in words
    UnknownContexts = Any

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

    def candidates(
        self,
        contexts: Any,
        seed: int | None = None,
        *,
        unknown: UnknownContexts = "error",
        eligible: Any = None,
    ) -> Any:
        """The K greedy candidates of each context, best first: what goes to your re-ranker.

        Args:
          contexts: context ids: of the dataset where the run has one, else row numbers.
          seed: which of the trained seeds answers; the first by default.
          unknown: a context that the run does not know is refused (`error`), or answered at the mean of the
            contexts' embeddings (`mean`), with a warning that says how many are; see `known`.
          eligible: item ids, or a mask bool[N] or bool[contexts, N]: what may be a candidate this time.

        Returns:
          Item ids [contexts, K], of the dataset where the run has one.

        Raises:
          ValueError, UnknownIdError: an unknown context; an item in `eligible` that there is not; fewer
            eligible items than K.
        """
        return asking.candidates(self, contexts, seed, unknown, eligible)

    def known(self, contexts: Any) -> np.ndarray:
        """bool[n]: which of these contexts the run knows; 1 minus the mean is the rate of unknown ones."""
        return asking.known(self, contexts)

    def with_items(self, items: Any, item_ids: Any = None) -> Run:
        """This run on a catalogue with further items, without any training: for towers over item features.

        Among ratings the new items earn 0, as whatever has no rating. Of a matrix of rewards nothing is left:
        the run then answers, and cannot be evaluated. A late stage of your own stays as it is.

        Args:
          items: a table as the features were read from, or features [n, F] as they were given.
          item_ids: their ids, where `items` is an array.

        Raises:
          ConfigError: the item tower embeds ids, so that a new item has no embedding.
          TableError: features or ids that do not fit; an item that is there already.
        """
        return changed_catalogue.with_items(self, items, item_ids)

    def without_items(self, item_ids: Any) -> Run:
        """This run on a catalogue without some items: none of them is a candidate any more.

        Under a table of ids the others keep their row numbers. A late stage of your own stays as it is.

        Raises:
          UnknownIdError: an item that is not there.
          ConfigError, ValueError: fewer items than candidates would be left.
        """
        return changed_catalogue.without_items(self, item_ids)

    def with_contexts(self, contexts: Any, context_ids: Any = None) -> Run:
        """This run with further contexts, as `with_items`: for towers over context features."""
        return changed_catalogue.with_contexts(self, contexts, context_ids)

    def context_rows(self, contexts: Any) -> np.ndarray:
        """Row numbers, int[n], of one context id or of a list of them.

        Raises:
          ValueError: no ids, or one that the environment does not have.
        """
        return asking.context_rows(self, contexts)

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
