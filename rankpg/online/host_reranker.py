"""A re-ranker in plain Python: called on the host in batches, with retries and a timeout."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from rankpg.errors import ConfigError
from rankpg.online.validation import Returns, best_first, check_ranking, check_rewards, check_scores

__all__ = ["Call", "CallResult", "HostReranker", "RerankError"]

OnFailure = Literal["stop", "skip"]

if TYPE_CHECKING:
    Function: TypeAlias = Callable[[np.ndarray, np.ndarray], Any]
    Kind: TypeAlias = Returns
    Policy: TypeAlias = OnFailure
else:  # checked here with messages of our own, and not by a type checker at run time
    Function = Kind = Policy = Any


class RerankError(RuntimeError):
    """Raised when every attempt to call the re-ranker has failed; earlier updates are kept."""


@dataclass(frozen=True)
class CallResult:
    """The ranking that a call returned for some rows of a batch, or its failure."""

    rows: np.ndarray
    """int[n]"""
    ranking: np.ndarray | None = None
    """Item ids [n, L]; None if the call failed."""
    rewards: np.ndarray | None = None
    """float32[n, L] if the function returns rewards."""
    failure: str | None = None
    """The reason of the failure."""


@dataclass(frozen=True)
class HostReranker:
    """A function `f(context_ids, candidate_ids)`, ids [n] and [n, K], with the settings of its calls.

    `returns` declares its result:

        scores    float[n, K], larger is better; the L best are shown, and the environment gives the rewards
        ranking   item ids [n, L], best first; the environment gives the rewards
        rewards   (ranking, rewards): item ids [n, L] and their rewards [n, L]

    A timeout cannot end a Python function: a call that hangs stays in its thread, and a late result is
    ignored. So the function may be called again while an earlier call still runs.
    """

    function: Function
    returns: Kind = "scores"
    rows_per_call: int | None = None
    """Rows of a batch in one call; all of them if None."""
    concurrency: int = 1
    """Calls that run at the same time."""
    timeout: float | None = None
    """Seconds for one attempt; None sets no limit."""
    retries: int = 0
    """Further attempts after one that raised, timed out, or returned an invalid result."""
    pause: float = 0.0
    """Seconds before the second attempt; doubled before every later one."""
    on_failure: Policy = "stop"
    """Action when all attempts failed: stop, or skip these rows."""
    give_up_after: int = 10
    """Number of failed calls in a row that stops training, if failures are skipped."""

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ConfigError(f"function={self.function!r}; expected f(context_ids, candidate_ids)")
        for name, allowed in (("returns", Returns), ("on_failure", OnFailure)):
            if getattr(self, name) not in get_args(allowed):
                raise ConfigError(
                    f"{name}={getattr(self, name)!r}; expected one of {', '.join(get_args(allowed))}"
                )
        lowest = {"rows_per_call": 1, "concurrency": 1, "retries": 0, "give_up_after": 1}
        for name, least in lowest.items():
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < least):
                raise ConfigError(f"{name}={value!r}; expected a whole number of at least {least}")
        if self.timeout is not None and not 0 < self.timeout < np.inf:
            raise ConfigError(f"timeout={self.timeout}; expected seconds above 0, or None")
        if not 0 <= self.pause < np.inf:
            raise ConfigError(f"pause={self.pause}; expected seconds of at least 0")

    @property
    def name(self) -> str:
        """Name of the function, for messages."""
        return getattr(self.function, "__qualname__", type(self.function).__name__)

    def call(self, contexts: np.ndarray, candidates: np.ndarray, ranking_length: int) -> Call:
        """Starts the calls for a batch, in threads of their own."""
        return Call(self, contexts, candidates, ranking_length)


class Call:
    """The calls for one batch, in progress."""

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
        self._done: queue.SimpleQueue[CallResult] = queue.SimpleQueue()
        for part in parts:
            self._todo.put(part)
        for _ in range(min(reranker.concurrency, len(parts))):
            _in_background(self._work)

    def results(self) -> Iterator[CallResult]:
        """Yields the result of every call as it arrives."""
        for _ in range(self._parts):
            yield self._done.get()

    def _work(self) -> None:
        while True:
            try:
                rows = self._todo.get_nowait()
            except queue.Empty:
                return
            self._done.put(self._result(rows))

    def _result(self, rows: np.ndarray) -> CallResult:
        """Calls until an attempt succeeds; a failure is a result too."""
        tries, failure = 1 + self._reranker.retries, ""
        for attempt in range(tries):
            if attempt:
                time.sleep(self._reranker.pause * 2 ** (attempt - 1))
            try:
                return self._attempt(rows)
            except BaseException as error:  # nothing else would notice an error of a thread
                failure = f"{type(error).__name__}: {error}"
        where = f"rows {rows[0]} to {rows[-1]} of the batch"
        times = "once" if tries == 1 else f"{tries} times"
        return CallResult(
            rows,
            failure=f"the re-ranker {self._reranker.name} failed {times} on {where}; the last "
            f"error: {failure}",
        )

    def _attempt(self, rows: np.ndarray) -> CallResult:
        # Copies: the function may change its arguments, and the draw must not change.
        arguments = self._contexts[rows].copy(), self._candidates[rows].copy()
        returned = _within(self._reranker.timeout, self._reranker.function, *arguments)
        name, candidates = self._reranker.name, self._candidates[rows]
        if self._reranker.returns == "scores":
            scores = check_scores(returned, candidates.shape, name)
            return CallResult(rows, best_first(scores, candidates, self._length))
        rewards = None
        if self._reranker.returns == "rewards":
            if not isinstance(returned, tuple) or len(returned) != 2:
                raise ValueError(
                    f"{name} returned a {type(returned).__name__}; expected a tuple (ranking, rewards)"
                )
            returned, earned = returned
            rewards, _ = check_rewards(earned, (len(rows), self._length), rows, name)
        return CallResult(
            rows, check_ranking(returned, candidates, self._length, rows, name), rewards
        )


def _within(seconds: float | None, function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function, with a time limit.

    Raises:
      TimeoutError: the function did not return in time.
      Exception: any exception of the function.
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
        good, value = box.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no result within {seconds:g} s") from None
    if not good:
        raise value
    return value


def _in_background(function: Callable[[], None]) -> None:
    """Runs a function in a daemon thread: a call that hangs must not keep the process alive."""
    threading.Thread(target=function, daemon=True).start()
