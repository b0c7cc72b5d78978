"""Tables of the subtopics of items: the same for every context, or some for each context.

A table returns the rows [L, T] of the shown items. Its values are 0 or 1, or probabilities.
"""

from __future__ import annotations

import abc
import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import struct

from rankpg.environments.tabular import search_row
from rankpg.types import Array, Float, Int, record

__all__ = ["ContextSubtopics", "ItemSubtopics", "Subtopics", "context_subtopics", "item_subtopics"]


class Subtopics(abc.ABC):
    """Table of the subtopics that each item covers, for each context."""

    @property
    @abc.abstractmethod
    def num_tables(self) -> int:
        """Number of contexts with a table of their own; 1 where all of them share one."""
        ...

    @abc.abstractmethod
    def rows(self, context: Int[Array, ""], items: Int[Array, "n"]) -> Float[Array, "n T"]:
        """Returns what each of these items covers for a context."""
        ...

    @abc.abstractmethod
    def table(self, number: int) -> np.ndarray:
        """Returns the values [n, T] of the items of one table that may be above 0, by ascending item."""
        ...

    @abc.abstractmethod
    def take_items(self, rows: np.ndarray) -> Subtopics:
        """Returns the table of these items alone, renumbered in this order."""
        ...

    @abc.abstractmethod
    def append_items(self, count: int) -> Subtopics:
        """Returns the table with further items at the end, which cover nothing."""
        ...

    @abc.abstractmethod
    def append_contexts(self, count: int) -> Subtopics:
        """Returns the table with further contexts at the end, for which nothing is covered."""
        ...


@record
class ItemSubtopics(Subtopics):
    """Subtopics that an item covers for every context, such as the genres of a film.

    >>> films = ItemSubtopics(jnp.array([[1.0, 0.0], [1.0, 1.0]]))
    >>> films.rows(jnp.int32(7), jnp.array([1])).tolist()
    [[1.0, 1.0]]
    """

    values: Float[Array, "N T"]

    @property
    def num_tables(self) -> int:
        return 1

    def rows(self, context: Int[Array, ""], items: Int[Array, "n"]) -> Float[Array, "n T"]:
        """Returns values[items], whatever the context."""
        del context
        return self.values[items]

    def table(self, number: int) -> np.ndarray:
        del number
        return np.asarray(self.values)

    def take_items(self, rows: np.ndarray) -> ItemSubtopics:
        return dataclasses.replace(self, values=self.values[rows])

    def append_items(self, count: int) -> ItemSubtopics:
        return dataclasses.replace(self, values=jnp.pad(self.values, ((0, count), (0, 0))))

    def append_contexts(self, count: int) -> ItemSubtopics:
        del count
        return self


@record
class ContextSubtopics(Subtopics):
    """Subtopics that items cover for one context each; an item without an entry covers nothing.

    The entries of context c are row_starts[c] to row_starts[c + 1], sorted by item; a look-up is a binary
    search, as in `tabular.Ratings`.
    """

    row_starts: Int[Array, "num_contexts_plus_1"]
    items: Int[Array, "entries"]
    values: Float[Array, "entries T"]
    search_steps: int = struct.field(pytree_node=False)
    num_items: int = struct.field(pytree_node=False)

    @property
    def num_tables(self) -> int:
        return self.row_starts.shape[0] - 1

    def rows(self, context: Int[Array, ""], items: Int[Array, "n"]) -> Float[Array, "n T"]:
        """Returns the entry of each item, and 0 where it has none."""
        bounds = self.row_starts[context], self.row_starts[context + 1]
        place, found = search_row(self.items, bounds, items, self.search_steps)
        return jnp.where(found[:, None], self.values.at[place].get(mode="clip"), 0)

    def table(self, number: int) -> np.ndarray:
        start, end = np.asarray(self.row_starts[number : number + 2])
        return np.asarray(self.values[start:end])

    def take_items(self, rows: np.ndarray) -> ContextSubtopics:
        contexts = np.repeat(np.arange(self.num_tables), np.diff(np.asarray(self.row_starts)))
        new_row = np.full(self.num_items, -1, np.int64)
        new_row[rows] = np.arange(len(rows))
        items = new_row[np.asarray(self.items)]
        kept = items >= 0
        return context_subtopics(
            contexts[kept], items[kept], np.asarray(self.values)[kept], self.num_tables, len(rows)
        )

    def append_items(self, count: int) -> ContextSubtopics:
        return dataclasses.replace(self, num_items=self.num_items + count)

    def append_contexts(self, count: int) -> ContextSubtopics:
        end = jnp.full(count, self.row_starts[-1], self.row_starts.dtype)
        return dataclasses.replace(self, row_starts=jnp.concatenate([self.row_starts, end]))


def item_subtopics(values: np.ndarray) -> Subtopics:
    """Builds a table from what each item covers, [N, T], or from [contexts, N, T].

    Args:
      values: from 0 to 1: memberships, or probabilities.

    Raises:
      ValueError: another shape, or a value below 0, above 1 or NaN.

    >>> item_subtopics(np.eye(3)).rows(jnp.int32(0), jnp.array([2])).tolist()
    [[0.0, 0.0, 1.0]]
    """
    table = np.asarray(values, np.float32)
    if table.ndim not in (2, 3) or 0 in table.shape:
        raise ValueError(
            f"subtopics has the shape {list(table.shape)}; expected [items, subtopics] or [contexts, items, "
            "subtopics]"
        )
    if not np.all((table >= 0) & (table <= 1)):
        wrong = table[~((table >= 0) & (table <= 1))][0]
        raise ValueError(f"subtopics holds {wrong:g}; expected numbers from 0 to 1")
    if table.ndim == 2:
        return ItemSubtopics(jnp.asarray(table))
    contexts, items = np.nonzero(table.any(axis=2))
    return context_subtopics(contexts, items, table[contexts, items], *table.shape[:2])


def context_subtopics(
    contexts: np.ndarray, items: np.ndarray, values: np.ndarray, num_contexts: int, num_items: int
) -> ContextSubtopics:
    """Builds a table from R entries, each of a context and an item.

    Args:
      contexts: rows of contexts, int[R].
      items: rows of items, int[R]; no context has one twice.
      values: membership of each subtopic, or its probability, [R, T].
      num_contexts: number of contexts, with or without entries.
      num_items: N.

    >>> topics = context_subtopics(np.array([1, 0]), np.array([4, 2]), np.eye(2), 2, 5)
    >>> topics.rows(jnp.int32(1), jnp.array([2, 4])).tolist()
    [[0.0, 0.0], [1.0, 0.0]]
    """
    if not len(items):  # a search needs an entry to look at
        contexts, items = np.zeros(1, np.int64), np.zeros(1, np.int64)
        values = np.zeros((1, values.shape[1]))
    order = np.lexsort((items, contexts))
    counts = np.bincount(contexts, minlength=num_contexts)
    return ContextSubtopics(
        row_starts=jnp.asarray(np.concatenate([[0], np.cumsum(counts)]), jnp.int32),
        items=jnp.asarray(items[order], jnp.int32),
        values=jnp.asarray(np.asarray(values)[order], jnp.float32),
        search_steps=int(counts.max()).bit_length(),
        num_items=num_items,
    )
