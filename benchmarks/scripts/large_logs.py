"""Large logs of interactions on two cores: from the file to the table, and loading and training streamed.

    python -m benchmarks.scripts.large_logs [table|load] [--folder FOLDER] [--share SHARE]

`table` compares all methods on a million interactions, with the defaults of `compare`. `load` reads 20
million interactions with 200,000 items from CSV and from Parquet, and then makes a few streamed updates and
evaluations. Every part runs in a process of its own, whose wall time counts from its start to its end. The
logs are generated: nine of ten interactions are of the genre that the user likes at the time, and within a
genre, popularity falls as 1 / rank.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
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
from rankpg.compare import compare
from rankpg.environments import from_interactions
from rankpg.environments.interactions import Interactions
from rankpg.runs.loop import training_loop
from rankpg.runs.run import prepare

GENRES, LIKED = 50, 0.9
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


def table(file: Path) -> dict[str, Any]:
    """Reads a log and compares methods on it; called in a process of its own."""
    load_before = os.getloadavg()[0]
    data = from_interactions(file, validation_share=0.1)
    found = compare(data, on_progress=lambda sentence: print(sentence, file=sys.stderr))
    print(found.markdown, file=sys.stderr)
    return {
        "notes": found.notes,
        "methods": {row.method: row.mean("ndcg@10") for row in found.rows},
        "trials": {row.method: row.trials for row in found.rows},
        "seeds": {row.method: row.seeds for row in found.rows},
        "load_averages": [load_before, os.getloadavg()[0]],
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def in_a_process(part: str, file: Path) -> dict[str, Any]:
    """Runs a part in a process of its own, and adds the wall time of the process."""
    began = time.perf_counter()
    words = [sys.executable, "-m", "benchmarks.scripts.large_logs", part, str(file)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return {"seconds": time.perf_counter() - began, **found}


def main() -> None:
    """Measures the parts that are named, each in a process of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("part", nargs="?", choices=list(SIZES), help="part [both]")
    parser.add_argument("file", nargs="?", type=Path, help="log to run the part on, here and now")
    parser.add_argument("--folder", type=Path, default=Path("runs/large"), help="[%(default)s]")
    parser.add_argument(
        "--share", type=float, default=1.0, help="share of the users; below 1 nothing is saved [1]"
    )
    given = parser.parse_args()
    if given.file:
        print(json.dumps({"load": load, "table": table}[given.part](given.file)))
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    result = RESULTS / "large_logs.json"
    found = json.loads(result.read_text()) if result.exists() else {}
    found.pop("versions", None)
    for part in [given.part] if given.part else SIZES:
        users, *others = SIZES[part]
        log = generated(round(given.share * users), *others)
        for kind, save in (("csv", csv.write_csv), ("parquet", parquet.write_table)):
            file = given.folder / f"{part}.{kind}"
            save(log, file)
            if part == "load" or kind == "csv":
                found[f"{part}_{kind}"] = in_a_process(part, file)
                print(json.dumps(found[f"{part}_{kind}"]))
                if given.share == 1:
                    write("large_logs", found)
        del log


if __name__ == "__main__":
    main()
