"""The faults that stop a training run, each with what it is and what to do about it."""

from __future__ import annotations

import enum

import jax.numpy as jnp

from rankpg.core.estimators import Candidates
from rankpg.types import Array, Bool, Float, Int

__all__ = ["Fault", "check_rows", "first_fault"]

_SMALLER_STEPS = "A smaller learning_rate may help"


class Fault(enum.IntEnum):
    """The first thing that went wrong in an update; `TrainState.fault` holds its number.

    >>> Fault.REWARDS.description
    'a reward that is NaN or infinite'
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
        "a reward that is NaN or infinite",
        "The environment must return finite rewards",
    )
    LOSS = 4, "a loss that is NaN or infinite", _SMALLER_STEPS
    GRADIENT = 5, "a gradient that is NaN or infinite", _SMALLER_STEPS
    PARAMETERS = 6, "parameters that are NaN or infinite", _SMALLER_STEPS

    description: str
    """What was met, as a noun phrase."""
    remedy: str
    """What to do about it, as a sentence without a full stop."""

    def __new__(cls, value: int, description: str, remedy: str) -> Fault:
        """Makes a member from its number, description and remedy."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.description, member.remedy = description, remedy
        return member


def check_rows(
    candidates: Candidates, ranking: Int[Array, "L"], rewards: Float[Array, "L"]
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
