"""The Plackett-Luce policy: log-probabilities of ordered candidates, with and without replacement.

Without replacement, slot k draws from the softmax over the items that are not picked yet (Plackett 1975); it
is the law of Gumbel-top-k (Yellott 1977; Kool et al. 2019), which draws the candidates (sampling.py).

A score depends on the logits of a few items and on the total weight of all others. `SparseLogits` holds
exactly that, so a score never depends on N, and is the same whether the catalogue is dense, streamed in
blocks or sharded over devices.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from rankpg.core.numerics import centre, log_add, log_sum_exp, suffix_log_sum_exp
from rankpg.core.quotas import slot_experts
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
    "ordered_log_prob_terms",
    "repeats",
    "swr_log_prob",
]

_FEW_COMPARISONS = 4096
"""Up to this number, comparing all with all is faster than bisection, on a CPU."""

# --- sparse logits ----------------------------------------------------------------------------------------


@record
class SparseLogits:
    """Logits of C items, and the log-sum-exp of the logits of all other items."""

    items: Int[Array, "C"]
    """Item ids, ascending. An id may be repeated; its repeats have logits of -inf."""
    logits: Float[Array, "M C"]
    log_rest: Float[Array, "M"]
    """Log of the sum of exp(logit) over all items that are not in `items`, per expert."""

    def positions(self, ids: Int[Array, "..."]) -> Int[Array, "..."]:
        """Positions of the given ids in `items`; C for an id of -1, which stands for no item."""
        few = self.items.size * ids.size <= _FEW_COMPARISONS
        method = "compare_all" if few else "scan_unrolled"
        found = jnp.searchsorted(self.items, ids, method=method).astype(jnp.int32)
        return jnp.where(ids < 0, self.items.shape[0], found)

    def log_total(self) -> Float[Array, "M"]:
        """Log of the total weight of the catalogue, per expert."""
        return log_add(self.log_rest, log_sum_exp(self.logits))


def gather_logits(logits: Float[Array, "M N"], ids: Int[Array, "C"]) -> SparseLogits:
    """Gathers the logits of the items `ids`; the weight of the rest is added up, never subtracted.

    Args:
      logits: f_m(a); -inf masks an item.
      ids: item ids, in any order, repeated or not.

    >>> jax.jit(gather_logits)(jnp.zeros((1, 5)), jnp.array([3, 1])).log_rest  # log of three unit weights
    Array([1.0986123], dtype=float32)
    """
    items = jnp.sort(ids)
    repeated = repeats(items)
    distinct = jnp.where(repeated, logits.shape[1], items)
    gathered, log_rest = _gather(logits, distinct)
    return SparseLogits(items=items, logits=gathered, log_rest=log_rest)


@jax.custom_vjp
def _gather(
    logits: Float[Array, "M N"], distinct: Int[Array, "C"]
) -> tuple[Float[Array, "M C"], Float[Array, "M"]]:
    """Returns the logits of the items `distinct` (-inf for an id of N) and the log-sum-exp of all others."""
    others = logits.at[:, distinct].set(-jnp.inf, mode="drop")
    gathered = logits.at[:, distinct].get(mode="fill", fill_value=-jnp.inf)
    return gathered, log_sum_exp(others)


_Saved = tuple[Float[Array, "M N"], Int[Array, "C"], Float[Array, "M"]]


def _gather_fwd(
    logits: Float[Array, "M N"], distinct: Int[Array, "C"]
) -> tuple[tuple[Float[Array, "M C"], Float[Array, "M"]], _Saved]:
    gathered, log_rest = _gather(logits, distinct)
    return (gathered, log_rest), (logits, distinct, log_rest)


def _gather_bwd(
    saved: _Saved, cotangents: tuple[Float[Array, "M C"], Float[Array, "M"]]
) -> tuple[Float[Array, "M N"], np.ndarray]:
    """Writes both parts of the gradient in one pass over the catalogue: they do not overlap."""
    logits, distinct, log_rest = saved
    to_gathered, to_rest = cotangents
    empty = jnp.isneginf(log_rest)
    share = jnp.exp(logits - jnp.where(empty, jnp.inf, log_rest)[:, None])
    gradient = (to_rest[:, None] * share).at[:, distinct].set(to_gathered, mode="drop")
    return gradient, np.zeros(distinct.shape, jax.dtypes.float0)


_gather.defvjp(_gather_fwd, _gather_bwd)


def full_logits(logits: Float[Array, "M N"]) -> SparseLogits:
    """Wraps the logits of the whole catalogue; the rest is empty.

    >>> full_logits(jnp.zeros((1, 3))).log_rest
    Array([-inf], dtype=float32)
    """
    experts, num_items = logits.shape
    return SparseLogits(
        items=jnp.arange(num_items, dtype=jnp.int32),
        logits=logits,
        log_rest=jnp.full((experts,), -jnp.inf, logits.dtype),
    )


def repeats(ascending: Int[Array, "n"]) -> Bool[Array, "n"]:
    """Marks the entries of an ascending array that repeat the entry before them.

    >>> repeats(jnp.array([2, 5, 5, 7])).tolist()
    [False, False, True, False]
    """
    return jnp.concatenate([jnp.zeros(1, bool), ascending[1:] == ascending[:-1]])


# --- log-probabilities ------------------------------------------------------------------------------------


def log_prob(
    logits: Float[Array, "M N"], candidates: Int[Array, "K"], quotas: Quotas
) -> Float[Array, ""]:
    """Log-probability of drawing these candidates in this order, without replacement.

    sum_k [ f_{m(k)}(a_k) - log sum_{j not in a_1..a_{k-1}} exp f_{m(k)}(j) ]  (Kiyohara et al. 2026, V-PG)

    Args:
      logits: f_m(a); -inf masks an item.
      candidates: item ids in slot order, distinct.
      quotas: slots of each expert.

    Returns:
      A scalar, at most 0; -inf, with gradient 0 for it, if a candidate is masked.

    Raises:
      ValueError: wrong shape or dtype, quotas that do not fit, and, outside of jit, bad values.

    >>> value = jax.jit(log_prob, static_argnums=2)(jnp.zeros((1, 4)), jnp.array([2, 0]), (2,))
    >>> round(float(value), 4)  # -log(4 * 3)
    -2.4849
    """
    sparse, picks = _checked_picks(logits, candidates, quotas)
    return ordered_log_prob(sparse, picks, quotas)


def log_prob_swr(
    logits: Float[Array, "M N"], candidates: Int[Array, "K"], quotas: Quotas
) -> Float[Array, ""]:
    """Log-probability of these candidates if every slot were drawn with replacement (SwR).

    sum_k log pi_{m(k)}(a_k)  (Chen et al. 2019; Kiyohara et al. 2026, V-PG-SwR)

    Args, Raises: as `log_prob`.

    >>> value = jax.jit(log_prob_swr, static_argnums=2)(jnp.zeros((1, 4)), jnp.array([2, 0]), (2,))
    >>> round(float(value), 4)  # -2 log 4
    -2.7726
    """
    sparse, picks = _checked_picks(logits, candidates, quotas)
    return swr_log_prob(sparse, picks, quotas)


def _checked_picks(
    logits: Float[Array, "M N"], candidates: Int[Array, "K"], quotas: Quotas
) -> tuple[SparseLogits, Int[Array, "K"]]:
    """Validates the arguments; returns the candidates' sparse logits and their positions in them."""
    check_logits(logits, quotas)
    check_items("candidates", candidates, logits.shape[1], (sum(quotas),))
    items = jnp.asarray(candidates, jnp.int32)
    sparse = gather_logits(centre(logits), items)
    return sparse, sparse.positions(items)


