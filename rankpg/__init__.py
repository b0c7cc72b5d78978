"""rankpg: policy-gradient training of a retriever on the reward of the final list, in JAX."""

from __future__ import annotations

from rankpg import (
    advantages,
    encoders,
    environments,
    evaluation,
    export,
    online,
    report,
    rerankers,
    retrieval,
    training,
)
from rankpg._version import __version__
from rankpg.config.train_config import TrainConfig
from rankpg.core import exposure, theory
from rankpg.core.estimators import ESTIMATORS, score
from rankpg.core.inclusion import log_inclusion, log_inclusion_threshold
from rankpg.core.inclusion_large import log_inclusion_large
from rankpg.core.plackett_luce import log_prob, log_prob_swr
from rankpg.core.quotas import expert_quotas
from rankpg.core.sampling import greedy_candidates, sample_candidates
from rankpg.errors import ConfigError
from rankpg.policy import Policy
from rankpg.runs.run import Run
from rankpg.runs.storage.folder import RunFolder
from rankpg.runs.storage.load import load_run
from rankpg.runs.train import train
from rankpg.training.update import Learner, TrainState

__all__ = [
    "ESTIMATORS",
    "ConfigError",
    "Learner",
    "Policy",
    "Run",
    "RunFolder",
    "TrainConfig",
    "TrainState",
    "__version__",
    "advantages",
    "encoders",
    "environments",
    "evaluation",
    "expert_quotas",
    "export",
    "exposure",
    "greedy_candidates",
    "load_run",
    "log_inclusion",
    "log_inclusion_large",
    "log_inclusion_threshold",
    "log_prob",
    "log_prob_swr",
    "online",
    "report",
    "rerankers",
    "retrieval",
    "sample_candidates",
    "score",
    "theory",
    "train",
    "training",
]
