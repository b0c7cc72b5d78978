"""The learner: the components of a policy-gradient update, and the update itself.

    contexts -> encoder -> retrieval -> re-ranker -> rewards
             -> scores -> credit -> loss -> gradient -> optimizer

`update` is this diagram. Training runs it on batches that it draws itself (`Simulated`). Online
learning runs the same function on batches whose candidates were drawn before and whose ranking and rewards
came from outside (`training.logged.Logged`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from rankpg.advantages import Advantage, BaselineState, entropy_bonus
from rankpg.core.estimators import Candidates, Estimator
from rankpg.errors import ConfigError
from rankpg.policy import Policy
from rankpg.reward_models.base import RewardModel, RewardModelState
from rankpg.training.counterfactual import DrawKeys, set_score, swap_credit
from rankpg.training.optimizer import Fault, check_rows, first_fault, guarded_step, norm
from rankpg.training.state import StepMetrics, TrainState, UpdateDetails
from rankpg.types import (
    Array,
    Bool,
    Environment,
    Float,
    Int,
    Key,
    Params,
    PRNGKey,
    Reranker,
    record,
)

__all__ = [
    "Batch",
    "ContextSampler",
    "Learner",
    "Objective",
    "Simulated",
    "StepKeys",
    "StepMetrics",
    "TrainState",
    "UpdateDetails",
    "over_seeds",
    "seed_keys",
    "train_chunk",
    "update",
]


Result = TypeVar("Result")

_LAST_STEP = 2**31 - 1
"""The count of updates stops here, as those of Optax do, and does not overflow."""
_STREAMS = ("init", "steps", "evaluation", "diagnostics", "online")
"""The order is part of every run: the index of a stream is folded into its keys."""


class StepKeys(NamedTuple):
    """One random stream for each component that draws; after `rows`, one key for each row of a batch."""

    contexts: PRNGKey
    candidates: PRNGKey
    reranker: PRNGKey
    rewards: PRNGKey

    @classmethod
    def split(cls, key: PRNGKey) -> StepKeys:
        """Splits the key of an update."""
        return cls(*jax.random.split(key, 4))

    def rows(self, count: int) -> StepKeys:
        """Splits every stream but that of the contexts, which are drawn already, into a key for each row."""
        rows = (jax.random.split(key, count) for key in self[1:])
        return StepKeys(self.contexts, *rows)


class ContextSampler(NamedTuple):
    """Draws the contexts of a batch, uniformly with replacement."""

    contexts: np.ndarray
    """int[n], the contexts that training draws from."""
    batch_size: int
    """B"""
    draws_per_context: int
    """Rows of a batch that share a context; they stand next to each other."""

    def __call__(self, key: PRNGKey, environment: Environment) -> Int[Array, "B"]:
        """Draws B contexts, B / draws_per_context of them independently."""
        distinct = self.batch_size // self.draws_per_context
        contexts = jax.random.randint(key, (distinct,), 0, len(self.contexts), jnp.int32)
        if len(self.contexts) < environment.num_contexts:  # some are held out
            contexts = jnp.asarray(self.contexts)[contexts]
        return jnp.repeat(contexts, self.draws_per_context)


@runtime_checkable
class Batch(Protocol):
    """B contexts, and where their candidates, ranking and rewards come from."""

    @property
    def contexts(self) -> Int[Array, "B"]: ...

    @property
    def weights(self) -> Float[Array, "B L"] | float:
        """Importance weights: 1 where the present policy draws."""
        ...

    def candidates(self, learner: Learner, params: Params) -> Candidates: ...

    def ranking(self, learner: Learner, candidates: Candidates) -> Int[Array, "B L"]: ...

    def rewards(self, learner: Learner, ranking: Int[Array, "B L"]) -> Float[Array, "B L"]: ...


@record
class Simulated:
    """A batch whose candidates, ranking and rewards are drawn during the update."""

    contexts: Int[Array, "B"]
    keys: StepKeys
    """A key of every stream for each row; see `StepKeys.rows`."""

    @property
    def weights(self) -> float:
        """1: the policy that draws is the one that learns."""
        return 1.0

    def candidates(self, learner: Learner, params: Params) -> Candidates:
        """Draws candidates from the policy."""
        policy, statistics = learner.policy, learner.estimator.statistics
        keys, environment = self.keys.candidates, learner.environment
        return policy.sample(keys, params, environment, self.contexts, statistics)

    def ranking(self, learner: Learner, candidates: Candidates) -> Int[Array, "B L"]:
        """Lets the re-ranker order the candidates."""
        rank = jax.vmap(learner.reranker, in_axes=(0, None, 0, 0))
        keys, environment = self.keys.reranker, learner.environment
        return rank(keys, environment, self.contexts, candidates.items).items

    def rewards(self, learner: Learner, ranking: Int[Array, "B L"]) -> Float[Array, "B L"]:
        """Draws a reward for every shown item."""
        draw = jax.vmap(learner.environment.sample_rewards)
        return draw(self.keys.rewards, self.contexts, ranking)


@runtime_checkable
class Objective(Protocol):
    """A way to learn other than by policy gradient on drawn candidates."""

    def update(
        self, learner: Learner, state: TrainState, key: PRNGKey, root: PRNGKey
    ) -> tuple[TrainState, StepMetrics]:
        """Makes one step; see `Learner.update`."""
        ...


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True, eq=False)
class Learner:
    """A policy, the system around it, and how it learns: `init(key)`, then `update(state, key)`.

    A learner is a pytree whose only arrays are the environment's, so it can be an argument of a compiled
    function: `jax.jit(Learner.update)(learner, state, key)`. `training.build_learner` builds one from a
    config.

    >>> from rankpg import TrainConfig, environments
    >>> from rankpg.training import build_learner
    >>> data = environments.from_matrix(np.eye(6))
    >>> learner = build_learner(TrainConfig(num_candidates=2, batch_size=4), data.environment)
    >>> step = jax.jit(Learner.update)
    >>> state = learner.init(jax.random.key(0))
    >>> for key in jax.random.split(jax.random.key(1), 3):
    ...     state, metrics = step(learner, state, key)
    >>> int(state.step)
    3
    """

    environment: Environment
    """Contexts and rewards."""
    policy: Policy
    """Maps contexts to candidates."""
    reranker: Reranker
    """Maps candidates to the ranking that is shown."""
    estimator: Estimator
    """The score of each shown item."""
    advantage: Advantage
    """Maps rewards to advantages."""
    optimizer: optax.GradientTransformation
    sampler: ContextSampler
    """The contexts of a batch."""
    position_weights: np.ndarray
    """alpha, float[L]: what a reward counts at each position."""
    entropy_bonus: float = 0.0
    """Weight of the entropy regularisation, in units of the reward."""
    adaptive_learning_rate: bool = False
    """Divides the step by the mean propensity of the re-ranker's greedy ranking (Eq. 9)."""
    objective: Objective | None = None
    """Objective on known feedback; None: the policy gradient."""
    leaves_out_unobserved: bool = False
    """Gives no credit to items that the environment has not observed, where it draws the rewards itself."""
    reward_bounds: tuple[float, float] | None = None
    """Smallest and largest reward; None: every finite one."""
    clips_rewards: bool = False
    """Clips a reward outside of the bounds; otherwise it is a fault."""
    swap_rewards: str = "sampled"
    """Rewards of lists that were not shown, for an estimator by swaps; see `training.counterfactual`."""
    residual_weight: float = 1.0
    """Factor of what a reward model does not explain, with swap_rewards="model"; 1 is unbiased."""
    reward_model: RewardModel | None = None
    """Learns from the rewards of every update; None: there is none."""

    def init(self, key: PRNGKey) -> TrainState:
        """Draws the state at step 0."""
        params_key, baseline_key = jax.random.split(key)
        params = self.policy.init(params_key)
        return TrainState(
            params=params,
            optimizer_state=self.optimizer.init(params),
            baseline_state=self.advantage.init(baseline_key),
            step=jnp.zeros((), jnp.int32),
            fault=jnp.zeros((), jnp.int32),
            reward_model_state=(
                ()
                if self.reward_model is None
                else self.reward_model.init(jax.random.fold_in(key, 2))
            ),
        )

    def update(
        self, state: TrainState, key: PRNGKey, root: PRNGKey | None = None
    ) -> tuple[TrainState, StepMetrics]:
        """Makes one step on a fresh batch: of policy gradient, or of the learner's objective.

        `root` is the same for all updates: an objective on known feedback takes the order of its epochs from
        it. Without one, every batch is drawn from an order of its own.

        An update that meets a `Fault` changes nothing but `state.fault`; so does every later one. (A model
        of more than 2^22 numbers is stepped in place: its parameters are checked one update later.)
        """
        if self.objective is not None:
            return self.objective.update(self, state, key, key if root is None else root)
        state, done = update(self, state, self.simulate(key))
        return state, done.metrics

    def simulate(self, key: PRNGKey) -> Simulated:
        """Draws the contexts of a batch, and the keys with which the rest of it will be drawn."""
        keys = StepKeys.split(key)
        contexts = self.sampler(keys.contexts, self.environment)
        return Simulated(contexts=contexts, keys=keys.rows(self.sampler.batch_size))

    def score(self, candidates: Candidates, ranking: Int[Array, "B L"]) -> Float[Array, "B n"]:
        """The estimator's score of every shown item, or by swaps of every candidate; it carries the gradient.

        With the rewards of a model, the score of the whole set comes last.
        """
        quotas, by_swaps = self.policy.quotas, self.estimator.by_swaps
        score = jax.vmap(lambda c, items: self.estimator.score(c, items, quotas))
        scores = score(candidates, ranking)
        wanted = (candidates.items if by_swaps else ranking).shape
        if getattr(scores, "shape", None) != wanted:
            raise ValueError(
                f"the estimator's score returns {getattr(scores, 'shape', scores)} for "
                f"{'candidates' if by_swaps else 'rankings'} of shape {wanted}; expected one score for each "
                f"{'candidate' if by_swaps else 'shown item'}"
            )
        if not by_swaps or self.swap_rewards != "model":
            return scores
        of_set = jax.vmap(lambda c, items: set_score(c, items, quotas))(candidates, ranking)
        return jnp.concatenate([scores, of_set], axis=1)

    def assign(
        self,
        state: TrainState,
        batch: Batch,
        candidates: Candidates,
        ranking: Int[Array, "B L"],
        rewards: Float[Array, "B L"],
        scores: Float[Array, "B n"],
    ) -> tuple[Float[Array, "B n"], BaselineState]:
        """The credit of every score, without a gradient, and the next baseline state."""
        if self.estimator.by_swaps:
            if not isinstance(batch, Simulated):
                raise ConfigError(
                    "estimator='ca_pg_swap' needs the rewards of lists that were not shown, which a log does "
                    "not hold; give estimator='v_pg', 'v_pg_set' or 'ca_pg_swr'"
                )
            keys = DrawKeys(batch.keys.reranker, batch.keys.rewards)
            credit = swap_credit(
                self, keys, batch.contexts, candidates, ranking, rewards, state.reward_model_state
            )
            return credit, state.baseline_state
        observed = self.observed(batch, ranking)
        return self.credit(state.baseline_state, batch.contexts, rewards, scores, observed)

    def credit(
        self,
        baseline_state: BaselineState,
        contexts: Int[Array, "B"],
        rewards: Float[Array, "B L"],
        scores: Float[Array, "B L"],
        observed: Bool[Array, "B L"] | None = None,
    ) -> tuple[Float[Array, "B L"], BaselineState]:
        """alpha_l * A_l, which multiplies the scores and carries no gradient, and the next baseline state.

        Positions that are not `observed` have no credit and leave the baseline as it is; None: all are.
        """
        if self.entropy_bonus:
            slots = 1 if self.estimator.credit_assigned else self.policy.num_candidates
            rewards = entropy_bonus(rewards, scores, self.entropy_bonus, slots)
        given = () if observed is None else (observed,)
        advantages, baseline_state = self.advantage.apply(baseline_state, contexts, rewards, *given)
        if observed is not None:
            advantages = jnp.where(observed, advantages, 0)
        alpha = jnp.asarray(self.position_weights, advantages.dtype)
        return lax.stop_gradient(alpha[None] * advantages), baseline_state

    def observed(self, batch: Batch, ranking: Int[Array, "B L"]) -> Bool[Array, "B L"] | None:
        """Mask of the shown items whose reward was observed; None: all of them count."""
        if not isinstance(batch, Simulated):
            return getattr(batch, "seen", None)
        if not self.leaves_out_unobserved:
            return None
        return jax.vmap(self.environment.observed)(batch.contexts, ranking)

    def learn_rewards(
        self,
        state: TrainState,
        batch: Batch,
        ranking: Int[Array, "B L"],
        rewards: Float[Array, "B L"],
    ) -> RewardModelState:
        """The next state of the reward model, after one step on what was shown."""
        if self.reward_model is None:
            return state.reward_model_state
        observed = self.observed(batch, ranking)
        return self.reward_model.learn(
            state.reward_model_state, self.environment, batch.contexts, ranking, rewards, observed
        )

    def within_bounds(self, rewards: Float[Array, "..."]) -> Float[Array, "..."]:
        """Clips rewards to `reward_bounds`, or replaces those outside by NaN, which stops the update."""
        if self.reward_bounds is None:
            return rewards
        clipped = jnp.clip(rewards, *self.reward_bounds)
        return clipped if self.clips_rewards else jnp.where(clipped == rewards, rewards, jnp.nan)

    def step_size(self, batch: Batch, candidates: Candidates) -> Float[Array, ""] | None:
        """1 / mean propensity of the re-ranker's greedy ranking (Kiyohara et al. 2026, Eq. 9); None for 1."""
        if not self.adaptive_learning_rate:
            return None
        if not isinstance(batch, Simulated):
            raise ValueError(
                "adaptive_learning_rate=True needs the propensity of the re-ranker, which logged rankings "
                "lack; give adaptive_learning_rate=False"
            )
        greedy = jax.vmap(self.reranker.greedy, in_axes=(0, None, 0, 0))(
            batch.keys.reranker, self.environment, batch.contexts, candidates.items
        )
        return 1 / jnp.mean(jnp.exp(lax.stop_gradient(greedy.log_propensity)))

    def apply_gradient(
        self,
        state: TrainState,
        gradient: Params,
        baseline_state: BaselineState,
        step_size: Float[Array, ""] | None,
        fault: Int[Array, ""],
        reward_model_state: RewardModelState | None = None,
    ) -> TrainState:
        """Takes the optimizer's step; after a fault, here or earlier, only `state.fault` changes.

        Without a new `reward_model_state` it stays as it is.
        """
        if reward_model_state is None:
            reward_model_state = state.reward_model_state
        take = (state.fault == 0) & (fault == 0)
        stepped = guarded_step(
            self.optimizer, state.params, state.optimizer_state, gradient, step_size, take
        )
        fault = jnp.where((fault == 0) & ~stepped.sound, Fault.PARAMETERS.value, fault)
        baseline_state, reward_model_state, count = jax.tree.map(
            lambda old, new: jnp.where(take & stepped.sound, new, old),
            (state.baseline_state, state.reward_model_state, state.step),
            (baseline_state, reward_model_state, jnp.minimum(state.step, _LAST_STEP - 1) + 1),
        )
        return TrainState(
            params=stepped.params,
            optimizer_state=stepped.optimizer_state,
            baseline_state=baseline_state,
            step=count,
            fault=jnp.where(state.fault > 0, state.fault, fault),
            reward_model_state=reward_model_state,
        )

    def tree_flatten(self) -> tuple[tuple[Environment], _Static]:
        """The environment as the only child; everything else is static, and compared by identity."""
        names = [name for name in self.__dataclass_fields__ if name != "environment"]
        return (self.environment,), _Static(getattr(self, name) for name in names)

    @classmethod
    def tree_unflatten(cls, static: _Static, children: tuple[Environment]) -> Learner:
        """The inverse of `tree_flatten`."""
        return cls(*children, *static)


