"""The shape that determines a step's time, and the config to time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rankpg.config.train_config import TrainConfig
from rankpg.core.estimators import ESTIMATORS
from rankpg.errors import ConfigError

__all__ = ["Shape", "check_rounds", "parse_shape", "steps_per_call", "suited_estimators"]


@dataclass(frozen=True)
class Shape:
    """Shape of a step: N, D, K, B and M.

    >>> print(Shape(100_000, 64, 100))
    N = 100,000, D = 64, K = 100
    """

    num_items: int = 1000
    embedding_dim: int = 10
    num_candidates: int = 10
    batch_size: int = 128
    num_experts: int = 1

    def __str__(self) -> str:
        return f"N = {self.num_items:,}, D = {self.embedding_dim}, K = {self.num_candidates}"

    def config(self, estimator: str, **settings: Any) -> TrainConfig:
        """Config of the synthetic problem at this shape: one seed, paper preset, fixed learning rate.

        Raises:
          ConfigError: a number is invalid, or the estimator does not support the retrieval.
        """
        given = {"preset": "paper", "adaptive_learning_rate": False, **settings}
        return TrainConfig(estimator=estimator, seeds=(0,), **dataclasses.asdict(self), **given)


def parse_shape(text: str) -> Shape:
    """Parses N,D,K as a shape.

    Raises:
      ConfigError: the text is not three whole numbers.

    >>> parse_shape("1000,10,5").num_candidates
    5
    >>> parse_shape("1000,10")
    Traceback (most recent call last):
    rankpg.errors.ConfigError: shapes='1000,10'; expected N,D,K, for instance 100000,64,100
    """
    try:
        num_items, dim, candidates = (int(number) for number in text.split(","))
    except ValueError:
        raise ConfigError(f"shapes={text!r}; expected N,D,K, for instance 100000,64,100") from None
    return Shape(num_items, dim, candidates)


def steps_per_call(config: TrainConfig, items_per_call: int) -> int:
    """Number of steps in one timed call: many if a step is short, one if it is long.

    >>> steps_per_call(Shape(1000).config("ca_pg"), 200_000)
    200
    >>> steps_per_call(Shape(10**6).config("ca_pg"), 200_000)
    1
    """
    if ESTIMATORS[config.estimator].statistics == "catalogue":  # costs N K
        items_per_call //= 10 * config.num_candidates
    return max(1, min(200, items_per_call // config.num_items))


def suited_estimators(
    names: Iterable[str], shape: Shape, retrieval: str
) -> tuple[list[str], dict[str, str]]:
    """Splits estimators into those that support a shape and retrieval, and reasons for the others.

    >>> suited_estimators(["ca_pg", "ca_pg_exact"], Shape(num_experts=2), "dense")[0]
    ['ca_pg']
    """
    suited, left_out = [], {}
    for name in names:
        entry = ESTIMATORS[name]
        if entry.max_experts is not None and shape.num_experts > entry.max_experts:
            left_out[name] = f"is defined for at most {entry.max_experts} expert"
        elif entry.statistics == "catalogue" and retrieval not in ("auto", "dense"):
            left_out[name] = "needs the logits of the whole catalogue: dense retrieval"
        else:
            suited.append(name)
    return suited, left_out


def check_rounds(rounds: int) -> None:
    """Rejects a number of rounds below 1."""
    if rounds < 1:
        raise ConfigError(f"rounds={rounds}; expected at least 1")
