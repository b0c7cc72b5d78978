"""Problems that are still hard, every estimator on each of them: `python -m benchmarks hard-problems`.

problems.py   the problems, and what is trained on each
reach.py      the best that any policy, and the best that this kind of policy, could do
report.py     all of it together: JSON, a table, a picture
"""

from benchmarks.hard_problems.problems import COMPARED, PROBLEMS, SCALES, Problem, problem_rows
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
    "problem_rows",
]
