"""Encoders whose tables start at embeddings that were trained elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from rankpg.data.embeddings import EmbeddingTable, GivenEmbeddings, Source, embedding_tables
from rankpg.data.ids import ArrayLike, IdMap
from rankpg.encoders.history import history_of
from rankpg.encoders.two_tower import TOWERS, Encoder, towers_of
from rankpg.errors import ConfigError
from rankpg.types import Array, Environment, Float, Params, PRNGKey

__all__ = ["WithIds", "from_embeddings", "ids_of_sides", "initial_tables", "starting_at"]


@runtime_checkable
class WithIds(Protocol):
    """An environment with the ids of its rows; `environments.Dataset` is one."""

    @property
    def environment(self) -> Environment: ...

    @property
    def context_ids(self) -> IdMap: ...

    @property
    def item_ids(self) -> IdMap: ...


def from_embeddings(
    data: Environment | WithIds,
    items: Source,
    contexts: EmbeddingTable | ArrayLike | None = None,
    *,
    item_ids: ArrayLike | None = None,
    context_ids: ArrayLike | None = None,
    context_tower: str = "ids",
    num_experts: int = 1,
    history_length: int = 20,
    dropout: float = 0.0,
    init_missing: str = "error",
    dtype: DTypeLike = jnp.float32,
) -> Encoder:
    """Builds an encoder whose tables start at given embeddings, and are trained from there.

        context_tower="ids":      f(a | x) = u[x] . v[a]                        at the start
        context_tower="history":  f(a | x) = e^3 n( sum_j w_j v[item_j] ) . n(v[a]),   n(v) = v / |v|

    So with "ids" the first evaluation is that of the inner products of the given embeddings, for every
    expert. With "history", the vectors v are those of the history and of the catalogue, the weights w of
    `HistoryEncoder` prefer the last items, and vectors of tags start at 0.

    Embeddings that stay as they are, under an adapter, are features: see `environments.with_embeddings`.

    Args:
      data: a dataset, to whose ids the rows are aligned; or an environment whose ids are its row numbers.
      items, contexts, item_ids, context_ids: embeddings [n, D] and their ids, as for
        `data.embeddings.embedding_tables`.
      context_tower: "ids", a table of contexts, which needs their embeddings; or "history", which does not.
      num_experts: M; all experts start at the same embeddings.
      history_length, dropout: `length` and `dropout` of `history_of`.
      init_missing: policy for ids without an embedding: error, mean or random.
      dtype: dtype of the parameters.

    Raises:
      FileNotFoundError: a file does not exist.
      TableError: embeddings or ids that cannot be used.
      ConfigError: another tower, or embeddings of the contexts are missing.

    >>> from rankpg.environments import from_matrix
    >>> data = from_matrix([[1.0, 0.0, 2.0]], context_ids=["x"], item_ids=["a", "b", "c"])
    >>> encoder = from_embeddings(
    ...     data, np.eye(3), [[0.5, 1.0, 2.0]], item_ids=["c", "b", "a"], context_ids=["x"])
    >>> found = encoder.encode(encoder.init(jax.random.key(0)), data.environment, jnp.array([0]))
    >>> jnp.einsum("bmd,mnd->bmn", found.contexts, found.items)[0, 0].tolist()
    [2.0, 1.0, 0.5]
    """
    if context_tower not in ("ids", "history"):
        raise ConfigError(
            f"context_tower={context_tower!r} has no table that could start at embeddings; expected 'ids' or "
            "'history', or give them to environments.with_embeddings"
        )
    environment = data.environment if isinstance(data, WithIds) else data
    given = embedding_tables(items, contexts, item_ids=item_ids, context_ids=context_ids)
    width = given.width()
    if context_tower == "history":
        encoder = history_of(
            environment, width, num_experts, length=history_length, dropout=dropout, dtype=dtype
        )
    else:
        encoder = towers_of(environment, width, num_experts, dtype=dtype)
    towers = {"context": context_tower, "item": "ids"}
    tables, _ = initial_tables(given, ids_of_sides(data), towers, init_missing)
    return starting_at(encoder, tables)


def ids_of_sides(data: Environment | WithIds) -> dict[str, IdMap]:
    """Returns the ids of both sides, row numbers for an environment without any."""
    if isinstance(data, WithIds):
        return {"context": data.context_ids, "item": data.item_ids}
    return {
        "context": IdMap.of_range(data.num_users, "context"),
        "item": IdMap.of_range(data.num_items, "item"),
    }


def initial_tables(
    given: GivenEmbeddings,
    known: Mapping[str, IdMap],
    towers: Mapping[str, str],
    init_missing: str,
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Returns the parameters of an encoder that start at embeddings, by name, and notes about ids.

    Args:
      given: embeddings of both sides.
      known: ids of both sides, by "context" and "item".
      towers: names of `TOWERS` of both sides; towers over features have no table.
      init_missing: policy for ids without an embedding.

    Raises:
      ConfigError: the embeddings of a side are missing.
      TableError: as `EmbeddingTable.aligned`.
    """
    shared = TOWERS[towers["context"]].reads_histories
    names = {"context": "contexts.table", "item": "table" if shared else "items.table"}
    tables: dict[str, np.ndarray] = {}
    notes: tuple[str, ...] = ()
    for side, own in (("context", given.contexts), ("item", given.items)):
        if towers[side] != "ids":
            continue
        if own is None:
            hint = "; or give context_tower='history', which needs those of the items alone"
            raise ConfigError(
                f"{side}_tower='ids' is to start at embeddings, and {given.source} has none of the {side}s; "
                f"add them as {side}s{hint if side == 'context' else ''}"
            )
        rows, more = own.aligned(known[side], side, init_missing)
        tables[names[side]] = rows
        notes += more
    return tables, notes


def starting_at(encoder: Encoder, tables: Mapping[str, np.ndarray]) -> Encoder:
    """Returns an encoder whose parameters of these names start at given rows, the same for every expert.

    Vectors of tags start at 0, so that the vector of an item is its own.

    Args:
      encoder: encoder of `towers_of` or `history_of`.
      tables: name of a parameter [M, n, D], such as `items.table` -> its rows [n, D].

    Raises:
      ConfigError: a parameter does not exist, or has another shape.
    """
    shapes = {
        _name(path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(
            jax.eval_shape(encoder.init, jax.random.key(0))
        )
    }
    for name, rows in tables.items():
        if shapes.get(name, ())[1:] != rows.shape:
            raise ConfigError(
                f"the embeddings of {name} have shape {list(rows.shape)}; expected "
                f"{list(shapes.get(name, ()))[1:]}"
            )
    given = {name: jnp.asarray(rows) for name, rows in tables.items()}

    def init(key: PRNGKey) -> Params:
        def start(path: tuple[Any, ...], leaf: Float[Array, "..."]) -> Float[Array, "..."]:
            if _name(path) == "tags":
                return jnp.zeros_like(leaf)
            if _name(path) not in given:
                return leaf
            return jnp.broadcast_to(given[_name(path)].astype(leaf.dtype)[None], leaf.shape)

        return jax.tree_util.tree_map_with_path(start, encoder.init(key))

    return encoder._replace(init=init)


def _name(path: tuple[Any, ...]) -> str:
    """Returns the name of a parameter, such as items.table."""
    return jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
