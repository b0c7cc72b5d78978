"""Value-based retrieval: logits that are predicted rewards, fitted to the rewards of what was shown.

    loss = mean (f(x, a) - r)^2 over the shown items,    S = the K largest of f / temperature + Gumbel noise

It is the retriever that a practitioner would try first: regression, with candidates explored by Boltzmann's
distribution. It cannot know what the re-ranker will show, and predicts the rewards of all items alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from rankpg.core.numerics import accumulation_dtype
from rankpg.retrieval.base import Encoded
from rankpg.training.exploration import Exploration, draw_by_rewards
from rankpg.training.optimizer import check_rows, first_fault, norm
from rankpg.training.state import StepMetrics, TrainState
from rankpg.types import Array, Embeddings, Float, Int, Params, PRNGKey

if TYPE_CHECKING:
    from rankpg.config.train_config import TrainConfig
    from rankpg.training.update import Learner
else:  # the learner is an argument; it is imported by its users
    Learner = TrainConfig = Any

__all__ = ["ValueBased", "predicted_rewards", "value_based"]


@dataclass(frozen=True)
class ValueBased:
    """Gradient descent on the squared error of the policy's logits; a value of `Learner.objective`."""

    exploration: Exploration

    def update(
        self, learner: Learner, state: TrainState, key: PRNGKey, root: PRNGKey
    ) -> tuple[TrainState, StepMetrics]:
        """Makes one step on a fresh batch; a fault changes nothing but `state.fault`."""
        del root
        batch, policy, world = learner.simulate(key), learner.policy, learner.environment
        temperature = self.exploration.temperature(state.step)
        candidates = draw_by_rewards(
            batch.keys.candidates,
            policy,
            world,
            batch.contexts,
            policy.encode(state.params, world, batch.contexts),
            temperature,
        )
        ranking = batch.ranking(learner, candidates)
        rewards = learner.within_bounds(batch.rewards(learner, ranking))
        observed = learner.observed(batch, ranking)
        seen = jnp.ones(ranking.shape, bool) if observed is None else observed

        def mean_loss(params: Params) -> Float[Array, ""]:
            encoded = policy.encode(params, world, batch.contexts)
            predicted = predicted_rewards(encoded, ranking)
            errors = jnp.where(seen, predicted - rewards.astype(predicted.dtype), 0)
            return jnp.sum(errors**2) / jnp.maximum(jnp.sum(seen), 1).astype(errors.dtype)

        loss, gradient = jax.value_and_grad(mean_loss)(state.params)
        length = norm(gradient)
        fault = first_fault(jax.vmap(check_rows)(candidates, ranking, rewards), loss, length)
        reward_model = learner.learn_rewards(state, batch, ranking, rewards)
        state = learner.apply_gradient(
            state, gradient, state.baseline_state, None, fault, reward_model
        )
        reward = jnp.mean(rewards @ learner.position_weights.astype(rewards.dtype))
        return state, StepMetrics(loss=loss, reward=reward, gradient_norm=length)


def value_based(config: TrainConfig) -> ValueBased:
    """Builds the objective from the settings of a run.

    >>> from rankpg import TrainConfig
    >>> value_based(TrainConfig(num_steps=500)).exploration
    Exploration(first=1.0, last=0.1, steps=500)
    """
    first, last = config.exploration_temperatures or (1.0, 0.1)
    return ValueBased(Exploration(first, last, config.exploration_steps or config.num_steps))


def predicted_rewards(encoded: Encoded, items: Int[Array, "B L"]) -> Float[Array, "B L"]:
    """Logits of some items of each context, M = 1, as they are: not less the largest one.

    >>> both = Embeddings(contexts=jnp.array([[[1.0, 2.0]]]), items=jnp.array([[[3.0, 0.0], [0.0, 5.0]]]))
    >>> predicted_rewards(both, jnp.array([[1, 0]])).tolist()
    [[10.0, 3.0]]
    """
    if not isinstance(encoded, Embeddings):
        return jnp.take_along_axis(encoded[:, 0], items, axis=1)
    wide = accumulation_dtype(encoded.contexts.dtype)
    rows = encoded.items[0][items].astype(wide)
    return jnp.sum(encoded.contexts[:, 0][:, None].astype(wide) * rows, axis=-1)
