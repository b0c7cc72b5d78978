"""The choice of an estimator by the other settings: what estimator='auto' stands for."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

__all__ = ["Choice", "EstimatorSettings", "choose_estimator"]


class Choice(NamedTuple):
    """The name of an estimator, and the reason for it."""

    estimator: str
    reason: str


@runtime_checkable
class EstimatorSettings(Protocol):
    """Settings that decide; a `TrainConfig` has these fields."""

    @property
    def environment(self) -> str: ...

    @property
    def objective(self) -> str: ...

    @property
    def preset(self) -> str: ...

    @property
    def num_experts(self) -> int: ...

    @property
    def retrieval(self) -> str: ...

    @property
    def advantage(self) -> str | None: ...

    @property
    def entropy_bonus(self) -> float: ...

    @property
    def adaptive_learning_rate(self) -> bool | None: ...

    @property
    def unobserved(self) -> str: ...


def choose_estimator(config: EstimatorSettings) -> Choice:
    """Returns the estimator that measured best for such settings; docs/estimators.md has the figures.

    - Rewards of the whole list: `ca_pg_swap`, which is exact for them unless the re-ranker's scores tie.
    - One expert, and rewards that are drawn from an environment: `model_guided`, which learns from each
      reward many times.
    - Where that is not available: `ca_pg_swr`, or with the paper's preset the paper's `ca_pg`.

    >>> from rankpg import TrainConfig
    >>> choose_estimator(TrainConfig(num_experts=2))
    Choice(estimator='ca_pg_swr', reason='model_guided was measured with a single expert')
    """
    if config.preset == "paper":
        return Choice("ca_pg", "the paper's, as its preset")
    if config.objective != "policy_gradient":
        return Choice("ca_pg_swr", f"objective={config.objective!r} draws nothing")
    if config.environment == "subtopics":
        return Choice("ca_pg_swap", "exact for rewards of the whole list")
    obstacles = {
        "was measured with a single expert": config.num_experts > 1,
        "draws on one device": config.retrieval == "sharded",
        "takes no advantage": config.advantage not in (None, "none"),
        "takes no entropy bonus": config.entropy_bonus != 0,
        "takes no adaptive learning rate": bool(config.adaptive_learning_rate),
        "counts unobserved rewards": config.unobserved != "zero",
        "was not measured on interactions": config.environment == "interactions",
    }
    for obstacle, there in obstacles.items():
        if there:
            return Choice("ca_pg_swr", f"model_guided {obstacle}")
    return Choice("model_guided", "one expert, rewards of single items")
