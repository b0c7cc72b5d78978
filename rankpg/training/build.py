"""Builds a learner from a config, and rejects components that do not fit before anything is compiled."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from rankpg.advantages import (
    ADVANTAGES,
    Advantage,
    AdvantageSettings,
    is_identity,
    position_weights,
)
from rankpg.config.train_config import TrainConfig
from rankpg.core.estimators import ESTIMATORS, check_estimator
from rankpg.core.quotas import expert_quotas
from rankpg.encoders import TOWERS, Encoder, history_of, towers_of
from rankpg.environments.dataset import Dataset, split_contexts
from rankpg.environments.interactions import Interactions
from rankpg.environments.registry import ENVIRONMENTS
from rankpg.errors import ConfigError
from rankpg.policy import Policy
from rankpg.rerankers import RERANKERS
from rankpg.retrieval.base import Retrieval, require_embeddings
from rankpg.retrieval.choice import RetrievalSettings, choose_retrieval
from rankpg.reward_models.base import RewardModel
from rankpg.reward_models.registry import reward_model_of
from rankpg.training.counterfactual import check_swaps
from rankpg.training.model_guided import ModelGuided, check_model_guided, model_guided
from rankpg.training.optimizer import make_optimizer
from rankpg.training.update import ContextSampler, Learner, Objective
from rankpg.training.value_based import value_based
from rankpg.types import Embeddings, Environment, Reranker, check_environment

__all__ = ["build_learner", "make_environment"]


Result = TypeVar("Result")

_OBJECTIVES: dict[str, Callable[[TrainConfig], Objective]] = {
    "value_based": value_based,
    "model_guided": model_guided,
}
"""Estimators that learn through predicted rewards, by an objective of their own."""


def build_learner(
    config: TrainConfig,
    environment: Environment,
    *,
    encoder: Encoder | None = None,
    reranker: Reranker | None = None,
    advantage: Advantage | None = None,
    optimizer: optax.GradientTransformation | None = None,
) -> Learner:
    """Builds a learner from a config; a component that is passed takes the place of the one that is named.

    Args:
      config: settings; those left open are filled in by the preset.
      environment: contexts and rewards.
      encoder: contexts -> embeddings or logits.
      reranker: candidates -> ranking.
      advantage: rewards -> advantages.
      optimizer: any of optax.

    Raises:
      ConfigError: settings that do not fit the environment.
      ValueError: a function of yours that raises, or returns a wrong shape or dtype.
      TypeError: a component of another kind.
    """
    check_kinds(environment, encoder, reranker, advantage, optimizer)
    config = config.resolve(isinstance(environment, Interactions) and encoder is None)
    if config.init_embeddings is not None and encoder is None:
        raise ConfigError(
            f"init_embeddings={config.init_embeddings!r} needs the ids of a dataset, which build_learner "
            "does not get; give encoder=encoders.from_embeddings(data, FILE), or train by rankpg.train"
        )
    check_sizes(config, environment, given_encoder=encoder is not None)
    check_stored_rewards(config, environment)
    check_list_rewards(config, environment)
    training_contexts, _ = split_contexts(environment.num_contexts, config.held_out_contexts)
    with jax.ensure_compile_time_eval():  # numbers, also where the environment is but shapes
        alpha = np.asarray(position_weights(config.position_weights, config.ranking_length))
    encoder = encoder or _encoder(config, environment)
    reranker = reranker or _built(
        "RERANKERS", config.reranker, RERANKERS[config.reranker](config, environment)
    )
    name = config.advantage or "none"
    advantage = advantage or _built(
        "ADVANTAGES", name, ADVANTAGES[name](_advantage_settings(config, environment))
    )
    check_kinds(
        environment, encoder, reranker, advantage, optimizer
    )  # entries of a table may be yours
    learner = Learner(
        environment=environment,
        policy=_policy(config, environment, encoder),
        reranker=reranker,
        estimator=check_estimator(config.estimator, config.num_experts),
        advantage=advantage,
        optimizer=optimizer or make_optimizer(config),
        sampler=ContextSampler(training_contexts, config.batch_size, config.draws_per_context),
        position_weights=alpha.astype(np.float32),
        entropy_bonus=config.entropy_bonus,
        adaptive_learning_rate=bool(config.adaptive_learning_rate),
        reward_bounds=(config.reward_bounds[0], config.reward_bounds[1]),
        clips_rewards=config.outside_bounds == "clip",
        swap_rewards=config.swap_rewards,
        residual_weight=config.residual_weight,
        reward_model=_reward_model(config, environment),
        objective=_OBJECTIVES[config.estimator](config)
        if config.estimator in _OBJECTIVES
        else None,
    )
    check_components(learner, config)
    return learner


def _reward_model(config: TrainConfig, environment: Environment) -> RewardModel | None:
    """The reward model of the settings; two towers where the estimator needs one and none is named."""
    if config.reward_model == "none" and config.estimator == "model_guided":
        config = dataclasses.replace(config, reward_model="two_tower")
    return None if config.reward_model == "none" else reward_model_of(config, environment)


def _built(table: str, name: str, component: Result | None) -> Result:
    """Returns what an entry of a table built; one of yours may lack its `return`."""
    if component is None:
        raise TypeError(f"{table}[{name!r}] returned None; expected the component that it builds")
    return component


def _policy(config: TrainConfig, environment: Environment, encoder: Encoder) -> Policy:
    return Policy(
        encoder=encoder,
        quotas=expert_quotas(config.num_candidates, config.num_experts),
        retrieval=_retrieval(config, environment, encoder),
        temperature=config.temperature,
        product_dtype=jnp.dtype(config.product_dtype),
    )


def _encoder(config: TrainConfig, environment: Environment) -> Encoder:
    if TOWERS[config.context_tower].reads_histories:
        return _history_encoder(config, environment)
    return towers_of(
        environment,
        config.embedding_dim,
        config.num_experts,
        init_scale=config.init_scale or 1.0,
        context_tower=config.context_tower,
        item_tower=config.item_tower,
        hidden=config.hidden,
        dtype=jnp.dtype(config.table_dtype),
    )


def _history_encoder(config: TrainConfig, environment: Environment) -> Encoder:
    build = history_of
    if config.history_encoder == "attention":
        from rankpg.encoders.attention import attention_of  # most runs need none of it

        layers, heads = config.attention_layers, config.attention_heads
        build = partial(attention_of, num_layers=layers, num_heads=heads)
    return build(
        environment,
        config.embedding_dim,
        config.num_experts,
        length=config.history_length,
        init_scale=config.init_scale or 1.0,
        dropout=config.dropout,
        item_tower=config.item_tower,
        hidden=config.hidden,
        dtype=jnp.dtype(config.table_dtype),
    )


def _retrieval(config: TrainConfig, environment: Environment, encoder: Encoder) -> Retrieval:
    num_items = environment.num_items
    estimator = check_estimator(config.estimator, config.num_experts)
    retrieval = choose_retrieval(
        config.retrieval,
        RetrievalSettings(num_items, config.num_candidates, config.mesh),
        len(config.seeds) * config.batch_size * config.num_experts * num_items,
        whole_catalogue=estimator.statistics == "catalogue",
        towers=_has_towers(encoder, environment),
        known_feedback=config.objective != "policy_gradient",
    )
    if retrieval.name != "sharded" and jax.process_count() > 1:
        raise ConfigError(
            f"{jax.process_count()} processes would each train the whole run: "
            f"retrieval={retrieval.name!r} ({retrieval.reason}) uses one device; give retrieval='sharded'"
        )
    return retrieval


def _has_towers(encoder: Encoder, environment: Environment) -> bool:
    """True if the encoder returns embeddings; one that fails is named when all components are checked."""
    try:
        params = jax.eval_shape(encoder.init, jax.random.key(0))
        encoded = jax.eval_shape(
            encoder.encode, params, environment, jax.ShapeDtypeStruct((2,), jnp.int32)
        )
    except Exception:
        return False
    return isinstance(encoded, Embeddings)


def _advantage_settings(config: TrainConfig, environment: Environment) -> AdvantageSettings:
    return AdvantageSettings(
        num_contexts=environment.num_contexts,
        ranking_length=config.ranking_length,
        draws_per_context=config.draws_per_context,
        credit_assigned=ESTIMATORS[config.estimator].credit_assigned,
    )


def make_environment(config: TrainConfig) -> Environment | Dataset:
    """Builds the environment that a config names."""
    return ENVIRONMENTS[config.environment](config)


def check_kinds(
    environment: object,
    encoder: object | None,
    reranker: object | None,
    advantage: object | None,
    optimizer: object | None,
) -> None:
    """Rejects a component of another kind, and names what would make a right one of it."""
    check_environment(environment)
    try:
        jax.eval_shape(lambda environment: None, environment)
    except TypeError:
        raise TypeError(
            f"the class {type(environment).__name__} is not registered as a pytree, so JAX cannot take its "
            "arrays; decorate it with flax.struct.dataclass, its arrays being fields, and a class that "
            "inherits from it as well"
        ) from None
    if encoder is not None and not isinstance(encoder, Encoder):
        raise TypeError(
            f"encoder is a {type(encoder).__name__}; expected a rankpg.encoders.Encoder. For a Linen module: "
            "encoders.from_linen(module); for an nnx module: encoders.from_nnx(build); for functions: "
            "encoders.Encoder(init, apply)"
        )
    if advantage is not None and not isinstance(advantage, Advantage):
        raise TypeError(
            f"advantage is a {type(advantage).__name__}; expected a "
            "rankpg.advantages.Advantage(init, apply), such as advantages.batch_baseline()"
        )
    if reranker is not None and not isinstance(reranker, Reranker):
        raise TypeError(
            f"reranker is a {type(reranker).__name__}; expected one of rankpg.rerankers, or a class "
            "that inherits from rankpg.types.Reranker. For a function of yours: "
            "rerankers.custom(ranking_length, function)"
        )
    if optimizer is not None and not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(
            f"optimizer is a {type(optimizer).__name__}; expected one of optax, such as optax.adam(1e-2)"
        )


def check_sizes(config: TrainConfig, environment: Environment, *, given_encoder: bool) -> None:
    """Rejects settings that this catalogue is too small for, or that its contexts cannot satisfy."""
    if config.held_out_contexts and not given_encoder and config.context_tower == "ids":
        raise ConfigError(
            f"held_out_contexts={config.held_out_contexts}, but context_tower='ids' learns nothing about "
            "contexts that it never sees; give context_tower='features', context_tower='adapter' or "
            "context_tower='given'"
        )
    if config.num_candidates > environment.num_items:
        raise ConfigError(
            f"num_candidates={config.num_candidates}, but the catalogue has only "
            f"{environment.num_items} items; K can be at most N"
        )
    if (config.recall_depth or 1) > environment.num_items:
        raise ConfigError(
            f"recall_depth={config.recall_depth}, but the catalogue has only {environment.num_items} "
            "items; T can be at most N"
        )


def check_stored_rewards(config: TrainConfig, environment: Environment) -> None:
    """Rejects or counts rewards of a table that are outside of the bounds; NaN is left to others.

    Raises:
      ConfigError: a reward outside of reward_bounds, with outside_bounds='refuse'.
    """
    low, high = config.reward_bounds
    for name in ("values", "means"):
        stored = getattr(environment, name, None)
        if not isinstance(stored, jax.Array | np.ndarray) or isinstance(stored, Tracer):
            continue
        if not stored.size or (low <= jnp.min(stored) and jnp.max(stored) <= high):
            continue
        outside = np.asarray((stored < low) | (stored > high))
        if not outside.any():
            continue
        first = float(np.asarray(stored)[outside][0])
        count = (
            f"{int(outside.sum())} of {outside.size} rewards are outside of "
            f"reward_bounds={low:g}, {high:g}"
        )
        if config.outside_bounds == "refuse":
            raise ConfigError(
                f"{count}, such as {first:g}; check the column, or give wider reward_bounds=(LOW, HIGH), or "
                "outside_bounds='clip'"
            )
        warnings.warn(f"{count}, such as {first:g}; training clips them", stacklevel=2)


def check_list_rewards(config: TrainConfig, environment: Environment) -> None:
    """Rejects settings that weigh positions or items one by one, where the rewards of a list interact.

    Raises:
      ConfigError: other position weights than uniform ones, or an objective on known feedback.
    """
    if not environment.rewards_interact:
        return
    if config.position_weights != "uniform":
        raise ConfigError(
            f"position_weights={config.position_weights!r}, but the environment gives the reward of the "
            "whole list, whose gains hold a discount of positions already; give "
            "position_weights='uniform', or a list reward with another discount"
        )
    if config.objective != "policy_gradient":
        raise ConfigError(
            f"objective={config.objective!r} learns from the rewards of single items, but the environment "
            "gives the reward of the whole list; give objective='policy_gradient', or the environment "
            "without its list reward"
        )


def check_components(learner: Learner, config: TrainConfig) -> None:
    """Traces every component once on shapes alone, in order, so that a wrong one is named before it runs."""
    _check_encoder(learner, config)
    _check_reranker(learner, config)
    _check_advantage(learner, config)
    _check_environment(learner.environment, config)
    if learner.objective is not None and not is_identity(learner.advantage):
        raise ConfigError(
            f"advantage= has no effect with estimator={config.estimator!r}, which learns from predicted "
            "rewards; leave it out, or choose estimator='ca_pg_swr'"
        )
    if isinstance(learner.objective, ModelGuided):
        check_model_guided(learner)
    if learner.estimator.by_swaps and learner.swap_rewards != "model":  # the model may come later
        check_swaps(learner)
    if learner.adaptive_learning_rate and not _knows_propensity(learner, config.num_candidates):
        raise ConfigError(
            "adaptive_learning_rate=True needs the propensity of the re-ranker's greedy ranking, which this "
            "re-ranker does not return; give adaptive_learning_rate=False"
        )
    _check_eligible(learner.environment, config.num_candidates)


def _check_encoder(learner: Learner, config: TrainConfig) -> None:
    policy, environment, contexts = learner.policy, learner.environment, _shape((2,))
    params = _traced("the encoder's init", policy.encoder.init, jax.random.key(0))
    logits = _traced("the encoder", policy.logits, params, environment, contexts)
    state = _traced("the optimizer's init", learner.optimizer.init, params)
    _traced(
        "the optimizer, given gradient, state and parameters,",
        learner.optimizer.update,
        params,
        state,
        params,
    )
    if policy.retrieval.name != "dense":
        encoded = _traced("the encoder", policy.encoder.encode, params, environment, contexts)
        require_embeddings(encoded, policy.retrieval.name)
    wanted = (2, config.num_experts, environment.num_items)
    if logits.shape != wanted:
        raise ValueError(
            f"the encoder gives logits of shape {logits.shape} for 2 contexts; expected [B, M, N] = "
            f"{wanted} (M is num_experts, N the number of items in the environment)"
        )


def _check_reranker(learner: Learner, config: TrainConfig) -> None:
    reranker, length = learner.reranker, config.ranking_length
    if reranker.ranking_length != length:
        raise ConfigError(
            f"ranking_length={length}, but the re-ranker shows {reranker.ranking_length} items; "
            "give both the same number"
        )
    ranking = _traced(
        "the re-ranker",
        lambda context, items: reranker(jax.random.key(0), learner.environment, context, items),
        _shape(()),
        _shape((config.num_candidates,)),
    )
    if ranking.items.shape != (length,):
        raise ValueError(
            f"the re-ranker shows items of shape {ranking.items.shape}; expected [{length}]"
        )


def _check_advantage(learner: Learner, config: TrainConfig) -> None:
    shape = (config.batch_size, config.ranking_length)
    state = _traced("the advantage's init", learner.advantage.init, jax.random.key(0))
    rewards = jax.ShapeDtypeStruct(shape, jnp.float32)
    returned: object = _traced(
        "the advantage", learner.advantage.apply, state, _shape(shape[:1]), rewards
    )
    if not isinstance(returned, tuple) or [getattr(x, "shape", None) for x in returned[:1]] != [
        shape
    ]:
        raise ValueError(
            f"the advantage returns {jax.tree.map(lambda x: x.shape, returned)} for rewards of shape "
            f"{shape}; expected (advantages of the same shape, the next state)"
        )


def _check_environment(environment: Environment, config: TrainConfig) -> None:
    interact = environment.rewards_interact
    shown = config.ranking_length if interact else config.num_candidates
    context, key = _shape(()), jax.random.key(0)
    methods = {
        "mean_rewards": environment.mean_rewards,
        "sample_rewards": lambda context, items: environment.sample_rewards(key, context, items),
        "relevance": environment.relevance,
    }
    for name, method in methods.items():
        length = config.num_candidates if name == "relevance" else shown
        items = _shape((length,))
        rewards = _traced(f"the environment's {name}", method, context, items)
        if rewards.shape != items.shape or not jnp.issubdtype(rewards.dtype, jnp.floating):
            raise ValueError(
                f"the environment's {name} returns {rewards.dtype}{list(rewards.shape)} for "
                f"{length} items; expected one float per item"
            )


def _knows_propensity(learner: Learner, num_candidates: int) -> bool:
    items = jnp.arange(num_candidates, dtype=jnp.int32)
    ranking = learner.reranker.greedy(jax.random.key(0), learner.environment, jnp.int32(0), items)
    return not bool(jnp.isnan(ranking.log_propensity))


def _check_eligible(environment: Environment, num_candidates: int) -> None:
    count = jax.jit(lambda environment: environment.count_eligible())(environment)
    if count is None:
        return
    poorest = int(jnp.argmin(count))
    if int(count[poorest]) < num_candidates:
        raise ConfigError(
            f"context {poorest} has {int(count[poorest])} eligible items, fewer than "
            f"num_candidates={num_candidates}; lower num_candidates, or leave such contexts out"
        )


def _shape(shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def _traced(name: str, function: Callable[..., Result], *arguments: object) -> Result:
    """The function's output as shapes; an exception that it raises is passed on under its name."""
    try:
        return jax.eval_shape(function, *arguments)
    except Exception as error:
        raise ValueError(f"{name} raised {type(error).__name__}: {error}") from error
