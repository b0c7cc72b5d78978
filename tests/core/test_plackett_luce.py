"""Sampling and log-probabilities of the policy, against enumeration."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import oracle
from hypothesis import given
from hypothesis import strategies as st

import rankpg
from rankpg.core.sampling import greedy_order

INF = np.inf
LEVEL = 1e-4  # of every chi-square test; the keys are fixed, so a pass today is a pass tomorrow


def normal(seed: int, experts: int, items: int, sd: float = 1.0) -> np.ndarray:
    return sd * np.random.default_rng(seed).normal(size=(experts, items))


def masked(logits: np.ndarray, *places: tuple[int, int]) -> np.ndarray:
    logits = logits.copy()
    for expert, item in places:
        logits[expert, item] = -INF
    return logits


POLICIES = {
    "one expert": (normal(0, 1, 5), (3,)),
    "one expert, peaked": (normal(1, 1, 5, sd=4), (3,)),
    "one expert, masked": (masked(normal(2, 1, 5), (0, 1)), (3,)),
    "one expert, all items": (normal(3, 1, 4), (4,)),
    "one expert, ties": (np.zeros((1, 5)), (2,)),
    "two experts": (normal(4, 2, 5), (2, 1)),
    "two experts, peaked": (normal(5, 2, 5, sd=4), (2, 1)),
    "two experts, masked apart": (masked(normal(6, 2, 5), (0, 1), (1, 3)), (2, 1)),
    "two experts, the first idle": (normal(7, 2, 5), (0, 2)),
    "three experts": (normal(8, 3, 6), (2, 1, 2)),
    "three experts, the middle one idle": (normal(9, 3, 4), (1, 0, 1)),
    "three experts, masked, peaked": (masked(normal(10, 3, 5, sd=4), (0, 2), (1, 2)), (1, 1, 1)),
}
by_policy = pytest.mark.parametrize(
    ("logits", "quotas"), [pytest.param(*policy, id=name) for name, policy in POLICIES.items()]
)


# --- sampling ---------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=(2, 3))
def draw(key, logits, quotas, num_draws):
    keys = jax.random.split(key, num_draws)
    return jax.vmap(lambda k: rankpg.sample_candidates(k, logits, quotas))(keys)


def draws_needed(logits, quotas) -> int:
    """Enough to notice a temperature that is off by 10 %, at least 20000."""
    _, expected = oracle.probabilities(logits, quotas)
    _, warmer = oracle.probabilities(logits / 1.1, quotas)
    return max(20_000, oracle.draws_for_power(expected, warmer, LEVEL))


def p_value(drawn, logits, quotas) -> float:
    _, expected = oracle.probabilities(logits, quotas)
    return oracle.chi_square_p_value(np.asarray(drawn), logits.shape[1], expected)


@by_policy
def test_drawn_tuples_have_the_probabilities_of_the_policy(key, logits, quotas):
    num_draws = draws_needed(logits, quotas) if logits.any() else 50_000
    drawn = draw(key, jnp.asarray(logits, jnp.float32), quotas, num_draws)
    assert drawn.dtype == jnp.int32
    assert drawn.shape == (num_draws, sum(quotas))
    assert p_value(drawn, logits, quotas) > LEVEL


def gumbel(key, shape) -> np.ndarray:
    return np.asarray(jax.random.gumbel(key, shape, jnp.float64))


def with_replacement(key, logits, num_draws):
    noise = gumbel(key, (num_draws, 3, logits.shape[1]))
    return np.argmax(logits[0] + noise, axis=-1)


def without_repeats(drawn):
    return drawn[[len(set(row)) == len(row) for row in drawn.tolist()]]


def gumbel_top_k(key, logits, num_draws, temperature=1.0):
    noise = gumbel(key, (num_draws, logits.shape[1]))
    return np.argsort(-(logits[0] / temperature + noise), axis=-1)[:, :3]


WRONG_SAMPLERS = {
    "with replacement": with_replacement,
    "with replacement, repeats thrown away": lambda *a: without_repeats(with_replacement(*a)),
    "the first two swapped": lambda *a: gumbel_top_k(*a)[:, [1, 0, 2]],
    "ten per cent too cold": lambda *a: gumbel_top_k(*a, temperature=1 / 1.1),
    "ten per cent too warm": lambda *a: gumbel_top_k(*a, temperature=1.1),
}


@pytest.mark.parametrize("sampler", WRONG_SAMPLERS.values(), ids=WRONG_SAMPLERS.keys())
def test_the_chi_square_rejects_a_wrong_sampler(key, sampler):
    logits, quotas = POLICIES["one expert"]
    drawn = sampler(key, logits, draws_needed(logits, quotas))
    assert p_value(drawn, logits, quotas) < LEVEL


def test_the_chi_square_accepts_a_right_sampler(key):
    logits, quotas = POLICIES["one expert"]
    drawn = gumbel_top_k(key, logits, draws_needed(logits, quotas))
    assert p_value(drawn, logits, quotas) > LEVEL


def test_the_chi_square_rejects_experts_that_share_their_noise(key):
    logits, quotas = POLICIES["two experts"]
    noise = gumbel(key, (draws_needed(logits, quotas), 1, 5))
    perturbed = logits + noise
    first = np.argsort(-perturbed[:, 0], axis=-1)[:, :2]
    np.put_along_axis(perturbed[:, 1], first, -INF, axis=-1)
    second = np.argmax(perturbed[:, 1], axis=-1)
    assert p_value(np.column_stack([first, second]), logits, quotas) < LEVEL


def test_the_chi_square_rejects_another_order_of_the_experts(key):
    logits, quotas = POLICIES["two experts"]
    num_draws = draws_needed(logits, quotas)
    other = draw(key, jnp.asarray(logits[::-1], jnp.float32), quotas, num_draws)
    assert p_value(other, logits, quotas) < LEVEL


def test_a_key_determines_the_draw(key):
    logits = jnp.asarray(normal(0, 2, 50), jnp.float32)
    sample = jax.jit(rankpg.sample_candidates, static_argnums=2)
    first = sample(key, logits, (3, 2))
    np.testing.assert_array_equal(first, sample(key, logits, (3, 2)))
    other = sample(jax.random.fold_in(key, 1), logits, (3, 2))
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("shift", [0.0, 1e4, -1e4])
def test_extreme_logits_decide_the_draw(key, shift):
    """Gaps of 1e4 leave nothing to chance, wherever the logits lie."""
    ranks = np.array([[3, 0, 4, 1, 2]])
    logits = jnp.asarray(-1e4 * ranks + shift, jnp.float32)
    drawn = draw(key, logits, (3,), 100)
    np.testing.assert_array_equal(drawn, np.tile(np.argsort(ranks[0])[:3], (100, 1)))


def test_masked_items_are_never_drawn(key):
    logits = jnp.where(jnp.arange(6) % 2 == 0, 0.0, -jnp.inf).astype(jnp.float32)[None]
    drawn = np.asarray(draw(key, logits, (3,), 500))  # exactly as many eligible items as slots
    np.testing.assert_array_equal(np.sort(drawn, axis=1), np.tile([0, 2, 4], (500, 1)))


def test_bfloat16_logits_are_drawn_like_their_float32_values(key):
    """The noise is float32: on bfloat16's grid of 8 bits nearly all draws would be ties."""
    logits = jnp.asarray(normal(0, 1, 5), jnp.bfloat16)
    drawn = draw(key, logits, (3,), 40_000)
    assert p_value(drawn, np.asarray(logits, np.float64), (3,)) > LEVEL


