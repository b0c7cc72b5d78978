"""Settings of the rewards that are accepted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rankpg.config.fields import Range, setting

__all__ = ["LEARNING", "REWARD_RANGES", "RewardSettings"]

LEARNING = "learning"
_LARGEST = 1e9
"""Rewards of this size still have finite losses and gradients in float32."""


@dataclass(frozen=True)
class RewardSettings:
    """Bounds of rewards, for training, for feedback that comes from outside, and for logs."""

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


REWARD_RANGES = {
    "reward_bounds": Range(
        -_LARGEST, _LARGEST, "two numbers LOW < HIGH from -1e9 to 1e9", increasing=2
    )
}
