"""Rewards of the shown list, for `with_list_reward`: measures, with the tables of the catalogue.

Each is a measure of `list_gains`, whose formula and source stand there. A reward is a pytree: its tables are
arguments of the compiled program.

list_reward.py        the base, and a function of yours
subtopic_rewards.py   alpha-nDCG, ERR-IA, subtopic recall, probabilistic coverage
item_rewards.py       diversity, log-determinant, clicks, exposure of groups
"""

from rankpg.environments.item_rewards import (
    cascade,
    dependent_clicks,
    diversity,
    exposure_share,
    log_det,
    rnd,
)
from rankpg.environments.list_reward import ListReward, function
from rankpg.environments.subtopic_rewards import (
    LIST_REWARDS,
    alpha_ndcg,
    coverage,
    err_ia,
    greedy_ideal,
    subtopic_recall,
    trec_err_ia,
)

__all__ = [
    "LIST_REWARDS",
    "ListReward",
    "alpha_ndcg",
    "cascade",
    "coverage",
    "dependent_clicks",
    "diversity",
    "err_ia",
    "exposure_share",
    "function",
    "greedy_ideal",
    "log_det",
    "rnd",
    "subtopic_recall",
    "trec_err_ia",
]