# --- greedy -----------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=1)
def greedy_batch(logits, quotas):
    return jax.vmap(lambda one: rankpg.greedy_candidates(one, quotas))(logits)


GREEDY = {
    # each expert wants the items its predecessors took, and falls back on its next best
    "a cascade of picks": ([[4, 3, 2, 1, 0], [4, 3, 2, 1, 0], [4, 3, 2, 1, 0]], (2, 1, 2)),
    "ties go to the lower id": ([[1, 1, 1, 1, 1], [1, 1, 1, 1, 1]], (2, 2)),
    "ties with an item that is taken": ([[0, 2, 2, 0, 0], [0, 2, 2, 2, 0]], (1, 3)),
    "the first expert idle": ([[9, 0, 0, 0, 0], [0, 1, 2, 3, 4]], (0, 2)),
    "a mask in one expert only": ([[-INF, 1, 0, 0, 0], [5, 4, 3, 2, 1]], (1, 2)),
    "far apart": ([[1e4, -1e4, 0, 1e3, -1e3]], (5,)),
}


@pytest.mark.parametrize(("logits", "quotas"), GREEDY.values(), ids=GREEDY.keys())
def test_greedy_candidates_by_hand(logits, quotas):
    logits = np.array(logits, float)
    found = greedy_batch(jnp.asarray(logits, jnp.float32)[None], quotas)
    assert found.dtype == jnp.int32
    assert found.tolist() == [oracle.greedy_candidates(logits, quotas)]


