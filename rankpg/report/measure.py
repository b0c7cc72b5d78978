"""What a trained run answers when it is asked: its candidates, how often its draws hold an item, its map.

All of it is of greedy candidates, as they are handed over when the policy serves, but `calibration`, which
is of draws, as in training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rankpg.core.inclusion import log_inclusion, log_inclusion_sum
from rankpg.core.numerics import centre, largest
from rankpg.core.plackett_luce import full_logits
from rankpg.core.sampling import greedy_candidates, sample_candidates
from rankpg.environments.dataset import choose_contexts
from rankpg.evaluation.calibration import CLAIMS
from rankpg.evaluation.metrics import evaluation_block
from rankpg.runs.evaluator import evaluation_contexts
from rankpg.runs.run import Run
from rankpg.training.update import seed_keys
from rankpg.types import Array, Embeddings, Float, Int

__all__ = [
    "Calibration",
    "Exposure",
    "ItemMap",
    "calibrate",
    "count_places",
    "map_items",
    "rank_items",
]

_MOST_CONTEXTS = 2000
_MOST_LOGITS = 2 * 10**9
"""Of all contexts of one measurement; of more items fewer contexts are asked."""

_MOST_EXACT = 5000
"""Items up to which the exact inclusion probability is worked out."""

_MOST_MAPPED = 3000


@dataclasses.dataclass(frozen=True)
class Exposure:
    """How often each item had a place, by seed."""

    num_contexts: int
    candidates: np.ndarray
    """int[seeds, N]: in how many contexts it was a candidate"""
    shown: np.ndarray | None
    """int[seeds, N]: in how many it was shown; None where no reward is known, so that no re-ranker is"""
    best: np.ndarray | None
    """int[N]: in how many it was among the K items of largest reward; None where no reward is known"""


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Pairs of context and item, what is claimed of them, and what was drawn; of one seed."""

    method: str | None
    """of `inclusion.log_inclusion`; None where the score approximates no inclusion probability"""
    claimed: np.ndarray | None
    """P(a in S) by that method, [pairs]"""
    exact: np.ndarray | None
    """P(a in S), [pairs]; None for several experts, or where the catalogue is large"""
    hits: np.ndarray
    """int[pairs]"""
    num_draws: int


@dataclasses.dataclass(frozen=True)
class ItemMap:
    """The first two principal components of item embeddings."""

    items: np.ndarray
    """row numbers, int[n]"""
    places: np.ndarray
    """[n, 2]"""
    explained: np.ndarray
    """share of the variance of each component, [2]"""


