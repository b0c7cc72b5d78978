"""Datasets with items removed, or with items or contexts added."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from rankpg.data.ids import IdMap, id_array
from rankpg.environments.catalogue import Editable, Restricted
from rankpg.environments.dataset import Dataset

__all__ = ["add_contexts", "add_items", "remove_items"]


def remove_items(data: Dataset, rows: np.ndarray, *, renumber: bool) -> Dataset:
    """Returns the dataset without some items.

    Args:
      data: the dataset with all items.
      rows: row numbers of the items to remove.
      renumber: True closes the gaps; False keeps the row numbers and makes the removed items ineligible.
    """
    environment, kept = _editable(data), np.setdiff1d(np.arange(len(data.item_ids)), rows)
    if renumber:
        ids = IdMap(data.item_ids.ids[kept], data.item_ids.kind)
        return _replace(data, environment.take_items(kept), item_ids=ids)
    allowed = np.zeros(len(data.item_ids), bool)
    allowed[kept] = True
    if environment.allowed is not None:
        allowed = allowed & np.asarray(environment.allowed)
    return dataclasses.replace(
        data, environment=Restricted(environment.whole, jnp.asarray(allowed))
    )


def add_items(data: Dataset, ids: np.ndarray, features: np.ndarray) -> Dataset:
    """Returns the dataset with further items at the end.

    Among ratings they have no rating, so that they earn 0. A matrix of rewards has no cells for them, so
    that its rewards are unknown from then on.
    """
    items = _appended(data.item_ids, ids)
    return _replace(data, _editable(data).append_items(features), item_ids=items)


def add_contexts(data: Dataset, ids: np.ndarray, features: np.ndarray) -> Dataset:
    """Returns the dataset with further contexts at the end, whose rewards are as in `add_items`."""
    contexts = _appended(data.context_ids, ids)
    return _replace(data, _editable(data).append_contexts(features), context_ids=contexts)


def _editable(data: Dataset) -> Editable:
    if not isinstance(data.environment, Editable):
        raise TypeError(
            f"the environment {type(data.environment).__name__} cannot change its items and contexts; "
            "expected one with the members of rankpg.environments.catalogue.Editable, such as those of "
            "from_table"
        )
    return data.environment


def _replace(data: Dataset, environment: Editable, **ids: IdMap) -> Dataset:
    share = environment.missing_share
    return dataclasses.replace(data, environment=environment, missing_share=share, **ids)


def _appended(ids: IdMap, more: np.ndarray) -> IdMap:
    """Returns ids with further ones at the end, in a type that holds both exactly."""
    if ids.ids.dtype.kind == more.dtype.kind:
        return IdMap(np.concatenate([ids.ids, more]), ids.kind)
    return IdMap(id_array([*ids.ids.tolist(), *more.tolist()], ids.kind), ids.kind)
