"""Embeddings of items and contexts that were trained elsewhere, in the order of the rows of a dataset.

file | arrays by name | model  -> embedding_tables -> EmbeddingTable of each side -> aligned -> rows by id

Rows are found by their ids. Rows without ids are taken in their order only where the ids of the dataset are
row numbers, because nothing else says which item a row belongs to.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np

from rankpg.data.embedding_files import NAMES, listed, pick, read_arrays, read_ids
from rankpg.data.faults import in_one_line
from rankpg.data.ids import (
    ArrayLike,
    IdMap,
    TableError,
    exact_array,
    id_array,
    id_kind,
    whole_numbers,
)

__all__ = [
    "MISSING",
    "EmbeddingTable",
    "FactorModel",
    "GivenEmbeddings",
    "Source",
    "TextModel",
    "embedding_tables",
    "encode_texts",
]

MISSING = ("error", "mean", "random")
"""Policies for ids without an embedding."""

_FEW = 3
"""Ids that a message names."""


@runtime_checkable
class FactorModel(Protocol):
    """A matrix factorisation, such as a model of `implicit` or `baselines.Als`: the logit is a product."""

    @property
    def user_factors(self) -> Any: ...

    @property
    def item_factors(self) -> Any: ...


@runtime_checkable
class TextModel(Protocol):
    """A text encoder, such as a `sentence_transformers.SentenceTransformer`."""

    def encode(self, texts: list[str], /) -> Any:
        """Returns one embedding for each text, [n, D]."""
        ...


class Aligned(NamedTuple):
    """Embeddings in the order of the rows of a dataset."""

    rows: np.ndarray
    """float32[n, D]"""
    notes: tuple[str, ...]
    """Sentences about ids that only one side has."""


class EmbeddingTable(NamedTuple):
    """Embeddings of one side, with the ids of their rows; built by `embedding_tables` or `encode_texts`."""

    rows: np.ndarray
    """float32[n, D]"""
    ids: IdMap | None
    """None for rows whose ids are not known."""
    source: str
    """Their origin, for messages."""

    @classmethod
    def of(cls, rows: Any, ids: Any, side: str, source: str) -> EmbeddingTable:
        """Checks embeddings and their ids.

        Args:
          rows: floats [n, D].
          ids: ids of the rows; None if they are not known.
          side: "item" or "context".
          source: their origin, for messages.

        Raises:
          TableError: rows that are not a matrix of finite floats, an id that occurs twice, or another number
            of ids.

        >>> EmbeddingTable.of([[0.5, 1.0]], [7], "item", "items").ids.rows([7])
        array([0], dtype=int32)
        """
        array = _numpy(rows, source)
        if array.ndim != 2 or not array.size or array.dtype.kind != "f":
            raise TableError(
                f"{source}: the embeddings are {array.dtype} of shape {list(array.shape)}; expected floats "
                f"of shape [number of {side}s, D]"
            )
        known = None if ids is None else _id_map(ids, side, source)
        if known is not None and len(known) != len(array):
            raise TableError(
                f"{source}: {len(array)} rows of embeddings and {len(known)} {side} ids; expected one id for "
                "each row"
            )
        finite = np.isfinite(array).all(axis=1)
        if not finite.all():
            row = int(np.argmin(finite))
            column = int(np.argmin(np.isfinite(array[row])))
            named = f"row {row}" if known is None else f"{side} {known.one(row)!r}"
            raise TableError(
                f"{source}: the embedding of {named} holds {array[row, column]} in column {column} (counted "
                "from 0); expected finite float32 numbers: leave the row out, or fit the model again"
            )
        return cls(array, known, source)

    def aligned(self, known: IdMap, side: str, init_missing: str = "error") -> Aligned:
        """Returns the embeddings of all ids of a dataset, in the order of its rows.

        Args:
          known: ids of the dataset.
          side: "item" or "context".
          init_missing: policy for ids without an embedding. error: rejects them; mean: the mean of all given
            embeddings; random: Normal with their mean square, from a fixed seed.

        Raises:
          TableError: there are no ids, none of them is known, or one has no embedding.

        >>> table = EmbeddingTable.of([[1.0], [2.0], [3.0]], ["a", "b", "c"], "item", "items")
        >>> table.aligned(IdMap(["c", "a"]), "item").rows.tolist()
        [[3.0], [1.0]]
        """
        if init_missing not in MISSING:
            raise ValueError(f"init_missing={init_missing!r}; expected one of {', '.join(MISSING)}")
        if self.ids is None:
            return Aligned(self._in_order(known, side), ())
        places = _find(self.ids, known)
        absent = np.flatnonzero(places < 0)
        if len(absent) == len(known):
            have, want = (ids.ids[:_FEW].tolist() for ids in (self.ids, known))
            raise TableError(
                f"{self.source}: no {side} of the dataset has an embedding: the ids of the rows are such as "
                f"{_some(have)}, those of the dataset such as {_some(want)}; give the ids of the dataset, in "
                "the same type"
            )
        notes = []
        unused = len(self.ids) - (len(known) - len(absent))
        if unused:
            notes.append(
                f"{unused} of {len(self.ids)} embeddings of {self.source} are of {side}s that the dataset "
                "does not hold."
            )
        rows = self.rows[np.maximum(places, 0)]
        if len(absent):
            some = _some([known.one(row) for row in absent[:_FEW]])
            if init_missing == "error":
                raise TableError(
                    f"{self.source}: {len(absent)} of {len(known)} {side}s have no embedding, such as "
                    f"{some}; add them, or give init_missing='mean' or init_missing='random'"
                )
            rows[absent] = _FILL[init_missing](self.rows, len(absent))
            notes.append(
                f"{len(absent)} of {len(known)} {side}s, such as {some}, have no embedding in {self.source}: "
                f"they start at {_WORDS[init_missing]}."
            )
        return Aligned(rows, tuple(notes))

    def _in_order(self, known: IdMap, side: str) -> np.ndarray:
        """Returns rows without ids, whose order is only known where ids are row numbers."""
        if not known.is_range:
            raise TableError(
                f"{self.source}: {side} embeddings without ids, and the order of the rows does not say which "
                f"{side} one belongs to; give {side}_ids=, an array of that name beside them, or in a file "
                f"of its own as init_ids="
            )
        if len(self.rows) != len(known):
            raise TableError(
                f"{self.source}: {len(self.rows)} rows of {side} embeddings; expected {len(known)}, one for "
                f"each {side} of the environment, or ids as {side}_ids="
            )
        return self.rows


class GivenEmbeddings(NamedTuple):
    """Embeddings of both sides; None for a side that has none."""

    items: EmbeddingTable | None
    contexts: EmbeddingTable | None
    source: str

    def width(self) -> int:
        """D.

        Raises:
          TableError: the two sides have different widths.
        """
        widths = {table.rows.shape[1] for table in self[:2] if isinstance(table, EmbeddingTable)}
        if len(widths) > 1 and self.items is not None and self.contexts is not None:
            raise TableError(
                f"{self.source}: item embeddings have width {self.items.rows.shape[1]}, those of contexts "
                f"{self.contexts.rows.shape[1]}; expected one width, so that there is an inner product"
            )
        return widths.pop()


Source: TypeAlias = (
    "str | os.PathLike[str] | Mapping[str, Any] | FactorModel | EmbeddingTable | ArrayLike"
)
"""A file as `FILE`, `FILE::ITEMS` or `FILE::ITEMS::CONTEXTS`; arrays by name; a model; or the rows."""


def embedding_tables(
    items: Source,
    contexts: EmbeddingTable | ArrayLike | None = None,
    *,
    item_ids: ArrayLike | None = None,
    context_ids: ArrayLike | None = None,
    ids: str | os.PathLike[str] | None = None,
) -> GivenEmbeddings:
    """Reads embeddings of items, and of contexts if there are any.

    Args:
      items: rows [n, D]; a table of `encode_texts`; or a source that may hold both sides:

        - a file, npy (items alone), npz, safetensors, or a state dict of torch (pt, pth). `FILE::ITEMS` and
          `FILE::ITEMS::CONTEXTS` name its arrays; otherwise they are `items` and `contexts` or `users`, or
          the `item_factors` and `user_factors` that a model of `implicit` saves;
        - arrays by name, as a file holds them;
        - a model with `item_factors` and `user_factors`.

      contexts: rows [n, D] of the contexts (users, queries), or a table of `encode_texts`.
      item_ids, context_ids: ids of the rows. A file or arrays by name may hold them as `item_ids` and
        `context_ids` or `user_ids`.
      ids: a file of the ids: npz or safetensors with arrays of these names; npy, or txt with one id a line,
        of items alone.

    Raises:
      FileNotFoundError: a file does not exist.
      TableError: a file that cannot be read, an array that is missing, or as `EmbeddingTable.of`.
      ModuleNotFoundError: the package that reads the file is missing.

    >>> found = embedding_tables({"items": np.ones((2, 3)), "item_ids": ["a", "b"]})
    >>> found.items.rows.shape, found.contexts is None
    ((2, 3), True)
    """
    own = {"item_ids": item_ids, "context_ids": context_ids}
    held: dict[str, Any] = {} if ids is None else read_ids(ids)
    held |= {name: value for name, value in own.items() if value is not None}
    source, both = _sides(items)
    both = both | held
    if contexts is not None:
        both["contexts"] = contexts
    tables = {}
    for side in ("item", "context"):
        rows, own_ids = both.get(f"{side}s"), both.get(f"{side}_ids")
        if isinstance(rows, EmbeddingTable) or rows is None:
            tables[side] = rows
        else:
            origin = "contexts" if side == "context" and contexts is not None else source
            tables[side] = EmbeddingTable.of(rows, own_ids, side, origin)
    return GivenEmbeddings(tables["item"], tables["context"], source)


def _sides(items: Source) -> tuple[str, dict[str, Any]]:
    """Returns the name of a source and what it holds, under the names items, contexts and their ids."""
    if isinstance(items, EmbeddingTable):
        return items.source, {"items": items}
    if isinstance(items, str | os.PathLike):
        path, *names = os.fspath(items).split("::")
        return path, read_arrays(path, names)
    if isinstance(items, Mapping):
        found = pick(items, list(items), ())
        if "items" not in found:
            raise TableError(
                f"items: the arrays are named {listed(items)}; expected {' or '.join(NAMES['items'])}"
            )
        return "items", {name: items[key] for name, key in found.items()}
    if isinstance(items, FactorModel):
        name = type(items).__name__
        factors = items.item_factors, items.user_factors
        if any(factor is None for factor in factors):
            raise TableError(f"items: the {name} has no factors yet; fit it first")
        return name, dict(zip(("items", "contexts"), factors, strict=True))
    return "items", {"items": items}


def encode_texts(model: TextModel, texts: Mapping[Any, str], side: str = "item") -> EmbeddingTable:
    """Embeds texts with a model of yours, such as a sentence transformer.

    Args:
      model: has `encode(texts)`, which returns one row for each text.
      texts: id -> text.
      side: "item" or "context".

    Raises:
      TableError: the model returns another number of rows, or as `EmbeddingTable.of`.

    >>> class Lengths:
    ...     def encode(self, texts):
    ...         return np.array([[len(text), 1.0] for text in texts])
    >>> encode_texts(Lengths(), {"a": "cat", "b": "mouse"}).rows.tolist()
    [[3.0, 1.0], [5.0, 1.0]]
    """
    name = type(model).__name__
    return EmbeddingTable.of(
        model.encode(list(texts.values())), list(texts), side, f"{name}.encode"
    )


def _numpy(rows: Any, source: str) -> np.ndarray:
    """Returns floats as float32, also of a tensor of torch on any device, or of implicit on a GPU."""
    if hasattr(rows, "detach"):
        rows = rows.detach().cpu()
        rows = rows.float() if rows.is_floating_point() else rows
    convert: Callable[[], Any] | None = getattr(rows, "to_numpy", None)
    try:
        array = np.asarray(rows if convert is None else convert())
    except ValueError as cause:  # rows of different lengths
        raise TableError(
            f"{source}: the embeddings are not a matrix: {in_one_line(cause)}"
        ) from None
    with np.errstate(over="ignore"):  # of what is too large, the check of finite numbers complains
        return array.astype(np.float32) if "float" in array.dtype.name else array


def _id_map(ids: Any, side: str, source: str) -> IdMap:
    try:
        if isinstance(ids, IdMap):
            return ids
        return IdMap(id_array(exact_array(ids), side), side)
    except TableError as error:
        raise TableError(f"{source}: {error}") from None


def _find(given: IdMap, known: IdMap) -> np.ndarray:
    """Returns the row of each id of the dataset among the given ids, -1 for one without; int[n]."""
    ids = given.ids
    if (
        id_kind(ids) == "text" and id_kind(known.ids) == "number"
    ):  # "7" in a text file is the number 7
        ids = whole_numbers(ids)
    return IdMap(ids, given.kind).find(known.ids)


def _mean(rows: np.ndarray, count: int) -> np.ndarray:
    return np.broadcast_to(rows.mean(axis=0, dtype=np.float64), (count, rows.shape[1]))


def _random(rows: np.ndarray, count: int) -> np.ndarray:
    scale = float(np.sqrt(np.mean(np.square(rows, dtype=np.float64))))
    return np.random.default_rng(0).normal(0, scale, (count, rows.shape[1]))


_FILL = {"mean": _mean, "random": _random}
_WORDS = {"mean": "the mean of the others", "random": "random vectors of their length"}


def _some(ids: list[Any]) -> str:
    return ", ".join(map(repr, ids))
