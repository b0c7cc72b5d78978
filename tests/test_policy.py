"""The policy: its methods agree with the encoder, the core, and each other."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rankpg
from rankpg.encoders import Encoder, two_tower
from rankpg.environments.from_ratings import from_matrix
from rankpg.policy import Policy
from rankpg.retrieval import Dense, Streamed

ENABLE_X64 = False

CONTEXTS, ITEMS, QUOTAS, TEMPERATURE = 5, 9, (2, 1), 0.5
ROWS = jnp.array([4, 0, 2], jnp.int32)
ELIGIBLE = np.random.default_rng(0).random((CONTEXTS, ITEMS)) < 0.8


@pytest.fixture(scope="module")
def environment():
    return from_matrix(np.ones((CONTEXTS, ITEMS)), eligible=ELIGIBLE).environment


@pytest.fixture(scope="module", params=[Dense(), Streamed()], ids=lambda retrieval: retrieval.name)
def policy(request) -> Policy:
    encoder = two_tower(CONTEXTS, ITEMS, 3, len(QUOTAS), init_scale=1.0)
    return Policy(encoder, QUOTAS, request.param, temperature=TEMPERATURE)


@pytest.fixture(scope="module")
def params(policy):
    return policy.init(jax.random.key(1))


def masked(policy, params, environment, context):
    """Logits of one context by hand, with -inf for items that are not eligible."""
    embedded = policy.encoder.apply(params, jnp.array([context], jnp.int32))
    logits = jnp.einsum("md,mnd->mn", embedded.contexts[0], embedded.items) / TEMPERATURE
    return jnp.where(ELIGIBLE[context][None], logits, -jnp.inf)


def test_logits_are_divided_by_the_temperature(policy, params, environment):
    logits = policy.logits(params, environment, ROWS)
    for row, context in enumerate(ROWS.tolist()):
        expected = masked(policy, params, environment, context)
        where = ELIGIBLE[context]
        np.testing.assert_allclose(logits[row][:, where], expected[:, where], rtol=1e-5, atol=1e-6)


def test_embeddings_have_the_logits_as_inner_products(policy, params, environment):
    embedded = policy.embeddings(params, environment, ROWS)
    inner = jnp.einsum("bmd,mnd->bmn", embedded.contexts, embedded.items)
    logits = policy.logits(params, environment, ROWS)
    np.testing.assert_allclose(inner, logits, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_sample_has_the_probabilities_of_the_logits(policy, params, environment, keys):
    """log P of every draw, from its sparse logits, against the logits of the whole catalogue."""
    found = jax.jit(lambda k: policy.sample(k, params, environment, ROWS))(keys(len(ROWS)))
    assert found.items.shape == (len(ROWS), policy.num_candidates)
    for row, context in enumerate(ROWS.tolist()):
        logits = masked(policy, params, environment, context)
        one = jax.tree.map(lambda leaf, row=row: leaf[row], found)
        score = rankpg.ESTIMATORS["v_pg"].score(one, one.items[:1], QUOTAS)[0]
        expected = rankpg.log_prob(logits, one.items, QUOTAS)
        assert float(score) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.slow
def test_rescore_repeats_what_sample_returned(policy, params, environment, keys):
    drawn = policy.sample(keys(len(ROWS)), params, environment, ROWS, "greedy")
    again = policy.rescore(drawn.items, params, environment, ROWS, "greedy")
    jax.tree.map(np.testing.assert_array_equal, again, drawn)


def test_rescore_rejects_statistics_of_the_noise(policy, params, environment):
    items = jnp.zeros((len(ROWS), policy.num_candidates), jnp.int32)
    with pytest.raises(ValueError, match="statistics='arrivals', which reads"):
        policy.rescore(items, params, environment, ROWS, "arrivals")


def test_greedy_takes_the_most_probable_candidates(policy, params, environment):
    further = jnp.arange(ITEMS) != 3
    items, available = policy.greedy(params, environment, ROWS, further)
    for row, context in enumerate(ROWS.tolist()):
        logits = jnp.where(further[None], masked(policy, params, environment, context), -jnp.inf)
        np.testing.assert_array_equal(items[row], rankpg.greedy_candidates(logits, QUOTAS))
        assert int(available[row]) == (ELIGIBLE[context] & np.asarray(further)).sum()


def test_unknown_contexts_get_the_candidates_of_the_mean_logits(policy, params, environment):
    known = jnp.arange(CONTEXTS, dtype=jnp.int32)
    mean = policy.logits(params, environment, known).mean(axis=0)
    mean = jnp.where(ELIGIBLE.any(axis=0)[None], mean, -jnp.inf)
    items, available = policy.greedy_for_unknown(params, environment, known, count=2)
    for row in range(2):
        np.testing.assert_array_equal(items[row], rankpg.greedy_candidates(mean, QUOTAS))
        assert int(available[row]) == ELIGIBLE.any(axis=0).sum()


def test_embeddings_reject_an_encoder_of_logits(environment):
    encoder = Encoder(
        lambda key: jnp.zeros((CONTEXTS, 1, ITEMS)), lambda params, contexts: params[contexts]
    )
    policy = Policy(encoder, (3,), Dense())
    params = policy.init(jax.random.key(0))
    with pytest.raises(ValueError, match="are required, and the encoder returns logits"):
        policy.embeddings(params, environment, ROWS)
