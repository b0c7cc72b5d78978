"""Encoders: towers of ids and of features, M experts, and modules of the user's own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from rankpg import TrainConfig
from rankpg.encoders import Encoder, IdTower, by_rows, from_linen, from_nnx, to_logits, two_tower
from rankpg.environments.from_ratings import from_matrix
from rankpg.environments.synthetic import generate
from rankpg.training.build import build_learner
from rankpg.training.update import Learner
from rankpg.types import Embeddings

ENABLE_X64 = False

pytestmark = pytest.mark.usefixtures("standard_promotion")  # for optimizers of optax

CONTEXTS, ITEMS, DIM, EXPERTS = 5, 7, 3, 2
BATCH = jnp.array([4, 0, 4], jnp.int32)


def named(params) -> dict[str, np.ndarray]:
    """Leaves by the names on their path."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {
        ".".join(str(k.key) for k in path if hasattr(k, "key")): np.asarray(leaf, np.float64)
        for path, leaf in leaves
    }


def features(rows, width, seed):
    x = np.random.default_rng(seed).normal(size=(rows, width))
    return jnp.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), jnp.float32)


def perceptron(given, weights: dict[str, np.ndarray], side: str, layers: int):
    """[M, n, D], expert by expert, layer by layer."""
    out = []
    for expert in range(EXPERTS):
        x = np.asarray(given, np.float64)
        for layer in range(layers):
            kernel, bias = (
                weights[f"{side}.{part}_{layer}"][expert] for part in ("kernel", "bias")
            )
            x = x @ kernel + bias
            x = np.maximum(x, 0) if layer < layers - 1 else x
        out.append(x)
    return np.stack(out)


def logits_by_hand(contexts, items):
    return np.einsum("mbd,mnd->bmn", contexts[:, np.asarray(BATCH)], items)


def test_logits_of_tables_are_inner_products():
    encoder = two_tower(CONTEXTS, ITEMS, DIM, EXPERTS)
    params = encoder.init(jax.random.key(0))
    tables = named(params)
    assert {k: v.shape for k, v in tables.items()} == {
        "contexts.table": (EXPERTS, CONTEXTS, DIM),
        "items.table": (EXPERTS, ITEMS, DIM),
    }
    found = to_logits(encoder.apply(params, BATCH))
    assert found.shape == (3, EXPERTS, ITEMS)
    expected = logits_by_hand(tables["contexts.table"], tables["items.table"])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("hidden", [(), (6,), (6, 4)])
def test_logits_of_perceptrons_equal_numpy(hidden):
    x, e = features(CONTEXTS, 4, 0), features(ITEMS, 4, 1)
    encoder = two_tower(
        CONTEXTS, ITEMS, DIM, EXPERTS, context_features=x, item_features=e, hidden=hidden
    )
    params = encoder.init(jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)  # biases start at 0: give them a say
    weights = named(params)
    expected = logits_by_hand(
        perceptron(x, weights, "contexts", len(hidden) + 1),
        perceptron(e, weights, "items", len(hidden) + 1),
    )
    np.testing.assert_allclose(
        to_logits(encoder.apply(params, BATCH)), expected, rtol=1e-4, atol=1e-5
    )


def test_two_sides_may_have_features_of_different_widths():
    encoder = two_tower(
        CONTEXTS, ITEMS, DIM, context_features=features(CONTEXTS, 4, 0),
        item_features=features(ITEMS, 6, 1),
    )  # fmt: skip
    assert encoder.apply(encoder.init(jax.random.key(0)), BATCH).items.shape == (1, ITEMS, DIM)


def test_features_are_not_parameters():
    e = features(ITEMS, 4, 1)
    encoder, changed = (
        two_tower(CONTEXTS, ITEMS, DIM, item_features=f) for f in (e, e.at[2].add(1.0))
    )
    params = encoder.init(jax.random.key(0))
    assert sorted(named(params)) == [
        "contexts.table",
        *(f"items.{part}_{layer}" for part in ("bias", "kernel") for layer in (0, 1)),
    ]
    assert not any(leaf.shape[-2:] == e.shape for leaf in jax.tree.leaves(params))
    before, after = (to_logits(c.apply(params, BATCH))[:, 0] for c in (encoder, changed))
    assert not jnp.any(before[:, 2] == after[:, 2])
    assert jnp.array_equal(jnp.delete(before, 2, axis=1), jnp.delete(after, 2, axis=1))


