"""A short list that stands for a whole catalogue.

Every score in this library depends on the logits of a few items and on the total weight of all others.
A listing holds exactly that, so a score never sees N: whether the catalogue was dense, streamed in blocks
or sharded over devices is settled before.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from rankpg.numerics import log_add, log_sum_exp
from rankpg.types import Array, Bool, Float, Int, record

__all__ = ["Listing", "list_catalogue", "list_items", "repeats"]

_FEW_COMPARISONS = 4096
"""Up to here a comparison of all with all is faster than bisection, on a CPU."""


@record
class Listing:
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
        """log of the weight of the whole catalogue, per expert."""
        return log_add(self.log_rest, log_sum_exp(self.logits))


def list_items(logits: Float[Array, "M N"], ids: Int[Array, "C"]) -> Listing:
    """List the items `ids` of a dense catalogue; the rest is summed, never subtracted.

    >>> list_items(jnp.zeros((1, 5)), jnp.array([3, 1])).log_rest  # log of three unit weights
    Array([1.0986123], dtype=float32)
    """
    items = jnp.sort(ids)
    repeated = repeats(items)
    once = jnp.where(repeated, logits.shape[1], items)
    listed, log_rest = _divide(logits, once)
    return Listing(items=items, logits=listed, log_rest=log_rest)


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


def list_catalogue(logits: Float[Array, "M N"]) -> Listing:
    """List every item, so that nothing is left over."""
    experts, num_items = logits.shape
    return Listing(
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
