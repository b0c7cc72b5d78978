"""Settings of embeddings that were trained elsewhere, at which a run starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rankpg.config.fields import setting

__all__ = ["INITIAL", "InitialSettings"]

INITIAL = "embeddings of yours to start at"


@dataclass(frozen=True)
class InitialSettings:
    """Settings by which embeddings are read; the towers say what becomes of them."""

    init_embeddings: str | None = setting(
        None,
        INITIAL,
        "embeddings of items, and of contexts if there are any: npy, npz, safetensors, pt, pth, or a saved "
        "model of implicit. ids and history towers start at them, adapter, given and features towers read "
        "them as features",
        metavar="FILE[::ITEMS[::CONTEXTS]]",
    )
    init_ids: str | None = setting(
        None,
        INITIAL,
        "ids of their rows: npz with item_ids and user_ids, npy or txt with ids of items",
        default_help="those in the file of the embeddings",
        metavar="FILE",
    )
    init_missing: Literal["error", "mean", "random"] = setting(
        "error",
        INITIAL,
        "embedding of an id without one; error rejects the file; mean: the mean of the others; random: "
        "random numbers of their size",
    )