def judged_contexts(run: Run, most: int) -> Int[Array, "contexts"]:
    """The contexts of an evaluation, or a fixed random choice of `most` of them."""
    size = run.environment.num_items * len(run.policy.quotas)
    few = max(1, min(most, _MOST_LOGITS // size))
    return jnp.asarray(choose_contexts(np.asarray(evaluation_contexts(run)), few))


def _params(run: Run, seed: int) -> Any:
    """Of one seed, by its place."""
    return jax.tree.map(lambda leaf: leaf[seed], run.state.params)


def _by_context(
    run: Run, contexts: Array, ask: Callable[..., Any], seeds: int = 1, block: int | None = None
) -> list[Any]:
    """What `ask(environment, logits, context, key)` answers of every context, for each of the first seeds.

    `block` contexts are asked at a time.
    """

    def answers(environment, params, contexts, keys):
        def one(context_and_key):
            context, key = context_and_key
            logits = run.policy.logits(params, environment, context[None])[0]
            return ask(environment, environment.mask_ineligible(context, logits), context, key)

        return lax.map(one, (contexts, keys), batch_size=block)

    block = block or evaluation_block(run.environment.num_items, run.policy.quotas).contexts
    block = min(contexts.shape[0], block)
    answer, contexts = jax.jit(answers), run.copies(contexts)
    answered = []
    for seed, key in enumerate(seed_keys(run.config.seeds, "evaluation")[:seeds]):
        keys = run.copies(jax.random.split(key, contexts.shape[0]))
        values = answer(run.environment, _params(run, seed), contexts, keys)
        answered.append(jax.tree.map(np.asarray, jax.device_get(values)))
    return answered


def count_places(run: Run) -> Exposure:
    """How often each item is a candidate, is shown, and is among the best, over at most 2000 contexts.

    Of a run that knows no rewards, candidates alone.
    """
    policy, num_items = run.policy, run.environment.num_items
    contexts = judged_contexts(run, _MOST_CONTEXTS)
    num_candidates = policy.num_candidates

    def places(environment, logits, context, key):
        candidates = greedy_candidates(logits, policy.quotas)
        shown = run.learner.reranker.greedy(key, environment, context, candidates).items
        return candidates, shown

    def best(environment, logits, context, key):
        rewards = environment.mean_rewards(context, jnp.arange(num_items, dtype=jnp.int32))
        rewards = environment.mask_ineligible(context, rewards[None])
        return largest(rewards, num_candidates)[1][0]

    seeds = _by_context(run, contexts, places, len(run.config.seeds))
    count = partial(np.bincount, minlength=num_items)
    known = run.environment.knows_rewards
    return Exposure(
        num_contexts=contexts.shape[0],
        candidates=np.stack([count(candidates.ravel()) for candidates, _ in seeds]),
        shown=np.stack([count(shown.ravel()) for _, shown in seeds]) if known else None,
        best=count(_by_context(run, contexts, best)[0].ravel()) if known else None,
    )


def rank_items(run: Run, depth: int, most: int = 256) -> np.ndarray:
    """The policy's order of the catalogue, cut at `depth`, for every seed and at most `most` contexts.

    One expert orders by its logits, several by the expected number of draws.

    Returns:
      Row numbers of items, int[seeds, contexts, depth], best first.
    """
    contexts = judged_contexts(run, most)

    def order(environment, logits, context, key):
        return largest(_weights(logits, run.policy.quotas)[None], depth)[1][0]

    return np.stack(_by_context(run, contexts, order, len(run.config.seeds)))


def _weights(logits: Float[Array, "M N"], quotas: tuple[int, ...]) -> Float[Array, "N"]:
    """Whatever orders the items."""
    if len(quotas) == 1:
        return logits[0]
    sparse = full_logits(centre(logits))
    return jax.vmap(lambda item: log_inclusion_sum(sparse, item, quotas))(sparse.items)


def calibrate(
    run: Run, num_contexts: int = 32, num_draws: int = 1000, num_pairs: int = 40
) -> Calibration:
    """Draw candidates over and over, and count; the first seed's policy.

    Of every context some items are followed: many of the likeliest, and ever fewer down the policy's order.

    Args:
      run: from a run folder.
      num_contexts: that are asked; fewer if there are more than a million items.
      num_draws: of each.
      num_pairs: items that are followed in each context, at most.
    """
    quotas, num_items = run.policy.quotas, run.environment.num_items
    contexts = judged_contexts(run, max(4, min(num_contexts, 2**25 // num_items)))
    method = CLAIMS.get(run.config.estimator)
    exactly = len(quotas) == 1 and num_items <= _MOST_EXACT
    methods = {method} - {None} | ({"exact"} if exactly else set())
    followed = np.unique(np.geomspace(1, num_items, num_pairs).round().astype(int)) - 1
    at_once = max(1, min(num_draws, 2**22 // num_items))

    def probability(logits, items, method):
        def one(item):
            return jnp.exp(log_inclusion(logits, item, quotas, method))

        return lax.map(one, items, batch_size=max(1, min(len(followed), 2**16 // num_items)))

    def ask(environment, logits, context, key):
        order = jnp.argsort(_weights(logits, quotas), descending=True)
        items = order[followed].astype(jnp.int32)

        def held(key):
            drawn = sample_candidates(key, logits, quotas)
            return jnp.any(items[:, None] == drawn[None, :], axis=1)

        draws = lax.map(held, jax.random.split(key, num_draws), batch_size=at_once)
        claims = {name: probability(logits, items, name) for name in methods}
        return claims, jnp.sum(draws, axis=0)

    claims, hits = _by_context(run, contexts, ask, block=1)[0]
    flat = {name: values.ravel() for name, values in claims.items()}
    exact = flat.get("exact") if exactly else None
    return Calibration(method, flat.get(method or ""), exact, hits.ravel(), num_draws)


def map_items(run: Run) -> ItemMap:
    """Principal components of the first seed's item embeddings, experts side by side (PCA by SVD).

    With X = U S V' the centred embeddings, the map is the first two columns of U S, which have the shares
    s_1^2 and s_2^2 of sum s^2. Of more than 3000 items it is of a fixed random choice.

    Raises:
      ValueError: the encoder answers logits, so there are no embeddings, or they have one dimension.
    """
    environment, num_items = run.environment, run.environment.num_items
    first = jnp.zeros(1, jnp.int32)
    encoded = jax.jit(run.policy.encoder.encode)(_params(run, 0), environment, first)
    if not isinstance(encoded, Embeddings):
        raise ValueError("its encoder answers logits and no embeddings")
    tables = np.asarray(jax.device_get(encoded.items), np.float32)[:, :num_items]
    if tables.shape[0] * tables.shape[2] < 2:
        raise ValueError("its embeddings have one dimension")
    every = np.arange(num_items, dtype=np.int32)
    items = choose_contexts(every, _MOST_MAPPED)  # a choice of rows like any other
    rows = np.concatenate(list(tables[:, items]), axis=1)
    left, singular, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    variance = singular**2 / max(float(np.sum(singular**2)), np.finfo(np.float32).tiny)
    return ItemMap(items, left[:, :2] * singular[:2], variance[:2])
