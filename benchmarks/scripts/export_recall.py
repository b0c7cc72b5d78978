"""Recall and queries per second of FAISS and usearch against exact search, at N = 100,000 and D = 64.

    python -m benchmarks.scripts.export_recall                        # writes results/export_recall.json
    python -m benchmarks.scripts.export_recall --num-items 20000

The tables are random: items are normal around one of 100 centres and scaled by a log-normal factor; contexts
are normal around the same centres. Half of the contexts are searched, 64 at a time, on one core; the effort
is chosen on the other half, as `export` does.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # for FAISS, before its import

import numpy as np

from benchmarks.scripts.common import RESULTS, one_core, write
from rankpg.export.indexes import INDEXES, ItemIndex
from rankpg.export.recall import choose_effort, exact_rows, measure_recall

DIM, DEPTH, CONTEXTS, CLUSTERS, BATCH, ROUNDS = 64, 100, 1024, 100, 64, 3
WANTED = (0.9, 0.99)
ARMS = (("faiss", "flat"), ("faiss", "hnsw"), ("faiss", "ivf"), ("usearch", "hnsw"))


def make_tables(num_items: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns contexts float32[B, 1, D] and items float32[1, N, D]."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(CLUSTERS, DIM))

    def around(count: int) -> np.ndarray:
        return centres[rng.integers(CLUSTERS, size=count)] + rng.normal(size=(count, DIM))

    items = around(num_items) * np.exp(0.3 * rng.normal(size=(num_items, 1)))
    contexts = around(CONTEXTS) / DIM**0.5
    return contexts[:, None].astype(np.float32), items[None].astype(np.float32)


def queries_per_second(search: Callable[[np.ndarray], Any], queries: np.ndarray) -> float:
    """Highest rate over several rounds through all queries, one batch at a time."""
    best = np.inf
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for start in range(0, len(queries), BATCH):
            search(queries[start : start + BATCH])
        best = min(best, time.perf_counter() - began)
    return len(queries) / best


def rows_of(
    name: str, kind: str, contexts: np.ndarray, items: np.ndarray, exact: np.ndarray
) -> Iterator[dict[str, Any]]:
    """Yields one row for each target recall; one row for an exact index."""
    began = time.perf_counter()
    index: ItemIndex = INDEXES[name](items[0], kind)
    built = time.perf_counter() - began
    for wanted in WANTED if index.efforts else (1.0,):
        effort = choose_effort([index], contexts[1::2], exact[1::2], wanted)
        queries = np.ascontiguousarray(contexts[::2, 0])
        yield {
            "index": name,
            "kind": kind,
            "wanted": wanted,
            "effort": effort,
            "recall": measure_recall([index], contexts[::2], exact[::2], (DEPTH,))["candidates"],
            "queries_per_second": queries_per_second(lambda x: index.search(x, DEPTH), queries),
            "seconds_to_build": built,
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--num-items", type=int, default=100_000, help="catalogue size [%(default)s]"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="output folder [%(default)s]")
    arguments = parser.parse_args()
    one_core()
    if hasattr(os, "sched_setaffinity"):  # for usearch
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    packages = {name: index.version() for name, index in INDEXES.items()}
    contexts, items = make_tables(arguments.num_items)
    exact = exact_rows(contexts, items, DEPTH)
    speed = queries_per_second(lambda x: exact_rows(x, items, DEPTH), contexts[::2])
    rows = [{"index": "none", "kind": "exact_rows (JAX)", "wanted": 1.0, "effort": None,
             "recall": 1.0, "queries_per_second": speed, "seconds_to_build": 0.0}]  # fmt: skip
    for name, kind in ARMS:
        for row in rows_of(name, kind, contexts, items, exact):
            rows.append(row)
            print(row)
    setting = {"num_items": arguments.num_items, "dim": DIM, "depth": DEPTH, "batch": BATCH}
    setting["packages"] = packages
    print(write("export_recall", {"setting": setting, "rows": rows}, arguments.out))


if __name__ == "__main__":
    main()
