"""Every choice of a run, typed and frozen: the same settings as Python fields, YAML keys and flags."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from rankpg.estimators import ESTIMATORS, check_estimator
from rankpg.late_stage import LATE_STAGES

__all__ = ["ConfigError", "TrainConfig", "flag"]


class ConfigError(ValueError):
    """A setting that cannot be; the message names its flag and says what would do."""


def flag(name: str) -> str:
    """The flag of a setting: num_candidates -> --num-candidates."""
    return "--" + name.replace("_", "-")


def _setting(default: Any, group: str, help: str, choices: tuple[str, ...] = ()) -> Any:
    metadata = {"group": group, "help": help, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


_PROBLEM, _POLICY, _LATE, _LEARN, _RUN = (
    "the problem",
    "the policy (early stage)",
    "the late stage",
    "learning",
    "the run",
)


@dataclass(frozen=True)
class TrainConfig:
    """The settings of a training run. Fields left at None are filled in by the preset.

    >>> TrainConfig(estimator="ca_pg").resolve().learning_rate
    0.01
    >>> TrainConfig(num_candidates=0)
    Traceback (most recent call last):
    rankpg.config.ConfigError: --num-candidates is 0; expected at least 1
    """

    environment: str = _setting(
        "synthetic",
        _PROBLEM,
        "where contexts and rewards come from: synthetic (at 1000 x 1000 and 10 features the "
        "paper's own instance) or ratings (--path)",
        ("synthetic", "ratings"),
    )
    path: str | None = _setting(
        None,
        _PROBLEM,
        "ratings: a csv, parquet or npz file of (user, item, value) triples, or an npz matrix",
    )
    columns: tuple[str, ...] | None = _setting(
        None,
        _PROBLEM,
        "ratings: the names of the user, item and value columns; guessed where unambiguous",
    )
    missing: Literal["zero", "error"] = _setting(
        "zero",
        _PROBLEM,
        "ratings: what a pair without a row is worth",
    )
    duplicates: Literal["mean", "last", "error"] = _setting(
        "error",
        _PROBLEM,
        "ratings: what several rows for one pair mean",
    )
    num_contexts: int = _setting(1000, _PROBLEM, "synthetic: number of contexts (users, queries)")
    num_items: int = _setting(1000, _PROBLEM, "synthetic: number of items N")
    num_features: int = _setting(10, _PROBLEM, "synthetic: width of the feature vectors")
    instance_seed: int | None = _setting(
        None,
        _PROBLEM,
        "synthetic: generate the instance from this seed instead of loading the paper's",
    )
    num_candidates: int = _setting(10, _POLICY, "K, how many candidates the early stage hands over")
    num_experts: int = _setting(1, _POLICY, "M, experts that share the K slots")
    embedding_dim: int = _setting(10, _POLICY, "D, width of the towers' embeddings")
    context_tower: Literal["ids", "features"] = _setting(
        "ids",
        _POLICY,
        "embed contexts by a table of ids, or by a perceptron over their features",
    )
    item_tower: Literal["ids", "features"] = _setting("ids", _POLICY, "the same for items")
    hidden: tuple[int, ...] = _setting((64,), _POLICY, "hidden widths of feature towers")
    temperature: float = _setting(1.0, _POLICY, "divides the logits")
    init_scale: float | None = _setting(
        None,
        _POLICY,
        "standard deviation of the embeddings at the start",
    )
    retrieval: Literal["auto", "dense"] = _setting(
        "auto",
        _POLICY,
        "how candidates are found; auto takes dense: all logits in memory",
    )
    late_stage: str = _setting(
        "optimal",
        _LATE,
        "the re-ranker between candidates and user",
        tuple(LATE_STAGES),
    )
    ranking_length: int = _setting(1, _LATE, "L, how many of the K candidates are shown")
    inverse_temperature: float = _setting(1.0, _LATE, "of the noisy late stage")
    estimator: str = _setting(
        "ca_pg_swr",
        _LEARN,
        "the score whose gradient is followed",
        tuple(ESTIMATORS),
    )
    preset: Literal["tuned", "paper"] = _setting(
        "tuned",
        _LEARN,
        "start, optimizer and step size: tuned for the estimator, or as in the paper",
    )
    optimizer: str | None = _setting(None, _LEARN, "any optimizer of optax, by name")
    optimizer_options: tuple[str, ...] | None = _setting(
        None,
        _LEARN,
        "its further arguments, as NAME=NUMBER",
    )
    learning_rate: float | None = _setting(None, _LEARN, "step size")
    adaptive_learning_rate: bool | None = _setting(
        None,
        _LEARN,
        "divide the step by the late stage's mean propensity of its greedy ranking (Eq. 9)",
    )
    batch_size: int = _setting(128, _LEARN, "B, draws per step")
    draws_per_context: int = _setting(
        1,
        _LEARN,
        "draws that share a context within a batch (group transform)",
    )
    position_weights: str = _setting(
        "uniform",
        _LEARN,
        "alpha: uniform, dcg, or L numbers separated by commas",
    )
    reward_transform: Literal["none", "group", "batch", "context", "learned"] = _setting(
        "none",
        _LEARN,
        "what multiplies a score: the reward itself, or after normalisation by group, batch, "
        "running mean per context, or learned baseline",
    )
    num_steps: int = _setting(20_000, _RUN, "updates")
    seeds: tuple[int, ...] = _setting(
        (0, 1, 2),
        _RUN,
        "one run each, trained side by side in one program",
    )
    eval_every: int = _setting(1000, _RUN, "steps between evaluations")
    eval_contexts: int = _setting(
        10_000,
        _RUN,
        "contexts an evaluation visits at most; of more, a fixed random subset",
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            object.__setattr__(self, field.name, _checked(field, value))
        self._check_ranges()
        self._check_together()

    def _check_ranges(self) -> None:
        at_least_one = (
            "num_contexts num_items num_features num_candidates num_experts embedding_dim "
            "ranking_length batch_size draws_per_context num_steps eval_every eval_contexts"
        )
        for name in at_least_one.split():
            if getattr(self, name) < 1:
                raise ConfigError(f"{flag(name)} is {getattr(self, name)}; expected at least 1")
        for name in ("temperature", "init_scale", "learning_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{flag(name)} is {value}; expected a number above 0")
        if not 0 <= self.inverse_temperature < math.inf:
            raise ConfigError(
                f"--inverse-temperature is {self.inverse_temperature}; expected at least 0"
            )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ConfigError(
                f"--seeds is {' '.join(map(str, self.seeds)) or 'empty'}; "
                "expected distinct non-negative integers, for instance --seeds 0 1 2"
            )
        if any(width < 1 for width in self.hidden):
            raise ConfigError(f"--hidden is {self.hidden}; expected widths of at least 1")

    def _check_together(self) -> None:
        try:
            check_estimator(self.estimator, self.num_experts)
        except ValueError as error:
            raise ConfigError(f"--estimator: {error}") from None
        if self.ranking_length > self.num_candidates:
            raise ConfigError(
                f"--ranking-length is {self.ranking_length}, but only --num-candidates "
                f"{self.num_candidates} are handed over; L can be at most K"
            )
        if self.environment == "synthetic" and self.num_candidates > self.num_items:
            raise ConfigError(
                f"--num-candidates is {self.num_candidates}, but the catalogue has only --num-items "
                f"{self.num_items}; K can be at most N"
            )
        if self.environment == "ratings" and self.path is None:
            raise ConfigError("--environment ratings needs --path FILE (csv, parquet or npz)")
        if self.environment != "ratings" and self.path is not None:
            raise ConfigError(
                f"--path is given, but --environment {self.environment} reads no file; "
                "add --environment ratings"
            )
        if self.columns is not None and len(self.columns) != 3:
            raise ConfigError(
                f"--columns has {len(self.columns)} names; expected three: USER ITEM VALUE"
            )
        if self.batch_size % self.draws_per_context:
            raise ConfigError(
                f"--batch-size {self.batch_size} is not a multiple of --draws-per-context "
                f"{self.draws_per_context}"
            )
        if self.reward_transform == "group" and self.draws_per_context < 2:
            raise ConfigError(
                "--reward-transform group compares draws of one context; it needs "
                "--draws-per-context of at least 2, for instance 8"
            )
        if self.reward_transform == "batch" and self.batch_size < 2:
            raise ConfigError("--reward-transform batch needs --batch-size of at least 2")

    def resolve(self) -> TrainConfig:
        """The same settings with everything that was left open filled in by the preset."""
        preset = PRESETS[self.preset](self.estimator)
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
                raise ConfigError(
                    f"{source} holds the unknown setting {name!r}; expected some of "
                    f"{', '.join(sorted(known))}"
                )
        return cls(**settings)


def _paper(estimator: str) -> dict[str, Any]:
    """Kiyohara et al. 2026, Appendix: Adagrad from 0 on tables that start N(0, 1)."""
    credit_assigned = ESTIMATORS[estimator].credit_assigned
    return {
        "init_scale": 1.0,
        "optimizer": "adagrad",
        "optimizer_options": ("initial_accumulator_value=0", "eps=1e-20"),
        "learning_rate": 1e-2 if credit_assigned else 1e-1,
        "adaptive_learning_rate": credit_assigned,
    }


def _tuned(estimator: str) -> dict[str, Any]:
    """A start that is nearly uniform, and Adam; see docs/presets.md for the measurement."""
    return {
        "init_scale": 0.3,
        "optimizer": "adam",
        "optimizer_options": (),
        "learning_rate": 1e-2,
        "adaptive_learning_rate": False,
    }


PRESETS = {"tuned": _tuned, "paper": _paper}


def setting_type(field: dataclasses.Field) -> tuple[Any, bool]:
    """The type of a setting without None, and whether None is allowed."""
    hint = typing.get_type_hints(TrainConfig)[field.name]
    if get_origin(hint) in (types.UnionType, typing.Union):
        inner = [arm for arm in get_args(hint) if arm is not type(None)]
        return inner[0], True
    return hint, False


def choices_of(field: dataclasses.Field) -> tuple[str, ...]:
    """The values a setting may take; empty if any of its type will do."""
    hint = setting_type(field)[0]
    return get_args(hint) if get_origin(hint) is Literal else field.metadata["choices"]


def _checked(field: dataclasses.Field, value: Any) -> Any:
    """The value in the setting's type, or ConfigError: YAML and Python pass through the same door."""
    hint, optional = setting_type(field)
    if value is None:
        if optional:
            return None
        raise ConfigError(f"{flag(field.name)} is empty; expected {describe_type(hint)}")
    if get_origin(hint) is tuple:
        element = get_args(hint)[0]
        if isinstance(value, str) or not isinstance(value, list | tuple | range):
            raise ConfigError(f"{flag(field.name)} is {value!r}; expected {describe_type(hint)}")
        return tuple(_scalar(field, element, v) for v in value)
    value = _scalar(field, str if get_origin(hint) is Literal else hint, value)
    choices = choices_of(field)
    if choices and value not in choices:
        raise ConfigError(f"{flag(field.name)} is {value!r}; expected one of {', '.join(choices)}")
    return value


def _scalar(field: dataclasses.Field, hint: Any, value: Any) -> Any:
    wrong = ConfigError(f"{flag(field.name)} is {value!r}; expected {describe_type(hint)}")
    if hint is bool or isinstance(value, bool):
        if hint is bool and isinstance(value, bool):
            return value
        raise wrong
    if hint is float and isinstance(value, int | float | str):
        try:
            return float(value)  # YAML reads 1e-2 as a string
        except ValueError:
            raise wrong from None
    if hint is int and hasattr(value, "__index__"):
        return int(value)
    if hint is str and isinstance(value, str):
        return value
    raise wrong


def describe_type(hint: Any) -> str:
    """A setting's type in words."""
    if get_origin(hint) is tuple:
        return f"a list, each entry {describe_type(get_args(hint)[0])}"
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(get_args(hint))
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[hint]
