"""Runs compared on one page, and the measures behind it as pure functions.

exposure.py     coverage, Lorenz curve, Gini coefficient, shares of groups
fairness.py     rND, rKL, rRD
calibration.py  reliability curves of inclusion probabilities
measure.py      what a trained run answers: candidates, draws, item map
groups.py       the groups of items, from a file
gather.py       runs as the page sees them, and what each lacks
pictures.py     pictures that a page holds within itself
sections.py     what stands on the page, from metrics; trained.py, from the trained policy
page.py         the page
command.py      `report`
"""

from rankpg.evaluation.calibration import Bin, calibration_error, reliability
from rankpg.evaluation.exposure import GroupShare, coverage, gini, group_shares, lorenz
from rankpg.evaluation.fairness import rkl, rnd, rrd
from rankpg.report.command import report

__all__ = [
    "Bin",
    "GroupShare",
    "calibration_error",
    "coverage",
    "gini",
    "group_shares",
    "lorenz",
    "reliability",
    "report",
    "rkl",
    "rnd",
    "rrd",
]
