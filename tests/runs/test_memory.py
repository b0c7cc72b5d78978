"""The estimate of memory against the compiler's, and programs that hold nothing of size B x N."""

from __future__ import annotations

import math
import re

import jax
import pytest

from rankpg import TrainConfig
from rankpg.environments.synthetic import generate
from rankpg.errors import ConfigError
from rankpg.evaluation.metrics import evaluation_block
from rankpg.retrieval.choice import RetrievalSettings, choose_retrieval
from rankpg.runs import memory
from rankpg.runs.memory import available_memory, check_memory, estimate_memory
from rankpg.runs.run import prepare
from rankpg.training.build import build_learner
from rankpg.training.update import seed_keys, train_chunk

ENABLE_X64 = False

pytestmark = pytest.mark.usefixtures("standard_promotion")  # for optimizers of optax

ITEMS, BATCH = 20_000, 64


def settings(**changes):
    return TrainConfig(
        **{
            "num_contexts": 50, "num_items": ITEMS, "num_candidates": 10, "batch_size": BATCH, "seeds": (0,),
            "preset": "paper", "adaptive_learning_rate": False, **changes,
        }
    )  # fmt: skip


def compiled(config):
    run = prepare(config)
    roots = seed_keys(run.config.seeds, "steps")
    return run, train_chunk(run.learner, 2).lower(run.learner, run.state, roots).compile()


@pytest.mark.slow
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
def test_estimate_covers_the_compiled_memory(changes):
    run, program = compiled(settings(**changes))
    taken = program.memory_analysis()
    estimate = run.memory
    training = estimate.environment + estimate.parameters + estimate.optimizer
    training += estimate.gradient + estimate.embeddings + estimate.retrieval
    actual = taken.argument_size_in_bytes + taken.temp_size_in_bytes
    assert actual <= 1.1 * training
    assert training <= 4 * actual


@pytest.mark.slow
def test_streamed_program_holds_no_batch_of_logits():
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
def test_a_million_items_need_64_mib_of_temporary_memory(optimizer, estimator):
    """Compiled from shapes alone, nothing of that size is made."""
    config = settings(
        num_contexts=1000, num_items=10**6, embedding_dim=64, num_candidates=100, batch_size=128,
        retrieval="streamed", optimizer=optimizer, estimator=estimator,
    ).resolve()  # fmt: skip
    environment = generate(jax.random.key(0), 1000, 10**6)
    learner = build_learner(config, environment)
    roots = seed_keys(config.seeds, "steps")
    state = jax.eval_shape(jax.vmap(learner.init), roots)
    taken = train_chunk(learner, 2).lower(learner, state, roots).compile().memory_analysis()
    gradient = sum(4 * x.size for x in jax.tree.leaves(state.params))
    assert taken.temp_size_in_bytes <= gradient + 64 * 2**20


def test_a_run_that_does_not_fit_names_settings_that_do(monkeypatch):
    environment = generate(jax.random.key(0), 50, ITEMS)
    dense, streamed = (
        build_learner(settings(retrieval=name, batch_size=1024), environment)
        for name in ("dense", "streamed")
    )
    between = estimate_memory(streamed, 3).total + 2**20
    monkeypatch.setattr(memory, "available_memory", lambda: between)
    with pytest.raises(
        ConfigError, match=r"would need .*settings would fit: .*retrieval='streamed'"
    ):
        check_memory(dense, 3)
    assert check_memory(streamed, 3).total <= between
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    with pytest.raises(
        ConfigError,
        match=r"about \d items, \S+ times less of embedding_dim, .* or a larger machine",
    ):
        check_memory(streamed, 1)
    monkeypatch.setattr(memory, "available_memory", lambda: None)  # unknown
    check_memory(dense, 3)


def test_a_large_problem_is_rejected_before_it_is_generated(monkeypatch):
    """Its features alone would be 40 GiB: nothing of them may be made."""
    monkeypatch.setattr(memory, "available_memory", lambda: 2**33)
    config = settings(num_items=2**30, reranker="learned", adaptive_learning_rate=True)
    with pytest.raises(
        ConfigError, match=r"environment 40\.0 GiB.*settings would fit: about [\d,]+ items"
    ):
        prepare(config)


def test_available_memory_of_this_machine():
    free = available_memory()
    assert free is None or free > 2**26


@pytest.mark.parametrize(
    ("changes", "name", "reason"),
    [
        ({}, "streamed", "chunks of 100000 items are faster"),
        ({"catalogue": RetrievalSettings(1000, 10)}, "dense", "1000 items fit in cache"),
        ({"whole_catalogue": True}, "dense", "reads the logits of the whole catalogue"),
        ({"towers": False}, "dense", "the encoder returns logits"),
        ({"platform": "gpu"}, "dense", "fit on the device"),
        ({"platform": "gpu", "num_logits": 10**9}, "streamed", "3.7 GiB of logits"),
        ({"wanted": "dense"}, "dense", "as requested"),
        ({"wanted": "streamed", "catalogue": RetrievalSettings(10, 2)}, "streamed", "as requested"),
    ],
)
def test_auto_names_its_choice_and_reason(changes, name, reason):
    case = {
        "wanted": "auto", "catalogue": RetrievalSettings(10**5, 10),
        "num_logits": 10**6, "whole_catalogue": False,
        "towers": True, "platform": "cpu", **changes,
    }  # fmt: skip
    chosen = choose_retrieval(**case)
    assert chosen.name == name
    assert reason in chosen.reason


def test_auto_depends_on_the_score():
    environment = generate(jax.random.key(0), 5, 9000)
    chosen = {
        estimator: build_learner(settings(estimator=estimator), environment).policy.retrieval.name
        for estimator in ("ca_pg", "ca_pg_exact")
    }
    assert chosen == {"ca_pg": "streamed", "ca_pg_exact": "dense"}


def test_evaluation_block_shrinks_with_the_catalogue():
    assert evaluation_block(1000, (10,)).contexts == 64
    assert evaluation_block(10**6, (100,)).contexts == 11
    assert evaluation_block(10**6, (50, 50)).contexts == 1
