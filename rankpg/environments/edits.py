"""Environments with other items or contexts than they were made with; rewards stay where there are any."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from rankpg.data.ids import IdMap, id_array
from rankpg.environments.catalogue import Catalogue, Restricted
from rankpg.environments.dataset import Dataset
from rankpg.environments.tabular import Ratings, RewardMatrix
from rankpg.types import Environment

__all__ = ["add_contexts", "add_items", "remove_items"]


def remove_items(data: Dataset, rows: np.ndarray, *, renumber: bool) -> Dataset:
    """The dataset without some items.

    Args:
      data: whose ids and environment change.
      rows: row numbers of what goes.
      renumber: whether the others close up; else they keep their numbers, and nobody may have what goes.
    """
    kept = np.setdiff1d(np.arange(len(data.item_ids)), rows)
    if not renumber:
        allowed = np.zeros(len(data.item_ids), bool)
        allowed[kept] = True
        world, whole = data.environment, data.environment
        if isinstance(world, Restricted):
            allowed, whole = allowed & np.asarray(world.allowed), world.whole
        return dataclasses.replace(data, environment=Restricted(whole, jnp.asarray(allowed)))
    ids = IdMap(data.item_ids.ids[kept], data.item_ids.kind)
    return _counted(
        dataclasses.replace(data, environment=_take(data.environment, kept), item_ids=ids)
    )


def add_items(data: Dataset, ids: np.ndarray, features: np.ndarray) -> Dataset:
    """The dataset with further items at the end: unrated, so that they earn 0 among ratings; among the cells
    of a matrix there are none for them, and no reward is known any more.
    """
    if isinstance(data.environment, Restricted):
        whole, kept = _whole(data)
        allowed = jnp.concatenate([kept.allowed, jnp.ones(len(ids), bool)])
        return _within(dataclasses.replace(kept, allowed=allowed), add_items(whole, ids, features))
    world = _without_cells(data.environment)
    where = None
    if world.where is not None:
        free = jnp.ones((world.num_contexts, len(ids)), bool)
        where = jnp.concatenate([world.where, free], axis=1)
    world = dataclasses.replace(
        world,
        num_items=world.num_items + len(ids),
        item_features=jnp.concatenate([world.item_features, jnp.asarray(features)]),
        where=where,
    )
    return _counted(
        dataclasses.replace(data, environment=world, item_ids=_appended(data.item_ids, ids))
    )


def add_contexts(data: Dataset, ids: np.ndarray, features: np.ndarray) -> Dataset:
    """The dataset with further contexts at the end, whose rewards are as those of `add_items`."""
    if isinstance(data.environment, Restricted):
        whole, kept = _whole(data)
        return _within(kept, add_contexts(whole, ids, features))
    world = _without_cells(data.environment)
    rows = jnp.concatenate([world.context_features, jnp.asarray(features)])
    changes: dict[str, Any] = {"context_features": rows}
    if world.where is not None:
        free = jnp.ones((len(ids), world.num_items), bool)
        changes["where"] = jnp.concatenate([world.where, free])
    if isinstance(world, Ratings):
        end = jnp.full(len(ids), world.row_starts[-1], world.row_starts.dtype)
        changes["row_starts"] = jnp.concatenate([world.row_starts, end])
    else:
        changes["num_contexts"] = len(rows)
    world = dataclasses.replace(world, **changes)
    return _counted(
        dataclasses.replace(data, environment=world, context_ids=_appended(data.context_ids, ids))
    )


def _whole(data: Dataset) -> tuple[Dataset, Any]:
    """The dataset before items were taken out, and what says which were."""
    kept: Any = data.environment
    return dataclasses.replace(data, environment=kept.whole), kept


def _within(kept: Any, data: Dataset) -> Dataset:
    return dataclasses.replace(data, environment=dataclasses.replace(kept, whole=data.environment))


def _appended(ids: IdMap, more: np.ndarray) -> IdMap:
    """With more ids at the end; what no type of NumPy's holds together goes by way of Python's own."""
    if ids.ids.dtype.kind == more.dtype.kind:
        return IdMap(np.concatenate([ids.ids, more]), ids.kind)
    return IdMap(id_array([*ids.ids.tolist(), *more.tolist()], ids.kind), ids.kind)


def _without_cells(world: Environment) -> Any:
    """Ratings as they are; of a matrix what is left without its cells."""
    if not isinstance(world, RewardMatrix):
        return world
    return Catalogue(
        num_contexts=world.num_contexts,
        num_items=world.num_items,
        context_features=world.context_features,
        item_features=world.item_features,
        where=world.where,
    )


def _take(world: Any, kept: np.ndarray) -> Any:
    """Some of the items, closed up."""
    changes: dict[str, Any] = {
        "where": None if world.where is None else world.where[:, kept],
        "item_features": None if world.item_features is None else world.item_features[kept],
    }
    if isinstance(world, RewardMatrix):
        changes["means"] = world.means[:, kept]
        if world.noise_std.ndim == 2:
            changes["noise_std"] = world.noise_std[:, kept]
        return dataclasses.replace(world, **changes)
    changes["num_items"] = len(kept)
    if isinstance(world, Ratings):
        place = np.full(world.num_items, -1, np.int32)
        place[kept] = np.arange(len(kept), dtype=np.int32)
        items = place[np.asarray(world.items)]
        stays = items >= 0
        before = np.concatenate([[0], np.cumsum(stays)]).astype(np.int32)
        changes["row_starts"] = jnp.asarray(before[np.asarray(world.row_starts)])
        changes["items"] = jnp.asarray(items[stays])
        changes["values"] = world.values[np.flatnonzero(stays)]
    return dataclasses.replace(world, **changes)


def _counted(data: Dataset) -> Dataset:
    """With the share of pairs without a rating as it is now."""
    world = data.environment
    if not isinstance(world, Ratings):
        share = 1.0 if isinstance(world, Catalogue) else data.missing_share
    else:
        share = 1.0 - len(world.items) / (world.num_contexts * world.num_items)
    return dataclasses.replace(data, missing_share=share)
