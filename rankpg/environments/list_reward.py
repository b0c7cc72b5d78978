"""The base of the rewards of a shown list, and a reward that is a function of yours."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial, all_leaves

from rankpg.types import Array, Float, Int, PRNGKey, record

__all__ = ["ListReward", "OfFunction", "function", "of_context"]


class ListReward(abc.ABC):
    """A reward of the shown list, as what each position adds to it."""

    name = "a list"
    """Its name in notes."""

    @abc.abstractmethod
    def gains(self, context: Int[Array, ""], items: Int[Array, "L"]) -> Float[Array, "L"]:
        """Returns the expected gain of each position, best first."""
        ...

    def sample(
        self, key: PRNGKey, context: Int[Array, ""], items: Int[Array, "L"]
    ) -> Float[Array, "L"]:
        """Samples the gains; by default they are not random."""
        del key
        return self.gains(context, items)

    def take_items(self, rows: np.ndarray) -> ListReward:
        """Returns the reward where these items alone are left, renumbered in this order."""
        del rows
        raise TypeError(self._fixed("renumber items; give the reward of the new catalogue"))

    def append_items(self, count: int) -> ListReward:
        """Returns the reward where the catalogue has further items at the end."""
        del count
        raise TypeError(self._fixed("add items; give the reward of the new catalogue"))

    def append_contexts(self, count: int) -> ListReward:
        """Returns the reward where there are further contexts at the end."""
        del count
        raise TypeError(self._fixed("add contexts; give the reward of the new contexts"))

    def _fixed(self, what: str) -> str:
        return f"the list reward {type(self).__name__} belongs to one catalogue: it cannot {what}"


def of_context(values: Float[Array, "tables ..."], context: Int[Array, ""]) -> Float[Array, "..."]:
    """Returns the row of a context, or the only one."""
    return values[0] if len(values) == 1 else values[context]


@record
class OfFunction(ListReward):
    """A function of the context and the list; see `function`."""

    call: Any

    name = "a function of the list"

    def gains(self, context: Int[Array, ""], items: Int[Array, "L"]) -> Float[Array, "L"]:
        found = jnp.asarray(self.call(context, items))
        if found.shape == ():  # known for the whole list alone
            return jnp.zeros(items.shape, found.dtype).at[-1].set(found)
        if found.shape != items.shape:
            raise ValueError(
                f"the list reward returns the shape {list(found.shape)} for {items.shape[0]} items; expected "
                f"[{items.shape[0]}], a gain for each position, or one number"
            )
        return found


def function(call: Callable[..., Any]) -> ListReward:
    """Reward of your own: `call(context, items [L])` returns gains [L], or the reward of the list.

    One number counts at the last position. Arrays that a plain function refers to become constants of the
    compiled program; those of a pytree, such as `jax.tree_util.Partial`, are its arguments.

    Args:
      call: the function, in JAX.

    >>> function(lambda context, items: jnp.sum(items) / 2).gains(jnp.int32(0), jnp.array([3, 4])).tolist()
    [0.0, 3.5]
    """
    return OfFunction(Partial(call) if all_leaves([call]) else call)
