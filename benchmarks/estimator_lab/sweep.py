"""Bias, variance and cosine of every estimator over K, N, re-ranker, temperature and baseline."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.estimator_lab.baselines import BASELINES
from benchmarks.estimator_lab.exact import (
    FAST_COMPILATION,
    RERANKERS,
    Moments,
    Problem,
    exact_moments,
    policy_value,
    sampled_moments,
    true_gradients,
)
from rankpg.core.estimators import ESTIMATORS, NOISE_STATISTICS
from rankpg.core.theory import GradientParts
from rankpg.types import Array, Float, PRNGKey, Quotas

__all__ = ["Row", "draw_problems", "study", "sweep"]

Row = dict[str, Any]
"""Measurements of one estimator in one setting, as names and plain numbers."""

_SMALLEST_SIGNAL = 1e-10


def draw_problems(
    key: PRNGKey,
    num_contexts: int,
    num_items: int,
    num_experts: int,
    scale: Float[Array, ""],
    inverse_temperature: Float[Array, ""],
) -> Problem:
    """Samples contexts with rewards softplus(q) + 1, as in the paper, whose level differs between contexts.

    q = 2 z + level, both normal. Logits are normal with standard deviation `scale`, the inverse of the
    policy's temperature.
    """
    logits_key, rewards_key, level_key = jax.random.split(key, 3)
    shape = num_contexts, num_experts, num_items
    level = jax.random.normal(level_key, (num_contexts, 1))
    return Problem(
        logits=scale * jax.random.normal(logits_key, shape),
        rewards=1 + jax.nn.softplus(2 * jax.random.normal(rewards_key, shape[::2]) + level),
        inverse_temperature=jnp.broadcast_to(inverse_temperature, (num_contexts,)),
    )


@partial(jax.jit, static_argnames=("quotas", "num_draws"), compiler_options=FAST_COMPILATION)
def study(
    key: PRNGKey, problems: Problem, quotas: Quotas, num_draws: int
) -> dict[str, dict[str, dict[str, jax.Array]]]:
    """Measures every estimator with every baseline over the contexts of `problems`.

    Args:
      key: consumed by the estimators that cannot be enumerated.
      problems: C contexts.
      quotas: number of slots per expert.
      num_draws: candidate sets per context where Monte Carlo is needed.

    Returns:
      estimator -> baseline -> measure -> value, see `sweep`.
    """
    truth = jax.vmap(lambda p: true_gradients(p, quotas))(problems)
    values = jax.vmap(lambda p: policy_value(p, quotas))(problems)
    baselines = jnp.stack([of(values) for of in BASELINES.values()], axis=1)
    keys = jax.random.split(key, values.shape[0])
    results = {}
    for name, estimator in ESTIMATORS.items():
        if estimator.by_predictions:
            continue  # its score is not that of a policy gradient
        if estimator.max_experts is not None and len(quotas) > estimator.max_experts:
            continue

        def moments(key, problem, baselines, truth, name=name, estimator=estimator):
            if estimator.statistics in NOISE_STATISTICS:
                return sampled_moments(key, name, problem, quotas, baselines, truth, num_draws)
            return exact_moments(name, problem, quotas, baselines, truth)

        found = jax.vmap(moments)(keys, problems, baselines, truth.v_pg)
        results[name] = {
            baseline: _summarise(jax.tree.map(lambda leaf, i=i: leaf[:, i], found), truth)
            for i, baseline in enumerate(BASELINES)
        }
    return results


def _summarise(moments: Moments, truth: GradientParts) -> dict[str, jax.Array]:
    """Root mean squares over contexts, relative to the policy gradient's, and mean cosines.

    Where the moments were sampled, the squared sampling error is subtracted from the squared bias and from
    the squared length in `progress`. It is not subtracted in the cosines of single contexts, since one
    context is too few: these are too small, the more so the larger `sampling_error` is.
    """
    squared = partial(jnp.sum, axis=(1, 2))
    signal = jnp.mean(squared(truth.v_pg**2))
    policy, credit = squared(truth.v_pg**2), squared(truth.ca_pg**2)
    length = squared(moments.mean**2)

    def cosine(other, square):
        product = length * square
        known = product > _SMALLEST_SIGNAL
        inner = squared(moments.mean * other) / jnp.sqrt(jnp.where(known, product, 1))
        return jnp.mean(inner, where=known)

    error = moments.standard_error**2

    def relative(square):
        return jnp.sqrt(jnp.maximum(jnp.mean(squared(square)), 0) / signal)

    whole = jnp.maximum(jnp.sum(length) - jnp.sum(error), _SMALLEST_SIGNAL)
    joint = jnp.sum(moments.mean * truth.v_pg) / jnp.sqrt(whole * jnp.sum(policy))
    return {
        "bias_to_policy": relative((moments.mean - truth.v_pg) ** 2 - error),
        "bias_to_credit": relative((moments.mean - truth.ca_pg) ** 2 - error),
        "sampling_error": relative(error),
        "variance": jnp.mean(moments.variance) / signal,
        "cosine_to_policy": cosine(truth.v_pg, policy),
        "cosine_to_credit": cosine(truth.ca_pg, credit),
        "cosine_of_draw": jnp.mean(moments.cosine),
        "progress": joint,
    }


def sweep(
    sizes: Iterable[tuple[int, Quotas]],
    scales: Iterable[float] = (0.3, 1.0, 3.0),
    rerankers: Iterable[str] = tuple(RERANKERS),
    *,
    num_contexts: int = 32,
    num_draws: int = 1024,
    seed: int = 0,
) -> list[Row]:
    """Measures every estimator and baseline in every setting, with one program for each size.

    Args:
      sizes: pairs (N, quotas).
      scales: standard deviations of the logits.
      rerankers: names in `RERANKERS`.
      num_contexts: contexts per size and scale; re-rankers share them.
      num_draws: Monte Carlo draws per context, for the scores that cannot be enumerated.
      seed: seed of all draws.

    Returns:
      One row per setting, estimator and baseline. In units of the policy gradient: `bias_to_policy`,
      `bias_to_credit`, `sampling_error` (of the expected gradient; 0 if enumerated) and `variance` (trace,
      of one draw). Averaged over contexts: the cosines of the expected gradient to the policy gradient and
      to the credit-assigned gradient, and of one draw to the policy gradient. `progress` is the cosine over
      all contexts at once. Where `sampling_error` is not 0, the first two cosines are too small.
    """
    names, scales, rows = tuple(rerankers), tuple(scales), []
    for place, (num_items, quotas) in enumerate(sizes):
        root = jax.random.fold_in(jax.random.key(seed), place)
        for index, scale in enumerate(scales):
            problem_key, draw_key = jax.random.split(jax.random.fold_in(root, index))
            for reranker in names:
                steepness = jnp.asarray(RERANKERS[reranker])
                problems = draw_problems(
                    problem_key, num_contexts, num_items, len(quotas), jnp.asarray(scale), steepness
                )
                found = jax.device_get(study(draw_key, problems, quotas, num_draws))
                setting = {
                    "N": num_items,
                    "K": sum(quotas),
                    "M": len(quotas),
                    "scale": scale,
                    "reranker": reranker,
                }
                rows += [
                    setting | {"estimator": name, "baseline": baseline} | _plain(numbers)
                    for name in ESTIMATORS  # what jit returns is sorted by name
                    for baseline in BASELINES
                    for numbers in [found.get(name, {}).get(baseline)]
                    if numbers is not None
                ]
    return rows


def _plain(numbers: dict[str, Any]) -> dict[str, float | None]:
    """Converts numbers to floats, and undefined ones to None, for JSON."""
    return {name: float(v) if np.isfinite(v) else None for name, v in numbers.items()}
