"""Which start, optimizer, step size and advantage suit an estimator: successive halving.

    python -m benchmarks.scripts.sweep [--estimators ca_pg_swr ...] [--rungs 2000 4000 8000] [--keep 3]

Every estimator gets the same grid: 3 starts x 4 step sizes x 2 optimizers x 3 advantages. All of it
runs to the first rung; the best third goes on to the second, the best third of these to the third. The
instance is generated, never the paper's. Settings that differ in start and step size alone train side by side
in one program. The result is written after every estimator, so an interrupted run goes on where it was.
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

from benchmarks.scripts.common import fill_rows, give_step_sizes
from rankpg import TrainConfig
from rankpg.runs.loop import training_loop
from rankpg.runs.run import Run, prepare

ESTIMATORS = ("ca_pg_swr", "ca_pg", "top1_pg", "ca_pg_threshold", "v_pg_swr", "v_pg")
STARTS = (0.1, 0.3, 1.0)
OPTIMIZERS: dict[str, tuple[dict[str, float], tuple[float, ...]]] = {
    "adam": ({}, (3e-3, 1e-2, 3e-2, 1e-1)),
    "adagrad": ({"initial_accumulator_value": 0.0, "eps": 1e-20}, (3e-2, 1e-1, 3e-1, 1.0)),
}
TRANSFORMS = {"none": 1, "context": 1, "group": 8}
"""advantage -> draws per context; a batch is 128 draws whatever the transform"""


class Setting(NamedTuple):
    """One point of the grid."""

    optimizer: str
    transform: str
    start: float
    rate: float

    def __str__(self) -> str:
        return f"{self.optimizer} {self.rate:g}, start {self.start:g}, {self.transform}"


@dataclasses.dataclass
class Heat:
    """Settings that share one program, and where their training stands."""

    settings: list[Setting]
    run: Run

    def shares(self) -> dict[Setting, float]:
        """Share of the optimum at the last evaluation; -1 for a setting that stopped."""
        last = {r["seed"]: r for r in self.run.metrics if r["step"] == self.run.step}
        rows = [last[seed] for seed in self.run.config.seeds]
        return {
            setting: -1.0 if row["stopped_by"] else row["normalised_value"]
            for setting, row in zip(self.settings, rows, strict=True)
        }


def start_heat(estimator: str, optimizer: str, transform: str, instance_seed: int) -> Heat:
    """All starts and step sizes of one optimizer and transform, at step 0."""
    options, rates = OPTIMIZERS[optimizer]
    settings = [Setting(optimizer, transform, s, r) for s, r in itertools.product(STARTS, rates)]
    config = TrainConfig(
        estimator=estimator,
        init_scale=1.0,
        advantage=transform,
        draws_per_context=TRANSFORMS[transform],
        instance_seed=instance_seed,
        seeds=tuple(range(len(settings))),
    )
    build = optax.inject_hyperparams(getattr(optax, optimizer))
    run = prepare(config, optimizer=build(learning_rate=1.0, **options))
    starts = jnp.asarray([setting.start for setting in settings])
    run.state = run.state.replace(
        params=jax.tree.map(lambda p: p * _beside(starts, p), run.state.params)
    )
    give_step_sizes(run, [setting.rate for setting in settings])
    return Heat(settings, run)


def _beside(values, leaf):
    return values.reshape(-1, *(1,) * (leaf.ndim - 1))


def advance(heat: Heat, kept: set[Setting], num_steps: int) -> Heat:
    """Go on to `num_steps` with the settings that are kept."""
    places = [i for i, setting in enumerate(heat.settings) if setting in kept]
    seeds = tuple(heat.run.config.seeds[i] for i in places)
    config = dataclasses.replace(
        heat.run.config, num_steps=num_steps, eval_every=num_steps, seeds=seeds
    )
    state = jax.tree.map(lambda leaf: leaf[jnp.asarray(places)], heat.run.state)
    metrics = [row for row in heat.run.metrics if row["seed"] in seeds]
    run = dataclasses.replace(heat.run, config=config, state=state, metrics=metrics)
    for _ in training_loop(run):
        pass
    return Heat([heat.settings[i] for i in places], run)


def halve(estimator: str, rungs: list[int], keep: int, instance_seed: int) -> dict[str, Any]:
    """The grid of one estimator, rung by rung: every setting's share of the optimum where it was measured."""
    heats = [
        start_heat(estimator, optimizer, transform, instance_seed)
        for optimizer, transform in itertools.product(OPTIMIZERS, TRANSFORMS)
    ]
    kept = {setting for heat in heats for setting in heat.settings}
    measured: dict[str, dict[str, float]] = {}
    ranked: list[tuple[Setting, float]] = []
    for rung in rungs:
        heats = [advance(heat, kept, rung) for heat in heats if kept & set(heat.settings)]
        shares = {s: share for heat in heats for s, share in heat.shares().items()}
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
    parser.add_argument("--estimators", nargs="+", default=ESTIMATORS, choices=ESTIMATORS)
    parser.add_argument("--rungs", nargs="+", type=int, default=[2000, 4000, 8000])
    parser.add_argument("--keep", type=int, default=3, help="one in so many goes on")
    parser.add_argument("--instance-seed", type=int, default=1)
    given = parser.parse_args()
    measures = {
        estimator: partial(halve, estimator, given.rungs, given.keep, given.instance_seed)
        for estimator in given.estimators
    }
    fill_rows("sweep", measures, given.rungs[-1])


if __name__ == "__main__":
    main()
