"""The training loop on the host: compiled chunks of updates, with evaluations between them.

Every chunk and evaluation is yielded as `Progress`, for a progress bar, a run folder or code of your own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import lru_cache

from rankpg._utils.programs import compiled
from rankpg.config.train_config import TrainConfig
from rankpg.runs.best import is_exhausted
from rankpg.runs.evaluator import Evaluator, columns_of
from rankpg.runs.run import Progress, Run
from rankpg.training.update import seed_keys, train_chunk

__all__ = ["training_loop"]

_LONGEST_CHUNK = 50


def training_loop(run: Run) -> Iterator[Progress]:
    """Trains a run up to `config.num_steps`, and yields every chunk and evaluation.

    Programs are compiled before the first step: one trains, one evaluates, one diagnoses. Another one is
    compiled only where the last chunk, or the first one of a resumed run, is shorter than the others. A
    caller that leaves the loop keeps the run as it is, and a second loop continues it bit by bit.

    With `config.patience`, training ends once validation_ndcg@10, mean over seeds, has not risen for that
    number of evaluations. The state of the best evaluation is copied to this host's memory whenever there is
    a better one. It becomes the run's state when the loop ends, early or not, and a later loop goes on from
    it.
    """
    config = run.config
    if _has_ended(run):
        return
    run.drop_after_state()
    stops = _evaluation_steps(run.evaluated, run.step, config)
    longest = _chunk_length(config.eval_every)
    roots = run.copies(seed_keys(config.seeds, "steps"))

    @lru_cache
    def chunk(length):
        inputs = run.learner, run.state, roots
        return compiled(train_chunk(run.learner, length), *inputs, donate_argnums=(1,))

    if stops and stops[0] > run.step:
        chunk(min(longest, stops[0] - run.step))
    evaluator = Evaluator(run)
    yield Progress("compile", run.step)
    if not run.metrics:
        yield _evaluated(run, evaluator)
    elif config.patience is not None:
        run.keep_best()  # a run that was loaded
    for stop in stops:
        while run.step < stop:
            updates = chunk(min(longest, stop - run.step))
            began = time.perf_counter()
            run.state, metrics = updates(run.learner, run.state, roots)
            metrics = columns_of(metrics)  # also waits for the chunk to end
            run.accumulator.add(metrics, time.perf_counter() - began)
            yield Progress("train", run.step, run.accumulator.speed)
        yield _evaluated(run, evaluator)
        if _has_ended(run):
            break
    if config.patience is not None:
        run.restore_best()


def _evaluated(run: Run, evaluator: Evaluator) -> Progress:
    """Evaluates a run, and copies its state if it is the best one and there is patience."""
    progress = evaluator.evaluate_now()
    if run.config.patience is not None:
        run.keep_best()
    return progress


def _has_ended(run: Run) -> bool:
    """Returns True where a run's patience has ended its training."""
    patience = run.config.patience
    return patience is not None and bool(run.metrics) and is_exhausted(run.metrics, patience)


def _evaluation_steps(evaluated: int, step: int, config: TrainConfig) -> list[int]:
    """Steps that remain to be evaluated: multiples of eval_every, and the last step.

    >>> _evaluation_steps(4, 6, TrainConfig(eval_every=4, num_steps=10))
    [8, 10]
    """
    every, last = config.eval_every, config.num_steps
    first = max(evaluated + 1, step)
    return [*range(-(-first // every) * every, last, every), *([last] if last >= first else [])]


def _chunk_length(eval_every: int) -> int:
    """Updates in a call of the program: at most 50, and if possible a divisor of eval_every."""
    divisors = [d for d in range(1, _LONGEST_CHUNK + 1) if eval_every % d == 0]
    return divisors[-1] if divisors[-1] >= min(eval_every, 10) else _LONGEST_CHUNK
