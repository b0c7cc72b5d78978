"""Training: the update against a gradient by hand, random streams, faults and optimizers."""

from __future__ import annotations

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct
from scipy import stats

import rankpg
from rankpg import TrainConfig, rerankers
from rankpg.encoders import Encoder
from rankpg.environments.dataset import Dataset, split_contexts
from rankpg.environments.from_ratings import from_matrix
from rankpg.errors import ConfigError
from rankpg.runs.loop import training_loop
from rankpg.runs.run import Run, prepare
from rankpg.runs.train import train
from rankpg.training.build import build_learner, make_optimizer
from rankpg.training.optimizer import Fault
from rankpg.training.update import Learner, StepKeys, seed_keys, train_chunk
from rankpg.types import Environment, Ranking, Reranker

ENABLE_X64 = False

pytestmark = pytest.mark.usefixtures("standard_promotion")  # for optimizers of optax

CONTEXTS, ITEMS = 5, 8
SGD = {"optimizer": "sgd", "learning_rate": 0.5}


def settings(**changes) -> TrainConfig:
    small = {"num_candidates": 3, "batch_size": 8, "embedding_dim": 4, "seeds": (0, 1), **SGD}
    return TrainConfig(**(small | {"num_steps": 4, "eval_every": 2} | changes))


def table(seed=0, shape=(CONTEXTS, ITEMS)):
    return np.random.default_rng(seed).uniform(0, 1, shape)


@pytest.fixture(scope="module")
def world():
    return from_matrix(table(), noise_std=0.1).environment


def tables(params) -> tuple[np.ndarray, np.ndarray]:
    """The two towers of ids: [M, contexts, D] and [M, N, D]."""
    contexts, items = (np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(params))
    return contexts, items


def leaves_equal(one, other) -> bool:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def start(learner, seed=0):
    return jax.jit(learner.init)(jax.random.key(seed))


def seed_of(tree, index):
    return jax.tree.map(lambda leaf: np.asarray(leaf[index]), tree)


# One step, row by row: no vmap, no encoder, no surrogate.


# One of each kind of score: of the whole set, of one item, with the noise that drew. What the others score is
# enumerated in test_estimators.py; the step around it is the same. For credit by swaps see
# test_counterfactual.py, for predicted rewards test_reward_objectives.py.
CORE = (("v_pg", 1), ("ca_pg_swr", 2))
CASES = [
    pytest.param(name, experts, marks=() if (name, experts) in CORE else pytest.mark.slow)
    for name, estimator in rankpg.ESTIMATORS.items()
    for experts in (1, 2, 3)
    if experts <= (estimator.max_experts or 3)
    and not (estimator.by_swaps or estimator.by_predictions)
]


def problem(name, experts, world):
    """An estimator with M experts, K = 4, L = 2, and its compiled step."""
    config = settings(
        estimator=name,
        num_experts=experts,
        num_candidates=4,
        ranking_length=2,
        position_weights="1,0.5",
        reranker="noisy",
        inverse_temperature=2.0,
        advantage="none",
        entropy_bonus=0.05,
        temperature=0.5,
        init_scale=0.3,
        batch_size=16,
    )
    learner = build_learner(config, world)
    return config, learner, jax.jit(learner.update)


def one_row(config, learner, world):
    """sum_l alpha_l (r_l + bonus_l) grad score_l, by one context's logits, and sum_l alpha_l r_l."""
    quotas = rankpg.expert_quotas(config.num_candidates, config.num_experts)
    alpha = jnp.array([1.0, 0.5])
    whole = config.estimator in ("v_pg", "v_pg_swr", "v_pg_set")
    slots = config.num_candidates if whole else 1

    @jax.jit
    def row(key, reranker_key, rewards_key, context, logits):
        candidates = rankpg.sample_candidates(key, logits, quotas)
        shown = learner.reranker(reranker_key, world, context, candidates).items
        rewards = world.sample_rewards(rewards_key, context, shown)

        def credit(logits):
            noise = key if config.estimator == "ca_pg_threshold" else None
            scores = rankpg.score(config.estimator, logits, candidates, shown, quotas, key=noise)
            worth = rewards - config.entropy_bonus * jax.lax.stop_gradient(scores) / slots
            return jnp.sum(alpha * worth * scores)

        return jax.grad(credit)(logits), jnp.sum(alpha * rewards)

    return row


