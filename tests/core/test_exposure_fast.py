"""Two approximations of exposure: their formulas, their limits, and their distance from the truth."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.policies import INF, slow
from scipy import optimize, stats

from rankpg.core.exposure import exposure_exact
from rankpg.core.exposure_fast import (
    _log_poisson,
    _log_poisson_cdf,
    log_exposure_independent,
    log_exposure_poisson,
    log_position_exposure_independent,
    log_position_exposure_poisson,
)

FORMS = {
    "independent": (log_position_exposure_independent, log_exposure_independent),
    "poisson": (log_position_exposure_poisson, log_exposure_poisson),
}
by_form = pytest.mark.parametrize("form", FORMS)


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def both(form, f, scores, items, *arguments):
    """Log-probabilities by position, and of being shown."""
    position, shown = FORMS[form]
    return position(f, scores, items, *arguments), shown(f, scores, items, *arguments)


def catalogue(items: int, sd: float, correlation: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Normal logits, and scores that are noise plus some of the logits."""
    random = np.random.default_rng(0)
    f = sd * random.normal(size=items)
    return f, random.normal(size=items) + correlation * f


def everything(items: int) -> jax.Array:
    return jnp.arange(items, dtype=jnp.int32)


def with_replacement(f: np.ndarray, slots: int) -> np.ndarray:
    return 1 - (1 - np.exp(f) / np.exp(f).sum()) ** slots


def by_expected_arrivals(f: np.ndarray, slots: int) -> np.ndarray:
    """1 - exp(-w t) with t such that they sum to K."""
    arrived = lambda s: -np.expm1(-np.exp(f + s))  # noqa: E731
    return arrived(optimize.brentq(lambda s: arrived(s).sum() - slots, -50, 50, xtol=1e-14))


def in_loops(f, scores, slots, length, form) -> np.ndarray:
    """The definitions, item by item."""
    inclusion = {"poisson": with_replacement, "independent": by_expected_arrivals}[form](f, slots)
    total = np.zeros((length, len(f)))
    for a in range(len(f)):
        better = [
            inclusion[b]
            for b in range(len(f))
            if scores[b] > scores[a] or (scores[b] == scores[a] and b < a)
        ]
        if form == "poisson":
            count = stats.poisson.pmf(np.arange(length), sum(better))
        else:
            count = np.ones(1)
            for p in better:
                count = np.convolve(count, [1 - p, p])
            count = np.pad(count, (0, length))[:length]
        total[:, a] = inclusion[a] * count
    return total


@by_form
@pytest.mark.parametrize(("dtype", "error"), [(jnp.float64, 1e-9), slow(jnp.float32, 1e-4)])
def test_formulas(form, dtype, error):
    """70 items, more than one block, with ties of the scores."""
    f, scores = catalogue(70, 2.0)
    scores = np.round(scores)
    truth = in_loops(f, scores, 6, 4, form)
    arguments = jnp.asarray(f, dtype), jnp.asarray(scores, dtype), everything(70), 6, 4
    found, shown = both(form, *arguments)
    assert found.dtype == shown.dtype == dtype
    np.testing.assert_allclose(np.exp(found), truth, rtol=error, atol=1e-12)
    np.testing.assert_allclose(np.exp(shown), truth.sum(axis=0), rtol=error)
    some = jnp.array([60, 3], jnp.int32)
    np.testing.assert_allclose(both(form, *arguments[:2], some, 6, 4)[0], found[:, some], rtol=1e-6)


