"""A policy that learns to include what the re-ranker shows of the candidates that a reward model prefers.

    candidates drawn by predicted rewards -> re-ranker -> rewards -> reward model
    candidates drawn by predicted rewards, nearly greedily -> re-ranker -> items b
    loss = - mean log P(b in S)

The first line is what users see: the reward model explores, at a temperature that falls. The second calls
the re-ranker again, without a user. Its items are those which the final list would hold if the retriever knew
the predicted rewards; the policy learns to have them among its K candidates. A narrow policy therefore
spends its width on them, and on no other item. This is imitation of a search (compare Anthony et al. 2017,
"Thinking fast and slow"), with P(b in S) in place of the probability of one action.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from rankpg.errors import ConfigError
from rankpg.retrieval.base import Encoded
from rankpg.reward_models.base import RewardModel, RewardModelState
from rankpg.training.exploration import Exploration, draw_by_rewards
from rankpg.training.optimizer import check_rows, first_fault, norm
from rankpg.training.state import StepMetrics, TrainState
from rankpg.types import Array, Float, Int, Key, Params, PRNGKey

if TYPE_CHECKING:
    from rankpg.config.train_config import TrainConfig
    from rankpg.training.update import Learner
else:  # the learner is an argument; it is imported by its users
    Learner = TrainConfig = Any

__all__ = ["ModelGuided", "check_model_guided", "model_guided"]

_EXPLORED = 400
"""Updates in which the temperature of what is shown falls."""
_IMITATED = 0.1
"""Temperature of the imitated candidates, in standard deviations of the first batch of rewards."""
_RANKINGS = 8
"""Calls of a re-ranker that does not sort, for the candidates that the policy imitates."""


@dataclass(frozen=True)
class ModelGuided:
    """Imitation of the candidates that a reward model prefers; a value of `Learner.objective`."""

    exploration: Exploration
    """Temperatures of the candidates that are shown to users, in units of `RewardModel.unit`."""
    imitated: float
    """Temperature of the candidates that the policy imitates, in the same units."""
    halves_after: float = 2000.0
    """Updates after which the policy's learning rate is half of the first one; it falls like 1 / updates."""

    def update(
        self, learner: Learner, state: TrainState, key: PRNGKey, root: PRNGKey
    ) -> tuple[TrainState, StepMetrics]:
        """Makes one step on a fresh batch; a fault changes nothing but `state.fault`."""
        del root
        batch, policy, world = learner.simulate(key), learner.policy, learner.environment
        model_state = state.reward_model_state
        predicted = _predicted(learner, model_state, batch.contexts)
        unit = _unit(_model(learner), model_state)
        given = policy, world, batch.contexts, predicted
        temperature = unit * self.exploration.temperature(state.step)
        candidates = draw_by_rewards(batch.keys.candidates, *given, temperature)
        ranking = batch.ranking(learner, candidates)
        rewards = learner.within_bounds(batch.rewards(learner, ranking))
        preferred = draw_by_rewards(_again(batch.keys.candidates), *given, unit * self.imitated)
        wanted = _rankings(_again(batch.keys.reranker), learner, batch.contexts, preferred.items)
        alpha = jnp.tile(learner.position_weights, wanted.shape[1] // ranking.shape[1])

        def mean_loss(params: Params) -> Float[Array, ""]:
            statistics = learner.estimator.statistics
            scored = policy.rescore(wanted, params, world, batch.contexts, statistics)
            scores = learner.score(scored, wanted)
            return -jnp.mean(scores @ alpha.astype(scores.dtype)) / (alpha.size / ranking.shape[1])

        loss, gradient = jax.value_and_grad(mean_loss)(state.params)
        length = norm(gradient)
        fault = first_fault(jax.vmap(check_rows)(candidates, ranking, rewards), loss, length)
        reward_model = learner.learn_rewards(state, batch, ranking, rewards)
        smaller = 1 / (1 + state.step.astype(jnp.float32) / self.halves_after)
        state = learner.apply_gradient(
            state, gradient, state.baseline_state, smaller, fault, reward_model
        )
        reward = jnp.mean(rewards @ learner.position_weights.astype(rewards.dtype))
        return state, StepMetrics(loss=loss, reward=reward, gradient_norm=length)


def model_guided(config: TrainConfig) -> ModelGuided:
    """Builds the objective from the settings of a run.

    >>> from rankpg import TrainConfig
    >>> model_guided(TrainConfig()).exploration
    Exploration(first=2.0, last=0.1, steps=400)
    """
    first, last = config.exploration_temperatures or (2.0, 0.1)
    exploration = Exploration(first, last, config.exploration_steps or _EXPLORED)
    return ModelGuided(exploration, min(_IMITATED, last))


def check_model_guided(learner: Learner) -> None:
    """Rejects components that cannot be guided by a reward model.

    Raises:
      ConfigError: the learner lacks a reward model; the model predicts item by item and retrieval is not
        dense; rewards interact; or several devices share the items.
    """
    model, retrieval = _model(learner), learner.policy.retrieval.name
    if retrieval == "sharded":
        raise ConfigError(
            "estimator='model_guided' draws candidates on one device; give retrieval='streamed' or "
            "retrieval='dense'"
        )
    if learner.environment.rewards_interact:
        raise ConfigError(
            "estimator='model_guided' predicts the rewards of single items, and those of this environment "
            "interact; give estimator='ca_pg_swap' (estimator='auto' chooses by the settings, and does not "
            "see an environment that is passed besides them)"
        )
    if model.embed is None and retrieval != "dense":
        raise ConfigError(
            f"retrieval={retrieval!r} searches by inner products, and this reward model has no embeddings; "
            "give reward_model='two_tower', or retrieval='dense'"
        )


def _model(learner: Learner) -> RewardModel:
    if learner.reward_model is None:
        raise ConfigError(
            "estimator='model_guided' needs a reward model, and the learner has none; give "
            "reward_model='two_tower'"
        )
    return learner.reward_model


def _unit(model: RewardModel, state: RewardModelState) -> Float[Array, ""]:
    return jnp.ones(()) if model.unit is None else model.unit(state)


def _predicted(learner: Learner, state: RewardModelState, contexts: Int[Array, "B"]) -> Encoded:
    """Predicted rewards of the whole catalogue, as embeddings if the model has them."""
    model, world = _model(learner), learner.environment
    if model.embed is not None:
        return model.embed(state, world, contexts)
    items = jnp.arange(world.num_items, dtype=jnp.int32)
    every = jnp.broadcast_to(items, (contexts.shape[0], items.size))
    return model.predict(state, world, contexts, every)[:, None]


def _again(keys: Key[Array, "B"]) -> Key[Array, "B"]:
    """Further keys, one for each."""
    return jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)


def _rankings(
    keys: Key[Array, "B"],
    learner: Learner,
    contexts: Int[Array, "B"],
    candidates: Int[Array, "B K"],
) -> Int[Array, "B n"]:
    """The items that the re-ranker shows of the candidates; of several calls if it does not sort."""
    sorts = learner.reranker.scores(learner.environment, contexts[0], candidates[0]) is not None
    calls = 1 if sorts else _RANKINGS

    def of_context(
        key: PRNGKey, context: Int[Array, ""], items: Int[Array, "K"]
    ) -> Int[Array, "n"]:
        rank = jax.vmap(
            lambda key: learner.reranker(key, learner.environment, context, items).items
        )
        return rank(jax.random.split(key, calls)).reshape(-1)

    return jax.vmap(of_context)(keys, contexts, candidates)
