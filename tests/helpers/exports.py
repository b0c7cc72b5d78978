"""Small runs, their exports, and the example server, for the tests of exports."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from rankpg import TrainConfig
from rankpg.environments.from_ratings import from_matrix
from rankpg.runs.run import prepare

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs" / "examples" / "serve.py"
Server: Any = runpy.run_path(str(SCRIPT))["Server"]
USERS, ITEMS, K = [f"user {i}" for i in range(12)], 3 * np.arange(300) + 2**53, 7

TOWERS = {
    "ids": {"context_tower": "ids", "item_tower": "ids"},
    "features": {"context_tower": "features", "item_tower": "features", "hidden": (8,)},
    "adapter": {"context_tower": "adapter", "item_tower": "given", "hidden": ()},
    "bfloat16": {"table_dtype": "bfloat16"},
}


def make_data(**more):
    """Data of 12 contexts and 300 items, with features and ids that a float cannot hold."""
    rng = np.random.default_rng(0)
    return from_matrix(
        rng.gamma(1.0, size=(len(USERS), len(ITEMS))), context_ids=USERS, item_ids=ITEMS,
        context_features=rng.normal(size=(len(USERS), 5)),
        item_features=rng.normal(size=(len(ITEMS), 5)), **more,
    )  # fmt: skip


def make_run(data=None, **settings):
    """A run at its initialisation, which serves as well as trained parameters."""
    base = {
        "num_candidates": K,
        "num_steps": 1,
        "seeds": (0, 4),
        "init_scale": 1.0,
        "temperature": 0.3,
    }
    return prepare(TrainConfig(**{**base, **settings}), data or make_data())


def inputs(run, server):
    """All contexts, in the form that this server takes."""
    features = server.manifest["context_tower"]["takes"] == "features"
    return np.asarray(run.environment.context_features) if features else USERS


def manifest_of(folder):
    """The content of export.json."""
    return json.loads((folder / "export.json").read_text())


def run_python(*arguments, blocked=()):
    """Runs Python in a process of its own, in which the blocked modules cannot be imported."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"}
    if blocked:
        hook = "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in blocked)
        starter = "import runpy\nsys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')\n"
        arguments = ("-c", hook + starter, *arguments)
    return subprocess.run(
        [sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
