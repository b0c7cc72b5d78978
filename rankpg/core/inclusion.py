"""Inclusion probabilities P(a in S): the probability that an item is among the K candidates.

"At least one arrival at rates r_1, r_2, ..." has probability 1 - exp(-sum r): most methods have that form.
`log_inclusion` and `log_inclusion_threshold` compute one of

    exact       the truth, M = 1 (inclusion_exact.py; Aires 1999; Traat 2004; Vieira 2021)
    greedy      1 - prod_k (1 - p_k), p_k among the items that remain after the others' greedy picks
                (Kiyohara et al. 2026, Eq. 8)
    swr         1 - prod_m (1 - pi_m(a))^{K_m}, as if drawn with replacement (Chen et al. 2019)
    sum         sum_m K_m pi_m(a), the expected number of draws with replacement
    threshold   1 - exp(-sum_m exp(f_m(a) - kappa_m)), an unbiased one-draw estimate (Kool et al. 2019)

The estimators (estimators.py) use the functions of `SparseLogits`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from rankpg.core.inclusion_exact import log_inclusion_exact
from rankpg.core.numerics import centre, cloglog_inverse, log_add, log_softplus, log_sum_exp
from rankpg.core.plackett_luce import (
    SparseLogits,
    full_logits,
    log_remaining_mass,
    ordered_log_prob_terms,
)
from rankpg.core.quotas import slot_experts
from rankpg.core.sampling import arrivals, fill_quotas, greedy_in_turn
from rankpg.core.validation import check_items, check_logits
from rankpg.types import Array, Float, Int, PRNGKey, Quotas

__all__ = [
    "INCLUSION_METHODS",
    "log_inclusion",
    "log_inclusion_at_threshold",
    "log_inclusion_given_picks",
    "log_inclusion_greedy",
    "log_inclusion_of_draw",
    "log_inclusion_sum",
    "log_inclusion_swr",
    "log_inclusion_threshold",
    "log_odds",
]

_CERTAIN = 800.0
"""Log odds of an included item: exp(-exp(log 800)) is 0 in every float format."""

# --- of a dense catalogue ---------------------------------------------------------------------------------


def log_inclusion(
    logits: Float[Array, "M N"], item: Int[Array, ""] | int, quotas: Quotas, method: str = "exact"
) -> Float[Array, ""]:
    """Log P(a in S): log-probability that an item is among the K candidates, by one of four methods.

    The formulas are at the top of this module: `exact` is the truth for M = 1 (Aires 1999; Traat 2004;
    Vieira 2021), `greedy` is Eq. 8 of Kiyohara et al. 2026, `swr` is that of Chen et al. 2019.

    Args:
      logits: f_m(a); -inf masks an item.
      item: the item's id.
      quotas: slots of each expert.
      method: exact, greedy, swr or sum.

    Returns:
      A scalar; -inf, with gradient 0, for a masked item.

    Raises:
      ValueError: an unknown method, `exact` with several experts, a wrong shape or dtype, quotas that do
        not fit, and, outside of jit, bad values.

    >>> import jax
    >>> value = jax.jit(log_inclusion, static_argnums=(2, 3))(jnp.zeros((1, 5)), 3, (2,))
    >>> round(float(np.exp(value)), 4)  # K / N
    0.4
    """
    if method not in INCLUSION_METHODS:
        raise ValueError(
            f"method={method!r}; expected one of {', '.join(INCLUSION_METHODS)} "
            "(for threshold, which needs a key, call log_inclusion_threshold)"
        )
    check_logits(logits, quotas)
    check_items("item", item, logits.shape[1], ())
    return INCLUSION_METHODS[method](centre(logits), jnp.asarray(item, jnp.int32), quotas)


def log_inclusion_threshold(
    key: PRNGKey, logits: Float[Array, "M N"], item: Int[Array, ""] | int, quotas: Quotas
) -> Float[Array, ""]:
    """Log of an unbiased one-draw estimate of P(a in S), from the draw's own noise (Kool et al. 2019, 2020).

    1 - exp(-sum_m exp(f_m(a) - kappa_m)), kappa_m from the noise of `sample_candidates(key, ...)`.
    The value is unbiased for any M. The gradient is pathwise through kappa and unbiased for M = 1. For M > 1
    an earlier expert's picks jump, which the path does not show; `score("ca_pg_threshold", ...)` uses another
    form, whose gradient is unbiased.

    Args, Raises: as `log_inclusion`; `key` is the one that draws the candidates.

    >>> import jax
    >>> one_draw = jax.jit(log_inclusion_threshold, static_argnums=3)
    >>> float(one_draw(jax.random.key(0), jnp.zeros((1, 5)), 3, (2,))) < 0
    True
    """
    check_logits(logits, quotas)
    check_items("item", item, logits.shape[1], ())
    logits, item = centre(logits), jnp.asarray(item, jnp.int32)
    order, perturbed = arrivals(key, logits, quotas)
    return log_inclusion_at_threshold(full_logits(logits), order, perturbed, item, quotas)


InclusionMethod = Callable[[Float[Array, "M N"], Int[Array, ""], Quotas], Float[Array, ""]]
"""(logits, item, quotas) -> log P(a in S)."""


def _by_exact(
    logits: Float[Array, "M N"], item: Int[Array, ""], quotas: Quotas
) -> Float[Array, ""]:
    if len(quotas) != 1:
        raise ValueError(
            f"method='exact' is defined for one expert (M = 1), but quotas={quotas} has {len(quotas)}; "
            "use 'greedy', 'swr' or 'sum', or log_inclusion_threshold"
        )
    return log_inclusion_exact(logits[0], item, quotas[0])


def _by_greedy(
    logits: Float[Array, "M N"], item: Int[Array, ""], quotas: Quotas
) -> Float[Array, ""]:
    order = greedy_in_turn(logits, quotas)
    return log_inclusion_greedy(full_logits(logits), order, item, quotas)


INCLUSION_METHODS: dict[str, InclusionMethod] = {
    "exact": _by_exact,
    "greedy": _by_greedy,
    "swr": lambda logits, item, quotas: log_inclusion_swr(full_logits(logits), item, quotas),
    "sum": lambda logits, item, quotas: log_inclusion_sum(full_logits(logits), item, quotas),
}
"""name -> method."""


# --- of sparse logits -------------------------------------------------------------------------------------


def log_inclusion_greedy(
    sparse: SparseLogits, order: Int[Array, "M depth"], item: Int[Array, ""], quotas: Quotas
) -> Float[Array, ""]:
    """Log P(a in S) by `greedy`: Eq. 8 of Kiyohara et al. 2026.

    Args:
      sparse: contains at least the items of `order` and `item`.
      order: every expert's greedy order (`sampling.greedy_in_turn`).
      item: the item's id.
      quotas: slots of each expert.
    """
    picks = sparse.positions(_first_picks(order, item, quotas))
    return log_inclusion_given_picks(sparse, sparse.positions(item), picks, quotas)


def log_inclusion_swr(
    sparse: SparseLogits, item: Int[Array, ""], quotas: Quotas
) -> Float[Array, ""]:
    """Log P(a in S) as if drawn with replacement: log(1 - prod_m (1 - pi_m(a))^{K_m}) (Chen et al. 2019).

    Computed with log(1 - pi) = -softplus(f - log W), W the total weight of all others.

    Args: as `log_inclusion_greedy`.
    """
    position, used = sparse.positions(item), _used_experts(quotas)
    others = jnp.broadcast_to(
        (jnp.arange(sparse.items.shape[0], dtype=jnp.int32) != position)[None, :],
        sparse.logits.shape,
    )
    log_others = log_add(sparse.log_rest, log_sum_exp(sparse.logits, where=others))
    odds = log_odds(sparse.logits[used, position], log_others[used])
    return _log_at_least_one(_log_quotas(quotas, odds.dtype) + log_softplus(odds))


def log_inclusion_sum(
    sparse: SparseLogits, item: Int[Array, ""], quotas: Quotas
) -> Float[Array, ""]:
    """Log of the expected number of draws with replacement, log sum_m K_m pi_m(a); it may exceed 0.

    Args: as `log_inclusion_greedy`.
    """
    used = _used_experts(quotas)
    logits = sparse.logits[used, sparse.positions(item)]
    odds = log_odds(logits, sparse.log_total()[used])
    return log_sum_exp(_log_quotas(quotas, odds.dtype) + odds)


def log_inclusion_at_threshold(
    sparse: SparseLogits,
    order: Int[Array, "M depth"],
    perturbed: Float[Array, "M depth"],
    item: Int[Array, ""],
    quotas: Quotas,
) -> Float[Array, ""]:
    """log(1 - exp(-sum_m exp(f_m(a) - kappa_m))), with the pathwise gradient through kappa.

    kappa_m is the K_m-th largest perturbed logit that expert m sees when the item is not in the catalogue
    (Kool et al. 2019). It moves with the logit of the item that attains it.

    Args:
      sparse: contains at least the items of `order` and `item`.
      order: every expert's order by arrival (`sampling.arrivals`).
      perturbed: the perturbed logits of `order`.
      item: the item's id.
      quotas: slots of each expert.
    """
    picks, places = fill_quotas(order, quotas, excluded=item)
    last, used = np.cumsum(quotas)[_used_experts(quotas)] - 1, _used_experts(quotas)
    at = sparse.logits.at[used, sparse.positions(picks)[last]].get(mode="fill", fill_value=-jnp.inf)
    value = perturbed.at[used, places[last]].get(mode="fill", fill_value=-jnp.inf)
    noise = jnp.where(jnp.isneginf(at), 0, value - lax.stop_gradient(at))
    return _log_at_least_one(log_odds(sparse.logits[used, sparse.positions(item)], at + noise))


def log_inclusion_of_draw(
    sparse: SparseLogits, order: Int[Array, "M depth"], item: Int[Array, ""], quotas: Quotas
) -> Float[Array, ""]:
    """Log h, h = P(a in S | drawn picks of the others), with an unbiased gradient for any M.

    h = 1 - prod_k W_k / (W_k + w_a) over the picks, so E[h] = P(a in S). The gradient of E[h] is
    E[grad h + h grad log PL(picks)]: the second term enters with value 0.

    Args: as `log_inclusion_at_threshold`.
    """
    picks = sparse.positions(_first_picks(order, item, quotas))
    position = sparse.positions(item)
    terms = ordered_log_prob_terms(sparse, picks, quotas, excluded=position)
    log_pl = jnp.sum(jnp.where(jnp.isfinite(terms), terms, 0))
    return (
        log_inclusion_given_picks(sparse, position, picks, quotas)
        + log_pl
        - lax.stop_gradient(log_pl)
    )


def log_inclusion_given_picks(
    sparse: SparseLogits, position: Int[Array, ""], picks: Int[Array, "P"], quotas: Quotas
) -> Float[Array, ""]:
    """Log P(a in S | picks): the item is drawn before or after these picks of the others.

    log(1 - prod_k (1 - p_k)), p_k the item's share of the mass that remains before pick k. With greedy picks
    this is Eq. 8 of Kiyohara et al. 2026; with picks drawn from the policy its exponential is unbiased for
    P(a in S).

    Args:
      sparse: contains at least the item and the picks.
      position: the item's position in the sparse logits.
      picks: positions of the others' first K - 1 picks; C stands for no item.
      quotas: slots of each expert.
    """
    log_mass = log_remaining_mass(sparse, picks, quotas, excluded=position)
    logits = sparse.logits[slot_experts(quotas), position]
    return _log_at_least_one(log_softplus(log_odds(logits, log_mass)))


def _first_picks(
    order: Int[Array, "M depth"], item: Int[Array, ""], quotas: Quotas
) -> Int[Array, "P"]:
    """First K - 1 picks from the catalogue without `item`; the last slot's pick leaves no later slot."""
    last = max(m for m, quota in enumerate(quotas) if quota > 0)
    first_slots = tuple(quota - (m == last) for m, quota in enumerate(quotas))
    return fill_quotas(order, first_slots, excluded=item)[0]


def _log_at_least_one(log_rates: Float[Array, "n"]) -> Float[Array, ""]:
    """log(1 - exp(-sum of rates)): log-probability of at least one arrival."""
    return cloglog_inverse(log_sum_exp(log_rates))


def log_odds(logit: Float[Array, "..."], log_others: Float[Array, "..."]) -> Float[Array, "..."]:
    """Log odds f - log W: certainty where W = 0, -inf for a masked item; the gradient stays finite."""
    masked, certain = jnp.isneginf(logit), jnp.isneginf(log_others)
    inside = jnp.where(masked | certain, 0, logit) - jnp.where(masked | certain, 0, log_others)
    inside = jnp.minimum(inside, _CERTAIN)
    return jnp.where(masked, -jnp.inf, jnp.where(certain, _CERTAIN, inside))


def _used_experts(quotas: Quotas) -> np.ndarray:
    """Experts with a quota above 0."""
    return np.flatnonzero(np.asarray(quotas))


def _log_quotas(quotas: Quotas, dtype: DTypeLike) -> Float[Array, "m"]:
    """Logs of the quotas above 0."""
    return jnp.asarray(np.log([q for q in quotas if q > 0]), dtype)
