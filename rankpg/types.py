"""The legend: the letters of every shape, and the contracts between the components of the data flow.

    B  contexts (users, queries) in a batch        K  candidates
    N  items in the catalogue                      L  positions of the final ranking
    M  experts (logit models)                      D  embedding width
    C  items with sparse logits (see core/plackett_luce.py)

`quotas = (K_1, ..., K_M)` gives the number of slots of each expert, in block order.
A context and an item are int32 ids, `0 <= context < num_contexts`, `0 <= item < num_items`;
features, where there are any, are looked up by the towers and by the environment.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
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
import jax.numpy as jnp
from flax import struct

__all__ = [
    "Apply",
    "Array",
    "Bool",
    "Embeddings",
    "Environment",
    "Feedback",
    "Float",
    "Int",
    "Key",
    "PRNGKey",
    "Params",
    "Quotas",
    "Ranking",
    "Reranker",
    "UInt",
    "check_environment",
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
    """Embeddings from two towers; an expert's logit of an item is the inner product of the two."""

    contexts: Float[Array, "B M D"]
    items: Float[Array, "M N D"]


@record
class Ranking:
    """The L items that a re-ranker shows, best first."""

    items: Int[Array, "L"]
    log_propensity: Float[Array, ""]
    """log P(ranking | candidates); NaN where it is unknown."""


@record
class Feedback:
    """Items of each context whose reward is known to be above 0."""

    items: Int[Array, "B P"]
    """P items, or fewer and repeats of the first."""
    values: Float[Array, "B P"]
    """The reward of each item; 0 where a list is filled up."""


@runtime_checkable
class Apply(Protocol):
    """An encoder as a function that returns embeddings, or the logits themselves."""

    def __call__(
        self, params: Params, contexts: Int[Array, "B"], /
    ) -> Embeddings | Float[Array, "B M N"]: ...


if TYPE_CHECKING:
    _default = property
else:

    class _default:
        """A property that a subclass may override by a property, a dataclass field or a class attribute.

        The class itself has no such attribute, so that a dataclass field of the same name has no
        default and may stand before fields without one.
        """

        def __init__(self, function: Callable[[object], object]):
            self.function, self.__doc__ = function, function.__doc__

        def __get__(self, instance: object, owner: type) -> object:
            if instance is None:
                raise AttributeError(self.function.__name__)
            return self.function(instance)


