"""rankpg: train an early-stage ranker on the reward of the final list, by policy gradient, in JAX."""

from rankpg import encoders, environments, export, late_stage, live, rewards, theory
from rankpg.config import ConfigError, TrainConfig
from rankpg.estimators import ESTIMATORS, score
from rankpg.inclusion import log_inclusion, log_inclusion_threshold
from rankpg.large_inclusion import log_inclusion_large
from rankpg.plackett_luce import (
    greedy_candidates,
    log_prob,
    log_prob_swr,
    sample_candidates,
)
from rankpg.quotas import expert_quotas
from rankpg.run import Run, train
from rankpg.run_folder import RunFolder, load_run

__version__ = "0.1.0"

__all__ = [
    "ESTIMATORS",
    "ConfigError",
    "Run",
    "RunFolder",
    "TrainConfig",
    "encoders",
    "environments",
    "expert_quotas",
    "export",
    "greedy_candidates",
    "late_stage",
    "live",
    "load_run",
    "log_inclusion",
    "log_inclusion_large",
    "log_inclusion_threshold",
    "log_prob",
    "log_prob_swr",
    "rewards",
    "sample_candidates",
    "score",
    "theory",
    "train",
]