@pytest.mark.parametrize("form", ["independent", slow("poisson")])
def test_gradient_agrees_with_differences(form):
    f, scores = catalogue(12, 1.5)
    items, step = jnp.array([1, 5, 9], jnp.int32), 1e-6

    @jax.jit
    def value(f):
        position, shown = both(form, f, jnp.asarray(scores), items, 4, 3)
        return jnp.sum(position[:2]) + jnp.sum(shown)

    found = np.asarray(jax.jit(jax.grad(value))(jnp.asarray(f)))
    shifted = f + step * np.concatenate([np.eye(12), -np.eye(12)])
    up, down = np.asarray(jax.lax.map(value, jnp.asarray(shifted))).reshape(2, 12)
    np.testing.assert_allclose(found, (up - down) / (2 * step), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("inclusion", ["swr", slow("sum")])
def test_the_best_item_is_shown_if_it_is_a_candidate(inclusion):
    f, scores = catalogue(30, 2.0)
    best = int(np.argmax(scores))
    share = np.exp(f) / np.exp(f).sum()
    expected = {"swr": with_replacement(f, 5), "sum": 5 * share}[inclusion][best]
    function = jax.jit(
        lambda f, s, a: (
            log_position_exposure_poisson(f, s, a, 5, 2, inclusion),
            log_exposure_poisson(f, s, a, 5, 2, inclusion),
        )
    )
    items = jnp.asarray([best], jnp.int32)
    (first, second), shown = function(jnp.asarray(f), jnp.asarray(scores), items)
    np.testing.assert_allclose(np.exp([first[0], shown[0]]), expected, rtol=1e-9)
    assert second[0] == -INF


@pytest.mark.slow
@by_form
def test_exposure_falls_with_the_rank_and_grows_with_the_length(form):
    f, scores = jnp.zeros(40), jnp.arange(40.0)
    few, more = (both(form, f, scores, everything(40), 8, length)[1] for length in (2, 4))
    assert np.all(np.diff(few)[:-1] > 0)  # the scores ascend
    assert np.diff(few)[-1] >= 0  # of two items both are shown, if they are candidates
    assert np.all(more[:-2] > few[:-2])


# --- distance from the truth ------------------------------------------------------------------------------


def largest_error(form: str, sd: float) -> float:
    """Largest |P' - P| over items and positions: N = 120, K = 15, L = 4."""
    f, scores = (jnp.asarray(x) for x in catalogue(120, sd))
    exact = TRUTH(f, scores, 15, 4)
    return float(np.max(np.abs(np.exp(both(form, f, scores, everything(120), 15, 4)[0]) - exact)))


TRUTH = jax.jit(exposure_exact, static_argnums=(2, 3))


def test_errors_are_small_where_they_are_said_to_be():
    assert largest_error("poisson", 0.5) < 0.04
    assert largest_error("poisson", 3.0) > 0.2  # not for a peaked policy
    for sd in (0.5, 3.0):
        assert largest_error("independent", sd) < 0.04


# --- extremes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "dtype"),
    [("poisson", jnp.float32), *(slow("independent", t) for t in (jnp.float32, jnp.float64))],
)
def test_extremes_are_finite(form, dtype):
    """Masks, ties, certainty and weights without a float; 300 items, the worst below all others."""
    worst = np.full((7, 300), 0.0)
    worst[1] = 1e4
    worst[2, :5] = 1e4
    worst[3, 290:] = 1e4
    worst[4, 10:] = -INF
    worst[5, ::2] = -1e4
    worst[6, 5:] = -INF  # fewer eligible items than K
    items = jnp.array([0, 4, 150, 299], jnp.int32)
    scores = jnp.arange(300, dtype=dtype)

    def total(f):
        position, shown = both(form, f, scores, items, 10, 3)
        return jnp.sum(jnp.where(jnp.isneginf(shown), 0, shown)), (position, shown)

    compiled = jax.jit(jax.vmap(jax.value_and_grad(total, has_aux=True)))
    (_, (position, shown)), gradient = compiled(jnp.asarray(worst, dtype))
    assert np.isfinite(gradient).all()
    assert not np.isnan(position).any()
    assert np.all(np.asarray(shown) <= 1e-5)
    masked = np.isneginf(worst[:, np.asarray(items)])
    assert np.isneginf(np.asarray(shown)[masked]).all()
    assert np.isfinite(np.asarray(shown)[[0, 1]]).all()


def test_independent_items_of_a_list_without_a_choice():
    """Three eligible items and K = 3: all are candidates, and the list is certain."""
    f = jnp.array([0.0, -INF, 3.0, -30.0])
    found = both("independent", f, jnp.arange(4.0), everything(4), 3, 2)[0]
    np.testing.assert_allclose(np.exp(found), np.eye(4)[[3, 2]], atol=1e-12)


def test_poisson_probabilities_of_any_mean():
    mean = np.array([0.0, 1e-300, 1e-3, 1.0, 4.0, 100.0, 1e4])
    log_mean = jnp.log(jnp.asarray(mean))
    expected = stats.poisson.logpmf(np.arange(5)[:, None], mean)
    np.testing.assert_allclose(_log_poisson(log_mean, 5), expected, rtol=1e-9, atol=1e-12)
    value, slope = jax.jvp(lambda x: _log_poisson_cdf(x, 5), (log_mean,), (jnp.ones(7),))
    np.testing.assert_allclose(value[:6], stats.poisson.logcdf(4, mean[:6]), rtol=1e-9, atol=1e-12)
    assert value[6] == pytest.approx(expected[4, 6], rel=1e-6)  # all but the last are negligible
    expected = -mean * np.exp(expected[4] - value)
    np.testing.assert_allclose(slope, expected, rtol=1e-9, atol=1e-12)


# --- validation -------------------------------------------------------------------------------------------

FIVE = np.ones(5, np.float32)
BAD = {  # name: arguments, patterns of the message
    "items": ((FIVE, FIVE, np.array([5]), 2, 1), ["items contains the item 5"]),
    "items of floats": ((FIVE, FIVE, np.ones(1), 2, 1), ["items has dtype float64"]),
    "one item": ((FIVE, FIVE, np.int32(1), 2, 1), [r"items has shape \(\)"]),
    "L above K": ((FIVE, FIVE, np.array([1]), 2, 3), ["ranking_length=3", "num_candidates=2"]),
    "scores": ((FIVE, FIVE[:4], np.array([1]), 2, 1), [r"scores has shape \(4,\)"]),
    "form": ((FIVE, FIVE, np.array([1]), 2, 1, "greedy"), ["inclusion='greedy'", "swr, sum"]),
}


@pytest.mark.parametrize(("given", "words"), BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize(
    "function",
    [
        log_exposure_independent,
        log_exposure_poisson,
        log_position_exposure_independent,
        log_position_exposure_poisson,
    ],
)
def test_bad_arguments_are_rejected(function, given, words):
    if len(given) == 6 and "independent" in function.__name__:
        pytest.skip("it has one form")
    jaxtyping = pytest.importorskip("jaxtyping")
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are matched below
            function(*given)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    for word in words:
        assert caught.match(word)
