"""The seven policy-gradient estimators: one score each.

    gradient = E[ sum_l alpha_l * A_l * grad score_l ]

A_l is the reward at position l of the shown ranking, alpha_l its weight. A score reads `Candidates` and the
shown items, and answers one number per position. The table at the end names them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from rankpg.checks import check_items, check_logits, check_shown
from rankpg.exact_inclusion import log_inclusion_exact
from rankpg.inclusion import (
    log_inclusion_at_threshold,
    log_inclusion_drawn,
    log_inclusion_greedy,
    log_inclusion_sum,
    log_inclusion_swr,
)
from rankpg.plackett_luce import ordered_log_prob, swr_log_prob
from rankpg.retrieval import Candidates, Statistics, describe
from rankpg.types import Array, Float, Int, PRNGKey, Quotas

__all__ = ["ESTIMATORS", "Estimator", "check_estimator", "score"]

Score = Callable[[Candidates, Int[Array, "L"], Quotas], Float[Array, "L"]]


@dataclass(frozen=True)
class Estimator:
    """A score and what it needs."""

    score: Score
    statistics: Statistics
    """What the retrieval must list for it."""
    credit_assigned: bool
    """True where every shown item has a score of its own; False where all share the candidate set's."""
    max_experts: int | None = None
    """The largest M it is defined for; None: any."""


def _shared(log_probability) -> Score:
    """One score for the whole candidate set, repeated at every position."""

    def score(candidates: Candidates, ranking: Int[Array, "L"], quotas: Quotas):
        picks = candidates.listing.positions(candidates.items)
        return jnp.broadcast_to(log_probability(candidates.listing, picks, quotas), ranking.shape)

    return score


def _per_item(log_inclusion) -> Score:
    """A score for every shown item: the log of its inclusion probability."""

    def score(candidates: Candidates, ranking: Int[Array, "L"], quotas: Quotas):
        return jax.vmap(lambda item: log_inclusion(candidates, item, quotas))(ranking)

    return score


def _exact(candidates: Candidates, item: Int[Array, ""], quotas: Quotas) -> Float[Array, ""]:
    return log_inclusion_exact(candidates.listing.logits[0], item, sum(quotas))


def _threshold(candidates: Candidates, item: Int[Array, ""], quotas: Quotas) -> Float[Array, ""]:
    """Pathwise through kappa for one expert; for several, where picks jump, given the others' picks."""
    if len(quotas) == 1:
        return log_inclusion_at_threshold(
            candidates.listing, candidates.order, candidates.perturbed, item, quotas
        )
    return log_inclusion_drawn(candidates.listing, candidates.order, item, quotas)


ESTIMATORS: dict[str, Estimator] = {
    "v_pg": Estimator(_shared(ordered_log_prob), "candidates", credit_assigned=False),
    "v_pg_swr": Estimator(_shared(swr_log_prob), "candidates", credit_assigned=False),
    "ca_pg": Estimator(
        _per_item(lambda c, item, quotas: log_inclusion_greedy(c.listing, c.order, item, quotas)),
        "greedy",
        credit_assigned=True,
    ),
    "ca_pg_exact": Estimator(_per_item(_exact), "catalogue", credit_assigned=True, max_experts=1),
    "ca_pg_swr": Estimator(
        _per_item(lambda c, item, quotas: log_inclusion_swr(c.listing, item, quotas)),
        "candidates",
        credit_assigned=True,
    ),
    "top1_pg": Estimator(
        _per_item(lambda c, item, quotas: log_inclusion_sum(c.listing, item, quotas)),
        "candidates",
        credit_assigned=True,
    ),
    "ca_pg_threshold": Estimator(_per_item(_threshold), "arrivals", credit_assigned=True),
}
"""name -> estimator."""


def check_estimator(name: str, num_experts: int) -> Estimator:
    """Look an estimator up, and refuse one that is unknown or not defined for so many experts."""
    if name not in ESTIMATORS:
        raise ValueError(f"estimator is {name!r}; expected one of {', '.join(ESTIMATORS)}")
    estimator = ESTIMATORS[name]
    if estimator.max_experts is not None and num_experts > estimator.max_experts:
        others = ", ".join(n for n, e in ESTIMATORS.items() if e.max_experts is None)
        raise ValueError(
            f"estimator {name!r} is defined for at most {estimator.max_experts} expert, but num_experts "
            f"is {num_experts}; for several experts choose one of {others}"
        )
    return estimator


def score(
    estimator: str,
    logits: Float[Array, "M N"],
    candidates: Int[Array, "K"],
    ranking: Int[Array, "L"],
    quotas: Quotas,
    *,
    key: PRNGKey | None = None,
) -> Float[Array, "L"]:
    """The score of every shown item; its gradient times the reward is the policy gradient.

    `v_pg` and `v_pg_swr` answer the log-probability of the candidate set at every position; the others answer
    log P(a_l in S) (Kiyohara et al. 2026, Sec. 3), each by its own method.

    Args:
      estimator: a name of `ESTIMATORS`.
      logits: f_m(a), divided by the temperature; -inf masks an item.
      candidates: item ids in slot order.
      ranking: item ids by position; for credit-assigned scores any eligible item, else candidates.
      quotas: how many slots each expert fills.
      key: the key that was given to `sample_candidates`; `ca_pg_threshold` rebuilds its noise.

    Returns:
      One score per position, differentiable in `logits`.

    Raises:
      ValueError: an unknown estimator, one that is not defined for M experts, `ca_pg_threshold` without a
        key, a wrong shape or dtype, and, outside of jit, bad values.

    >>> score("top1_pg", jnp.zeros((1, 4)), jnp.array([2, 0]), jnp.array([2]), (2,))  # log(2 / 4)
    Array([-0.6931472], dtype=float32)
    """
    check_logits(logits, quotas)
    chosen = check_estimator(estimator, len(quotas))
    check_items("candidates", candidates, logits.shape[1], (sum(quotas),))
    check_items("ranking", ranking, logits.shape[1], (None,))
    if chosen.statistics == "arrivals" and key is None:
        raise ValueError(
            f"estimator {estimator!r} needs key=, the key that was given to sample_candidates: "
            "it rebuilds the noise that drew the candidates"
        )
    if not chosen.credit_assigned:
        check_shown(candidates, ranking)
    noise_key = key if chosen.statistics == "arrivals" else None
    candidates, ranking = jnp.asarray(candidates, jnp.int32), jnp.asarray(ranking, jnp.int32)
    described = describe(logits, candidates, ranking, quotas, chosen.statistics, noise_key)
    return chosen.score(described, ranking, quotas)
