"""The training loop around a re-ranker that JAX cannot trace: act, call, update.

With `overlap`, the next batch is drawn, and the last update made, while the re-ranker works:

    draw 0 | call 0 ............ | call 1 ............ | call 2 ...
             draw 1                update 0, draw 2      update 1, draw 3

Batch n + 1 is then drawn with parameters that have not seen batch n: they are one update old when the
batch is used. The retriever's importance weights account for that. Without `overlap`, the default, every
batch is drawn with the parameters that learn from it, and the loop does what `training.update` does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from rankpg.errors import ConfigError
from rankpg.evaluation.metrics import evaluate
from rankpg.online.host_reranker import Call, HostReranker, RerankError
from rankpg.online.pending import Draw, UpdateResult
from rankpg.runs.evaluator import evaluation_contexts
from rankpg.runs.run import Progress, Run
from rankpg.training.update import seed_keys

if TYPE_CHECKING:
    from rankpg.online.retriever import Retriever
else:  # the retriever is an argument; it is imported by its users
    Retriever = Any

__all__ = ["train", "training_loop"]


def train(
    retriever: Retriever,
    reranker: HostReranker,
    *,
    num_steps: int | None = None,
    overlap: bool = False,
    on_progress: Callable[[Run, Progress], None] | None = None,
) -> Run:
    """Trains a retriever under a re-ranker in plain Python; see `training_loop`.

    >>> from rankpg import TrainConfig, environments
    >>> from rankpg.online.retriever import Retriever
    >>> config = TrainConfig(num_candidates=2, batch_size=4, num_steps=2, eval_every=2, seeds=(0,))
    >>> retriever = Retriever.new(config, environments.from_matrix(np.eye(6)))
    >>> nearest = HostReranker(lambda contexts, candidates: -abs(candidates - contexts[:, None]))
    >>> run = train(retriever, nearest)
    >>> [row["step"] for row in run.metrics]
    [0, 2]
    """
    for progress in training_loop(retriever, reranker, num_steps=num_steps, overlap=overlap):
        if on_progress is not None:
            on_progress(retriever.run, progress)
    return retriever.run


def training_loop(
    retriever: Retriever,
    reranker: HostReranker,
    *,
    num_steps: int | None = None,
    overlap: bool = False,
) -> Iterator[Progress]:
    """Trains a retriever up to `num_steps`, with an evaluation every `eval_every` updates.

    If the loop ends early, the retriever keeps its updates, and a second call continues.

    Args:
      retriever: its run's environment gives the rewards unless the re-ranker does.
      reranker: the function, and the settings of its calls.
      num_steps: total number of updates; that of the config if None.
      overlap: draw the next batch while the re-ranker works on this one.

    Raises:
      ConfigError: no source of rewards, or calls that would split groups of draws.
      RerankError: the re-ranker failed, and on_failure='stop'.
      UpdateError: an update met a value that is not finite.
    """
    run = retriever.run
    _check(run, reranker)
    evaluator = _Evaluator(retriever, reranker)
    last, every = num_steps or run.config.num_steps, run.config.eval_every
    if not run.metrics:
        yield evaluator.row(None, [])
    batches = _Batches(retriever, reranker, overlap)
    metrics, began, since = [], time.perf_counter(), retriever.step
    try:
        while retriever.step < last:
            result = batches.update_next()
            metrics += result.metrics
            for _ in result.metrics:
                yield Progress("train", result.step)
            if result.metrics and (result.step % every == 0 or result.step >= last):
                speed = (result.step - since) / (time.perf_counter() - began)
                yield evaluator.row(speed, metrics)
                metrics, began, since = [], time.perf_counter(), result.step
    finally:
        batches.discard()


class _Batches:
    """Draws in progress, and the calls for them."""

    def __init__(self, retriever: Retriever, reranker: HostReranker, overlap: bool):
        self.retriever, self.reranker, self.overlap = retriever, reranker, overlap
        self.failed_in_a_row = 0
        self.ahead: Draw | None = None
        self.called: tuple[Draw, Call] | None = None

    def update_next(self) -> UpdateResult:
        """Waits for the results of a batch, and updates on them."""
        draw, call = self.called or self._start(self.retriever.act_on_batch())
        self.called = None
        try:
            if self.overlap:
                self.ahead = self.retriever.act_on_batch()  # while the call runs
            feedback = self._collect(draw, call)
        except BaseException:
            self.retriever.discard(draw.token)
            raise
        if self.ahead is not None:
            self.called, self.ahead = self._start(self.ahead), None
        return self._update(draw, *feedback)  # while the next call runs

    def discard(self) -> None:
        """Discards draws that were made ahead."""
        waiting = [self.ahead, self.called and self.called[0]]
        self.ahead = self.called = None
        for draw in waiting:
            if draw is not None:
                self.retriever.discard(draw.token)

    def _start(self, draw: Draw) -> tuple[Draw, Call]:
        length = self.retriever.run.config.ranking_length
        return draw, self.reranker.call(draw.contexts, draw.candidates, length)

    def _collect(self, draw: Draw, call: Call) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Rows with a result, rankings of all rows, and rewards if the re-ranker returns them."""
        ranking = draw.candidates[:, : self.retriever.run.config.ranking_length].copy()
        rewards = np.zeros(ranking.shape, np.float32)
        good = np.zeros(len(ranking), bool)
        for result in call.results():
            if result.ranking is None:
                self._failed(result.failure or "")
                continue
            self.failed_in_a_row = 0
            ranking[result.rows], good[result.rows] = result.ranking, True
            if result.rewards is not None:
                rewards[result.rows] = result.rewards
        observed = rewards if self.reranker.returns == "rewards" else None
        return np.flatnonzero(good), ranking, observed

    def _failed(self, failure: str) -> None:
        self.failed_in_a_row += 1
        many = self.failed_in_a_row >= self.reranker.give_up_after
        if self.reranker.on_failure == "stop" or many:
            row = f" {self.failed_in_a_row} calls in a row failed." if many else ""
            raise RerankError(
                f"{failure}.{row} The {self.retriever.step} updates made so far are kept; this batch is "
                "discarded"
            )

    def _update(
        self, draw: Draw, rows: np.ndarray, ranking: np.ndarray, rewards: np.ndarray | None
    ) -> UpdateResult:
        if rewards is None:
            rewards = self.retriever.sample_rewards(draw, ranking)
        result = UpdateResult(self.retriever.step, self.retriever.waiting)
        if len(rows):
            result = self.retriever.update(draw.token, ranking[rows], rewards[rows], rows)
        if len(rows) < len(ranking):
            self.retriever.discard(draw.token)
        return result