def gradient_by_hand(config, row, state, key):
    """-1/B sum over rows, by the chain rule through f_m(a) = x_m . e_ma / T."""
    contexts_key, candidates_key, reranker_key, rewards_key = jax.random.split(key, 4)
    rows, (x, e) = config.batch_size, tables(state.params)
    contexts = np.asarray(jax.random.randint(contexts_key, (rows,), 0, CONTEXTS))
    keys = [jax.random.split(k, rows) for k in (candidates_key, reranker_key, rewards_key)]
    to_x, to_e, earned = np.zeros_like(x), np.zeros_like(e), []
    for b, context in enumerate(contexts):
        logits = np.einsum("md,mnd->mn", x[:, context], e) / config.temperature
        of_row = [k[b] for k in keys]
        g, reward = row(*of_row, jnp.int32(context), jnp.asarray(logits, jnp.float32))
        g = -np.asarray(g, np.float64) / rows / config.temperature
        to_x[:, context] += np.einsum("mn,mnd->md", g, e)
        to_e += np.einsum("mn,md->mnd", g, x[:, context])
        earned.append(float(reward))
    return to_x, to_e, np.mean(earned)


def value_of(params, mean_rewards, quotas, alpha, temperature):
    """Greedy candidates, the best of them in order, in numpy."""
    x, e = tables(params)
    total = 0.0
    for context, rewards in enumerate(mean_rewards):
        logits = np.einsum("md,mnd->mn", x[:, context], e) / temperature
        taken: list[int] = []
        for expert, quota in enumerate(quotas):
            order = [a for a in np.argsort(-logits[expert]) if a not in taken]
            taken += order[:quota]
        total += np.sort(rewards[taken])[::-1][: len(alpha)] @ alpha
    return total / len(mean_rewards)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "experts"), CASES)
def test_update_follows_the_gradient_by_hand_and_learns(name, experts, world):
    config, learner, step = problem(name, experts, world)
    state, row = start(learner, 3), one_row(config, learner, world)
    for number in (0, 1):  # the second from a point where rows no longer start alike
        key = jax.random.key(70 + number)
        after, metrics = step(state, key)
        *gradients, reward = gradient_by_hand(config, row, state, key)
        for before, now, gradient in zip(
            tables(state.params), tables(after.params), gradients, strict=True
        ):
            moved = (before - now) / config.learning_rate
            np.testing.assert_allclose(moved, gradient, rtol=2e-3, atol=3e-6)
            assert np.abs(gradient).max() > 1e-3
        norm = np.sqrt(sum(np.sum(g**2) for g in gradients))
        assert float(metrics.gradient_norm) == pytest.approx(norm, rel=1e-3)
        assert float(metrics.reward) == pytest.approx(reward, rel=1e-4)
        assert (int(after.step), int(after.fault)) == (number + 1, 0)
        state = after

    state, alpha = start(learner, 4), np.array([1.0, 0.5])
    means = np.asarray(table(), np.float32)
    optimum = np.mean(np.sort(means, axis=1)[:, ::-1][:, :2] @ alpha)
    before = value_of(state.params, means, learner.policy.quotas, alpha, config.temperature)
    for number in range(400):
        state, _ = step(state, jax.random.fold_in(jax.random.key(5), number))
    after = value_of(state.params, means, learner.policy.quotas, alpha, config.temperature)
    assert after - before > 0.25 * (optimum - before), (before, after, optimum)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.long] if name == "ca_pg_exact" else [])
        for name in rankpg.ESTIMATORS
    ],
)
def test_value_rises_with_long_rankings_and_many_experts(name):
    """L = 5, and M = 5 where the estimator is defined for it: the value rises above the start's."""
    experts = min(5, rankpg.ESTIMATORS[name].max_experts or 5)
    config = TrainConfig(
        estimator=name, num_experts=experts, num_candidates=7, ranking_length=5, batch_size=32,
        embedding_dim=4, seeds=(0, 1), num_steps=100, eval_every=100,
    )  # fmt: skip
    run = train(config, from_matrix(table(4, (CONTEXTS, 20)), noise_std=0.1))
    assert run.stopped() == []
    first, last = (np.mean([row["policy_value"] for row in rows])
                   for rows in (run.metrics[:2], run.metrics[-2:]))  # fmt: skip
    assert last > first + 0.1
    assert run.candidates(np.arange(CONTEXTS)).shape == (CONTEXTS, 7)


