"""Helpers of the scripts: results with hardware and versions, resumable rows, timing."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from benchmarks.timing import interleaved
from rankpg._version import versions
from rankpg.runs.run import Run

__all__ = [
    "RESULTS",
    "fill_products",
    "fill_rows",
    "interleaved",
    "num_steps_given",
    "one_core",
    "set_learning_rates",
    "write",
]

RESULTS = Path(__file__).parents[1] / "results"


def write(name: str, body: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Writes a result with its hardware and versions; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.json"
    file.write_text(json.dumps({"versions": versions(), **body}, indent=1, allow_nan=False) + "\n")
    return file


def one_core() -> None:
    """Restricts XLA's products to one thread; must be called before JAX is used."""
    os.environ["XLA_FLAGS"] = (
        f"--xla_cpu_multi_thread_eigen=false {os.environ.get('XLA_FLAGS', '')}"
    )


def num_steps_given(description: str | None, default: int) -> int:
    """Parses the command line of a script whose only flag is the number of steps."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--num-steps", type=int, default=default, help="training steps [%(default)s]"
    )
    return parser.parse_args().num_steps


def set_learning_rates(run: Run, rates: Sequence[float]) -> None:
    """Gives every seed of a run its own learning rate; the optimizer is an `optax.inject_hyperparams`."""
    state = run.state.optimizer_state
    hyperparams = state.hyperparams | {"learning_rate": jnp.asarray(rates)}
    run.state = run.state.replace(optimizer_state=state._replace(hyperparams=hyperparams))


def fill_rows(
    name: str,
    measures: dict[str, Callable[[], dict[str, Any]]],
    num_steps: int,
    folder: Path = RESULTS,
) -> None:
    """Measures every row that the result file lacks at `num_steps`, and writes the file after each.

    An interrupted script therefore resumes where it stopped.
    """
    file = folder / f"{name}.json"
    rows = json.loads(file.read_text())["rows"] if file.exists() else {}
    for row, measure in measures.items():
        if rows.get(row, {}).get("steps", 0) < num_steps:
            rows[row] = measure()
            write(name, {"rows": rows}, folder)
            print(f"{row:<36} {rows[row]['summary']}", file=sys.stderr)


def fill_products(
    name: str, measure: Callable[..., dict[str, Any]], num_steps: int, *choices: Sequence[Any]
) -> None:
    """Calls `fill_rows` with one row per combination of choices: `measure(*combination, num_steps)`."""
    measures = {
        row_name(chosen): partial(measure, *chosen, num_steps)
        for chosen in itertools.product(*choices)
    }
    fill_rows(name, measures, num_steps)


def row_name(chosen: Any) -> str:
    """Name of a combination of choices, joined by slashes.

    >>> row_name(("uniform", ("ca_pg_swr", "none"), 0.3))
    'uniform/ca_pg_swr/none/0.3'
    """
    if isinstance(chosen, tuple):
        return "/".join(map(row_name, chosen))
    return f"{chosen:g}" if isinstance(chosen, float) else str(chosen)
