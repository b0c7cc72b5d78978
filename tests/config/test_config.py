"""Settings: refusals name the argument, presets fill what was left open, YAML round trips."""

from __future__ import annotations

import dataclasses
import inspect
import typing

import jax
import numpy as np
import pytest
import yaml

from rankpg.advantages import ADVANTAGES
from rankpg.cli.flags import with_flags
from rankpg.config.fields import choices_of
from rankpg.config.presets import PRESETS
from rankpg.config.renamed import RENAMED
from rankpg.config.train_config import TrainConfig
from rankpg.core.estimators import ESTIMATORS
from rankpg.encoders import TOWERS
from rankpg.environments.from_ratings import from_matrix
from rankpg.errors import ConfigError
from rankpg.rerankers import RERANKERS
from rankpg.retrieval import RETRIEVALS
from rankpg.runs.storage.load import load_config, load_settings
from rankpg.training import build
from rankpg.training.build import build_learner

ENABLE_X64 = False


@pytest.fixture(scope="module", autouse=True)
def own_checks(jax_flags):
    """The config refuses wrong types in words of its own, which are tested here, not beartype's."""
    jax.config.update("jax_numpy_dtype_promotion", "standard")  # for optax's Adam
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainConfig, "__init__", inspect.unwrap(TrainConfig.__init__))
        yield


CREDIT_ASSIGNED = {
    "v_pg": False,
    "v_pg_swr": False,
    "ca_pg": True,
    "ca_pg_exact": True,
    "ca_pg_swr": True,
    "top1_pg": True,
    "ca_pg_threshold": True,
    "v_pg_set": False,
    "ca_pg_swap": True,
}


def refusal(settings, *parts):
    with pytest.raises(ConfigError) as caught:
        TrainConfig.from_dict(settings, source="my.yaml")
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        # combinations
        ({"ranking_length": 4, "num_candidates": 3}, ["ranking_length=4", "num_candidates=3"]),
        ({"estimator": "reinforce"}, ["estimator='reinforce'", "ca_pg_swr", "v_pg"]),
        ({"estimator": "ca_pg_exact", "num_experts": 2},
         ["estimator='ca_pg_exact'", "num_experts=2", "ca_pg"]),
        ({"seeds": [0, 1, 0]}, ["seeds=(0, 1, 0)", "distinct"]),
        ({"seeds": []}, ["seeds=()", "distinct"]),
        ({"seeds": [-1]}, ["seeds=(-1,)", "from 0"]),
        ({"seeds": [2**32]}, ["seeds=(4294967296,)", "2^32 - 1"]),
        ({"instance_seed": -1}, ["instance_seed=-1"]),
        ({"instance_seed": 2**32}, ["instance_seed=4294967296"]),
        ({"advantage": "group"}, ["advantage='group'", "draws_per_context"]),
        ({"advantage": "group", "draws_per_context": 2, "entropy_bonus": 0.1},
         ["entropy_bonus=0.1", "advantage='group'", "advantage='context'"]),
        ({"advantage": "batch", "batch_size": 1}, ["advantage='batch'", "batch_size"]),
        ({"batch_size": 10, "draws_per_context": 4}, ["batch_size=10", "draws_per_context=4"]),
        ({"environment": "ratings"}, ["environment='ratings'", "path=FILE"]),
        ({"environment": "text"}, ["environment='text'", "path=FOLDER"]),
        ({"path": "/a.csv"}, ["path='/a.csv'", "environment='synthetic'", "environment='ratings'"]),
        (
            {"columns": ["user"], "environment": "ratings", "path": "a.csv"},
            ["columns=('user',)", "three names, USER ITEM VALUE"],
        ),
        # choices
        ({"environment": "movies"}, ["environment='movies'", "synthetic, ratings, text"]),
        ({"reranker": "best"}, ["reranker='best'", "optimal", "anti"]),
        ({"preset": "fast"}, ["preset='fast'", "tuned, paper"]),
        ({"missing": "mean"}, ["missing='mean'", "zero, error"]),
        ({"retrieval": "faiss"}, ["retrieval='faiss'", "auto, dense"]),
        # types
        ({"num_steps": "many"}, ["num_steps='many'", "a whole number"]),
        ({"num_steps": 1.5}, ["num_steps=1.5", "a whole number"]),
        ({"num_steps": True}, ["num_steps=True", "a whole number"]),
        ({"num_steps": None}, ["num_steps=None", "a whole number"]),
        ({"learning_rate": "fast"}, ["learning_rate='fast'", "a number"]),
        ({"learning_rate": [1]}, ["learning_rate=[1]", "a number"]),
        ({"adaptive_learning_rate": "yes"}, ["adaptive_learning_rate='yes'", "true or false"]),
        ({"seeds": 3}, ["seeds=3", "a list, each entry a whole number"]),
        ({"seeds": "012"}, ["seeds='012'", "a list"]),
        ({"seeds": [0, "one"]}, ["seeds=(0, 'one')", "a whole number"]),
        ({"hidden": [0]}, ["hidden=(0,)", "at least 1"]),
        ({"path": 3, "environment": "ratings"}, ["path=3", "text"]),
        ({"reranker": ["optimal"]}, ["reranker=['optimal']", "text"]),
        # an unknown name
        ({"num_itmes": 10}, ["my.yaml", "'num_itmes'", "num_items"]),
    ],
)  # fmt: skip
def test_refusals(settings, parts):
    refusal(settings, *parts)