@pytest.mark.slow
def test_eager_equals_jit(world):
    learner = build_learner(settings(), world)
    state, key = start(learner), jax.random.key(1)
    eager = learner.update(state, key)
    compiled = jax.jit(learner.update)(state, key)
    for a, b in zip(jax.tree.leaves(eager), jax.tree.leaves(compiled), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


# Seeds, keys and traces.


def roots(config):
    """The root key of each seed's steps, as documented: a stream of the seed, then fold_in(root, step)."""
    return jax.vmap(lambda s: jax.random.fold_in(jax.random.key(s), 1))(
        jnp.asarray(config.seeds, jnp.uint32)
    )


def trained(config, world, steps=3):
    run = prepare(config, world)
    return train_chunk(run.learner, steps)(run.learner, run.state, roots(config))


@pytest.mark.slow
def test_seeds_together_equal_seeds_alone(world):
    together, _ = trained(settings(seeds=(3, 8)), world)
    assert together.step.tolist() == [3, 3]
    alone, _ = trained(settings(seeds=(8,)), world)
    for both, one in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(both[1], one[0], rtol=1e-4, atol=1e-6)
    for leaf in jax.tree.leaves(together.params):
        assert not np.any(leaf[0] == leaf[1])


@pytest.mark.slow
def test_update_is_traced_once(world, monkeypatch):
    traces = {"update": 0, "re-ranker": 0}

    update = Learner.update

    def counted(*arguments):
        traces["update"] += 1
        return update(*arguments)

    def function(key, context, candidates):
        traces["re-ranker"] += 1
        return candidates[:1]

    monkeypatch.setattr(Learner, "update", counted)
    run = prepare(
        settings(num_steps=12, eval_every=4), world, reranker=rerankers.custom(1, function)
    )
    loop = training_loop(run)
    assert next(loop).phase == "compile"
    compiled = dict(traces)
    assert compiled["update"] == 1
    steps = [progress.step for progress in loop]
    assert steps[-1] == 12
    assert traces == compiled


def test_contexts_are_uniform(world):
    sampler = build_learner(settings(), world).sampler._replace(batch_size=20_000)
    drawn = np.asarray(sampler(jax.random.key(2), world))
    counts = np.bincount(drawn, minlength=CONTEXTS)
    assert len(counts) == CONTEXTS
    assert stats.chisquare(counts).pvalue > 1e-3
    neighbours = np.bincount(CONTEXTS * drawn[:-1] + drawn[1:], minlength=CONTEXTS**2)
    assert stats.chisquare(neighbours).pvalue > 1e-3


def test_held_out_contexts_are_never_drawn(world):
    kept = settings(held_out_contexts=2)
    encoder = rankpg.encoders.two_tower(CONTEXTS, world.num_items, 2)
    sampler = build_learner(kept, world, encoder=encoder).sampler._replace(batch_size=20_000)
    drawn = np.asarray(sampler(jax.random.key(2), world))
    seen, held_out = split_contexts(CONTEXTS, 2)
    assert set(drawn.tolist()) == set(seen.tolist())
    assert not set(held_out.tolist()) & set(seen.tolist())
    assert stats.chisquare(np.bincount(drawn)[seen]).pvalue > 1e-3


def test_context_tower_of_ids_rejects_held_out_contexts(world):
    with pytest.raises(ConfigError, match=r"held_out_contexts=2.*context_tower='features'"):
        build_learner(settings(held_out_contexts=2), world)


def test_draws_of_one_context_are_neighbours(world):
    sampler = build_learner(settings(), world).sampler
    sampler = sampler._replace(batch_size=20_000, draws_per_context=4)
    drawn = np.asarray(sampler(jax.random.key(2), world)).reshape(-1, 4)
    assert np.all(drawn == drawn[:, :1])
    assert stats.chisquare(np.bincount(drawn[:, 0], minlength=CONTEXTS)).pvalue > 1e-3


@pytest.mark.slow
def test_rewards_do_not_depend_on_the_key_of_the_reranker(world):
    """Two re-rankers that show the same, one of which draws from its key: every reward stays the same."""

    def idle(key, context, candidates):
        return candidates[:1]

    def busy(key, context, candidates):
        place = jnp.argmax(jax.random.normal(key, (3, 7)).sum(axis=1)) * 0
        return candidates[place][None]

    after = {}
    for function in (idle, busy):
        learner = build_learner(settings(), world, reranker=rerankers.custom(1, function))
        after[function] = jax.jit(learner.update)(start(learner), jax.random.key(1))
    (one, its_metrics), (other, metrics) = after.values()
    assert float(metrics.reward) == float(its_metrics.reward)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_streams_of_a_seed_have_distinct_keys():
    config = settings(seeds=(0, 1, 2**32 - 1))
    keys = [seed_keys(config.seeds, stream) for stream in ("init", "steps", "evaluation")]
    bits = np.concatenate([jax.random.key_data(of) for of in keys])
    assert len(np.unique(bits, axis=0)) == 3 * 3
    assert np.array_equal(jax.random.key_data(keys[1]), jax.random.key_data(roots(config)))


def test_rows_of_a_step_have_distinct_keys(world):
    """Candidates, ranking and rewards of a row come from three keys; no two rows share any."""
    rows = StepKeys.split(jax.random.key(0)).rows(16)
    bits = np.concatenate([np.atleast_2d(jax.random.key_data(stream)) for stream in rows])
    assert len(np.unique(bits, axis=0)) == 1 + 3 * 16  # the contexts of a batch come from one key


# Masks.


@pytest.mark.slow
def test_masked_items_are_never_candidates():
    """Whatever is masked pays a million, so that a single slip shows in the reward."""
    eligible = np.random.default_rng(3).random((CONTEXTS, ITEMS)) < 0.6
    eligible[:, :3] = [[True, False, True]] * CONTEXTS
    eligible[:, 3] = True
    means = np.where(eligible, 1.0, 1e6)
    environment = from_matrix(means, eligible=eligible)
    config = settings(
        ranking_length=3, reranker="uniform", num_steps=20, eval_every=20, estimator="top1_pg",
        batch_size=64,
    )  # fmt: skip
    run = train(config, environment)
    assert run.stopped() == []
    last = run.metrics[-1]
    assert last["reward"] == pytest.approx(3.0)
    for name in ("policy_value", "sampled_value", "optimum"):
        assert last[name] == pytest.approx(3.0), name
    chosen = run.candidates(np.arange(CONTEXTS))
    assert np.all(np.take_along_axis(eligible, chosen, axis=1))
    assert all(len(set(row)) == 3 for row in chosen.tolist())


def test_too_few_eligible_items_are_rejected():
    eligible = np.ones((CONTEXTS, ITEMS), bool)
    eligible[3, 2:] = False
    environment = from_matrix(table(), eligible=eligible).environment
    message = "context 3 has 2 eligible items, fewer than num_candidates=3"
    with pytest.raises(ConfigError, match=message):
        build_learner(settings(), environment)


# What stops a seed.


@struct.dataclass
class Trouble(Environment):
    """Rewards from a table; in the contexts that are marked, the re-ranker shows what it was not given."""

    means: jax.Array
    strays: jax.Array

    @property
    def num_contexts(self):
        return self.means.shape[0]

    @property
    def num_items(self):
        return self.means.shape[1]

    def mean_rewards(self, context, items):
        return self.means[context, items]

    def sample_rewards(self, key, context, items):
        return self.means[context, items]


@dataclasses.dataclass(frozen=True)
class Straying(Reranker):
    ranking_length: int = 1

    def __call__(self, key, environment, context, candidates):
        inside = jnp.any(jnp.arange(ITEMS)[:, None] == candidates[None], axis=1)
        stray = jnp.argmin(inside).astype(jnp.int32)
        item = jnp.where(environment.strays[context], stray, candidates[0])
        return Ranking(items=item[None], log_propensity=jnp.zeros(()))

    greedy = __call__


def edge_tables() -> Encoder:
    """Two towers, `pole`, whose 0 makes logits infinite and -1 NaN, and `edge`, whose 0 has no gradient."""

    def init(key):
        a, b = jax.random.split(key)
        return {
            "x": jax.random.normal(a, (WIDE, 1, 3)),
            "e": jax.random.normal(b, (1, ITEMS, 3)),
            "pole": jnp.ones(WIDE),
            "edge": jnp.ones(WIDE),
        }

    def apply(params, contexts):
        logits = jnp.einsum("bmd,mnd->bmn", params["x"][contexts], params["e"])
        pole = -jnp.log(jax.lax.stop_gradient(params["pole"])[contexts])
        edge = jnp.sqrt(params["edge"][contexts] ** 2)
        return logits + (pole + edge)[:, None, None]

    return Encoder(init, apply)


WIDE, STEPS = 60, 6
TROUBLES = {
    "NaN reward": (Fault.REWARDS, {"means": np.nan}, {}),
    "infinite reward": (Fault.REWARDS, {"means": np.inf}, {}),
    "NaN logit": (Fault.LOGITS, {}, {"pole": -1.0}),
    "infinite logit": (Fault.LOGITS, {}, {"pole": 0.0}),
    "not a candidate": (Fault.RANKING, {"strays": True}, {}),
    "loss that overflows": (Fault.LOSS, {"means": 3e38}, {}),
    "NaN gradient": (Fault.GRADIENT, {}, {"edge": 0.0}),
}


@pytest.fixture(scope="module")
def troubled():
    """One compiled step of two seeds, in which what goes wrong is data.

    The context that is spoilt is drawn by seed 0 at step 3 at the earliest, and by seed 1 never.
    """
    environment = Trouble(jnp.asarray(table(1, (WIDE, ITEMS)), jnp.float32), jnp.zeros(WIDE, bool))
    config = settings(batch_size=6, position_weights="100", learning_rate=0.005)
    learner = build_learner(config, environment, encoder=edge_tables(), reranker=Straying())
    learner = dataclasses.replace(learner, reward_bounds=None)  # else no loss overflows
    keys = roots(config)

    def contexts(root, step):
        return learner.simulate(jax.random.fold_in(root, step)).contexts

    drawn = np.array([[contexts(root, step) for step in range(STEPS)] for root in keys])
    late = set(drawn[0, 3].tolist()) - set(drawn[0, :3].ravel().tolist())
    bad = min(late - set(drawn[1].ravel().tolist()))
    chunk = train_chunk(learner, 1)
    start = jax.jit(jax.vmap(learner.init))

    def play(means=None, strays=None, pole=None, edge=None):
        world = environment
        if means is not None:
            world = world.replace(means=world.means.at[bad].set(means))
        if strays is not None:
            world = world.replace(strays=world.strays.at[bad].set(strays))
        state = start(keys)
        for name, value in (("pole", pole), ("edge", edge)):
            if value is not None:
                state.params[name] = state.params[name].at[:, bad].set(value)
        history = [jax.device_get(state)]
        for _ in range(STEPS):
            state, _ = chunk(dataclasses.replace(learner, environment=world), state, keys)
            history.append(jax.device_get(state))
        return config, learner, history

    return play, play()


@pytest.mark.slow
@pytest.mark.parametrize("name", TROUBLES)
def test_a_fault_stops_one_seed_at_its_last_good_state(name, troubled):
    play, clean = troubled
    fault, world, params = TROUBLES[name]
    config, learner, history = play(**world, **params)
    end = history[-1]
    assert end.step.tolist() == [3, STEPS]
    assert end.fault.tolist() == [fault, 0]
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(end))
    assert leaves_equal(seed_of(end, 0).replace(fault=0), seed_of(history[3], 0))
    assert history[3].fault.tolist() == [0, 0]
    if not params:  # data that differ only where seed 0 alone looks, from step 3 on
        assert leaves_equal(seed_of(history[3], 0), seed_of(clean[-1][3], 0))
        assert leaves_equal(seed_of(end, 1), seed_of(clean[-1][-1], 1))
    for leaf in ("x", "e"):
        assert np.array_equal(end.params[leaf][1], clean[-1][-1].params[leaf][1])
    (sentence,) = Run(config, learner, end, Dataset.of(learner.environment)).stopped()
    assert sentence.startswith(f"seed 0 stopped at step 3 by {fault.description};")