@runtime_checkable
class Environment(Protocol):
    """Contexts, items, and the rewards of items that are shown.

    Inherit from it and define `num_contexts`, `num_items`, `mean_rewards` and `sample_rewards`; the other
    members have defaults. Register the class as a pytree (`flax.struct.dataclass` does), so that its arrays
    are arguments of the compiled program and not constants inside it.

    >>> import jax.numpy as jnp
    >>> @struct.dataclass
    ... class Clicks(Environment):
    ...     rates: jax.Array
    ...     num_contexts = property(lambda self: self.rates.shape[0])
    ...     num_items = property(lambda self: self.rates.shape[1])
    ...
    ...     def mean_rewards(self, context, items):
    ...         return self.rates[context, items]
    ...
    ...     def sample_rewards(self, key, context, items):
    ...         return jax.random.bernoulli(key, self.rates[context, items]).astype(float)
    >>> world = Clicks(jnp.array([[0.5, 0.25]]))
    >>> world.relevance(jnp.int32(0), jnp.array([1])), world.knows_rewards
    (Array([0.25], dtype=float32), True)
    """

    if TYPE_CHECKING:

        @property
        def num_contexts(self) -> int:
            """Number of contexts; their ids are 0 to num_contexts - 1."""
            ...

        @property
        def num_items(self) -> int:
            """N, the number of items; their ids are 0 to N - 1."""
            ...
    else:  # a subclass may define them as dataclass fields, which a property here would forbid
        num_contexts: int
        num_items: int

    @abc.abstractmethod
    def mean_rewards(self, context: Int[Array, ""], items: Int[Array, "n"]) -> Float[Array, "n"]:
        """Returns the expected reward of each item when it is shown to this context."""
        ...

    @abc.abstractmethod
    def sample_rewards(
        self, key: PRNGKey, context: Int[Array, ""], items: Int[Array, "n"]
    ) -> Float[Array, "n"]:
        """Samples one reward of each item."""
        ...

    def relevance(self, context: Int[Array, ""], items: Int[Array, "n"]) -> Float[Array, "n"]:
        """Returns the scores by which the built-in re-rankers order; the mean rewards by default."""
        return self.mean_rewards(context, items)

    def eligible(self, context: Int[Array, ""], items: Int[Array, "n"]) -> Bool[Array, "n"] | None:
        """Returns which of these items may be candidates for this context; None: all items of all contexts.

        By default a look-up in `where`.
        """
        return None if self.where is None else self.where[context][items]

    def observed(self, context: Int[Array, ""], items: Int[Array, "n"]) -> Bool[Array, "n"]:
        """Returns which of these items have a reward that was observed; all of them by default."""
        return jnp.ones(items.shape, bool)

    def eligible_run(
        self, contexts: Int[Array, "B"], first: Int[Array, ""], count: int
    ) -> Bool[Array, "count B"] | None:
        """Returns `eligible` for the items first to first + count - 1 of every context; None: all."""
        items = first + jnp.arange(count, dtype=jnp.int32)
        return jax.vmap(lambda context: self.eligible(context, items), out_axes=1)(contexts)

    def count_eligible(self) -> Int[Array, "num_contexts"] | None:
        """Returns the number of eligible items of each context; None: all items of all contexts."""
        items = jnp.arange(self.num_items, dtype=jnp.int32)
        if self.eligible(jnp.int32(0), items[:1]) is None:
            return None
        contexts = jnp.arange(self.num_contexts, dtype=jnp.int32)

        def count(context: Int[Array, ""]) -> Int[Array, ""]:
            eligible = self.eligible(context, items)
            assert eligible is not None  # as of the first context
            return jnp.sum(eligible)

        return jax.lax.map(count, contexts)

    def feedback(self, key: PRNGKey, contexts: Int[Array, "B"]) -> Feedback | None:
        """Returns the items of these contexts that are known to earn a reward; None if that is unknown.

        `key` chooses among the items of a context that has too many. An environment that returns `Feedback`
        can be trained on with objective='softmax', objective='inclusion' and objective='exposure'.
        """
        return None

    def histories(self, contexts: Int[Array, "B"], length: int) -> Int[Array, "B length"] | None:
        """Returns the last items that the user of each context interacted with; None if that is unknown.

        The newest item comes last; -1 stands before the first.
        """
        return None

    def mask_ineligible(
        self, context: Int[Array, ""], logits: Float[Array, "M N"]
    ) -> Float[Array, "M N"]:
        """Returns logits of the whole catalogue with -inf for items that are not eligible."""
        eligible = self.eligible(context, jnp.arange(logits.shape[1], dtype=jnp.int32))
        return logits if eligible is None else jnp.where(eligible[None], logits, -jnp.inf)

    @_default
    def where(self) -> Bool[Array, "num_contexts N"] | None:
        """Eligibility as a mask; None, the default, where there is none or it is computed."""
        return None

    @_default
    def context_users(self) -> Int[Array, "num_contexts"] | None:
        """Row of each context in tables and features of contexts; None, the default: the context itself."""
        return None

    @_default
    def num_users(self) -> int:
        """Number of rows in a table of contexts; `num_contexts` by default."""
        return self.num_contexts

    @_default
    def context_features(self) -> Float[Array, "num_contexts F"] | None:
        """Features of the contexts, for towers and re-rankers that use them; None by default."""
        return None

    @_default
    def item_features(self) -> Float[Array, "N G"] | None:
        """Features of the items; None by default."""
        return None

    @_default
    def item_tags(self) -> Int[Array, "N T"] | None:
        """Tags of each item, such as categories, as numbers from 0; -1 fills a row up. None by default."""
        return None

    @_default
    def item_scores(self) -> Float[Array, "num_users N"] | None:
        """Scores by which the re-ranker `stored` sorts, a row for each user; None by default."""
        return None

    @_default
    def knows_rewards(self) -> bool:
        """False where rewards come from outside, so that `mean_rewards` is NaN; True by default."""
        return True

    @_default
    def rewards_interact(self) -> bool:
        """True where the reward of an item depends on the others that are shown; False by default.

        `mean_rewards` and `sample_rewards` are then given the shown list, best first, and return what each
        position adds to the reward of the list.
        """
        return False

    @_default
    def allowed(self) -> Bool[Array, "N"] | None:
        """False for an item that was removed but keeps its row number; None, the default: none was."""
        return None

    @_default
    def whole(self) -> Environment:
        """The environment before items were removed; itself by default."""
        return self


