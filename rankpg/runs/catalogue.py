"""A trained run on another catalogue: items come and go, new contexts arrive, and no parameter changes.

A tower over features embeds every row with features. A table of ids has a row for each id of the training
data, and none for any other.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from rankpg.data.arrays import feature_rows
from rankpg.data.features import column_names
from rankpg.data.files import Table
from rankpg.data.ids import ArrayLike, IdMap, TableError, id_array, id_kind
from rankpg.data.labels import labelled_features
from rankpg.data.side_tables import describe
from rankpg.environments.dataset import Dataset
from rankpg.environments.edits import add_contexts, add_items, remove_items
from rankpg.errors import ConfigError
from rankpg.policy import Policy
from rankpg.types import Embeddings

__all__ = ["with_contexts", "with_items", "without_items"]


def _check_ids(data: Dataset) -> None:
    if data.ids_are_rows:
        raise ConfigError(
            "this run has row numbers and no ids; train it on a dataset, such as environments.from_table or "
            "from_matrix return, to change its catalogue"
        )


def _check_features(data: Dataset, side: str) -> None:
    _check_ids(data)
    if getattr(data.environment, f"{side}_features") is None:
        raise _no_row(side)


def with_items(policy: Policy, data: Dataset, items: Table, item_ids: ArrayLike | None) -> Dataset:
    """The dataset of `Run.with_items`."""
    _check_features(data, "item")
    added = add_items(data, *_rows(data, "item", items, item_ids))
    if not _embeds(policy, added):
        raise _no_row("item")
    return added


def without_items(policy: Policy, data: Dataset, item_ids: ArrayLike) -> Dataset:
    """The dataset of `Run.without_items`."""
    _check_ids(data)
    rows = np.unique(data.item_ids.rows(item_ids))
    if len(rows) == len(data.item_ids):
        raise ValueError(
            f"item_ids holds all {len(rows)} items; leave at least one in the catalogue"
        )
    if data.environment.allowed is None and data.parts is None:  # sequences keep their rows
        renumbered = remove_items(data, rows, renumber=True)
        if _embeds(policy, renumbered):
            return renumbered
    return remove_items(data, rows, renumber=False)


def with_contexts(
    data: Dataset, context_tower: str, contexts: Table, context_ids: ArrayLike | None
) -> Dataset:
    """The dataset of `Run.with_contexts`."""
    _check_features(data, "context")
    if context_tower == "ids":
        raise _no_row("context")
    return add_contexts(data, *_rows(data, "context", contexts, context_ids))


def _no_row(side: str) -> ConfigError:
    one = f"an {side}" if side == "item" else f"a {side}"
    return ConfigError(
        f"{side}s cannot be added to this run: its {side} tower embeds ids, and {one} that training never "
        f"saw has no embedding. Train with {side}_features, and {side}_tower='features' (or 'adapter', "
        "'given')"
    )


def _rows(
    data: Dataset, side: str, table: Table, ids: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray]:
    """Ids and features of new rows."""
    featurizer = getattr(data, f"{side}_featurizer")
    known: IdMap = getattr(data, f"{side}_ids")
    width = getattr(data.environment, f"{side}_features").shape[1]
    if ids is None:
        if featurizer is None or featurizer.features.numeric == tuple(column_names(width)):
            raise TableError(
                f"{side}s: this run was trained on an array of features; pass the new rows as an array "
                f"[n, {width}], and their ids as {side}_ids="
            )
        found = describe(table, featurizer, side)
        new, rows = found.ids, found.features
    else:
        given = ids if isinstance(ids, np.ndarray) else np.asarray(ids, object)
        new = IdMap(id_array(np.atleast_1d(given), side), side).ids
        rows = feature_rows(
            labelled_features(table, f"{side}s", IdMap(new, side)), f"{side}s", len(new)
        )
        if featurizer is not None and featurizer.features.numeric == tuple(column_names(width)):
            columns = dict(zip(column_names(width), rows.T, strict=False))
            rows = featurizer.transform(columns) if rows.shape[1] == width else rows
    if rows is None or rows.shape[1] != width:
        have = 0 if rows is None else rows.shape[1]
        raise TableError(f"{side}s: {have} features in each row; expected {width}, as in training")
    if id_kind(new) != id_kind(known.ids):
        raise TableError(
            f"{side}s: ids are {new.dtype}, and those of the run are {known.ids.dtype}; convert "
            "them to one type"
        )
    old = known.find(new) >= 0
    if old.any():
        raise TableError(
            f"{side}s: the id {new[old][:1].tolist()[0]!r} exists already ({int(old.sum())} do); "
            + ("remove it with without_items first" if side == "item" else "leave it out")
        )
    return new, rows


def _embeds(policy: Policy, data: Dataset) -> bool:
    """True if the encoder has an embedding for every item of this catalogue, from shapes alone."""
    params = jax.eval_shape(policy.init, jax.random.key(0))
    two = jax.ShapeDtypeStruct((2,), jnp.int32)
    encoded = jax.eval_shape(policy.encoder.encode, params, data.environment, two)
    return isinstance(encoded, Embeddings) and encoded.items.shape[1] == len(data.item_ids)
