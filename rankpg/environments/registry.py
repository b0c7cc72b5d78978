"""Environments by name: the values of the setting `environment`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import jax

from rankpg.environments.dataset import ENVIRONMENTS, Dataset
from rankpg.environments.from_file import from_file
from rankpg.environments.from_interactions import from_interactions
from rankpg.environments.from_ratings import Duplicates, Missing
from rankpg.environments.from_subtopics import EligibleDocuments, from_subtopics
from rankpg.environments.from_text import OwnDocument, Unknown, from_text_folder
from rankpg.environments.synthetic import Synthetic, generate, paper_instance

__all__ = ["ENVIRONMENTS", "EnvironmentSettings"]


@runtime_checkable
class EnvironmentSettings(Protocol):
    """Settings from which the environments of the table are built; a `TrainConfig` has these fields."""

    @property
    def path(self) -> str | None: ...

    @property
    def columns(self) -> Sequence[str] | None: ...

    @property
    def missing(self) -> Missing: ...

    @property
    def duplicates(self) -> Duplicates: ...

    @property
    def header(self) -> bool: ...

    @property
    def id_type(self) -> Sequence[str]: ...

    @property
    def unknown(self) -> Unknown: ...

    @property
    def qrels_split(self) -> Sequence[str] | None: ...

    @property
    def own_document(self) -> OwnDocument: ...

    @property
    def list_reward(self) -> str: ...

    @property
    def eligible_documents(self) -> EligibleDocuments: ...

    @property
    def num_contexts(self) -> int: ...

    @property
    def num_items(self) -> int: ...

    @property
    def num_features(self) -> int: ...

    @property
    def instance_seed(self) -> int | None: ...

    @property
    def noise_scale(self) -> float: ...

    @property
    def items_path(self) -> str | None: ...

    @property
    def positive(self) -> str | None: ...

    @property
    def min_per_user(self) -> int: ...

    @property
    def min_per_item(self) -> int: ...

    @property
    def split(self) -> str: ...

    @property
    def test_share(self) -> float: ...

    @property
    def test_count(self) -> int | None: ...

    @property
    def validation_share(self) -> float: ...

    @property
    def split_seed(self) -> int: ...


def _synthetic(settings: EnvironmentSettings) -> Synthetic:
    """Builds the instance of the paper at its own size without a seed, and generates any other."""
    size = settings.num_contexts, settings.num_items, settings.num_features
    if size == (1000, 1000, 10) and settings.instance_seed is None:
        return paper_instance(settings.noise_scale)
    key = jax.random.key(settings.instance_seed or 0)
    return generate(key, *size, noise_scale=settings.noise_scale)


def _ratings(settings: EnvironmentSettings) -> Dataset:
    return from_file(
        settings.path or "",
        columns=settings.columns,
        header=settings.header,
        id_type=settings.id_type,
        missing=settings.missing,
        duplicates=settings.duplicates,
    )


def _interactions(settings: EnvironmentSettings) -> Dataset:
    roles: tuple[str, ...] = ("user", "item", "timestamp", "value", "weight", "session")
    named: dict[str, str | int | None] | None = None
    if settings.columns is not None:
        named = dict(zip(roles, settings.columns, strict=False))
    return from_interactions(
        settings.path or "",
        items=settings.items_path,
        columns=named,
        header=settings.header,
        id_type=settings.id_type,
        positive=settings.positive,
        min_per_user=settings.min_per_user,
        min_per_item=settings.min_per_item,
        split=settings.split,
        test_share=settings.test_share,
        test_count=settings.test_count,
        validation_share=settings.validation_share,
        seed=settings.split_seed,
    )


def _text(settings: EnvironmentSettings) -> Dataset:
    return from_text_folder(
        settings.path or "",
        split=settings.qrels_split,
        unknown=settings.unknown,
        duplicates=settings.duplicates,
        own_document=settings.own_document,
    )


def _subtopics(settings: EnvironmentSettings) -> Dataset:
    return from_subtopics(
        settings.path or "",
        list_reward=settings.list_reward,
        eligible=settings.eligible_documents,
    )


ENVIRONMENTS.update(
    {
        "synthetic": _synthetic,
        "ratings": _ratings,
        "text": _text,
        "subtopics": _subtopics,
        "interactions": _interactions,
    }
)
