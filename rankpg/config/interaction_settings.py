"""Settings of interactions and of the objectives that learn from known feedback."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from rankpg.config.fields import Range, setting

__all__ = [
    "FEEDBACK_RANGES",
    "INTERACTIONS",
    "KNOWN_FEEDBACK",
    "PAIR_FEATURES",
    "RERANKER",
    "FeedbackSettings",
    "InteractionSettings",
]

INTERACTIONS = "interactions: what is read, and what is held out"
KNOWN_FEEDBACK = "the objective"
RERANKER = "the re-ranker"

PAIR_FEATURES = (
    "item_popularity",
    "item_recency",
    "near_recent_items",
    "near_last_item",
    "near_all_items",
    "tag_overlap",
    "user_activity",
)
"""Names of the features of a user and an item, computed by training/pair_features.py."""

_INTERACTIONS = {"environment": "interactions"}
_KNOWN = {"objective": ("softmax", "inclusion", "exposure")}
_INCLUSION = {"objective": ("inclusion", "exposure")}
_EXPOSURE = {"objective": "exposure"}
_WEIGHTED = {**_KNOWN, "unobserved": ("propensity", "model")}
_HISTORY = {"context_tower": ("auto", "history")}
_ATTENTION = {"history_encoder": "attention"}


@dataclass(frozen=True)
class InteractionSettings:
    """Settings by which a log of interactions is read and split."""

    items_path: str | None = setting(
        None,
        INTERACTIONS,
        "table of the items' categories, one column of ids and one or more of categories, which a history "
        "tower and a fitted re-ranker read",
        needs={**_HISTORY, "reranker": "lightgbm"},
        metavar="FILE",
    )
    positive: str | None = setting(
        None,
        INTERACTIONS,
        "condition on the value of a positive interaction, such as '>= 4'; the others are left out",
        needs=_INTERACTIONS,
        default_help="all rows",
        metavar="CONDITION",
    )
    min_per_user: int = setting(
        1,
        INTERACTIONS,
        "smallest number of interactions of a user; users with fewer are left out",
        needs=_INTERACTIONS,
    )
    min_per_item: int = setting(
        1,
        INTERACTIONS,
        "smallest number of interactions of an item; items with fewer are left out",
        needs=_INTERACTIONS,
    )
    split: Literal["last", "time", "random", "user", "none"] = setting(
        "last",
        INTERACTIONS,
        "test part. last: the last interactions of each user; time: those after one point in time; "
        "random: a random share of each user's; user: the later interactions of a share of users, who are "
        "not trained on; none: nothing",
        needs=_INTERACTIONS,
    )
    test_share: float = setting(0.2, INTERACTIONS, "share of the test part", needs=_INTERACTIONS)
    test_count: int | None = setting(
        None,
        INTERACTIONS,
        "split=last: number of last interactions of each user in the test part, in place of test_share",
        needs=_INTERACTIONS,
    )
    validation_share: float = setting(
        0.0,
        INTERACTIONS,
        "share of what is left that is the validation part, split in the same way; with test_count, any "
        "share above 0 takes as many interactions as the test part",
        needs=_INTERACTIONS,
    )
    split_seed: int = setting(
        0, INTERACTIONS, "seed of random and user splits", needs=_INTERACTIONS
    )
    reranker_features: tuple[str, ...] | None = setting(
        None,
        RERANKER,
        f"features of a user and an item that the fitted re-ranker reads, among {', '.join(PAIR_FEATURES)}",
        PAIR_FEATURES,
        needs={"reranker": "lightgbm"},
        default_help="all of them",
        metavar="NAME",
    )
    patience: int | None = setting(
        None,
        INTERACTIONS,
        "number of evaluations without a better validation_ndcg@10 after which training stops",
        default_help="never",
    )


@dataclass(frozen=True)
class FeedbackSettings(InteractionSettings):
    """Settings of the objective, and of the feedback that it learns from; with `InteractionSettings`."""

    objective: Literal["policy_gradient", "softmax", "inclusion", "exposure"] = setting(
        "policy_gradient",
        KNOWN_FEEDBACK,
        "objective. policy_gradient: the reward of the final list, by drawn candidates; softmax: the "
        "log-likelihood of known positives; inclusion: the expected number of them among the candidates; "
        "exposure: that, and their expected gain in the final list of a re-ranker that sorts by a score",
    )
    softmax_samples: int | None = setting(
        None,
        KNOWN_FEEDBACK,
        "number of items that are drawn as negatives of the softmax in each update, besides the wanted items "
        "of the batch; also of the softmax with which inclusion and exposure start",
        needs=_KNOWN,
        default_help="all items",
    )
    inclusion_at: tuple[int, ...] = setting(
        (3, 10, 30, 100),
        KNOWN_FEEDBACK,
        "numbers of candidates K whose objectives are averaged",
        needs=_INCLUSION,
        metavar="K",
    )
    inclusion_method: Literal["swr", "sum", "exact", "greedy"] = setting(
        "swr",
        KNOWN_FEEDBACK,
        "method for P(item in candidates). swr: as if drawn with replacement; sum: the expected number "
        "of draws; exact: by quadrature, for one expert and a small catalogue; greedy: given the greedy "
        "picks of the others; the last two need dense retrieval",
        needs=_INCLUSION,
    )
    inclusion_power: float = setting(
        1.0,
        KNOWN_FEEDBACK,
        "power of the probability P that is maximised, (P^power - 1) / power; 1: P itself, 0: log P",
        needs=_INCLUSION,
    )
    exposure_share: float = setting(
        0.5,
        KNOWN_FEEDBACK,
        "share of the final list's gain in the loss; the rest is the inclusion term's, without which items "
        "that the re-ranker puts far below the list have no gradient",
        needs=_EXPOSURE,
    )
    exposure_weights: Literal["dcg", "uniform"] = setting(
        "dcg",
        KNOWN_FEEDBACK,
        "weight of each position of the final list. dcg: 1 / log2(1 + position); uniform: 1, as in recall",
        needs=_EXPOSURE,
    )
    exposure_method: Literal["independent", "exact"] = setting(
        "independent",
        KNOWN_FEEDBACK,
        "method for P(item at a position). independent: as if items were candidates independently; "
        "exact: by quadrature, for small catalogues",
        needs=_EXPOSURE,
    )
    unobserved: Literal["zero", "left_out", "propensity", "model"] = setting(
        "zero",
        KNOWN_FEEDBACK,
        "reward of a shown item without interaction. zero: 0; left_out: none, so that the item has no part "
        "in the update; propensity: 0, and observed rewards are divided by an estimated probability of "
        "observation; model: that of factors that are fitted to the training part",
        needs={"objective": "policy_gradient"},
    )
    popularity_weight: float = setting(
        0.0,
        KNOWN_FEEDBACK,
        "power of an item's popularity that is taken as its probability of observation, by which values are "
        "divided in the loss; 0: equal weights, 0.5: as in the literature",
        needs=_WEIGHTED,
    )
    propensity_clip: float = setting(
        0.1,
        KNOWN_FEEDBACK,
        "smallest estimated probability of observation, in units of that of the most popular item",
        needs=_WEIGHTED,
    )
    mask_positives: bool | None = setting(
        None,
        KNOWN_FEEDBACK,
        "leave the other positives of a context out of the catalogue when one of them is wanted",
        needs=_KNOWN,
        default_help="true; false for the final list, where they compete for its positions",
    )
    first_share: float = setting(
        0.5,
        KNOWN_FEEDBACK,
        "share of the updates that come first: with the softmax loss, and on the earlier moments of users",
        needs=_KNOWN,
    )
    later_rate: float = setting(
        0.5,
        KNOWN_FEEDBACK,
        "factor on the learning rate of the other updates, from where it falls linearly to a twentieth",
        needs=_KNOWN,
    )
    forward_share: float = setting(
        0.25,
        KNOWN_FEEDBACK,
        "share of each user's training part, its end, that is the feedback of the later updates, with what "
        "came before as seen; 1: the whole part from the first update on",
    )
    next_items: int = setting(
        1,
        KNOWN_FEEDBACK,
        "number of next items that are the feedback of a moment of a history",
        needs=_HISTORY,
    )
    history_length: int = setting(
        20, KNOWN_FEEDBACK, "number of last items that a history tower reads", needs=_HISTORY
    )
    history_encoder: Literal["pooled", "attention"] = setting(
        "pooled",
        KNOWN_FEEDBACK,
        "encoder of a history. pooled: a mean with a learnt weight for each place; attention: "
        "layers of causal self-attention (SASRec), whose embedding depends on which items follow each other",
        needs=_HISTORY,
    )
    attention_layers: int = setting(
        2, KNOWN_FEEDBACK, "number of layers of self-attention", needs=_ATTENTION
    )
    attention_heads: int = setting(
        1,
        KNOWN_FEEDBACK,
        "number of heads of each layer of self-attention, which divides embedding_dim",
        needs=_ATTENTION,
    )
    dropout: float = setting(
        0.2,
        KNOWN_FEEDBACK,
        "share of a history's embedding that is dropped in training; with attention, of its input and of "
        "what each layer adds",
        needs=_HISTORY,
    )


_SHARE = Range(0, 1, "from 0 to 1")
_PART = Range(0, 1, "at least 0 and less than 1", without_high=True)
_COUNT = Range(1, math.inf, "at least 1")

FEEDBACK_RANGES = {
    "test_share": _PART,
    "validation_share": _PART,
    "first_share": _SHARE,
    "forward_share": Range(0, 1, "above 0 and at most 1", without_low=True),
    "inclusion_power": _SHARE,
    "exposure_share": _SHARE,
    "dropout": _PART,
    "popularity_weight": _SHARE,
    "propensity_clip": Range(0, 1, "above 0 and at most 1", without_low=True),
    "later_rate": Range(0, 1, "above 0 and at most 1", without_low=True),
    "inclusion_at": Range(1, math.inf, "one or more numbers of at least 1"),
    "softmax_samples": _COUNT,
    "min_per_user": _COUNT,
    "min_per_item": _COUNT,
    "test_count": _COUNT,
    "patience": _COUNT,
    "next_items": _COUNT,
    "history_length": _COUNT,
    "attention_layers": _COUNT,
    "attention_heads": _COUNT,
}
"""Values that the settings of this file may have."""
