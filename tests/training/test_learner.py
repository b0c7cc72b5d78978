"""The learner in a loop of one's own, and as an argument of compiled functions."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rankpg import TrainConfig, train
from rankpg.environments.from_ratings import from_matrix
from rankpg.training import Learner, TrainState, build_learner
from rankpg.training.logged import Logged
from rankpg.training.update import seed_keys, update
from rankpg.types import Ranking, Reranker

ENABLE_X64 = False

pytestmark = pytest.mark.usefixtures("standard_promotion")  # for optimizers of optax

CONTEXTS, ITEMS, STEPS = 5, 8, 6


def settings(**changes) -> TrainConfig:
    small = {"num_candidates": 3, "batch_size": 8, "embedding_dim": 4, "seeds": (3,)}
    return TrainConfig(**(small | {"num_steps": STEPS, "eval_every": STEPS} | changes))


def data(seed: int = 0, shape: tuple[int, int] = (CONTEXTS, ITEMS)):
    return from_matrix(np.random.default_rng(seed).uniform(0, 1, shape), noise_std=0.1)


@pytest.fixture(scope="module")
def learner() -> Learner:
    return build_learner(settings(), data().environment)


def leaves_equal(one, other) -> bool:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


# A loop of one's own.


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"advantage": "context", "ranking_length": 2},
        pytest.param({"retrieval": "streamed", "num_experts": 2}, marks=pytest.mark.slow),
        pytest.param({"advantage": "learned", "optimizer": "adam"}, marks=pytest.mark.slow),
    ],
)
def test_a_loop_over_update_equals_train_bitwise(changes):
    config = settings(**changes)
    run = train(config, data())
    learner = build_learner(config, data().environment)
    (init_key,), (root,) = (seed_keys(config.seeds, stream) for stream in ("init", "steps"))
    state, step, losses = jax.jit(learner.init)(init_key), jax.jit(Learner.update), []
    for number in range(STEPS):
        state, metrics = step(learner, state, jax.random.fold_in(root, number))
        losses.append(float(metrics.loss))
    assert leaves_equal(state, jax.tree.map(lambda leaf: leaf[0], run.state))
    assert run.metrics[-1]["loss"] == np.mean(np.asarray(losses, np.float64))


def test_init_counts_no_update_and_no_fault(learner):
    state = learner.init(jax.random.key(0))
    assert isinstance(state, TrainState)
    assert (int(state.step), int(state.fault)) == (0, 0)
    same, other = learner.init(jax.random.key(0)), learner.init(jax.random.key(1))
    assert leaves_equal(state, same)
    assert not leaves_equal(state.params, other.params)


def test_update_returns_a_new_state_and_finite_metrics(learner):
    before = learner.init(jax.random.key(0))
    kept = jax.device_get(before)
    after, metrics = jax.jit(Learner.update)(learner, before, jax.random.key(1))
    assert leaves_equal(before, kept)
    assert int(after.step) == 1
    assert not leaves_equal(after.params, before.params)
    assert all(np.isfinite(value) for value in jax.tree.leaves(metrics))
    assert jax.tree.structure(after) == jax.tree.structure(before)


# The learner as a pytree.


def test_leaves_are_those_of_the_environment(learner):
    leaves, structure = jax.tree.flatten(learner)
    assert leaves_equal(leaves, jax.tree.leaves(learner.environment))
    back = jax.tree.unflatten(structure, leaves)
    assert leaves_equal(back.environment, learner.environment)
    for field in dataclasses.fields(Learner):
        if field.name != "environment":
            assert getattr(back, field.name) is getattr(learner, field.name), field.name


def test_structures_are_equal_where_components_are_the_same_objects(learner):
    def structure(learner):
        return jax.tree.structure(learner)

    other_rewards = dataclasses.replace(learner, environment=data(1).environment)
    assert structure(other_rewards) == structure(learner)
    assert hash(structure(other_rewards)) == hash(structure(learner))
    other_optimizer = dataclasses.replace(learner, optimizer=optax.sgd(0.1))
    assert structure(other_optimizer) != structure(learner)


@pytest.fixture
def counted():
    """A compiled update and the list of its traces."""
    traces = []

    def update(learner, state, key):
        traces.append(learner)
        return learner.update(state, key)

    return jax.jit(update), traces


def test_another_environment_of_the_same_shape_is_not_traced_again(learner, counted):
    update, traces = counted
    state, key = learner.init(jax.random.key(0)), jax.random.key(1)
    _, here = update(learner, state, key)
    other = dataclasses.replace(learner, environment=data(1).environment)
    _, there = update(other, state, key)
    assert len(traces) == 1
    assert float(here.reward) != float(there.reward)


@pytest.mark.slow
def test_another_optimizer_or_shape_is_traced_again(learner, counted):
    update, traces = counted
    state, key = learner.init(jax.random.key(0)), jax.random.key(1)
    update(learner, state, key)
    optimizer = optax.sgd(0.1)
    slower = dataclasses.replace(learner, optimizer=optimizer)
    update(slower, state.replace(optimizer_state=optimizer.init(state.params)), key)
    assert len(traces) == 2
    more = data(0, (CONTEXTS + 1, ITEMS)).environment
    update(dataclasses.replace(learner, environment=more), state, key)
    assert len(traces) == 3


@pytest.mark.slow
def test_vmap_over_environments_equals_a_loop(learner):
    environments = [data(seed).environment for seed in (0, 1)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *environments)
    state, key = learner.init(jax.random.key(0)), jax.random.key(1)
    both, _ = jax.jit(jax.vmap(Learner.update, in_axes=(0, None, None)))(
        dataclasses.replace(learner, environment=stacked), state, key
    )
    for index, environment in enumerate(environments):
        alone, _ = dataclasses.replace(learner, environment=environment).update(state, key)
        for a, b in zip(jax.tree.leaves(both.params), jax.tree.leaves(alone.params), strict=True):
            np.testing.assert_allclose(a[index], b, rtol=1e-4, atol=1e-6)


# Batches whose candidates were drawn before.


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("items", (2, 2)),
        ("shown", (2, 2)),
        ("observed", (1, 1)),
        ("weights", (2,)),
        ("contexts", (2, 1)),
    ],
)
def test_logged_batch_of_another_shape_is_named(learner, name, shape):
    state = learner.init(jax.random.key(0))
    sizes = {
        "contexts": (2,),
        "items": (2, 3),
        "shown": (2, 1),
        "observed": (2, 1),
        "weights": (2, 1),
    }
    kinds = {"observed": jnp.float32, "weights": jnp.float32}

    def step(shapes):
        arrays = {n: jax.ShapeDtypeStruct(s, kinds.get(n, jnp.int32)) for n, s in shapes.items()}
        return jax.eval_shape(lambda logged: update(learner, state, Logged(**logged)), arrays)

    step(sizes)
    with pytest.raises(ValueError, match=f"{name} of a logged batch has shape"):
        step(sizes | {name: shape})


# What an update must and must not do.


def test_the_baseline_does_not_learn_from_an_update_that_is_refused():
    """The rewards lie outside of the bounds, which is a fault: nothing but the fault's number changes."""
    config = settings(advantage="context", reward_bounds=(5.0, 6.0))
    learner = build_learner(config, from_matrix(np.full((CONTEXTS, ITEMS), 5.5)).environment)
    state = learner.init(jax.random.key(0))
    good, _ = jax.jit(Learner.update)(learner, state, jax.random.key(1))
    assert int(good.fault) == 0
    assert not leaves_equal(good.baseline_state, state.baseline_state)
    wild = dataclasses.replace(learner.environment, means=learner.environment.means + 1)
    bad = dataclasses.replace(learner, environment=wild)
    refused, _ = jax.jit(Learner.update)(bad, good, jax.random.key(2))
    assert int(refused.fault) > 0
    for part in ("baseline_state", "params", "optimizer_state", "step"):
        assert leaves_equal(getattr(refused, part), getattr(good, part)), part


@dataclasses.dataclass
class UnequalPropensities(Reranker):
    """Shows the first candidate, with a probability that depends on the context."""

    ranking_length: int = 1

    def __call__(self, key, environment, context, candidates):
        return Ranking(items=candidates[:1], log_propensity=-1.0 - context.astype(jnp.float32))

    greedy = __call__


@pytest.mark.slow
def test_the_adaptive_step_divides_by_the_mean_propensity(learner):
    """1 / mean(p), Eq. 9, is not the mean of 1 / p where propensities differ."""
    own = dataclasses.replace(learner, reranker=UnequalPropensities(), adaptive_learning_rate=True)
    batch = own.simulate(jax.random.key(0))
    chances = np.exp(-1.0 - np.asarray(batch.contexts, np.float64))
    assert np.ptp(chances) > 0.1
    candidates = batch.candidates(own, own.init(jax.random.key(1)).params)
    size = own.step_size(batch, candidates)
    assert size is not None
    assert float(size) == pytest.approx(1 / chances.mean(), rel=1e-5)
    assert abs(float(size) - np.mean(1 / chances)) > 1