@pytest.mark.parametrize("quotas", [(4,), (2, 2), (1, 0, 3)])
def test_greedy_candidates_of_many_policies_with_ties(quotas):
    random = np.random.default_rng(0)
    logits = random.integers(0, 4, size=(300, len(quotas), 6)).astype(float)
    logits[:150, -1, random.integers(0, 6, 150)] = -INF
    found = greedy_batch(jnp.asarray(logits), quotas)
    assert found.tolist() == [oracle.greedy_candidates(one, quotas) for one in logits]


# --- log-probabilities ------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=(2,), static_argnames=("function",))
def log_probs(logits, chosen, quotas, function=rankpg.log_prob):
    """Value and gradient for every tuple."""
    one = jax.value_and_grad(lambda f, s: function(f, s, quotas))
    return jax.vmap(one, (None, 0))(logits, chosen)


def enumerated(logits, quotas, dtype=jnp.float64, function=rankpg.log_prob):
    chosen = oracle.tuples(logits.shape[1], sum(quotas))
    found = log_probs(
        jnp.asarray(logits, dtype), jnp.asarray(chosen, jnp.int32), quotas, function=function
    )
    return chosen, np.asarray(found[0]), np.asarray(found[1], np.float64)


@by_policy
def test_log_prob(logits, quotas):
    chosen, values, gradients = enumerated(logits, quotas)
    np.testing.assert_allclose(values, oracle.log_probs(logits, quotas, chosen), rtol=1e-12)
    possible = np.isfinite(values)
    truth = oracle.log_prob_gradients(logits, quotas, chosen)
    np.testing.assert_allclose(gradients[possible], truth[possible], atol=1e-12)
    assert np.isfinite(gradients).all()
    p = np.exp(values)
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-12)
    np.testing.assert_allclose(np.einsum("p,pmn->mn", p, gradients), 0, atol=1e-12)


@pytest.mark.parametrize("name", ["one expert, masked", "two experts, peaked", "three experts"])
def test_log_prob_swr(name):
    logits, quotas = POLICIES[name]
    chosen, values, gradients = enumerated(logits, quotas, function=rankpg.log_prob_swr)
    some = np.random.default_rng(0).choice(len(chosen), size=min(60, len(chosen)), replace=False)
    for s in some:
        truth = oracle.swr_log_prob(logits, quotas, chosen[s])
        np.testing.assert_allclose(values[s], truth, rtol=1e-12)
        if np.isfinite(truth):
            truth = oracle.swr_log_prob_gradient(logits, quotas, chosen[s])
            np.testing.assert_allclose(gradients[s], truth, atol=1e-12)
    assert np.isfinite(gradients).all()


@pytest.mark.parametrize("function", [rankpg.log_prob, rankpg.log_prob_swr])
def test_one_slot_is_the_log_softmax(function):
    logits = normal(0, 1, 7, sd=3)
    chosen, values, _ = enumerated(logits, (1,), function=function)
    np.testing.assert_allclose(values, np.log(oracle.softmax(logits))[0, chosen[:, 0]], rtol=1e-12)


