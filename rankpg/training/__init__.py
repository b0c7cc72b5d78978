"""Training: the learner and its update.

update.py     `Learner`, its state, and `update`: the data flow from contexts to the optimizer
optimizer.py  optax's optimizer from a config, faults, and steps that a fault undoes
build.py      a learner from a config; components that do not fit are rejected
"""

from rankpg.training.build import build_learner, make_environment
from rankpg.training.optimizer import Fault
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