_ENVIRONMENT_MEMBERS = (
    "num_contexts",
    "num_items",
    "mean_rewards",
    "sample_rewards",
    "relevance",
    "eligible",
    "observed",
    "eligible_run",
    "count_eligible",
    "feedback",
    "histories",
    "mask_ineligible",
    "where",
    "context_users",
    "num_users",
    "context_features",
    "item_features",
    "item_tags",
    "item_scores",
    "knows_rewards",
    "rewards_interact",
    "allowed",
    "whole",
)


def check_environment(environment: object) -> None:
    """Rejects an object that lacks members of an environment.

    Raises:
      TypeError: names the members that are missing.

    >>> check_environment(7)
    Traceback (most recent call last):
    ...
    TypeError: environment is an int, which has no num_contexts, num_items, mean_rewards, ...
    """
    missing = [name for name in _ENVIRONMENT_MEMBERS if not hasattr(environment, name)]
    if missing:
        kind = type(environment).__name__
        raise TypeError(
            f"environment is {'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}, which has no "
            f"{', '.join(missing)}; inherit from rankpg.types.Environment, which has defaults for all but "
            f"num_contexts, num_items, mean_rewards and sample_rewards. For a matrix of rewards: "
            "environments.from_matrix"
        )


@runtime_checkable
class Reranker(Protocol):
    """A re-ranker, which orders L of the K candidates.

    The environment and the context are arguments, so that a re-ranker may look up what it needs; `key`
    belongs to the re-ranker alone. A class that inherits from it needs neither `draws` nor `scores`.
    """

    if TYPE_CHECKING:

        @property
        def ranking_length(self) -> int:
            """L, the number of items that it shows."""
            ...
    else:
        ranking_length: int

    @_default
    def draws(self) -> bool:
        """False where `greedy` returns the very ranking that a call returns; True by default."""
        return True

    def __call__(
        self,
        key: PRNGKey,
        environment: Environment,
        context: Int[Array, ""],
        candidates: Int[Array, "K"],
    ) -> Ranking:
        """Samples a ranking of the candidates."""
        ...

    def greedy(
        self,
        key: PRNGKey,
        environment: Environment,
        context: Int[Array, ""],
        candidates: Int[Array, "K"],
    ) -> Ranking:
        """Returns the ranking that is evaluated: the most likely one (a uniform re-ranker still draws)."""
        ...

    def scores(
        self, environment: Environment, context: Int[Array, ""], items: Int[Array, "n"]
    ) -> Float[Array, "n"] | None:
        """Returns the scores by which a call sorts; None if it does not sort, or the scores are unknown.

        None by default. objective='exposure' trains through the order of these scores.
        """
        return None

    def sort_keys(
        self,
        key: PRNGKey,
        environment: Environment,
        context: Int[Array, ""],
        candidates: Int[Array, "K"],
        others: Int[Array, "n"],
    ) -> tuple[Float[Array, "K"], Float[Array, "n"]] | None:
        """Returns the keys by which a call sorts, noise included; None if it does not sort by such keys.

        None by default. A call with the same `key` shows the candidates of largest keys, the earlier of equal
        ones first. `others` are items that are not candidates; a key of theirs is the one that the item would
        have as a candidate. estimator='ca_pg_swap' takes the lists of other candidate sets from these keys;
        without them it calls the re-ranker for every one of them.
        """
        return None
