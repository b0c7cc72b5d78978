"""Warnings before training: rewards that mislead, and declared features that no tower reads."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from rankpg.config.train_config import TrainConfig
from rankpg.encoders.two_tower import TOWERS
from rankpg.environments.dataset import Dataset
from rankpg.errors import DataWarning

__all__ = ["warn_of_data"]

_READ_FEATURES = ("learned", "similarity")
"""Re-rankers that read the features of contexts and items."""


def warn_of_data(config: TrainConfig, dataset: Dataset, components: Mapping[str, object]) -> None:
    """Warns of rewards and features from which less is learnt than it seems.

    Args:
      config: resolved settings.
      dataset: with its cautions, and with featurizers where features were declared.
      components: those of the user; an encoder of theirs may read any features.
    """
    said = list(dataset.cautions)
    sides = (
        ("context", dataset.context_featurizer, config.context_tower),
        ("item", dataset.item_featurizer, config.item_tower),
    )
    for side, featurizer, tower in sides:
        unread = featurizer is not None and featurizer.names and not TOWERS[tower].reads_features
        read_elsewhere = config.reranker in _READ_FEATURES or components.get("encoder") is not None
        if unread and not read_elsewhere:
            said.append(
                f"{side} features are declared, and {side}_tower={tower!r} does not read them: give "
                f"{side}_tower='features', or leave the features out"
            )
    for sentence in said:
        warnings.warn(sentence, DataWarning, stacklevel=4)
