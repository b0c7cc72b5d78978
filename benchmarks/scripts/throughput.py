"""Updates per second on the CPU: `python -m benchmarks throughput`, written to the results of the docs.

python -m benchmarks.scripts.throughput [--num-items 1000 ...]
"""

from __future__ import annotations

import sys

from benchmarks.cli import main
from benchmarks.scripts.common import RESULTS

OUT = RESULTS / "benchmark" / "cpu"

if __name__ == "__main__":
    sys.exit(main(["throughput", "--device", "cpu", "--out", str(OUT), *sys.argv[1:]]))
