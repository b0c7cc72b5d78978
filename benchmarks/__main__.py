"""`python -m benchmarks`: the paper's tables and figures, the estimator lab, hard problems, and speed."""

from __future__ import annotations

import sys

from benchmarks.cli import main

if __name__ == "__main__":
    sys.exit(main())
