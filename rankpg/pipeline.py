"""The stations of one run, put together once from a config and checked before anything runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rankpg import neural_scorer
from rankpg.config import ConfigError, TrainConfig
from rankpg.contexts import split_contexts
from rankpg.encoders import Encoder, IdTower, from_nnx, to_logits, towers_of
from rankpg.estimators import ESTIMATORS, Estimator, check_estimator
from rankpg.late_stage import LATE_STAGES, learned, noisy
from rankpg.optimizing import make_optimizer
from rankpg.placement import OneDevice, Placement, place_on
from rankpg.plackett_luce import expert_quotas
from rankpg.retrieval import (
    Candidates,
    Choice,
    choose_retrieval,
    describe,
    describe_streamed,
    mask,
    retrieve,
    retrieve_sharded,
    retrieve_streamed,
)
from rankpg.rewards import (
    RewardTransform,
    batch_baseline,
    context_baseline,
    group,
    identity,
    learned_baseline,
    position_weights,
)
from rankpg.types import (
    Array,
    Embeddings,
    Environment,
    Float,
    Int,
    Key,
    LateStage,
    Params,
    Quotas,
)

__all__ = ["Pipeline", "assemble"]


@dataclass(frozen=True)
class Pipeline:
    """Everything of a run that is not an array in training: the stations in the order of the data flow."""

    encoder: Encoder
    temperature: float
    product_dtype: Any
    """Of the embeddings that training multiplies."""
    quotas: Quotas
    late_stage: LateStage
    reward_transform: RewardTransform
    position_weights: np.ndarray
    estimator: Estimator
    optimizer: optax.GradientTransformation
    adaptive_learning_rate: bool
    batch_size: int
    draws_per_context: int
    training_contexts: np.ndarray
    """The contexts that a batch is drawn from."""
    judging_contexts: np.ndarray
    """The contexts that an evaluation chooses from: those held out, if any."""
    retrieval: Choice
    """dense, streamed or sharded, and why"""
    placement: Placement | OneDevice
    """Where arrays lie."""
    recall_depth: int | None = None
    """How many of a context's best items `candidate_recall` asks for; K of them if None."""

    def logits(
        self, params: Params, environment: Environment, contexts: Int[Array, "B"]
    ) -> Float[Array, "B M N"]:
        """f_m(a) of a batch of contexts."""
        encoded = self.encoder.encode(params, environment, contexts)
        return self.placement.trim(to_logits(encoded, self.temperature))

    def embeddings(self, encoded: Any) -> Embeddings:
        """What an encoder answered, unless it is logits."""
        if not isinstance(encoded, Embeddings):
            raise ValueError(
                f"--retrieval {self.retrieval.name} goes through the items' embeddings; expected an encoder "
                "that returns rankpg.types.Embeddings, and not logits"
            )
        return encoded

    def scaled(self, encoded: Any) -> Embeddings:
        """Embeddings whose inner products are logits."""
        towers = self.embeddings(encoded)
        return dataclasses.replace(towers, contexts=towers.contexts / self.temperature)

    def encode(self, params: Params, environment: Environment, contexts: Int[Array, "B"]) -> Any:
        """What the encoder answers, as training multiplies it: of fewer bits where the config says so."""
        encoded = self.encoder.encode(params, environment, contexts)
        if self.product_dtype != jnp.bfloat16 or not isinstance(encoded, Embeddings):
            return encoded
        return jax.tree.map(lambda x: x.astype(jnp.bfloat16), encoded)

    def retrieve(
        self,
        keys: Key[Array, "B"],
        params: Params,
        environment: Environment,
        contexts: Int[Array, "B"],
    ) -> Candidates:
        """Candidates of a batch of contexts, one key each."""
        quotas, statistics = self.quotas, self.estimator.statistics
        encoded = self.encode(params, environment, contexts)
        if self.retrieval.name == "dense":

            def one(key, context, logits):
                return retrieve(key, mask(environment, context, logits), quotas, statistics)

            return jax.vmap(one)(keys, contexts, to_logits(encoded, self.temperature))
        known = keys, self.scaled(encoded), contexts, environment, quotas, statistics
        if isinstance(self.placement, OneDevice):
            return retrieve_streamed(*known)
        return retrieve_sharded(*known, self.placement.mesh, self.placement.part)

    def describe(
        self,
        items: Int[Array, "B K"],
        params: Params,
        environment: Environment,
        contexts: Int[Array, "B"],
    ) -> Candidates:
        """What `retrieve` answers under these parameters, of candidates that were drawn before.

        Raises:
          ValueError: a score that needs the noise that drew; a sharded run.
        """
        quotas, statistics = self.quotas, self.estimator.statistics
        if statistics == "arrivals" or self.retrieval.name == "sharded":
            raise ValueError(
                f"candidates drawn before cannot be described with statistics {statistics!r} and retrieval "
                f"{self.retrieval.name!r}; expected a score that needs no noise, and one device"
            )
        encoded = self.encode(params, environment, contexts)
        if self.retrieval.name == "dense":

            def one(items, context, logits):
                logits = mask(environment, context, logits)
                described = describe(logits, items, items[:0], quotas, statistics)
                return dataclasses.replace(described, sound=jnp.max(logits) < jnp.inf)

            return jax.vmap(one)(items, contexts, to_logits(encoded, self.temperature))
        known = self.scaled(encoded), contexts, environment, quotas, statistics
        return describe_streamed(items, *known)


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
    _check_kinds(environment, encoder, late_stage, reward_transform, optimizer)
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
    _check_stations(pipeline, config, environment)
    return pipeline


def _check_kinds(
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
        encoded = jax.eval_shape(encoder.encode, params, environment, _shape((2,), jnp.int32))
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


def _check_stations(pipeline: Pipeline, config: TrainConfig, environment: Environment) -> None:
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
