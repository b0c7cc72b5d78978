"""Policy-gradient estimators: seven score functions, and the candidates that they score.

    gradient = E[ sum_l alpha_l * A_l * grad score_l ]

A_l is the advantage at position l of the shown ranking, alpha_l the weight of the position. A score function
takes `Candidates` and the shown items, and returns one number per position. `ESTIMATORS` is their table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax

from rankpg.core.inclusion import (
    log_inclusion_at_threshold,
    log_inclusion_greedy,
    log_inclusion_of_draw,
    log_inclusion_sum,
    log_inclusion_swr,
)
from rankpg.core.inclusion_exact import log_inclusion_exact
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
"""Statistics that a score function needs: the logits of the candidates; also every expert's greedy order,
without items of earlier experts; or its order by arrival; or the logits of all N items."""

# --- candidates -------------------------------------------------------------------------------------------


@record
class Candidates:
    """Candidates of one context, with the statistics that scores need. Only the logits carry a gradient."""

    items: Int[Array, "K"]
    """Item ids in slot order."""
    sparse_logits: SparseLogits
    """Logits of the candidates, of the shown items and of `order`."""
    order: Int[Array, "M depth"]
    """Every expert's order without items of earlier experts: greedy or by arrival, as the statistics require;
    otherwise the depth is 0."""
    perturbed: Float[Array, "M arrivals"]
    """Perturbed logits of `order` if it is by arrival; otherwise the length is 0."""
    sound: Bool[Array, ""]
    """True where no logit is NaN or +inf."""


def draw_candidates(
    key: PRNGKey, logits: Float[Array, "M N"], quotas: Quotas, statistics: Statistics
) -> Candidates:
    """Draws K candidates with their statistics; the same key draws the same items for any statistics.

    Args:
      key: consumed by the Gumbel noise.
      logits: f_m(a), divided by the temperature; -inf masks an item.
      quotas: slots of each expert.
      statistics: the name of the statistics that the estimator needs.
    """
    sound = jnp.max(logits) < jnp.inf  # a maximum passes NaN on, and NaN is not less
    logits = centre(logits)
    drawn = arrivals(key, logits, quotas)
    items = take_quotas(drawn[0], quotas)
    return _with_statistics(logits, items, items, drawn, quotas, statistics, sound)


def rescore_candidates(
    logits: Float[Array, "M N"],
    items: Int[Array, "K"],
    shown: Int[Array, "L"],
    quotas: Quotas,
    statistics: Statistics,
    key: PRNGKey | None = None,
) -> Candidates:
    """Recomputes the statistics of candidates that were drawn before, under the given logits.

    Args:
      logits: as for `draw_candidates`; they must be sound.
      items: the candidates, in slot order.
      shown: further items to score; they need not be candidates.
      quotas: as for `draw_candidates`.
      statistics: as for `draw_candidates`.
      key: the key that drew the candidates; required for statistics "arrivals" alone.
    """
    logits = centre(logits)
    empty = jnp.zeros((len(quotas), 0), jnp.int32), jnp.zeros((len(quotas), 0), logits.dtype)
    drawn = empty if key is None else arrivals(key, logits, quotas)
    scored = jnp.concatenate([items, shown])
    sound = jnp.ones((), bool)  # validated by the caller
    return _with_statistics(logits, items, scored, drawn, quotas, statistics, sound)


def _with_statistics(
    logits: Float[Array, "M N"],
    items: Int[Array, "K"],
    scored: Int[Array, "n"],
    drawn: tuple[Int[Array, "M depth"], Float[Array, "M depth"]],
    quotas: Quotas,
    statistics: Statistics,
    sound: Bool[Array, ""],
) -> Candidates:
    """Gathers the statistics. `scored` are the items to score; `drawn` is the order by arrival."""
    order, perturbed = drawn
    if statistics == "greedy":
        order = greedy_in_turn(logits, quotas)
    if statistics in ("greedy", "arrivals"):
        scored = jnp.concatenate([scored, order.reshape(-1)])
    else:
        order = order[:, :0]
    if statistics != "arrivals":
        perturbed = perturbed[:, :0]
    sparse = full_logits(logits) if statistics == "catalogue" else gather_logits(logits, scored)
    return Candidates(
        items=items,
        sparse_logits=sparse,
        order=order,
        perturbed=lax.stop_gradient(perturbed),
        sound=sound,
    )


# --- score functions --------------------------------------------------------------------------------------

Score = Callable[[Candidates, Int[Array, "L"], Quotas], Float[Array, "L"]]
"""(candidates, ranking, quotas) -> the score of every position."""
SetLogProb = Callable[[SparseLogits, Int[Array, "K"], Quotas], Float[Array, ""]]
ItemLogProb = Callable[[Candidates, Int[Array, ""], Quotas], Float[Array, ""]]


@dataclass(frozen=True)
class Estimator:
    """A score function and its requirements."""

    score: Score
    statistics: Statistics
    """The statistics that the candidates must carry."""
    credit_assigned: bool
    """True if every shown item has a score of its own; False if all share that of the candidate set."""
    max_experts: int | None = None
    """The largest M for which it is defined; None: any."""


def _shared(log_probability: SetLogProb) -> Score:
    """Score function that repeats the log-probability of the candidate set at every position."""

    def score(
        candidates: Candidates, ranking: Int[Array, "L"], quotas: Quotas
    ) -> Float[Array, "L"]:
        picks = candidates.sparse_logits.positions(candidates.items)
        return jnp.broadcast_to(
            log_probability(candidates.sparse_logits, picks, quotas), ranking.shape
        )

    return score


def _per_item(log_inclusion: ItemLogProb) -> Score:
    """Score function that gives every shown item its log inclusion probability."""

    def score(
        candidates: Candidates, ranking: Int[Array, "L"], quotas: Quotas
    ) -> Float[Array, "L"]:
        return jax.vmap(lambda item: log_inclusion(candidates, item, quotas))(ranking)

    return score


def _exact(candidates: Candidates, item: Int[Array, ""], quotas: Quotas) -> Float[Array, ""]:
    return log_inclusion_exact(candidates.sparse_logits.logits[0], item, sum(quotas))


def _threshold(candidates: Candidates, item: Int[Array, ""], quotas: Quotas) -> Float[Array, ""]:
    """Log P(a in S) from the draw's noise: pathwise through kappa, or for M > 1 given the others' picks.

    With several experts the earlier picks jump when logits move, which the path through kappa does not show.
    """
    if len(quotas) == 1:
        return log_inclusion_at_threshold(
            candidates.sparse_logits, candidates.order, candidates.perturbed, item, quotas
        )
    return log_inclusion_of_draw(candidates.sparse_logits, candidates.order, item, quotas)


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
    """Returns the estimator of this name; rejects an unknown name and one not defined for `num_experts`."""
    if name not in ESTIMATORS:
        raise ValueError(f"estimator={name!r}; expected one of {', '.join(ESTIMATORS)}")
    estimator = ESTIMATORS[name]
    if not isinstance(estimator, Estimator) or estimator.statistics not in get_args(Statistics):
        raise TypeError(
            f"ESTIMATORS[{name!r}] is {estimator!r}; expected an Estimator(score, statistics, "
            f"credit_assigned) with statistics one of {', '.join(get_args(Statistics))}"
        )
    if estimator.max_experts is not None and num_experts > estimator.max_experts:
        others = ", ".join(n for n, e in ESTIMATORS.items() if e.max_experts is None)
        raise ValueError(
            f"estimator={name!r} is defined for at most {estimator.max_experts} expert, but "
            f"num_experts={num_experts}; for several experts choose one of {others}"
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
    """Score of every shown item; its gradient times the reward estimates the policy gradient.

    `v_pg` and `v_pg_swr` return the log-probability of the candidate set at every position. The others return
    log P(a_l in S) (Kiyohara et al. 2026, Sec. 3), each by its own method.

    Args:
      estimator: a name of `ESTIMATORS`.
      logits: f_m(a), divided by the temperature; -inf masks an item.
      candidates: item ids in slot order.
      ranking: item ids by position; for credit-assigned scores any eligible item, else candidates.
      quotas: slots of each expert.
      key: the key of `sample_candidates`, from which `ca_pg_threshold` recomputes the noise.

    Returns:
      One score per position, differentiable in `logits`.

    Raises:
      ValueError: an unknown estimator, one that is not defined for M experts, `ca_pg_threshold` without a
        key, a wrong shape or dtype, and, outside of jit, bad values.

    >>> compiled = jax.jit(score, static_argnums=(0, 4))
    >>> compiled("top1_pg", jnp.zeros((1, 4)), jnp.array([2, 0]), jnp.array([2]), (2,))  # log(2 / 4)
    Array([-0.6931472], dtype=float32)
    """
    check_logits(logits, quotas)
    chosen = check_estimator(estimator, len(quotas))
    check_items("candidates", candidates, logits.shape[1], (sum(quotas),))
    check_items("ranking", ranking, logits.shape[1], (None,))
    if chosen.statistics == "arrivals" and key is None:
        raise ValueError(
            f"estimator={estimator!r} needs key=, the key that was given to sample_candidates: "
            "it recomputes the noise that drew the candidates"
        )
    if not chosen.credit_assigned:
        check_shown(candidates, ranking)
    noise_key = key if chosen.statistics == "arrivals" else None
    candidates, ranking = jnp.asarray(candidates, jnp.int32), jnp.asarray(ranking, jnp.int32)
    described = rescore_candidates(
        logits, candidates, ranking, quotas, chosen.statistics, noise_key
    )
    return chosen.score(described, ranking, quotas)
