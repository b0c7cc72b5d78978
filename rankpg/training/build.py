"""What is refused of a run's components before anything runs: another kind, shape or dtype than is needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rankpg.advantages import (
    Advantage,
    batch_baseline,
    context_baseline,
    group,
    identity,
    learned_baseline,
    position_weights,
)
from rankpg.config.train_config import TrainConfig
from rankpg.core.estimators import ESTIMATORS, check_estimator
from rankpg.core.sampling import expert_quotas
from rankpg.encoders import Encoder, IdTower, from_nnx, towers_of
from rankpg.environments.dataset import Dataset, split_contexts
from rankpg.environments.from_ratings import from_file
from rankpg.environments.from_text import from_text_folder
from rankpg.environments.synthetic import Synthetic, generate, paper_instance
from rankpg.errors import ConfigError
from rankpg.policy import Pipeline
from rankpg.rerankers import RERANKERS, fit_scorer, learned, noisy
from rankpg.retrieval.choice import choose_retrieval
from rankpg.retrieval.sharded import OneDevice, place_on
from rankpg.training.optimizer import make_optimizer
from rankpg.types import Embeddings, Environment, Reranker, check_environment

__all__ = ["ENVIRONMENTS", "assemble", "check_components", "check_kinds", "make_environment"]


def check_kinds(
    environment: Any, encoder: Any, reranker: Any, advantage: Any, optimizer: Any
) -> None:
    """Refuse what is of another kind altogether, with the name of what would make it right."""
    check_environment(environment)
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


def check_components(pipeline: Pipeline, config: TrainConfig, environment: Environment) -> None:
    """Call every component once on shapes alone, in order, so that a wrong one is named before it is run."""
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
    stage = pipeline.reranker
    if stage.ranking_length != length:
        raise ConfigError(
            f"--ranking-length is {length}, but the re-ranker shows {stage.ranking_length} items"
        )
    ranking = _traced("the re-ranker", lambda c, k: stage(key, environment, c, k), one, candidates)
    if ranking.items.shape != (length,):
        raise ValueError(
            f"the re-ranker shows items of shape {ranking.items.shape}; expected [{length}]"
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
            "--adaptive-learning-rate needs the re-ranker's propensity of its greedy ranking, which this "
            "re-ranker does not tell; choose --no-adaptive-learning-rate"
        )
    _check_eligible(environment, config.num_candidates)


def _knows_propensity(pipeline: Pipeline, environment: Environment, config: TrainConfig) -> bool:
    some = jnp.arange(config.num_candidates, dtype=jnp.int32)
    ranking = pipeline.reranker.greedy(jax.random.key(0), environment, jnp.int32(0), some)
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


def assemble(
    config: TrainConfig,
    environment: Environment,
    *,
    encoder: Encoder | None = None,
    reranker: Reranker | None = None,
    advantage: Advantage | None = None,
    optimizer: optax.GradientTransformation | None = None,
) -> Pipeline:
    """Build the components that a config names; a component that is given takes the place of the named one.

    Raises:
      ConfigError: settings that do not fit the environment.
      ValueError: a function of yours that raises, or answers a wrong shape or dtype.
      TypeError: a component that is none.
    """
    check_kinds(environment, encoder, reranker, advantage, optimizer)
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
        reranker=reranker or _make_reranker(config, environment),
        entropy_bonus=config.entropy_bonus,
        advantage=advantage or _make_transform(config, environment),
        position_weights=alpha.astype(np.float32),
        estimator=estimator,
        optimizer=optimizer or make_optimizer(config),
        adaptive_learning_rate=bool(config.adaptive_learning_rate),
        batch_size=config.batch_size,
        draws_per_context=config.draws_per_context,
        training_contexts=training,
        evaluation_contexts=judging,
        retrieval=retrieval,
        placement=placement,
        recall_depth=config.recall_depth,
    )
    check_components(pipeline, config, environment)
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
    """Whether it answers embeddings; one that fails is named later, component by component."""
    try:
        params = jax.eval_shape(encoder.init, jax.random.key(0))
        encoded = jax.eval_shape(
            encoder.encode, params, environment, jax.ShapeDtypeStruct((2,), jnp.int32)
        )
    except Exception:
        return False
    return isinstance(encoded, Embeddings)


def _make_reranker(config: TrainConfig, environment: Environment) -> Reranker:
    if config.reranker == "noisy":
        return noisy(config.ranking_length, config.inverse_temperature)
    if config.reranker == "learned":
        key = jax.random.key(config.instance_seed or 0)
        return learned(config.ranking_length, fit_scorer(key, environment))
    return RERANKERS[config.reranker](config.ranking_length)


def _make_transform(config: TrainConfig, environment: Environment) -> Advantage:
    length, contexts = config.ranking_length, environment.num_contexts
    credit_assigned = ESTIMATORS[config.estimator].credit_assigned
    network = from_nnx(lambda rngs: IdTower(contexts, length, 1, 0.0, rngs=rngs))
    transforms: dict[str, Callable[[], Advantage]] = {
        "none": identity,
        "group": lambda: group(config.draws_per_context, shift=credit_assigned),
        "batch": batch_baseline,
        "context": lambda: context_baseline(contexts, length),
        "learned": lambda: learned_baseline(network),
    }
    return transforms[config.advantage or "none"]()


if TYPE_CHECKING:
    from rankpg.config.train_config import TrainConfig


def _synthetic(config: TrainConfig) -> Synthetic:
    """The paper's instance at its own size and without a seed; else a generated one."""
    size = config.num_contexts, config.num_items, config.num_features
    if size == (1000, 1000, 10) and config.instance_seed is None:
        return paper_instance(config.noise_scale)
    key = jax.random.key(config.instance_seed or 0)
    return generate(key, *size, noise_scale=config.noise_scale)


def _ratings(config: TrainConfig) -> Dataset:
    return from_file(
        config.path or "",
        columns=config.columns,
        missing=config.missing,
        duplicates=config.duplicates,
    )


def _text(config: TrainConfig) -> Dataset:
    return from_text_folder(config.path or "")


ENVIRONMENTS: dict[str, Callable[[TrainConfig], Environment | Dataset]] = {
    "synthetic": _synthetic,
    "ratings": _ratings,
    "text": _text,
}
"""name -> builder; a Dataset also knows what its row numbers stand for."""


def make_environment(config: TrainConfig) -> Environment | Dataset:
    """The environment that a config names."""
    return ENVIRONMENTS[config.environment](config)
