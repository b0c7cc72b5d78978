"""Environments: where contexts come from, and what a shown item earns.

An environment answers mean rewards and draws for (context, items) on request; see the protocol in types.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax

from rankpg.environments import ratings, synthetic, text
from rankpg.environments.catalogue import catalogue
from rankpg.environments.dataset import Dataset, LeftOut
from rankpg.environments.featurizer import Features, Featurizer
from rankpg.environments.joined import from_table
from rankpg.environments.ratings import from_file, from_matrix, from_triples
from rankpg.environments.synthetic import Synthetic, generate, paper_instance
from rankpg.environments.text import from_text, from_text_folder
from rankpg.types import Environment

if TYPE_CHECKING:
    from rankpg.config import TrainConfig

__all__ = [
    "ENVIRONMENTS",
    "Dataset",
    "Features",
    "Featurizer",
    "LeftOut",
    "Synthetic",
    "catalogue",
    "from_file",
    "from_matrix",
    "from_table",
    "from_text",
    "from_text_folder",
    "from_triples",
    "generate",
    "make_environment",
    "paper_instance",
    "ratings",
    "synthetic",
    "text",
]


def _synthetic(config: TrainConfig) -> Synthetic:
    """The paper's instance at its own size and without a seed; else a generated one."""
    size = config.num_contexts, config.num_items, config.num_features
    if size == (1000, 1000, 10) and config.instance_seed is None:
        return paper_instance(config.noise_scale)
    key = jax.random.key(config.instance_seed or 0)
    return generate(key, *size, noise_scale=config.noise_scale)


def _ratings(config: TrainConfig) -> Dataset:
    return from_file(
        config.path or "",
        columns=config.columns,
        missing=config.missing,
        duplicates=config.duplicates,
    )


def _text(config: TrainConfig) -> Dataset:
    return from_text_folder(config.path or "")


ENVIRONMENTS: dict[str, Callable[[TrainConfig], Environment | Dataset]] = {
    "synthetic": _synthetic,
    "ratings": _ratings,
    "text": _text,
}
"""name -> builder; a Dataset also knows what its row numbers stand for."""


def make_environment(config: TrainConfig) -> Environment | Dataset:
    """The environment that a config names."""
    return ENVIRONMENTS[config.environment](config)
