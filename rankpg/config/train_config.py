"""Settings of a run, typed and frozen, with the same names as Python arguments, YAML keys and flags."""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rankpg.advantages import ADVANTAGES
from rankpg.config.auto import choose_estimator
from rankpg.config.fields import check_ranges, checked, complete, setting, setting_type
from rankpg.config.initial_settings import INITIAL, InitialSettings
from rankpg.config.interaction_settings import (
    FEEDBACK_RANGES,
    INTERACTIONS,
    KNOWN_FEEDBACK,
    RERANKER,
    FeedbackSettings,
)
from rankpg.config.objective_checks import check_attention, check_objective
from rankpg.config.presets import HISTORY_PRESET, KNOWN_FEEDBACK_PRESET, PRESETS
from rankpg.config.renamed import RENAMED
from rankpg.config.reward_model_settings import (
    BY_PREDICTIONS,
    REWARD_MODEL,
    REWARD_RANGES,
    RewardModelSettings,
    check_rewards,
)
from rankpg.config.reward_settings import LEARNING
from rankpg.config.table_settings import TABLES, TableSettings
from rankpg.core.estimators import ESTIMATORS, check_estimator
from rankpg.encoders.two_tower import TOWERS, TowerKind
from rankpg.environments.dataset import ENVIRONMENTS
from rankpg.errors import ConfigError, argument
from rankpg.rerankers import RERANKERS
from rankpg.retrieval.base import RETRIEVALS

__all__ = ["GROUPS", "TrainConfig"]

_PROBLEM, _POLICY, _RUN = "the problem", "the policy (early stage)", "the run"

GROUPS = (
    _PROBLEM,
    TABLES,
    INTERACTIONS,
    _POLICY,
    INITIAL,
    RERANKER,
    KNOWN_FEEDBACK,
    LEARNING,
    REWARD_MODEL,
    _RUN,
)
"""Headings of the settings, in the order of the help."""

_TABLE = "FILE (csv, tsv, parquet or npz)"
_FOLDER = "FOLDER (corpus.jsonl, queries.jsonl and qrels)"
_QRELS = "FILE (lines of topic, subtopic, document and judgement)"
_READ = {"ratings": _TABLE, "text": _FOLDER, "interactions": _TABLE, "subtopics": _QRELS}
_SHARDED = {"retrieval": "sharded"}
_SYNTHETIC = {"environment": "synthetic"}
_FILES = {"environment": ("ratings", "text", "interactions", "subtopics")}
_OVER_FEATURES = tuple(n for n, kind in TOWERS.items() if kind.reads_features and kind.learns)
_FROM_PRESET = "from the preset"
_LARGEST_BONUS = 1e6
"""More would leave nothing of a reward in float32."""


