"""Policy-gradient estimators: eleven score functions, and the candidates that they score.

    gradient = E[ sum_l alpha_l * A_l * grad score_l ]

A_l is the advantage at position l of the shown ranking, alpha_l the weight of the position. A score function
takes `Candidates` and the shown items, and returns one number per position. `ESTIMATORS` is their table.

`ca_pg_swap` alone scores all K candidates; the credit of one is the reward of the list less that of the list
without it (swaps.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax

from rankpg.core.candidate_set import set_log_prob
from rankpg.core.inclusion import (
    log_inclusion_at_threshold,
    log_inclusion_greedy,
    log_inclusion_of_draw,
    log_inclusion_sum,
    log_inclusion_swr,
)
from rankpg.core.inclusion_exact import log_inclusion_exact
from rankpg.core.numerics import centre, log_add, log_sum_exp
from rankpg.core.plackett_luce import (
    SparseLogits,
    full_logits,
    gather_logits,
    ordered_log_prob,
    swr_log_prob,
)
from rankpg.core.sampling import arrivals, greedy_in_turn, take_quotas
from rankpg.core.swaps import Swaps, find_swaps, later_arrivals, swap_scores
from rankpg.core.validation import check_items, check_logits, check_shown
from rankpg.types import Array, Bool, Float, Int, PRNGKey, Quotas, record

__all__ = [
    "ESTIMATORS",
    "NOISE_STATISTICS",
    "Candidates",
    "Estimator",
    "Statistics",
    "arrivals_of_swaps",
    "check_estimator",
    "draw_candidates",
    "rescore_candidates",
    "score",
    "swaps_of",
]

Statistics = Literal["candidates", "greedy", "arrivals", "swaps", "catalogue"]
"""Statistics that a score function needs: the logits of the candidates; also every expert's greedy order,
without items of earlier experts; or its order by arrival; or that and the candidates' arrivals under later
experts; or the logits of all N items."""

NOISE_STATISTICS: tuple[Statistics, ...] = ("arrivals", "swaps")
"""Statistics that hold the Gumbel noise of the draw."""

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
    later: Float[Array, "M K"] | None = None
    """Perturbed logits of the candidates under later experts (`swaps.later_arrivals`); None if not needed."""


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
    return _with_statistics(logits, items, items, drawn, quotas, statistics, sound, key)


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
      key: the key that drew the candidates; required for statistics "arrivals" and "swaps" alone.
    """
    logits = centre(logits)
    empty = jnp.zeros((len(quotas), 0), jnp.int32), jnp.zeros((len(quotas), 0), logits.dtype)
    drawn = empty if key is None else arrivals(key, logits, quotas)
    scored = jnp.concatenate([items, shown])
    sound = jnp.ones((), bool)  # validated by the caller
    return _with_statistics(logits, items, scored, drawn, quotas, statistics, sound, key)


def _with_statistics(
    logits: Float[Array, "M N"],
    items: Int[Array, "K"],
    scored: Int[Array, "n"],
    drawn: tuple[Int[Array, "M depth"], Float[Array, "M depth"]],
    quotas: Quotas,
    statistics: Statistics,
    sound: Bool[Array, ""],
    key: PRNGKey | None,
) -> Candidates:
    """Gathers the statistics. `scored` are the items to score; `drawn` is the order by arrival."""
    order, perturbed = drawn
    if statistics == "greedy":
        order = greedy_in_turn(logits, quotas)
    if statistics in ("greedy", *NOISE_STATISTICS):
        scored = jnp.concatenate([scored, order.reshape(-1)])
    else:
        order = order[:, :0]
    if statistics not in NOISE_STATISTICS:
        perturbed = perturbed[:, :0]
    sparse = full_logits(logits) if statistics == "catalogue" else gather_logits(logits, scored)
    return Candidates(
        items=items,
        sparse_logits=sparse,
        order=order,
        perturbed=lax.stop_gradient(perturbed),
        sound=sound,
        later=arrivals_of_swaps(key, sparse, items, quotas, statistics),
    )


def arrivals_of_swaps(
    key: PRNGKey | None,
    sparse: SparseLogits,
    items: Int[Array, "K"],
    quotas: Quotas,
    statistics: Statistics,
) -> Float[Array, "M K"] | None:
    """`Candidates.later`, from the key of the draw; None where the statistics or one expert need none."""
    if statistics != "swaps" or len(quotas) == 1 or key is None:
        return None
    return later_arrivals(key, sparse, items, quotas)


def swaps_of(candidates: Candidates, quotas: Quotas) -> Swaps:
    """The set that would have been drawn without each candidate, from statistics "swaps"."""
    later = candidates.later
    if later is None:  # one expert: none comes after it
        later = jnp.zeros((len(quotas), sum(quotas)), candidates.perturbed.dtype)
    return find_swaps(candidates.items, candidates.order, candidates.perturbed, later, quotas)


# --- score functions --------------------------------------------------------------------------------------

