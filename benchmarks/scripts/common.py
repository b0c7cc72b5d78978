"""What every benchmark shares: where results go, what they ran on, and timing in interleaved rounds."""

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
    "give_step_sizes",
    "interleaved",
    "num_steps_given",
    "one_core",
    "write",
]

RESULTS = Path(__file__).parents[1] / "results"


def write(name: str, body: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Write a result with the hardware and versions beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.json"
    file.write_text(json.dumps({"versions": versions(), **body}, indent=1, allow_nan=False) + "\n")
    return file


def one_core() -> None:
    """Keep XLA's products on one thread; before JAX is first used."""
    os.environ["XLA_FLAGS"] = (
        f"--xla_cpu_multi_thread_eigen=false {os.environ.get('XLA_FLAGS', '')}"
    )


def num_steps_given(description: str | None, default: int) -> int:
    """--num-steps, of a script that has no other flag."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--num-steps", type=int, default=default, help="[%(default)s]")
    return parser.parse_args().num_steps


def give_step_sizes(run: Run, rates: Sequence[float]) -> None:
    """Give every seed of a run a step size of its own; its optimizer is of `optax.inject_hyperparams`."""
    state = run.state.optimizer_state
    hyperparams = state.hyperparams | {"learning_rate": jnp.asarray(rates)}
    run.state = run.state.replace(optimizer_state=state._replace(hyperparams=hyperparams))


def fill_rows(
    name: str,
    measures: dict[str, Callable[[], dict[str, Any]]],
    num_steps: int,
    folder: Path = RESULTS,
) -> None:
    """Measure every row that the result of this name does not hold at so many steps, and write after each.

    So an interrupted benchmark goes on where it was.
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
    """`fill_rows` with one row for every combination: `measure(*combination, num_steps)`."""
    measures = {
        row_name(chosen): partial(measure, *chosen, num_steps)
        for chosen in itertools.product(*choices)
    }
    fill_rows(name, measures, num_steps)


def row_name(chosen: Any) -> str:
    """What was chosen, in one word.

    >>> row_name(("uniform", ("ca_pg_swr", "none"), 0.3))
    'uniform/ca_pg_swr/none/0.3'
    """
    if isinstance(chosen, tuple):
        return "/".join(map(row_name, chosen))
    return f"{chosen:g}" if isinstance(chosen, float) else str(chosen)
