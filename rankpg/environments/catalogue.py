"""Contexts and items without rewards, and environments with some items removed."""

# Dataclass fields implement properties of the protocol.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

from rankpg._utils.labels import without_labels
from rankpg.types import Array, Bool, Environment, Feedback, Float, Int, PRNGKey, record

__all__ = [
    "Catalogue",
    "Editable",
    "Restricted",
    "append_own",
    "append_rows",
    "append_to_mask",
    "catalogue",
    "eligible_but_own",
    "take_own",
]

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
else:  # checked here, with messages of our own
    ArrayLike = Any


@runtime_checkable
class Editable(Environment, Protocol):
    """An environment whose items and contexts may change, as `edits` changes those of a dataset."""

    @property
    def missing_share(self) -> float:
        """Share of the (context, item) pairs without a reward."""
        ...

    @property
    def whole(self) -> Editable:
        """The environment before items were removed."""
        ...

    def take_items(self, rows: np.ndarray) -> Editable:
        """Returns the environment with these items alone, renumbered in this order."""
        ...

    def append_items(self, features: np.ndarray) -> Editable:
        """Returns the environment with further items [n, G] at the end."""
        ...

    def append_contexts(self, features: np.ndarray) -> Editable:
        """Returns the environment with further contexts [n, F] at the end."""
        ...


@record
class Catalogue(Environment):
    """An environment of items and contexts without rewards: every reward is NaN.

    Use it with `online.Retriever`, which takes rewards from outside. Offline training rejects it.
    """

    num_contexts: int = struct.field(pytree_node=False)
    num_items: int = struct.field(pytree_node=False)
    context_features: Float[Array, "num_contexts F"] | None = None
    item_features: Float[Array, "N G"] | None = None
    where: Bool[Array, "num_contexts N"] | None = None
    own: Int[Array, "num_contexts"] | None = None
    """The item that is never a candidate of each context, since it is the context itself; -1 for none."""

    @property
    def knows_rewards(self) -> bool:
        return False

    def eligible(self, context: Int[Array, ""], items: Int[Array, "n"]) -> Bool[Array, "n"] | None:
        """Returns which items may be candidates: those of `where`, except for the context itself."""
        return eligible_but_own(self.where, self.own, context, items)

    @property
    def missing_share(self) -> float:
        return 1.0

    def mean_rewards(self, context: Int[Array, ""], items: Int[Array, "n"]) -> Float[Array, "n"]:
        """Returns NaN for every item."""
        del context
        return jnp.full(items.shape, jnp.nan, jnp.float32)

    def sample_rewards(
        self, key: PRNGKey, context: Int[Array, ""], items: Int[Array, "n"]
    ) -> Float[Array, "n"]:
        """Returns NaN for every item."""
        del key
        return self.mean_rewards(context, items)

    def take_items(self, rows: np.ndarray) -> Catalogue:
        return dataclasses.replace(
            self,
            num_items=len(rows),
            where=None if self.where is None else self.where[:, rows],
            own=take_own(self.own, rows, self.num_items),
            item_features=None if self.item_features is None else self.item_features[rows],
        )

    def append_items(self, features: np.ndarray) -> Catalogue:
        return dataclasses.replace(
            self,
            num_items=self.num_items + len(features),
            item_features=append_rows(self.item_features, features),
            where=append_to_mask(self.where, items=len(features)),
        )

    def append_contexts(self, features: np.ndarray) -> Catalogue:
        return dataclasses.replace(
            self,
            num_contexts=self.num_contexts + len(features),
            context_features=append_rows(self.context_features, features),
            where=append_to_mask(self.where, contexts=len(features)),
            own=append_own(self.own, len(features)),
        )


def eligible_but_own(
    where: Bool[Array, "num_contexts N"] | None,
    own: Int[Array, "num_contexts"] | None,
    context: Int[Array, ""],
    items: Int[Array, "n"],
) -> Bool[Array, "n"] | None:
    """Returns which items are in the mask and are not the context itself; None for all of all contexts."""
    before = None if where is None else where[context][items]
    if own is None:
        return before
    other = items != own[context].astype(items.dtype)
    return other if before is None else other & before