def test_a_sound_run_has_no_fault(troubled):
    config, learner, history = troubled[1]
    assert history[-1].step.tolist() == [STEPS, STEPS]
    run = Run(config, learner, history[-1], Dataset.of(learner.environment))
    assert run.stopped() == []


def test_infinite_parameters_are_not_stored(world):
    learner = build_learner(settings(), world, optimizer=optax.scale(-jnp.inf))
    state = start(learner)
    after, _ = jax.jit(learner.update)(state, jax.random.key(1))
    assert Fault(int(after.fault)).description == "parameters that are NaN or infinite"
    assert leaves_equal(after.replace(fault=state.fault), state)


@pytest.mark.slow
def test_in_place_steps_are_equal_and_meet_overflow_one_step_later(world, monkeypatch):
    """In-place steps check the old parameters, so an overflow stops training one update later."""
    sound = build_learner(settings(), world)

    def after(learner, state):
        return jax.jit(lambda s: learner.update(s, jax.random.key(1))[0])(state)

    expected = after(sound, start(sound))
    monkeypatch.setattr("rankpg.training.optimizer._COPIED", 0)
    assert leaves_equal(after(sound, start(sound)), expected)
    learner = build_learner(settings(), world, optimizer=optax.scale(-jnp.inf))
    lost = after(learner, start(learner))
    assert int(lost.fault) == 0
    again = after(learner, lost)
    assert int(again.fault) > 0
    jax.tree.map(np.testing.assert_array_equal, again.replace(fault=lost.fault), lost)


