"""Contexts and items without a simulator."""

# Dataclass fields implement properties of the protocol.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct

from rankpg.types import Array, Bool, Environment, Float, Int, PRNGKey, record

__all__ = ["Catalogue", "Restricted", "catalogue"]


@record
class Catalogue(Environment):
    """An environment that knows its items and contexts, and not what an item earns: every reward is NaN.

    So it serves `online.Retriever`, which is told rewards; training in the program stops at its first step.
    """

    num_contexts: int = struct.field(pytree_node=False)
    num_items: int = struct.field(pytree_node=False)
    context_features: Float[Array, "num_contexts F"] | None = None
    item_features: Float[Array, "N G"] | None = None
    where: Bool[Array, "num_contexts N"] | None = None

    @property
    def knows_rewards(self) -> bool:
        return False

    def mean_rewards(self, context: Int[Array, ""], items: Int[Array, "n"]) -> Float[Array, "n"]:
        """Unknown."""
        del context
        return jnp.full(items.shape, jnp.nan, jnp.float32)

    def sample_rewards(
        self, key: PRNGKey, context: Int[Array, ""], items: Int[Array, "n"]
    ) -> Float[Array, "n"]:
        """Unknown."""
        del key
        return self.mean_rewards(context, items)


def catalogue(
    num_contexts: int,
    num_items: int,
    *,
    context_features: Any = None,
    item_features: Any = None,
    eligible: Any = None,
) -> Catalogue:
    """What a system knows that has items and contexts and no simulator.

    Args:
      num_contexts: ids are 0 to num_contexts - 1.
      num_items: N.
      context_features: [num_contexts, F] for `--context-tower features`.
      item_features: [N, G] for `--item-tower features`.
      eligible: bool[num_contexts, N]; None: every item of every context.

    Raises:
      ValueError: a count below 1, or an array of another shape.

    >>> catalogue(3, 5).mean_rewards(jnp.int32(0), jnp.array([4, 0]))
    Array([nan, nan], dtype=float32)
    """
    for name, count in (("num_contexts", num_contexts), ("num_items", num_items)):
        if not isinstance(count, int | np.integer) or count < 1:
            raise ValueError(f"{name} is {count!r}; expected a whole number of at least 1")

    def features(name: str, values: Any, rows: int) -> Array | None:
        if values is None:
            return None
        array = np.asarray(values, np.float32)
        if array.ndim != 2 or len(array) != rows or not np.isfinite(array).all():
            raise ValueError(
                f"{name} has shape {array.shape}; expected finite numbers [{rows}, features]"
            )
        return jnp.asarray(array)

    if eligible is not None:
        eligible = np.asarray(eligible)
        if eligible.shape != (num_contexts, num_items) or eligible.dtype != bool:
            raise ValueError(
                f"eligible is {eligible.dtype}{list(eligible.shape)}; expected bool"
                f"[{num_contexts}, {num_items}] (contexts, items)"
            )
        eligible = jnp.asarray(eligible)
    return Catalogue(
        num_contexts=int(num_contexts),
        num_items=int(num_items),
        context_features=features("context_features", context_features, num_contexts),
        item_features=features("item_features", item_features, num_items),
        where=eligible,
    )


@record
class Restricted(Environment):
    """An environment some of whose items nobody may have any more."""

    whole: Environment
    allowed: Bool[Array, "N"]

    @property
    def num_contexts(self) -> int:
        return self.whole.num_contexts

    @property
    def num_items(self) -> int:
        return self.whole.num_items

    @property
    def context_features(self) -> Float[Array, "num_contexts F"] | None:
        return self.whole.context_features

    @property
    def item_features(self) -> Float[Array, "N G"] | None:
        return self.whole.item_features

    @property
    def where(self) -> Bool[Array, "num_contexts N"] | None:
        return self.whole.where

    @property
    def knows_rewards(self) -> bool:
        return self.whole.knows_rewards

    def mean_rewards(self, context: Int[Array, ""], items: Int[Array, "n"]) -> Float[Array, "n"]:
        """Those of the whole."""
        return self.whole.mean_rewards(context, items)

    def sample_rewards(
        self, key: PRNGKey, context: Int[Array, ""], items: Int[Array, "n"]
    ) -> Float[Array, "n"]:
        """Those of the whole."""
        return self.whole.sample_rewards(key, context, items)

    def relevance(self, context: Int[Array, ""], items: Int[Array, "n"]) -> Float[Array, "n"]:
        """That of the whole."""
        return self.whole.relevance(context, items)

    def eligible(self, context: Int[Array, ""], items: Int[Array, "n"]) -> Bool[Array, "n"] | None:
        """Allowed, and eligible in the whole."""
        allowed, before = self.allowed[items], self.whole.eligible(context, items)
        return allowed if before is None else allowed & before