Score = Callable[[Candidates, Int[Array, "L"], Quotas], Float[Array, "L"] | Float[Array, "K"]]
"""(candidates, ranking, quotas) -> the score of every position, or of every candidate."""
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
    by_swaps: bool = False
    """True if every candidate has a score, and its credit is what the list loses without it. The statistics
    are then "swaps"."""
    by_predictions: bool = False
    """True if it learns through predicted rewards, by an objective of its own: its score is then not that of
    a policy gradient."""


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


def _logit(candidates: Candidates, item: Int[Array, ""], quotas: Quotas) -> Float[Array, ""]:
    """Logit of the item, less the largest one: the predicted reward of a value-based policy."""
    del quotas
    return candidates.sparse_logits.logits[0, candidates.sparse_logits.positions(item)]


def _threshold(candidates: Candidates, item: Int[Array, ""], quotas: Quotas) -> Float[Array, ""]:
    """Log P(a in S) from the draw's noise: pathwise through kappa, or for M > 1 given the others' picks.

    With several experts the earlier picks jump when logits move, which the path through kappa does not show.
    """
    if len(quotas) == 1:
        return log_inclusion_at_threshold(
            candidates.sparse_logits, candidates.order, candidates.perturbed, item, quotas
        )
    return log_inclusion_of_draw(candidates.sparse_logits, candidates.order, item, quotas)


def _unordered(sparse: SparseLogits, picks: Int[Array, "K"], quotas: Quotas) -> Float[Array, ""]:
    """Log-probability of the candidates without their order, for one expert."""
    del quotas
    others = jnp.ones(sparse.logits.shape, bool).at[:, picks].set(False)
    log_rest = log_add(sparse.log_rest, log_sum_exp(sparse.logits, where=others))
    return set_log_prob(sparse.logits[0, picks], log_rest[0])


def _by_swaps(
    candidates: Candidates, ranking: Int[Array, "L"], quotas: Quotas
) -> Float[Array, "K"]:
    """Log-probability of every candidate given the arrivals of all other items."""
    del ranking
    return swap_scores(
        candidates.sparse_logits, candidates.items, candidates.order, candidates.perturbed, quotas
    )


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
    "v_pg_set": Estimator(_shared(_unordered), "candidates", credit_assigned=False, max_experts=1),
    "ca_pg_swap": Estimator(_by_swaps, "swaps", credit_assigned=True, by_swaps=True),
    "value_based": Estimator(
        _per_item(_logit), "candidates", credit_assigned=True, max_experts=1, by_predictions=True
    ),
    "model_guided": Estimator(
        _per_item(lambda c, item, quotas: log_inclusion_swr(c.sparse_logits, item, quotas)),
        "candidates",
        credit_assigned=True,
        by_predictions=True,
    ),
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
    if estimator.by_swaps and estimator.statistics != "swaps":
        raise TypeError(
            f"ESTIMATORS[{name!r}] has by_swaps=True and statistics={estimator.statistics!r}; expected "
            "statistics='swaps', which hold the items that take the candidates' places"
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
) -> Float[Array, "L"] | Float[Array, "K"]:
    """Score of every shown item; its gradient times the reward estimates the policy gradient.

    `v_pg`, `v_pg_set` and `v_pg_swr` return the log-probability of the candidate set at every position.
    `ca_pg_swap` returns one score for every candidate, not for every shown item. The others return
    log P(a_l in S) (Kiyohara et al. 2026, Sec. 3), each by its own method.

    Args:
      estimator: a name of `ESTIMATORS`.
      logits: f_m(a), divided by the temperature; -inf masks an item.
      candidates: item ids in slot order.
      ranking: item ids by position; for credit-assigned scores any eligible item, else candidates.
      quotas: slots of each expert.
      key: the key of `sample_candidates`, from which `ca_pg_threshold` and `ca_pg_swap` recompute the noise.

    Returns:
      One score per position, of `ca_pg_swap` one per candidate in slot order; differentiable in `logits`.

    Raises:
      ValueError: an unknown estimator, one that is not defined for M experts, one that needs a key without
        it, a wrong shape or dtype, and, outside of jit, bad values.

    >>> compiled = jax.jit(score, static_argnums=(0, 4))
    >>> compiled("top1_pg", jnp.zeros((1, 4)), jnp.array([2, 0]), jnp.array([2]), (2,))  # log(2 / 4)
    Array([-0.6931472], dtype=float32)
    """
    check_logits(logits, quotas)
    chosen = check_estimator(estimator, len(quotas))
    check_items("candidates", candidates, logits.shape[1], (sum(quotas),))
    check_items("ranking", ranking, logits.shape[1], (None,))
    if chosen.statistics in NOISE_STATISTICS and key is None:
        raise ValueError(
            f"estimator={estimator!r} needs key=, the key that was given to sample_candidates: "
            "it recomputes the noise that drew the candidates"
        )
    if not chosen.credit_assigned:
        check_shown(candidates, ranking)
    noise_key = key if chosen.statistics in NOISE_STATISTICS else None
    candidates, ranking = jnp.asarray(candidates, jnp.int32), jnp.asarray(ranking, jnp.int32)
    described = rescore_candidates(
        logits, candidates, ranking, quotas, chosen.statistics, noise_key
    )
    return chosen.score(described, ranking, quotas)
