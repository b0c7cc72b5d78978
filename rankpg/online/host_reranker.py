"""A function of yours as re-ranker, in any framework: called in batches, with retries and a time limit."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from rankpg.errors import ConfigError
from rankpg.online.validation import Answers, best_first, check_ranking, check_rewards, check_scores

__all__ = ["Answer", "Call", "HostReranker", "RerankError"]

OnFailure = Literal["stop", "skip"]

if TYPE_CHECKING:
    Function: TypeAlias = Callable[[np.ndarray, np.ndarray], Any]
    Kind: TypeAlias = Answers
    Policy: TypeAlias = OnFailure
else:  # what a user passes is checked here, in words, and not by a type checker at run time
    Function = Kind = Policy = Any


class RerankError(RuntimeError):
    """The re-ranker failed for good; what was learnt before is kept."""


@dataclass(frozen=True)
class Answer:
    """What came back for some rows of a batch."""

    rows: np.ndarray
    ranking: np.ndarray | None = None
    """item ids [n, L]; None where the call failed."""
    rewards: np.ndarray | None = None
    """float32[n, L] where the function answers rewards."""
    failure: str | None = None
    """Why, in words."""


@dataclass(frozen=True)
class HostReranker:
    """A function `f(context_ids, candidate_ids)`, ids [n] and [n, K], and how it is called.

    `answers` says what it returns:

        scores    float[n, K], larger is better; the L best are shown and the environment answers their
        rewards
        ranking   item ids [n, L], best first; the environment answers their rewards
        rewards   (ranking, rewards), item ids [n, L] and numbers [n, L]: it also knows what they earned

    A time limit cannot end a Python function: a call that hangs is left behind in its thread, and its answer
    is ignored if it comes after all. So a function must bear being called again while an earlier call still
    runs.
    """

    function: Function
    answers: Kind = "scores"
    rows_per_call: int | None = None
    """Rows of a batch that go into one call; all of them if None."""
    concurrency: int = 1
    """Calls that run at a time."""
    timeout: float | None = None
    """Seconds that one attempt may take; None: for ever."""
    retries: int = 0
    """Further attempts after one that raised, took too long, or answered what cannot be used."""
    pause: float = 0.0
    """Seconds before the first further attempt; twice as many before every next one."""
    on_failure: Policy = "stop"
    """When all attempts failed: stop, or skip these rows and go on."""
    give_up_after: int = 10
    """With skip: stop after so many failed calls in a row."""

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ConfigError(
                f"function is {self.function!r}; expected f(context_ids, candidate_ids)"
            )
        for name, allowed in (("answers", Answers), ("on_failure", OnFailure)):
            if getattr(self, name) not in get_args(allowed):
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}; expected one of {', '.join(get_args(allowed))}"
                )
        lowest = {"rows_per_call": 1, "concurrency": 1, "retries": 0, "give_up_after": 1}
        for name, least in lowest.items():
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < least):
                raise ConfigError(
                    f"{name} is {value!r}; expected a whole number of at least {least}"
                )
        if self.timeout is not None and not 0 < self.timeout < np.inf:
            raise ConfigError(f"timeout is {self.timeout}; expected seconds above 0, or None")
        if not 0 <= self.pause < np.inf:
            raise ConfigError(f"pause is {self.pause}; expected seconds of at least 0")

    @property
    def name(self) -> str:
        """Of the function, for messages."""
        return getattr(self.function, "__qualname__", type(self.function).__name__)

    def call(self, contexts: np.ndarray, candidates: np.ndarray, ranking_length: int) -> Call:
        """Start calling for a batch, in threads of their own."""
        return Call(self, contexts, candidates, ranking_length)


class Call:
    """The calls for one batch, under way."""

    def __init__(
        self,
        reranker: HostReranker,
        contexts: np.ndarray,
        candidates: np.ndarray,
        ranking_length: int,
    ):
        self._reranker, self._length = reranker, ranking_length
        self._contexts, self._candidates = contexts, candidates
        size = len(contexts)
        step = reranker.rows_per_call or size
        parts = [np.arange(start, min(start + step, size)) for start in range(0, size, step)]
        self._parts, self._todo = len(parts), queue.SimpleQueue()
        self._done: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        for part in parts:
            self._todo.put(part)
        for _ in range(min(reranker.concurrency, len(parts))):
            _in_background(self._work)

    def answers(self) -> Iterator[Answer]:
        """As they come."""
        for _ in range(self._parts):
            yield self._done.get()

    def _work(self) -> None:
        while True:
            try:
                rows = self._todo.get_nowait()
            except queue.Empty:
                return
            self._done.put(self._answer(rows))

    def _answer(self, rows: np.ndarray) -> Answer:
        """Attempt until one attempt is good; a failure is an answer too."""
        tries, failure = 1 + self._reranker.retries, ""
        for attempt in range(tries):
            if attempt:
                time.sleep(self._reranker.pause * 2 ** (attempt - 1))
            try:
                return self._attempt(rows)
            except BaseException as error:  # of a thread, which nothing else would notice
                failure = f"{type(error).__name__}: {error}"
        where = f"rows {rows[0]} to {rows[-1]} of the batch"
        times = "once" if tries == 1 else f"{tries} times"
        return Answer(
            rows,
            failure=f"the re-ranker {self._reranker.name} failed {times} on {where}; the last: {failure}",
        )

    def _attempt(self, rows: np.ndarray) -> Answer:
        # Copies: whatever the function does to its arguments, the draw stays what it was.
        arguments = self._contexts[rows].copy(), self._candidates[rows].copy()
        answered = _within(self._reranker.timeout, self._reranker.function, *arguments)
        name, candidates = self._reranker.name, self._candidates[rows]
        if self._reranker.answers == "scores":
            scores = check_scores(answered, candidates.shape, name)
            return Answer(rows, best_first(scores, candidates, self._length))
        rewards = None
        if self._reranker.answers == "rewards":
            if not isinstance(answered, tuple) or len(answered) != 2:
                raise ValueError(
                    f"{name} answered a {type(answered).__name__}; expected (ranking, rewards), a tuple "
                    "of two"
                )
            answered, earned = answered
            rewards = check_rewards(earned, (len(rows), self._length), rows, name)
        return Answer(rows, check_ranking(answered, candidates, self._length, rows, name), rewards)


def _within(seconds: float | None, function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's answer, if it comes in time.

    Raises:
      TimeoutError: it does not.
      Exception: whatever the function raises.
    """
    if seconds is None:
        return function(*arguments)
    box: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def run() -> None:
        try:
            box.put((True, function(*arguments)))
        except BaseException as error:
            box.put((False, error))

    _in_background(run)
    try:
        good, answer = box.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    if not good:
        raise answer
    return answer


def _in_background(function: Callable[[], None]) -> None:
    """In a thread that does not keep the process alive: a call that hangs must not either."""
    threading.Thread(target=function, daemon=True).start()
