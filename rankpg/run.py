"""A run: from a config to trained seeds, with evaluations on the way.

This is the host's side. It compiles one chunk of updates, calls it over and over, evaluates between chunks,
and hands each step of progress to whoever listens: a progress bar, a run folder, your own code.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rankpg.config import TrainConfig
from rankpg.contexts import choose_contexts, split_contexts
from rankpg.environments import Dataset, make_environment
from rankpg.evaluate import evaluate, share_aligned
from rankpg.memory import Memory, check_memory
from rankpg.pipeline import Pipeline, assemble
from rankpg.plackett_luce import greedy_candidates
from rankpg.retrieval import mask
from rankpg.training import FAULTS, REMEDIES, TrainState, init_state, train_chunk
from rankpg.types import Environment, Int

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

Row = dict[str, Any]
"""One evaluation of one seed: plain numbers, or None where there is none."""

_LONGEST_CHUNK = 50

_LARGE = 2**20
"""Contexts and items of a generated problem that is worth checking before it is generated."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    phase: str
    """compile, train or evaluate: what has just been done."""
    step: int
    steps_per_second: float | None = None
    rows: tuple[Row, ...] = ()
    """After an evaluation: one row a seed."""


@dataclass
class Run:
    """The seeds of one config: stations, state and what was measured."""

    config: TrainConfig
    environment: Environment
    pipeline: Pipeline
    state: TrainState
    """Every leaf carries a leading axis of seeds."""
    metrics: list[Row] = field(default_factory=list)
    dataset: Dataset | None = None
    """What the rows of a ratings table stand for; None for other environments."""
    memory: Memory | None = None
    """What the run was expected to need."""

    @property
    def step(self) -> int:
        """Updates asked of every seed so far; a stopped seed has done fewer."""
        return max((row["step"] for row in self.metrics), default=0)

    @property
    def policy_value(self) -> float:
        """Mean over seeds of the last evaluation."""
        last = [row["policy_value"] for row in self.metrics if row["step"] == self.step]
        return float(np.mean([np.nan if value is None else value for value in last]))

    def candidates(self, contexts: Any, seed: int | None = None) -> Any:
        """The K greedy candidates of each context, best first: what goes to your re-ranker.

        Args:
          contexts: context ids: of the dataset where the run has one, else row numbers.
          seed: which of the trained seeds answers; the first by default.

        Returns:
          Item ids [contexts, K], of the dataset where the run has one.
        """
        rows = self.context_rows(contexts)
        if seed is not None and seed not in self.config.seeds:
            raise ValueError(f"seed {seed} was not trained; the run has {self.config.seeds}")
        index = 0 if seed is None else self.config.seeds.index(seed)
        params = jax.tree.map(lambda leaf: leaf[index], self.state.params)
        items = _greedy(
            self.pipeline, self.environment, params, self.copies(jnp.asarray(rows, jnp.int32))
        )
        return self.dataset.item_ids[np.asarray(items)] if self.dataset else np.asarray(items)

    def context_rows(self, contexts: Any) -> np.ndarray:
        """Row numbers, int[n], of one context id or of a list of them.

        Raises:
          ValueError: no ids, or one that the environment does not have.
        """
        rows = np.asarray(self.dataset.context_ids.rows(contexts) if self.dataset else contexts)
        if not np.issubdtype(rows.dtype, np.integer) or rows.ndim > 1 or not rows.size:
            raise ValueError(
                f"contexts is {rows.dtype}{list(rows.shape)}; expected one context id or a list of them"
            )
        rows = np.atleast_1d(rows)
        outside = rows[(rows < 0) | (rows >= self.environment.num_contexts)]
        if outside.size:
            raise ValueError(
                f"context {outside[0]} is unknown; the environment has the contexts 0 to "
                f"{self.environment.num_contexts - 1}"
            )
        return rows

    def copies(self, tree: Any) -> Any:
        """Arrays as the run's programs take them: of a sharded run, a copy on every device."""
        return self.pipeline.placement.copy(tree)

    def state_of_hosts(self) -> Any:
        """The state in this host's memory, as it is written: whatever the devices, of N items.

        Every process of a sharded run must call it.
        """
        return self.pipeline.placement.collect(self.state)

    def stopped(self) -> list[str]:
        """One sentence for every seed that did not reach the end."""
        return [
            f"seed {seed} stopped at step {int(step)} by {FAULTS[int(fault)]}; its state is the one before "
            f"that update. {REMEDIES[int(fault)]}"
            for seed, step, fault in zip(
                self.config.seeds, *jax.device_get((self.state.step, self.state.fault)), strict=True
            )
            if fault
        ]


