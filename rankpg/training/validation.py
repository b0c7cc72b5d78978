"""Rejects components that do not fit together, before anything is compiled: kinds, shapes, dtypes, sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import optax

from rankpg.advantages import Advantage
from rankpg.config.train_config import TrainConfig
from rankpg.encoders import Encoder
from rankpg.errors import ConfigError
from rankpg.retrieval.base import require_embeddings
from rankpg.training.update import Learner
from rankpg.types import Environment, Reranker, check_environment

__all__ = ["check_components", "check_kinds", "check_sizes"]

Result = TypeVar("Result")


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
            f"reranker is a {type(reranker).__name__}; expected one of rankpg.rerankers, or a class that "
            "inherits from rankpg.types.Reranker. "
            "For a function of yours: rerankers.custom(ranking_length, function)"
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
            "contexts that it never sees; give context_tower='features', 'adapter' or 'given'"
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


def check_components(learner: Learner, config: TrainConfig) -> None:
    """Traces every component once on shapes alone, in order, so that a wrong one is named before it runs."""
    _check_encoder(learner, config)
    _check_reranker(learner, config)
    _check_environment(learner.environment, config.num_candidates)
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


def _check_environment(environment: Environment, num_candidates: int) -> None:
    context, items, key = _shape(()), _shape((num_candidates,)), jax.random.key(0)
    methods = {
        "mean_rewards": environment.mean_rewards,
        "sample_rewards": lambda context, items: environment.sample_rewards(key, context, items),
        "relevance": environment.relevance,
    }
    for name, method in methods.items():
        rewards = _traced(f"the environment's {name}", method, context, items)
        if rewards.shape != items.shape or not jnp.issubdtype(rewards.dtype, jnp.floating):
            raise ValueError(
                f"the environment's {name} returns {rewards.dtype}{list(rewards.shape)} for "
                f"{num_candidates} items; expected one float per item"
            )


def _knows_propensity(learner: Learner, num_candidates: int) -> bool:
    items = jnp.arange(num_candidates, dtype=jnp.int32)
    ranking = learner.reranker.greedy(jax.random.key(0), learner.environment, jnp.int32(0), items)
    return not bool(jnp.isnan(ranking.log_propensity))


def _check_eligible(environment: Environment, num_candidates: int) -> None:
    catalogue = jnp.arange(environment.num_items, dtype=jnp.int32)
    if environment.eligible(jnp.int32(0), catalogue[:1]) is None:
        return
    contexts = jnp.arange(environment.num_contexts, dtype=jnp.int32)
    count = jax.jit(lambda e: jax.lax.map(lambda c: jnp.sum(e.eligible(c, catalogue)), contexts))(
        environment
    )
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
