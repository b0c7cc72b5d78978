"""What a run needs is told beforehand, and the streamed program holds nothing of size B x N."""

from __future__ import annotations

import math
import re

import jax
import pytest

from rankpg import TrainConfig
from rankpg.environments.synthetic import generate
from rankpg.errors import ConfigError
from rankpg.evaluation.metrics import evaluation_block
from rankpg.retrieval.choice import choose_retrieval
from rankpg.runs import memory
from rankpg.runs.memory import available_memory, estimate_memory
from rankpg.runs.run import prepare
from rankpg.training.build import assemble
from rankpg.training.update import init_state, seed_keys, train_chunk

ENABLE_X64 = False
ITEMS, BATCH = 20_000, 64


def settings(**changes):
    return TrainConfig(
        **{
            "num_contexts": 50, "num_items": ITEMS, "num_candidates": 10, "batch_size": BATCH, "seeds": (0,),
            "preset": "paper", "adaptive_learning_rate": False, **changes,
        }
    )  # fmt: skip


@pytest.fixture(autouse=True)
def promotion():
    jax.config.update("jax_numpy_dtype_promotion", "standard")  # optax's Adagrad


def compiled(config):
    run = prepare(config)
    roots = seed_keys(run.config, "steps")
    return run, train_chunk(run.pipeline, 2).lower(run.environment, run.state, roots).compile()


@pytest.mark.parametrize(
    "changes",
    [
        {"retrieval": "dense"},
        pytest.param({"retrieval": "streamed"}, marks=pytest.mark.slow),
        {"retrieval": "streamed", "item_tower": "features", "embedding_dim": 64},
        pytest.param({"retrieval": "dense", "estimator": "ca_pg", "seeds": (0, 1)}, marks=pytest.mark.slow),
        pytest.param({"retrieval": "streamed", "num_experts": 2}, marks=pytest.mark.slow),
        pytest.param({"retrieval": "streamed", "num_candidates": 200}, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_the_estimate_holds_what_the_compiler_takes(changes):
    run, program = compiled(settings(**changes))
    taken = program.memory_analysis()
    told = run.memory
    training = told.environment + told.parameters + told.optimizer
    training += told.gradient + told.embeddings + told.retrieval
    actual = taken.argument_size_in_bytes + taken.temp_size_in_bytes
    assert actual <= 1.1 * training
    assert training <= 4 * actual


@pytest.mark.slow
def test_nothing_of_batch_times_catalogue_is_in_the_streamed_program():
    """Read from the program: no array holds a number for every item of every context."""
    _, program = compiled(settings(retrieval="streamed", estimator="top1_pg"))
    sizes = {
        math.prod(map(int, shape.split(",")))
        for shape in re.findall(r"\b(?:f32|s32|u32|pred)\[([\d,]+)\]", program.as_text())
    }
    assert max(sizes) < BATCH * ITEMS / 3
    _, dense = compiled(settings(retrieval="dense", estimator="top1_pg"))
    assert f"{BATCH},{ITEMS}]" in dense.as_text() or f"{BATCH},1,{ITEMS}]" in dense.as_text()


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adagrad", "adam"])
@pytest.mark.parametrize("estimator", ["top1_pg", "ca_pg"])
def test_a_million_items_need_64_mib_beside_parameters_gradient_and_moments(optimizer, estimator):
    """Compiled from shapes alone, nothing of that size is made."""
    config = settings(
        num_contexts=1000, num_items=10**6, embedding_dim=64, num_candidates=100, batch_size=128,
        retrieval="streamed", optimizer=optimizer, estimator=estimator,
    ).resolve()  # fmt: skip
    environment = generate(jax.random.key(0), 1000, 10**6)
    pipeline = assemble(config, environment)
    roots = seed_keys(config, "steps")
    state = jax.eval_shape(jax.vmap(lambda key: init_state(pipeline, key)), roots)
    taken = train_chunk(pipeline, 2).lower(environment, state, roots).compile().memory_analysis()
    gradient = sum(4 * x.size for x in jax.tree.leaves(state.params))
    assert taken.temp_size_in_bytes <= gradient + 64 * 2**20


def test_what_does_not_fit_is_refused_with_what_would(monkeypatch):
    environment = generate(jax.random.key(0), 50, ITEMS)
    pipeline = assemble(settings(retrieval="dense", batch_size=1024).resolve(), environment)
    streamed = assemble(settings(retrieval="streamed", batch_size=1024).resolve(), environment)
    between = estimate_memory(streamed, environment, 3).total + 2**20
    monkeypatch.setattr(memory, "available_memory", lambda: between)
    with pytest.raises(ConfigError, match=r"would need about .*What would fit: .*--retrieval stre"):
        memory.check_memory(pipeline, environment, 3)
    assert memory.check_memory(streamed, environment, 3).total <= between
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    with pytest.raises(
        ConfigError,
        match=r"about \d items, \S+ times less of --embedding-dim, .* or a larger machine",
    ):
        memory.check_memory(streamed, environment, 1)
    monkeypatch.setattr(memory, "available_memory", lambda: None)  # a device that does not tell
    memory.check_memory(pipeline, environment, 3)


def test_a_large_problem_is_refused_before_it_is_generated(monkeypatch):
    """Its features alone would be 40 GiB: nothing of them may be made."""
    monkeypatch.setattr(memory, "available_memory", lambda: 2**33)
    config = settings(num_items=2**30, reranker="learned", adaptive_learning_rate=True)
    with pytest.raises(
        ConfigError, match=r"environment 40\.0 GiB.*What would fit: about [\d,]+ items"
    ):
        prepare(config)


def test_this_machine_tells_its_memory():
    free = available_memory()
    assert free is None or free > 2**26


@pytest.mark.parametrize(
    ("changes", "name", "reason"),
    [
        ({}, "streamed", "pass by in chunks"),
        ({"num_items": 1000}, "dense", "1000 items are few"),
        ({"whole_catalogue": True}, "dense", "lists the whole catalogue"),
        ({"towers": False}, "dense", "answers logits"),
        ({"platform": "gpu"}, "dense", "fit the device"),
        ({"platform": "gpu", "logits_at_once": 10**9}, "streamed", "3.7 GiB of logits"),
        ({"wanted": "dense"}, "dense", "as you asked"),
        ({"wanted": "streamed", "num_items": 10}, "streamed", "as you asked"),
    ],
)
def test_auto_says_what_it_takes_and_why(changes, name, reason):
    case = {
        "wanted": "auto", "num_items": 10**5, "logits_at_once": 10**6, "whole_catalogue": False,
        "towers": True, "platform": "cpu", **changes,
    }  # fmt: skip
    chosen = choose_retrieval(**case)
    assert chosen.name == name
    assert reason in chosen.reason


def test_auto_looks_at_the_encoder_and_the_score():
    environment = generate(jax.random.key(0), 5, 9000)
    chosen = {
        estimator: assemble(settings(estimator=estimator).resolve(), environment).retrieval.name
        for estimator in ("ca_pg", "ca_pg_exact")
    }
    assert chosen == {"ca_pg": "streamed", "ca_pg_exact": "dense"}


def test_fewer_contexts_are_evaluated_together_where_the_catalogue_is_large():
    assert evaluation_block(1000, (10,)).contexts == 64
    assert evaluation_block(10**6, (100,)).contexts == 11
    assert evaluation_block(10**6, (50, 50)).contexts == 1
