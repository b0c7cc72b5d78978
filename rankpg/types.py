"""The legend: the letters of every shape, and the contracts between the components of the data flow.

    B  contexts (users, queries) in a batch        K  candidates
    N  items in the catalogue                      L  positions of the final ranking
    M  experts (logit models)                      D  embedding width
    C  items with sparse logits (see core/plackett_luce.py)

`quotas = (K_1, ..., K_M)` says how many of the K slots each expert fills, in block order.
A context and an item are int32 ids, `0 <= context < num_contexts`, `0 <= item < num_items`;
features, where there are any, are looked up by the towers and by the environment.
"""

from __future__ import annotations

from typing import (
    TYPE_CHECKING,
    Any,
    Protocol,
    TypeAlias,
    TypeVar,
    dataclass_transform,
    runtime_checkable,
)

import jax
from flax import struct

__all__ = [
    "Apply",
    "Array",
    "Bool",
    "Embeddings",
    "Environment",
    "Float",
    "Int",
    "Key",
    "PRNGKey",
    "Params",
    "Quotas",
    "Ranking",
    "Reranker",
    "UInt",
    "record",
]

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int, Key, UInt
else:
    try:
        from jaxtyping import Array, Bool, Float, Int, Key, UInt
    except ModuleNotFoundError:  # shapes are documentation then; the tests always check them

        class _AnyShape:
            def __class_getitem__(cls, item: object) -> type:
                return jax.Array

        Array = jax.Array
        Bool = Float = Int = Key = UInt = _AnyShape

T = TypeVar("T")
PRNGKey: TypeAlias = Key[Array, ""]
Quotas: TypeAlias = tuple[int, ...]
Params: TypeAlias = Any


@dataclass_transform(frozen_default=True, field_specifiers=(struct.field,))
def record(cls: type[T]) -> type[T]:
    """A frozen pytree. Its shapes are those of one context; under vmap every field has leading axes.

    So a record, unlike a function, is not checked against its shapes when it is made.
    """
    made = struct.dataclass(cls)
    made.__no_type_check__ = True  # pyright: ignore[reportAttributeAccessIssue]
    return made


@record
class Embeddings:
    """What two towers answer: the logit of an item is the inner product, expert by expert."""

    contexts: Float[Array, "B M D"]
    items: Float[Array, "M N D"]


@record
class Ranking:
    """What a re-ranker shows."""

    items: Int[Array, "L"]
    log_propensity: Float[Array, ""]
    """log P_LSR(ranking | candidates); NaN where the re-ranker cannot tell."""


@runtime_checkable
class Apply(Protocol):
    """An encoder as a function: embeddings, or logits[B, M, N] outright."""

    def __call__(
        self, params: Params, contexts: Int[Array, "B"], /
    ) -> Embeddings | Float[Array, "B M N"]: ...


@runtime_checkable
class Environment(Protocol):
    """Where contexts come from, and what a shown item earns.

    Register the class as a pytree (`flax.struct.dataclass` does) so that its arrays travel as arguments
    of the compiled program and not as constants inside it.
    """

    @property
    def num_contexts(self) -> int: ...

    @property
    def num_items(self) -> int: ...

    def mean_rewards(self, context: Int[Array, ""], items: Int[Array, "n"]) -> Float[Array, "n"]:
        """Expected reward of each item, shown to this context."""
        ...

    def sample_rewards(
        self, key: PRNGKey, context: Int[Array, ""], items: Int[Array, "n"]
    ) -> Float[Array, "n"]:
        """One draw of each item's reward."""
        ...

    def relevance(self, context: Int[Array, ""], items: Int[Array, "n"]) -> Float[Array, "n"]:
        """What the built-in re-rankers order by; the mean reward unless the problem says otherwise."""
        ...

    def eligible(self, context: Int[Array, ""], items: Int[Array, "n"]) -> Bool[Array, "n"] | None:
        """Which of these items may be candidates for this context; None: every item of every context."""
        ...


@runtime_checkable
class Reranker(Protocol):
    """A re-ranker: orders L of the K candidates. The environment and the context are arguments, so that a
    re-ranker may look up whatever it needs; `key` belongs to the re-ranker alone."""

    @property
    def ranking_length(self) -> int: ...

    def __call__(
        self,
        key: PRNGKey,
        environment: Any,
        context: Int[Array, ""],
        candidates: Int[Array, "K"],
    ) -> Ranking: ...

    def greedy(
        self,
        key: PRNGKey,
        environment: Any,
        context: Int[Array, ""],
        candidates: Int[Array, "K"],
    ) -> Ranking:
        """The ranking that counts at evaluation: its most likely one (a uniform re-ranker still draws)."""
        ...