def test_init_scale_of_tables():
    encoder = two_tower(400, 500, 10, 2, init_scale=0.3)
    params = encoder.init(jax.random.key(1))
    for name, table in named(params).items():
        assert abs(table.std() - 0.3) < 5 * 0.3 / np.sqrt(2 * table.size), name
        assert abs(table.mean()) < 5 * 0.3 / np.sqrt(table.size), name
    contexts = jnp.arange(400, dtype=jnp.int32)
    spread = float(jnp.std(to_logits(encoder.apply(params, contexts))))
    assert spread == pytest.approx(np.sqrt(10) * 0.3**2, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [(), (64,), (64, 64)])
def test_init_scale_of_perceptrons(hidden):
    e = features(300, 10, 2)
    encoder = two_tower(3, 300, 40, item_features=e, init_scale=0.3, hidden=hidden)
    params = encoder.init(jax.random.key(2))
    embeddings = encoder.apply(params, jnp.zeros(1, jnp.int32)).items
    assert float(jnp.std(embeddings)) == pytest.approx(0.3, rel=0.25)


def test_initialisations_are_independent():
    """Seeds, sides and experts each start from a draw of their own."""
    encoder = two_tower(6, 6, 3, 2)
    one, again, other = (encoder.init(jax.random.key(s)) for s in (0, 0, 1))
    tables = {name: named(p) for name, p in (("one", one), ("again", again), ("other", other))}
    for side in ("contexts.table", "items.table"):
        assert np.array_equal(tables["one"][side], tables["again"][side])
        assert not np.any(tables["one"][side] == tables["other"][side])
        assert not np.any(tables["one"][side][0] == tables["one"][side][1])
    assert not np.any(tables["one"]["contexts.table"] == tables["one"]["items.table"])


@pytest.mark.parametrize("name", ["context_features", "item_features"])
def test_features_with_another_number_of_rows_are_rejected(name):
    expected = {"context_features": CONTEXTS, "item_features": ITEMS}[name]
    with pytest.raises(ValueError, match=rf"{name} has shape \(6, 4\); expected \[{expected}, F\]"):
        two_tower(CONTEXTS, ITEMS, DIM, **{name: features(6, 4, 0)})


def test_temperature_divides_embeddings_and_logits():
    encoder = two_tower(CONTEXTS, ITEMS, DIM, EXPERTS)
    output = encoder.apply(encoder.init(jax.random.key(0)), BATCH)
    plain, cold = to_logits(output), to_logits(output, 0.25)
    np.testing.assert_allclose(cold, 4 * plain, rtol=1e-6)
    np.testing.assert_allclose(to_logits(plain, 0.25), 4 * plain, rtol=1e-6)


# Encoders of the user's own, up to one training step.


class Towers(nn.Module):
    """Linen: logits [B, 1, N]."""

    @nn.compact
    def __call__(self, contexts):
        return nn.Dense(ITEMS)(nn.Embed(CONTEXTS, DIM)(contexts))[:, None]


def plain_logits() -> Encoder:
    return Encoder(
        init=lambda key: {"table": jax.random.normal(key, (CONTEXTS, ITEMS))},
        apply=lambda params, contexts: params["table"][contexts][:, None],
    )


def plain_embeddings() -> Encoder:
    def init(key):
        a, b = jax.random.split(key)
        return jax.random.normal(a, (CONTEXTS, 1, DIM)), jax.random.normal(b, (1, ITEMS, DIM))

    return Encoder(init, lambda p, contexts: Embeddings(contexts=p[0][contexts], items=p[1]))


SETTINGS = {
    "num_candidates": 2,
    "batch_size": 4,
    "optimizer": "sgd",
    "learning_rate": 1.0,
    "seeds": (0,),
}


@pytest.fixture(scope="module")
def world():
    return from_matrix(np.random.default_rng(0).uniform(1, 2, (CONTEXTS, ITEMS))).environment


@pytest.mark.parametrize("make", [lambda: from_linen(Towers()), plain_logits, plain_embeddings])
def test_custom_encoder_gives_the_logits_of_the_policy(make, world):
    encoder = make()
    policy = build_learner(TrainConfig(**SETTINGS), world, encoder=encoder).policy
    params = encoder.init(jax.random.key(0))
    expected = to_logits(encoder.apply(params, BATCH))
    assert expected.shape == (3, 1, ITEMS)
    assert jnp.array_equal(policy.logits(params, world, BATCH), expected)


