"""Times PyTorch steps for another process: reads shapes and counts as JSON lines, writes seconds."""

from __future__ import annotations

import json
import sys

import torch
from pytorch_step import Problem, seconds_per_step


def main() -> None:
    """Reads orders from stdin until it is closed."""
    torch.set_num_threads(int(sys.argv[1]))
    problem = None
    print(json.dumps({"torch": torch.__version__}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "problem" in order:
            problem = None  # frees the old one before the new one is made
            problem = Problem(*order["problem"])
        print(json.dumps(seconds_per_step(problem, order["steps"])), flush=True)


if __name__ == "__main__":
    main()
