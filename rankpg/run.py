"""A run: from a config to trained seeds, with evaluations on the way.

This is the host's side. It compiles one chunk of updates, calls it over and over, evaluates between chunks,
and hands each step of progress to whoever listens: a progress bar, a run folder, your own code.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from rankpg.assembly import assemble
from rankpg.config import ConfigError, TrainConfig
from rankpg.environments import Dataset, make_environment
from rankpg.judging import Judge, columns_of, evaluate_run, evaluation_contexts, seed_keys
from rankpg.memory import check_memory
from rankpg.run_state import Progress, Run
from rankpg.training import init_state, train_chunk
from rankpg.types import Environment

if TYPE_CHECKING:
    from rankpg.run_folder import RunFolder

__all__ = [
    "Progress",
    "Run",
    "evaluate_run",
    "evaluation_contexts",
    "prepare",
    "seed_keys",
    "train",
    "training_loop",
]

_LONGEST_CHUNK = 50

_LARGE = 2**20
"""Contexts and items of a generated problem that is worth checking before it is generated."""


def train(
    config: TrainConfig | None = None,
    environment: Environment | Dataset | None = None,
    *,
    out: Path | str | RunFolder | None = None,
    resume: bool = False,
    on_progress: Callable[[Run, Progress], None] | None = None,
    **stations: Any,
) -> Run:
    """Train every seed of a config and return the run.

    Args:
      config: the settings; all defaults if None.
      environment: rewards of your own; the config's if None.
      out: the folder of the run, where every evaluation is saved at once (`load_run` reads it back), or a
        `RunFolder`, which says how it is kept; None writes nothing.
      resume: whether to go on with the run of that folder instead of beginning one.
      on_progress: called after every chunk and every evaluation.
      **stations: stations of your own in place of the config's: encoder, late_stage, reward_transform,
        optimizer (see `assembly.assemble`).

    Raises:
      ConfigError, ValueError, TypeError: before anything runs, for what cannot be; see `assembly.assemble`,
        `RunFolder.open` and `RunFolder.resume`.
      SaveError: the disk does not take it.

    >>> import numpy as np
    >>> from rankpg.environments import from_matrix
    >>> config = TrainConfig(num_candidates=2, num_steps=20, eval_every=10, seeds=(0,))
    >>> run = train(config, from_matrix(np.eye(6)))
    >>> [row["step"] for row in run.metrics]
    [0, 10, 20]
    """
    if config is not None and not isinstance(config, TrainConfig):
        raise TypeError(f"config is a {type(config).__name__}; expected a rankpg.TrainConfig")
    folder = None if out is None else _folder(out)
    if resume and folder is None:
        raise ConfigError("resume=True needs out=, the folder of the run that goes on")
    if folder is not None and not resume:
        folder.check_free()  # before anything is read or compiled
    run = prepare(config or TrainConfig(), environment, **stations)
    try:
        if folder is not None:
            folder.resume(run) if resume else folder.open(run)
        for progress in training_loop(run):
            if folder is not None:
                folder.follow(run, progress)
            if on_progress is not None:
                on_progress(run, progress)
    finally:
        problem = None if folder is None else folder.close(run)
        if problem:
            warnings.warn(problem, stacklevel=2)
    return run


def _folder(out: Path | str | RunFolder) -> RunFolder:
    # Not above: it also reads runs back, for which it prepares them.
    from rankpg.run_folder import RunFolder

    return out if isinstance(out, RunFolder) else RunFolder(out)


def prepare(
    config: TrainConfig, environment: Environment | Dataset | None = None, **stations: Any
) -> Run:
    """A run at step 0: settings resolved, stations assembled and checked, parameters drawn."""
    config = config.resolve()
    if environment is None:
        _check_before_generating(config)
    source = make_environment(config) if environment is None else environment
    dataset = source if isinstance(source, Dataset) else None
    world = source.environment if isinstance(source, Dataset) else source
    pipeline = assemble(config, world, **stations)
    memory = check_memory(pipeline, world, len(config.seeds))
    place = pipeline.placement

    def start(keys):
        return place.constrain(jax.vmap(lambda key: init_state(pipeline, key))(keys))

    keys, world = place.copy((seed_keys(config, "start"), world))
    return Run(config, world, pipeline, jax.jit(start)(keys), dataset=dataset, memory=memory)


def _check_before_generating(config: TrainConfig) -> None:
    """Refuse a large generated problem that will not fit, from shapes alone: before any of it is made."""
    if config.environment != "synthetic" or config.num_items + config.num_contexts < _LARGE:
        return
    # What needs numbers, and takes little memory, is left for later.
    plain = replace(config, late_stage="optimal", adaptive_learning_rate=False)

    def from_shapes():
        world = make_environment(plain)
        assert not isinstance(world, Dataset)
        check_memory(assemble(plain, world), world, len(plain.seeds))

    jax.eval_shape(from_shapes)


def training_loop(run: Run) -> Iterator[Progress]:
    """Bring a run from its step to `config.num_steps`, and tell of every chunk and evaluation.

    Programs are compiled before the first step: one trains, one evaluates, one diagnoses. Another chunk is
    compiled only where the last stretch, or one that a resumed run begins with, is shorter than the others.
    Whoever leaves the loop has the run as it is: a second one goes on from there, as if it had been one.
    """
    config = run.config
    stops = _evaluation_steps(run.evaluated, run.step, config)
    longest = _chunk_length(config.eval_every)
    roots = run.copies(seed_keys(config, "steps"))

    @lru_cache
    def chunk(length):
        return train_chunk(run.pipeline, length).lower(run.environment, run.state, roots).compile()

    if stops and stops[0] > run.step:
        chunk(min(longest, stops[0] - run.step))
    judge = Judge(run)
    yield Progress("compile", run.step)
    if not run.metrics:
        yield judge.evaluated()
    for stop in stops:
        while run.step < stop:
            updates = chunk(min(longest, stop - run.step))
            began = time.perf_counter()
            run.state, metrics = updates(run.environment, run.state, roots)
            metrics = columns_of(metrics)  # also waits for the chunk to end
            run.stretch.add(metrics, time.perf_counter() - began)
            yield Progress("train", run.step, run.stretch.speed)
        yield judge.evaluated()


def _evaluation_steps(evaluated: int, step: int, config: TrainConfig) -> list[int]:
    """Multiples of eval_every that are still to be evaluated, and the last step.

    >>> _evaluation_steps(4, 6, TrainConfig(eval_every=4, num_steps=10))
    [8, 10]
    """
    every, last = config.eval_every, config.num_steps
    first = max(evaluated + 1, step)
    return [*range(-(-first // every) * every, last, every), *([last] if last >= first else [])]


def _chunk_length(eval_every: int) -> int:
    """Updates per call of the program: 50 at most, for the news, and if possible a divisor of eval_every."""
    divisors = [d for d in range(1, _LONGEST_CHUNK + 1) if eval_every % d == 0]
    return divisors[-1] if divisors[-1] >= min(eval_every, 10) else _LONGEST_CHUNK
