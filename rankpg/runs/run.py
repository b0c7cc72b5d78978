"""What the updates since the last evaluation had: kept between chunks, and in a checkpoint between them."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from typing import Any
from typing import Literal
from typing import TYPE_CHECKING
import jax
import numpy as np

from rankpg.config.train_config import TrainConfig
from rankpg.environments.dataset import Dataset
from rankpg.policy import Pipeline
from rankpg.runs import catalogue, recommend
from rankpg.runs.memory import Memory
from rankpg.runs.memory import check_memory
from rankpg.training.build import assemble
from rankpg.training.build import make_environment
from rankpg.training.update import FAULTS
from rankpg.training.update import REMEDIES
from rankpg.training.update import TrainState
from rankpg.training.update import init_state
from rankpg.training.update import seed_keys
from rankpg.types import Environment

__all__ = ['Progress', 'Row', 'Run', 'MetricAccumulator', 'prepare']


@dataclass
class MetricAccumulator:
    """Updates since the last evaluation, the seconds they took, and the sums of their metrics.

    Sums are float64 and taken update by update, so they are the same wherever chunks end.

    >>> whole, halves = MetricAccumulator(), MetricAccumulator()
    >>> loss = np.float32([[0.1, 0.2, 0.3]])  # [seeds, updates]
    >>> whole.add({"loss": loss}, 1.0)
    >>> halves.add({"loss": loss[:, :1]}, 0.4)
    >>> halves = MetricAccumulator.from_notes(halves.notes())
    >>> halves.add({"loss": loss[:, 1:]}, 0.6)
    >>> bool(halves.means()["loss"] == whole.means()["loss"])
    True
    """

    steps: int = 0
    seconds: float = 0.0
    sums: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, metrics: dict[str, np.ndarray], seconds: float) -> None:
        """Count a chunk in: metrics [seeds, updates] by name."""
        (length,) = {values.shape[1] for values in metrics.values()}
        for name, values in metrics.items():
            before = self.sums.get(name, np.zeros(len(values)))
            terms = np.concatenate([before[:, None], values.astype(np.float64)], axis=1)
            self.sums[name] = np.add.accumulate(terms, axis=1)[:, -1]
        self.steps += length
        self.seconds += seconds

    @property
    def speed(self) -> float | None:
        """Updates a second; None before the first."""
        return self.steps / self.seconds if self.steps else None

    def means(self) -> dict[str, np.ndarray]:
        """By name, [seeds]."""
        return {name: total / self.steps for name, total in self.sums.items()}

    def notes(self) -> dict[str, Any]:
        """As JSON holds it: None for a sum that is not finite, whose mean is not told either."""
        sums = {
            name: [float(x) if np.isfinite(x) else None for x in total]
            for name, total in self.sums.items()
        }
        return {"steps": self.steps, "seconds": self.seconds, "sums": sums}

    @classmethod
    def from_notes(cls, notes: dict[str, Any]) -> MetricAccumulator:
        """What `notes` told.

        Raises:
          ValueError, KeyError, TypeError: these are no such notes.
        """
        sums = {
            name: np.array([np.nan if x is None else x for x in total], np.float64)
            for name, total in notes["sums"].items()
        }
        return cls(int(notes["steps"]), float(notes["seconds"]), sums)

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
    """The seeds of one config: components, state and what was measured."""

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
    accumulator: MetricAccumulator = field(default_factory=MetricAccumulator)
    """The updates since the last evaluation."""

    @property
    def step(self) -> int:
        """Updates asked of every seed so far; a stopped seed has done fewer."""
        return self.evaluated + self.accumulator.steps

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
        return recommend.candidates(self, contexts, seed, unknown, eligible)

    def known(self, contexts: Any) -> np.ndarray:
        """bool[n]: which of these contexts the run knows; 1 minus the mean is the rate of unknown ones."""
        return recommend.known(self, contexts)

    def with_items(self, items: Any, item_ids: Any = None) -> Run:
        """This run on a catalogue with further items, without any training: for towers over item features.

        Among ratings the new items earn 0, as whatever has no rating. Of a matrix of rewards nothing is left:
        the run then answers, and cannot be evaluated. A re-ranker of your own stays as it is.

        Args:
          items: a table as the features were read from, or features [n, F] as they were given.
          item_ids: their ids, where `items` is an array.

        Raises:
          ConfigError: the item tower embeds ids, so that a new item has no embedding.
          TableError: features or ids that do not fit; an item that is there already.
        """
        return catalogue.with_items(self, items, item_ids)

    def without_items(self, item_ids: Any) -> Run:
        """This run on a catalogue without some items: none of them is a candidate any more.

        Under a table of ids the others keep their row numbers. A re-ranker of your own stays as it is.

        Raises:
          UnknownIdError: an item that is not there.
          ConfigError, ValueError: fewer items than candidates would be left.
        """
        return catalogue.without_items(self, item_ids)

    def with_contexts(self, contexts: Any, context_ids: Any = None) -> Run:
        """This run with further contexts, as `with_items`: for towers over context features."""
        return catalogue.with_contexts(self, contexts, context_ids)

    def context_rows(self, contexts: Any) -> np.ndarray:
        """Row numbers, int[n], of one context id or of a list of them.

        Raises:
          ValueError: no ids, or one that the environment does not have.
        """
        return recommend.context_rows(self, contexts)

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

_LARGE = 2**20
"""Contexts and items of a generated problem that is worth checking before it is generated."""


def prepare(
    config: TrainConfig, environment: Environment | Dataset | None = None, **components: Any
) -> Run:
    """A run at step 0: settings resolved, components assembled and checked, parameters drawn."""
    config = config.resolve()
    if environment is None:
        _check_before_generating(config)
    source = make_environment(config) if environment is None else environment
    dataset = source if isinstance(source, Dataset) else None
    world = source.environment if isinstance(source, Dataset) else source
    pipeline = assemble(config, world, **components)
    memory = check_memory(pipeline, world, len(config.seeds))
    place = pipeline.placement

    def start(keys):
        return place.constrain(jax.vmap(lambda key: init_state(pipeline, key))(keys))

    keys, world = place.copy((seed_keys(config, "start"), world))
    return Run(config, world, pipeline, jax.jit(start)(keys), dataset=dataset, memory=memory)


def _check_before_generating(config: TrainConfig) -> None:
    """Refuse a large generated problem that will not fit, from shapes alone: before any of it is made."""
    if config.environment != "synthetic" or config.num_items + config.num_contexts < _LARGE:
        return
    # What needs numbers, and takes little memory, is left for later.
    plain = replace(config, reranker="optimal", adaptive_learning_rate=False)

    def from_shapes():
        world = make_environment(plain)
        assert not isinstance(world, Dataset)
        check_memory(assemble(plain, world), world, len(plain.seeds))

    jax.eval_shape(from_shapes)
