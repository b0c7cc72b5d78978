"""Batches: contexts, and where their candidates, rankings and rewards come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from rankpg.core.estimators import Candidates
from rankpg.types import Array, Environment, Float, Int, Params, PRNGKey, record

if TYPE_CHECKING:
    from rankpg.training.update import Learner
else:  # the learner is an argument; it is imported by its users
    Learner = Any

__all__ = ["Batch", "ContextSampler", "Simulated", "StepKeys"]


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
