"""The optimizer's step: proposed, judged, and taken only if it is sound.

The old parameters are kept until the new ones are known to be finite. Of a large model no second copy is
made: it is stepped in place, and parameters that have become infinite are noticed one step later.
"""

from __future__ import annotations

import inspect
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from rankpg.config.train_config import TrainConfig
from rankpg.core.numerics import accumulation_dtype
from rankpg.errors import ConfigError
from rankpg.types import Array, Bool, Float, Params

__all__ = [
    "Stepped",
    "all_finite",
    "in_float32",
    "make_optimizer",
    "norm",
    "step",
    "stepped_in_place",
]

_COPIED = 2**22
"""Numbers of a model, at most, of which a step keeps a copy until it is judged."""


def make_optimizer(config: TrainConfig) -> Any:
    """`optax.<name>(learning_rate, **options)`."""
    name, options = config.optimizer or "", {}
    builder = getattr(optax, name, None)
    part = name.startswith("scale_by_")  # of an optimizer: its updates point uphill
    if (
        part
        or name == "lbfgs"  # its line search asks for the loss, which a policy gradient has not got
        or not callable(builder)
        or "learning_rate" not in inspect.signature(builder).parameters
    ):
        raise ConfigError(
            f"--optimizer is {name!r}; expected an optimizer of optax that takes a learning_rate, "
            "for instance adam, adagrad, sgd, adamw, rmsprop"
        )
    known = inspect.signature(builder).parameters
    for option in config.optimizer_options or ():
        key, separator, value = option.partition("=")
        if key in options:
            raise ConfigError(f"--optimizer-options gives {key} twice")
        try:
            options[key] = float(value)
        except ValueError:
            separator = ""
        if not math.isfinite(options.get(key, 0.0)):
            separator = ""
        if not separator or key not in known or key == "learning_rate":
            raise ConfigError(
                f"--optimizer-options holds {option!r}; expected NAME=NUMBER with a name that optax.{name} "
                f"takes: {', '.join(k for k in known if k != 'learning_rate')}"
            )
    try:
        optimizer: Any = builder(learning_rate=config.learning_rate, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"--optimizer {name} cannot be built from --learning-rate and --optimizer-options: {error}"
        ) from error
    return optimizer if config.table_dtype == "float32" else in_float32(optimizer)


def all_finite(tree: Any) -> Bool[Array, ""]:
    """Whether no leaf holds NaN or infinity."""
    return jnp.all(jnp.stack([jnp.max(jnp.abs(x)) < jnp.inf for x in jax.tree.leaves(tree)]))


def norm(tree: Any) -> Float[Array, ""]:
    """The Euclidean length of all leaves together."""
    squares = (
        jnp.vdot(x, x, preferred_element_type=accumulation_dtype(x.dtype))
        for x in jax.tree.leaves(tree)
    )
    return jnp.sqrt(sum(squares))


def in_float32(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """An optimizer that remembers and reckons in float32 whatever the parameters are.

    Adam's second moment would stand still in bfloat16: it moves by a thousandth of itself a step.
    """

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        given = None if params is None else widened(params)
        return optimizer.update(widened(updates), state, given)

    return optax.GradientTransformation(lambda params: optimizer.init(widened(params)), update)


class Stepped(NamedTuple):
    """What a step leaves behind."""

    params: Params
    optimizer_state: Any
    sound: Bool[Array, ""]
    """Whether all parameters are finite: the new ones, of a large model the old ones."""


def step(
    optimizer: optax.GradientTransformation,
    params: Params,
    optimizer_state: Any,
    gradient: Params,
    step_size: Float[Array, ""] | None,
    take: Bool[Array, ""],
) -> Stepped:
    """The optimizer's step; everything stays as it is if `take` is False or the parameters are not sound.

    Args:
      optimizer: any of optax.
      params: a tree.
      optimizer_state: of these parameters.
      gradient: like them.
      step_size: multiplies the updates; None is 1.
      take: whether a step is wanted at all.
    """

    def move(params: Any, memory: Any, gradient: Any) -> Any:
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


def widened(tree: Any) -> Any:
    """Every leaf in the dtype in which its like are added up."""
    return jax.tree.map(lambda x: x.astype(accumulation_dtype(x.dtype)), tree)


def stepped_in_place(params: Params) -> bool:
    """Whether a model is so large that it is stepped in place."""
    return sum(x.size for x in jax.tree.leaves(params)) > _COPIED