def train(
    config: TrainConfig | None = None,
    environment: Environment | Dataset | None = None,
    *,
    on_progress: Callable[[Run, Progress], None] | None = None,
    **stations: Any,
) -> Run:
    """Train every seed of a config and return the run.

    Args:
      config: the settings; all defaults if None.
      environment: rewards of your own; the config's if None.
      on_progress: called after every chunk and every evaluation.
      **stations: stations of your own in place of the config's: encoder, late_stage, reward_transform,
        optimizer (see `pipeline.assemble`).

    Raises:
      ConfigError, ValueError, TypeError: before anything runs, for what cannot be; see `pipeline.assemble`.

    >>> import numpy as np
    >>> from rankpg.environments import from_matrix
    >>> config = TrainConfig(num_candidates=2, num_steps=20, eval_every=10, seeds=(0,))
    >>> run = train(config, from_matrix(np.eye(6)))
    >>> [row["step"] for row in run.metrics]
    [0, 10, 20]
    """
    if config is not None and not isinstance(config, TrainConfig):
        raise TypeError(f"config is a {type(config).__name__}; expected a rankpg.TrainConfig")
    run = prepare(config or TrainConfig(), environment, **stations)
    for progress in training_loop(run):
        if on_progress is not None:
            on_progress(run, progress)
    return run


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

    One program trains, one evaluates; both are compiled before the first step. Another chunk is compiled
    only where the last stretch, or one that a resumed run begins with, is shorter than the others.
    """
    config, first = run.config, run.step
    stops = _evaluation_steps(first, config)
    longest = _chunk_length(config.eval_every)
    roots, questions = run.copies(seed_keys(config, "steps")), _questions(run)

    @lru_cache
    def chunk(length):
        return train_chunk(run.pipeline, length).lower(run.environment, run.state, roots).compile()

    if stops:
        chunk(min(longest, stops[0] - first))
    judge = _evaluator(run.pipeline).lower(run.environment, run.state.params, *questions).compile()
    yield Progress("compile", first)
    if not run.metrics:
        yield _evaluated(run, judge, questions, first, None, None)
    step = first
    for stop in stops:
        seconds, since, means = 0.0, step, []
        while step < stop:
            length = min(longest, stop - step)
            updates = chunk(length)
            began = time.perf_counter()
            run.state, metrics = updates(run.environment, run.state, roots)
            means.append(jax.device_get(metrics))  # also waits for the chunk to end
            seconds += time.perf_counter() - began
            step += length
            yield Progress("train", step, (step - since) / seconds)
        speed = (stop - since) / seconds
        yield _evaluated(run, judge, questions, step, speed, _mean(means))


def _evaluated(run: Run, judge, questions, step: int, speed: float | None, means: Any) -> Progress:
    """Evaluate every seed and append its row."""
    result = judge(run.environment, run.state.params, *questions)
    reached, faults = jax.device_get((run.state.step, run.state.fault))
    columns = _columns(result) | ({} if means is None else _columns(means))
    rows = tuple(
        {"step": step, "seed": seed}
        | {name: _number(values[index]) for name, values in columns.items()}
        | {"steps_per_second": _number(speed)}
        | _stop(int(reached[index]), int(faults[index]))
        for index, seed in enumerate(run.config.seeds)
    )
    run.metrics.extend(rows)
    return Progress("evaluate", step, speed, rows)


def _stop(reached: int, fault: int) -> Row:
    """Where and why a seed stopped; None while it trains."""
    return {
        "stopped_at_step": reached if fault else None,
        "stopped_by": FAULTS[fault] if fault else None,
    }


def _columns(record: Any) -> dict[str, np.ndarray]:
    """A record of arrays [seeds] by name."""
    return {name: np.asarray(value) for name, value in vars(jax.device_get(record)).items()}


def evaluate_run(run: Run) -> list[Row]:
    """Evaluate every seed as training does, and its alignment: one row a seed."""
    questions = _questions(run)
    result = _evaluator(run.pipeline)(run.environment, run.state.params, *questions)
    aligned = jax.vmap(partial(share_aligned, run.pipeline), in_axes=(None, 0, None))
    aligned = jax.jit(_everywhere(run.pipeline, aligned))
    columns = _columns(result)
    columns["aligned"] = np.asarray(aligned(run.environment, run.state.params, questions[0]))
    return [
        {"step": run.step, "seed": seed} | {name: _number(v[i]) for name, v in columns.items()}
        for i, seed in enumerate(run.config.seeds)
    ]


def _evaluator(pipeline: Pipeline) -> Any:
    """`judge(environment, params, contexts, keys) -> Evaluation` of every seed, compiled."""

    def judge(environment, params, contexts, key):
        return evaluate(pipeline, environment, params, contexts, key)

    return jax.jit(_everywhere(pipeline, jax.vmap(judge, in_axes=(None, 0, None, 0))))


def _everywhere(pipeline: Pipeline, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, its answer on every device of a sharded run, so that each host can read it."""
    return lambda *arguments: pipeline.placement.copies(function(*arguments))