def take_own(
    own: Int[Array, "num_contexts"] | None, rows: np.ndarray, num_items: int
) -> Int[Array, "num_contexts"] | None:
    """Returns the own item of each context among these items alone, renumbered in this order."""
    if own is None:
        return None
    new_row = np.full(num_items + 1, -1, np.int32)  # the last place is that of -1
    new_row[rows] = np.arange(len(rows), dtype=np.int32)
    return jnp.asarray(new_row[np.asarray(own)])


def append_own(
    own: Int[Array, "num_contexts"] | None, contexts: int
) -> Int[Array, "more_contexts"] | None:
    """Returns the own items with further contexts, which have none."""
    return None if own is None else jnp.pad(own, (0, contexts), constant_values=-1)


def append_rows(rows: Float[Array, "n F"] | None, more: np.ndarray) -> Float[Array, "m F"]:
    """Returns features with further rows at the end.

    Raises:
      ValueError: there are no features to which rows could be added.
    """
    if rows is None:
        raise ValueError("the environment has no features on this side; expected rows of features")
    return jnp.concatenate([rows, jnp.asarray(more)])


def append_to_mask(
    where: Bool[Array, "contexts N"] | None, contexts: int = 0, items: int = 0
) -> Bool[Array, "more_contexts more_N"] | None:
    """Returns an eligibility mask with further contexts and items, all of which are eligible."""
    if where is None:
        return None
    return jnp.pad(where, ((0, contexts), (0, items)), constant_values=True)


def catalogue(
    num_contexts: int,
    num_items: int,
    *,
    context_features: ArrayLike | None = None,
    item_features: ArrayLike | None = None,
    eligible: ArrayLike | None = None,
) -> Catalogue:
    """Builds an environment from contexts and items alone, for systems without a simulator.

    Args:
      num_contexts: number of contexts; their ids are 0 to num_contexts - 1.
      num_items: N.
      context_features: [num_contexts, F], for context_tower='features'.
      item_features: [N, G], for item_tower='features'.
      eligible: bool[num_contexts, N]; all items of all contexts if None.

    Raises:
      ValueError: a count is below 1, or an array has another shape.

    >>> catalogue(3, 5).mean_rewards(jnp.int32(0), jnp.array([4, 0]))
    Array([nan, nan], dtype=float32)
    """
    for name, count in (("num_contexts", num_contexts), ("num_items", num_items)):
        if not isinstance(count, int | np.integer) or count < 1:
            raise ValueError(f"{name}={count!r}; expected a whole number of at least 1")
    mask = None
    if eligible is not None:
        mask = np.asarray(without_labels(eligible, "eligible", of_items=True))
        if mask.shape != (num_contexts, num_items) or mask.dtype != bool:
            raise ValueError(
                f"eligible has the type {mask.dtype}{list(mask.shape)}; expected bool"
                f"[{num_contexts}, {num_items}] (contexts, items)"
            )
    return Catalogue(
        num_contexts=int(num_contexts),
        num_items=int(num_items),
        context_features=_features("context_features", context_features, num_contexts),
        item_features=_features("item_features", item_features, num_items),
        where=None if mask is None else jnp.asarray(mask),
    )


def _features(name: str, values: ArrayLike | None, count: int) -> Float[Array, "count F"] | None:
    if values is None:
        return None
    array = np.asarray(without_labels(values, name), np.float32)
    if array.ndim != 2 or len(array) != count or not np.isfinite(array).all():
        raise ValueError(
            f"{name} has the shape {list(array.shape)}; expected finite numbers [{count}, features]"
        )
    return jnp.asarray(array)


