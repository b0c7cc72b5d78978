"""Experts and their slots: who fills which, and how they choose one after the other.

Expert 1 fills the first K_1 slots, expert 2 the next K_2 from what is left, and so on.

An expert's order need not be long: the first K_m + 1 items of what was left to it hold its quota, and hold it
in a catalogue without some item a, too. For the experts before it then take what they took, less a and plus
one item b at most, which takes a's place; and a itself is not in the order where they had taken it. So of the
K_m + 1 either a or b is missing, and not both.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import lax

from rankpg.numerics import finite_masks
from rankpg.types import Array, Float, Int, Quotas

__all__ = [
    "expert_quotas",
    "fill_quotas",
    "in_turn",
    "leave_to_later",
    "order_depth",
    "slot_experts",
    "take_quotas",
]


def expert_quotas(num_candidates: int, num_experts: int) -> Quotas:
    """Split K slots over M experts: K // M each, one more for the first K % M.

    >>> expert_quotas(10, 4)
    (3, 3, 2, 2)
    """
    for name, value in (("num_candidates", num_candidates), ("num_experts", num_experts)):
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} is {value!r}; expected a whole number of at least 1")
    share, extra = divmod(num_candidates, num_experts)
    return tuple(share + (m < extra) for m in range(num_experts))


def slot_experts(quotas: Quotas) -> np.ndarray:
    """m(k): which expert fills slot k, int[K]."""
    return np.repeat(np.arange(len(quotas)), quotas)


def order_depth(num_items: int, quotas: Quotas) -> int:
    """How many items an expert's order holds: one more than the largest quota, N at most.

    >>> order_depth(1000, (4, 3, 3)), order_depth(3, (2, 1, 0))
    (5, 3)
    """
    return min(num_items, max(quotas) + 1)


def in_turn(
    logits: Float[Array, "M N"],
    quotas: Quotas,
    first: Callable[[Int[Array, ""], Float[Array, "N"]], tuple[Array, ...]],
) -> tuple[Array, ...]:
    """Every expert's order of what the experts before it have left.

    Args:
      logits: f_m(a); -inf masks an item.
      quotas: how many of its order each takes.
      first: `first(m, row)` answers expert m's order: items, and what else there is to each, [depth] and best
        first. `row` is its logits, with -inf for what has been taken and `numerics.finite_masks` for what is
        only masked: an expert that finds too few eligible items takes masked ones, and none twice.

    Returns:
      The answers, stacked to [M, depth].

    >>> best = lambda m, row: (lax.top_k(row, 2)[1],)
    >>> in_turn(jnp.array([[3.0, 2.0, 1.0, 0.0], [3.0, 0.0, 1.0, 2.0]]), (1, 1), best)[0]
    Array([[0, 1],
           [3, 2]], dtype=int32)
    """
    experts, num_items = logits.shape
    if experts == 1:
        return tuple(x[None] for x in first(jnp.int32(0), logits[0]))

    def turn(free, own):
        expert, row, quota = own
        found = first(expert, jnp.where(free, finite_masks(row), -jnp.inf))
        place = jnp.arange(found[0].shape[0], dtype=jnp.int32)
        taken = jnp.where(place < quota, found[0], num_items)
        return free.at[taken].set(False, mode="drop"), found

    turns = (jnp.arange(experts, dtype=jnp.int32), logits, jnp.asarray(quotas, jnp.int32))
    return lax.scan(turn, jnp.ones(num_items, bool), turns)[1]


def leave_to_later(
    order: Int[Array, "M n"],
    quotas: Quotas,
    depth: int,
    excluded: Int[Array, ""] | None = None,
) -> tuple[Int[Array, "M depth"], Int[Array, "M depth"]]:
    """The same from orders that may hold what others take: of the whole catalogue, K + 1 items or all.

    Args:
      order: every expert's items in its own order of preference.
      quotas: how many each takes.
      depth: how many to answer, at least every quota.
      excluded: an item that is not in the catalogue at all; None excludes nothing.

    Returns:
      Every expert's order of what the experts before it have left, and the place of each item in the order it
      is from; -1 and n where a list ended.

    >>> leave_to_later(jnp.array([[0, 1, 2], [0, 3, 2]]), (1, 1), 2)[0]
    Array([[0, 1],
           [3, 2]], dtype=int32)
    """
    length = order.shape[1]
    everything = jnp.arange(length, dtype=order.dtype)
    taken = jnp.zeros(0, order.dtype) if excluded is None else excluded[None].astype(order.dtype)
    left, places = [], []
    for preferred, quota in zip(order, quotas, strict=True):
        if taken.size == 0 and depth <= length:
            place = everything[:depth]
        else:
            free = ~jnp.any(preferred[:, None] == taken[None, :], axis=1)
            place = jnp.nonzero(free, size=depth, fill_value=length)[0].astype(order.dtype)
        left.append(preferred.at[place].get(mode="fill", fill_value=-1))
        places.append(place)
        taken = jnp.concatenate([taken, left[-1][:quota]])
    return jnp.stack(left), jnp.stack(places)


def take_quotas(order: Int[Array, "M depth"], quotas: Quotas) -> Int[Array, "K"]:
    """The first K_m items of every expert's order of what was left to it, in slot order.

    >>> take_quotas(jnp.array([[0, 1], [3, 2]]), (2, 1))
    Array([0, 1, 3], dtype=int32)
    """
    return jnp.concatenate([own[:quota] for own, quota in zip(order, quotas, strict=True)])


def fill_quotas(
    order: Int[Array, "M depth"], quotas: Quotas, excluded: Int[Array, ""] | None = None
) -> tuple[Int[Array, "K"], Int[Array, "K"]]:
    """Let the experts, one after the other, take their first K_m items that nobody has taken yet.

    Args: as `leave_to_later`; the orders may also be of what was left, `order_depth` items each.

    Returns:
      The picks in slot order, and the place of each in its expert's order; -1 and `depth` where a list ended.

    >>> fill_quotas(jnp.array([[0, 1, 2], [0, 3, 2]]), (1, 1), excluded=jnp.int32(3))[0]
    Array([0, 2], dtype=int32)
    """
    left, places = leave_to_later(order, quotas, max(quotas), excluded)
    return take_quotas(left, quotas), take_quotas(places, quotas)
