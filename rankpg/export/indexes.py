"""Indices over the items of one expert for the largest inner product: FAISS and usearch behind one face.

A small catalogue is searched exactly. A larger one is searched in part, and how much of it is the index's
effort: the more, the higher the recall, and the slower.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from rankpg.errors import ConfigError

__all__ = ["INDEXES", "FaissIndex", "ItemIndex", "UsearchIndex", "check_installed", "kind_for"]

_CONNECTIVITY, _EFFORT_OF_BUILDING, _SEED = 32, 200, 0
_PER_LIST = 64
"""Items to a list, on average, that its centre is fitted to."""


class FaissIndex:
    """An index of FAISS: flat, HNSW (a graph) or IVF (inverted lists); efforts are efSearch or nprobe.

    Args:
      items: float32[N, D].
      kind: flat, hnsw or ivf.

    >>> index = FaissIndex(np.eye(3, dtype=np.float32), "flat")
    >>> index.search(np.array([[0.0, 2.0, 1.0]], np.float32), 2).tolist()
    [[1, 2]]
    """

    def __init__(self, items: np.ndarray, kind: str):
        faiss = _import("faiss")
        count, dim = items.shape
        metric = faiss.METRIC_INNER_PRODUCT
        self.kind: str = kind
        self.efforts: tuple[int, ...] = ()
        if kind == "flat":
            self.index = faiss.IndexFlatIP(dim)
        elif kind == "hnsw":
            self.index = faiss.IndexHNSWFlat(dim, _CONNECTIVITY, metric)
            self.index.hnsw.efConstruction = _EFFORT_OF_BUILDING
            self.efforts = _doubling(64, min(count, 4096))
        else:
            lists = max(1, min(int(4 * count**0.5), count // _PER_LIST))
            self.index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, metric)
            self.index.cp.seed = _SEED
            some = np.random.default_rng(_SEED).permutation(count)[: _PER_LIST * lists]
            self.index.train(items[np.sort(some)])
            self.efforts = _doubling(min(8, lists), lists)
        self.index.add(items)

    def search(self, queries: np.ndarray, depth: int) -> np.ndarray:
        """Rows int64[B, depth] of the largest inner products, largest first; -1 where fewer were found."""
        return self.index.search(queries, depth)[1]

    def set_effort(self, effort: int) -> None:
        """It stays with the file."""
        if self.kind == "hnsw":
            self.index.hnsw.efSearch = effort
        else:
            self.index.nprobe = effort

    @staticmethod
    def version() -> str:
        """Of the package; ModuleNotFoundError without it."""
        return _import("faiss").__version__

    def save(self, file: Path) -> None:
        _import("faiss").write_index(self.index, str(file))


class UsearchIndex:
    """An index of usearch: HNSW, or the same file searched exactly (flat); efforts are expansion_search.

    Args:
      items: float32[N, D].
      kind: flat or hnsw.

    >>> index = UsearchIndex(np.eye(3, dtype=np.float32), "flat")
    >>> index.search(np.array([[0.0, 2.0, 1.0]], np.float32), 2).tolist()
    [[1, 2]]
    """

    def __init__(self, items: np.ndarray, kind: str):
        index = _import("usearch.index").Index
        count, dim = items.shape
        self.kind = kind
        self.efforts = () if kind == "flat" else _doubling(64, min(count, 4096))
        self.index = index(
            ndim=dim, metric="ip", dtype="f32", connectivity=_CONNECTIVITY,
            expansion_add=_EFFORT_OF_BUILDING,
        )  # fmt: skip
        self.index.add(np.arange(count, dtype=np.uint64), items)

    def search(self, queries: np.ndarray, depth: int) -> np.ndarray:
        """As `FaissIndex.search`."""
        found = self.index.search(queries, depth, exact=self.kind == "flat")
        keys = np.reshape(found.keys, (len(queries), -1)).astype(np.int64)
        rows = np.full((len(queries), depth), -1, np.int64)
        counts = np.atleast_1d(getattr(found, "counts", keys.shape[1]))
        for row, some, count in zip(rows, keys, counts, strict=True):
            row[:count] = some[:count]
        return rows

    def set_effort(self, effort: int) -> None:
        """It does not stay with the file: whoever loads that must set it again."""
        self.index.expansion_search = effort

    @staticmethod
    def version() -> str:
        """As `FaissIndex.version`."""
        return _import("usearch").__version__

    def save(self, file: Path) -> None:
        self.index.save(str(file))


ItemIndex: TypeAlias = FaissIndex | UsearchIndex

INDEXES: dict[str, Any] = {"faiss": FaissIndex, "usearch": UsearchIndex}
"""name -> class"""


def kind_for(name: str, num_items: int, exact_below: int) -> str:
    """Flat for a small catalogue; for a larger one ivf of FAISS, and hnsw of usearch.

    For inner products FAISS's lists find more in less time than its graph
    (benchmarks/scripts/export_recall.py).

    >>> [kind_for(name, 10**5, 20_000) for name in ("faiss", "usearch")]
    ['ivf', 'hnsw']
    """
    if num_items < exact_below:
        return "flat"
    return {"faiss": "ivf", "usearch": "hnsw"}[name]


def check_installed(names: Sequence[str]) -> None:
    """Refuse an index whose package is not there, before anything is computed: ModuleNotFoundError."""
    for name in names:
        if name not in INDEXES:
            raise ConfigError(f"--index is {name}; expected none, both, {', '.join(INDEXES)}")
        INDEXES[name].version()


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error}; an index needs it: pip install 'rankpg[export]', or choose --index none"
        ) from error


def _doubling(first: int, last: int) -> tuple[int, ...]:
    """first, twice that, and so on, up to last.

    >>> _doubling(8, 50)
    (8, 16, 32, 50)
    """
    efforts = [min(first, last)]
    while efforts[-1] < last:
        efforts.append(min(2 * efforts[-1], last))
    return tuple(efforts)
