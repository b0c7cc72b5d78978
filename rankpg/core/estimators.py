"""The seven policy-gradient estimators: one score each.

    gradient = E[ sum_l alpha_l * A_l * grad score_l ]

A_l is the reward at position l of the shown ranking, alpha_l its weight. A score reads `Candidates` and the
shown items, and answers one number per position. The table at the end names them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from rankpg.core.inclusion import (
    log_inclusion_at_threshold,
    log_inclusion_drawn,
    log_inclusion_exact,
    log_inclusion_greedy,
    log_inclusion_sum,
    log_inclusion_swr,
)
from rankpg.core.numerics import centre
from rankpg.core.plackett_luce import (
    SparseLogits,
    full_logits,
    gather_logits,
    ordered_log_prob,
    swr_log_prob,
)
from rankpg.core.sampling import arrivals, greedy_in_turn, take_quotas
from rankpg.core.validation import check_items, check_logits, check_shown
from rankpg.types import Array, Bool, Float, Int, PRNGKey, Quotas, record

__all__ = [
    "ESTIMATORS",
    "Candidates",
    "Estimator",
    "Statistics",
    "check_estimator",
    "draw_candidates",
    "rescore_candidates",
    "score",
]

Statistics = Literal["candidates", "greedy", "arrivals", "catalogue"]
"""What a score needs listed: the candidates; also every expert's noiseless order of what was left to it; or
its perturbed order; or all N items."""


@record
class Candidates:
    """What a retrieval answers for one context. Only the sparse logits carries a gradient."""

    items: Int[Array, "K"]
    """Item ids in slot order."""
    sparse_logits: SparseLogits
    order: Int[Array, "M depth"]
    """Of what was left to each expert its first items, greedy or by arrival as the statistics ask; depth 0 if
    they do not."""
    perturbed: Float[Array, "M arrivals"]
    """The perturbed logits of `order` where it is by arrival; depth 0 otherwise."""
    sound: Bool[Array, ""]
    """Whether no logit is NaN or +inf."""


def draw_candidates(
    key: PRNGKey, logits: Float[Array, "M N"], quotas: Quotas, statistics: Statistics
) -> Candidates:
    """Draws K candidates with their statistics; the draw depends on the key alone.

    Args:
      key: consumed by the Gumbel noise.
      logits: f_m(a), divided by the temperature; -inf masks an item.
      quotas: how many slots each expert fills.
      statistics: what the estimator's score asks for.
    """
    sound = jnp.max(logits) < jnp.inf  # a maximum passes NaN on, and NaN is not less
    logits = centre(logits)
    drawn = arrivals(key, logits, quotas)
    items = take_quotas(drawn[0], quotas)
    return _candidates(logits, items, items, drawn, quotas, statistics, sound)


def rescore_candidates(
    logits: Float[Array, "M N"],
    items: Int[Array, "K"],
    shown: Int[Array, "L"],
    quotas: Quotas,
    statistics: Statistics,
    key: PRNGKey | None = None,
) -> Candidates:
    """Describe candidates that were drawn before, and items that need not be among them.

    Args:
      logits: as `draw_candidates`.
      items: the candidates, in slot order.
      shown: further items to be scored.
      quotas: as `draw_candidates`.
      statistics: as `draw_candidates`.
      key: the key that drew the candidates; needed for `arrivals` alone.
    """
    logits = centre(logits)
    empty = jnp.zeros((len(quotas), 0), jnp.int32), jnp.zeros((len(quotas), 0), logits.dtype)
    drawn = empty if key is None else arrivals(key, logits, quotas)
    listed = jnp.concatenate([items, shown])
    sound = jnp.ones((), bool)  # the door has checked them
    return _candidates(logits, items, listed, drawn, quotas, statistics, sound)


def _candidates(
    logits, items, listed, drawn, quotas: Quotas, statistics: Statistics, sound
) -> Candidates:
    order, perturbed = drawn
    if statistics == "greedy":
        order = greedy_in_turn(logits, quotas)
    if statistics in ("greedy", "arrivals"):
        listed = jnp.concatenate([listed, order.reshape(-1)])
    else:
        order = order[:, :0]
    if statistics != "arrivals":
        perturbed = perturbed[:, :0]
    sparse = full_logits(logits) if statistics == "catalogue" else gather_logits(logits, listed)
    return Candidates(
        items=items,
        sparse_logits=sparse,
        order=order,
        perturbed=lax.stop_gradient(perturbed),
        sound=sound,
    )


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
        picks = candidates.sparse_logits.positions(candidates.items)
        return jnp.broadcast_to(
            log_probability(candidates.sparse_logits, picks, quotas), ranking.shape
        )

    return score


def _per_item(log_inclusion) -> Score:
    """A score for every shown item: the log of its inclusion probability."""

    def score(candidates: Candidates, ranking: Int[Array, "L"], quotas: Quotas):
        return jax.vmap(lambda item: log_inclusion(candidates, item, quotas))(ranking)

    return score


def _exact(candidates: Candidates, item: Int[Array, ""], quotas: Quotas) -> Float[Array, ""]:
    return log_inclusion_exact(candidates.sparse_logits.logits[0], item, sum(quotas))


def _threshold(candidates: Candidates, item: Int[Array, ""], quotas: Quotas) -> Float[Array, ""]:
    """Pathwise through kappa for one expert; for several, where picks jump, given the others' picks."""
    if len(quotas) == 1:
        return log_inclusion_at_threshold(
            candidates.sparse_logits, candidates.order, candidates.perturbed, item, quotas
        )
    return log_inclusion_drawn(candidates.sparse_logits, candidates.order, item, quotas)


ESTIMATORS: dict[str, Estimator] = {
    "v_pg": Estimator(_shared(ordered_log_prob), "candidates", credit_assigned=False),
    "v_pg_swr": Estimator(_shared(swr_log_prob), "candidates", credit_assigned=False),
    "ca_pg": Estimator(
        _per_item(
            lambda c, item, quotas: log_inclusion_greedy(c.sparse_logits, c.order, item, quotas)
        ),
        "greedy",
        credit_assigned=True,
    ),
    "ca_pg_exact": Estimator(_per_item(_exact), "catalogue", credit_assigned=True, max_experts=1),
    "ca_pg_swr": Estimator(
        _per_item(lambda c, item, quotas: log_inclusion_swr(c.sparse_logits, item, quotas)),
        "candidates",
        credit_assigned=True,
    ),
    "top1_pg": Estimator(
        _per_item(lambda c, item, quotas: log_inclusion_sum(c.sparse_logits, item, quotas)),
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
    described = rescore_candidates(
        logits, candidates, ranking, quotas, chosen.statistics, noise_key
    )
    return chosen.score(described, ranking, quotas)
