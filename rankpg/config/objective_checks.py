"""Checks of the settings of an objective, and of self-attention, against each other and the policy's."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from rankpg.encoders.two_tower import TOWERS
from rankpg.errors import ConfigError, argument

__all__ = ["AttentionSettings", "ObjectiveSettings", "check_attention", "check_objective"]

_ALL_LOGITS = ("exact", "greedy")
"""Values of `inclusion_method` that need the logits of the whole catalogue."""


@runtime_checkable
class ObjectiveSettings(Protocol):
    """Settings that are checked; a `TrainConfig` has these fields."""

    @property
    def objective(self) -> str: ...

    @property
    def inclusion_method(self) -> str: ...

    @property
    def unobserved(self) -> str: ...

    @property
    def popularity_weight(self) -> float: ...

    @property
    def num_experts(self) -> int: ...

    @property
    def retrieval(self) -> str: ...


def check_objective(settings: ObjectiveSettings) -> None:
    """Rejects an objective that the other settings do not allow.

    Raises:
      ConfigError: names both settings.

    >>> from rankpg import TrainConfig
    >>> TrainConfig(objective="inclusion", inclusion_method="exact", num_experts=2)
    Traceback (most recent call last):
    rankpg.errors.ConfigError: num_experts=2 with inclusion_method='exact', which is defined for one expert; \
give num_experts=1, or inclusion_method='greedy'
    """
    if settings.unobserved == "propensity" and settings.popularity_weight == 0:
        raise ConfigError(
            "unobserved='propensity' with popularity_weight=0.0, which makes all propensities equal; give "
            "popularity_weight=0.5, or unobserved='zero'"
        )
    exposure = settings.objective == "exposure"
    if settings.num_experts > 1:
        several = argument("num_experts", settings.num_experts)
        if exposure:
            raise ConfigError(
                f"{several} with objective='exposure', which computes the final list of one expert; give "
                "num_experts=1, or objective='inclusion'"
            )
        if settings.inclusion_method == "exact":
            raise ConfigError(
                f"{several} with inclusion_method='exact', which is defined for one expert; give "
                "num_experts=1, or inclusion_method='greedy'"
            )
    if settings.retrieval in ("streamed", "sharded"):
        chosen = argument("retrieval", settings.retrieval)
        if exposure:
            raise ConfigError(
                f"{chosen} with objective='exposure', which reads the logits of the whole catalogue; give "
                "retrieval='dense', or objective='inclusion'"
            )
        if settings.inclusion_method in _ALL_LOGITS:
            method = argument("inclusion_method", settings.inclusion_method)
            raise ConfigError(
                f"{chosen} with {method}, which reads the logits of the whole catalogue; give "
                "retrieval='dense', or inclusion_method='swr'"
            )


@runtime_checkable
class AttentionSettings(Protocol):
    """Settings of self-attention that are checked; a `TrainConfig` has these fields."""

    @property
    def embedding_dim(self) -> int: ...

    @property
    def attention_heads(self) -> int: ...

    @property
    def item_tower(self) -> str: ...

    @property
    def init_embeddings(self) -> str | None: ...


def check_attention(settings: AttentionSettings) -> None:
    """Rejects heads that do not divide the embedding, where its width is known from the settings.

    Raises:
      ConfigError: names both settings.

    >>> from rankpg import TrainConfig
    >>> attention = {"context_tower": "history", "history_encoder": "attention"}
    >>> TrainConfig(**attention, embedding_dim=8, attention_heads=3)
    Traceback (most recent call last):
    rankpg.errors.ConfigError: embedding_dim=8 does not divide among attention_heads=3; expected a multiple
    """
    if settings.init_embeddings is not None or TOWERS[settings.item_tower].keeps_width:
        return  # `attention_of` checks the width of the embeddings that are read
    if settings.embedding_dim % settings.attention_heads:
        raise ConfigError(
            f"{argument('embedding_dim', settings.embedding_dim)} does not divide among "
            f"{argument('attention_heads', settings.attention_heads)}; expected a multiple"
        )
