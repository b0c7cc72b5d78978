"""A short list that stands for a whole catalogue.

Every score in this library depends on the logits of a few items and on the total weight of all others.
A listing holds exactly that, so a score never sees N: whether the catalogue was dense, streamed in blocks
or sharded over devices is settled before.
"""

from __future__ import annotations

import jax.numpy as jnp

from rankpg.numerics import log_add, log_sum_exp
from rankpg.types import Array, Float, Int, record

__all__ = ["Listing", "list_catalogue", "list_items"]


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
        found = jnp.searchsorted(self.items, ids, method="compare_all").astype(jnp.int32)
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
    repeated = jnp.concatenate([jnp.zeros(1, bool), items[1:] == items[:-1]])
    listed = jnp.where(repeated[None, :], -jnp.inf, logits[:, items])
    log_rest = log_sum_exp(logits.at[:, ids].set(-jnp.inf))
    return Listing(items=items, logits=listed, log_rest=log_rest)


def list_catalogue(logits: Float[Array, "M N"]) -> Listing:
    """List every item, so that nothing is left over."""
    experts, num_items = logits.shape
    return Listing(
        items=jnp.arange(num_items, dtype=jnp.int32),
        logits=logits,
        log_rest=jnp.full((experts,), -jnp.inf, logits.dtype),
    )
