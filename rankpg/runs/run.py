"""A run: its config, learner, state of every seed, and metrics."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np

from rankpg.config.train_config import TrainConfig
from rankpg.environments.dataset import Dataset, split_contexts
from rankpg.evaluation.metrics import TwoStage
from rankpg.policy import Policy
from rankpg.runs import catalogue, recommend
from rankpg.runs.memory import Memory, check_memory
from rankpg.training.build import build_learner, make_environment
from rankpg.training.faults import Fault
from rankpg.training.programs import seed_keys
from rankpg.training.update import Learner, TrainState
from rankpg.types import Environment, Params

__all__ = ["MetricAccumulator", "Progress", "Row", "Run", "prepare"]


@dataclass
class MetricAccumulator:
    """Running means of the step metrics since the last evaluation; saved in checkpoints.

    Sums are float64 and taken update by update, so they do not depend on where chunks end.

    >>> whole, halves = MetricAccumulator(), MetricAccumulator()
    >>> loss = np.float32([[0.1, 0.2, 0.3]])  # [seeds, updates]
    >>> whole.add({"loss": loss}, 1.0)
    >>> halves.add({"loss": loss[:, :1]}, 0.4)
    >>> halves = MetricAccumulator.from_json(halves.to_json())
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

    def to_json(self) -> dict[str, Any]:
        """Plain values; None for a sum that is not finite."""
        sums = {
            name: [float(x) if np.isfinite(x) else None for x in total]
            for name, total in self.sums.items()
        }
        return {"steps": self.steps, "seconds": self.seconds, "sums": sums}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> MetricAccumulator:
        """Restores what `to_json` returned.

        Raises:
          ValueError, KeyError, TypeError: the values are of another kind.
        """
        sums = {
            name: np.array([np.nan if x is None else x for x in total], np.float64)
            for name, total in saved["sums"].items()
        }
        return cls(int(saved["steps"]), float(saved["seconds"]), sums)


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
    learner: Learner
    state: TrainState
    """Every leaf carries a leading axis of seeds."""
    dataset: Dataset
    """The environment before it was placed on devices, and the ids of its rows."""
    metrics: list[Row] = field(default_factory=list)
    memory: Memory | None = None
    """What the run was expected to need."""
    accumulator: MetricAccumulator = field(default_factory=MetricAccumulator)
    """The updates since the last evaluation."""
    evaluation_contexts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    """Contexts that evaluations choose from: those held out, if any."""

    @property
    def environment(self) -> Environment:
        """Contexts and rewards."""
        return self.learner.environment

    @property
    def policy(self) -> Policy:
        """From contexts to candidates."""
        return self.learner.policy

    @property
    def two_stage(self) -> TwoStage:
        """Policy, re-ranker and position weights, as an evaluation takes them."""
        learner, depth = self.learner, self.config.recall_depth
        return TwoStage(learner.policy, learner.reranker, learner.position_weights, depth)

    def params(self, seed: int | None = None) -> Params:
        """Parameters of one of the trained seeds; of the first if None.

        Raises:
          ValueError: a seed that was not trained.
        """
        if seed is not None and seed not in self.config.seeds:
            raise ValueError(f"seed {seed} was not trained; the run has {self.config.seeds}")
        index = 0 if seed is None else self.config.seeds.index(seed)
        return jax.tree.map(lambda leaf: leaf[index], self.state.params)

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
          contexts: context ids of the dataset; row numbers where the environment has no ids.
          seed: which of the trained seeds answers; the first by default.
          unknown: a context that the run does not know is refused (`error`), or answered at the mean of the
            contexts' embeddings (`mean`), with a warning that says how many are; see `known`.
          eligible: item ids, or a mask bool[N] or bool[contexts, N]: what may be a candidate this time.

        Returns:
          Item ids [contexts, K] of the dataset.

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
        return self.policy.retrieval.sharding.replicate(tree)

    def state_of_hosts(self) -> Any:
        """The state in this host's memory, as it is written: whatever the devices, of N items.

        Every process of a sharded run must call it.
        """
        return self.policy.retrieval.sharding.gather(self.state)

    def stopped(self) -> list[str]:
        """One sentence for every seed that did not reach the end."""
        return [
            f"seed {seed} stopped at step {int(step)} by {Fault(int(fault)).description}; its state is the "
            f"one before that update. {Fault(int(fault)).remedy}"
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
    dataset = Dataset.of(source)
    learner = build_learner(config, dataset.environment, **components)
    memory = check_memory(learner, len(config.seeds))
    sharding = learner.policy.retrieval.sharding

    def init(keys):
        return sharding.constrain(jax.vmap(learner.init)(keys))

    keys, world = sharding.replicate((seed_keys(config.seeds, "init"), dataset.environment))
    if dataset.ids_are_rows:  # without ids, the copy on the devices is enough
        dataset = Dataset.of(world)
    return Run(
        config,
        dataclasses.replace(learner, environment=world),
        jax.jit(init)(keys),
        dataset,
        memory=memory,
        evaluation_contexts=split_contexts(world.num_contexts, config.held_out_contexts)[1],
    )


def _check_before_generating(config: TrainConfig) -> None:
    """Refuse a large generated problem that will not fit, from shapes alone: before any of it is made."""
    if config.environment != "synthetic" or config.num_items + config.num_contexts < _LARGE:
        return
    # What needs numbers, and takes little memory, is left for later.
    plain = dataclasses.replace(config, reranker="optimal", adaptive_learning_rate=False)

    def from_shapes():
        world = Dataset.of(make_environment(plain)).environment
        check_memory(build_learner(plain, world), len(plain.seeds))

    jax.eval_shape(from_shapes)
