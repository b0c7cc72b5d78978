"""Large logs of interactions on two cores: from the file to the table, and loading and training streamed.

    python -m benchmarks.scripts.large_logs [table] [load] [--folder FOLDER]

`table` compares methods on a million interactions by `rankpg compare`, with one setting and one seed for
each method. `load` reads 20 million interactions with 200,000 items from CSV and from Parquet, and then makes
a few streamed updates and evaluations. Every part runs in a process of its own, whose wall time and peak
memory count from its start to its end. The logs are generated: items of the genre that a user likes at the
time come ten times as often, and popularity falls as 1 / rank.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet

from benchmarks.scripts.common import RESULTS, write
from rankpg import TrainConfig
from rankpg.environments import from_interactions
from rankpg.environments.interactions import Interactions
from rankpg.runs.loop import training_loop
from rankpg.runs.run import prepare

GENRES, LIKED = 50, 0.9
COMPARED = ["popular", "item_knn", "ease", "als", "bpr", "softmax_masked", "inclusion"]
FLAGS = ["--trials", "1", "--seeds", "0", "--minutes-per-trial", "1.5", "--methods", *COMPARED]
SIZES = {"table": (20_000, 50, 5_000), "load": (400_000, 50, 200_000)}
"""Users, interactions of each, items."""
STEPS: dict[str, Any] = {"num_steps": 20, "eval_every": 20, "eval_contexts": 64}


def generated(num_users: int, length: int, num_items: int, seed: int = 0) -> pa.Table:
    """Returns a log as a table."""
    random = np.random.default_rng(seed)
    of_genre = num_items // GENRES
    moves = random.random((num_users, length)) < 0.1
    liked = (random.integers(GENRES, size=(num_users, 1)) + np.cumsum(moves, axis=1)) % GENRES
    other = random.random((num_users, length)) > LIKED
    genre = np.where(other, random.integers(GENRES, size=other.shape), liked)
    # Popularity 1 / rank: log-uniform ranks.
    rank = np.exp(random.random(other.shape) * np.log(of_genre)).astype(np.int64) - 1
    item = genre * of_genre + rank
    columns = {  # a pair that comes twice counts once
        "user": np.repeat(np.arange(num_users), length),
        "item": item.ravel(),
        "timestamp": np.tile(np.arange(length), num_users),
    }
    return pa.table(columns)


def of_child(words: list[str]) -> dict[str, float]:
    """Runs a program of Python, and returns its wall time and peak memory."""
    before = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True)
    seconds = time.perf_counter() - before
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    return {"seconds": seconds, "peak_gib": peak}


def load(file: Path) -> dict[str, Any]:
    """Reads a log and trains on it; called in a process of its own."""
    began = time.perf_counter()
    config = TrainConfig(
        objective="softmax", retrieval="streamed", context_tower="history", embedding_dim=64,
        batch_size=256, num_candidates=100, seeds=(0,), **STEPS,
    )  # fmt: skip
    data = from_interactions(file)
    found: dict[str, Any] = {"load_seconds": time.perf_counter() - began}
    found["load_peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    world = cast("Interactions", data.environment)
    found |= {"interactions": len(world.sequence), "items": world.num_items, "notes": data.notes}
    run, began = prepare(config, data), time.perf_counter()
    for _ in training_loop(run):
        pass
    found["train_seconds"] = time.perf_counter() - began
    found["updates"] = run.config.num_steps
    found["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help="table, load [both]")
    parser.add_argument("--folder", type=Path, default=Path("runs/large"), help="[%(default)s]")
    parser.add_argument("--loads", type=Path, help=argparse.SUPPRESS)  # the process of one file
    given = parser.parse_args()
    if given.loads:
        print(json.dumps(load(given.loads)))
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    file = RESULTS / "large_logs.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    found.pop("versions", None)
    for part in given.parts or ["table", "load"]:
        log = generated(*SIZES[part])
        paths = [given.folder / f"{part}.{kind}" for kind in ("csv", "parquet")]
        csv.write_csv(log, paths[0])
        parquet.write_table(log, paths[1])
        del log
        if part == "table":
            out = given.folder / "compared"
            shutil.rmtree(out, ignore_errors=True)  # what is finished there would not be measured
            words = ["-m", "rankpg", "compare", "--path", str(paths[0]), "--out", str(out), *FLAGS]
            found[part] = of_child(words)
            text = (out / "comparison.json").read_text()
            rows = json.loads(text)["methods"]
            found[part]["methods"] = {row["method"]: row["metrics"] for row in rows}
        else:
            for path in paths:
                words = ["-m", "benchmarks.scripts.large_logs", "--loads", str(path)]
                done = subprocess.run(
                    [sys.executable, *words], check=True, stdout=subprocess.PIPE, text=True
                )
                found[f"{part}_{path.suffix[1:]}"] = json.loads(done.stdout.splitlines()[-1])
        write("large_logs", found)


if __name__ == "__main__":
    main()
