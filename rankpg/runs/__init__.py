"""Runs: from a config to trained seeds, on disk and off.

run.py        `Run`: config, learner, state of every seed, metrics; candidates by id
loop.py       the training loop on the host
evaluator.py  compiled evaluation and diagnostics
train.py      `rankpg.train`
recommend.py  candidates by id, for unknown contexts and under masks
catalogue.py  items and contexts that come and go after training
memory.py     the memory that a run needs
progress.py   a progress bar
storage/      run folders: settings, metrics, checkpoints, cards, trackers
"""

from rankpg.runs.run import Progress, Run, prepare
from rankpg.runs.storage.folder import RunFolder
from rankpg.runs.storage.load import load_run
from rankpg.runs.train import train

__all__ = ["Progress", "Run", "RunFolder", "load_run", "prepare", "train"]