def test_equal_logits_have_equal_probabilities():
    """1 / (5 * 4) for an ordered pair out of five, 1 / 5^2 with replacement."""
    _, values, _ = enumerated(np.full((1, 5), 7.0), (2,))
    np.testing.assert_allclose(values, -np.log(5 * 4), rtol=1e-12)
    _, values, _ = enumerated(np.full((1, 5), 7.0), (2,), function=rankpg.log_prob_swr)
    np.testing.assert_allclose(values, -2 * np.log(5), rtol=1e-12)


EXTREMES = {
    "high": [[1e4, 1e4 - 1, 1e4 + 1, 1e4, 1e4 - 2]],
    "low": [[-1e4, -1e4 - 1, -1e4 + 1, -1e4, -1e4 - 2]],
    "one high": [[0, 1e4, 0, 1, 2]],
    "one low": [[0, -1e4, 0, 1, 2]],
    "far apart": [[1e4, -1e4, 0, 5e3, -5e3]],
    "masked": [[-INF, 1e4, 0, -1e4, 3]],
    "nearly all masked": [[-INF, 0, 1e4, -1e4, -INF]],
    "ties": [[0, 0, 0, 0, 0]],
    "ties, high and low": [[1e4, 1e4, 1e4, -1e4, -1e4]],
}
RELATIVE = {jnp.float64: 1e-15, jnp.float32: 1e-6, jnp.bfloat16: 1e-6}
"""Of the largest logit. bfloat16 is exact as an input here: the logits are rounded first, and
the sums are float32."""


def slow(*case):
    return pytest.param(*case, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("function", "dtype"),
    [
        *((rankpg.log_prob, dtype) for dtype in RELATIVE),
        (rankpg.log_prob_swr, jnp.float32),
        *(slow(rankpg.log_prob_swr, dtype) for dtype in (jnp.float64, jnp.bfloat16)),
    ],
)
def test_extreme_logits_have_finite_values_and_gradients(dtype, function):
    for name, logits in EXTREMES.items():
        rounded = np.asarray(jnp.asarray(logits, dtype), np.float64)
        chosen, values, gradients = enumerated(rounded, (3,), dtype, function)
        if function is rankpg.log_prob:
            truth = oracle.log_probs(rounded, (3,), chosen)
        else:
            truth = np.array([oracle.swr_log_prob(rounded, (3,), s) for s in chosen])
        np.testing.assert_array_equal(np.isfinite(values), np.isfinite(truth), err_msg=name)
        near = RELATIVE[dtype] * max(1, np.max(np.abs(rounded[np.isfinite(rounded)])))
        np.testing.assert_allclose(values, truth, rtol=0, atol=near, err_msg=name)
        assert np.isfinite(gradients).all(), name
        assert (gradients[:, ~np.isfinite(rounded)] == 0).all(), name


