"""The probability that an item is among the K candidates at all: four closed forms and one by sampling.

    exact       the arrival-time integral of exact_inclusion.py; M = 1; always exact (for a large catalogue
                large_inclusion.py has it with a bound on the error)
    greedy      1 - prod_k (1 - p_k), p_k = w_a / (w_a + W_k), W_k the weight left after the first k - 1
                greedy picks among the others (Kiyohara et al. 2026, Eq. 8); exact for K = 1
    swr         1 - prod_m (1 - pi_m(a))^{K_m}, as if drawn with replacement (top-K off-policy correction,
                Chen et al. 2019)
    sum         sum_m K_m pi_m(a), the expected number of draws with replacement; its log may exceed 0
    threshold   1 - exp(-sum_m exp(f_m(a) - kappa_m)) (Kool et al. 2019); exact in the mean, any M

All of them are read off a listing. "At least one of several independent events of rate r" is
1 - exp(-sum r) everywhere, so they share one stable form: cloglog_inverse(log-sum-exp of log rates).
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import lax

from rankpg.arrivals import arrivals
from rankpg.checks import check_items, check_logits
from rankpg.exact_inclusion import log_inclusion_exact
from rankpg.listing import Listing, list_catalogue
from rankpg.numerics import centre, cloglog_inverse, log_add, log_softplus, log_sum_exp
from rankpg.plackett_luce import greedy_in_turn, log_left, ordered_log_prob_terms
from rankpg.quotas import fill_quotas, slot_experts
from rankpg.types import Array, Float, Int, PRNGKey, Quotas

__all__ = [
    "INCLUSION_METHODS",
    "log_inclusion",
    "log_inclusion_threshold",
]

_CERTAIN = (
    800.0  # exp(-exp(log 800)) is 0 in every float format: an item with this log odds is included
)


def log_odds(logit: Float[Array, "..."], log_others: Float[Array, "..."]) -> Float[Array, "..."]:
    """f - log W, with W = 0 read as certainty and a masked item as -inf; the gradient stays finite."""
    masked, certain = jnp.isneginf(logit), jnp.isneginf(log_others)
    inside = jnp.where(masked | certain, 0, logit) - jnp.where(masked | certain, 0, log_others)
    inside = jnp.minimum(inside, _CERTAIN)
    return jnp.where(masked, -jnp.inf, jnp.where(certain, _CERTAIN, inside))


def from_log_rates(log_rates: Float[Array, "n"]) -> Float[Array, ""]:
    """log(1 - exp(-sum of rates)): the log-probability of at least one arrival."""
    return cloglog_inverse(log_sum_exp(log_rates))


def prefix_quotas(quotas: Quotas) -> Quotas:
    """The quotas of the first K - 1 slots: the last slot's competitors are never picked."""
    last = max(m for m, quota in enumerate(quotas) if quota > 0)
    return tuple(quota - (m == last) for m, quota in enumerate(quotas))


def prefix_without(
    order: Int[Array, "M depth"], item: Int[Array, ""], quotas: Quotas
) -> Int[Array, "P"]:
    """The first K - 1 picks of the catalogue without `item`, from every expert's order."""
    return fill_quotas(order, prefix_quotas(quotas), excluded=item)[0]


def log_hit(
    listing: Listing, position: Int[Array, ""], picks: Int[Array, "P"], quotas: Quotas
) -> Float[Array, ""]:
    """log(1 - prod_k (1 - p_k)): the item at `position` is drawn before or after these picks of the others.

    With greedy picks it is Eq. 8; with picks drawn from the policy its exponential is unbiased for P(a in S).
    """
    left = log_left(listing, picks, quotas, excluded=position)
    logits = listing.logits[slot_experts(quotas), position]
    return from_log_rates(log_softplus(log_odds(logits, left)))


def log_inclusion_greedy(
    listing: Listing, order: Int[Array, "M depth"], item: Int[Array, ""], quotas: Quotas
) -> Float[Array, ""]:
    """`greedy`: Eq. 8, the picks from the noiseless order."""
    picks = listing.positions(prefix_without(order, item, quotas))
    return log_hit(listing, listing.positions(item), picks, quotas)


def log_inclusion_swr(listing: Listing, item: Int[Array, ""], quotas: Quotas) -> Float[Array, ""]:
    """`swr`: log(1 - prod_m (1 - pi_m(a))^{K_m}), with log(1 - pi) = -softplus(f - log W_others)."""
    position, used = listing.positions(item), _used_experts(quotas)
    others = jnp.broadcast_to(
        (jnp.arange(listing.items.shape[0], dtype=jnp.int32) != position)[None, :],
        listing.logits.shape,
    )
    log_others = log_add(listing.log_rest, log_sum_exp(listing.logits, where=others))
    odds = log_odds(listing.logits[used, position], log_others[used])
    return from_log_rates(_log_quotas(quotas, odds.dtype) + log_softplus(odds))


def log_inclusion_sum(listing: Listing, item: Int[Array, ""], quotas: Quotas) -> Float[Array, ""]:
    """`sum`: log sum_m K_m pi_m(a)."""
    used = _used_experts(quotas)
    logits = listing.logits[used, listing.positions(item)]
    odds = log_odds(logits, listing.log_total()[used])
    return log_sum_exp(_log_quotas(quotas, odds.dtype) + odds)


