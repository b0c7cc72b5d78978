"""The host's loop around a re-ranker that JAX cannot trace: draw, call, learn.

It is ask and tell with the re-ranker in between. With `overlap` the next batch is drawn, and the last one
learnt, while the re-ranker works:

    draw 0 | call 0 ............ | call 1 ............ | call 2 ...
             draw 1                learn 0, draw 2       learn 1, draw 3

Batch n + 1 is then drawn with parameters that have not seen batch n: they are one update old when it is
learnt. The retriever's importance weights account for that. Without `overlap`, the default, every batch is
drawn by the very parameters that learn from it, and the loop does what `training.update` does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np

from rankpg.errors import ConfigError
from rankpg.evaluation.metrics import evaluate
from rankpg.online.host_reranker import Call, HostReranker, RerankError
from rankpg.online.pending import Draw
from rankpg.online.retriever import Retriever, UpdateResult
from rankpg.runs.evaluator import evaluation_contexts
from rankpg.runs.run import Progress, Run
from rankpg.training.programs import seed_keys

__all__ = ["train", "training_loop"]


def train(
    retriever: Retriever,
    reranker: HostReranker,
    *,
    num_steps: int | None = None,
    overlap: bool = False,
    on_progress: Callable[[Run, Progress], None] | None = None,
) -> Run:
    """Train a retriever under a re-ranker in plain Python; see `training_loop`.

    >>> from rankpg import TrainConfig, environments
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
    """Bring a retriever from its step to `num_steps`, evaluating every `eval_every` updates.

    Whatever ends the loop early, the retriever keeps all that was learnt, and a second call goes on.

    Args:
      retriever: draws and learns; its run's environment answers rewards unless the re-ranker does.
      reranker: the function, and how it is called.
      num_steps: updates in all; the config's if None.
      overlap: draw the next batch while the re-ranker works on this one.

    Raises:
      ConfigError: nobody answers rewards, or calls would cut groups of draws apart.
      RerankError: the re-ranker failed, and the policy is to stop.
      UpdateError: an update led to numbers that are not finite.
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
            learnt = batches.learn_next()
            metrics += learnt.metrics
            for _ in learnt.metrics:
                yield Progress("train", learnt.step)
            if learnt.metrics and (learnt.step % every == 0 or learnt.step >= last):
                speed = (learnt.step - since) / (time.perf_counter() - began)
                yield evaluator.row(speed, metrics)
                metrics, began, since = [], time.perf_counter(), learnt.step
    finally:
        batches.forget()


class _Batches:
    """Draws under way, and the calls for them."""

    def __init__(self, retriever: Retriever, reranker: HostReranker, overlap: bool):
        self.retriever, self.reranker, self.overlap = retriever, reranker, overlap
        self.failed_in_a_row = 0
        self.ahead: Draw | None = None
        self.called: tuple[Draw, Call] | None = None

    def learn_next(self) -> UpdateResult:
        """Wait for the answers to a batch, and learn from it."""
        draw, call = self.called or self._start(self.retriever.act_on_batch())
        self.called = None
        try:
            if self.overlap:
                self.ahead = self.retriever.act_on_batch()  # while the call runs
            told = self._collect(draw, call)
        except BaseException:
            self.retriever.discard(draw.token)
            raise
        if self.ahead is not None:
            self.called, self.ahead = self._start(self.ahead), None
        return self._learn(draw, *told)  # while the next call runs

    def forget(self) -> None:
        """Give up what has been drawn ahead."""
        waiting = [self.ahead, self.called and self.called[0]]
        self.ahead = self.called = None
        for draw in waiting:
            if draw is not None:
                self.retriever.discard(draw.token)

    def _start(self, draw: Draw) -> tuple[Draw, Call]:
        length = self.retriever.run.config.ranking_length
        return draw, self.reranker.call(draw.contexts, draw.candidates, length)

    def _collect(self, draw: Draw, call: Call) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """The rows that were answered, the rankings of all rows, and rewards if the re-ranker tells them."""
        ranking = draw.candidates[:, : self.retriever.run.config.ranking_length].copy()
        rewards = np.zeros(ranking.shape, np.float32)
        good = np.zeros(len(ranking), bool)
        for answer in call.answers():
            if answer.ranking is None:
                self._failed(answer.failure or "")
                continue
            self.failed_in_a_row = 0
            ranking[answer.rows], good[answer.rows] = answer.ranking, True
            if answer.rewards is not None:
                rewards[answer.rows] = answer.rewards
        told = rewards if self.reranker.answers == "rewards" else None
        return np.flatnonzero(good), ranking, told

    def _failed(self, failure: str) -> None:
        self.failed_in_a_row += 1
        many = self.failed_in_a_row >= self.reranker.give_up_after
        if self.reranker.on_failure == "stop" or many:
            row = f" {self.failed_in_a_row} calls in a row failed." if many else ""
            raise RerankError(
                f"{failure}.{row} The {self.retriever.step} updates made so far are kept; this batch is "
                "forgotten"
            )

    def _learn(
        self, draw: Draw, rows: np.ndarray, ranking: np.ndarray, rewards: Any
    ) -> UpdateResult:
        if rewards is None:
            rewards = self.retriever.sample_rewards(draw, ranking)
        learnt = UpdateResult(self.retriever.step, self.retriever.waiting)
        if len(rows):
            learnt = self.retriever.update(draw.token, ranking[rows], rewards[rows], rows)
        if len(rows) < len(ranking):
            self.retriever.discard(draw.token)
        return learnt


def _check(run: Run, reranker: HostReranker) -> None:
    if reranker.answers != "rewards" and not run.environment.knows_rewards:
        raise ConfigError(
            f"the re-ranker answers {reranker.answers}, and a catalogue knows no rewards; expected "
            "answers='rewards', "
            "or an environment that has them"
        )
    group = run.config.draws_per_context
    if (reranker.rows_per_call or group) % group:
        raise ConfigError(
            f"rows_per_call is {reranker.rows_per_call}, which cuts the groups of draws_per_context = "
            f"{group} apart; "
            "expected a multiple"
        )


class _Evaluator:
    """Evaluates greedy candidates under a re-ranker outside."""

    def __init__(self, retriever: Retriever, reranker: HostReranker):
        run = retriever.run
        self.retriever, self.reranker = retriever, reranker
        self.contexts = evaluation_contexts(run)
        self.key = seed_keys(run.config.seeds, "evaluation")[0]
        self.evaluate = jax.jit(partial(evaluate, run.two_stage))
        self.mean_rewards = jax.jit(jax.vmap(type(run.environment).mean_rewards, (None, 0, 0)))

    def row(self, speed: float | None, metrics: list[dict[str, float]]) -> Progress:
        """Append a row to the run: what the policy is worth, and what the updates had on average."""
        run, step = self.retriever.run, self.retriever.step
        means = {name: float(np.mean([m[name] for m in metrics])) for name in (metrics or [{}])[0]}
        row = {"step": step, "seed": run.config.seeds[0], "policy_value": None}
        shown = None
        if self.reranker.answers != "rewards":  # else a call is a list before a user
            shown = self._shown(run)
        if shown is not None:
            row |= self._values(run, shown)
        row |= means | {"steps_per_second": speed}
        run.metrics.append({name: _finite(value) for name, value in row.items()})
        return Progress("evaluate", step, speed, (run.metrics[-1],))

    def _values(self, run: Run, shown: np.ndarray) -> dict[str, float]:
        """Of `Evaluation` what does not depend on the re-ranker, and the value under this one."""
        params = jax.tree.map(lambda leaf: leaf[0], run.state.params)
        found = self.evaluate(run.environment, params, self.contexts, self.key)
        rewards = self.mean_rewards(run.environment, self.contexts, shown)
        value = float(np.mean(np.asarray(rewards) @ run.learner.position_weights))
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
        """int32[contexts, L]: what the re-ranker makes of the greedy candidates; None where it failed and is
        to be skipped."""
        data, rows = run.dataset, np.asarray(self.contexts)
        ids = data.context_ids[rows]
        candidates = run.candidates(ids)
        ranking = np.empty((len(ids), run.config.ranking_length), candidates.dtype)
        for answer in self.reranker.call(ids, candidates, run.config.ranking_length).answers():
            if answer.ranking is None and self.reranker.on_failure == "skip":
                return None
            if answer.ranking is None:
                raise RerankError(
                    f"{answer.failure}. It was to be evaluated; what was learnt is kept"
                )
            ranking[answer.rows] = answer.ranking
        return data.item_ids.rows(ranking)


def _finite(value: Any) -> Any:
    """JSON holds no NaN."""
    return value if not isinstance(value, float) or np.isfinite(value) else None
