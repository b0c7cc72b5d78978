"""Measurements of a trained run: exposure, calibration, ranking of the catalogue, item map.

Exposure and ranking use greedy candidates, as in serving; calibration uses sampled ones, as in training.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rankpg._utils.programs import compiled
from rankpg.core.inclusion import log_inclusion, log_inclusion_sum
from rankpg.core.numerics import centre, largest
from rankpg.core.plackett_luce import full_logits
from rankpg.core.sampling import greedy_candidates, sample_candidates
from rankpg.environments.dataset import choose_contexts
from rankpg.evaluation.calibration import INCLUSION_OF_ESTIMATOR
from rankpg.evaluation.metrics import TwoStage, evaluation_block
from rankpg.evaluation.stochastic import expected_lists, has_exact_exposure
from rankpg.report.records import Calibration, Exposure, ItemMap
from rankpg.runs.evaluator import evaluation_contexts
from rankpg.runs.run import Run
from rankpg.training.update import seed_keys
from rankpg.types import (
    Array,
    Bool,
    Embeddings,
    Environment,
    Float,
    Int,
    Key,
    Params,
    PRNGKey,
    Quotas,
)

__all__ = [
    "measure_calibration",
    "measure_exposure",
    "project_items",
    "rank_items",
]

_MOST_CONTEXTS = 2000
_MOST_EXPECTED = 200
"""Contexts of the expected exposure, which takes milliseconds for each."""
_MOST_LOGITS = 2 * 10**9
"""Logits of one measurement, over all contexts; a larger catalogue is measured on fewer contexts."""

_MOST_EXACT = 5000
"""Largest catalogue for which exact inclusion probabilities are computed."""

_MOST_MAPPED = 3000
"""Largest number of items in a map."""


Measure: TypeAlias = Callable[[Environment, Float[Array, "M N"], Int[Array, ""], PRNGKey], Any]
"""Measurement of one context: environment, logits, context, key -> tree of arrays."""


def sampled_contexts(run: Run, most: int) -> Int[Array, "contexts"]:
    """Returns the evaluation contexts, or a fixed random sample of at most `most` of them."""
    size = run.environment.num_items * len(run.policy.quotas)
    few = max(1, min(most, _MOST_LOGITS // size))
    return jnp.asarray(choose_contexts(np.asarray(evaluation_contexts(run)), few))


def _params(run: Run, row: int) -> Params:
    """Returns the parameters of one seed by its number in the run."""
    return jax.tree.map(lambda leaf: leaf[row], run.state.params)


def _by_context(
    run: Run,
    contexts: Int[Array, "contexts"],
    function: Measure,
    seeds: int = 1,
    block: int | None = None,
) -> list[Any]:
    """Evaluates `function(environment, logits, context, key)` on every context, for the first seeds.

    Args:
      run: a trained run.
      contexts: context numbers.
      function: measurement of one context.
      seeds: number of seeds.
      block: contexts per block [see `evaluation_block`].

    Returns:
      A tree of NumPy arrays with a leading axis of contexts, for each seed.
    """

    def measure(
        environment: Environment,
        params: Params,
        contexts: Int[Array, "contexts"],
        keys: Key[Array, "contexts"],
    ) -> Any:
        def one(context_and_key: tuple[Int[Array, ""], PRNGKey]) -> Any:
            context, key = context_and_key
            logits = run.policy.logits(params, environment, context[None])[0]
            return function(environment, environment.mask_ineligible(context, logits), context, key)

        return lax.map(one, (contexts, keys), batch_size=block)

    block = block or evaluation_block(run.environment.num_items, run.policy.quotas).contexts
    block = min(contexts.shape[0], block)
    contexts, program = run.copies(contexts), None
    by_seed = []
    for seed, key in enumerate(seed_keys(run.config.seeds, "evaluation")[:seeds]):
        keys = run.copies(jax.random.split(key, contexts.shape[0]))
        arguments = run.environment, _params(run, seed), contexts, keys
        program = program or compiled(
            measure, *arguments
        )  # runs of equal settings have one program
        values = program(*arguments)
        by_seed.append(jax.tree.map(np.asarray, jax.device_get(values)))
    return by_seed


def measure_exposure(run: Run) -> Exposure:
    """Counts the contexts in which each item is a candidate, is shown, and is among the best.

    It uses at most 2000 contexts. Without rewards only candidates are counted. Where the rewards of a list
    interact, no items are the best by themselves.
    """
    policy, num_items = run.policy, run.environment.num_items
    contexts = sampled_contexts(run, _MOST_CONTEXTS)
    num_candidates = policy.num_candidates

    def exposed(
        environment: Environment, logits: Float[Array, "M N"], context: Int[Array, ""], key: PRNGKey
    ) -> tuple[Int[Array, "K"], Int[Array, "L"]]:
        candidates = greedy_candidates(logits, policy.quotas)
        shown = run.learner.reranker.greedy(key, environment, context, candidates).items
        return candidates, shown

    def best(
        environment: Environment, logits: Float[Array, "M N"], context: Int[Array, ""], key: PRNGKey
    ) -> Int[Array, "K"]:
        rewards = environment.mean_rewards(context, jnp.arange(num_items, dtype=jnp.int32))
        rewards = environment.mask_ineligible(context, rewards[None])
        return largest(rewards, num_candidates)[1][0]

    seeds = _by_context(run, contexts, exposed, len(run.config.seeds))
    known = run.environment.knows_rewards
    single = known and not run.environment.rewards_interact
    count = partial(np.bincount, minlength=num_items)
    return Exposure(
        num_contexts=contexts.shape[0],
        candidates=np.stack([count(candidates.ravel()) for candidates, _ in seeds]),
        shown=np.stack([count(shown.ravel()) for _, shown in seeds]) if known else None,
        best=count(_by_context(run, contexts, best)[0].ravel()) if single else None,
        expected=_expected_exposure(run, contexts[:_MOST_EXPECTED]) if known else None,
    )


def _expected_exposure(run: Run, contexts: Int[Array, "contexts"]) -> np.ndarray | None:
    """Returns the exposure of lists of drawn candidates, [seeds, N]; None where it has no exact form."""
    learner = run.learner
    system = TwoStage(run.policy, learner.reranker, learner.position_weights)
    if not has_exact_exposure(system, run.environment):
        return None
    compiled = jax.jit(lambda environment, params, contexts: expected_lists(
        system, environment, params, contexts
    ).exposure)  # fmt: skip
    contexts = run.copies(contexts)
    seeds = range(len(run.config.seeds))
    return np.stack(
        [np.asarray(compiled(run.environment, _params(run, seed), contexts)) for seed in seeds]
    )


def rank_items(run: Run, depth: int, most: int = 256) -> np.ndarray:
    """Ranks the catalogue by the policy, for every seed and at most `most` contexts.

    A single expert ranks by its logits, several by the expected number of draws of an item.

    Returns:
      Rows of the first `depth` items, int[seeds, contexts, depth], best first.
    """
    contexts = sampled_contexts(run, most)

    def order(
        environment: Environment, logits: Float[Array, "M N"], context: Int[Array, ""], key: PRNGKey
    ) -> Int[Array, "depth"]:
        return largest(_weights(logits, run.policy.quotas)[None], depth)[1][0]

    return np.stack(_by_context(run, contexts, order, len(run.config.seeds)))


def _weights(logits: Float[Array, "M N"], quotas: Quotas) -> Float[Array, "N"]:
    """Returns the values that rank the items: logits, or the expected number of draws."""
    if len(quotas) == 1:
        return logits[0]
    sparse = full_logits(centre(logits))
    return jax.vmap(lambda item: log_inclusion_sum(sparse, item, quotas))(sparse.items)


def measure_calibration(
    run: Run, num_contexts: int = 32, num_draws: int = 1000, num_pairs: int = 40
) -> Calibration:
    """Compares predicted inclusion probabilities of the first seed with frequencies in sampled candidates.

    The tracked items of a context are spaced geometrically along the policy's ranking.

    Args:
      run: a trained run.
      num_contexts: number of contexts; fewer above a million items.
      num_draws: draws per context.
      num_pairs: largest number of tracked items per context.
    """
    quotas, num_items = run.policy.quotas, run.environment.num_items
    contexts = sampled_contexts(run, max(4, min(num_contexts, 2**25 // num_items)))
    method = INCLUSION_OF_ESTIMATOR.get(run.config.estimator)
    exactly = len(quotas) == 1 and num_items <= _MOST_EXACT
    methods = {name for name in (method, "exact" if exactly else None) if name is not None}
    tracked = np.unique(np.geomspace(1, num_items, num_pairs).round().astype(int)) - 1
    at_once = max(1, min(num_draws, 2**22 // num_items))

    def probability(
        logits: Float[Array, "M N"], items: Int[Array, "items"], method: str
    ) -> Float[Array, "items"]:
        def one(item: Int[Array, ""]) -> Float[Array, ""]:
            return jnp.exp(log_inclusion(logits, item, quotas, method))

        return lax.map(one, items, batch_size=max(1, min(len(tracked), 2**16 // num_items)))

    def count(
        environment: Environment, logits: Float[Array, "M N"], context: Int[Array, ""], key: PRNGKey
    ) -> tuple[dict[str, Float[Array, "items"]], Int[Array, "items"]]:
        order = jnp.argsort(_weights(logits, quotas), descending=True)
        items = order[tracked].astype(jnp.int32)

        def held(key: PRNGKey) -> Bool[Array, "items"]:
            drawn = sample_candidates(key, logits, quotas)
            return jnp.any(items[:, None] == drawn[None, :], axis=1)

        draws = lax.map(held, jax.random.split(key, num_draws), batch_size=at_once)
        predicted = {name: probability(logits, items, name) for name in methods}
        return predicted, jnp.sum(draws, axis=0)

    predicted, hits = _by_context(run, contexts, count, block=1)[0]
    flat = {name: values.ravel() for name, values in predicted.items()}
    exact = flat.get("exact") if exactly else None
    return Calibration(method, flat.get(method or ""), exact, hits.ravel(), num_draws)


def project_items(run: Run) -> ItemMap:
    """Projects the first seed's item embeddings onto their first two principal components.

    The embeddings of all experts are concatenated and centred: X = U S V'. The map is the first two columns
    of U S, which explain the shares s_1^2 and s_2^2 of sum s^2. Above 3000 items it is a random sample.

    Raises:
      ValueError: the encoder returns logits, or embeddings of one dimension.
    """
    environment, num_items = run.environment, run.environment.num_items
    first = jnp.zeros(1, jnp.int32)
    encoded = jax.jit(run.policy.encoder.encode)(_params(run, 0), environment, first)
    if not isinstance(encoded, Embeddings):
        raise ValueError("the encoder returns logits, so there are no item embeddings")
    tables = np.asarray(jax.device_get(encoded.items), np.float32)[:, :num_items]
    if tables.shape[0] * tables.shape[2] < 2:
        raise ValueError("the item embeddings have one dimension")
    every = np.arange(num_items, dtype=np.int32)
    items = choose_contexts(every, _MOST_MAPPED)
    rows = np.concatenate(list(tables[:, items]), axis=1)
    left, singular, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    variance = singular**2 / max(float(np.sum(singular**2)), np.finfo(np.float32).tiny)
    return ItemMap(items, left[:, :2] * singular[:2], variance[:2])