RATINGS = {"environment": "ratings", "path": "a.csv"}


@pytest.mark.parametrize(
    ("settings", "given", "instead"),
    [
        ({"path": "/a.csv"}, "path='/a.csv'", "environment='ratings' or environment='text'"),
        ({"columns": ["u", "i", "v"]}, "columns=('u', 'i', 'v')", "environment='ratings'"),
        ({"missing": "error"}, "missing='error'", "environment='ratings'"),
        ({"duplicates": "mean"}, "duplicates='mean'", "environment='ratings'"),
        (RATINGS | {"num_contexts": 50}, "num_contexts=50", "environment='synthetic'"),
        (RATINGS | {"num_items": 50}, "num_items=50", "environment='synthetic'"),
        (RATINGS | {"num_features": 5}, "num_features=5", "environment='synthetic'"),
        (
            RATINGS | {"instance_seed": 0},
            "instance_seed=0",
            "environment='synthetic' or reranker='learned'",
        ),
        (
            {"hidden": [8, 4]},
            "hidden=(8, 4)",
            "context_tower='features' or context_tower='adapter' or item_tower='features' or "
            "item_tower='adapter'",
        ),
        ({"inverse_temperature": 2.0}, "inverse_temperature=2.0", "reranker='noisy'"),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_a_setting_without_an_effect_is_refused(settings, given, instead):
    """The setting is accepted where it has an effect, and its default anywhere."""
    refusal(settings, f"{given} has no effect with ", f"leave it out, or choose {instead}")
    *_, name = settings
    default = {f.name: f.default for f in dataclasses.fields(TrainConfig)}[name]
    assert getattr(TrainConfig.from_dict(settings | {name: default}), name) == default
    for choice in instead.split(" or "):
        setting, value = choice.replace("'", "").split("=")
        apt = {k: v for k, v in settings.items() if k == name or setting != "environment"}
        apt |= RATINGS if value == "ratings" else {setting: value}
        found = TrainConfig.from_dict(apt | {name: settings[name]})
        assert found.to_dict()[name] == settings[name]


def test_needs_name_settings_and_their_choices():
    hints = typing.get_type_hints(TrainConfig)
    fields = {f.name: f for f in dataclasses.fields(TrainConfig)}
    needs = [pair for f in fields.values() for pair in f.metadata["needs"]]
    assert len(needs) >= 10
    for name, value in needs:
        assert value in choices_of(fields[name], hints[name])


@pytest.mark.parametrize(
    "name",
    [
        "num_contexts", "num_items", "num_features", "num_candidates", "num_experts",
        "embedding_dim", "ranking_length", "batch_size", "draws_per_context", "num_steps",
        "eval_every", "eval_contexts",
    ],
)  # fmt: skip
def test_counts_are_at_least_one(name):
    refusal({name: 0}, f"{name}=0; expected at least 1")
    refusal({name: -3}, f"{name}=-3")


@pytest.mark.parametrize("name", ["temperature", "init_scale", "learning_rate"])
@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf")])
def test_scales_are_above_zero(name, value):
    refusal({name: value}, f"{name}=", "expected a number above 0")


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), float("inf")])
def test_the_inverse_temperature_is_any_finite_number(value):
    refusal({"inverse_temperature": value}, "inverse_temperature=", "expected a finite number")
    for beta in (0, -0.5):
        assert TrainConfig(inverse_temperature=beta, reranker="noisy").inverse_temperature == beta


