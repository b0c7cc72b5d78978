"""Indexes over the items of one expert, searched by inner product: FAISS and usearch.

A small catalogue is searched exactly. A larger one is searched approximately: a higher search effort raises
both recall and latency. Another library is one more class and one more line in `INDEXES`.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np

from rankpg.errors import ConfigError
from rankpg.types import Float, Int

__all__ = [
    "INDEXES",
    "FaissIndex",
    "ItemIndex",
    "UsearchIndex",
    "index_choices",
    "kind_for",
    "select_indexes",
]

_CONNECTIVITY, _CONSTRUCTION_EFFORT, _SEED = 32, 200, 0
_TRAINING_ITEMS_PER_LIST = 64


@runtime_checkable
class ItemIndex(Protocol):
    """An index over the items of one expert.

    Args:
      items: embeddings float32[N, D].
      kind: `flat` for exact search, or a kind that the class supports.
    """

    approximate_kind: ClassVar[str]
    """kind for a large catalogue"""
    kind: str
    efforts: tuple[int, ...]
    """search efforts to choose from, ascending; empty where search is exact"""

    def __init__(self, items: Float[np.ndarray, "N D"], kind: str) -> None: ...

    def search(self, queries: Float[np.ndarray, "B D"], depth: int) -> Int[np.ndarray, "B depth"]:
        """Returns the rows of the largest inner products, largest first; -1 where fewer were found."""
        ...

    def set_effort(self, effort: int) -> None:
        """Sets the search effort."""
        ...

    def save(self, file: Path) -> None:
        """Saves the index as the library's own file."""
        ...

    @staticmethod
    def version() -> str:
        """Returns the version of the library; raises ModuleNotFoundError if it is missing."""
        ...


