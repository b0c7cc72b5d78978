"""Settings of the rewards that are accepted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from rankpg.config.fields import Range, setting
from rankpg.errors import ConfigError

__all__ = ["BY_PREDICTIONS", "LEARNING", "REWARD_RANGES", "RewardSettings", "check_swaps"]

LEARNING = "learning"
BY_PREDICTIONS = ("value_based", "model_guided")
"""Estimators that learn from predicted rewards."""
_LARGEST = 1e9
"""Rewards of this size still have finite losses and gradients in float32."""
_BY_SWAPS = {"estimator": "ca_pg_swap"}


@runtime_checkable
class SwapSettings(Protocol):
    """Settings that credit by swaps depends on; a `TrainConfig` has these fields."""

    @property
    def estimator(self) -> str: ...

    @property
    def advantage(self) -> str | None: ...

    @property
    def entropy_bonus(self) -> float: ...

    @property
    def unobserved(self) -> str: ...


@dataclass(frozen=True)
class RewardSettings:
    """Bounds of rewards, for training, for feedback from outside and for logs; and their use by swaps."""

    reward_bounds: tuple[float, ...] = setting(
        (-_LARGEST, _LARGEST),
        LEARNING,
        "smallest and largest reward, in simulation and in feedback from outside",
        default_help="-1e9 1e9",
        metavar="LOW HIGH",
    )
    outside_bounds: Literal["refuse", "clip"] = setting(
        "refuse",
        LEARNING,
        "treatment of a reward outside of the bounds; clip: it counts as the bound, and the number of "
        "these is reported",
    )
    swap_rewards: Literal["sampled", "mean", "model"] = setting(
        "sampled",
        LEARNING,
        "rewards of the lists that ca_pg_swap compares with the one that is shown. sampled: what the "
        "environment draws; mean: its mean rewards; model: those of a reward model, and what it does not "
        "explain by the score of the whole set",
        needs=_BY_SWAPS,
    )
    residual_weight: float = setting(
        1.0,
        LEARNING,
        "factor of what the reward model does not explain (1: unbiased; less has less noise)",
        needs={"swap_rewards": "model"},
    )


def check_swaps(config: SwapSettings) -> None:
    """Rejects settings that an estimator by swaps cannot use.

    Raises:
      ConfigError: an advantage, an entropy bonus, or rewards that are left out.
    """
    name = f"estimator={config.estimator!r}"
    if config.advantage not in (None, "none"):
        raise ConfigError(
            f"advantage={config.advantage!r} has no use with {name}, which is its own baseline: the credit "
            "of a candidate is what the list loses without it; give advantage='none'"
        )
    if config.entropy_bonus:
        raise ConfigError(
            f"entropy_bonus={config.entropy_bonus:g} is paid by the score of what was drawn, and a score of "
            f"{name} is not the log-probability of an item or a set; give entropy_bonus=0, or "
            "estimator='v_pg'"
        )
    if config.unobserved == "left_out":
        raise ConfigError(
            f"unobserved='left_out' needs a baseline over what was observed, and {name} compares whole "
            "lists; give unobserved='zero', or estimator='ca_pg_swr'"
        )


REWARD_RANGES = {
    "reward_bounds": Range(
        -_LARGEST, _LARGEST, "two numbers LOW < HIGH from -1e9 to 1e9", increasing=2
    ),
    "residual_weight": Range(0, 1, "a number from 0 to 1"),
}
