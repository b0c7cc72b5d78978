"""Serves an exported policy: context ids or features in, ids of K candidates out.

It does not import rankpg, except for --rows, which computes features with the code that training used.

    python serve.py FOLDER --contexts ann bob             # an export whose contexts are ids
    python serve.py FOLDER --features features.npy        # one whose context tower reads features [B, F]
    python serve.py FOLDER --rows users.parquet           # the same, from the columns of a table
    python serve.py FOLDER --contexts ann --search faiss  # search an index instead of all items

Of an export of interactions, no candidate is an item that its context has seen: a search fetches more items
than it needs, drops those, and fetches again where too few remain. A context that has seen nearly everything
gets fewer items.

Install: pip install numpy jax flatbuffers safetensors, and faiss-cpu or usearch for their indexes. The output
is one line of JSON per context. The checksums of all files are verified on loading. They detect damage, not
tampering: the context tower is a compiled program, so load only exports that you trust.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax.export
import numpy as np
from safetensors.numpy import load_file

CHECKSUMS = {1: "sums", 2: "checksums"}
"""format -> key of the checksums in export.json"""

CONTEXTS_AT_ONCE, ITEMS_AT_ONCE = 128, 8192

Search = Callable[[np.ndarray, int], np.ndarray]
"""(queries float32[B, D], depth) -> rows int[B, depth], best first; -1 where fewer were found"""


class Server:
    """An export in memory.

    `search` is exact, faiss or usearch.
    """

    def __init__(self, folder: str | Path, search: str = "exact"):
        self.folder = Path(folder)
        self.manifest = manifest = read_manifest(self.folder)
        if search != "exact" and search not in manifest["indexes"]:
            available = ", ".join(["exact", *manifest["indexes"]])
            raise ValueError(f"the export has no index of {search}; choose one of {available}")
        self.items = load_file(self.folder / manifest["items"]["embeddings"])["embeddings"]
        ids = json.loads((self.folder / manifest["items"]["ids"]).read_text())
        self.item_ids = np.array(ids, object)  # NumPy would turn large integers into floats
        self.tower = manifest["context_tower"]
        program = (self.folder / self.tower["program"]).read_bytes()
        self.program = jax.export.deserialize(bytearray(program))
        self.embed = jax.jit(self.program.call)  # compiled once per batch size
        self.parameters = jax.device_put(load_file(self.folder / self.tower["parameters"]))
        self.row_of = {}
        if self.tower["ids"]:
            ids = json.loads((self.folder / self.tower["ids"]).read_text())
            self.row_of = {label: row for row, label in enumerate(ids)}
        self.indexes = open_indexes(self.folder, search, manifest["indexes"].get(search))
        self.seen_lists = open_seen(self.folder, manifest.get("seen"))

    def candidates(self, contexts: Any, k: int | None = None) -> np.ndarray:
        """Returns item ids object[B, k] of B context ids, or of features [B, F]; k = K of the run if None.

        A context that has seen nearly everything gets fewer items: None fills its row up.
        """
        rows = self.rows(contexts, k)
        ids = self.item_ids[rows]
        ids[rows < 0] = None
        return ids

    def rows(self, contexts: Any, k: int | None = None) -> np.ndarray:
        """Returns the candidates as rows of items, int[B, k]; -1 where a context has too few."""
        inputs, quotas = self.inputs(contexts), self.quotas(k)
        batches = [np.zeros((0, sum(quotas)), int)]
        for start in range(0, len(inputs), CONTEXTS_AT_ONCE):
            batch = inputs[start : start + CONTEXTS_AT_ONCE]
            queries = np.asarray(self.embed(self.parameters, batch))  # [B, M, D]
            batches.append(self.retrieve(queries, self.seen(batch), quotas))
        return np.concatenate(batches)

    def quotas(self, k: int | None) -> list[int]:
        """Returns the number of slots of every expert, k in all."""
        if k is None:
            return self.manifest["merge"]["quotas"]
        experts, most = self.manifest["num_experts"], self.manifest["num_items"]
        if not experts <= k <= most:
            raise ValueError(
                f"k is {k}; expected {experts} (one for each expert) to {most} (all items)"
            )
        return [k // experts + (expert < k % experts) for expert in range(experts)]

    def seen(self, inputs: np.ndarray) -> list[np.ndarray]:
        """Returns the rows of the items that each context has seen; empty where the export has none.

        Add here what your contexts have seen since the export.
        """
        if self.seen_lists is None:
            return [np.zeros(0, int)] * len(inputs)
        starts, items = self.seen_lists
        return [items[starts[row] : starts[row + 1]] for row in inputs.tolist()]

    def inputs(self, contexts: Any) -> np.ndarray:
        """Returns the inputs of the context tower: rows int32[B], or features float32[B, F]."""
        if self.tower["takes"] == "features":
            features = np.asarray(contexts, np.float32)
            if features.ndim != 2 or features.shape[1] != self.tower["width"]:
                raise ValueError(
                    f"features have shape {features.shape}; expected (B, {self.tower['width']})"
                )
            if not np.isfinite(features).all():
                row = int(np.argmin(np.isfinite(features).all(axis=1)))
                raise ValueError(f"features, row {row}, hold a number that is not finite")
            return features
        labels = list(contexts)
        for label in labels:
            # A float is rejected: it may be a rounded integer.
            if isinstance(label, float) or label not in self.row_of:
                raise ValueError(f"unknown context {label!r}")
        return np.array([self.row_of[label] for label in labels], np.int32)

    def features(self, table: Any) -> np.ndarray:
        """Returns features float32[B, F] of a table, or of its file, with the columns used in training."""
        if not self.tower.get("features"):
            raise ValueError("the export has no featurizer; pass --features FILE.npy")
        from rankpg.data.features import Featurizer

        text = (self.folder / self.tower["features"]).read_text()
        return Featurizer.from_json(text).transform(table)

    def retrieve(
        self, queries: np.ndarray, seen: list[np.ndarray], quotas: list[int]
    ) -> np.ndarray:
        """Returns k rows per context, int[B, k], from embeddings [B, M, D], none of them seen."""
        depth, count = sum(quotas), self.manifest["num_items"]
        orders = []  # int[B, K] of every expert
        for expert in range(self.manifest["num_experts"]):
            of_expert = np.ascontiguousarray(queries[:, expert])
            exact = partial(exact_order, self.items[expert])
            search = self.indexes[expert] if self.indexes else exact
            order = unseen_order(search, of_expert, depth, seen, count)
            short = np.flatnonzero((order < 0).any(axis=1))  # the index found fewer than K items
            left = [seen[row] for row in short]
            order[short] = unseen_order(exact, of_expert[short], depth, left, count)
            orders.append(order)
        return fill_slots(orders, quotas)


def unseen_order(
    search: Search, queries: np.ndarray, depth: int, seen: list[np.ndarray], num_items: int
) -> np.ndarray:
    """Returns the first `depth` rows of a search that are not seen, int[B, depth]; -1 where it found fewer.

    The first round fetches `depth` items and as many again, or less where the lists are shorter. Contexts for
    which too few remain are searched again, for twice as many items. Depth + the length of a context's own
    list is always enough, so a long list costs the others nothing.
    """
    found = np.full((len(queries), depth), -1)
    enough = np.array([min(depth + len(own), num_items) for own in seen], int)
    waiting = np.arange(len(queries))
    fetch = min(2 * depth, int(enough.max(initial=depth)))
    while len(waiting):
        for row, order in zip(waiting, search(queries[waiting], fetch), strict=True):
            kept = order[(order >= 0) & ~np.isin(order, seen[row])][:depth]
            found[row, : len(kept)] = kept
        waiting = waiting[(found[waiting, -1] < 0) & (enough[waiting] > fetch)]
        fetch = min(2 * fetch, int(enough[waiting].max(initial=0)))
    return found


def exact_order(items: np.ndarray, queries: np.ndarray, depth: int) -> np.ndarray:
    """Returns rows int[B, depth] of the largest inner products, best first, ties by lower row."""
    rows = np.zeros((len(queries), 0), int)
    scores = np.zeros((len(queries), 0), np.float32)
    for start in range(0, len(items), ITEMS_AT_ONCE):
        products = queries @ items[start : start + ITEMS_AT_ONCE].T
        numbers = np.broadcast_to(start + np.arange(products.shape[1]), products.shape)
        scores = np.concatenate([scores, products], axis=1)
        rows = np.concatenate([rows, numbers], axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
        rows, scores = np.take_along_axis(rows, best, 1), np.take_along_axis(scores, best, 1)
    return rows


def fill_slots(orders: list[np.ndarray], quotas: list[int]) -> np.ndarray:
    """Merges the experts: each takes the first items of its order that are not taken yet; -1 at the end."""
    slots = np.full((len(orders[0]), sum(quotas)), -1)
    for own, context in zip(slots, zip(*orders, strict=True), strict=True):
        taken: dict[int, None] = {}
        for order, quota in zip(context, quotas, strict=True):
            free = [row for row in order.tolist() if row >= 0 and row not in taken]
            taken |= dict.fromkeys(free[:quota])
        own[: len(taken)] = list(taken)
    return slots


def read_manifest(folder: Path) -> dict[str, Any]:
    """Reads export.json and verifies the checksum of every file."""
    if not (folder / "export.json").is_file():
        raise ValueError(f"{folder} is not an export: it has no export.json")
    manifest = json.loads((folder / "export.json").read_text())
    if manifest.get("format") not in CHECKSUMS:
        raise ValueError(
            f"{folder} has format {manifest.get('format')}; expected one of {[*CHECKSUMS]}; export it again"
        )
    checksums = manifest[CHECKSUMS[manifest["format"]]]
    for name in {file.name for file in folder.iterdir()} | {*checksums}:
        if name == "export.json":
            continue
        file, digest = folder / Path(name).name, None
        if file.is_file():
            with file.open("rb") as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()
        if digest is None or checksums.get(name) != digest:
            raise ValueError(
                f"{folder}: {name} is missing or not as it was exported; copy it again"
            )
    return manifest


def open_seen(folder: Path, entry: dict[str, Any] | None) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns where the seen items of each context start, and the items; None if the export has none."""
    if entry is None:
        return None
    with np.load(folder / Path(entry["file"]).name, allow_pickle=False) as arrays:
        return arrays[entry["row_starts"]], arrays[entry["items"]]


