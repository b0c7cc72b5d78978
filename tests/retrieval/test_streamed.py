"""Streamed retrieval against dense retrieval: distribution, statistics, and the gradient of every score."""

from __future__ import annotations

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import oracle
from helpers.streaming import Masks, embeddings_of, random_towers
from scipy import stats

from rankpg import TrainConfig, train
from rankpg.core.estimators import ESTIMATORS, Candidates, swaps_of
from rankpg.core.numerics import centre
from rankpg.core.plackett_luce import gather_logits
from rankpg.core.quotas import expert_quotas
from rankpg.core.sampling import greedy_in_turn
from rankpg.encoders import Encoder
from rankpg.environments.from_ratings import from_matrix
from rankpg.retrieval import streamed
from rankpg.retrieval.dense import Dense
from rankpg.retrieval.layout import Layout, layout_for
from rankpg.retrieval.streamed import Streamed
from rankpg.training.build import build_learner
from rankpg.types import Embeddings

LEVEL = 1e-4
STREAMED = [name for name, e in ESTIMATORS.items() if e.statistics != "catalogue"]
NUM_SCORES = {name: 7 if ESTIMATORS[name].by_swaps else 2 for name in STREAMED}


LAYOUTS = {
    "one chunk": Layout(37, 40, 4),
    "a chunk an item": Layout(37, 1, 1),
    "chunks that end with the catalogue": Layout(36, 12, 3),
    "a last chunk that is shorter": Layout(37, 12, 3),
    "wide blocks": Layout(37, 16, 16),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layout_holds_every_item_once(layout):
    every = jnp.arange(layout.num_items, dtype=jnp.int32)
    block, row = layout.block_of(every), layout.row_of(every)
    assert 0 <= int(row.min()) <= int(row.max()) < layout.width
    assert set(np.asarray(block).tolist()) == set(range(layout.num_blocks))
    np.testing.assert_array_equal(layout.start_of(block) + row, every)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_scan_visits_every_row_once_in_order(layout):
    table = jnp.arange(2.0 * layout.num_items).reshape(2, layout.num_items, 1)

    def body(carry, start, rows):
        return carry + jnp.sum(rows), (rows[..., 0], jnp.full((2, 1), start, table.dtype))

    total, (rows, starts) = layout.scan(body, jnp.zeros((), table.dtype), table)
    np.testing.assert_array_equal(rows, table[..., 0])
    np.testing.assert_array_equal(starts[0], range(0, layout.num_items, layout.size))
    assert int(total) == int(table.sum())


@pytest.mark.parametrize("num_items", [1, 2, 31, 32, 33, 1000, 4095, 4097, 10**6])
@pytest.mark.parametrize("depth", [1, 11, 101])
def test_chosen_layout_covers_the_catalogue(num_items, depth):
    layout = layout_for(num_items, min(depth, num_items))
    assert 1 <= layout.width <= num_items
    assert layout.size % layout.width == 0
    assert layout.chunks * layout.size >= num_items


# The law.

POLICIES = {
    "flat": (np.zeros((1, 7)), (3,)),
    "one expert": (np.random.default_rng(0).normal(size=(1, 7)), (3,)),
    "peaked": (10 * np.random.default_rng(1).normal(size=(1, 7)), (3,)),
    "three experts": (np.random.default_rng(2).normal(size=(3, 6)), (1, 1, 2)),
}


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def draws(key, logits, where, quotas, layout, num_draws=60_000):
    """Ordered candidates, a context a draw."""
    batch = 50
    towers = Embeddings(
        contexts=jnp.ones((batch, logits.shape[0], 1), logits.dtype), items=logits[:, :, None]
    )
    contexts = jnp.zeros(batch, jnp.int32)

    def some(key):
        keys = jax.random.split(key, batch)
        given = keys, towers, contexts, Masks(where), quotas, "candidates"
        return Streamed(layout).sample(*given).items

    keys = jax.random.split(key, num_draws // batch)
    return jax.lax.map(some, keys, batch_size=20).reshape(-1, sum(quotas))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [
        pytest.param(
            name, size, marks=() if (name, size) == ("three experts", 4) else pytest.mark.slow
        )
        for name in POLICIES
        for size in (8, 4, 2)
    ],
)
def test_ordered_tuples_have_the_probabilities_of_the_policy(key, name, size):
    logits, quotas = POLICIES[name]
    num_items = logits.shape[1]
    layout = Layout(num_items, size, 2)
    drawn = draws(key, jnp.asarray(logits, jnp.float32), None, quotas, layout)
    _, expected = oracle.probabilities(logits, quotas)
    assert oracle.chi_square_p_value(np.asarray(drawn), num_items, expected) > LEVEL


@pytest.mark.slow
def test_masked_items_are_never_drawn(key):
    logits = np.random.default_rng(3).normal(size=(1, 7))
    eligible = np.array([True, False, True, True, False, True, True])
    masked = np.where(eligible, logits, -np.inf)
    where = jnp.asarray(eligible)[None]
    drawn = draws(key, jnp.asarray(logits, jnp.float32), where, (3,), Layout(7, 4, 2))
    _, expected = oracle.probabilities(masked, (3,))
    assert oracle.chi_square_p_value(np.asarray(drawn), 7, expected) > LEVEL


# The statistics and their gradient.


def dense_sparse_logits(logits, found: Candidates, index):
    """The sparse logits of dense retrieval for the same draw."""
    ids = jnp.concatenate([found.items[index], found.order[index].reshape(-1)])
    return gather_logits(centre(logits[index]), ids)


def dense_score(estimator, towers, where, found: Candidates, quotas, shown):
    """Scores from dense logits and the same draw, differentiable in the towers."""
    logits = jnp.einsum("bmd,mnd->bmn", towers.contexts, towers.items)
    if where is not None:
        logits = jnp.where(where[:, None], logits, -jnp.inf)

    def one(index):
        same = Candidates(
            items=found.items[index],
            sparse_logits=dense_sparse_logits(logits, found, index),
            order=found.order[index],
            perturbed=found.perturbed[index],
            sound=found.sound[index],
        )
        return ESTIMATORS[estimator].score(same, shown[index], quotas)

    return jnp.stack([one(index) for index in range(logits.shape[0])])


CASES = [
    ("one chunk", 1, False),
    ("a last chunk that is shorter", 1, True),
    ("a last chunk that is shorter", 3, True),
    ("wide blocks", 3, False),
    ("a chunk an item", 1, False),
    ("chunks that end with the catalogue", 2, True),
]
CORE = {("a last chunk that is shorter", 1, "ca_pg_swr")}


def cases():
    """Every estimator in every case, most of them slow: two compilations each."""
    for layout, experts, masked in CASES:
        for estimator in STREAMED:
            if experts > (ESTIMATORS[estimator].max_experts or experts):
                continue
            core = (layout, experts, estimator) in CORE
            marks = () if core else pytest.mark.slow
            yield pytest.param(layout, experts, masked, estimator, marks=marks)


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "experts", "masked", "estimator"), [*cases()])
def test_scores_and_gradients_equal_dense(key, estimator, layout, experts, masked):
    layout, batch, quotas = LAYOUTS[layout], 3, expert_quotas(7, experts)
    towers = random_towers(1, batch, experts, layout.num_items, 4, scale=2.0)
    where = np.random.default_rng(2).random((batch, layout.num_items)) < 0.7
    where = jnp.asarray(where) if masked else None
    contexts = jnp.arange(batch, dtype=jnp.int32)
    weights = jnp.asarray(np.random.default_rng(3).normal(size=(batch, NUM_SCORES[estimator])))

    def streamed(towers):
        found = Streamed(layout).sample(
            jax.random.split(key, batch), towers, contexts, Masks(where), quotas,
            ESTIMATORS[estimator].statistics,
        )  # fmt: skip
        shown = found.items[:, jnp.array([0, 5])]
        scores = jax.vmap(lambda c, s: ESTIMATORS[estimator].score(c, s, quotas))(found, shown)
        return jnp.sum(weights * scores), (scores, found, shown)

    gradient, (scores, found, shown) = jax.jit(jax.grad(streamed, has_aux=True))(towers)

    def dense(towers):
        expected = dense_score(estimator, towers, where, found, quotas, shown)
        return jnp.sum(weights * expected), expected

    wanted, expected = jax.jit(jax.grad(dense, has_aux=True))(towers)
    np.testing.assert_allclose(scores, expected, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(gradient.items, wanted.items, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(gradient.contexts, wanted.contexts, rtol=1e-8, atol=1e-12)
    assert bool(jnp.all(found.sound))


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_greedy_order_equals_dense(key, layout):
    towers = random_towers(4, 3, 2, layout.num_items, 4)
    found = jax.jit(
        lambda: Streamed(layout).sample(
            jax.random.split(key, 3),
            towers,
            jnp.arange(3, dtype=jnp.int32),
            Masks(None),
            (3, 2),
            "greedy",
        )
    )()
    logits = jnp.einsum("bmd,mnd->bmn", towers.contexts, towers.items)
    for index in range(3):
        np.testing.assert_array_equal(found.order[index], greedy_in_turn(logits[index], (3, 2)))


@pytest.mark.slow
@pytest.mark.parametrize("shift", [1e4, -1e4])
def test_draw_does_not_depend_on_a_shift_of_the_logits(key, shift):
    """Float32: the same draw, and the same scores to rounding, as without the shift."""
    logits = np.random.default_rng(5).normal(size=(2, 1, 37)).round(2)

    def draw(by):
        towers = embeddings_of(jnp.asarray(logits + by, jnp.float32))
        found = Streamed(Layout(37, 12, 3)).sample(
            jax.random.split(key, 2), towers, jnp.arange(2, dtype=jnp.int32), Masks(None), (4,), "candidates"
        )  # fmt: skip
        return found.items, found.sparse_logits.log_rest

    (items, rest), (moved, moved_rest) = jax.jit(draw)(0.0), jax.jit(draw)(shift)
    np.testing.assert_array_equal(items, moved)
    np.testing.assert_allclose(rest, moved_rest, atol=5e-3)


@pytest.mark.slow
def test_k_equal_to_n_has_no_rest_and_finite_gradients(key):
    """K = N: nothing is left over, and every gradient is finite."""
    towers = random_towers(6, 2, 1, 5, 3)

    def streamed(towers):
        found = Streamed(Layout(5, 4, 2)).sample(
            jax.random.split(key, 2), towers, jnp.arange(2, dtype=jnp.int32), Masks(None), (5,), "candidates"
        )  # fmt: skip
        score = jax.vmap(lambda c: ESTIMATORS["v_pg"].score(c, c.items[:1], (5,)))
        return jnp.sum(score(found)), found

    gradient, found = jax.jit(jax.grad(streamed, has_aux=True))(towers)
    assert sorted(found.items[0].tolist()) == [0, 1, 2, 3, 4]
    assert np.isneginf(found.sparse_logits.log_rest).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.slow
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_logit_that_is_not_finite_is_unsound(key, value):
    logits = np.zeros((2, 1, 37))
    logits[1, 0, 30] = value
    found = jax.jit(
        lambda towers: Streamed(Layout(37, 12, 3)).sample(
            jax.random.split(key, 2), towers, jnp.arange(2), Masks(None), (3,), "candidates"
        )
    )(Embeddings(contexts=jnp.ones((2, 1, 1)), items=jnp.asarray(logits)[1, :, :, None]))
    assert not found.sound.any()


def test_raw_uint32_keys_are_rejected(key, monkeypatch):
    """They are integers, as candidates are that were drawn before."""
    for holder, name in ((streamed, "find"), (Streamed, "sample"), (Streamed, "search")):
        monkeypatch.setattr(holder, name, inspect.unwrap(getattr(holder, name)))
    towers, contexts = random_towers(7, 4, 1, 50, 3), jnp.arange(4, dtype=jnp.int32)
    words = jax.random.key_data(jax.random.split(key, 4))
    with pytest.raises(TypeError, match=r"keys are uint32\[4, 2\]; expected typed keys, such as"):
        Streamed().sample(words, towers, contexts, Masks(None), (2,), "candidates")


def test_statistics_of_the_whole_catalogue_are_rejected(key):
    towers = random_towers(7, 1, 1, 5, 3)
    with pytest.raises(
        ValueError, match="reads the logits of the whole catalogue; give retrieval='dense'"
    ):
        Streamed().sample(
            key[None], towers, jnp.arange(1, dtype=jnp.int32), Masks(None), (2,), "catalogue"
        )


@pytest.mark.slow
@pytest.mark.parametrize("experts", [1, 2])
def test_streamed_training_reaches_the_value_of_dense(experts):
    """Dense and streamed training both end near the optimum of 40 items."""
    values = {}
    jax.config.update("jax_numpy_dtype_promotion", "standard")  # optax's Adam
    for retrieval in ("dense", "streamed"):
        config = TrainConfig(
            num_contexts=30, num_items=40, num_candidates=4, num_experts=experts, batch_size=32,
            num_steps=600, eval_every=600, seeds=(0, 1), retrieval=retrieval,
        )  # fmt: skip
        run = train(config)
        values[retrieval] = np.mean([row["normalised_value"] for row in run.metrics[-2:]])
    assert min(values.values()) > 0.95
    assert abs(values["dense"] - values["streamed"]) < 0.02


def test_an_encoder_of_logits_is_rejected():
    """Logits hold no item embeddings, which streamed retrieval reads in chunks."""
    encoder = Encoder(lambda key: jnp.zeros((5, 1, 8)), lambda p, contexts: p[contexts])
    config = TrainConfig(num_candidates=2, batch_size=4, retrieval="streamed")
    jax.config.update("jax_numpy_dtype_promotion", "standard")  # optax's Adam
    message = r"retrieval='streamed' computes logits from the items' embeddings.*retrieval='dense'"
    with pytest.raises(ValueError, match=message):
        build_learner(config, from_matrix(np.ones((5, 8))).environment, encoder=encoder)


@pytest.mark.slow
@pytest.mark.parametrize("quotas", [(3,), (2, 1)], ids=str)
def test_swaps_have_the_law_of_dense(key, quotas):
    """Six items: the counts of (slot, leaving item, entering item) differ by chance alone."""
    logits = jnp.asarray(np.random.default_rng(8).normal(size=(1, len(quotas), 6)))
    towers, draws = embeddings_of(logits), 20_000

    def counts(retrieval, key):
        def one(k):
            found = retrieval.sample(
                k[None], towers, jnp.zeros(1, jnp.int32), Masks(None), quotas, "swaps"
            )
            found = jax.tree.map(lambda x: x[0], found)
            swaps = swaps_of(found, quotas)
            slots = jnp.arange(sum(quotas), dtype=jnp.int32)
            return (slots * 6 + found.items[swaps.slot]) * 6 + swaps.into

        cells = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=1000))
        return np.bincount(np.asarray(cells(jax.random.split(key, draws))).ravel(), minlength=108)

    streamed_key, dense_key = jax.random.split(key)
    found = np.stack([
        counts(Streamed(Layout(6, 4, 2)), streamed_key), counts(Dense(), dense_key)
    ])  # fmt: skip
    assert stats.chi2_contingency(found[:, found.sum(axis=0) > 20]).pvalue > LEVEL


@pytest.mark.parametrize("experts", [1, 2])
def test_swaps_are_those_of_the_same_draw(key, experts):
    """The key draws the same candidates, whether their swaps are wanted or not."""
    towers, quotas = random_towers(1, 2, experts, 37, 4), expert_quotas(5, experts)

    def draw(retrieval, statistics):
        return retrieval.sample(
            jax.random.split(key, 2), towers, jnp.arange(2, dtype=jnp.int32), Masks(None), quotas,
            statistics,
        )  # fmt: skip

    for retrieval in (Dense(), Streamed(Layout(37, 12, 3))):
        plain, swaps = (
            jax.jit(draw, static_argnums=(0, 1))(retrieval, s) for s in ("candidates", "swaps")
        )
        np.testing.assert_array_equal(plain.items, swaps.items)
        assert plain.later is None
        assert (swaps.later is None) == (experts == 1)
