"""Sweeps: many configs trained for one report; resumable, and shared by several processes.

trials.py    a trial: a config with a name
run.py       trains trials, each in its own run folder, one process at a time
results.py   the contents of the run folders as plain data
files.py     atomic JSON files
"""

from benchmarks.sweeps.results import collect, mean_of, read_report, training_report
from benchmarks.sweeps.run import Outcome, train_trials
from benchmarks.sweeps.trials import Trial, unique_trials

__all__ = [
    "Outcome",
    "Trial",
    "collect",
    "mean_of",
    "read_report",
    "train_trials",
    "training_report",
    "unique_trials",
]
