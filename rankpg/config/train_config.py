"""Every choice of a run, typed and frozen: the same settings as Python fields, YAML keys and flags."""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rankpg.config.fields import check_effects, checked, flag, setting, setting_type
from rankpg.config.presets import PRESETS
from rankpg.core.estimators import ESTIMATORS, check_estimator
from rankpg.errors import ConfigError
from rankpg.rerankers import RERANKERS

__all__ = ["TrainConfig"]

_PROBLEM, _POLICY, _LATE, _LEARN, _RUN = (
    "the problem",
    "the policy (early stage)",
    "the re-ranker",
    "learning",
    "the run",
)
_SHARDED = {"retrieval": "sharded"}
_SYNTHETIC, _RATINGS = {"environment": "synthetic"}, {"environment": "ratings"}
_FILES = {"environment": ("ratings", "text")}
_OVER_FEATURES = ("features", "adapter")
_LARGEST_BONUS = 1e6
"""More would leave nothing of a reward in float32."""


@dataclass(frozen=True)
class TrainConfig:
    """The settings of a training run. Fields left at None are filled in by the preset.

    >>> TrainConfig(estimator="ca_pg").resolve().learning_rate
    0.01
    >>> TrainConfig(num_candidates=0)
    Traceback (most recent call last):
    rankpg.errors.ConfigError: --num-candidates is 0; expected at least 1
    """

    environment: str = setting(
        "synthetic",
        _PROBLEM,
        "where contexts and rewards come from: synthetic (at 1000 x 1000 and 10 features the "
        "paper's own instance), ratings or text (--path)",
        ("synthetic", "ratings", "text"),
    )
    path: str | None = setting(
        None,
        _PROBLEM,
        "ratings: a csv, parquet or npz file of (user, item, value) triples, or a matrix as npy, npz or csv "
        "without header; text: a folder with corpus.jsonl, queries.jsonl, qrels, corpus.npy and queries.npy",
        needs=_FILES,
    )
    columns: tuple[str, ...] | None = setting(
        None,
        _PROBLEM,
        "ratings: the names of the user, item and value columns; guessed where unambiguous",
        needs=_RATINGS,
    )
    missing: Literal["zero", "error"] = setting(
        "zero",
        _PROBLEM,
        "ratings: what a pair without a row is worth",
        needs=_RATINGS,
    )
    duplicates: Literal["mean", "last", "error"] = setting(
        "error",
        _PROBLEM,
        "ratings: what several rows for one pair mean",
        needs=_RATINGS,
    )
    num_contexts: int = setting(
        1000, _PROBLEM, "synthetic: number of contexts (users, queries)", needs=_SYNTHETIC
    )
    num_items: int = setting(1000, _PROBLEM, "synthetic: number of items N", needs=_SYNTHETIC)
    num_features: int = setting(
        10, _PROBLEM, "synthetic: width of the feature vectors", needs=_SYNTHETIC
    )
    instance_seed: int | None = setting(
        None,
        _PROBLEM,
        "synthetic: generate the instance from this seed instead of loading the paper's",
        needs=_SYNTHETIC | {"reranker": "learned"},
    )
    noise_scale: float = setting(
        1.0, _PROBLEM, "synthetic: multiplies the standard deviation of rewards", needs=_SYNTHETIC
    )
    held_out_contexts: int = setting(
        0,
        _PROBLEM,
        "contexts, a fixed random choice, that training never sees and on which alone values are measured "
        "(--context-tower features, adapter or given)",
    )
    num_candidates: int = setting(10, _POLICY, "K, how many candidates the early stage hands over")
    num_experts: int = setting(1, _POLICY, "M, experts that share the K slots")
    embedding_dim: int = setting(
        10,
        _POLICY,
        "D, width of the towers' embeddings; beside adapter or given, that of the features",
    )
    context_tower: Literal["ids", "features", "adapter", "given"] = setting(
        "ids",
        _POLICY,
        "embed contexts by a table of ids, by a perceptron over their features, by an adapter: the "
        "features themselves, and a perceptron on top that starts at 0, or as given: the features alone",
    )
    item_tower: Literal["ids", "features", "adapter", "given"] = setting(
        "ids", _POLICY, "the same for items"
    )
    hidden: tuple[int, ...] = setting(
        (64,),
        _POLICY,
        "hidden widths of the towers over features; none is a linear map",
        needs={"context_tower": _OVER_FEATURES, "item_tower": _OVER_FEATURES},
    )
    temperature: float = setting(1.0, _POLICY, "divides the logits")
    init_scale: float | None = setting(
        None,
        _POLICY,
        "standard deviation of the embeddings at the start",
    )
    table_dtype: Literal["float32", "bfloat16"] = setting(
        "float32",
        _POLICY,
        "of the towers' parameters; the optimizer reckons in float32 all the same",
    )
    product_dtype: Literal["float32", "bfloat16"] = setting(
        "float32", _POLICY, "of the embeddings that are multiplied; sums are float32 all the same"
    )
    retrieval: Literal["auto", "dense", "streamed", "sharded"] = setting(
        "auto",
        _POLICY,
        "how candidates are found. dense: all logits in memory; streamed: the catalogue in chunks; "
        "sharded: in chunks, on many devices; auto: what suits its size and the devices",
    )
    mesh: tuple[int, ...] | None = setting(
        None,
        _POLICY,
        "two numbers, BATCH ITEMS: devices that share the batch, and devices that share the items; "
        "all devices share the items if left out",
        needs=_SHARDED,
    )
    reranker: str = setting(
        "optimal",
        _LATE,
        "the re-ranker between candidates and user",
        tuple(RERANKERS),
    )
    ranking_length: int = setting(1, _LATE, "L, how many of the K candidates are shown")
    inverse_temperature: float = setting(
        1.0,
        _LATE,
        "of the noisy re-ranker; below 0 it prefers the worst",
        needs={"reranker": "noisy"},
    )
    estimator: str = setting(
        "ca_pg_swr",
        _LEARN,
        "the score whose gradient is followed",
        tuple(ESTIMATORS),
    )
    preset: Literal["tuned", "paper"] = setting(
        "tuned",
        _LEARN,
        "start, optimizer and step size: tuned for the estimator and its towers, or as in the paper",
    )
    optimizer: str | None = setting(None, _LEARN, "any optimizer of optax, by name")
    optimizer_options: tuple[str, ...] | None = setting(
        None,
        _LEARN,
        "its further arguments, as NAME=NUMBER",
    )
    learning_rate: float | None = setting(None, _LEARN, "step size")
    adaptive_learning_rate: bool | None = setting(
        None,
        _LEARN,
        "divide the step by the re-ranker's mean propensity of its greedy ranking (Eq. 9)",
    )
    batch_size: int = setting(128, _LEARN, "B, draws per step")
    draws_per_context: int = setting(
        1,
        _LEARN,
        "draws that share a context within a batch (group transform)",
    )
    position_weights: str = setting(
        "uniform",
        _LEARN,
        "alpha: uniform, dcg, or L numbers separated by commas",
    )
    advantage: Literal["none", "group", "batch", "context", "learned"] | None = setting(
        None,
        _LEARN,
        "what multiplies a score: the reward itself, or after normalisation by group, batch, "
        "running mean per context, or learned baseline",
    )
    entropy_bonus: float = setting(
        0.0,
        _LEARN,
        "added to a reward for every nat by which what was drawn is unlikely, in units of the reward, so "
        "that a policy goes on exploring: with --advantage context, a tenth to a half of how much "
        "the mean rewards of one context differ; 0 is off",
    )
    num_steps: int = setting(20_000, _RUN, "updates")
    seeds: tuple[int, ...] = setting(
        (0, 1, 2),
        _RUN,
        "one run each, trained side by side in one program",
    )
    eval_every: int = setting(1000, _RUN, "steps between evaluations")
    eval_contexts: int = setting(
        10_000,
        _RUN,
        "contexts an evaluation visits at most; of more, a fixed random subset",
    )
    recall_depth: int | None = setting(
        None,
        _RUN,
        "candidate_recall is of so many best items of each context; K of them if left out",
    )

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = checked(field, hints[field.name], getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        self._check_ranges()
        self._check_together()
        check_effects(self)

    def _check_ranges(self) -> None:
        at_least_one = (
            "num_contexts num_items num_features num_candidates num_experts embedding_dim "
            "ranking_length batch_size draws_per_context num_steps eval_every eval_contexts"
        )
        for name in at_least_one.split():
            value = getattr(self, name)
            if value < 1:
                raise ConfigError(f"{flag(name)} is {value}; expected at least 1")
            if value >= 2**31:
                raise ConfigError(f"{flag(name)} is {value}; expected less than 2^31")
        if self.recall_depth is not None and not 1 <= self.recall_depth < 2**31:
            raise ConfigError(f"--recall-depth is {self.recall_depth}; expected at least 1")
        if self.num_features > 2**16:  # the problem's matrices are num_features squared
            raise ConfigError(f"--num-features is {self.num_features}; expected at most {2**16}")
        if self.path is not None and not self.path.strip():
            raise ConfigError("--path is empty; expected the name of a file or folder")
        for name in ("temperature", "init_scale", "learning_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{flag(name)} is {value}; expected a number above 0")
        if not math.isfinite(self.inverse_temperature):
            raise ConfigError(
                f"--inverse-temperature is {self.inverse_temperature}; expected a finite number"
            )
        if not 0 <= self.noise_scale < math.inf:
            raise ConfigError(f"--noise-scale is {self.noise_scale}; expected at least 0")
        if not 0 <= self.entropy_bonus <= _LARGEST_BONUS:
            raise ConfigError(
                f"--entropy-bonus is {self.entropy_bonus}; expected at least 0, in units of the reward, and "
                f"at most {_LARGEST_BONUS:g}"
            )
        if not 0 <= self.held_out_contexts < 2**31:
            raise ConfigError(
                f"--held-out-contexts is {self.held_out_contexts}; expected at least 0"
            )
        distinct = len(set(self.seeds)) == len(self.seeds) > 0
        if not distinct or not all(0 <= seed < 2**32 for seed in self.seeds):
            raise ConfigError(
                f"--seeds is {' '.join(map(str, self.seeds)) or 'empty'}; "
                "expected distinct integers from 0 to 2^32 - 1, for instance --seeds 0 1 2"
            )
        if self.instance_seed is not None and not 0 <= self.instance_seed < 2**32:
            raise ConfigError(
                f"--instance-seed is {self.instance_seed}; expected an integer from 0 to 2^32 - 1"
            )
        if any(width < 1 for width in self.hidden):
            raise ConfigError(f"--hidden is {self.hidden}; expected widths of at least 1")

    def _check_together(self) -> None:
        try:
            check_estimator(self.estimator, self.num_experts)
        except ValueError as error:
            raise ConfigError(f"--estimator: {error}") from None
        if (
            self.retrieval in ("streamed", "sharded")
            and ESTIMATORS[self.estimator].statistics == "catalogue"
        ):
            raise ConfigError(
                f"--estimator {self.estimator} needs the logits of the whole catalogue; "
                "choose --retrieval dense"
            )
        if self.mesh is not None:
            if len(self.mesh) != 2 or min(self.mesh) < 1:
                raise ConfigError(
                    f"--mesh is {' '.join(map(str, self.mesh)) or 'empty'}; expected two numbers of at least "
                    "1, BATCH ITEMS, for instance --mesh 2 4"
                )
            if self.batch_size % self.mesh[0]:
                raise ConfigError(
                    f"--batch-size {self.batch_size} does not divide among the {self.mesh[0]} devices that "
                    "--mesh gives it; expected a multiple"
                )
        if self.ranking_length > self.num_candidates:
            raise ConfigError(
                f"--ranking-length is {self.ranking_length}, but only --num-candidates "
                f"{self.num_candidates} are handed over; L can be at most K"
            )
        if self.environment == "ratings" and self.path is None:
            raise ConfigError("--environment ratings needs --path FILE (csv, parquet or npz)")
        if self.environment == "text" and self.path is None:
            raise ConfigError(
                "--environment text needs --path FOLDER (corpus.jsonl, queries.jsonl and qrels)"
            )
        towers = self.context_tower, self.item_tower
        if {"adapter", "given"} & {*towers} and self.embedding_dim != type(self).embedding_dim:
            raise ConfigError(
                f"--embedding-dim is {self.embedding_dim}, but --context-tower {towers[0]} --item-tower "
                f"{towers[1]} keep the width of the features; leave it out"
            )
        if self.columns is not None and len(self.columns) != 3:
            raise ConfigError(
                f"--columns has {len(self.columns)} names; expected three: USER ITEM VALUE"
            )
        self._check_batch()

    def _check_batch(self) -> None:
        """What a batch must hold for its rewards to become advantages."""
        if self.batch_size % self.draws_per_context:
            raise ConfigError(
                f"--batch-size {self.batch_size} is not a multiple of --draws-per-context "
                f"{self.draws_per_context}"
            )
        if self.advantage == "group" and self.draws_per_context < 2:
            raise ConfigError(
                "--advantage group compares draws of one context; it needs "
                "--draws-per-context of at least 2, for instance 8"
            )
        if self.advantage == "group" and self.entropy_bonus:
            raise ConfigError(
                f"--entropy-bonus {self.entropy_bonus:g} is in units of the reward, and --advantage "
                "group rescales every group, until the bonus alone is left where its rewards are equal; "
                "choose --advantage context"
            )
        if self.advantage == "batch" and self.batch_size < 2:
            raise ConfigError("--advantage batch needs --batch-size of at least 2")

    def resolve(self) -> TrainConfig:
        """The same settings with everything that was left open filled in by the preset."""
        over_features = not {self.context_tower, self.item_tower}.isdisjoint(_OVER_FEATURES)
        preset = PRESETS[self.preset](self.estimator, over_features)
        if self.optimizer is not None and self.optimizer != preset["optimizer"]:
            preset["optimizer_options"] = ()  # options belong to the preset's own optimizer
        missing = {name: value for name, value in preset.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **missing)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for YAML and JSON."""
        return {
            field.name: list(value) if isinstance(value, tuple) else value
            for field in dataclasses.fields(self)
            for value in [getattr(self, field.name)]
        }

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any], source: str = "config") -> TrainConfig:
        """Settings from a mapping; an unknown name is refused."""
        known = {field.name for field in dataclasses.fields(cls)}
        for name in settings:
            if name not in known:
                near = difflib.get_close_matches(name.replace("-", "_"), known, n=1)
                guess = (
                    f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"
                )
                raise ConfigError(f"{source} holds the unknown setting {name!r}; {guess}")
        hints = typing.get_type_hints(cls)
        several = {n for n in settings if typing.get_origin(setting_type(hints[n])[0]) is tuple}
        values: dict[str, Any] = {  # YAML has lists, a frozen config has tuples
            name: tuple(value) if name in several and isinstance(value, list) else value
            for name, value in settings.items()
        }
        return cls(**values)
