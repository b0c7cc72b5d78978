"""A short list that stands for a whole catalogue.

Every score in this library depends on the logits of a few items and on the total weight of all others.
Sparse logits holds exactly that, so a score never sees N: whether the catalogue was dense, streamed in blocks
or sharded over devices is settled before.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from rankpg.core.numerics import centre, log_add, log_sum_exp, suffix_log_sum_exp
from rankpg.core.sampling import slot_experts
from rankpg.core.validation import check_items, check_logits
from rankpg.types import Array, Bool, Float, Int, Quotas, record

__all__ = [
    "SparseLogits",
    "full_logits",
    "gather_logits",
    "log_prob",
    "log_prob_swr",
    "log_remaining_mass",
    "ordered_log_prob",
    "repeats",
    "swr_log_prob",
]

_FEW_COMPARISONS = 4096
"""Up to here a comparison of all with all is faster than bisection, on a CPU."""


@record
class SparseLogits:
    """Some items with their logits, and the log-sum-exp of everything that is not listed."""

    items: Int[Array, "C"]
    """Item ids, ascending; the repeats of an id, if any, carry logits of -inf."""
    logits: Float[Array, "M C"]
    log_rest: Float[Array, "M"]
    """log of the sum of exp(logit) over the items that are not listed, per expert."""

    def positions(self, ids: Int[Array, "..."]) -> Int[Array, "..."]:
        """Where the given ids stand on the list; C for an id of -1, which stands for no item."""
        few = self.items.size * ids.size <= _FEW_COMPARISONS
        method = "compare_all" if few else "scan_unrolled"
        found = jnp.searchsorted(self.items, ids, method=method).astype(jnp.int32)
        return jnp.where(ids < 0, self.items.shape[0], found)

    def log_total(self) -> Float[Array, "M"]:
        """Log of the weight of the whole catalogue, per expert."""
        return log_add(self.log_rest, log_sum_exp(self.logits))


def gather_logits(logits: Float[Array, "M N"], ids: Int[Array, "C"]) -> SparseLogits:
    """List the items `ids` of a dense catalogue; the rest is summed, never subtracted.

    >>> gather_logits(jnp.zeros((1, 5)), jnp.array([3, 1])).log_rest  # log of three unit weights
    Array([1.0986123], dtype=float32)
    """
    items = jnp.sort(ids)
    repeated = repeats(items)
    once = jnp.where(repeated, logits.shape[1], items)
    listed, log_rest = _divide(logits, once)
    return SparseLogits(items=items, logits=listed, log_rest=log_rest)


@jax.custom_vjp
def _divide(logits, once):
    """The logits of the items `once` (-inf for an id of N) and the log-sum-exp of all others."""
    others = logits.at[:, once].set(-jnp.inf, mode="drop")
    listed = logits.at[:, once].get(mode="fill", fill_value=-jnp.inf)
    return listed, log_sum_exp(others)


def _divide_fwd(logits, once):
    listed, log_rest = _divide(logits, once)
    return (listed, log_rest), (logits, once, log_rest)


def _divide_bwd(saved, cotangents):
    """By hand, because the two parts do not overlap: one pass over the catalogue writes both."""
    logits, once, log_rest = saved
    to_listed, to_rest = cotangents
    empty = jnp.isneginf(log_rest)
    share = jnp.exp(logits - jnp.where(empty, jnp.inf, log_rest)[:, None])
    gradient = (to_rest[:, None] * share).at[:, once].set(to_listed, mode="drop")
    return gradient, np.zeros(once.shape, jax.dtypes.float0)


_divide.defvjp(_divide_fwd, _divide_bwd)


def full_logits(logits: Float[Array, "M N"]) -> SparseLogits:
    """List every item, so that nothing is left over."""
    experts, num_items = logits.shape
    return SparseLogits(
        items=jnp.arange(num_items, dtype=jnp.int32),
        logits=logits,
        log_rest=jnp.full((experts,), -jnp.inf, logits.dtype),
    )


def repeats(ascending: Int[Array, "n"]) -> Bool[Array, "n"]:
    """Which entries of an ascending list were there before.

    >>> repeats(jnp.array([2, 5, 5, 7])).tolist()
    [False, False, True, False]
    """
    return jnp.concatenate([jnp.zeros(1, bool), ascending[1:] == ascending[:-1]])


def log_remaining_mass(
    sparse: SparseLogits,
    picks: Int[Array, "P"],
    quotas: Quotas,
    excluded: Int[Array, ""] | None = None,
) -> Float[Array, "K"]:
    """Log W_k: the weight, under slot k's expert, of what is left before pick k.

    Nothing is subtracted: W_k adds up what is never picked and the picks from slot k on.

    Args:
      sparse_logits: holds at least the picks and `excluded`.
      picks: positions on the sparse logits, in slot order; P is K or K - 1, position C stands for no item.
      quotas: how many slots each expert fills.
      excluded: position of an item that is not in the catalogue at all.
    """
    experts, length = slot_experts(quotas), sparse.items.shape[0]
    gone = jnp.zeros(length, bool).at[picks].set(True, mode="drop")
    if excluded is not None:
        gone = gone | (jnp.arange(length, dtype=jnp.int32) == excluded)
    unpicked = log_add(
        sparse.log_rest,
        log_sum_exp(sparse.logits, where=jnp.broadcast_to(~gone[None, :], sparse.logits.shape)),
    )
    picked = sparse.logits.at[:, picks].get(mode="fill", fill_value=-jnp.inf)
    later = jnp.pad(
        suffix_log_sum_exp(picked),
        ((0, 0), (0, len(experts) - picks.shape[0])),
        constant_values=-jnp.inf,
    )
    left = log_add(jnp.broadcast_to(unpicked[:, None], later.shape), later)
    return left[experts, np.arange(len(experts))]


def ordered_log_prob(
    sparse: SparseLogits,
    picks: Int[Array, "P"],
    quotas: Quotas,
    excluded: Int[Array, ""] | None = None,
) -> Float[Array, ""]:
    """sum_k f_{m(k)}(a_k) - log W_k over the picks, given by their positions on the sparse logits."""
    return jnp.sum(ordered_log_prob_terms(sparse, picks, quotas, excluded))


def ordered_log_prob_terms(
    sparse: SparseLogits,
    picks: Int[Array, "P"],
    quotas: Quotas,
    excluded: Int[Array, ""] | None = None,
) -> Float[Array, "P"]:
    """f_{m(k)}(a_k) - log W_k for every pick; -inf for a pick that cannot be."""
    experts = slot_experts(quotas)[: picks.shape[0]]
    chosen = sparse.logits.at[experts, picks].get(mode="fill", fill_value=-jnp.inf)
    left = log_remaining_mass(sparse, picks, quotas, excluded)[: picks.shape[0]]
    return _differences(chosen, left)


def swr_log_prob(sparse: SparseLogits, picks: Int[Array, "K"], quotas: Quotas) -> Float[Array, ""]:
    """sum_k log pi_{m(k)}(a_k) over the picks, given by their positions on the sparse logits."""
    experts = slot_experts(quotas)
    return jnp.sum(_differences(sparse.logits[experts, picks], sparse.log_total()[experts]))


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
    sparse, picks = _list_candidates(logits, candidates, quotas)
    return ordered_log_prob(sparse, picks, quotas)


def log_prob_swr(
    logits: Float[Array, "M N"], candidates: Int[Array, "K"], quotas: Quotas
) -> Float[Array, ""]:
    """Log-probability of these candidates as if every slot were drawn with replacement (SwR).

    sum_k log pi_{m(k)}(a_k)  (Kiyohara et al. 2026, V-PG-SwR)

    Args, Raises: as `log_prob`.

    >>> log_prob_swr(jnp.zeros((1, 4)), jnp.array([2, 0]), (2,)).round(4)  # -2 log 4
    Array(-2.7726, dtype=float32)
    """
    sparse, picks = _list_candidates(logits, candidates, quotas)
    return swr_log_prob(sparse, picks, quotas)


def _list_candidates(logits, candidates, quotas) -> tuple[SparseLogits, Int[Array, "K"]]:
    check_logits(logits, quotas)
    check_items("candidates", candidates, logits.shape[1], (sum(quotas),))
    items = jnp.asarray(candidates, jnp.int32)
    sparse = gather_logits(centre(logits), items)
    return sparse, sparse.positions(items)
