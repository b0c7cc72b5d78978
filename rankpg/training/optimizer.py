"""The optimizer, the faults that an update can meet, and the step that a fault undoes.

The old parameters are kept until the new ones are known to be finite. A large model has no second copy: it is
stepped in place, and parameters that have become infinite are noticed one step later.
"""

from __future__ import annotations

import enum
import inspect
import math
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jax import lax

from rankpg.core.estimators import Candidates
from rankpg.core.numerics import accumulation_dtype
from rankpg.errors import ConfigError
from rankpg.types import Array, Bool, Float, Int, Params

__all__ = [
    "Fault",
    "OptimizerSettings",
    "Stepped",
    "all_finite",
    "check_rows",
    "first_fault",
    "guarded_step",
    "in_float32",
    "make_optimizer",
    "norm",
    "stepped_in_place",
]

Tree = TypeVar("Tree")

_COPIED = 2**22
"""Largest model, in numbers, that a step copies until its result is known to be finite."""


_SMALLER_STEPS = "A smaller learning_rate may help"


class Fault(enum.IntEnum):
    """The first thing that went wrong in an update; `TrainState.fault` holds its number.

    >>> Fault.REWARDS.description
    'a reward that is NaN, infinite or outside of reward_bounds'
    """

    NONE = 0, "none", ""
    LOGITS = 1, "a logit that is NaN or +inf", _SMALLER_STEPS
    RANKING = (
        2,
        "a ranking that holds an item that is not a candidate, or one item twice",
        "The re-ranker must show L different items of its candidates",
    )
    REWARDS = (
        3,
        "a reward that is NaN, infinite or outside of reward_bounds",
        "The environment must return finite rewards within reward_bounds; outside_bounds='clip' clips them",
    )
    LOSS = 4, "a loss that is NaN or infinite", _SMALLER_STEPS
    GRADIENT = 5, "a gradient that is NaN or infinite", _SMALLER_STEPS
    PARAMETERS = 6, "parameters that are NaN or infinite", _SMALLER_STEPS

    description: str
    """Noun phrase that names the fault."""
    remedy: str
    """Sentence that says how to fix it, without a full stop."""

    def __new__(cls, value: int, description: str, remedy: str) -> Fault:
        """Makes a member from its number, description and remedy."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.description, member.remedy = description, remedy
        return member


def check_rows(
    candidates: Candidates, ranking: Int[Array, "L"], rewards: Float[Array, "n"]
) -> Bool[Array, "3"]:
    """Validity of one context's logits, ranking and rewards, in the order of `Fault`."""
    among = jnp.any(ranking[:, None] == candidates.items[None, :], axis=1)
    same = ranking[:, None] == ranking[None, :]
    repeated = jnp.any(jnp.tril(same, k=-1), axis=1)
    return jnp.stack(
        [candidates.sound, jnp.all(among) & ~jnp.any(repeated), jnp.all(jnp.isfinite(rewards))]
    )


def first_fault(
    rows: Bool[Array, "B 3"], loss: Float[Array, ""], gradient_norm: Float[Array, ""]
) -> Int[Array, ""]:
    """The number of the first `Fault` that was met; 0 if none was."""
    finite = jnp.stack([jnp.isfinite(loss), jnp.isfinite(gradient_norm)])
    sound = jnp.concatenate([jnp.ones(1, bool), jnp.all(rows, axis=0), finite])
    return jnp.argmin(sound).astype(jnp.int32)


@runtime_checkable
class OptimizerSettings(Protocol):
    """Settings from which the optimizer is built; a `TrainConfig` has these fields."""

    @property
    def optimizer(self) -> str | None: ...

    @property
    def optimizer_options(self) -> tuple[str, ...] | None: ...

    @property
    def learning_rate(self) -> float | None: ...

    @property
    def table_dtype(self) -> str: ...


