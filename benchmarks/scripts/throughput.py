"""`python -m benchmarks throughput` on the CPU, written to where the tables of the docs come from.

python -m benchmarks.scripts.throughput [--num-items 1000 ...]
"""

from __future__ import annotations

import sys

from benchmarks.scripts.common import RESULTS
from rankpg.cli.main import main

OUT = RESULTS / "benchmark" / "cpu"

if __name__ == "__main__":
    sys.exit(main(["benchmark", "throughput", "--device", "cpu", "--out", str(OUT), *sys.argv[1:]]))