def open_indexes(folder: Path, search: str, entry: dict[str, Any] | None) -> list[Search]:
    """Returns one search function per expert; an empty list for exact search."""
    if entry is None:
        return []
    return [OPENERS[search](folder / Path(name).name, entry) for name in entry["files"]]


def open_faiss(file: Path, entry: dict[str, Any]) -> Search:
    """Loads an index of FAISS, which holds its search effort."""
    import faiss

    index = faiss.read_index(str(file))
    return lambda queries, depth: index.search(queries, depth)[1]


def open_usearch(file: Path, entry: dict[str, Any]) -> Search:
    """Loads an index of usearch and sets its search effort, which the file does not hold."""
    from usearch.index import Index

    index = Index.restore(str(file))
    if index is None:
        raise ValueError(f"{file} is not an index of usearch")
    index.expansion_search = entry["effort"] or 0
    return partial(search_usearch, index, entry["effort"] is None)


def search_usearch(index: Any, exact: bool, queries: np.ndarray, depth: int) -> np.ndarray:
    """Searches an index of usearch; -1 where fewer than `depth` items were found."""
    found = index.search(queries, depth, exact=exact)
    keys = np.reshape(found.keys, (len(queries), -1)).astype(np.int64)
    counts = np.reshape(getattr(found, "counts", keys.shape[1]), (-1, 1))
    keys[np.arange(keys.shape[1]) >= counts] = -1
    return np.pad(keys, ((0, 0), (0, depth - keys.shape[1])), constant_values=-1)


