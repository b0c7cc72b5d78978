"""From a config to a learner: the components that it names, or those that are passed in their place."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rankpg.advantages import ADVANTAGES, Advantage, AdvantageSettings, position_weights
from rankpg.config.train_config import TrainConfig
from rankpg.core.estimators import ESTIMATORS, check_estimator
from rankpg.core.sampling import expert_quotas
from rankpg.encoders import Encoder, towers_of
from rankpg.environments.dataset import Dataset, split_contexts
from rankpg.environments.from_ratings import from_file
from rankpg.environments.from_text import from_text_folder
from rankpg.environments.synthetic import Synthetic, generate, paper_instance
from rankpg.errors import ConfigError
from rankpg.policy import Policy
from rankpg.rerankers import RERANKERS
from rankpg.retrieval.base import Retrieval
from rankpg.retrieval.choice import Catalogue, choose_retrieval
from rankpg.training.optimizer import make_optimizer
from rankpg.training.update import ContextSampler, Learner
from rankpg.training.validation import check_components, check_kinds, check_sizes
from rankpg.types import Embeddings, Environment, Reranker

__all__ = ["ENVIRONMENTS", "build_learner", "make_environment"]


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
    config = config.resolve()
    check_sizes(config, environment, given_encoder=encoder is not None)
    training_contexts, _ = split_contexts(environment.num_contexts, config.held_out_contexts)
    with jax.ensure_compile_time_eval():  # numbers, also where the environment is but shapes
        alpha = np.asarray(position_weights(config.position_weights, config.ranking_length))
    learner = Learner(
        environment=environment,
        policy=_policy(config, environment, encoder or _encoder(config, environment)),
        reranker=reranker or RERANKERS[config.reranker](config, environment),
        estimator=check_estimator(config.estimator, config.num_experts),
        advantage=advantage or _advantage(config, environment),
        optimizer=optimizer or make_optimizer(config),
        sampler=ContextSampler(training_contexts, config.batch_size, config.draws_per_context),
        position_weights=alpha.astype(np.float32),
        entropy_bonus=config.entropy_bonus,
        adaptive_learning_rate=bool(config.adaptive_learning_rate),
    )
    check_components(learner, config)
    return learner


def _policy(config: TrainConfig, environment: Environment, encoder: Encoder) -> Policy:
    return Policy(
        encoder=encoder,
        quotas=expert_quotas(config.num_candidates, config.num_experts),
        retrieval=_retrieval(config, environment, encoder),
        temperature=config.temperature,
        product_dtype=jnp.dtype(config.product_dtype),
    )


def _encoder(config: TrainConfig, environment: Environment) -> Encoder:
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


def _retrieval(config: TrainConfig, environment: Environment, encoder: Encoder) -> Retrieval:
    num_items = environment.num_items
    estimator = check_estimator(config.estimator, config.num_experts)
    retrieval = choose_retrieval(
        config.retrieval,
        Catalogue(num_items, config.num_candidates, config.mesh),
        len(config.seeds) * config.batch_size * config.num_experts * num_items,
        whole_catalogue=estimator.statistics == "catalogue",
        towers=_has_towers(encoder, environment),
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


def _advantage(config: TrainConfig, environment: Environment) -> Advantage:
    settings = AdvantageSettings(
        num_contexts=environment.num_contexts,
        ranking_length=config.ranking_length,
        draws_per_context=config.draws_per_context,
        credit_assigned=ESTIMATORS[config.estimator].credit_assigned,
    )
    return ADVANTAGES[config.advantage or "none"](settings)


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