@pytest.mark.slow
def test_custom_encoder_is_trained(world):
    learner = build_learner(TrainConfig(**SETTINGS), world, encoder=from_linen(Towers()))
    state = learner.init(jax.random.key(0))
    after, _ = jax.jit(learner.update)(state, jax.random.key(1))
    assert int(after.fault) == 0
    for before, now in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(after.params), strict=True
    ):
        assert before.shape == now.shape
        assert jnp.any(before != now)


def wrong(apply) -> Encoder:
    return Encoder(init=lambda key: jnp.zeros((CONTEXTS, ITEMS + 1)), apply=apply)


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (
            wrong(lambda p, c: p[c][:, None]),
            rf"the encoder gives logits of shape \(2, 1, {ITEMS + 1}\) for 2 contexts; "
            rf"expected \[B, M, N\] = \(2, 1, {ITEMS}\)",
        ),
        (wrong(lambda p, c: p["table"]), r"the encoder raised \w+: "),
        (
            Encoder(lambda key: 1 / 0, lambda p, c: p),
            r"the encoder's init raised ZeroDivisionError",
        ),
    ],
)
def test_invalid_encoder_is_named_before_anything_runs(encoder, message, world):
    with pytest.raises(ValueError, match=message):
        build_learner(TrainConfig(**SETTINGS), world, encoder=encoder)


def test_feature_towers_need_features(world):
    with pytest.raises(ValueError, match=r"item_tower='features', but .* item_tower='ids'"):
        build_learner(TrainConfig(**SETTINGS, item_tower="features"), world)


def test_from_nnx_wraps_a_module():
    encoder = from_nnx(lambda rngs: IdTower(CONTEXTS, DIM, 1, 0.0, rngs=rngs))
    params = encoder.init(jax.random.key(0))
    assert encoder.apply(params, BATCH).shape == (1, 3, DIM)
    assert not jnp.any(encoder.apply(params, BATCH))


@pytest.mark.slow
@pytest.mark.parametrize("reranker", ["optimal", "learned"])
def test_features_are_arguments_of_the_program(reranker):
    """The program of a step, as text, would hold 4000 rows if features were constants."""
    world = generate(jax.random.key(0), num_contexts=3000, num_items=4000, num_features=5)
    towers = {"context_tower": "features", "item_tower": "features"}
    config = TrainConfig(**SETTINGS, **towers, reranker=reranker, num_experts=2)
    learner, key = build_learner(config, world), jax.random.key(0)
    state = jax.eval_shape(learner.init, key)
    program = jax.jit(Learner.update).lower(learner, state, key)
    assert "tensor<4000x5xf32>" in program.as_text()
    assert len(program.as_text()) < 1_000_000


@pytest.mark.parametrize("count", [7, 8, 12, 15])
def test_by_rows_in_blocks_equals_all_rows_at_once(count, key):
    """Outputs and gradients, with and without a shorter last block."""
    features = jax.random.normal(key, (count, 3))
    kernel = jax.random.normal(jax.random.fold_in(key, 1), (2, 3, 4))

    def loss(kernel, rows):
        out = by_rows(
            lambda x: jnp.tanh(jnp.matmul(jnp.broadcast_to(x[None], (2, *x.shape)), kernel)),
            features, rows,
        )  # fmt: skip
        return jnp.sum(jnp.cos(out)), out

    (together, whole), (blocks, parts) = (
        jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)(kernel, rows) for rows in (100, 4)
    )
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(blocks, together, rtol=1e-4, atol=1e-5)


def test_a_tower_over_many_rows_keeps_no_hidden_layer():
    """The compiled gradient holds features and embeddings, and no array [rows, hidden]."""
    rows, hidden = 120_000, 96
    encoder = two_tower(
        5, rows, 4, item_features=jnp.ones((rows, 3)), hidden=(hidden,), init_scale=0.1
    )
    params = jax.eval_shape(encoder.init, jax.random.key(0))
    contexts = jnp.arange(2, dtype=jnp.int32)

    def loss(params):
        return jnp.sum(jnp.sin(encoder.apply(params, contexts).items))

    program = jax.jit(jax.grad(loss)).lower(params).compile()
    assert f"{rows},{hidden}]" not in program.as_text()
    assert program.memory_analysis().temp_size_in_bytes < 4 * rows * hidden
