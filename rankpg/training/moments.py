"""Moments that training draws from: which part of each user's sequence is the history, which the feedback."""

from __future__ import annotations

import dataclasses
from typing import Protocol, cast, runtime_checkable

import numpy as np

from rankpg.encoders.two_tower import TOWERS
from rankpg.environments.interactions import Interactions, Moments, Parts
from rankpg.errors import ConfigError
from rankpg.types import Environment

__all__ = [
    "MomentSettings",
    "check_held_out_users",
    "steps_of_epochs",
    "training_environment",
    "training_moments",
]


@runtime_checkable
class MomentSettings(Protocol):
    """Settings by which moments are chosen; a `TrainConfig` has these fields."""

    @property
    def context_tower(self) -> str: ...

    @property
    def forward_share(self) -> float: ...

    @property
    def first_share(self) -> float: ...

    @property
    def next_items(self) -> int: ...

    @property
    def batch_size(self) -> int: ...


def training_moments(
    settings: MomentSettings, parts: Parts, *, of_histories: bool
) -> tuple[Moments, Moments]:
    """Returns the moments that training draws from, first and later.

    An encoder that reads histories is trained on every moment of the training part. A table of users is
    trained on the beginning of each user's part, and then on its end, with the beginning as seen.

    Args:
      settings: `forward_share` and `next_items`.
      parts: parts of a dataset of interactions.
      of_histories: True for an encoder that reads histories.
    """
    if of_histories:
        every = parts.every_next(settings.next_items)
        return every, every
    if settings.forward_share == 1:
        whole = parts.whole()
        return whole, whole
    return parts.before(settings.forward_share), parts.forward(settings.forward_share)


def steps_of_epochs(settings: MomentSettings, parts: Parts, num_epochs: int) -> int:
    """Returns the number of updates in which the average moment of training is drawn `num_epochs` times."""
    of_histories = TOWERS[settings.context_tower].reads_histories
    first, later = training_moments(settings, parts, of_histories=of_histories)
    mean = np.interp(settings.first_share, (0, 1), (len(later.users), len(first.users)))
    return max(1, -(-int(num_epochs * mean) // settings.batch_size))


def check_held_out_users(context_tower: str, parts: Parts) -> None:
    """Rejects users who are evaluated, not trained on, and known to the tower by their number alone."""
    held_out = ~parts.trains & (parts.test_ends > parts.train_ends)
    tower = TOWERS[context_tower]
    if held_out.any() and not tower.reads_histories and not tower.reads_features:
        raise ConfigError(
            f"{int(held_out.sum())} users are held out whole, but context_tower={context_tower!r} learns "
            "nothing about users that it never sees; give context_tower='history' or another split"
        )


def training_environment(before: Environment, served: Environment) -> Environment:
    """Returns the environment to train on after items or users were added or removed.

    Its moments, weights and reward model are those of before; the model gives new items 0. Items that were
    removed stay in the sequences: they are known feedback, although they are not served.

    Args:
      before: moments of the training part, before the change.
      served: the environment that is evaluated and served, after the change.
    """
    old = cast("Interactions", before)
    columns = old.context_users, old.history_ends, old.feedback_ends
    moments = Moments(*map(np.asarray, columns))
    world, model = cast("Interactions", served.whole).for_training(), old.reward_model
    if model is not None:
        model = model.padded(world.num_users, world.num_items)
    world = dataclasses.replace(world, reward_weights=old.reward_weights, reward_model=model)
    return world.at(moments, old.feedback_width)
