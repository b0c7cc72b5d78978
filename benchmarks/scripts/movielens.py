"""Compares rankpg with baselines on MovieLens-100k as the package `recbole` ships it.

    pip download --no-deps recbole && unzip recbole-*.whl 'recbole/dataset_example/*'
    python -m benchmarks.scripts.movielens recbole/dataset_example/ml-100k [--out FOLDER]

The last fifth of each user's ratings, all of them positive, is the test part. Of each method two settings
are tried on the last tenth of the rest, and the better one is fitted with five seeds. An interrupted script
goes on where it stopped. It takes about half an hour.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np

from benchmarks.scripts.common import RESULTS
from rankpg.compare import compare
from rankpg.environments import Dataset, from_interactions

METHODS = ("popular", "item_knn", "ease", "als", "bpr", "softmax_masked", "inclusion")


def read(folder: Path) -> Dataset:
    """Reads ml-100k.inter and the genres of ml-100k.item, which stand in one cell, separated by spaces."""
    lines = (folder / "ml-100k.item").read_text(encoding="utf-8").splitlines()[1:]
    cells = [line.split("\t") for line in lines]
    genres = {
        "item": np.array([int(row[0]) for row in cells]),
        "genre": np.array(["|".join(row[3].split()) for row in cells]),
    }
    rows = np.loadtxt(folder / "ml-100k.inter", skiprows=1, dtype=np.int64)
    log = dict(zip(("user", "item", "value", "timestamp"), rows.T, strict=True))
    log["value"] = log["value"].astype(float)
    return from_interactions(log, items=genres, split="last", validation_share=0.1)


def main() -> None:
    """Compares the methods, and copies the result to benchmarks/results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder with ml-100k.inter and ml-100k.item")
    parser.add_argument("--out", type=Path, default=Path("runs/ml-100k"), help="[%(default)s]")
    given = parser.parse_args()
    found = compare(
        read(given.folder),
        methods=METHODS,
        trials=2,
        seeds=range(5),
        minutes_per_trial=15,
        out=given.out,
        on_progress=lambda sentence: print(sentence, file=sys.stderr),
    )
    print(found.markdown)
    shutil.copyfile(given.out / "comparison.json", RESULTS / "compare_ml_100k.json")


if __name__ == "__main__":
    main()
