"""A log of interactions as a dataset: what is trained on, what is validated on, what is held out."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from rankpg.data.id_types import check_id_types
from rankpg.data.ids import TableError
from rankpg.data.interactions import InteractionTable, read_interactions
from rankpg.data.splits import (
    HISTORY,
    TEST,
    TRAIN,
    UNUSED,
    VALIDATION,
    Split,
    check_held_out,
    split_interactions,
)
from rankpg.data.tags import read_tags
from rankpg.environments.dataset import Dataset
from rankpg.environments.interactions import Parts, interactions

if TYPE_CHECKING:
    from rankpg.data.files import Table
    from rankpg.data.interaction_columns import ColumnNames
else:
    Table = ColumnNames = Any

__all__ = ["dataset_of_split", "from_interactions"]

_LARGEST = 1e30
"""Largest value of an interaction: the sum of a batch stays finite in float32."""


def from_interactions(
    source: Table,
    *,
    items: Table | None = None,
    columns: ColumnNames | None = None,
    positive: str | None = None,
    min_per_user: int = 1,
    min_per_item: int = 1,
    header: bool = True,
    id_type: str | Sequence[str] = "auto",
    split: str = "last",
    test_share: float = 0.2,
    test_count: int | None = None,
    validation_share: float = 0.0,
    seed: int = 0,
) -> Dataset:
    """Reads (user, item) interactions, and holds some of them out.

    In the environment, a context is a user whose history is everything before the test part: these items are
    not eligible. The test part is the feedback, from which held-out metrics are computed. Training reads the
    training part alone, whose moments are in `Dataset.parts`. A held-out item that has no training row
    counts as missed where it is not found.

    Args:
      source: a file (csv, tsv, `::`, parquet, npz, gz), a data frame, or arrays by name.
      items: a table of categories of the items, for an encoder that reads `item_tags`; see
        `data.tags.read_tags`.
      columns, positive, min_per_user, min_per_item, header, id_type: as for
        `data.interactions.read_interactions`.
      split, test_share, test_count, validation_share, seed: as for `data.splits.split_interactions`.

    Raises:
      FileNotFoundError: the file does not exist.
      TableError: rows that cannot be used, or a split that the table does not allow.
      ValueError: an option has an unknown value.

    >>> log = {"user": [1, 1, 1, 2, 2, 2], "item": [7, 8, 9, 9, 8, 7], "timestamp": [1, 2, 3, 1, 2, 3]}
    >>> data = from_interactions(log)
    >>> import jax.numpy as jnp
    >>> data.environment.mean_rewards(jnp.int32(0), jnp.arange(3)).tolist()  # user 1 takes item 9 last
    [0.0, 0.0, 1.0]
    """
    with _argument_names():
        check_held_out(
            split, test_share, {"validation_share": validation_share}
        )  # before it is read
    table = read_interactions(
        source,
        columns=columns,
        positive=positive,
        min_per_user=min_per_user,
        min_per_item=min_per_item,
        header=header,
        id_type=id_type,
    )
    with _argument_names():
        divided = split_interactions(
            table,
            split,
            test_share=test_share,
            test_count=test_count,
            validation_share=validation_share,
            seed=seed,
            keep_new_items=True,
        )
    data = dataset_of_split(table, divided)
    if items is None:
        return data
    tags = read_tags(items, data.item_ids, id_type=check_id_types(id_type)[1])
    world: Any = data.environment
    tagged = dataclasses.replace(world, item_tags=jnp.asarray(tags.rows))
    return dataclasses.replace(data, environment=tagged, notes=(*data.notes, *tags.notes))


@contextlib.contextmanager
def _argument_names() -> Iterator[None]:
    """Puts the names of `from_interactions` into the errors of a split."""
    try:
        yield
    except (TableError, ValueError) as error:
        raise type(error)(str(error).replace("kind=", "split=")) from None


def dataset_of_split(table: InteractionTable, split: Split) -> Dataset:
    """Builds a dataset from a table of interactions and its parts.

    Args:
      table: sorted by user, then time, with one row per pair.
      split: the part of every row; UNUSED rows are left out.

    Raises:
      TableError: a value, or a value times its weight, above 1e30; or no training row with a weight above 0.
    """
    rank = np.zeros(UNUSED + 1, np.int8)
    rank[[VALIDATION, TEST]] = 1, 2
    if (largest := float(table.values.max(initial=0))) > _LARGEST:
        raise TableError(
            f"{table.source}: the value {largest:g} is above {_LARGEST:g}, so that a batch overflows; divide "
            "all values by one number, or give positive="
        )
    if table.weights is not None:
        trained = table.weights[split.part == TRAIN]
        if not trained.any():
            raise TableError(
                f"{table.source}: the weight of every one of the {len(trained)} rows of the training part is "
                "0, so there is nothing to learn: correct the column of weights, or give "
                "columns={'weight': None}"
            )
        largest = float((table.values.astype(np.float64) * table.weights).max(initial=0))
        if largest > _LARGEST:
            raise TableError(
                f"{table.source}: a value times its weight is {largest:g}, above {_LARGEST:g}, so that a "
                "batch overflows; divide all weights by one number"
            )
    used = np.flatnonzero(split.part != UNUSED)
    part = split.part[used]
    order = used[np.lexsort((used, rank[part], table.users[used]))]
    world = interactions(
        table.users[order],
        table.items[order],
        table.values[order],
        table.num_users,
        table.num_items,
    )

    if table.weights is not None:
        world = dataclasses.replace(world, weights=jnp.asarray(table.weights[order], jnp.float32))

    def counts(*which: int) -> np.ndarray:
        rows = np.isin(split.part, which)
        return np.bincount(table.users[rows], minlength=table.num_users).astype(np.int32)

    train_ends = counts(TRAIN, HISTORY)
    validation_ends = train_ends + counts(VALIDATION)
    parts = Parts(train_ends, validation_ends, validation_ends + counts(TEST), counts(TRAIN) > 0)
    return Dataset(
        world.at(parts.test()),
        table.user_ids,
        table.item_ids,
        world.missing_share,
        parts=parts,
        notes=(*table.notes, *split.describe().splitlines()),
    )
