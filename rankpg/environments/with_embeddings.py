"""Embeddings that were trained elsewhere, as features of an environment, for adapters and given towers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from rankpg.data.embeddings import EmbeddingTable, GivenEmbeddings, Source, embedding_tables
from rankpg.data.ids import ArrayLike
from rankpg.environments.dataset import Dataset
from rankpg.environments.with_list_reward import ListRewards
from rankpg.errors import ConfigError
from rankpg.types import Environment

__all__ = ["with_embeddings", "with_features"]


def with_embeddings(
    data: Environment | Dataset,
    items: Source,
    contexts: EmbeddingTable | ArrayLike | None = None,
    *,
    item_ids: ArrayLike | None = None,
    context_ids: ArrayLike | None = None,
    init_missing: str = "error",
    sides: tuple[str, ...] = ("context", "item"),
) -> Dataset:
    """Returns a dataset whose features are given embeddings, aligned to its ids.

    With `context_tower="adapter"` and `item_tower="adapter"` or "given", a trained change is added to them
    that is 0 at first: logits start as their inner products. Features are not parameters, so they are neither
    trained nor decayed, and items that come later are embedded by theirs (`Run.with_items`).

    Args:
      data: a dataset, or an environment whose ids are its row numbers.
      items, contexts, item_ids, context_ids, init_missing: as for `encoders.from_embeddings`.
      sides: sides that get features; embeddings of another one are left out.

    Raises:
      ConfigError: the environment has features of such a side already, or cannot have any.
      FileNotFoundError: a file does not exist.
      TableError: embeddings or ids that cannot be used.

    >>> from rankpg.environments import from_matrix
    >>> data = from_matrix([[1.0, 0.0]], item_ids=["a", "b"])
    >>> with_embeddings(data, [[1.0], [2.0]], item_ids=["b", "a"]).environment.item_features.tolist()
    [[2.0], [1.0]]
    """
    given = embedding_tables(items, contexts, item_ids=item_ids, context_ids=context_ids)
    return with_features(Dataset.of(data), given, sides, init_missing)


def with_features(
    dataset: Dataset, given: GivenEmbeddings, sides: Sequence[str], init_missing: str
) -> Dataset:
    """Returns a dataset as `with_embeddings` does, from embeddings that have been read."""
    tables = {"context": given.contexts, "item": given.items}
    if isinstance(dataset.environment, ListRewards):  # its features are those of the items alone
        rewarded = dataset.environment
        plain = dataclasses.replace(dataset, environment=rewarded.inner)
        found = with_features(plain, given, sides, init_missing)
        world = dataclasses.replace(rewarded, inner=found.environment)
        return dataclasses.replace(found, environment=world)
    world: Any = dataset.environment
    features: dict[str, Any] = {}
    notes: tuple[str, ...] = ()
    for side in sides:
        table = tables[side]
        if table is None:
            continue
        if getattr(world, f"{side}_features") is not None:
            raise ConfigError(
                f"the environment {type(world).__name__} has {side}_features already; leave them out, or the "
                f"embeddings of the {side}s"
            )
        rows, more = table.aligned(getattr(dataset, f"{side}_ids"), side, init_missing)
        features[f"{side}_features"] = jnp.asarray(rows)
        notes += more
    fields = {field.name for field in dataclasses.fields(world)}
    if not features.keys() <= fields:
        raise ConfigError(
            f"the environment {type(world).__name__} has no field {min(features.keys() - fields)}, so it "
            "cannot have embeddings; add it"
        )
    return dataclasses.replace(
        dataset,
        environment=dataclasses.replace(world, **features),
        notes=(*dataset.notes, *notes),
    )