@pytest.mark.parametrize("name", ["noise_scale", "held_out_contexts", "entropy_bonus"])
def test_lower_bound_zero(name):
    refusal({name: -1}, f"{name}=-1", "expected at least 0")


def test_k_is_compared_with_the_actual_catalogue():
    config = TrainConfig(
        num_candidates=2000
    )  # for train(config, environment) with 10,000 items, say
    many = from_matrix(np.ones((2, 2000))).environment
    assert sum(build_learner(config, many).policy.quotas) == 2000
    few = from_matrix(np.ones((2, 1999))).environment
    with pytest.raises(ConfigError, match=r"num_candidates=2000, .* only 1999 items"):
        build_learner(config, few)


def test_edges_that_are_allowed():
    config = TrainConfig(num_items=4, num_candidates=4, ranking_length=4, seeds=range(2))
    assert config.seeds == (0, 1)
    assert TrainConfig(estimator="ca_pg_exact").num_experts == 1
    assert TrainConfig(hidden=[], item_tower="features").hidden == ()
    assert TrainConfig(environment="ratings", path="a.csv", num_candidates=5000).num_items == 1000


def test_numbers_in_several_forms():
    config = TrainConfig.from_dict(
        yaml.safe_load("{learning_rate: 1e-2, temperature: 2, num_steps: 30, seeds: [5]}")
    )
    assert (config.learning_rate, config.temperature, config.num_steps) == (0.01, 2.0, 30)
    assert type(config.temperature) is float
    config = TrainConfig(
        num_steps=np.int64(7), learning_rate=np.float64(0.5), seeds=np.arange(2).tolist()
    )
    assert type(config.num_steps) is int
    assert config.seeds == (0, 1)


def test_a_float32_is_a_number():
    assert TrainConfig(learning_rate=np.float32(0.5)).learning_rate == 0.5


def test_frozen():
    config = TrainConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.num_steps = 3  # type: ignore[misc]
    assert hash(config) == hash(TrainConfig())
    assert config != TrainConfig(num_steps=3)


@pytest.mark.parametrize("estimator", CREDIT_ASSIGNED)
def test_presets(estimator):
    tuned = TrainConfig(estimator=estimator).resolve()
    paper = TrainConfig(estimator=estimator, preset="paper").resolve()
    credit_assigned = CREDIT_ASSIGNED[estimator]
    assert (tuned.init_scale, tuned.optimizer, tuned.optimizer_options) == (0.1, "adam", ())
    assert tuned.learning_rate == 0.01
    assert tuned.advantage == ("none" if credit_assigned else "context")
    assert tuned.adaptive_learning_rate is False

    assert (paper.init_scale, paper.optimizer) == (1.0, "adagrad")
    assert "initial_accumulator_value=0" in paper.optimizer_options
    assert paper.learning_rate == (0.01 if credit_assigned else 0.1)
    assert paper.adaptive_learning_rate is credit_assigned
    assert paper.advantage == "none"


@pytest.mark.parametrize("side", ["context_tower", "item_tower"])
def test_a_tower_over_features_takes_smaller_steps(side):
    for kind, rate in {"ids": 0.01, "given": 0.01, "features": 0.003, "adapter": 0.003}.items():
        config = TrainConfig(**{side: kind})
        assert config.resolve().learning_rate == rate
        paper = dataclasses.replace(config, preset="paper")
        assert paper.resolve() == dataclasses.replace(
            TrainConfig(preset="paper").resolve(), **{side: kind}
        )
        given = dataclasses.replace(config, learning_rate=0.5)
        assert given.resolve().learning_rate == 0.5


def test_a_preset_fills_only_what_was_left_open():
    given = {
        "init_scale": 0.7,
        "optimizer": "rmsprop",
        "optimizer_options": ("decay=0.8",),
        "learning_rate": 0.05,
        "adaptive_learning_rate": False,
        "advantage": "learned",
    }
    for preset in ("tuned", "paper"):
        whole = TrainConfig(preset=preset, **given).resolve()
        assert {name: getattr(whole, name) for name in given} == given
        for name in given:
            one = TrainConfig(preset=preset, **{name: given[name]}).resolve()
            assert getattr(one, name) == given[name]
    adam = TrainConfig(preset="paper", optimizer="adam").resolve()
    assert adam.optimizer_options == ()  # Adagrad's accumulator does not apply to Adam
    again = TrainConfig(preset="paper", optimizer="adagrad").resolve()
    assert again.optimizer_options == TrainConfig(preset="paper").resolve().optimizer_options


