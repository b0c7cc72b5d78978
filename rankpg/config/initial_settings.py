"""Settings of embeddings that were trained elsewhere, at which a run starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rankpg.config.fields import setting
from rankpg.errors import ConfigError, argument

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

    def check_initial(self) -> None:
        """Rejects settings of embeddings that have no effect, and empty names.

        Raises:
          ConfigError: names the setting.
        """
        for name in ("init_embeddings", "init_ids"):
            value = getattr(self, name)
            if value is not None and not value.strip():
                raise ConfigError(f"{argument(name, value)}; expected the name of a file")
        if self.init_embeddings is not None:
            return
        for name in ("init_ids", "init_missing"):
            value = getattr(self, name)
            if value != getattr(InitialSettings, name):
                wanted = "init_embeddings; give init_embeddings=FILE"
                raise ConfigError(f"{argument(name, value)} has no effect without {wanted}")