class FaissIndex:
    """FAISS index: flat, HNSW (a graph, effort efSearch) or IVF (inverted lists, effort nprobe).

    Args:
      items: float32[N, D].
      kind: flat, hnsw or ivf. For inner products IVF finds more in less time than HNSW
        (benchmarks/scripts/export_recall.py).

    >>> index = FaissIndex(np.eye(3, dtype=np.float32), "flat")
    >>> index.search(np.array([[0.0, 2.0, 1.0]], np.float32), 2).tolist()
    [[1, 2]]
    """

    approximate_kind: ClassVar[str] = "ivf"

    def __init__(self, items: Float[np.ndarray, "N D"], kind: str) -> None:
        faiss = _import("faiss")
        count, dim = items.shape
        metric = faiss.METRIC_INNER_PRODUCT
        self.kind: str = kind
        self.efforts: tuple[int, ...] = ()
        if kind == "flat":
            self.index = faiss.IndexFlatIP(dim)
        elif kind == "hnsw":
            self.index = faiss.IndexHNSWFlat(dim, _CONNECTIVITY, metric)
            self.index.hnsw.efConstruction = _CONSTRUCTION_EFFORT
            self.efforts = _doubling(64, min(count, 4096))
        else:
            lists = max(1, min(int(4 * count**0.5), count // _TRAINING_ITEMS_PER_LIST))
            self.index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, metric)
            self.index.cp.seed = _SEED
            order = np.random.default_rng(_SEED).permutation(count)
            self.index.train(items[np.sort(order[: _TRAINING_ITEMS_PER_LIST * lists])])
            self.efforts = _doubling(min(8, lists), lists)
        self.index.add(items)

    def search(self, queries: Float[np.ndarray, "B D"], depth: int) -> Int[np.ndarray, "B depth"]:
        """Returns the rows of the largest inner products, largest first; -1 where fewer were found."""
        return self.index.search(queries, depth)[1]

    def set_effort(self, effort: int) -> None:
        """Sets efSearch or nprobe, which FAISS saves with the index."""
        if self.kind == "hnsw":
            self.index.hnsw.efSearch = effort
        else:
            self.index.nprobe = effort

    def save(self, file: Path) -> None:
        """Saves a file for `faiss.read_index`."""
        _import("faiss").write_index(self.index, str(file))

    @staticmethod
    def version() -> str:
        """Returns the version of FAISS; raises ModuleNotFoundError if it is missing."""
        return _import("faiss").__version__


class UsearchIndex:
    """usearch index: HNSW (effort expansion_search), or flat, which is an exact search of the same file.

    Args:
      items: float32[N, D].
      kind: flat or hnsw.

    >>> index = UsearchIndex(np.eye(3, dtype=np.float32), "flat")
    >>> index.search(np.array([[0.0, 2.0, 1.0]], np.float32), 2).tolist()
    [[1, 2]]
    """

    approximate_kind: ClassVar[str] = "hnsw"

    def __init__(self, items: Float[np.ndarray, "N D"], kind: str) -> None:
        count, dim = items.shape
        self.kind: str = kind
        self.efforts: tuple[int, ...] = () if kind == "flat" else _doubling(64, min(count, 4096))
        self.index = _import("usearch.index").Index(
            ndim=dim, metric="ip", dtype="f32", connectivity=_CONNECTIVITY,
            expansion_add=_CONSTRUCTION_EFFORT,
        )  # fmt: skip
        self.index.add(np.arange(count, dtype=np.uint64), items)

    def search(self, queries: Float[np.ndarray, "B D"], depth: int) -> Int[np.ndarray, "B depth"]:
        """Returns the rows of the largest inner products, largest first; -1 where fewer were found."""
        found = self.index.search(queries, depth, exact=self.kind == "flat")
        keys = np.reshape(found.keys, (len(queries), -1)).astype(np.int64)
        rows = np.full((len(queries), depth), -1, np.int64)
        counts = np.atleast_1d(getattr(found, "counts", keys.shape[1]))
        for row, some, count in zip(rows, keys, counts, strict=True):
            row[:count] = some[:count]
        return rows

    def set_effort(self, effort: int) -> None:
        """Sets expansion_search, which usearch does not save: a server sets it again after loading."""
        self.index.expansion_search = effort

    def save(self, file: Path) -> None:
        """Saves a file for `usearch.index.Index.restore`."""
        self.index.save(str(file))

    @staticmethod
    def version() -> str:
        """Returns the version of usearch; raises ModuleNotFoundError if it is missing."""
        return _import("usearch").__version__


INDEXES: dict[str, type[ItemIndex]] = {"faiss": FaissIndex, "usearch": UsearchIndex}
"""name -> class; the name is also the extension of the index files"""


def index_choices() -> tuple[str, ...]:
    """Returns the values of `index=`: none, each name of `INDEXES`, all.

    >>> index_choices()
    ('none', 'faiss', 'usearch', 'all')
    """
    return ("none", *INDEXES, "all")


def select_indexes(index: str) -> tuple[str, ...]:
    """Returns the names of the indexes to build, whose libraries are installed.

    Args:
      index: none, all, or a name of `INDEXES`.

    Raises:
      ConfigError: another value.
      ModuleNotFoundError: the library of an index is missing.

    >>> select_indexes("all")
    ('faiss', 'usearch')
    """
    if index not in index_choices():
        renamed = "; 'both' is now named 'all'" if index == "both" else ""
        raise ConfigError(f"index={index!r}; expected one of {', '.join(index_choices())}{renamed}")
    names = {"none": (), "all": tuple(INDEXES)}.get(index, (index,))
    for name in names:
        INDEXES[name].version()
    return names


def kind_for(name: str, num_items: int, exact_below: int) -> str:
    """Returns `flat` for a small catalogue, and the approximate kind of the index for a larger one.

    >>> [kind_for(name, 10**5, 20_000) for name in ("faiss", "usearch")]
    ['ivf', 'hnsw']
    """
    return "flat" if num_items < exact_below else INDEXES[name].approximate_kind


def _import(module: str) -> ModuleType:
    """Imports an optional library; the error names the extra that installs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error}; an index needs it: pip install 'rankpg[export]', or pass index='none'"
        ) from error


def _doubling(first: int, last: int) -> tuple[int, ...]:
    """Returns first, 2 first, 4 first, ..., last.

    >>> _doubling(8, 50)
    (8, 16, 32, 50)
    """
    efforts = [min(first, last)]
    while efforts[-1] < last:
        efforts.append(min(2 * efforts[-1], last))
    return tuple(efforts)