class _Static(tuple[Any, ...]):
    """Components of a learner: equal if they are the same objects, so that none of them need be hashable."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Static) and [*map(id, self)] == [*map(id, other)]

    def __hash__(self) -> int:
        return hash(tuple(map(id, self)))


def update(learner: Learner, state: TrainState, batch: Batch) -> tuple[TrainState, UpdateDetails]:
    """Makes one step of policy gradient, E[sum_l alpha_l * A_l * grad score_l] (Kiyohara et al. 2026)."""

    def surrogate_loss(params: Params) -> tuple[Float[Array, ""], tuple[Any, ...]]:
        candidates = batch.candidates(learner, params)  # a record; its items are [B, K]
        ranking = batch.ranking(learner, candidates)  # [B, L]
        rewards = learner.within_bounds(batch.rewards(learner, ranking))  # [B, L]
        scores = learner.score(candidates, ranking)  # [B, L], the gradient's only way
        credit, baseline = learner.assign(state, batch, candidates, ranking, rewards, scores)
        loss = -jnp.mean(jnp.sum(lax.stop_gradient(batch.weights) * credit * scores, axis=-1))
        return loss, (candidates, ranking, rewards, credit, baseline)

    surrogate = jax.value_and_grad(surrogate_loss, has_aux=True)
    (loss, (candidates, ranking, rewards, credit, baseline)), gradient = surrogate(state.params)
    length = norm(gradient)
    received = jnp.concatenate([rewards, credit], axis=1) if learner.estimator.by_swaps else rewards
    fault = first_fault(jax.vmap(check_rows)(candidates, ranking, received), loss, length)
    step_size = learner.step_size(batch, candidates)
    reward_model = learner.learn_rewards(state, batch, ranking, rewards)
    state = learner.apply_gradient(state, gradient, baseline, step_size, fault, reward_model)
    reward = jnp.mean(rewards @ learner.position_weights.astype(rewards.dtype))
    metrics = StepMetrics(loss=loss, reward=reward, gradient_norm=length)
    return state, UpdateDetails(
        metrics=metrics, gradient=gradient, candidates=candidates, credit=credit
    )


def train_chunk(learner: Learner, length: int) -> Any:
    """Compiles `chunk(learner, states, roots) -> (states, metrics)`: `length` updates of every seed.

    States and root keys have a leading axis of seeds; the states are donated. Metrics [seeds, length] are
    those of every update, so that no mean depends on where a chunk ends.
    """
    sharding = learner.policy.retrieval.sharding

    def chunk(learner: Learner, state: TrainState, root: PRNGKey) -> tuple[TrainState, StepMetrics]:
        def body(state: TrainState, _: None) -> tuple[TrainState, StepMetrics]:
            state, metrics = learner.update(state, jax.random.fold_in(root, state.step), root)
            return sharding.constrain(state), metrics

        return lax.scan(body, state, length=length)

    def chunks(
        learner: Learner, states: TrainState, roots: Key[Array, "seeds"]
    ) -> tuple[TrainState, StepMetrics]:
        states, metrics = over_seeds(chunk)(learner, states, roots)
        return sharding.constrain(states), sharding.replicated(metrics)

    return jax.jit(chunks, donate_argnums=1)


def over_seeds(function: Callable[[Learner, TrainState, Any], Result]) -> Callable[..., Result]:
    """Maps `function(learner, state, key)` over seeds: states and keys have a leading axis.

    Under vmap a condition becomes a selection, which holds both of its results; so one seed goes alone.
    """

    def of_all(learner: Learner, states: TrainState, keys: Key[Array, "seeds"]) -> Result:
        if len(keys) > 1:
            return jax.vmap(function, in_axes=(None, 0, 0))(learner, states, keys)
        only = function(learner, *jax.tree.map(lambda x: x[0], (states, keys)))
        return jax.tree.map(lambda x: x[None], only)

    return of_all


def seed_keys(
    seeds: tuple[int, ...],
    stream: Literal["init", "steps", "evaluation", "diagnostics", "online"],
) -> Key[Array, "seeds"]:
    """One key for each seed, in a random stream of its own."""
    values = jnp.asarray(seeds, jnp.uint32)
    index = _STREAMS.index(stream)
    return jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), index))(values)