def _questions(run: Run) -> tuple[Any, Any]:
    """The contexts that an evaluation visits, and a key a seed."""
    return run.copies((evaluation_contexts(run), seed_keys(run.config, "evaluation")))


def _evaluation_steps(first: int, config: TrainConfig) -> list[int]:
    """Multiples of eval_every after the first step, and the last step."""
    every, last = config.eval_every, config.num_steps
    return [*range((first // every + 1) * every, last, every), *([last] if last > first else [])]


def _chunk_length(eval_every: int) -> int:
    """Updates per call of the program: 50 at most, for the news, and if possible a divisor of eval_every."""
    divisors = [d for d in range(1, _LONGEST_CHUNK + 1) if eval_every % d == 0]
    return divisors[-1] if divisors[-1] >= min(eval_every, 10) else _LONGEST_CHUNK


def seed_keys(config: TrainConfig, stream: str) -> Any:
    """One key a seed, of a stream of its own."""
    streams = ("start", "steps", "evaluation")
    seeds = jnp.asarray(config.seeds, jnp.uint32)
    return jax.vmap(lambda s: jax.random.fold_in(jax.random.key(s), streams.index(stream)))(seeds)


def evaluation_contexts(run: Run) -> Int[jax.Array, "contexts"]:
    """The contexts on which a run is judged: those held out, if any; at most `eval_contexts`."""
    _, judging = split_contexts(run.environment.num_contexts, run.config.held_out_contexts)
    return jnp.asarray(choose_contexts(judging, run.config.eval_contexts))


def _greedy(pipeline: Pipeline, environment: Environment, params: Any, contexts: Any) -> Any:
    def one(context):
        logits = pipeline.logits(params, environment, context[None])[0]
        logits = mask(environment, context, logits)
        return greedy_candidates(logits, pipeline.quotas)

    return jax.lax.map(one, contexts, batch_size=min(64, contexts.shape[0]))


def _mean(chunks: list[Any]) -> Any:
    return jax.tree.map(lambda *parts: np.mean(np.stack(parts), axis=0), *chunks)


def _number(value: Any) -> float | None:
    """A float that JSON can hold; None for what is not finite."""
    return float(value) if value is not None and np.isfinite(value) else None
