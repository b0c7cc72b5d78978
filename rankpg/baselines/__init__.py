"""Baselines: recommenders to run in place of a trained retriever, and to compare it with.

base.py        the protocol, and the lists of a baseline: the best items that a user has not seen
popular.py     the number of interactions
neighbours.py  item-based nearest neighbours
ease.py        EASE, a linear model in closed form
factors.py     ALS and BPR, with the package `implicit`
registry.py    all of them by name, with the settings that a tuning tries

NumPy and SciPy only, without JAX.
"""

from rankpg.baselines.base import Baseline, top_lists
from rankpg.baselines.ease import Ease
from rankpg.baselines.factors import Als, Bpr
from rankpg.baselines.neighbours import ItemKnn
from rankpg.baselines.popular import Popular
from rankpg.baselines.registry import BASELINES, BaselineKind

__all__ = [
    "BASELINES",
    "Als",
    "Baseline",
    "BaselineKind",
    "Bpr",
    "Ease",
    "ItemKnn",
    "Popular",
    "top_lists",
]
