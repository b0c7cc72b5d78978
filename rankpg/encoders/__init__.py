"""Encoders: from contexts to embeddings or logits, by two towers or by a network of your own."""

from rankpg.encoders.history import HistoryEncoder, history_of
from rankpg.encoders.starts import from_embeddings, starting_at
from rankpg.encoders.two_tower import (
    TOWERS,
    AdapterTower,
    Encoder,
    FeatureTower,
    GivenTower,
    IdTower,
    TowerKind,
    TowerSettings,
    TwoTower,
    by_rows,
    from_linen,
    from_nnx,
    to_logits,
    towers_of,
    two_tower,
)

__all__ = [
    "TOWERS",
    "AdapterTower",
    "Encoder",
    "FeatureTower",
    "GivenTower",
    "HistoryEncoder",
    "IdTower",
    "TowerKind",
    "TowerSettings",
    "TwoTower",
    "by_rows",
    "from_embeddings",
    "from_linen",
    "from_nnx",
    "history_of",
    "starting_at",
    "to_logits",
    "towers_of",
    "two_tower",
]
