"""Dense retrieval: the logits of the whole catalogue in memory."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
from jax import lax

from rankpg.arrivals import arrivals
from rankpg.listing import Listing, list_catalogue, list_items
from rankpg.numerics import centre
from rankpg.plackett_luce import greedy_in_turn
from rankpg.quotas import take_quotas
from rankpg.types import Array, Bool, Environment, Float, Int, PRNGKey, Quotas, record

__all__ = ["Candidates", "Statistics", "describe", "mask", "retrieve"]

Statistics = Literal["candidates", "greedy", "arrivals", "catalogue"]
"""What a score needs listed: the candidates; also every expert's noiseless order of what was left to it; or
its perturbed order; or all N items."""


@record
class Candidates:
    """What a retrieval answers for one context. Only the listing carries a gradient."""

    items: Int[Array, "K"]
    """Item ids in slot order."""
    listing: Listing
    order: Int[Array, "M depth"]
    """Of what was left to each expert its first items, greedy or by arrival as the statistics ask; depth 0 if
    they do not."""
    perturbed: Float[Array, "M arrivals"]
    """The perturbed logits of `order` where it is by arrival; depth 0 otherwise."""
    sound: Bool[Array, ""]
    """Whether no logit is NaN or +inf."""


def mask(
    environment: Environment, context: Int[Array, ""], logits: Float[Array, "M N"]
) -> Float[Array, "M N"]:
    """The logits of one context, -inf for items that are not eligible."""
    eligible = environment.eligible(context, jnp.arange(logits.shape[1], dtype=jnp.int32))
    return logits if eligible is None else jnp.where(eligible[None], logits, -jnp.inf)


def retrieve(
    key: PRNGKey, logits: Float[Array, "M N"], quotas: Quotas, statistics: Statistics
) -> Candidates:
    """Draw K candidates and describe them; the same key gives the same draw whatever the statistics.

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
    return _describe(logits, items, items, drawn, quotas, statistics, sound)


def describe(
    logits: Float[Array, "M N"],
    items: Int[Array, "K"],
    shown: Int[Array, "L"],
    quotas: Quotas,
    statistics: Statistics,
    key: PRNGKey | None = None,
) -> Candidates:
    """Describe candidates that were drawn before, and items that need not be among them.

    Args:
      logits: as `retrieve`.
      items: the candidates, in slot order.
      shown: further items to be scored.
      quotas: as `retrieve`.
      statistics: as `retrieve`.
      key: the key that drew the candidates; needed for `arrivals` alone.
    """
    logits = centre(logits)
    empty = jnp.zeros((len(quotas), 0), jnp.int32), jnp.zeros((len(quotas), 0), logits.dtype)
    drawn = empty if key is None else arrivals(key, logits, quotas)
    listed = jnp.concatenate([items, shown])
    sound = jnp.ones((), bool)  # the door has checked them
    return _describe(logits, items, listed, drawn, quotas, statistics, sound)


def _describe(
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
    listing = list_catalogue(logits) if statistics == "catalogue" else list_items(logits, listed)
    return Candidates(
        items=items,
        listing=listing,
        order=order,
        perturbed=lax.stop_gradient(perturbed),
        sound=sound,
    )
