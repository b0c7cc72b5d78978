"""Hard problems, and every estimator's share of the attainable value: `python -m benchmarks hard-problems`.

problems.py   the problems and their trials
reach.py      the attainable value: of the best candidates, and of the same encoder fitted to the rewards
report.py     trains, fits and writes the report: JSON, table, picture
"""

from benchmarks.hard_problems.problems import COMPARED, PROBLEMS, SCALES, Problem, problem_trials
from benchmarks.hard_problems.reach import Reach, find_limit, find_reach
from benchmarks.hard_problems.report import learning

__all__ = [
    "COMPARED",
    "PROBLEMS",
    "SCALES",
    "Problem",
    "Reach",
    "find_limit",
    "find_reach",
    "learning",
    "problem_trials",
]
