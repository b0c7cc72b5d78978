"""Settings of the reward model, and of the exploration that it guides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from rankpg.config.fields import Range, or_none, setting
from rankpg.config.reward_settings import BY_PREDICTIONS, RewardSettings, SwapSettings, check_swaps
from rankpg.config.reward_settings import REWARD_RANGES as _BOUNDS
from rankpg.core.estimators import ESTIMATORS
from rankpg.errors import ConfigError, argument
from rankpg.reward_models.base import REWARD_MODELS

__all__ = [
    "BY_PREDICTIONS",
    "REWARD_MODEL",
    "REWARD_RANGES",
    "RewardModelSettings",
    "check_rewards",
]

REWARD_MODEL = "the reward model"
_ANY = {"reward_model": ("two_tower", "mlp"), "estimator": "model_guided"}
_EXPLORES = {"estimator": BY_PREDICTIONS}


@dataclass(frozen=True)
class RewardModelSettings(RewardSettings):
    """Settings by which a reward model is built and learns from the rewards that were observed."""

    reward_model: str = setting(
        "none",
        REWARD_MODEL,
        "model of the reward of an item that is shown. two_tower: inner products with biases, over features "
        "where the policy's towers read them; mlp: a perceptron over the features of both sides",
        or_none(REWARD_MODELS),
        default_help="none; model_guided: two_tower",
    )
    reward_model_dim: int = setting(32, REWARD_MODEL, "width of its embeddings", needs=_ANY)
    reward_model_learning_rate: float | None = setting(
        None,
        REWARD_MODEL,
        "first step size of its Adam, which is halved after 2000 updates, and falls like 1 / updates",
        needs=_ANY,
        default_help="two_tower: 0.01; mlp: 0.003",
    )
    reward_model_penalty: float = setting(
        1.0,
        REWARD_MODEL,
        "ridge penalty on the embeddings of two_tower, divided by the number of rewards observed: the "
        "variance of the noise over that of an embedding's entries, in units of standardised rewards",
        needs={"reward_model": "two_tower", "estimator": "model_guided"},
    )
    reward_model_memory: int = setting(
        2**18,
        REWARD_MODEL,
        "number of observed rewards, a random sample of all, that it learns from again (12 bytes each); 0: "
        "none",
        needs=_ANY,
    )
    reward_model_steps: int = setting(
        4,
        REWARD_MODEL,
        "steps of its optimizer in an update, each on the new rewards and three times as many earlier ones",
        needs=_ANY,
    )
    reward_model_members: int = setting(
        1,
        REWARD_MODEL,
        "number of members of an ensemble, each of which learns from a random half of the rewards; 1: one "
        "model",
        needs=_ANY,
    )
    exploration_temperatures: tuple[float, ...] | None = setting(
        None,
        REWARD_MODEL,
        "first and last temperature at which candidates are drawn from predicted rewards, in units of the "
        "reward, or, for model_guided, of the standard deviation of the first batch of rewards",
        needs=_EXPLORES,
        default_help="value_based: 1 0.1; model_guided: 2 0.1",
        metavar="FIRST LAST",
    )
    exploration_steps: int | None = setting(
        None,
        REWARD_MODEL,
        "number of updates in which the temperature falls from the first to the last, geometrically",
        needs=_EXPLORES,
        default_help="value_based: num_steps; model_guided: 400",
    )


REWARD_RANGES = _BOUNDS | {
    "reward_model_dim": Range(1, 2**16, "a number from 1 to 65536"),
    "reward_model_learning_rate": Range(
        0, 1e9, "a number above 0", without_low=True, without_high=True
    ),
    "reward_model_penalty": Range(0, 1e9, "a number from 0 to 1e9"),
    "reward_model_memory": Range(0, 2**30, "a number from 0 to 2^30"),
    "reward_model_steps": Range(1, 1000, "a number from 1 to 1000"),
    "reward_model_members": Range(1, 100, "a number from 1 to 100"),
    "exploration_temperatures": Range(1e-6, 1e9, "two numbers FIRST LAST from 1e-6 to 1e9"),
    "exploration_steps": Range(1, 2**31 - 1, "a number of at least 1"),
}


@runtime_checkable
class PredictionSettings(SwapSettings, Protocol):
    """Settings that are checked; a `TrainConfig` has these fields."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def adaptive_learning_rate(self) -> bool | None: ...

    @property
    def exploration_temperatures(self) -> tuple[float, ...] | None: ...


def check_rewards(config: PredictionSettings) -> None:
    """Rejects settings that swaps or predicted rewards cannot use.

    Raises:
      ConfigError: names both settings.

    >>> from rankpg import TrainConfig
    >>> TrainConfig(estimator="value_based", entropy_bonus=0.1)
    Traceback (most recent call last):
    rankpg.errors.ConfigError: entropy_bonus=0.1 has no effect with estimator='value_based', which learns \
from predicted rewards; leave it out, or choose estimator='ca_pg_swr'
    """
    if ESTIMATORS[config.estimator].by_swaps:
        check_swaps(config)
    several = config.exploration_temperatures
    if several is not None and len(several) != 2:
        raise ConfigError(
            f"{argument('exploration_temperatures', several)}; expected two numbers FIRST LAST"
        )
    if config.estimator not in BY_PREDICTIONS:
        return
    unused = {
        "advantage": (None, "none"),
        "entropy_bonus": (0,),
        "adaptive_learning_rate": (None, False),
    }
    for name, allowed in unused.items():
        if getattr(config, name) not in allowed:
            raise ConfigError(
                f"{argument(name, getattr(config, name))} has no effect with "
                f"{argument('estimator', config.estimator)}, which learns from predicted rewards; leave it "
                "out, or choose estimator='ca_pg_swr'"
            )