@pytest.mark.slow
def test_nan_rewards_stop_a_run_with_a_reason():
    environment = Trouble(jnp.full((CONTEXTS, ITEMS), jnp.nan), jnp.zeros(CONTEXTS, bool))
    run = train(settings(seeds=(4,)), environment)
    (sentence,) = run.stopped()
    assert sentence.startswith(f"seed 4 stopped at step 0 by {Fault.REWARDS.description};")
    assert [row["policy_value"] for row in run.metrics] == [None, None, None]
    last = run.metrics[-1]
    stop = last["step"], last["stopped_at_step"], last["stopped_by"]
    assert stop == (4, 0, Fault.REWARDS.description)


# Eq. 9.


@pytest.mark.slow
def test_adaptive_learning_rate_divides_the_step_by_the_propensity():
    """A uniform re-ranker shows each of 10 candidates with probability 1/10: ten times the step."""
    world = from_matrix(table(2, (CONTEXTS, 12))).environment
    config = settings(num_candidates=10, reranker="uniform", adaptive_learning_rate=True)
    learner = build_learner(config, world)
    before = start(learner)
    after, metrics = jax.jit(learner.update)(before, jax.random.key(1))
    moved = jax.tree.map(lambda a, b: a - b, after.params, before.params)
    plain = config.learning_rate * float(metrics.gradient_norm)  # how far SGD goes without Eq. 9
    assert plain > 1e-3
    assert float(optax.tree.norm(moved)) == pytest.approx(10 * plain, rel=1e-3)