@pytest.mark.parametrize("preset", ["tuned", "paper"])
def test_yaml_round_trip(tmp_path, preset):
    config = TrainConfig(
        preset=preset,
        estimator="v_pg",
        seeds=(3, 1),
        item_tower="features",
        hidden=(8, 4),
        learning_rate=3e-7,
        environment="ratings",
        path="a.csv",
        columns=("u", "i", "v"),
        reranker="learned",
        position_weights="1,0.5",
        ranking_length=2,
        instance_seed=4,
    ).resolve()
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config.to_dict(), sort_keys=False))
    assert load_config(file) == config == load_config(tmp_path)
    assert config.resolve() == config
    assert list(config.to_dict()) == [f.name for f in dataclasses.fields(TrainConfig)]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a: [1", ["mine.yaml, line 1: not valid YAML (expected ',' or ']', but got"]),
        (
            "a: 1\nb: [2\nc: 3\n",
            ["mine.yaml, line 3: not valid YAML (expected ',' or ']', but got"],
        ),
        ("a: \x07\n", ["mine.yaml: not valid YAML (special characters are not allowed)"]),
        ("- 1\n- 2\n", ["must be a mapping"]),
        ("3: 4\n", ["must be a mapping"]),
        ("!!python/object/apply:os.system ['true']\n", ["line 1: not valid YAML"]),
        (b"\xff\xfe\x00", ["cannot be read"]),
        ("num_stpes: 3\n", ["'num_stpes'"]),
        ("num_steps: soon\n", ["num_steps='soon'"]),
    ],
)
def test_wrong_files(tmp_path, text, parts):
    file = tmp_path / "mine.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message
    assert str(file) in message


def test_an_empty_file_is_all_defaults(tmp_path):
    (tmp_path / "empty.yaml").write_text("")
    assert load_config(tmp_path / "empty.yaml") == TrainConfig()
    with pytest.raises(ConfigError, match=r"none\.yaml does not exist"):
        load_settings(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(tmp_path)


def test_too_many_features_are_refused():
    refusal({"num_features": 2**31 - 1}, "num_features=2147483647", "at most 65536")


@pytest.mark.parametrize("path", ["", "  "])
def test_an_empty_path_is_refused(path):
    refusal({"environment": "ratings", "path": path}, f"path={path!r}")


@pytest.mark.parametrize("old", RENAMED)
def test_a_former_name_is_refused_with_the_current_one(old):
    assert RENAMED[old] in {field.name for field in dataclasses.fields(TrainConfig)}
    refusal({old: "none"}, f"my.yaml holds '{old}', which is now named '{RENAMED[old]}'")


def test_choices_agree_with_their_tables():
    hints = typing.get_type_hints(TrainConfig)
    choices = {f.name: choices_of(f, hints[f.name]) for f in dataclasses.fields(TrainConfig)}
    assert choices["advantage"] == tuple(ADVANTAGES)
    assert choices["context_tower"] == ("auto", *choices["item_tower"]) == ("auto", *TOWERS)
    assert choices["environment"] == tuple(build.ENVIRONMENTS)
    assert choices["estimator"] == (*ESTIMATORS, "auto")
    assert choices["preset"] == tuple(PRESETS)
    assert choices["reranker"] == tuple(RERANKERS)
    assert choices["retrieval"] == ("auto", *RETRIEVALS)


def test_messages_in_flags():
    """Every refusal reads as a sentence about flags once the command line has rewritten it."""
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    for settings, message in (
        ({"num_candidates": 0}, "--num-candidates 0; expected at least 1"),
        (
            {"seeds": (1, 1)},
            "--seeds 1 1; expected distinct integers from 0 to 2^32 - 1, for instance --seeds 0 1 2",
        ),
        (
            {"retrieval": "faiss"},
            "--retrieval faiss; expected one of auto, dense, streamed, sharded",
        ),
        (
            {"mesh": (2,), "retrieval": "sharded"},
            "--mesh 2; expected two numbers of at least 1, BATCH ITEMS, for instance --mesh 2 4",
        ),
        (
            RATINGS | {"num_items": 50},
            "--num-items 50 has no effect with --environment ratings; leave it out, or choose "
            "--environment synthetic",
        ),
        (
            {"environment": "ratings"},
            "--environment ratings needs --path FILE (csv, tsv, parquet or npz)",
        ),
        (
            {"advantage": "batch", "batch_size": 1},
            "--advantage batch needs a --batch-size of at least 2",
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            TrainConfig(**settings)
        assert with_flags(str(caught.value), names) == message
