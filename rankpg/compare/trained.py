"""Methods that rankpg trains: the number of steps, training, and the lists of a trained policy.

settings -> number of steps -> training on the tuning data, evaluated on the way -> the best step
         -> training on all data up to this step -> lists
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from rankpg._utils.programs import compiled
from rankpg.compare.budget import Deadline
from rankpg.compare.results import MOST_CANDIDATES, Schedule, Tuned
from rankpg.config.train_config import TrainConfig
from rankpg.environments.dataset import Dataset
from rankpg.runs.held_out import HeldOut, HeldOutPart
from rankpg.runs.run import Run, prepare
from rankpg.training.moments import steps_of_epochs
from rankpg.training.update import seed_keys, train_chunk
from rankpg.types import Int

if TYPE_CHECKING:
    from rankpg.compare.stages import Stage
else:
    Stage = Any

__all__ = ["EPOCHS", "LEAST_STEPS", "Lists", "config_of", "lists_of_config", "tune_config"]

EPOCHS = 5
"""Passes over the training moments in a trial, unless they take longer than a trial may."""
LEAST_STEPS = 500
"""Updates of a trial on a small log, of which `EPOCHS` passes would be too few updates."""

_EVALUATIONS = 10
_MEASURED_STEPS = 20
_UNMEASURED_STEPS = 200
"""Trials of at most that many steps are not measured first."""
_LONGEST_CHUNK = 50
_USERS = 1024
"""Users whose lists are computed at once; bounds the logits in memory."""
_OVERHEAD = 0.8
"""Share of a trial's time that is left for updates, after evaluations; the rest of the time is compiling."""

Settings = Mapping[str, Any]


def config_of(settings: Settings, eligible: int, seeds: tuple[int, ...]) -> TrainConfig:
    """Returns the config of some settings, with numbers of candidates that fit the catalogue.

    Args:
      settings: names and values of fields of `TrainConfig`.
      eligible: smallest number of items that a user may be shown.
      seeds: trained side by side.

    >>> config = config_of({"objective": "inclusion"}, eligible=40, seeds=(0,))
    >>> config.num_candidates, config.inclusion_at
    (40, (3, 10, 30))
    """
    found = dict(settings)
    if found.get("objective") in ("inclusion", "exposure"):
        at = found.get("inclusion_at", TrainConfig.inclusion_at)
        found["inclusion_at"] = tuple(k for k in at if k < eligible) or (1,)
    candidates = max(1, min(MOST_CANDIDATES, eligible))
    if "ranking_length" in found:
        found["ranking_length"] = min(found["ranking_length"], candidates)
    return TrainConfig(num_candidates=candidates, seeds=seeds, **found)


def tune_config(
    stage: Stage,
    settings: Settings,
    seed: int,
    cutoff: int,
    seconds: float,
    start: Settings | None = None,
) -> Tuned:
    """Trains one seed, and returns the best validation metric on the way, with its step.

    Args:
      stage: a result of `stages.tuning_stage`.
      settings: names and values of fields of `TrainConfig`.
      seed: seed of the run.
      cutoff: k of the metric ndcg@k.
      seconds: most seconds of the trial; fewer passes over the data are made where `EPOCHS` take longer, and
        an evaluation after the end is the last one.
      start: settings of a run whose parameters training begins with, for half of the seconds.
    """
    config = config_of(settings, stage.eligible, (seed,))
    data, deadline = stage.data_for(config.objective), Deadline(seconds)
    schedule, first = Schedule(), None
    if start is not None:
        seconds /= 2
        before = _sized(config_of(start, stage.eligible, (seed,)), stage.data, seconds)
        first = _trained(before[0], stage.data, before[0].num_steps)
        schedule = Schedule(start_steps=before[0].num_steps, limited=before[1])
    config, limited = _sized(config, data, seconds)
    run = _begun(config, data, first)
    lists = Lists(run, stage.part, stage.depth(cutoff))
    best, best_final = (-np.inf, 0), (-np.inf, 0, 1.0)  # metric, step, and the re-ranker's weight
    for step in _training(run, _stops(config.num_steps, at_start=first is not None)):
        own, final, weight = stage.score(lists.of(0), cutoff)
        best = max(best, (own, step), key=lambda found: found[0])
        found = -np.inf if final is None else final, step, weight
        best_final = max(best_final, found, key=lambda found: found[0])
        if step < config.num_steps and deadline.over():
            break
    limited = limited or deadline.reached
    schedule = dataclasses.replace(
        schedule, steps=best[1], num_steps=config.num_steps, limited=limited or schedule.limited
    )
    if stage.final is None:
        return Tuned(best[0], schedule)
    return Tuned(best[0], schedule, *best_final)


