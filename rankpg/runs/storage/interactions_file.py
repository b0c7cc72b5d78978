"""Interactions as arrays of a run folder: sequences, values, the moment of every context, and the split.

    counts           number of interactions of each user
    sequence         rows of the items of every user, oldest first
    values           their values; one number where all are equal
    weights          their weights in the loss, where there are any
    context_users, history_ends, feedback_ends      the moment of each context
    train_ends, validation_ends, test_ends, trains  the split, where there is one
    item_tags        tags of the items, where there are any

Whole numbers have the smallest type that holds them. The sorted lists of the environment are not saved: they
follow from the sequences.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from rankpg.environments.interactions import (
    Interactions,
    Moments,
    Parts,
    interactions,
)

__all__ = ["arrays_of", "holds_interactions", "interactions_of"]


def arrays_of(world: Interactions, parts: Parts | None) -> dict[str, np.ndarray]:
    """Returns the arrays from which `interactions_of` builds the same environment.

    Args:
      world: the environment that is evaluated and served.
      parts: training, validation and test part.
    """
    values = np.asarray(world.sequence_values)
    if len(values) and (values == values[0]).all():
        values = values[:1]
    numbers: dict[str, Any] = {
        "counts": np.diff(np.asarray(world.row_starts)),
        "sequence": world.sequence,
        "context_users": world.context_users,
        "history_ends": world.history_ends,
        "feedback_ends": world.feedback_ends,
        "feedback_width": world.feedback_width,
    }
    if parts is not None:
        numbers |= parts._asdict()
    if world.item_tags is not None:
        numbers["item_tags"] = world.item_tags
    floats = {"values": values}
    if world.weights is not None:
        floats["weights"] = np.asarray(world.weights)
    return floats | {name: _small(np.asarray(x)) for name, x in numbers.items()}


def holds_interactions(arrays: Mapping[str, np.ndarray]) -> bool:
    """Returns True for arrays of `arrays_of`, as opposed to those of another dataset."""
    return "sequence" in arrays


def interactions_of(
    arrays: Mapping[str, np.ndarray], num_users: int, num_items: int
) -> tuple[Interactions, Parts | None]:
    """Returns the environment and the split that `arrays_of` took apart.

    Args:
      arrays: by name.
      num_users: number of context ids.
      num_items: number of item ids.

    Raises:
      KeyError: an array is missing.
      ValueError: arrays that do not fit each other or the ids.

    >>> world = interactions(np.array([0, 0, 1]), np.array([3, 1, 2]), np.ones(3), 2, 4)
    >>> again, parts = interactions_of(arrays_of(world, None), 2, 4)
    >>> again.items.tolist() == world.items.tolist(), parts
    (True, None)
    """
    counts, sequence = arrays["counts"].astype(np.int64), arrays["sequence"].astype(np.int32)
    if len(counts) != num_users or counts.sum() != len(sequence):
        raise ValueError(
            f"{len(sequence)} interactions of {len(counts)} users; expected {counts.sum()} of {num_users}"
        )
    if len(sequence) and not 0 <= sequence.min() <= sequence.max() < num_items:
        raise ValueError(f"an item has row {sequence.max()}; expected less than {num_items}")
    users, values = np.repeat(np.arange(num_users), counts), arrays["values"]
    world = interactions(
        users, sequence, np.broadcast_to(values, sequence.shape), num_users, num_items
    )
    moments = Moments(*(arrays[name].astype(np.int32) for name in _MOMENTS))
    world = world.at(moments, int(arrays["feedback_width"]))
    if (weights := arrays.get("weights")) is not None:
        if weights.shape != sequence.shape:
            raise ValueError(f"{len(weights)} weights; expected {len(sequence)}")
        world = dataclasses.replace(world, weights=jnp.asarray(weights, jnp.float32))
    tags, parts = arrays.get("item_tags"), None
    if tags is not None:
        world = dataclasses.replace(world, item_tags=jnp.asarray(tags, jnp.int32))
    if "trains" in arrays:
        parts = Parts(
            **{name: arrays[name].astype(np.int32) for name in Parts._fields[:-1]},
            trains=arrays["trains"].astype(bool),
        )
    return world, parts


_MOMENTS = ("context_users", "history_ends", "feedback_ends")


def _small(numbers: np.ndarray) -> np.ndarray:
    """Returns whole numbers in the smallest type that holds them."""
    if numbers.dtype == bool or not numbers.size:
        return numbers
    low, high = int(numbers.min()), int(numbers.max())
    kinds = (np.uint8, np.uint16, np.uint32) if low >= 0 else (np.int8, np.int16, np.int32)
    kind = next((k for k in kinds if np.iinfo(k).min <= low and high <= np.iinfo(k).max), np.int64)
    return numbers.astype(kind)