OPENERS: dict[str, Callable[[Path, dict[str, Any]], Search]] = {
    "faiss": open_faiss,
    "usearch": open_usearch,
}
"""name of an index -> function that loads it"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder written by `rankpg export`")
    inputs = parser.add_mutually_exclusive_group(required=True)
    inputs.add_argument("--contexts", nargs="+", metavar="ID", help="context ids")
    inputs.add_argument("--features", type=Path, metavar="FILE.npy", help="features [B, F]")
    inputs.add_argument("--rows", metavar="FILE", help="Parquet or CSV file of contexts")
    parser.add_argument(
        "--search", choices=("exact", *OPENERS), default="exact", help="[%(default)s]"
    )
    parser.add_argument("--k", type=int, metavar="INT", help="number of candidates [K of the run]")
    arguments = parser.parse_args(argv)
    try:
        lines = candidates(arguments)
    except (OSError, ValueError, TypeError, EOFError, ImportError) as error:
        print(f"serve.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    short = sum(None in ids for ids in lines)
    if short:
        print(
            f"serve.py: {short} of {len(lines)} contexts have too few items left", file=sys.stderr
        )
    for ids in lines:
        print(json.dumps([label for label in ids if label is not None]))
    return 0


def candidates(arguments: argparse.Namespace) -> list[list[Any]]:
    """Returns the item ids of every context on the command line."""
    server = Server(arguments.folder, arguments.search)
    takes, k = server.tower["takes"], arguments.k
    if (arguments.features or arguments.rows) and takes != "features":
        raise ValueError("the contexts of this export are ids; pass --contexts")
    if arguments.rows:
        return server.candidates(server.features(arguments.rows), k).tolist()
    if arguments.features:
        features = np.load(arguments.features, allow_pickle=False)
        return server.candidates(features, k).tolist()
    if takes == "features":
        raise ValueError(
            "the context tower of this export reads features; pass --rows or --features"
        )
    by_text = {str(label): label for label in server.row_of}  # the shell passes integers as text
    labels = [by_text.get(text, text) for text in arguments.contexts]
    return server.candidates(labels, k).tolist()


if __name__ == "__main__":
    sys.exit(main())
