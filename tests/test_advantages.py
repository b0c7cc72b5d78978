"""Position weights and advantages against loops in numpy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import oracle
from jax import lax

from rankpg import advantages
from rankpg.encoders import IdTower, from_nnx

ENABLE_X64 = False

pytestmark = pytest.mark.usefixtures("standard_promotion")  # for optimizers of optax

CONTEXTS = jnp.array([2, 2, 0, 0, 2, 2], jnp.int32)  # the third pair is of a context seen before
REWARDS = np.random.default_rng(0).normal(2, 1, (6, 3)).astype(np.float32)


def apply(transform, values=REWARDS, contexts=CONTEXTS):
    state = transform.init(jax.random.key(0))
    return np.asarray(transform.apply(state, contexts, jnp.asarray(values))[0])


# alpha


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("uniform", [1, 1, 1]),
        ("dcg", [1 / np.log2(2), 1 / np.log2(3), 1 / np.log2(4)]),
        ("1,0.5,0", [1, 0.5, 0]),
        ("3, 2e-1 ,.1", [3, 0.2, 0.1]),
    ],
)
def test_position_weights(weights, expected):
    np.testing.assert_allclose(advantages.position_weights(weights, 3), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "weights", ["ndcg", "", "1,2", "1,2,3,4", "1,-2,3", "1,nan,3", "1,inf,3", "1;2;3", "0,0,0"]
)
def test_invalid_position_weights_are_rejected(weights):
    with pytest.raises(ValueError, match=r"position_weights=.* expected uniform, dcg, or L = 3"):
        advantages.position_weights(weights, 3)


# the entropy bonus

LOGITS, QUOTAS = np.array([[0.4, -1.1, 0.9, 0.0, 1.7]]), (2,)


def slopes(function):
    """Gradient by central differences."""
    found = np.zeros_like(LOGITS)
    for place in np.ndindex(*LOGITS.shape):
        step = np.zeros_like(LOGITS)
        step[place] = 1e-5
        found[place] = (function(LOGITS + step) - function(LOGITS - step)) / 2e-5
    return found


def bonus(scores, slots, weight=0.3):
    """The entropy bonus of rewards of 0."""
    scores = jnp.asarray(scores, jnp.float32)[:, None]
    return np.asarray(advantages.entropy_bonus(jnp.zeros_like(scores), scores, weight, slots))[:, 0]


def test_bonus_of_the_set_score_follows_the_entropy_of_the_set():
    chosen, probability = oracle.probabilities(LOGITS, QUOTAS)
    credit = probability * bonus(np.log(probability), slots=2)
    gradient = np.einsum("p,pmn->mn", credit, oracle.log_prob_gradients(LOGITS, QUOTAS, chosen))

    def entropy_by_slot(logits):
        p = oracle.probabilities(logits, QUOTAS)[1]
        return -0.3 * np.sum(p * np.log(p)) / 2

    np.testing.assert_allclose(gradient, slopes(entropy_by_slot), rtol=1e-4, atol=1e-6)
    assert np.abs(gradient).max() > 1e-3


def test_bonus_of_inclusion_follows_the_entropy_of_inclusion():
    p = oracle.inclusion(LOGITS, QUOTAS)
    # Item a is shown with probability P(a) / K, and its score has the gradient grad P(a) / P(a).
    credit = bonus(np.log(p), slots=1) / 2
    gradient = np.einsum("a,amn->mn", credit, oracle.inclusion_gradients(LOGITS, QUOTAS))

    def entropy(logits):
        p = oracle.inclusion(logits, QUOTAS)
        return -0.3 * np.sum(p * np.log(p)) / 2

    np.testing.assert_allclose(gradient, slopes(entropy), rtol=1e-4, atol=1e-6)
    assert np.abs(gradient).max() > 1e-3


def test_bonus_carries_no_gradient():
    ones = jnp.ones((2, 1))
    gradient = jax.grad(lambda s: jnp.sum(advantages.entropy_bonus(ones, s, 0.5, 1)))(-ones)
    assert not np.any(gradient)


# A


def test_identity_returns_the_rewards():
    assert np.array_equal(apply(advantages.identity()), REWARDS)


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("draws", [2, 3, 6])
def test_group_normalises_each_group(draws, shift):
    expected = np.empty_like(REWARDS)
    for start in range(0, 6, draws):
        for position in range(3):
            of = REWARDS[start : start + draws, position].astype(np.float64)
            normal = (of - of.mean()) / of.std()
            expected[start : start + draws, position] = normal - shift * normal.min()
    np.testing.assert_allclose(
        apply(advantages.group(draws, shift=shift)), expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("shift", [False, True])
def test_equal_rewards_of_a_group_have_advantage_zero(shift):
    values = REWARDS.copy()
    values[2:4, 1] = 5.0
    found = apply(advantages.group(2, shift=shift), values)
    assert np.all(found[2:4, 1] == 0)
    assert np.all(np.isfinite(found))
    assert np.all(np.any(found[:2] != 0, axis=0))


@pytest.mark.parametrize(("draws", "value"), [(3, 1.1), (8, 0.3)])
def test_rounding_of_equal_rewards_is_not_a_difference(draws, value):
    values = np.full((draws, 1), value, np.float32)
    contexts = jnp.zeros(draws, jnp.int32)
    assert np.all(apply(advantages.group(draws, shift=False), values, contexts) == 0)


def test_batch_baseline_leaves_one_out():
    expected = np.empty_like(REWARDS)
    for row in range(6):
        others = np.delete(REWARDS, row, axis=0).astype(np.float64)
        expected[row] = REWARDS[row] - others.mean(axis=0)
    np.testing.assert_allclose(apply(advantages.batch_baseline()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_context_baseline_is_the_mean_of_earlier_batches():
    transform = advantages.context_baseline(4, 3)
    state, random = transform.init(jax.random.key(0)), np.random.default_rng(1)
    seen: dict[int, list[np.ndarray]] = {c: [] for c in range(4)}
    for _ in range(4):
        contexts = random.integers(0, 4, 6).astype(np.int32)
        values = random.normal(1, 1, (6, 3)).astype(np.float32)
        found, state = transform.apply(state, jnp.asarray(contexts), jnp.asarray(values))
        expected = [
            value - (np.mean(seen[c], axis=0) if seen[c] else 0)
            for c, value in zip(contexts, values, strict=True)
        ]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        for c, value in zip(contexts, values, strict=True):
            seen[c].append(value)
    assert max(len(of) for of in seen.values()) > 4  # some context came twice in a batch


def test_learned_baseline_converges_from_zero_to_the_means():
    means = np.array([[0.0, 5.0], [3.0, -1.0], [1.0, 1.0]], np.float32)
    network = from_nnx(lambda rngs: IdTower(3, 2, 1, 0.0, rngs=rngs))
    transform = advantages.learned_baseline(network, learning_rate=0.05)

    def step(state, key):
        draw, noise = jax.random.split(key)
        contexts = jax.random.randint(draw, (32,), 0, 3)
        values = jnp.asarray(means)[contexts] + 0.1 * jax.random.normal(noise, (32, 2))
        found, state = transform.apply(state, contexts, values)
        return state, (found, values)

    start = transform.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 600)
    end, (found, values) = jax.jit(lambda s: lax.scan(step, s, keys))(start)
    assert np.array_equal(found[0], values[0])  # a baseline of 0: it has seen nothing yet
    learnt = network.apply(end[0], jnp.arange(3, dtype=jnp.int32))[0]
    np.testing.assert_allclose(learnt, means, atol=0.1)
    assert float(jnp.mean(jnp.abs(found[-1]))) < 0.2


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e20])
def test_group_normalises_at_any_scale(scale):
    """Float32 holds the rewards, but not their squares."""
    transform = advantages.group(2, shift=True)
    two = jnp.asarray([[1.0], [2.0]]) * scale
    found, _ = transform.apply((), jnp.zeros(2, jnp.int32), two)
    np.testing.assert_allclose(found, [[0.0], [2.0]], rtol=1e-5)


def test_batches_that_do_not_fit_are_rejected():
    four, one = jnp.ones((4, 1)), jnp.ones((1, 1))
    with pytest.raises(
        ValueError, match="rewards has 4 rows; expected a multiple of draws_per_context=3"
    ):
        advantages.group(3, shift=False).apply((), jnp.zeros(4, jnp.int32), four)
    with pytest.raises(ValueError, match="a batch baseline needs at least 2"):
        advantages.batch_baseline().apply((), jnp.zeros(1, jnp.int32), one)


# counts and sums after many visits, and outliers


def visited(transform, count, mean):
    """A state in which context 1 was visited many times."""
    state = transform.init(jax.random.key(0))
    return state._replace(
        total=state.total.at[1].set(mean * count),
        visits=state.visits.at[1].set(count),
        size=jnp.float32(1),
    )


@pytest.mark.parametrize("visits", [2**24 - 2, 50_000_000])
def test_context_baseline_is_right_after_many_visits(visits):
    transform, contexts = advantages.context_baseline(3, 1), jnp.array([1, 1, 2, 1], jnp.int32)
    state, apply = visited(transform, visits, 0.25), jax.jit(transform.apply)
    before = float(state.total[1, 0])
    for _ in range(4):
        _, state = apply(state, contexts, jnp.array([[1.0], [0.0], [1.0], [0.0]]))
    assert float(state.total[1, 0]) + float(state.rest[1, 0]) == before + 4
    assert int(state.visits[1, 0]) == visits + 12
    found, _ = apply(state, contexts, jnp.zeros((4, 1)))
    assert float(found[0, 0]) == pytest.approx(-0.25, abs=1e-6)


def test_counts_of_a_baseline_never_overflow():
    transform, contexts = advantages.context_baseline(3, 1), jnp.array([1, 1, 2, 1], jnp.int32)
    state, apply = visited(transform, 2**30 - 1, 0.25), jax.jit(transform.apply)
    _, state = apply(state, contexts, jnp.zeros((4, 1)))
    assert int(state.visits[1, 0]) == 2**29 + 1
    assert float(state.total[1, 0]) == 2**27  # half, so that the mean is the same
    assert int(state.visits[2, 0]) == 1


def test_sums_of_baselines_lose_no_small_reward():
    """0.3 is below the spacing of float32 numbers near 2^24."""
    transform, contexts = advantages.context_baseline(2, 1), jnp.array([1], jnp.int32)
    state, apply = visited(transform, 2**26, 1.0), jax.jit(transform.apply)
    for _ in range(100):
        _, state = apply(state, contexts, jnp.array([[0.3]]))
    more = (float(state.total[1, 0]) - 2.0**26) + float(state.rest[1, 0])
    assert more == pytest.approx(30, rel=1e-5)


@pytest.mark.parametrize("outlier", [1e18, -4e19, 3e38])
def test_baselines_recover_from_an_outlier(outlier):
    contexts = jnp.array([1, 2], jnp.int32)
    network = from_nnx(lambda rngs: IdTower(3, 1, 1, 0.0, rngs=rngs))
    for transform in (advantages.context_baseline(3, 1), advantages.learned_baseline(network)):
        apply, state = jax.jit(transform.apply), transform.init(jax.random.key(0))
        for step in range(400):
            reward = outlier if step == 100 else 1.0
            found, state = apply(state, contexts, jnp.array([[reward], [1.0]]))
        assert abs(float(found[0, 0])) < 3.5  # the mean of context 1 was off by 200 / 400 at most
        assert float(found[1, 0]) == pytest.approx(0, abs=0.5)


def test_rare_rewards_are_not_outliers():
    size, there = jnp.float32(0), jnp.ones((100, 1), bool)
    rewards = jnp.zeros((100, 1)).at[3].set(1.0)
    for values in (jnp.zeros((100, 1)), rewards, rewards, jnp.zeros((100, 1)), 40 * rewards):
        limited, size = advantages.limit_outliers(size, values, there)
        assert np.array_equal(limited, values)
    assert float(size) == 2.0  # it follows by a factor of 2 at most