def make_optimizer(settings: OptimizerSettings) -> optax.GradientTransformation:
    """Builds `optax.<name>(learning_rate, **options)` from the settings."""
    name, options = settings.optimizer or "", {}
    builder = getattr(optax, name, None)
    part = name.startswith("scale_by_")  # of an optimizer: its updates point uphill
    if (
        part
        or name == "lbfgs"  # its line search needs the loss, which a policy gradient does not have
        or not callable(builder)
        or "learning_rate" not in inspect.signature(builder).parameters
    ):
        raise ConfigError(
            f"optimizer={name!r}; expected an optimizer of optax that takes a learning_rate, such as "
            "adam, adagrad, sgd, adamw or rmsprop"
        )
    known = inspect.signature(builder).parameters
    for option in settings.optimizer_options or ():
        key, separator, value = option.partition("=")
        if key in options:
            raise ConfigError(f"optimizer_options gives {key} twice; give it once")
        try:
            options[key] = float(value)
        except ValueError:
            separator = ""
        if not math.isfinite(options.get(key, 0.0)):
            separator = ""
        if not separator or key not in known or key == "learning_rate":
            raise ConfigError(
                f"optimizer_options holds {option!r}; expected NAME=NUMBER with a name that optax.{name} "
                f"takes: {', '.join(k for k in known if k != 'learning_rate')}"
            )
    try:
        optimizer: Any = builder(learning_rate=settings.learning_rate, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"optimizer={name!r} cannot be built from learning_rate and optimizer_options: {error}"
        ) from error
    return optimizer if settings.table_dtype == "float32" else in_float32(optimizer)


def all_finite(tree: Params) -> Bool[Array, ""]:
    """True if no leaf holds NaN or infinity."""
    return jnp.all(jnp.stack([jnp.max(jnp.abs(x)) < jnp.inf for x in jax.tree.leaves(tree)]))


def norm(tree: Params) -> Float[Array, ""]:
    """Euclidean norm of all leaves together."""
    squares = (
        jnp.vdot(x, x, preferred_element_type=accumulation_dtype(x.dtype))
        for x in jax.tree.leaves(tree)
    )
    return jnp.sqrt(sum(squares))


def in_float32(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Wraps an optimizer so that its state and arithmetic are float32 whatever the parameters are.

    Adam's second moment would not move in bfloat16: it changes by a thousandth of itself a step.
    """

    def update(
        updates: Params, state: optax.OptState, params: Params | None = None
    ) -> tuple[Params, optax.OptState]:
        given = None if params is None else widened(params)
        return optimizer.update(widened(updates), state, given)

    return optax.GradientTransformation(lambda params: optimizer.init(widened(params)), update)


class Stepped(NamedTuple):
    """The result of a step."""

    params: Params
    optimizer_state: optax.OptState
    sound: Bool[Array, ""]
    """True if all parameters are finite: the new ones, or the old ones of a large model."""


def guarded_step(
    optimizer: optax.GradientTransformation,
    params: Params,
    optimizer_state: optax.OptState,
    gradient: Params,
    step_size: Float[Array, ""] | None,
    take: Bool[Array, ""],
) -> Stepped:
    """Takes the optimizer's step; nothing changes if `take` is False or parameters are not finite.

    Args:
      optimizer: any of optax.
      params: a tree of arrays.
      optimizer_state: the optimizer's state for these parameters.
      gradient: a tree like `params`.
      step_size: factor of the updates; None is 1.
      take: False makes no step.
    """

    def move(
        params: Params, memory: optax.OptState, gradient: Params
    ) -> tuple[Params, optax.OptState]:
        updates, memory = optimizer.update(gradient, memory, params)
        if step_size is not None:
            factor = step_size
            updates = jax.tree.map(lambda u: factor.astype(u.dtype) * u, updates)
        return _add(params, updates), memory

    old = params, optimizer_state
    if stepped_in_place(params):
        sound = all_finite(params)
        new: Any = lax.cond(
            take & sound, move, lambda params, memory, _: (params, memory), *old, gradient
        )
        return Stepped(new[0], new[1], sound)
    new = move(*old, gradient)
    sound = all_finite(new[0])
    kept: Any = jax.tree.map(lambda n, o: jnp.where(take & sound, n, o), new, old)
    return Stepped(kept[0], kept[1], sound)


def _add(params: Params, updates: Params) -> Params:
    """Sums in float32 at least, rounded to the dtype of the parameters."""
    new = optax.apply_updates(widened(params), updates)
    return jax.tree.map(lambda p, n: n.astype(p.dtype), params, new)


def widened(tree: Tree) -> Tree:
    """Casts every leaf to the dtype in which its values are accumulated."""
    return jax.tree.map(lambda x: x.astype(accumulation_dtype(x.dtype)), tree)


def stepped_in_place(params: Params) -> bool:
    """True for a model so large that it is stepped in place."""
    return sum(x.size for x in jax.tree.leaves(params)) > _COPIED
