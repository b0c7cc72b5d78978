"""Training: the learner and its update, in the order of the data flow.

update.py      `Learner`, its state, and `update`: the data flow from contexts to the optimizer
faults.py      what can go wrong in an update
optimizer.py   optax's optimizer from a config; steps that are undone where they are not finite
programs.py    a scan over updates, a vmap over seeds, compiled
build.py       from a config to a learner
validation.py  components that do not fit together are rejected before anything is compiled
"""

from rankpg.training.build import build_learner, make_environment
from rankpg.training.faults import Fault
from rankpg.training.update import Learner, StepMetrics, TrainState, update

__all__ = [
    "Fault",
    "Learner",
    "StepMetrics",
    "TrainState",
    "build_learner",
    "make_environment",
    "update",
]