def lists_of_config(
    stage: Stage,
    settings: Settings,
    schedules: Sequence[Schedule],
    seeds: tuple[int, ...],
    depth: int,
    start: Settings | None = None,
    deadline: Deadline | None = None,
) -> list[list[Int[np.ndarray, "n depth"]]]:
    """Trains all seeds, and returns the lists of each at the step of each schedule: -1 after the last item.

    Args:
      stage: a result of `stages.final_stage`.
      settings, start: see `tune_config`.
      schedules: those of the chosen trial, which differ in `steps` alone: one training serves them all.
      seeds: trained side by side.
      depth: length of the lists.
      deadline: read at every step that a trial evaluates; after it, the lists are those of the last step.
    """
    first, schedule = None, schedules[0]
    if start is not None:
        before = config_of(start, stage.eligible, seeds)
        before = dataclasses.replace(before, num_steps=schedule.start_steps)
        first = _trained(before, stage.data, schedule.start_steps)
    config = config_of(settings, stage.eligible, seeds)
    config = dataclasses.replace(config, num_steps=schedule.num_steps)
    run = _begun(config, stage.data_for(config.objective), first)
    lists, wanted = Lists(run, stage.part, depth), {own.steps for own in schedules}
    stops = [stop for stop in _stops(config.num_steps) if stop <= max(wanted)]
    found = {}
    for step in itertools.chain([0], _training(run, stops)):
        if step in wanted:
            found[step] = [lists.of(index) for index in range(len(seeds))]
        if deadline is not None and 0 < step < max(wanted) and deadline.over():
            last = found.get(step) or [lists.of(index) for index in range(len(seeds))]
            found |= {later: last for later in wanted if later > step}
            break
    return [found[own.steps] for own in schedules]


# --- the number of steps --------------------------------------------------------------------------


def _sized(config: TrainConfig, data: Dataset, seconds: float) -> tuple[TrainConfig, bool]:
    """Returns the config with its number of steps, and True if the seconds limit it."""
    assert data.parts is not None
    wanted = max(LEAST_STEPS, steps_of_epochs(config, data.parts, EPOCHS))
    if wanted <= _UNMEASURED_STEPS:
        return dataclasses.replace(config, num_steps=_even(wanted)), False
    began = time.perf_counter()
    of_step = _seconds_of_step(dataclasses.replace(config, num_steps=_MEASURED_STEPS), data)
    seconds -= 2 * (time.perf_counter() - began)  # training prepares and compiles once more
    allowed = max(_MEASURED_STEPS, int(_OVERHEAD * seconds / of_step))
    steps = _even(min(wanted, allowed))
    return dataclasses.replace(config, num_steps=steps), allowed < wanted


def _seconds_of_step(config: TrainConfig, data: Dataset) -> float:
    """Measures the updates of a config."""
    run = prepare(config, data)
    program, roots = _compiled(run, config.num_steps), _roots(run)
    began = time.perf_counter()
    jax.block_until_ready(program(run.learner, run.state, roots))
    return (time.perf_counter() - began) / config.num_steps


def _even(num_steps: int) -> int:
    """Rounds a number of steps down, so that all chunks have one length and one program.

    >>> [_even(steps) for steps in (7, 47, 549)]
    [7, 44, 500]
    """
    every = _every(num_steps)
    return every * (num_steps // every)


def _every(num_steps: int) -> int:
    """Number of updates between two evaluations."""
    every = max(1, num_steps // _EVALUATIONS)
    return every if every <= _LONGEST_CHUNK else every - every % _LONGEST_CHUNK


def _stops(num_steps: int, *, at_start: bool = False) -> list[int]:
    """Steps that are evaluated; the first is 0 where training begins with trained parameters."""
    every = _every(num_steps)
    return [0] * at_start + list(range(every, num_steps + 1, every))


# --- training -------------------------------------------------------------------------------------


def _begun(config: TrainConfig, data: Dataset, first: Run | None = None) -> Run:
    """Prepares a run; its parameters are those of another run if there is one."""
    run = prepare(config, data)
    if first is not None:
        run.state = dataclasses.replace(run.state, params=first.state.params)
    return run


def _trained(config: TrainConfig, data: Dataset, steps: int, first: Run | None = None) -> Run:
    """Prepares a run and trains it up to a step."""
    run = _begun(config, data, first)
    for _ in _training(run, [stop for stop in _stops(config.num_steps) if stop <= steps]):
        pass
    return run


def _training(run: Run, stops: list[int]) -> Iterator[int]:
    """Trains a run up to each of the steps, and yields them."""
    if not stops:
        return
    length = min(_every(run.config.num_steps), _LONGEST_CHUNK)
    program, roots, step = _compiled(run, length), _roots(run), 0
    for stop in stops:
        while step < stop:
            run.state, _ = program(run.learner, run.state, roots)
            jax.block_until_ready(run.state)
            step += length
        yield stop


def _compiled(run: Run, length: int) -> Any:
    inputs = run.learner, run.state, _roots(run)
    return compiled(train_chunk(run.learner, length), *inputs, donate_argnums=(1,))


def _roots(run: Run) -> Any:
    return run.copies(seed_keys(run.config.seeds, "steps"))


class Lists:
    """Compiled lists of the users of a part, by a run's state at the time of the call."""

    def __init__(self, run: Run, part: HeldOutPart, depth: int):
        self.run, self.part, self.depth = run, part, depth
        self.held_out = HeldOut(run, (min(depth, run.environment.num_items),), most=1)

    def of(self, index: int) -> Int[np.ndarray, "n depth"]:
        """Returns the lists by the parameters of one seed, given its place among the seeds."""
        params = jax.tree.map(lambda leaf: leaf[index], self.run.state.params)
        users, width = self.part.users, min(_USERS, len(self.part.users))
        found = np.full((len(users), self.depth), -1, np.int32)
        for begin in range(0, len(users), width):
            some = users[begin : begin + width]
            padded = np.pad(some, (0, width - len(some)), mode="edge")  # one program for all blocks
            lists = self.held_out.lists(params, self.part._replace(users=padded))
            found[begin : begin + len(some), : lists.shape[1]] = lists[: len(some)]
        return found