def test_a_peaked_policy_in_float32():
    """The case that `A + log1p(-exp(B - A) + 1e-10)` gets wrong: the picks hold all the weight."""
    logits = np.array([[40.0, 35.0, 30.0, 0.0, -5.0]])
    chosen, values, gradients = enumerated(logits, (3,), jnp.float32)
    np.testing.assert_allclose(values, oracle.log_probs(logits, (3,), chosen), rtol=1e-5, atol=1e-6)
    truth = oracle.log_prob_gradients(logits, (3,), chosen)
    np.testing.assert_allclose(gradients, truth, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_the_dtype_of_the_output_is_the_dtype_of_the_logits(dtype):
    logits, candidates = jnp.zeros((1, 4), dtype), jnp.array([0, 2], jnp.int32)
    for function in (rankpg.log_prob, rankpg.log_prob_swr):
        value, gradient = jax.eval_shape(
            lambda f, function=function: jax.value_and_grad(function)(f, candidates, (2,)), logits
        )
        assert value.dtype == gradient.dtype == dtype


# --- invariants -------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=2)
def both_log_probs(logits, candidates, quotas):
    return jnp.stack(
        [f(logits, candidates, quotas) for f in (rankpg.log_prob, rankpg.log_prob_swr)]
    )


finite_logits = st.lists(st.floats(-30, 30, width=32), min_size=12, max_size=12)


@given(values=finite_logits, order=st.permutations(range(6)), shift=st.floats(-100, 100))
def test_log_prob_invariants(values, order, shift):
    """A shift of an expert's logits changes nothing; a renaming of the items renames them."""
    logits = np.array(values).reshape(2, 6)
    candidates = jnp.asarray(order[:3], jnp.int32)
    here = both_log_probs(jnp.asarray(logits), candidates, (2, 1))
    assert (np.asarray(here) <= 1e-12).all()
    shifted = logits + np.array([[shift], [-2 * shift]])
    np.testing.assert_allclose(
        both_log_probs(jnp.asarray(shifted), candidates, (2, 1)), here, rtol=1e-9, atol=1e-9
    )
    renamed = jnp.asarray(np.argsort(order)[np.asarray(candidates)], jnp.int32)
    np.testing.assert_allclose(
        both_log_probs(jnp.asarray(logits[:, order]), renamed, (2, 1)), here, rtol=1e-9, atol=1e-9
    )


def test_greedy_candidates_are_the_likeliest_tuple_of_one_expert():
    logits, quotas = POLICIES["one expert, peaked"]
    chosen, p = oracle.probabilities(logits, quotas)
    found = rankpg.greedy_candidates(jnp.asarray(logits), quotas)
    np.testing.assert_array_equal(found, chosen[np.argmax(p)])


@pytest.mark.slow
def test_eager_jit_and_vmap_agree(key, keys):
    logits, quotas = jnp.asarray(normal(0, 2, 6)), (2, 1)
    eager = rankpg.sample_candidates(key, logits, quotas)
    batch = keys(3).at[1].set(key)
    drawn = jax.jit(jax.vmap(lambda k: rankpg.sample_candidates(k, logits, quotas)))(batch)
    np.testing.assert_array_equal(drawn[1], eager)
    one = rankpg.log_prob(logits, eager, quotas)
    many = jax.jit(jax.vmap(lambda s: rankpg.log_prob(logits, s, quotas)))(drawn)
    np.testing.assert_allclose(many[1], one, rtol=1e-12)


def test_one_trace_serves_all_values(keys):
    traces = []

    @functools.partial(jax.jit, static_argnames="quotas")
    def step(key, logits, quotas):
        traces.append(quotas)
        candidates = rankpg.sample_candidates(key, logits, quotas)
        return rankpg.log_prob(logits, candidates, quotas)

    for seed, key in enumerate(keys(4)):
        step(key, jnp.asarray(normal(seed, 2, 6), jnp.float32), quotas=(2, 1))
    assert traces == [(2, 1)]


@pytest.mark.parametrize(
    ("slots", "experts", "quotas"),
    [(10, 1, (10,)), (10, 4, (3, 3, 2, 2)), (3, 3, (1, 1, 1)), (2, 3, (1, 1, 0)), (1, 1, (1,))],
)
def test_expert_quotas(slots, experts, quotas):
    assert rankpg.expert_quotas(slots, experts) == quotas


@pytest.mark.parametrize(("num_items", "depth"), [(1000, 11), (997, 6), (333, 5), (40, 20)])
@pytest.mark.parametrize("kind", ["distinct", "many ties", "all alike", "nearly all masked"])
def test_the_greedy_order_of_blocks_is_that_of_the_whole_row(num_items, depth, kind):
    """Ties go to the lower id, across blocks too."""
    random = np.random.default_rng(num_items)
    logits = {
        "distinct": random.normal(size=(2, num_items)),
        "many ties": random.integers(0, 3, (2, num_items)).astype(float),
        "all alike": np.zeros((2, num_items)),
        "nearly all masked": np.where(random.random((2, num_items)) < 0.98, -np.inf, 1.0),
    }[kind]
    expected = np.argsort(-logits, axis=1, kind="stable")[:, :depth]
    np.testing.assert_array_equal(greedy_order(jnp.asarray(logits), depth), expected)