@pytest.mark.parametrize("given", [{"adaptive_learning_rate": True}, {"preset": "paper"}])
def test_adaptive_learning_rate_rejects_an_unknown_propensity(given, world):
    reranker = rerankers.custom(1, lambda key, context, candidates: candidates[:1])
    with pytest.raises(ConfigError, match="give adaptive_learning_rate=False"):
        build_learner(settings(**given), world, reranker=reranker)


# Optimizers.


def optimizers() -> list[str]:
    """Whatever optax builds from a learning rate, by name."""
    found = []
    for name in sorted(vars(optax)):
        builder = getattr(optax, name)
        if inspect.isfunction(builder) and not name.startswith("_"):
            parameters = inspect.signature(builder).parameters
            if "learning_rate" in parameters and not name.startswith("scale_by_"):
                found.append(name)
    return found


COMMON = ("adagrad", "adam", "adamw", "lion", "rmsprop", "sgd")
NEEDS_MORE_THAN_A_GRADIENT = ("lbfgs",)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in COMMON else pytest.mark.slow)
        for name in optimizers()
        if name not in NEEDS_MORE_THAN_A_GRADIENT
    ],
)
def test_every_optimizer_of_optax_descends(name):
    optimizer = make_optimizer(TrainConfig(optimizer=name, learning_rate=0.1))
    params = {"a": jnp.ones((3, 2)), "b": jnp.ones(4)}

    @jax.jit
    def step(params, state):
        gradient = jax.tree.map(lambda p: 2 * p, params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(3):
        params, state = step(params, state)
    for leaf in jax.tree.leaves(params):
        assert np.all(np.isfinite(leaf))
        if name != "noisy_sgd":
            assert np.all(np.abs(leaf) < 1)


def test_optimizer_that_needs_more_than_a_gradient_is_rejected(world):
    with pytest.raises(ValueError, match=r"the optimizer, given gradient.* raised TypeError"):
        build_learner(settings(), world, optimizer=optax.lbfgs())


def test_part_of_an_optimizer_is_rejected():
    with pytest.raises(ConfigError, match="optimizer="):
        make_optimizer(TrainConfig(optimizer="scale_by_rprop", learning_rate=0.1))


def test_learning_rate_and_options_reach_optax():
    options = ("b1=0.5", "eps=1e-3", "b2=.9")
    config = TrainConfig(optimizer="adam", learning_rate=0.25, optimizer_options=options)
    ours, theirs = make_optimizer(config), optax.adam(0.25, b1=0.5, b2=0.9, eps=1e-3)
    params, gradient = jnp.ones(3), jnp.array([0.1, -2.0, 0.0])
    for optimizer in (ours, theirs):
        state = optimizer.init(params)
        for scale in (1.0, 0.3):
            updates, state = optimizer.update(scale * gradient, state, params)
        if optimizer is ours:
            first = updates
    assert jnp.array_equal(first, updates)


@pytest.mark.parametrize(
    "name", ["", "adamm", "apply_updates", "chain", "__name__", "clip", "scale_by_adam"]
)
def test_unknown_optimizers_are_rejected(name):
    with pytest.raises(ConfigError, match=r"optimizer=.*; expected an optimizer of optax"):
        make_optimizer(TrainConfig(optimizer=name, learning_rate=0.1))


@pytest.mark.parametrize(
    "option", ["b1", "b1=", "b1=high", "=1", "beta=0.9", "learning_rate=1", "b1=0.1=2"]
)
def test_bad_optimizer_options_are_rejected(option):
    with pytest.raises(ConfigError, match=r"optimizer_options holds .*b1, b2, eps"):
        make_optimizer(
            TrainConfig(optimizer="adam", learning_rate=0.1, optimizer_options=(option,))
        )


# Found by a reviewer: components of another kind.


def test_environment_without_pytree_registration_is_rejected(world):
    class Plain(Environment):
        num_contexts, num_items = 2, 5

        def mean_rewards(self, context, items):
            return jnp.zeros(items.shape)

        sample_rewards = mean_rewards

    with pytest.raises(
        TypeError, match=r"class Plain is not registered as a pytree.*struct\.dataclass"
    ):
        build_learner(settings(), Plain())


@pytest.mark.parametrize("given", [lambda p, c: c, (1, 2), object()])
def test_encoder_of_another_type_is_rejected(world, given):
    with pytest.raises(
        TypeError, match=r"encoder is a .*from_linen\(module\).*Encoder\(init, apply\)"
    ):
        inspect.unwrap(build_learner)(settings(), world, encoder=given)


def test_advantage_of_another_type_is_rejected(world):
    with pytest.raises(TypeError, match=r"advantage is a function.*Advantage\(init, apply\)"):
        inspect.unwrap(build_learner)(settings(), world, advantage=lambda rewards: rewards)


@pytest.mark.parametrize(
    ("optimizer", "options", "message"),
    [
        ("adam", ("b1=nan",), "b1=nan"),
        ("adam", ("b1=0.9", "b1=0.8"), "gives b1 twice"),
        ("lbfgs", (), "optimizer='lbfgs'"),
    ],
)
def test_impossible_optimizers_are_rejected(optimizer, options, message):
    config = settings(optimizer=optimizer, optimizer_options=options).resolve()
    with pytest.raises(ConfigError, match=message):
        make_optimizer(config)
