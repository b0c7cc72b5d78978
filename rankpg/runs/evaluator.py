"""Compiled evaluation and diagnostics of every seed, as rows of metrics, run every `eval_every` steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from rankpg._utils.programs import compiled
from rankpg.environments.dataset import choose_contexts
from rankpg.errors import ConfigError
from rankpg.evaluation.diagnostics import Diagnostics, diagnose, number_of_draws
from rankpg.evaluation.metrics import MetricAccumulator, Row, evaluate, share_aligned
from rankpg.runs.held_out import HeldOut
from rankpg.runs.run import Progress, Run
from rankpg.training.optimizer import Fault
from rankpg.training.update import over_seeds, seed_keys
from rankpg.types import Int

__all__ = ["Evaluator", "check_rewards", "columns_of", "evaluate_run", "evaluation_contexts"]


Result = TypeVar("Result")


class Evaluator:
    """Compiled evaluation and diagnostics of a run."""

    def __init__(self, run: Run):
        self.run, self.inputs = run, _eval_inputs(run)
        inputs = run.environment, run.state.params, *self.inputs
        self.evaluate = compiled(_evaluation_program(run), *inputs)
        config = run.config
        draws = number_of_draws(min(config.eval_every, config.num_steps))
        self.held_out = None
        if run.dataset.parts is not None:
            self.held_out = HeldOut(run, most=config.eval_contexts)
        self.diagnose = None
        if draws > 1 and run.learner.objective is None:
            examine = _diagnosis_program(run, draws)
            self.diagnose = compiled(examine, run.learner, run.state, self._keys())

    def evaluate_now(self) -> Progress:
        """Evaluates every seed, appends its row to the metrics, and starts new running means."""
        run, step, speed = self.run, self.run.step, self.run.accumulator.speed
        columns = columns_of(self.evaluate(run.environment, run.state.params, *self.inputs))
        if self.held_out is not None:
            columns |= self.held_out.columns(run.state.params)
        columns |= run.accumulator.means()
        columns |= self._diagnostics()
        reached, faults = jax.device_get((run.state.step, run.state.fault))
        rows = tuple(
            {"step": step, "seed": seed}
            | {name: _number(values[index]) for name, values in columns.items()}
            | {"steps_per_second": _number(speed)}
            | _stop(int(reached[index]), int(faults[index]))
            for index, seed in enumerate(run.config.seeds)
        )
        run.metrics.extend(rows)
        run.accumulator = MetricAccumulator()
        return Progress("evaluate", step, speed, rows)

    def _diagnostics(self) -> dict[str, Any]:
        """Diagnostics of every seed; None for each where evaluations are too close together."""
        run = self.run
        if self.diagnose is None:
            nothing = [None] * len(run.config.seeds)
            return {column.name: nothing for column in fields(Diagnostics)}
        return columns_of(self.diagnose(run.learner, run.state, self._keys()))

    def _keys(self) -> Any:
        """A key for each seed at this step."""
        roots = seed_keys(self.run.config.seeds, "diagnostics")
        return self.run.copies(jax.vmap(lambda k: jax.random.fold_in(k, self.run.step))(roots))


def _stop(reached: int, fault: int) -> Row:
    """The step and fault at which a seed stopped; None while it trains."""
    return {
        "stopped_at_step": reached if fault else None,
        "stopped_by": Fault(fault).description if fault else None,
    }


def columns_of(record: Any) -> dict[str, np.ndarray]:
    """Converts a record of arrays [seeds] to NumPy arrays by name."""
    return {name: np.asarray(value) for name, value in vars(jax.device_get(record)).items()}


def check_rewards(run: Run) -> None:
    """Rejects a run whose environment has no rewards.

    Raises:
      ConfigError: always, for such a run.
    """
    if not run.environment.knows_rewards:
        raise ConfigError(
            "this run cannot be evaluated: its environment has no rewards. If they were in memory, pass the "
            "data: load_run(path, environment=data). If they are in a file that has moved, name it: "
            "load_run(path, data_path=file)"
        )


def evaluate_run(run: Run) -> list[Row]:
    """Evaluates every seed as training does, and its alignment: one row for each seed.

    Of interactions, every metric is held out: of the test part, or, as its name says, of the validation part.

    Raises:
      ConfigError: the environment has no rewards.
    """
    check_rewards(run)
    inputs = _eval_inputs(run)
    known = run.environment, run.state.params, *inputs
    result = compiled(_evaluation_program(run), *known)(*known)
    aligned = jax.vmap(partial(share_aligned, run.policy), in_axes=(None, 0, None))
    aligned = jax.jit(_replicated(run, aligned))
    columns = columns_of(result)
    columns["aligned"] = np.asarray(aligned(run.environment, run.state.params, inputs[0]))
    if run.dataset.parts is not None:
        columns |= HeldOut(run, most=run.config.eval_contexts).columns(run.state.params)
    return [
        {"step": run.state_step, "seed": seed}
        | {name: _number(v[i]) for name, v in columns.items()}
        for i, seed in enumerate(run.config.seeds)
    ]


def _evaluation_program(run: Run) -> Any:
    """Compiles `evaluate(environment, params, contexts, keys) -> Evaluation` for every seed."""
    system = run.two_stage

    def of_seed(environment, params, contexts, key):
        return evaluate(system, environment, params, contexts, key)

    return jax.jit(_replicated(run, jax.vmap(of_seed, in_axes=(None, 0, None, 0))))


def _diagnosis_program(run: Run, draws: int) -> Any:
    """Compiles `diagnose(learner, states, keys) -> Diagnostics` for every seed."""

    def of_seed(learner, state, key):
        return diagnose(learner, state, key, draws)

    return jax.jit(_replicated(run, over_seeds(of_seed)))


def _replicated(run: Run, function: Callable[..., Result]) -> Callable[..., Result]:
    """The function with its result on every device of a sharded run, so that each host can read it."""
    sharding = run.policy.retrieval.sharding
    return lambda *arguments: sharding.replicated(function(*arguments))


def _eval_inputs(run: Run) -> tuple[Any, Any]:
    """Contexts of an evaluation, and a key for each seed."""
    return run.copies((evaluation_contexts(run), seed_keys(run.config.seeds, "evaluation")))


def evaluation_contexts(run: Run) -> Int[jax.Array, "contexts"]:
    """Contexts on which a run is evaluated: those held out, if any; at most `eval_contexts`."""
    return jnp.asarray(choose_contexts(run.evaluation_contexts, run.config.eval_contexts))


def _number(value: Any) -> float | None:
    """Converts to a float that JSON can hold; None for a value that is not finite."""
    return float(value) if value is not None and np.isfinite(value) else None
