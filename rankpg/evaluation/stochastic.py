"""Exact value and exposure of the lists that a stochastic policy produces, without sampling.

They need one expert, and a re-ranker that sorts by a fixed score (`core.exposure.exposure_exact`).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rankpg.core.exposure import exposure_exact
from rankpg.evaluation.metrics import TwoStage, evaluation_block
from rankpg.types import Array, Environment, Float, Int, Params

__all__ = ["ExpectedLists", "expected_lists", "has_exact_exposure"]

_MOST_ITEMS = 5000
"""Largest catalogue whose exact exposure is taken: the time for one context grows as N * K."""


class ExpectedLists(NamedTuple):
    """Expectations over the candidates that a policy draws."""

    value: Float[Array, "contexts"]
    """Expected reward of each context's list, sum over positions of alpha_l times the mean reward; NaN where
    the environment does not know its rewards, or where they interact."""
    exposure: Float[Array, "N"]
    """Expected number of contexts in which each item is shown."""


def has_exact_exposure(system: TwoStage, environment: Environment) -> bool:
    """True if `expected_lists` applies: one expert, a re-ranker that sorts by a score, at most 5000 items."""
    if len(system.policy.quotas) > 1 or environment.num_items > _MOST_ITEMS:
        return False
    ids = jax.ShapeDtypeStruct((1,), jnp.int32)
    context = jax.ShapeDtypeStruct((), jnp.int32)
    return jax.eval_shape(system.reranker.scores, environment, context, ids) is not None


def expected_lists(
    system: TwoStage,
    environment: Environment,
    params: Params,
    contexts: Int[Array, "contexts"],
) -> ExpectedLists:
    """Value and exposure of the lists that are shown when candidates are drawn from the policy.

    What sampling many lists would give in the limit: V = sum over a and l of alpha_l q(a) P(a at l), and the
    sum over contexts of P(a is shown).

    Args:
      system: policy with one expert, re-ranker that sorts by a score, and position weights.
      environment: returns mean rewards and the scores of the re-ranker.
      params: parameters of the encoder.
      contexts: ids.

    Raises:
      ValueError: several experts, a re-ranker without scores, or more than 5000 items.
    """
    if not has_exact_exposure(system, environment):
        raise ValueError(
            f"the policy has {len(system.policy.quotas)} experts and {environment.num_items} items, and the "
            f"re-ranker is {type(system.reranker).__name__}; exact exposure needs one expert, at most "
            f"{_MOST_ITEMS} items, and a re-ranker that sorts by a fixed score. Draw lists instead: "
            "Evaluation.sampled_value, or rankpg.exposure.exposure_sampled"
        )
    items = jnp.arange(environment.num_items, dtype=jnp.int32)
    num_candidates = system.policy.num_candidates
    alpha = jnp.asarray(system.position_weights)

    def one(context: Int[Array, ""]) -> tuple[Float[Array, ""], Float[Array, "N"]]:
        logits = system.policy.logits(params, environment, context[None])[0]
        logits = environment.mask_ineligible(context, logits)[0]
        scores = system.reranker.scores(environment, context, items)
        assert scores is not None  # checked above
        shown = exposure_exact(logits, scores, num_candidates, alpha.shape[0])
        rewards = environment.mean_rewards(context, items)
        if environment.rewards_interact:
            rewards = jnp.full_like(rewards, jnp.nan)
        earned = jnp.where(jnp.isneginf(logits), 0, rewards).astype(shown.dtype)
        return (alpha.astype(shown.dtype) @ shown) @ earned, jnp.sum(shown, axis=0)

    block = evaluation_block(environment.num_items, system.policy.quotas).contexts
    values, shown = lax.map(one, contexts, batch_size=min(block, contexts.shape[0]))
    return ExpectedLists(value=values, exposure=jnp.sum(shown, axis=0))
