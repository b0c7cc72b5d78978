"""Fields of export.json, the manifest of an export."""

from __future__ import annotations

from typing import Literal, TypedDict

__all__ = [
    "FORMAT",
    "ContextTowerEntry",
    "IndexEntry",
    "ItemsEntry",
    "Manifest",
    "MergeEntry",
    "Recall",
    "RunEntry",
    "SeenEntry",
]

FORMAT = 2
"""Version of the layout of an export. Format 1 has another key for the checksums."""


class Recall(TypedDict):
    """Recall of an index against exact search."""

    candidates: float
    """recall of the K candidates after the merge"""
    experts: list[float]
    """recall of the K best items of each expert"""
    contexts: int
    """number of contexts that recall is measured on"""


class IndexEntry(TypedDict):
    """One kind of index: a file per expert, how to search it, and its recall."""

    version: str
    files: list[str]
    kind: str
    effort: int | None
    """None for exact search"""
    depth: int
    recall: Recall
    reached: bool
    """False if the largest search effort does not find the required share of items"""


class RunEntry(TypedDict):
    """Origin of the parameters."""

    step: int
    seed: int
    config: dict[str, object]


class MergeEntry(TypedDict):
    """Rule by which the K slots are filled from the experts' orders."""

    rule: str
    quotas: list[int]


class ItemsEntry(TypedDict):
    """File names of the item embeddings and ids."""

    embeddings: str
    ids: str


class ContextTowerEntry(TypedDict):
    """Files of the context tower and what its program takes."""

    program: str
    parameters: str
    takes: Literal["rows", "features"]
    width: int | None
    """F; None where it takes rows"""
    ids: str | None
    features: str | None
    largest_batch: int
    platforms: list[str]
    calling_convention: int


class SeenEntry(TypedDict):
    """File of the items that each context has seen, which a server leaves out of its candidates."""

    file: str
    row_starts: str
    """name of the array int64[contexts + 1]: where the items of each context start"""
    items: str
    """name of the array int32: rows of the exported items, ascending for each context"""
    longest: int
    """largest number of items of one context"""


class Manifest(TypedDict):
    """All of export.json."""

    format: int
    versions: dict[str, str]
    run: RunEntry
    data: dict[str, str] | None
    """SHA-256 of ids and rewards; None for an environment without ids"""
    num_experts: int
    num_items: int
    embedding_dim: int
    num_candidates: int
    merge: MergeEntry
    temperature: float
    temperature_is_applied: bool
    masks: bool
    """true if training restricted the items of a context, and the export does not hold which"""
    seen: SeenEntry | None
    """items that each context has seen, for a run on interactions; None for other runs"""
    items: ItemsEntry
    context_tower: ContextTowerEntry
    indexes: dict[str, IndexEntry]
    checksums: dict[str, str]
    """file name -> SHA-256; every file of the folder except export.json"""
