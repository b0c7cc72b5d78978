"""The early-stage policy: Gumbel top-K sampling and its log-probabilities, for any number of experts.

With one expert this is the Plackett-Luce (PL) policy. With several, expert 1 fills the first K_1 slots,
expert 2 the next K_2 from what is left, and so on; each has Gumbel noise of its own.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import lax

from rankpg.arrivals import arrivals, block_width
from rankpg.checks import check_items, check_logits
from rankpg.listing import Listing, list_items
from rankpg.numerics import centre, largest, log_add, log_sum_exp, suffix_log_sum_exp
from rankpg.quotas import in_turn, order_depth, slot_experts, take_quotas
from rankpg.types import Array, Float, Int, PRNGKey, Quotas

__all__ = [
    "greedy_candidates",
    "greedy_in_turn",
    "greedy_order",
    "log_left",
    "log_prob",
    "log_prob_swr",
    "ordered_log_prob",
    "sample_candidates",
    "swr_log_prob",
]


def greedy_order(logits: Float[Array, "M N"], depth: int) -> Int[Array, "M depth"]:
    """The `depth` items of largest logit, expert by expert; ties go to the lower id.

    Blocks of neighbouring items whose maxima are the `depth` largest hold them all: a block before another
    in this order has an item that is before all of the other's.
    """
    logits = lax.stop_gradient(logits)
    logits = jnp.where(logits == 0, 0, logits)  # top-k puts -0.0 below 0.0, which are a tie
    experts, num_items = logits.shape
    width = block_width(num_items, depth)
    if width == 1:
        return largest(logits, depth)[1]
    padding = -num_items % width
    padded = jnp.pad(logits, ((0, 0), (0, padding)), constant_values=-jnp.inf)
    blocks = padded.reshape(experts, -1, width)
    opened = jnp.sort(largest(jnp.max(blocks, axis=2), min(depth, blocks.shape[1]))[1], axis=1)
    within = jnp.take_along_axis(blocks, opened[:, :, None], axis=1).reshape(experts, -1)
    place = largest(within, depth)[1]
    return jnp.take_along_axis(opened, place // width, axis=1) * width + place % width


def greedy_in_turn(logits: Float[Array, "M N"], quotas: Quotas) -> Int[Array, "M depth"]:
    """Every expert's greedy order of what the experts before it have left, `quotas.order_depth` items each.

    >>> greedy_in_turn(jnp.array([[3.0, 2.0, 1.0, 0.0], [3.0, 0.0, 1.0, 2.0]]), (1, 2))
    Array([[0, 1, 2],
           [3, 2, 1]], dtype=int32)
    """
    depth = order_depth(logits.shape[1], quotas)
    return in_turn(
        lax.stop_gradient(logits), quotas, lambda m, row: (greedy_order(row[None], depth)[0],)
    )[0]


def sample_candidates(key: PRNGKey, logits: Float[Array, "M N"], quotas: Quotas) -> Int[Array, "K"]:
    """Draw K candidates without replacement, in slot order: first arrivals, expert after expert.

    Args:
      key: consumed.
      logits: f_m(a), divided by the temperature; -inf masks an item.
      quotas: how many slots each expert fills.

    Returns:
      Item ids, int32.

    Raises:
      ValueError: wrong shape or dtype, quotas that do not fit, and, outside of jit, NaN or +inf or more
        masked items than K allows.

    >>> import jax
    >>> sample_candidates(jax.random.key(0), jnp.array([[0.0, 50.0, 40.0, 0.0]]), (2,))
    Array([1, 2], dtype=int32)
    """
    check_logits(logits, quotas)
    order, _ = arrivals(key, centre(logits), quotas)
    return take_quotas(order, quotas)


def greedy_candidates(logits: Float[Array, "M N"], quotas: Quotas) -> Int[Array, "K"]:
    """The noiseless draw: every expert takes its K_m best of what is left, in slot order.

    Args, Raises: as `sample_candidates`.

    >>> greedy_candidates(jnp.array([[3.0, 2.0, 1.0, 0.0], [3.0, 0.0, 1.0, 2.0]]), (1, 2))
    Array([0, 3, 2], dtype=int32)
    """
    check_logits(logits, quotas)
    return take_quotas(greedy_in_turn(logits, quotas), quotas)


def log_left(
    listing: Listing,
    picks: Int[Array, "P"],
    quotas: Quotas,
    excluded: Int[Array, ""] | None = None,
) -> Float[Array, "K"]:
    """log W_k: the weight, under slot k's expert, of what is left before pick k.

    Nothing is subtracted: W_k adds up what is never picked and the picks from slot k on.

    Args:
      listing: holds at least the picks and `excluded`.
      picks: positions on the listing, in slot order; P is K or K - 1, position C stands for no item.
      quotas: how many slots each expert fills.
      excluded: position of an item that is not in the catalogue at all.
    """
    experts, length = slot_experts(quotas), listing.items.shape[0]
    gone = jnp.zeros(length, bool).at[picks].set(True, mode="drop")
    if excluded is not None:
        gone = gone | (jnp.arange(length, dtype=jnp.int32) == excluded)
    unpicked = log_add(
        listing.log_rest,
        log_sum_exp(listing.logits, where=jnp.broadcast_to(~gone[None, :], listing.logits.shape)),
    )
    picked = listing.logits.at[:, picks].get(mode="fill", fill_value=-jnp.inf)
    later = jnp.pad(
        suffix_log_sum_exp(picked),
        ((0, 0), (0, len(experts) - picks.shape[0])),
        constant_values=-jnp.inf,
    )
    left = log_add(jnp.broadcast_to(unpicked[:, None], later.shape), later)
    return left[experts, np.arange(len(experts))]


def ordered_log_prob(
    listing: Listing,
    picks: Int[Array, "P"],
    quotas: Quotas,
    excluded: Int[Array, ""] | None = None,
) -> Float[Array, ""]:
    """sum_k f_{m(k)}(a_k) - log W_k over the picks, given by their positions on the listing."""
    return jnp.sum(ordered_log_prob_terms(listing, picks, quotas, excluded))


def ordered_log_prob_terms(
    listing: Listing,
    picks: Int[Array, "P"],
    quotas: Quotas,
    excluded: Int[Array, ""] | None = None,
) -> Float[Array, "P"]:
    """f_{m(k)}(a_k) - log W_k for every pick; -inf for a pick that cannot be."""
    experts = slot_experts(quotas)[: picks.shape[0]]
    chosen = listing.logits.at[experts, picks].get(mode="fill", fill_value=-jnp.inf)
    left = log_left(listing, picks, quotas, excluded)[: picks.shape[0]]
    return _differences(chosen, left)


def swr_log_prob(listing: Listing, picks: Int[Array, "K"], quotas: Quotas) -> Float[Array, ""]:
    """sum_k log pi_{m(k)}(a_k) over the picks, given by their positions on the listing."""
    experts = slot_experts(quotas)
    return jnp.sum(_differences(listing.logits[experts, picks], listing.log_total()[experts]))


def _differences(chosen: Float[Array, "P"], normaliser: Float[Array, "P"]) -> Float[Array, "P"]:
    masked = jnp.isneginf(chosen)
    inside = jnp.where(masked, 0, chosen) - jnp.where(masked, 0, normaliser)
    return jnp.where(masked, -jnp.inf, inside)


def log_prob(
    logits: Float[Array, "M N"], candidates: Int[Array, "K"], quotas: Quotas
) -> Float[Array, ""]:
    """Log-probability of drawing these candidates in this order, without replacement.

    sum_k [ f_{m(k)}(a_k) - log sum_{j not in a_1..a_{k-1}} exp f_{m(k)}(j) ]  (Kiyohara et al. 2026, V-PG)

    Args:
      logits: f_m(a); -inf masks an item.
      candidates: item ids in slot order, distinct.
      quotas: how many slots each expert fills.

    Returns:
      A scalar, at most 0; -inf, with gradient 0 for it, if a candidate is masked.

    Raises:
      ValueError: wrong shape or dtype, quotas that do not fit, and, outside of jit, bad values.

    >>> log_prob(jnp.zeros((1, 4)), jnp.array([2, 0]), (2,)).round(4)  # -log(4 * 3)
    Array(-2.4849, dtype=float32)
    """
    listing, picks = _list_candidates(logits, candidates, quotas)
    return ordered_log_prob(listing, picks, quotas)


def log_prob_swr(
    logits: Float[Array, "M N"], candidates: Int[Array, "K"], quotas: Quotas
) -> Float[Array, ""]:
    """Log-probability of these candidates as if every slot were drawn with replacement (SwR).

    sum_k log pi_{m(k)}(a_k)  (Kiyohara et al. 2026, V-PG-SwR)

    Args, Raises: as `log_prob`.

    >>> log_prob_swr(jnp.zeros((1, 4)), jnp.array([2, 0]), (2,)).round(4)  # -2 log 4
    Array(-2.7726, dtype=float32)
    """
    listing, picks = _list_candidates(logits, candidates, quotas)
    return swr_log_prob(listing, picks, quotas)


def _list_candidates(logits, candidates, quotas) -> tuple[Listing, Int[Array, "K"]]:
    check_logits(logits, quotas)
    check_items("candidates", candidates, logits.shape[1], (sum(quotas),))
    items = jnp.asarray(candidates, jnp.int32)
    listing = list_items(centre(logits), items)
    return listing, listing.positions(items)