def ordered_log_prob(
    sparse: SparseLogits,
    picks: Int[Array, "P"],
    quotas: Quotas,
    excluded: Int[Array, ""] | None = None,
) -> Float[Array, ""]:
    """Log-probability of the picks in this order: sum_k f_{m(k)}(a_k) - log W_k.

    Args: as `log_remaining_mass`.
    """
    return jnp.sum(ordered_log_prob_terms(sparse, picks, quotas, excluded))


def ordered_log_prob_terms(
    sparse: SparseLogits,
    picks: Int[Array, "P"],
    quotas: Quotas,
    excluded: Int[Array, ""] | None = None,
) -> Float[Array, "P"]:
    """Log-probability of every pick given the picks before it: f_{m(k)}(a_k) - log W_k; -inf if impossible.

    Args: as `log_remaining_mass`.
    """
    experts = slot_experts(quotas)[: picks.shape[0]]
    chosen = sparse.logits.at[experts, picks].get(mode="fill", fill_value=-jnp.inf)
    log_mass = log_remaining_mass(sparse, picks, quotas, excluded)[: picks.shape[0]]
    return _masked_difference(chosen, log_mass)


def log_remaining_mass(
    sparse: SparseLogits,
    picks: Int[Array, "P"],
    quotas: Quotas,
    excluded: Int[Array, ""] | None = None,
) -> Float[Array, "K"]:
    """Log W_k: log of the total weight, under slot k's expert, of the items not yet picked before slot k.

    Nothing is subtracted: W_k adds up the items that are never picked and the picks from slot k on.

    Args:
      sparse: contains at least the picks and `excluded`.
      picks: positions in the sparse logits, in slot order; P is K or K - 1, position C stands for no item.
      quotas: slots of each expert.
      excluded: position of an item that is taken out of the catalogue; None: no item.
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
    log_mass = log_add(jnp.broadcast_to(unpicked[:, None], later.shape), later)
    return log_mass[experts, np.arange(len(experts))]


def swr_log_prob(sparse: SparseLogits, picks: Int[Array, "K"], quotas: Quotas) -> Float[Array, ""]:
    """Log-probability of the picks with replacement, sum_k log pi_{m(k)}(a_k) (Chen et al. 2019).

    Args:
      sparse: contains at least the picks.
      picks: positions in the sparse logits, in slot order.
      quotas: slots of each expert.
    """
    experts = slot_experts(quotas)
    return jnp.sum(_masked_difference(sparse.logits[experts, picks], sparse.log_total()[experts]))


def _masked_difference(
    chosen: Float[Array, "P"], log_normaliser: Float[Array, "P"]
) -> Float[Array, "P"]:
    """Difference of logits and log-normalisers; -inf, with gradient 0, for a masked item."""
    masked = jnp.isneginf(chosen)
    inside = jnp.where(masked, 0, chosen) - jnp.where(masked, 0, log_normaliser)
    return jnp.where(masked, -jnp.inf, inside)