def log_inclusion_at_threshold(
    listing: Listing,
    order: Int[Array, "M depth"],
    perturbed: Float[Array, "M depth"],
    item: Int[Array, ""],
    quotas: Quotas,
) -> Float[Array, ""]:
    """`threshold`: log(1 - exp(-sum_m exp(f_m(a) - kappa_m))), with the pathwise gradient through kappa.

    kappa_m is the K_m-th largest perturbed logit that expert m sees when the item is not in the catalogue.
    It moves with the logit of the item that attains it.
    """
    picks, places = fill_quotas(order, quotas, excluded=item)
    last, used = np.cumsum(quotas)[_used_experts(quotas)] - 1, _used_experts(quotas)
    at = listing.logits.at[used, listing.positions(picks)[last]].get(
        mode="fill", fill_value=-jnp.inf
    )
    value = perturbed.at[used, places[last]].get(mode="fill", fill_value=-jnp.inf)
    noise = jnp.where(jnp.isneginf(at), 0, value - lax.stop_gradient(at))
    return from_log_rates(log_odds(listing.logits[used, listing.positions(item)], at + noise))


def log_inclusion_drawn(
    listing: Listing, order: Int[Array, "M depth"], item: Int[Array, ""], quotas: Quotas
) -> Float[Array, ""]:
    """log h, h = 1 - prod_k W_k / (W_k + w_a) over the drawn picks of the others, and the gradient of P.

    h is the probability of the item given the others' picks, so E[h] = P(a in S) for any M. Its gradient is
    grad h + h grad log PL(picks): the second term enters with value 0.
    """
    picks = listing.positions(prefix_without(order, item, quotas))
    position = listing.positions(item)
    terms = ordered_log_prob_terms(listing, picks, quotas, excluded=position)
    log_pl = jnp.sum(jnp.where(jnp.isfinite(terms), terms, 0))
    return log_hit(listing, position, picks, quotas) + log_pl - lax.stop_gradient(log_pl)


def _used_experts(quotas: Quotas) -> np.ndarray:
    return np.flatnonzero(np.asarray(quotas))


def _log_quotas(quotas: Quotas, dtype) -> Float[Array, "m"]:
    return jnp.asarray(np.log([q for q in quotas if q > 0]), dtype)


def _by_exact(logits, item, quotas):
    if len(quotas) != 1:
        raise ValueError(
            f"method 'exact' is defined for one expert (M = 1), but quotas {quotas} has {len(quotas)}; "
            "use 'greedy', 'swr' or 'sum', or log_inclusion_threshold"
        )
    return log_inclusion_exact(logits[0], item, quotas[0])


def _by_greedy(logits, item, quotas):
    order = greedy_in_turn(logits, quotas)
    return log_inclusion_greedy(list_catalogue(logits), order, item, quotas)


INCLUSION_METHODS = {
    "exact": _by_exact,
    "greedy": _by_greedy,
    "swr": lambda logits, item, quotas: log_inclusion_swr(list_catalogue(logits), item, quotas),
    "sum": lambda logits, item, quotas: log_inclusion_sum(list_catalogue(logits), item, quotas),
}


def log_inclusion(
    logits: Float[Array, "M N"], item: Int[Array, ""] | int, quotas: Quotas, method: str = "exact"
) -> Float[Array, ""]:
    """log P(a in S): the log-probability that an item is among the K candidates, by one of four methods.

    See the table at the top of this module for the formulas; `exact` is the truth for M = 1
    (Aires 1999; Traat 2004; Vieira 2021), `greedy` is Eq. 8 of Kiyohara et al. 2026.

    Args:
      logits: f_m(a); -inf masks an item.
      item: the item's id.
      quotas: how many slots each expert fills.
      method: exact, greedy, swr or sum.

    Returns:
      A scalar; -inf, with gradient 0, for a masked item.

    Raises:
      ValueError: an unknown method, `exact` with several experts, a wrong shape or dtype, quotas that do
        not fit, and, outside of jit, bad values.

    >>> float(jnp.exp(log_inclusion(jnp.zeros((1, 5)), 3, (2,))).round(4))  # K / N
    0.4
    """
    if method not in INCLUSION_METHODS:
        raise ValueError(
            f"method is {method!r}; expected one of {', '.join(INCLUSION_METHODS)} "
            "(threshold needs a key: log_inclusion_threshold)"
        )
    check_logits(logits, quotas)
    check_items("item", item, logits.shape[1], ())
    return INCLUSION_METHODS[method](centre(logits), jnp.asarray(item, jnp.int32), quotas)


def log_inclusion_threshold(
    key: PRNGKey, logits: Float[Array, "M N"], item: Int[Array, ""] | int, quotas: Quotas
) -> Float[Array, ""]:
    """log of an unbiased one-draw estimate of P(a in S): `threshold` (Kool et al. 2019, 2020).

    1 - exp(-sum_m exp(f_m(a) - kappa_m)), kappa_m from the noise of `sample_candidates(key, ...)`.
    The value is unbiased for any M. The gradient is pathwise through kappa: unbiased for M = 1; for M > 1 an
    earlier expert's picks jump, which it cannot see (`score("ca_pg_threshold", ...)` uses a form that can).

    Args, Raises: as `log_inclusion`; `key` is the one that draws the candidates.

    >>> import jax
    >>> key = jax.random.key(0)
    >>> bool(log_inclusion_threshold(key, jnp.zeros((1, 5)), 3, (2,)) < 0)
    True
    """
    check_logits(logits, quotas)
    check_items("item", item, logits.shape[1], ())
    logits, item = centre(logits), jnp.asarray(item, jnp.int32)
    order, perturbed = arrivals(key, logits, quotas)
    return log_inclusion_at_threshold(list_catalogue(logits), order, perturbed, item, quotas)