def _check(run: Run, reranker: HostReranker) -> None:
    if reranker.returns != "rewards" and not run.environment.knows_rewards:
        raise ConfigError(
            f"the re-ranker has returns={reranker.returns!r}, and the environment has no rewards; give "
            "returns='rewards', or an environment with rewards"
        )
    group = run.config.draws_per_context
    if (reranker.rows_per_call or group) % group:
        raise ConfigError(
            f"rows_per_call={reranker.rows_per_call} splits the groups of draws_per_context={group}; give a "
            "multiple"
        )


class _Evaluator:
    """Evaluates greedy candidates under a host re-ranker."""

    def __init__(self, retriever: Retriever, reranker: HostReranker):
        run = retriever.run
        self.retriever, self.reranker = retriever, reranker
        self.contexts = evaluation_contexts(run)
        self.key = seed_keys(run.config.seeds, "evaluation")[0]
        self.evaluate = jax.jit(partial(evaluate, run.two_stage))
        self.mean_rewards = jax.jit(jax.vmap(type(run.environment).mean_rewards, (None, 0, 0)))

    def row(self, speed: float | None, metrics: list[dict[str, float]]) -> Progress:
        """Appends a metrics row to the run: value of the policy, and means over the updates."""
        run, step = self.retriever.run, self.retriever.step
        means = {name: float(np.mean([m[name] for m in metrics])) for name in (metrics or [{}])[0]}
        row = {"step": step, "seed": run.config.seeds[0], "policy_value": None}
        shown = None
        if self.reranker.returns != "rewards":  # else a call shows a list to a user
            shown = self._shown(run)
        if shown is not None:
            row |= self._values(run, shown)
        row |= means | {"steps_per_second": speed}
        run.metrics.append({name: _finite(value) for name, value in row.items()})
        return Progress("evaluate", step, speed, (run.metrics[-1],))

    def _values(self, run: Run, shown: np.ndarray) -> dict[str, float]:
        """Value under this re-ranker, and the measures that do not depend on it."""
        params = jax.tree.map(lambda leaf: leaf[0], run.state.params)
        found = self.evaluate(run.environment, params, self.contexts, self.key)
        rewards = self.mean_rewards(run.environment, self.contexts, shown)
        # Not by `@`: BLAS may raise a floating-point flag for numbers that are not part of the product.
        weighted = np.asarray(rewards, np.float64) * run.learner.position_weights
        value = float(np.mean(np.sum(weighted, axis=1)))
        optimum, retrieval_regret = float(found.optimum), float(found.retrieval_regret)
        return {
            "policy_value": value,
            "optimum": optimum,
            "normalised_value": value / optimum if optimum else float("nan"),
            "retrieval_regret": retrieval_regret,
            "reranker_regret": optimum - retrieval_regret - value,
            "candidate_recall": float(found.candidate_recall),
            "partitioned": float(found.partitioned),
        }

    def _shown(self, run: Run) -> np.ndarray | None:
        """Rankings int32[contexts, L] of greedy candidates; None after a failure that is skipped."""
        data, rows = run.dataset, np.asarray(self.contexts)
        ids = data.context_ids[rows]
        candidates = run.candidates(ids)
        ranking = np.empty((len(ids), run.config.ranking_length), candidates.dtype)
        for result in self.reranker.call(ids, candidates, run.config.ranking_length).results():
            if result.ranking is None and self.reranker.on_failure == "skip":
                return None
            if result.ranking is None:
                raise RerankError(
                    f"{result.failure}. It failed during an evaluation; no update is lost"
                )
            ranking[result.rows] = result.ranking
        return data.item_ids.rows(ranking)


def _finite(value: Any) -> Any:
    """Replaces a float that JSON cannot hold by None."""
    return value if not isinstance(value, float) or np.isfinite(value) else None
