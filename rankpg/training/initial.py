"""Embeddings of a file as the start of a run: tables of a learner start at them, other towers read them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rankpg.config.train_config import TrainConfig
from rankpg.data.embeddings import GivenEmbeddings, embedding_tables
from rankpg.encoders.starts import ids_of_sides, initial_tables, starting_at
from rankpg.encoders.two_tower import TOWERS
from rankpg.environments.dataset import Dataset
from rankpg.environments.with_embeddings import with_features
from rankpg.errors import ConfigError, argument
from rankpg.training.update import Learner

__all__ = ["Start", "read_start", "with_tower_of_start", "without_start"]

_CONTEXTS = 256
"""Contexts in which the spread of logits is measured."""


class Start(NamedTuple):
    """A config and a dataset for which a learner is built, and the tables at which it starts."""

    config: TrainConfig
    """The config, with the width of the embeddings."""
    dataset: Dataset
    """The dataset, with the embeddings as features where a tower reads features."""
    tables: dict[str, np.ndarray]
    """Name of a parameter -> its rows [n, D]."""

    def of(self, learner: Learner) -> Learner:
        """Returns a learner that starts at the tables."""
        encoder = starting_at(learner.policy.encoder, self.tables)
        return dataclasses.replace(
            learner, policy=dataclasses.replace(learner.policy, encoder=encoder)
        )


def without_start(config: TrainConfig) -> TrainConfig:
    """Returns the config of the same learner with an initialisation by `init_scale`."""
    return dataclasses.replace(config, init_embeddings=None, init_ids=None, init_missing="error")


def with_tower_of_start(config: TrainConfig) -> TrainConfig:
    """Returns the config with tables of users where its initial embeddings have those of users.

    Raises:
      FileNotFoundError, TableError: embeddings that cannot be used.
    """
    known = config.objective != "policy_gradient"
    if config.init_embeddings is None or config.context_tower != "auto" or not known:
        return config
    given = embedding_tables(config.init_embeddings, ids=config.init_ids)
    if given.contexts is None:
        return config
    return dataclasses.replace(config, context_tower="ids")


def read_start(config: TrainConfig, dataset: Dataset, *, restored: bool) -> Start:
    """Reads the embeddings that a config names.

    Args:
      config: has `init_embeddings`.
      dataset: contexts and items, whose ids the rows are aligned to.
      restored: True for a run whose state is loaded from a checkpoint; tables are not read for it, nor
        features that the dataset was saved with.

    Raises:
      FileNotFoundError: the file does not exist.
      TableError: embeddings or ids that cannot be used.
      ConfigError: embeddings of a side are missing, or have another width than `embedding_dim`.
    """
    towers = {"context": config.context_tower, "item": config.item_tower}
    featured = [side for side, name in towers.items() if TOWERS[name].reads_features]
    world = dataset.environment
    if restored and all(getattr(world, f"{side}_features") is not None for side in featured):
        there = Path(str(config.init_embeddings).split("::")[0]).exists()
        known_width = config.embedding_dim != type(config).embedding_dim or featured
        if known_width or not there:
            return Start(config, dataset, {})
    assert config.init_embeddings is not None
    given = embedding_tables(config.init_embeddings, ids=config.init_ids)
    width = given.width()
    if not any(TOWERS[name].keeps_width for name in towers.values()):
        if config.embedding_dim not in (width, type(config).embedding_dim):
            raise ConfigError(
                f"{argument('embedding_dim', config.embedding_dim)}, but the embeddings of {given.source} "
                f"have width {width}; leave it out, or give embedding_dim={width}"
            )
        config = dataclasses.replace(config, embedding_dim=width)
    dataset = with_features(dataset, given, featured, config.init_missing)
    if restored:
        return Start(config, dataset, {})
    tables, notes = initial_tables(given, ids_of_sides(dataset), towers, config.init_missing)
    notes = (*dataset.notes, *notes, *_spread(given, config.temperature))
    return Start(config, dataclasses.replace(dataset, notes=notes), tables)


def _spread(given: GivenEmbeddings, temperature: float) -> tuple[str, ...]:
    """Returns a note about the spread of the logits that the embeddings give, if both sides have some."""
    if given.items is None or given.contexts is None:
        return ()
    contexts, items = given.contexts.rows[:_CONTEXTS], given.items.rows
    spread = float(np.mean(np.std(contexts @ items.T, axis=1))) / temperature
    return (
        f"The logits of the embeddings have a standard deviation of {spread:.3g} within a context, at "
        f"temperature={temperature:g}: far below 1 the policy is almost uniform, far above it is almost "
        "fixed. A temperature does not change the ranking.",
    )
