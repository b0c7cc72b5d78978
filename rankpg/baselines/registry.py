"""Table of the baselines, with the settings that a tuning tries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rankpg.baselines.base import Baseline
from rankpg.baselines.ease import Ease
from rankpg.baselines.factors import Als, Bpr
from rankpg.baselines.neighbours import ItemKnn
from rankpg.baselines.popular import Popular

__all__ = ["BASELINES", "BaselineKind"]


@dataclass(frozen=True)
class BaselineKind:
    """One kind of baseline, as `BASELINES` lists it.

    Args:
      build: returns a baseline that is not fitted; its arguments are settings.
      grid: settings to try in a tuning, those of most expected worth first; the first is a default.
      needs: extra of the package that it requires (`pip install 'rankpg[...]'`), None for none.
    """

    build: Callable[..., Baseline]
    grid: tuple[Mapping[str, int | float | str], ...]
    needs: str | None = None


_POPULAR = tuple({"damping": x} for x in (0.0, 0.5, 1.0, 0.25, 0.75, 1.5, 0.1, 2.0))
_ITEM_KNN = (
    {"neighbours": 100, "shrinkage": 10.0, "weighting": "none"},
    {"neighbours": 100, "shrinkage": 10.0, "weighting": "bm25"},
    {"neighbours": 100, "shrinkage": 10.0, "weighting": "tf_idf"},
    {"neighbours": 300, "shrinkage": 10.0, "weighting": "tf_idf"},
    {"neighbours": 30, "shrinkage": 10.0, "weighting": "tf_idf"},
    {"neighbours": 100, "shrinkage": 100.0, "weighting": "tf_idf"},
    {"neighbours": 100, "shrinkage": 0.0, "weighting": "none"},
    {"neighbours": 100, "shrinkage": 0.0, "weighting": "tf_idf"},
)
_EASE = tuple({"l2": x} for x in (250.0, 500.0, 100.0, 1000.0, 50.0, 2000.0, 20.0, 5000.0))
_ALS = (
    {"factors": 64, "l2": 0.1, "alpha": 10.0, "iterations": 15},
    {"factors": 128, "l2": 1.0, "alpha": 10.0, "iterations": 15},
    {"factors": 32, "l2": 1.0, "alpha": 10.0, "iterations": 15},
    {"factors": 64, "l2": 10.0, "alpha": 10.0, "iterations": 15},
    {"factors": 256, "l2": 30.0, "alpha": 40.0, "iterations": 15},
    {"factors": 64, "l2": 1.0, "alpha": 2.0, "iterations": 15},
    {"factors": 128, "l2": 30.0, "alpha": 40.0, "iterations": 30},
    {"factors": 16, "l2": 1.0, "alpha": 2.0, "iterations": 30},
)
_BPR = (
    {"factors": 64, "learning_rate": 0.05, "l2": 0.01, "iterations": 100},
    {"factors": 64, "learning_rate": 0.02, "l2": 0.01, "iterations": 100},
    {"factors": 64, "learning_rate": 0.05, "l2": 0.03, "iterations": 100},
    {"factors": 128, "learning_rate": 0.05, "l2": 0.01, "iterations": 200},
    {"factors": 32, "learning_rate": 0.05, "l2": 0.003, "iterations": 100},
    {"factors": 64, "learning_rate": 0.1, "l2": 0.03, "iterations": 200},
    {"factors": 128, "learning_rate": 0.02, "l2": 0.003, "iterations": 200},
    {"factors": 16, "learning_rate": 0.05, "l2": 0.01, "iterations": 200},
)

BASELINES: dict[str, BaselineKind] = {
    "popular": BaselineKind(Popular, _POPULAR),
    "item_knn": BaselineKind(ItemKnn, _ITEM_KNN),
    "ease": BaselineKind(Ease, _EASE),
    "als": BaselineKind(Als, _ALS, needs="baselines"),
    "bpr": BaselineKind(Bpr, _BPR, needs="baselines"),
}
"""Baselines by name, each with eight settings to try, so that a comparison tunes all of them alike."""
