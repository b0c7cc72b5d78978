"""What is refused of a run's stations before anything runs: another kind, shape or dtype than is needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rankpg.config import ConfigError, TrainConfig
from rankpg.encoders import Encoder
from rankpg.pipeline import Pipeline
from rankpg.rewards import RewardTransform
from rankpg.types import Environment, LateStage

__all__ = ["check_kinds", "check_stations"]


def check_kinds(
    environment: Any, encoder: Any, late_stage: Any, reward_transform: Any, optimizer: Any
) -> None:
    """Refuse what is of another kind altogether, with the name of what would make it right."""
    if not isinstance(environment, Environment):
        raise TypeError(
            f"environment is a {type(environment).__name__}; expected one that answers mean_rewards, "
            "sample_rewards, relevance and eligible. For a matrix of rewards: environments.from_matrix"
        )
    try:
        jax.eval_shape(lambda world: None, environment)
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
    if reward_transform is not None and not isinstance(reward_transform, RewardTransform):
        raise TypeError(
            f"reward_transform is a {type(reward_transform).__name__}; expected a "
            "rankpg.rewards.RewardTransform(init, apply), such as rewards.batch_baseline()"
        )
    if late_stage is not None and not isinstance(late_stage, LateStage):
        raise TypeError(
            f"late_stage is a {type(late_stage).__name__}; expected one of rankpg.late_stage. "
            "For a function of yours: late_stage.custom(ranking_length, function)"
        )
    if optimizer is not None and not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(
            f"optimizer is a {type(optimizer).__name__}; expected one of optax, such as optax.adam(1e-2)"
        )


def check_stations(pipeline: Pipeline, config: TrainConfig, environment: Environment) -> None:
    """Call every station once on shapes alone, in order, so that a wrong one is named before it is run."""
    one, candidates = _shape((), jnp.int32), _shape((config.num_candidates,), jnp.int32)
    key, length = jax.random.key(0), config.ranking_length
    params = _traced("the encoder's init", pipeline.encoder.init, key)
    two = _shape((2,), jnp.int32)
    logits = _traced("the encoder", pipeline.logits, params, environment, two)
    state = _traced("the optimizer's init", pipeline.optimizer.init, params)
    _traced(
        "the optimizer, given gradient, state and parameters,",
        pipeline.optimizer.update,
        params,
        state,
        params,
    )
    if pipeline.retrieval.name != "dense":
        encoded = _traced("the encoder", pipeline.encoder.encode, params, environment, two)
        pipeline.embeddings(encoded)
    wanted = (2, config.num_experts, environment.num_items)
    if logits.shape != wanted:
        raise ValueError(
            f"the encoder gives logits of shape {logits.shape} for 2 contexts; expected [B, M, N] = "
            f"{wanted} (M = --num-experts, N = the environment's items)"
        )
    stage = pipeline.late_stage
    if stage.ranking_length != length:
        raise ConfigError(
            f"--ranking-length is {length}, but the late stage shows {stage.ranking_length} items"
        )
    ranking = _traced("the late stage", lambda c, k: stage(key, environment, c, k), one, candidates)
    if ranking.items.shape != (length,):
        raise ValueError(
            f"the late stage shows items of shape {ranking.items.shape}; expected [{length}]"
        )
    for name in ("mean_rewards", "sample_rewards", "relevance"):
        method = getattr(environment, name)
        call = (lambda c, i, m=method: m(key, c, i)) if name == "sample_rewards" else method
        rewards = _traced(f"the environment's {name}", call, one, candidates)
        if rewards.shape != candidates.shape or not jnp.issubdtype(rewards.dtype, jnp.floating):
            raise ValueError(
                f"the environment's {name} answers {rewards.dtype}{list(rewards.shape)} for "
                f"{config.num_candidates} items; expected one float per item"
            )
    if pipeline.adaptive_learning_rate and not _knows_propensity(pipeline, environment, config):
        raise ConfigError(
            "--adaptive-learning-rate needs the late stage's propensity of its greedy ranking, which this "
            "late stage does not tell; choose --no-adaptive-learning-rate"
        )
    _check_eligible(environment, config.num_candidates)


def _knows_propensity(pipeline: Pipeline, environment: Environment, config: TrainConfig) -> bool:
    some = jnp.arange(config.num_candidates, dtype=jnp.int32)
    ranking = pipeline.late_stage.greedy(jax.random.key(0), environment, jnp.int32(0), some)
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
            f"context {poorest} has {int(count[poorest])} eligible items, fewer than --num-candidates "
            f"{num_candidates}; lower K or leave such contexts out"
        )


def _shape(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _traced(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's output as shapes; what it raises is passed on under its name."""
    try:
        return jax.eval_shape(function, *arguments)
    except Exception as error:
        raise ValueError(f"{name} raised {type(error).__name__}: {error}") from error
