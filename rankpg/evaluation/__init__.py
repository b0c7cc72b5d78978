"""Measures of a policy and of the lists that it produces.

metrics.py      value, regret by stage, candidate recall, nDCG
stochastic.py   exact value and exposure of drawn lists
diagnostics.py  gradient noise, effective sample size, saturation
exposure.py     coverage, Lorenz curve, Gini coefficient, exposure by group
fairness.py     rND, rKL, rRD
calibration.py  reliability curves of inclusion probabilities

The measures of the last three are functions of NumPy arrays and need no run.
"""

from rankpg.evaluation.calibration import ReliabilityBin, calibration_error, reliability
from rankpg.evaluation.diagnostics import Diagnostics, diagnose, effective_sample_size
from rankpg.evaluation.exposure import GroupShare, coverage, gini, group_shares, lorenz
from rankpg.evaluation.fairness import rkl, rnd, rrd
from rankpg.evaluation.metrics import Evaluation, evaluate, ndcg, relevant_recall, share_aligned
from rankpg.evaluation.stochastic import ExpectedLists, expected_lists, has_exact_exposure

__all__ = [
    "Diagnostics",
    "Evaluation",
    "ExpectedLists",
    "GroupShare",
    "ReliabilityBin",
    "calibration_error",
    "coverage",
    "diagnose",
    "effective_sample_size",
    "evaluate",
    "expected_lists",
    "gini",
    "group_shares",
    "has_exact_exposure",
    "lorenz",
    "ndcg",
    "relevant_recall",
    "reliability",
    "rkl",
    "rnd",
    "rrd",
    "share_aligned",
]
