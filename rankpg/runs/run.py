"""A run: its config, learner, state of every seed, and metrics."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from rankpg._utils.programs import compiled
from rankpg.config.renamed import RENAMED
from rankpg.config.train_config import TrainConfig
from rankpg.data.files import Table
from rankpg.data.ids import ArrayLike
from rankpg.environments.dataset import Dataset, split_contexts
from rankpg.environments.interactions import Interactions
from rankpg.errors import ConfigError
from rankpg.evaluation.metrics import MetricAccumulator, Row, TwoStage
from rankpg.policy import Policy
from rankpg.runs import catalogue, recommend
from rankpg.runs.best import best_step, check_patience
from rankpg.runs.cautions import warn_of_data
from rankpg.runs.memory import Memory, available_memory, check_memory
from rankpg.training.build import build_learner, make_environment
from rankpg.training.initial import Start, read_start, with_tower_of_start, without_start
from rankpg.training.known_feedback import check_knows_feedback, on_moments
from rankpg.training.moments import steps_of_epochs, training_environment
from rankpg.training.optimizer import Fault
from rankpg.training.unobserved import check_needs_a_log
from rankpg.training.update import Learner, TrainState, seed_keys
from rankpg.types import Environment, Params, Reranker

if TYPE_CHECKING:
    from rankpg.training.lambdamart import FittedReranker
else:
    FittedReranker = Any

__all__ = ["Progress", "Run", "prepare"]


Tree = TypeVar("Tree")


if TYPE_CHECKING:
    UnknownContexts = Literal["error", "mean"]
    TooFewItems = Literal["pad", "error"]
else:  # checked at run time with messages of our own
    UnknownContexts = TooFewItems = Any


@dataclass(frozen=True)
class Progress:
    """Position of a run, after a chunk of updates or an evaluation."""

    phase: str
    """The phase that has just ended: compile, train or evaluate."""
    step: int
    steps_per_second: float | None = None
    rows: tuple[Row, ...] = ()
    """Metrics of an evaluation, one row for each seed."""


@dataclass
class Run:
    """A training run: config, learner, state of every seed, and metrics."""

    config: TrainConfig
    learner: Learner
    state: TrainState
    """State of all seeds: every leaf has a leading axis of seeds."""
    dataset: Dataset
    """The environment before it was placed on devices, and the ids of its rows."""
    metrics: list[Row] = field(default_factory=list)
    memory: Memory | None = None
    """Estimated memory."""
    accumulator: MetricAccumulator = field(default_factory=MetricAccumulator)
    """Running means since the last evaluation."""
    evaluation_contexts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    """Contexts that evaluations choose from: those held out, if any."""
    served: Environment | None = None
    """Environment that is evaluated and served, where it is not the one that is trained on."""
    best_state: TrainState | None = None
    """Host copy of the state of the best evaluation; None unless `config.patience` is set."""
    fitted: FittedReranker | None = None
    """The re-ranker that was fitted to the training part; None for another one."""
    restored_step: int | None = None
    """Step of the best evaluation if training with patience has ended, so that `state` is the one of that
    step; None while `state` is the one of the last update."""

    @property
    def environment(self) -> Environment:
        """Contexts and rewards, as they are evaluated and served."""
        return self.learner.environment if self.served is None else self.served

    @property
    def server(self) -> Learner:
        """The learner in the environment that is evaluated and served; it draws batches of training users.

        Its feedback comes from rankings that are shown, not from the known feedback of training.
        """
        if self.served is None or self.dataset.parts is None:
            return self.learner
        users = self.dataset.parts.whole().users
        sampler = self.learner.sampler._replace(contexts=users)
        return dataclasses.replace(
            self.learner, environment=self.served, sampler=sampler, objective=None
        )

    @property
    def policy(self) -> Policy:
        """The policy that is trained: contexts to candidates."""
        return self.learner.policy

    @property
    def two_stage(self) -> TwoStage:
        """Policy, re-ranker and position weights, as an evaluation takes them."""
        learner, depth = self.learner, self.config.recall_depth
        return TwoStage(learner.policy, learner.reranker, learner.position_weights, depth)

    def params(self, seed: int | None = None) -> Params:
        """Parameters of one of the trained seeds; of the first if None.

        They are those of the last update; once training with patience has ended, those of `best_step`.

        Raises:
          ValueError: a seed that was not trained.
        """
        if seed is not None and seed not in self.config.seeds:
            raise ValueError(f"seed {seed} was not trained; the run has {self.config.seeds}")
        index = 0 if seed is None else self.config.seeds.index(seed)
        return jax.tree.map(lambda leaf: leaf[index], self.state.params)

    @property
    def step(self) -> int:
        """Updates so far; a seed that stopped has made fewer."""
        return self.evaluated + self.accumulator.steps

    @property
    def evaluated(self) -> int:
        """The step of the last evaluation."""
        return max((row["step"] for row in self.metrics), default=0)

    @property
    def best_step(self) -> int | None:
        """Step of the best evaluation; None before the first.

        It is the one of the largest validation_ndcg@10, mean over seeds, or of the largest policy value where
        the data has no validation part.
        """
        return best_step(self.metrics)

    @property
    def state_step(self) -> int:
        """The step that `state` is of."""
        return self.step if self.restored_step is None else self.restored_step

    @property
    def state_rows(self) -> list[Row]:
        """Metrics of the evaluation of `state`; of the last one where `state` is between evaluations."""
        step = self.evaluated if self.restored_step is None else self.restored_step
        return [row for row in self.metrics if row["step"] == step]

    def keep_best(self) -> None:
        """Copies the state to this host's memory if it is that of the best evaluation so far.

        Every process of a sharded run must call it.
        """
        if self.accumulator.steps == 0 and self.metrics and self.best_step == self.evaluated:
            # A view of a device's memory would change with it.
            self.best_state = jax.tree.map(np.array, self.state_of_hosts())

    def restore_best(self) -> None:
        """Replaces the state by that of the best evaluation, if there is a copy of it."""
        if self.best_state is not None:
            self.state = self.policy.retrieval.sharding.put(self.best_state)
            self.restored_step = self.best_step

    def drop_after_state(self) -> None:
        """Drops the metrics of evaluations after the one of `state`, so that training goes on from there."""
        if self.restored_step is not None:
            self.metrics = [row for row in self.metrics if row["step"] <= self.restored_step]
            self.restored_step, self.accumulator = None, MetricAccumulator()

    @property
    def last_rows(self) -> list[Row]:
        """Metrics of the last evaluation, one row for each seed."""
        return [row for row in self.metrics if row["step"] == self.evaluated]

    @property
    def policy_value(self) -> float:
        """Mean over seeds of the policy value at the last evaluation."""
        last = [row["policy_value"] for row in self.last_rows]
        return float(np.mean([np.nan if value is None else value for value in last]))

    def candidates(
        self,
        contexts: ArrayLike,
        seed: int | None = None,
        *,
        k: int | None = None,
        unknown: UnknownContexts = "error",
        eligible: ArrayLike | None = None,
        too_few: TooFewItems = "pad",
    ) -> np.ndarray:
        """Returns the greedy candidates [contexts, k] of each context, best first, as ids of the dataset.

        Args:
          contexts: context ids of the dataset; row numbers where the environment has no ids.
          seed: one of the trained seeds; the first if None.
          k: number of candidates; K of the run if None.
          unknown: "error" rejects an unknown context; "mean" returns the candidates of the mean embedding,
            with a warning that counts them; see `known`.
          eligible: items that may be candidates, as ids or as a mask bool[N] or bool[contexts, N].
          too_few: "pad" fills the row of a context with too few eligible items, with a warning that counts
            them, by -1 among whole numbers, "" among texts, NaN or NaT; "error" rejects it.

        Raises:
          ValueError, UnknownIdError: an unknown context, or an unknown item in `eligible`.
        """
        return recommend.candidates(
            self.server, self.dataset, self.params(seed), contexts, unknown, eligible, k, too_few
        )

    def known(self, contexts: ArrayLike) -> np.ndarray:
        """Mask bool[n] of the contexts that the run knows."""
        return recommend.known(self.dataset, contexts)

    def with_items(self, items: Table, item_ids: ArrayLike | None = None) -> Run:
        """Adds items to the catalogue without training, for towers over item features; returns a new run.

        The rewards of new items are 0 among ratings. A matrix of rewards has none for them, so that run gives
        candidates but cannot be evaluated. A re-ranker of your own stays as it is.

        Args:
          items: a table like the one that the features came from, or features [n, F].
          item_ids: ids of the rows, if `items` is an array.

        Raises:
          ConfigError: the item tower embeds ids, so a new item has no embedding.
          TableError: features or ids that do not fit, or an item that exists already.
        """
        return self.on(catalogue.with_items(self.policy, self.dataset, items, item_ids))

    def without_items(self, item_ids: ArrayLike) -> Run:
        """Removes items from the catalogue, so that they are never candidates; returns a new run.

        With a table of ids, the other items keep their row numbers. A re-ranker of your own stays as it is.

        Raises:
          UnknownIdError: an unknown item.
          ConfigError, ValueError: fewer items than candidates would remain.
        """
        return self.on(catalogue.without_items(self.policy, self.dataset, item_ids))

    def with_contexts(self, contexts: Table, context_ids: ArrayLike | None = None) -> Run:
        """Adds contexts, as `with_items` adds items, for towers over context features; returns a new run."""
        return self.on(
            catalogue.with_contexts(self.dataset, self.config.context_tower, contexts, context_ids)
        )

    def on(self, dataset: Dataset) -> Run:
        """The run on another dataset, with a copy of its parameters, so that both may be trained further.

        New contexts are neither trained nor evaluated on.
        """
        before, config = self.learner, self.config
        if not dataset.environment.knows_rewards:  # no reward, so no propensity either
            config = dataclasses.replace(config, adaptive_learning_rate=False)
        learner = build_learner(
            config,
            dataset.environment,
            encoder=before.policy.encoder,
            reranker=before.reranker,
            advantage=before.advantage,
            optimizer=before.optimizer,
        )
        world = learner.policy.retrieval.sharding.replicate(dataset.environment)
        learner = dataclasses.replace(learner, environment=world, sampler=before.sampler)
        served = None
        if self.served is not None:
            served, trained = world, training_environment(before.environment, world)
            learner = dataclasses.replace(learner, environment=trained, objective=before.objective)
        return dataclasses.replace(
            self,
            learner=learner,
            state=jax.tree.map(jnp.copy, self.state),
            metrics=list(self.metrics),
            accumulator=copy.deepcopy(self.accumulator),
            dataset=dataset,
            served=served,
            memory=check_memory(learner, len(self.config.seeds)),
        )

    def context_rows(self, contexts: ArrayLike) -> np.ndarray:
        """Row numbers int[n] of one context id or of a list of them.

        Raises:
          ValueError: an unknown context, or another kind of value.
        """
        return recommend.context_rows(self.dataset, contexts)

    def copies(self, tree: Tree) -> Tree:
        """Replicates arrays on every device of a sharded run, as its programs take them."""
        return self.policy.retrieval.sharding.replicate(tree)

    def state_of_hosts(self) -> TrainState:
        """Copies the state into this host's memory, without the padding of a mesh.

        Every process of a sharded run must call it.
        """
        return self.policy.retrieval.sharding.gather(self.state)

    def stopped(self) -> list[str]:
        """One sentence for every seed that stopped early."""
        return [
            f"seed {seed} stopped at step {int(step)} by {Fault(int(fault)).description}; its state is the "
            f"one before that update. {Fault(int(fault)).remedy}"
            for seed, step, fault in zip(
                self.config.seeds, *jax.device_get((self.state.step, self.state.fault)), strict=True
            )
            if fault
        ]


_LARGE = 2**20
"""Number of contexts and items from which a generated problem is checked before it is generated."""
_FITTED = "lightgbm"
"""Name of the re-ranker that is fitted to the training part."""


def prepare(
    config: TrainConfig,
    environment: Environment | Dataset | None = None,
    *,
    restored: bool = False,
    **components: Any,
) -> Run:
    """Prepares a run at step 0: settings resolved, components built and checked, parameters drawn.

    Args:
      config: settings.
      environment: contexts and rewards of your own; those of the config if None.
      restored: True for a run whose state is loaded next, so that it needs no initial embeddings.
      **components: as in `training.build_learner`; `reranker` may also be a result of
        `training.lambdamart.fit_lightgbm`.

    Raises:
      ConfigError: a component under its former name, or settings that do not fit.
      FileNotFoundError, TableError: data or initial embeddings that cannot be used.
    """
    for name in RENAMED.keys() & components.keys():
        raise ConfigError(f"{name}= is now named {RENAMED[name]}=")
    if config.init_embeddings is not None:
        config = with_tower_of_start(config)
    if environment is not None:
        environment = Dataset.of(environment)
        has_histories = isinstance(environment.environment, Interactions)
        config = config.resolve(has_histories and components.get("encoder") is None)
    else:
        config = config.resolve()
        _check_before_generating(config)
    dataset = Dataset.of(make_environment(config) if environment is None else environment)
    if dataset.needs_care and not restored:
        warn_of_data(config, dataset, components)
    dataset, fitted, components = _with_scores(config, dataset, components)
    start = _start(config, dataset, components, restored)
    if start is not None:
        config, dataset = start.config, start.dataset
    if config.num_epochs is not None and dataset.parts is not None:
        steps = steps_of_epochs(config, dataset.parts, config.num_epochs)
        config = dataclasses.replace(config, num_steps=steps)
    if config.patience is not None:
        check_patience(config, dataset)
    if start is None:
        learner = build_learner(config, dataset.environment, **components)
    else:
        learner = start.of(build_learner(without_start(config), dataset.environment, **components))
    memory = check_memory(learner, len(config.seeds))
    sharding = learner.policy.retrieval.sharding

    def init(keys):
        return sharding.constrain(jax.vmap(learner.init)(keys))

    keys, world = sharding.replicate((seed_keys(config.seeds, "init"), dataset.environment))
    learner = dataclasses.replace(learner, environment=world)
    if dataset.ids_are_rows:  # without ids, the copy on the devices is enough
        dataset = Dataset.of(world)
    evaluated = split_contexts(world.num_contexts, config.held_out_contexts)[1]
    if config.objective != "policy_gradient":
        check_knows_feedback(world)
    if dataset.parts is not None:
        learner, evaluated = on_moments(learner, config, dataset.parts), dataset.parts.evaluated()
        trained = sharding.replicate(learner.environment)
        learner = dataclasses.replace(learner, environment=trained)
    elif config.unobserved != "zero" or config.popularity_weight > 0:
        check_needs_a_log(config)
    return Run(
        config,
        learner,
        compiled(init, keys)(keys),
        dataset,
        memory=memory,
        evaluation_contexts=evaluated,
        served=None if dataset.parts is None else world,
        fitted=fitted,
    )


def _start(
    config: TrainConfig, dataset: Dataset, components: dict[str, Any], restored: bool
) -> Start | None:
    """Returns the initial embeddings of a run; None if it has none."""
    if config.init_embeddings is None:
        return None
    if components.get("encoder") is not None:
        raise ConfigError(
            "init_embeddings has no effect on an encoder of yours; leave it out, or build the encoder by "
            "encoders.from_embeddings"
        )
    return read_start(config, dataset, restored=restored)


def _with_scores(
    config: TrainConfig, dataset: Dataset, components: dict[str, Any]
) -> tuple[Dataset, FittedReranker | None, dict[str, Any]]:
    """Returns the dataset with the scores of a fitted re-ranker, if the run has one, and the components."""
    given = components.get("reranker")
    if isinstance(given, Reranker) or (given is None and config.reranker != _FITTED):
        return dataset, None, components
    from rankpg.training.lambdamart import with_scores  # needs SciPy

    return with_scores(config, dataset, components, available_memory())


def _check_before_generating(config: TrainConfig) -> None:
    """Rejects a large generated problem that does not fit in memory, from shapes alone."""
    if config.environment != "synthetic" or config.num_items + config.num_contexts < _LARGE:
        return
    # What needs numbers, and takes little memory, is left for later.
    plain = {"reranker": "optimal", "reranker_features": None, "adaptive_learning_rate": False}
    plain = dataclasses.replace(without_start(config), **plain)

    def from_shapes():
        world = Dataset.of(make_environment(plain)).environment
        check_memory(build_learner(plain, world), len(plain.seeds))

    jax.eval_shape(from_shapes)