@dataclass(frozen=True)
class TrainConfig(FeedbackSettings, InitialSettings, TableSettings, RewardModelSettings):
    """The settings of a training run. The preset fills in the fields that are None.

    >>> TrainConfig(estimator="ca_pg").resolve().learning_rate
    0.01
    >>> TrainConfig(num_candidates=0)
    Traceback (most recent call last):
    rankpg.errors.ConfigError: num_candidates=0; expected at least 1
    """

    environment: str = setting(
        "synthetic",
        _PROBLEM,
        "source of contexts and rewards: synthetic (the paper's instance at 1000 x 1000 and 10 features, "
        "else a generated one), or ratings, text, interactions or subtopics from path=",
        ENVIRONMENTS,
    )
    path: str | None = setting(
        None,
        _PROBLEM,
        "ratings: csv, tsv, parquet or npz file of (user, item, value) triples, or matrix as npy, npz or csv "
        "without header; text: folder with corpus.jsonl, queries.jsonl, qrels, corpus.npy and queries.npy; "
        "interactions: file of (user, item) rows with a timestamp, a value and a weight, if there are any; "
        "subtopics: file of TREC's diversity judgements (topic, subtopic, document, judgement)",
        needs=_FILES,
        metavar="FILE|FOLDER",
    )
    columns: tuple[str, ...] | None = setting(
        None,
        _PROBLEM,
        "names of the user, item and value columns, or of the first two; of interactions: user, item, "
        "timestamp, value, weight and session, as many as there are",
        needs={"environment": ("ratings", "interactions")},
        default_help="recognised by their names",
        metavar="NAME",
    )
    num_contexts: int = setting(
        1000, _PROBLEM, "synthetic: number of contexts (users, queries)", needs=_SYNTHETIC
    )
    num_items: int = setting(
        1000, _PROBLEM, "synthetic: N, number of items in the catalogue", needs=_SYNTHETIC
    )
    num_features: int = setting(
        10, _PROBLEM, "synthetic: width of the feature vectors", needs=_SYNTHETIC
    )
    instance_seed: int | None = setting(
        None,
        _PROBLEM,
        "seed of a generated instance, and of the learned re-ranker",
        needs=_SYNTHETIC | {"reranker": "learned"},
        default_help="the paper's instance at its own size, else 0",
    )
    noise_scale: float = setting(
        1.0,
        _PROBLEM,
        "synthetic: factor on the standard deviation of rewards",
        needs=_SYNTHETIC,
    )
    held_out_contexts: int = setting(
        0,
        _PROBLEM,
        "number of contexts, a fixed random choice, that are left out of training and are the only ones "
        "evaluated; needs context_tower=features, adapter or given",
    )
    num_candidates: int = setting(10, _POLICY, "K, number of candidates for the re-ranker")
    num_experts: int = setting(1, _POLICY, "M, number of experts that share the K slots")
    embedding_dim: int = setting(
        10,
        _POLICY,
        "D, width of the embeddings; with an adapter or given tower, that of the features",
    )
    context_tower: str = setting(
        "auto",
        _POLICY,
        "embedding of contexts. ids: a table; features: a perceptron over their features; adapter: their "
        "features plus a perceptron that is 0 at first; given: their features, not trained; history: the "
        "items that their user interacted with; auto: history for an objective on known feedback of "
        "interactions, else ids",
        lambda: ("auto", *TOWERS),
    )
    item_tower: str = setting(
        "ids", _POLICY, "embedding of items, with the same choices but history", TOWERS
    )
    hidden: tuple[int, ...] = setting(
        (64,),
        _POLICY,
        "hidden widths of the perceptrons; none makes them linear",
        needs={"context_tower": _OVER_FEATURES, "item_tower": _OVER_FEATURES},
    )
    temperature: float = setting(1.0, _POLICY, "divisor of the logits")
    init_scale: float | None = setting(
        None,
        _POLICY,
        "standard deviation of the embeddings at initialisation",
        default_help=_FROM_PRESET,
    )
    table_dtype: Literal["float32", "bfloat16"] = setting(
        "float32",
        _POLICY,
        "dtype of the towers' parameters; the optimizer computes in float32 with either",
    )
    product_dtype: Literal["float32", "bfloat16"] = setting(
        "float32",
        _POLICY,
        "dtype of the embeddings in inner products, which accumulate in float32 with either",
    )
    retrieval: str = setting(
        "auto",
        _POLICY,
        "candidate generation. dense: all logits in memory; streamed: the catalogue in chunks; sharded: "
        "in chunks, on several devices; auto: by the catalogue's size and the devices",
        lambda: ("auto", *RETRIEVALS),
    )
    mesh: tuple[int, ...] | None = setting(
        None,
        _POLICY,
        "number of devices that share the batch, and of devices that share the items",
        needs=_SHARDED,
        default_help="1 and all devices",
    )
    reranker: str = setting(
        "optimal",
        RERANKER,
        "re-ranker, which picks the shown items among the candidates; lightgbm: a LambdaMART that is fitted "
        "to the training part of interactions",
        RERANKERS,
    )
    ranking_length: int = setting(1, RERANKER, "L, number of candidates that are shown")
    inverse_temperature: float = setting(
        1.0,
        RERANKER,
        "inverse temperature of the noisy re-ranker; below 0 it prefers the worst",
        needs={"reranker": "noisy"},
    )
    estimator: str = setting(
        "ca_pg_swr",
        LEARNING,
        "policy-gradient estimator, named after its score; auto: chosen by the other settings",
        lambda: (*ESTIMATORS, "auto"),
    )
    preset: str = setting(
        "tuned",
        LEARNING,
        "initialisation, optimizer, learning rate and advantage where they are not given: tuned for the "
        "estimator and its towers, or those of the paper",
        tuple(PRESETS),
    )
    optimizer: str | None = setting(
        None, LEARNING, "name of an optax optimizer", default_help=_FROM_PRESET, metavar="NAME"
    )
    optimizer_options: tuple[str, ...] | None = setting(
        None,
        LEARNING,
        "further arguments of the optimizer",
        default_help=_FROM_PRESET,
        metavar="NAME=NUMBER",
    )
    learning_rate: float | None = setting(
        None, LEARNING, "step size of the optimizer", default_help=_FROM_PRESET
    )
    adaptive_learning_rate: bool | None = setting(
        None,
        LEARNING,
        "division of the step by the re-ranker's mean propensity of its greedy ranking (Eq. 9)",
        default_help=_FROM_PRESET,
    )
    batch_size: int = setting(128, LEARNING, "B, number of draws per update")
    draws_per_context: int = setting(
        1,
        LEARNING,
        "number of draws of each context in a batch; advantage='group' compares them",
    )
    position_weights: str = setting(
        "uniform",
        LEARNING,
        "alpha, weight of each position: uniform, dcg, or L numbers separated by commas",
        metavar="uniform|dcg|NUMBERS",
    )
    advantage: str | None = setting(
        None,
        LEARNING,
        "factor of the score: the reward (none), or the reward normalised within its group of draws (group), "
        "less the mean of the other rewards of the batch (batch), a running mean per context (context), or a "
        "learned baseline (learned)",
        ADVANTAGES,
        default_help=_FROM_PRESET,
    )
    entropy_bonus: float = setting(
        0.0,
        LEARNING,
        "entropy-regularisation weight, in reward units (0: off; try 0.1 to 0.5 times the spread of mean "
        "rewards within a context, with advantage='context')",
    )
    num_steps: int = setting(20_000, _RUN, "number of updates")
    num_epochs: int | None = setting(
        None,
        _RUN,
        "number of passes over the training moments of interactions, in place of num_steps",
        default_help="num_steps",
    )
    seeds: tuple[int, ...] = setting(
        (0, 1, 2),
        _RUN,
        "random seeds, trained side by side in one program",
    )
    eval_every: int = setting(1000, _RUN, "number of updates between evaluations")
    eval_contexts: int = setting(
        10_000,
        _RUN,
        "largest number of contexts per evaluation; of more, a fixed random subset",
    )
    recall_depth: int | None = setting(
        None,
        _RUN,
        "T in candidate_recall@T, the share of the T best items that are candidates",
        default_help="K",
    )

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = checked(field, hints[field.name], getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        if self.estimator == "auto":
            object.__setattr__(self, "estimator", choose_estimator(self).estimator)
        self._check_ranges()
        self._check_together()
        complete(self)

    def _check_ranges(self) -> None:
        self._check_counts()
        for name in ("temperature", "init_scale", "learning_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                self._reject(name, "a number above 0")
        if not math.isfinite(self.inverse_temperature):
            self._reject("inverse_temperature", "a finite number")
        if not 0 <= self.noise_scale < math.inf:
            self._reject("noise_scale", "at least 0")
        if not 0 <= self.entropy_bonus <= _LARGEST_BONUS:
            expected = f"at least 0, in units of the reward, and at most {_LARGEST_BONUS:g}"
            self._reject("entropy_bonus", expected)
        if self.path is not None and not self.path.strip():
            self._reject("path", "the name of a file or folder")
        distinct = len(set(self.seeds)) == len(self.seeds) > 0
        if not distinct or not all(0 <= seed < 2**32 for seed in self.seeds):
            expected = "distinct integers from 0 to 2^32 - 1, for instance seeds=(0, 1, 2)"
            self._reject("seeds", expected)
        if self.instance_seed is not None and not 0 <= self.instance_seed < 2**32:
            self._reject("instance_seed", "an integer from 0 to 2^32 - 1")

    def _check_counts(self) -> None:
        at_least_one = (
            "num_contexts num_items num_features num_candidates num_experts embedding_dim "
            "ranking_length batch_size draws_per_context num_steps eval_every eval_contexts"
        )
        for name in at_least_one.split():
            value = getattr(self, name)
            if value < 1:
                self._reject(name, "at least 1")
            if value >= 2**31:
                self._reject(name, "less than 2^31")
        if self.recall_depth is not None and not 1 <= self.recall_depth < 2**31:
            self._reject("recall_depth", "at least 1")
        if self.num_features > 2**16:  # the problem's matrices are num_features squared
            self._reject("num_features", f"at most {2**16}")
        if not 0 <= self.held_out_contexts < 2**31:
            self._reject("held_out_contexts", "at least 0")
        if any(width < 1 for width in self.hidden):
            self._reject("hidden", "widths of at least 1")

    def _reject(self, name: str, expected: str) -> typing.NoReturn:
        raise ConfigError(f"{self._argument(name)}; expected {expected}")

    def _argument(self, name: str) -> str:
        return argument(name, getattr(self, name))

    def _check_together(self) -> None:
        try:
            check_estimator(self.estimator, self.num_experts)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        if (
            self.retrieval in ("streamed", "sharded")
            and ESTIMATORS[self.estimator].statistics == "catalogue"
        ):
            raise ConfigError(
                f"{self._argument('estimator')} needs the logits of the whole catalogue; "
                "choose retrieval='dense'"
            )
        if self.mesh is not None:
            if len(self.mesh) != 2 or min(self.mesh) < 1:
                expected = "two numbers of at least 1, BATCH ITEMS, for instance mesh=(2, 4)"
                self._reject("mesh", expected)
            if self.batch_size % self.mesh[0]:
                raise ConfigError(
                    f"{self._argument('batch_size')} does not divide among the {self.mesh[0]} devices that "
                    f"share the batch in {self._argument('mesh')}; expected a multiple"
                )
        if self.ranking_length > self.num_candidates:
            raise ConfigError(
                f"{self._argument('ranking_length')} exceeds {self._argument('num_candidates')}; "
                "expected L at most K"
            )
        if self.path is None and self.environment in _READ:
            raise ConfigError(
                f"{self._argument('environment')} needs path={_READ[self.environment]}"
            )
        towers = {self.context_tower, self.item_tower} - {"auto"}
        for name in towers:
            if not isinstance(TOWERS[name], TowerKind):
                raise ConfigError(
                    f"TOWERS[{name!r}] is {TOWERS[name]!r}; expected an encoders.TowerKind"
                )
        kept = any(TOWERS[name].keeps_width for name in towers)
        if kept and self.embedding_dim != type(self).embedding_dim:
            raise ConfigError(
                f"{self._argument('embedding_dim')} has no effect: {self._argument('context_tower')} and "
                f"{self._argument('item_tower')} keep the width of the features; leave it out"
            )
        self._check_columns()
        if (self.init_embeddings, self.init_ids, self.init_missing) != (None, None, "error"):
            self.check_initial()
        check_ranges(self, FEEDBACK_RANGES | REWARD_RANGES)
        if (self.objective, self.unobserved) != ("policy_gradient", "zero"):
            check_objective(self)
        if self.history_encoder == "attention":
            check_attention(self)
        if self.estimator in BY_PREDICTIONS or ESTIMATORS[self.estimator].by_swaps:
            check_rewards(self)
        self._check_batch()

    def _check_columns(self) -> None:
        if self.columns is None:
            return
        if self.environment == "interactions":
            if not 2 <= len(self.columns) <= 6:
                self._reject(
                    "columns", "2 to 6 names: USER ITEM [TIMESTAMP [VALUE [WEIGHT [SESSION]]]]"
                )
        elif len(self.columns) not in (2, 3):
            self._reject("columns", "three names, USER ITEM VALUE, or two: every row counts as 1")

    def _check_batch(self) -> None:
        """Rejects batches from which the advantage cannot be computed."""
        if self.batch_size % self.draws_per_context:
            raise ConfigError(
                f"{self._argument('batch_size')} is not a multiple of "
                f"{self._argument('draws_per_context')}"
            )
        if self.advantage == "group" and self.draws_per_context < 2:
            raise ConfigError(
                "advantage='group' compares draws of one context and needs draws_per_context of at least 2, "
                f"got {self.draws_per_context}; for instance draws_per_context=8"
            )
        if self.advantage == "group" and self.entropy_bonus:
            raise ConfigError(
                f"{self._argument('entropy_bonus')} is in units of the reward, and advantage='group' "
                "rescales every group: where its rewards are equal, only the bonus is left; "
                "choose advantage='context'"
            )
        if self.advantage == "batch" and self.batch_size < 2:
            raise ConfigError("advantage='batch' needs a batch_size of at least 2")

    def resolve(self, interactions: bool | None = None) -> TrainConfig:
        """Returns a copy in which the preset has filled in every setting that was left open.

        Args:
          interactions: True if the environment has the sequences of users; by its name if None.
        """
        context_tower, known = self.context_tower, self.objective != "policy_gradient"
        if interactions is None:
            interactions = self.environment == "interactions"
        if context_tower == "auto":
            context_tower = "history" if interactions and known else "ids"
        towers = [TOWERS[name] for name in (context_tower, self.item_tower)]
        over_features = any(tower.reads_features and tower.learns for tower in towers)
        preset = PRESETS[self.preset](self.estimator, over_features)
        if known:
            preset |= KNOWN_FEEDBACK_PRESET
            preset |= HISTORY_PRESET if towers[0].reads_histories else {}
        if self.optimizer is not None and self.optimizer != preset["optimizer"]:
            preset["optimizer_options"] = ()  # options belong to the preset's own optimizer
        missing = {name: value for name, value in preset.items() if getattr(self, name) is None}
        return dataclasses.replace(self, context_tower=context_tower, **missing)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values, for YAML and JSON."""
        return {
            field.name: list(value) if isinstance(value, tuple) else value
            for field in dataclasses.fields(self)
            for value in [getattr(self, field.name)]
        }

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any], source: str = "config") -> TrainConfig:
        """Returns the config of a mapping, such as a YAML file's.

        Args:
          settings: name -> value.
          source: name of their origin, for errors.

        Raises:
          ConfigError: an unknown or former name, or a value that cannot be used.
        """
        if not isinstance(settings, Mapping) or not all(isinstance(name, str) for name in settings):
            raise ConfigError(
                f"{source} is {settings!r}; expected a mapping of names of settings to values"
            )
        known = {field.name for field in dataclasses.fields(cls)}
        for name in settings:
            if name in known:
                continue
            if name in RENAMED:
                raise ConfigError(f"{source} holds {name!r}, which is now named {RENAMED[name]!r}")
            near = difflib.get_close_matches(name.replace("-", "_"), known, n=1)
            guess = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"
            raise ConfigError(f"{source} holds the unknown setting {name!r}; {guess}")
        hints = typing.get_type_hints(cls)
        several = {n for n in settings if typing.get_origin(setting_type(hints[n])[0]) is tuple}
        values: dict[str, Any] = {  # YAML has lists, a frozen config has tuples
            name: tuple(value) if name in several and isinstance(value, list) else value
            for name, value in settings.items()
        }
        return cls(**values)
