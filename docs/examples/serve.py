"""A server of an exported policy: contexts or features in, the ids of K candidates out. It needs no rankpg.
(But for --rows: features are then made by the very code that made those of training.)

    python serve.py FOLDER --contexts ann bob             # an export whose contexts are ids
    python serve.py FOLDER --features features.npy        # one whose context tower reads features [B, F]
    python serve.py FOLDER --rows users.parquet           # the same, from the columns they are made of
    python serve.py FOLDER --contexts ann --search faiss  # an index of the export in place of exact search

pip install numpy jax flatbuffers safetensors, and faiss-cpu or usearch for their indices. The answers are one
line of JSON a context. The sums of the export are checked when it is opened: they tell damage, not malice.
The context tower is a compiled program, so open exports that you trust.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax.export
import numpy as np
from safetensors.numpy import load_file

FORMAT = 1
CONTEXTS_AT_ONCE, ITEMS_AT_ONCE = 128, 8192


class Server:
    """An export in memory.

    `search` is exact, faiss or usearch.
    """

    def __init__(self, folder: str | Path, search: str = "exact"):
        self.folder = Path(folder)
        self.manifest = manifest = read_manifest(self.folder)
        if search != "exact" and search not in manifest["indexes"]:
            raise ValueError(f"the export has no index of {search}, only {[*manifest['indexes']]}")
        self.items = load_file(self.folder / manifest["items"]["embeddings"])["embeddings"]
        ids = json.loads((self.folder / manifest["items"]["ids"]).read_text())
        self.item_ids = np.array(ids, object)  # as they are: of large integers NumPy makes floats
        self.tower = manifest["context_tower"]
        program = (self.folder / self.tower["program"]).read_bytes()
        self.program = jax.export.deserialize(bytearray(program))
        self.embed = jax.jit(self.program.call)  # compiled once for each size of batch
        self.parameters = jax.device_put(load_file(self.folder / self.tower["parameters"]))
        self.row_of = {}
        if self.tower["ids"]:
            ids = json.loads((self.folder / self.tower["ids"]).read_text())
            self.row_of = {label: row for row, label in enumerate(ids)}
        self.indexes = open_indexes(self.folder, search, manifest["indexes"].get(search))

    def candidates(self, contexts: Any) -> np.ndarray:
        """Item ids object[B, K], strings or ints, of B context ids, or of features [B, F]."""
        return self.item_ids[self.rows(contexts)]

    def rows(self, contexts: Any) -> np.ndarray:
        """The same as row numbers of items, int[B, K]."""
        inputs = self.inputs(contexts)
        answers = [np.zeros((0, self.manifest["num_candidates"]), int)]
        for start in range(0, len(inputs), CONTEXTS_AT_ONCE):
            some = inputs[start : start + CONTEXTS_AT_ONCE]
            queries = np.asarray(self.embed(self.parameters, some))  # [B, M, D]
            answers.append(self.retrieve(queries))
        return np.concatenate(answers)

    def inputs(self, contexts: Any) -> np.ndarray:
        """What the context tower takes: rows int32[B], or features float32[B, F]."""
        if self.tower["takes"] == "features":
            features = np.asarray(contexts, np.float32)
            if features.ndim != 2 or features.shape[1] != self.tower["width"]:
                raise ValueError(
                    f"features are {features.shape}; expected (B, {self.tower['width']})"
                )
            if not np.isfinite(features).all():
                row = int(np.argmin(np.isfinite(features).all(axis=1)))
                raise ValueError(f"features, row {row}, hold a number that is not finite")
            return features
        labels = list(contexts)
        for label in labels:
            if (
                isinstance(label, float) or label not in self.row_of
            ):  # a float may have been rounded
                raise ValueError(f"unknown context {label!r}")
        return np.array([self.row_of[label] for label in labels], np.int32)

    def features(self, table: Any) -> np.ndarray:
        """Features float32[B, F] of a table, or the file of one, with the columns that training read."""
        if not self.tower.get("features"):
            raise ValueError(
                "the export does not say how its features were made: give --features FILE.npy"
            )
        from rankpg.data.features import Featurizer

        known = (self.folder / self.tower["features"]).read_text()
        return Featurizer.from_json(known).transform(table)

    def retrieve(self, queries: np.ndarray) -> np.ndarray:
        """K rows a context, int[B, K], from embeddings [B, M, D]."""
        depth = self.manifest["num_candidates"]
        orders = []  # int[B, K] of every expert
        for expert in range(self.manifest["num_experts"]):
            asked = np.ascontiguousarray(queries[:, expert])
            order = np.full((len(asked), depth), -1)
            if self.indexes:
                order = self.indexes[expert](asked, depth)
            short = (order < 0).any(axis=1)  # without an index, or where it found too few
            order[short] = exact_order(asked[short], self.items[expert], depth)
            orders.append(order)
        return fill_slots(orders, self.manifest["merge"]["quotas"])


def exact_order(queries: np.ndarray, items: np.ndarray, depth: int) -> np.ndarray:
    """Rows int[B, depth] of largest inner product, best first; ties go to the lower row."""
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
    """The merge rule: expert after expert takes the first of its order that nobody has taken."""
    slots = []
    for context in zip(*orders, strict=True):
        taken: dict[int, None] = {}
        for order, quota in zip(context, quotas, strict=True):
            taken |= dict.fromkeys([row for row in order.tolist() if row not in taken][:quota])
        slots.append(list(taken))
    return np.array(slots, int).reshape(-1, sum(quotas))


def read_manifest(folder: Path) -> dict[str, Any]:
    """export.json, once every file is as it was written."""
    if not (folder / "export.json").is_file():
        raise ValueError(f"{folder} is no export: it has no export.json")
    manifest = json.loads((folder / "export.json").read_text())
    if manifest.get("format") != FORMAT:
        raise ValueError(
            f"{folder} has format {manifest.get('format')}; this server reads {FORMAT}"
        )
    for name in {file.name for file in folder.iterdir()} | {*manifest["sums"]}:
        if name == "export.json":
            continue
        file, digest = folder / Path(name).name, None
        if file.is_file():
            with file.open("rb") as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()
        if digest is None or manifest["sums"].get(name) != digest:
            raise ValueError(
                f"{folder}: {name} is missing or not as it was exported; copy it again"
            )
    return manifest


def open_indexes(folder: Path, search: str, known: dict[str, Any] | None) -> list[Any]:
    """One function `(queries, depth) -> rows` an expert; none for exact search."""
    if known is None:
        return []
    files = [str(folder / Path(name).name) for name in known["files"]]
    if search == "faiss":
        import faiss

        indexes = [faiss.read_index(file) for file in files]
        return [lambda queries, depth, i=i: i.search(queries, depth)[1] for i in indexes]

    from usearch.index import Index

    def ask(queries, depth, index):
        found = index.search(queries, depth, exact=known["effort"] is None)
        keys = np.reshape(found.keys, (len(queries), -1)).astype(np.int64)
        counts = np.reshape(getattr(found, "counts", keys.shape[1]), (-1, 1))
        keys[np.arange(keys.shape[1]) >= counts] = -1
        return np.pad(keys, ((0, 0), (0, depth - keys.shape[1])), constant_values=-1)

    def load(file):
        index = Index.restore(file)
        if index is None:
            raise ValueError(f"{file} is no index of usearch")
        index.expansion_search = known["effort"] or 0  # the file does not keep it
        return index

    return [partial(ask, index=load(file)) for file in files]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="what `rankpg export` wrote")
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--contexts", nargs="+", metavar="ID")
    asked.add_argument("--features", type=Path, metavar="FILE.npy", help="numbers [B, F]")
    asked.add_argument("--rows", metavar="FILE", help="a Parquet or CSV file of contexts")
    parser.add_argument("--search", choices=("exact", "faiss", "usearch"), default="exact")
    arguments = parser.parse_args(argv)
    try:
        answers = answer(arguments)
    except (OSError, ValueError, TypeError, EOFError, ImportError) as error:
        print(f"serve.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    for ids in answers:
        print(json.dumps(ids))
    return 0


def answer(arguments: argparse.Namespace) -> list[list[Any]]:
    """Item ids of every context that was asked for."""
    server = Server(arguments.folder, arguments.search)
    takes = server.tower["takes"]
    if (arguments.features or arguments.rows) and takes != "features":
        raise ValueError("this export's contexts are ids: give --contexts")
    if arguments.rows:
        return server.candidates(server.features(arguments.rows)).tolist()
    if arguments.features:
        return server.candidates(np.load(arguments.features, allow_pickle=False)).tolist()
    if takes == "features":
        raise ValueError("this export's context tower reads features: give --rows or --features")
    by_text = {str(label): label for label in server.row_of}  # integers, as the shell has them
    return server.candidates([by_text.get(text, text) for text in arguments.contexts]).tolist()


if __name__ == "__main__":
    sys.exit(main())
