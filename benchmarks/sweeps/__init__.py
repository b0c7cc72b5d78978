"""Sweeps: many configs trained for one report, resumable, by several processes at once.

rows.py      a config with a name
work.py      training rows, each in its own run folder
results.py   what the run folders hold, as plain data
locks.py     one worker a row
files.py     JSON that is whole or not there
"""

from benchmarks.sweeps.results import collect, mean_of, read_report, training_report
from benchmarks.sweeps.run import Outcome, train_rows
from benchmarks.sweeps.trials import Row, unique_rows

__all__ = [
    "Outcome",
    "Row",
    "collect",
    "mean_of",
    "read_report",
    "train_rows",
    "training_report",
    "unique_rows",
]