@record
class Restricted(Environment):
    """An environment some of whose items were removed but keep their row numbers."""

    whole: Editable
    allowed: Bool[Array, "N"]

    @property
    def num_contexts(self) -> int:
        return self.whole.num_contexts

    @property
    def num_items(self) -> int:
        return self.whole.num_items

    @property
    def context_users(self) -> Int[Array, "num_contexts"] | None:
        return self.whole.context_users

    @property
    def num_users(self) -> int:
        return self.whole.num_users

    @property
    def context_features(self) -> Float[Array, "num_contexts F"] | None:
        return self.whole.context_features

    @property
    def item_features(self) -> Float[Array, "N G"] | None:
        return self.whole.item_features

    @property
    def item_scores(self) -> Float[Array, "num_users N"] | None:
        return self.whole.item_scores

    @property
    def item_tags(self) -> Int[Array, "N T"] | None:
        return self.whole.item_tags

    @property
    def where(self) -> Bool[Array, "num_contexts N"] | None:
        return self.whole.where

    @property
    def knows_rewards(self) -> bool:
        return self.whole.knows_rewards

    @property
    def rewards_interact(self) -> bool:
        return self.whole.rewards_interact

    @property
    def missing_share(self) -> float:
        return self.whole.missing_share

    def mean_rewards(self, context: Int[Array, ""], items: Int[Array, "n"]) -> Float[Array, "n"]:
        """Returns the mean rewards in the whole environment."""
        return self.whole.mean_rewards(context, items)

    def sample_rewards(
        self, key: PRNGKey, context: Int[Array, ""], items: Int[Array, "n"]
    ) -> Float[Array, "n"]:
        """Samples rewards of the whole environment."""
        return self.whole.sample_rewards(key, context, items)

    def relevance(self, context: Int[Array, ""], items: Int[Array, "n"]) -> Float[Array, "n"]:
        """Returns the relevance in the whole environment."""
        return self.whole.relevance(context, items)

    def observed(self, context: Int[Array, ""], items: Int[Array, "n"]) -> Bool[Array, "n"]:
        """Returns those that the whole environment has observed."""
        return self.whole.observed(context, items)

    def eligible(self, context: Int[Array, ""], items: Int[Array, "n"]) -> Bool[Array, "n"] | None:
        """Returns True for items that were not removed and are eligible in the whole environment."""
        allowed, before = self.allowed[items], self.whole.eligible(context, items)
        return allowed if before is None else allowed & before

    def mask_ineligible(
        self, context: Int[Array, ""], logits: Float[Array, "M N"]
    ) -> Float[Array, "M N"]:
        """Returns logits with -inf for items that were removed, or not eligible in the whole environment."""
        logits = self.whole.mask_ineligible(context, logits)
        return jnp.where(self.allowed[None], logits, -jnp.inf)

    def count_eligible(self) -> Int[Array, "num_contexts"]:
        """Counts the items that each context may be shown."""
        zeros = jnp.zeros((1, self.num_items))

        def count(context: Int[Array, ""]) -> Int[Array, ""]:
            return jnp.sum(self.mask_ineligible(context, zeros) == 0, dtype=jnp.int32)

        return lax.map(count, jnp.arange(self.num_contexts, dtype=jnp.int32))

    def feedback(self, key: PRNGKey, contexts: Int[Array, "B"]) -> Feedback | None:
        """Returns the feedback in the whole environment."""
        return self.whole.feedback(key, contexts)

    def histories(self, contexts: Int[Array, "B"], length: int) -> Int[Array, "B length"] | None:
        """Returns the histories in the whole environment."""
        return self.whole.histories(contexts, length)

    def take_items(self, rows: np.ndarray) -> Restricted:
        return dataclasses.replace(
            self, whole=self.whole.take_items(rows), allowed=self.allowed[rows]
        )

    def append_items(self, features: np.ndarray) -> Restricted:
        allowed = jnp.concatenate([self.allowed, jnp.ones(len(features), bool)])
        return dataclasses.replace(self, whole=self.whole.append_items(features), allowed=allowed)

    def append_contexts(self, features: np.ndarray) -> Restricted:
        return dataclasses.replace(self, whole=self.whole.append_contexts(features))
