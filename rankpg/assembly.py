"""From a config to the stations of a run: those that it names, but for those that are given."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rankpg import neural_scorer
from rankpg.config import ConfigError, TrainConfig
from rankpg.contexts import split_contexts
from rankpg.encoders import Encoder, IdTower, from_nnx, towers_of
from rankpg.estimators import ESTIMATORS, check_estimator
from rankpg.late_stage import LATE_STAGES, learned, noisy
from rankpg.optimizing import make_optimizer
from rankpg.pipeline import Pipeline
from rankpg.placement import OneDevice, place_on
from rankpg.quotas import expert_quotas
from rankpg.retrieval import choose_retrieval
from rankpg.rewards import (
    RewardTransform,
    batch_baseline,
    context_baseline,
    group,
    identity,
    learned_baseline,
    position_weights,
)
from rankpg.station_checks import check_kinds, check_stations
from rankpg.types import Embeddings, Environment, LateStage

__all__ = ["assemble"]


def assemble(
    config: TrainConfig,
    environment: Environment,
    *,
    encoder: Encoder | None = None,
    late_stage: LateStage | None = None,
    reward_transform: RewardTransform | None = None,
    optimizer: optax.GradientTransformation | None = None,
) -> Pipeline:
    """Build the stations that a config names; a station that is given takes the place of the named one.

    Raises:
      ConfigError: settings that do not fit the environment.
      ValueError: a function of yours that raises, or answers a wrong shape or dtype.
      TypeError: a station that is none.
    """
    check_kinds(environment, encoder, late_stage, reward_transform, optimizer)
    config = config.resolve()
    if config.held_out_contexts and encoder is None and config.context_tower == "ids":
        raise ConfigError(
            f"--held-out-contexts is {config.held_out_contexts}, but --context-tower ids learns nothing of "
            "contexts that it never sees; choose --context-tower features, adapter or given"
        )
    estimator = check_estimator(config.estimator, config.num_experts)
    quotas = expert_quotas(config.num_candidates, config.num_experts)
    if config.num_candidates > environment.num_items:
        raise ConfigError(
            f"--num-candidates is {config.num_candidates}, but the catalogue has only "
            f"{environment.num_items} items; K can be at most N"
        )
    if (config.recall_depth or 1) > environment.num_items:
        raise ConfigError(
            f"--recall-depth is {config.recall_depth}, but the catalogue has only {environment.num_items} "
            "items; T can be at most N"
        )
    encoder = encoder or _make_encoder(config, environment)
    retrieval = choose_retrieval(
        config.retrieval,
        environment.num_items,
        len(config.seeds) * config.batch_size * config.num_experts * environment.num_items,
        whole_catalogue=estimator.statistics == "catalogue",
        towers=_has_towers(encoder, environment),
    )
    if retrieval.name != "sharded" and jax.process_count() > 1:
        raise ConfigError(
            f"{jax.process_count()} processes would each train the whole run: retrieval {retrieval.name} "
            f"({retrieval.reason}) uses one device; choose --retrieval sharded"
        )
    with jax.ensure_compile_time_eval():  # numbers, also where the environment is but shapes
        alpha = np.asarray(position_weights(config.position_weights, config.ranking_length))
    placement = OneDevice()
    if retrieval.name == "sharded":
        placement = place_on(config.mesh, environment.num_items, config.num_candidates)
    training, judging = split_contexts(environment.num_contexts, config.held_out_contexts)
    pipeline = Pipeline(
        encoder=encoder,
        temperature=config.temperature,
        product_dtype=jnp.dtype(config.product_dtype),
        quotas=quotas,
        late_stage=late_stage or _make_late_stage(config, environment),
        entropy_bonus=config.entropy_bonus,
        reward_transform=reward_transform or _make_transform(config, environment),
        position_weights=alpha.astype(np.float32),
        estimator=estimator,
        optimizer=optimizer or make_optimizer(config),
        adaptive_learning_rate=bool(config.adaptive_learning_rate),
        batch_size=config.batch_size,
        draws_per_context=config.draws_per_context,
        training_contexts=training,
        judging_contexts=judging,
        retrieval=retrieval,
        placement=placement,
        recall_depth=config.recall_depth,
    )
    check_stations(pipeline, config, environment)
    return pipeline


def _make_encoder(config: TrainConfig, environment: Environment) -> Encoder:
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


def _has_towers(encoder: Encoder, environment: Environment) -> bool:
    """Whether it answers embeddings; one that fails is named later, station by station."""
    try:
        params = jax.eval_shape(encoder.init, jax.random.key(0))
        encoded = jax.eval_shape(
            encoder.encode, params, environment, jax.ShapeDtypeStruct((2,), jnp.int32)
        )
    except Exception:
        return False
    return isinstance(encoded, Embeddings)


def _make_late_stage(config: TrainConfig, environment: Environment) -> LateStage:
    if config.late_stage == "noisy":
        return noisy(config.ranking_length, config.inverse_temperature)
    if config.late_stage == "learned":
        key = jax.random.key(config.instance_seed or 0)
        return learned(config.ranking_length, neural_scorer.fit(key, environment))
    return LATE_STAGES[config.late_stage](config.ranking_length)


def _make_transform(config: TrainConfig, environment: Environment) -> RewardTransform:
    length, contexts = config.ranking_length, environment.num_contexts
    credit_assigned = ESTIMATORS[config.estimator].credit_assigned
    network = from_nnx(lambda rngs: IdTower(contexts, length, 1, 0.0, rngs=rngs))
    transforms: dict[str, Callable[[], RewardTransform]] = {
        "none": identity,
        "group": lambda: group(config.draws_per_context, shift=credit_assigned),
        "batch": batch_baseline,
        "context": lambda: context_baseline(contexts, length),
        "learned": lambda: learned_baseline(network),
    }
    return transforms[config.reward_transform or "none"]()
