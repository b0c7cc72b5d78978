"""Best initialisation, optimizer, learning rate and advantage of every estimator, by successive halving.

    python -m benchmarks.scripts.sweep [--estimators ca_pg_swr ...] [--rungs 2000 4000 8000] [--keep 3]

Every estimator has the same grid: 3 initialisation scales x 4 learning rates x 2 optimizers x 3 advantages.
The whole grid trains to the first rung, the best third of it to the second, and the best third of these to
the third. The instance is generated, never the paper's. Settings that differ only in initialisation and
learning rate train in one program. The result is written after every estimator, so an interrupted script
resumes.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from benchmarks.scripts.common import fill_rows, set_learning_rates
from rankpg import TrainConfig
from rankpg.runs.loop import training_loop
from rankpg.runs.run import Run, prepare
from rankpg.types import Array

ESTIMATORS = ("ca_pg_swr", "ca_pg", "top1_pg", "ca_pg_threshold", "v_pg_swr", "v_pg", "v_pg_set")
"""`ca_pg_swap` takes no advantage, and has the preset of the credit-assigned scores."""
INIT_SCALES = (0.1, 0.3, 1.0)
OPTIMIZERS: dict[str, tuple[dict[str, float], tuple[float, ...]]] = {
    "adam": ({}, (3e-3, 1e-2, 3e-2, 1e-1)),
    "adagrad": ({"initial_accumulator_value": 0.0, "eps": 1e-20}, (3e-2, 1e-1, 3e-1, 1.0)),
}
ADVANTAGES = {"none": 1, "context": 1, "group": 8}
"""advantage -> draws per context; a batch has 128 draws in every case"""
RUNGS = [2000, 4000, 8000]


class Setting(NamedTuple):
    """One point of the grid."""

    optimizer: str
    advantage: str
    init_scale: float
    learning_rate: float

    def __str__(self) -> str:
        return f"{self.optimizer} {self.learning_rate:g}, init_scale {self.init_scale:g}, {self.advantage}"


@dataclasses.dataclass
class Group:
    """Settings that share one program, and the state of their training."""

    settings: list[Setting]
    run: Run

    def shares(self) -> dict[Setting, float]:
        """Returns the share of the optimum at the last evaluation; -1 for a setting that stopped."""
        last = {r["seed"]: r for r in self.run.metrics if r["step"] == self.run.step}
        rows = [last[seed] for seed in self.run.config.seeds]
        return {
            setting: -1.0 if row["stopped_by"] else row["normalised_value"]
            for setting, row in zip(self.settings, rows, strict=True)
        }


def start_group(estimator: str, optimizer: str, advantage: str, instance_seed: int) -> Group:
    """Returns all initialisations and learning rates of one optimizer and advantage, at step 0."""
    options, rates = OPTIMIZERS[optimizer]
    settings = [
        Setting(optimizer, advantage, s, r) for s, r in itertools.product(INIT_SCALES, rates)
    ]
    config = TrainConfig(
        estimator=estimator,
        init_scale=1.0,
        advantage=advantage,
        draws_per_context=ADVANTAGES[advantage],
        instance_seed=instance_seed,
        seeds=tuple(range(len(settings))),
    )
    build = optax.inject_hyperparams(getattr(optax, optimizer))
    run = prepare(config, optimizer=build(learning_rate=1.0, **options))
    scales = jnp.asarray([setting.init_scale for setting in settings])
    run.state = run.state.replace(
        params=jax.tree.map(lambda p: p * _align(scales, p), run.state.params)
    )
    set_learning_rates(run, [setting.learning_rate for setting in settings])
    return Group(settings, run)


def _align(values: Array, leaf: Array) -> Array:
    """Reshapes values[seeds] to broadcast against a leaf[seeds, ...]."""
    return values.reshape(-1, *(1,) * (leaf.ndim - 1))


def advance(group: Group, kept: set[Setting], num_steps: int) -> Group:
    """Trains the settings that are kept to `num_steps`."""
    places = [i for i, setting in enumerate(group.settings) if setting in kept]
    seeds = tuple(group.run.config.seeds[i] for i in places)
    config = dataclasses.replace(
        group.run.config, num_steps=num_steps, eval_every=num_steps, seeds=seeds
    )
    state = jax.tree.map(lambda leaf: leaf[jnp.asarray(places)], group.run.state)
    metrics = [row for row in group.run.metrics if row["seed"] in seeds]
    run = dataclasses.replace(group.run, config=config, state=state, metrics=metrics)
    for _ in training_loop(run):
        pass
    return Group([group.settings[i] for i in places], run)


def halve(estimator: str, rungs: list[int], keep: int, instance_seed: int) -> dict[str, Any]:
    """Runs the grid of one estimator; returns every setting's share of the optimum at its rungs."""
    groups = [
        start_group(estimator, optimizer, advantage, instance_seed)
        for optimizer, advantage in itertools.product(OPTIMIZERS, ADVANTAGES)
    ]
    kept = {setting for group in groups for setting in group.settings}
    measured: dict[str, dict[str, float]] = {}
    ranked: list[tuple[Setting, float]] = []
    for rung in rungs:
        groups = [advance(group, kept, rung) for group in groups if kept & set(group.settings)]
        shares = {s: share for group in groups for s, share in group.shares().items()}
        ranked = sorted(shares.items(), key=lambda pair: -pair[1])
        measured[str(rung)] = {str(s): round(share, 5) for s, share in ranked}
        kept = {s for s, _ in ranked[: max(1, len(ranked) // keep)]}
    best, share = ranked[0]
    return {
        "steps": rungs[-1],
        "instance_seed": instance_seed,
        "best": best._asdict() | {"normalised_value": share},
        "normalised_value": measured,
        "summary": f"{best}: {share:.4f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--estimators", nargs="+", default=ESTIMATORS, choices=ESTIMATORS, help="[all]"
    )
    parser.add_argument(
        "--rungs", nargs="+", type=int, default=RUNGS, help="training steps [%(default)s]"
    )
    parser.add_argument(
        "--keep",
        type=int,
        default=3,
        help="reduction factor of a rung [%(default)s]",
    )
    parser.add_argument(
        "--instance-seed", type=int, default=1, help="generated instance [%(default)s]"
    )
    given = parser.parse_args()
    measures = {
        estimator: partial(halve, estimator, given.rungs, given.keep, given.instance_seed)
        for estimator in given.estimators
    }
    fill_rows("sweep", measures, given.rungs[-1])


if __name__ == "__main__":
    main()
