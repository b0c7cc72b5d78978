"""Datasets from ratings: files, triples and matrices to rewards."""

from __future__ import annotations

import math
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.data_files import (
    ITEMS,
    refusal,
    rewards,
    save_categories,
    save_csv,
    save_npz,
    save_parquet,
    save_tsv,
    write,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from rankpg.data.ids import IdMap, UnknownIdError
from rankpg.data.ratings_table import Matrix
from rankpg.data.read import read
from rankpg.environments import from_ratings as ratings
from rankpg.environments.from_file import from_file

KUAIREC = """user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio
14,148,4381,6067,2020-07-05 05:27:48.378,20200705.0,1593898068.378,0.722103
14,183,11635,6100,2020-07-05 05:28:00.057,20200705.0,1593898080.057,1.907377
19,148,22422,10867,,,,2.063311
7,183,900000,6067,2020-07-05 05:29:09.479,20200705.0,1593898149.479,148.343
"""


def test_kuairec_file_as_published(tmp_path):
    data = from_file(write(tmp_path, KUAIREC, "small_matrix.csv"))
    assert data.context_ids.ids.tolist() == [7, 14, 19]
    assert data.item_ids.ids.tolist() == [148, 183]
    assert data.missing_share == pytest.approx(2 / 6)
    assert rewards(data, 14, [183, 148]) == pytest.approx([1.907377, 0.722103])
    assert rewards(data, 19, [183]) == [0.0]
    assert rewards(data, 7, [183]) == [10.0]  # clipped as in the paper
    assert data.environment.values.dtype == jnp.float32


@pytest.mark.parametrize(
    ("clip", "expected"), [(None, 148.343), ((0, 3), 3.0), ((200.0, 300.0), 200.0)]
)
def test_clip_bounds_values(tmp_path, clip, expected):
    data = from_file(write(tmp_path, KUAIREC), clip=clip)
    assert rewards(data, 7, [183]) == pytest.approx([expected], rel=1e-6)


def test_only_the_watch_ratio_is_clipped_by_default(tmp_path):
    data = from_file(write(tmp_path, "userId,movieId,rating,timestamp\n1,2,50,9\n"))
    assert rewards(data, 1, [2]) == [50.0]


SAVERS = [
    (save_csv, "t.csv"),
    (save_tsv, "t.tsv"),
    (save_parquet, "t.parquet"),
    (save_categories, "t.parquet"),
    (save_npz, "t.npz"),
]


@pytest.mark.parametrize(("save", "name"), SAVERS)
def test_string_ids_round_trip(tmp_path, save, name):
    save(tmp_path / name)
    data = from_file(tmp_path / name)
    assert data.context_ids.ids.tolist() == ["ann", "bob"]
    assert data.item_ids[data.item_ids.rows(ITEMS)].tolist() == ITEMS
    assert rewards(data, "bob", ["é", "x/1"]) == [-1.0, 0.5]
    assert rewards(data, "ann", ["é", "x/1"]) == [2.0, 0.0]
    assert data.missing_share == pytest.approx(1 / 4)


def test_npz_ignores_lists_of_another_length(tmp_path):
    triples = {"user": [0, 1, 1], "item": [0, 0, 1], "watch_ratio": [0.5, 20.0, 1.0]}
    np.savez(tmp_path / "t.npz", **triples, user_id=[14, 19], video_id=[3, 5, 7, 9])
    data = from_file(tmp_path / "t.npz")
    assert rewards(data, 1, [0, 1]) == [10.0, 1.0]


MATRIX = np.array([[0.5, 1.0, 2.0], [3.0, 0.0, 0.25]])


@pytest.mark.parametrize("name", ["t.npz", "t.npy", "t.csv", "ids.npz"])
def test_matrix_files_give_one_environment(tmp_path, name):
    file = tmp_path / name
    if name == "t.csv":
        np.savetxt(file, MATRIX, delimiter=",", fmt="%g")
    elif name == "t.npy":
        np.save(file, MATRIX)
    elif name == "t.npz":
        np.savez(file, rewards=MATRIX)
    else:
        np.savez(file, rewards=MATRIX, users=["a", "b"], item_ids=[7, 8, 9])
    table = read(file)
    assert isinstance(table, Matrix)
    np.testing.assert_array_equal(table.values, MATRIX)
    data = from_file(file)
    np.testing.assert_allclose(data.environment.relative_noise, 0.3)
    if name == "ids.npz":
        assert rewards(data, "b", [9, 7]) == [0.25, 3.0]
    else:
        assert rewards(data, 1, [2, 0]) == [0.25, 3.0]


# Policies.

TWICE = "user,item,value\nb,1,1\na,2,5\n\nb,1,4\na,1,7\nb,1,1\n"


@pytest.mark.parametrize(("policy", "expected"), [("mean", 2.0), ("last", 1.0)])
def test_duplicates_are_merged_by_policy(tmp_path, policy, expected):
    data = from_file(write(tmp_path, TWICE), duplicates=policy)
    assert rewards(data, "b", [1, 2]) == [expected, 0.0]
    assert rewards(data, "a", [1, 2]) == [7.0, 5.0]
    assert data.missing_share == pytest.approx(1 / 4)


def test_duplicates_are_rejected_by_default(tmp_path):
    refusal(
        lambda: from_file(write(tmp_path, TWICE)),
        "ratings.csv, lines 2 and 5: the pair user 'b', item 1 occurs 3 times",
        "duplicates='mean'",
    )


def test_rows_are_clipped_before_they_are_averaged():
    data = ratings.from_triples([1, 1], [1, 1], [2.0, 30.0], duplicates="mean", clip=(0, 10))
    assert rewards(data, 1, [1]) == [6.0]


def test_missing_pairs_are_counted_and_named():
    users, items = [0, 0, 1, 2, 2], [0, 1, 0, 0, 1]
    call = lambda: ratings.from_triples(users, items, np.ones(5), missing="error")  # noqa: E731
    refusal(call, "1 of 6 (user, item) pairs", "the first is user 1, item 1", "missing='zero'")
    call = lambda: ratings.from_triples(users[:4], items[:4], np.ones(4), missing="error")  # noqa: E731
    refusal(call, "2 of 6", "the first is user 1, item 1")
    complete = ratings.from_triples([*users, 1], [*items, 1], np.ones(6), missing="error")
    assert complete.missing_share == 0.0


@pytest.mark.parametrize("option", ["missing", "duplicates"])
def test_unknown_option_is_rejected(option):
    call = lambda: ratings.from_triples([1], [1], [1.0], **{option: "none"})  # noqa: E731
    refusal(call, f"{option}='none'; expected", error=ValueError)


def test_unknown_ids_are_named():
    data = ratings.from_triples(["a", "b"], [1, 2], [1.0, 2.0])
    refusal(lambda: data.context_ids.rows("c"), "unknown user 'c'", "'a'", error=UnknownIdError)
    refusal(lambda: data.item_ids.rows([1, 9]), "unknown item 9", error=KeyError)
    refusal(lambda: IdMap(np.array([1, 2, 1])), "id 1 occurs twice")
    refusal(
        lambda: ratings.from_triples(["a"], [1], [1.0], item_ids=[2]),
        "unknown item 1",
        error=KeyError,
    )


def test_item_ids_add_unrated_items():
    data = ratings.from_triples(
        ["b", "a"], [7, 9], [1.0, 2.0], item_ids=[9, 8, 7], context_ids=["b", "a"]
    )
    table = [rewards(data, user, [9, 8, 7]) for user in ("b", "a")]
    assert table == [[0.0, 0.0, 1.0], [2.0, 0.0, 0.0]]
    assert data.environment.num_items == 3
    assert data.missing_share == pytest.approx(4 / 6)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (([1, 2], [1], [1.0]), ["one length", "(2,), (1,), (1,)"]),
        (([[1]], [[1]], [[1.0]]), ["one length", "(1, 1)"]),
        (([1], [1], ["x"]), ["column 'values' holds <U1"]),
        (([1, 2], [1, 2], [1.0, math.nan]), ["row 1 (counted from 0), column 'values'"]),
        ((["a", None], [1, 2], [1.0, 2.0]), ["users", "row 1", "the id is empty"]),
        (([], [], []), ["no rows"]),
    ],
)
def test_invalid_triples_are_rejected(arguments, parts):
    refusal(lambda: ratings.from_triples(*arguments), *parts)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"matrix": [1.0, 2.0]}, ["[num_contexts, num_items]", "(2,)"]),
        ({"matrix": [[1.0, math.inf]]}, ["row 0, column 1", "infinite"]),
        (
            {"noise_std": -1.0},
            ["noise_std=-1.0; expected one number or a matrix of shape (2, 3)"],
        ),
        ({"noise_std": np.ones(3)}, ["noise_std has shape (3,)"]),
        ({"relative_noise": math.nan}, ["relative_noise=nan; expected one number"]),
        ({"clip": (2.0, 1.0)}, ["clip=(2.0, 1.0); expected (lowest, highest)"]),
        ({"clip": "on"}, ["clip='on'; expected (lowest, highest)"]),
        ({"eligible": np.ones((3, 2), bool)}, ["expected bool of shape (2, 3)"]),
        ({"eligible": np.ones((2, 3))}, ["expected bool of shape (2, 3)", "float64"]),
        ({"eligible": [[True] * 3, [False] * 3]}, ["context 1 (row 1) has no eligible item"]),
        ({"item_ids": [1, 2, 1]}, ["item id 1 occurs twice"]),
    ],
)
def test_invalid_matrix_is_rejected(options, parts):
    arguments = {"matrix": MATRIX} | options
    refusal(lambda: ratings.from_matrix(**arguments), *parts, error=ValueError)


# The environment.


@jax.jit
def whole_table(environment):
    contexts, items = jnp.arange(environment.num_contexts), jnp.arange(environment.num_items)
    return jax.vmap(environment.mean_rewards, (0, None))(contexts, items)


CELLS = st.tuples(st.integers(0, 3), st.integers(0, 6))


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.sets(CELLS, min_size=12, max_size=12), st.randoms(use_true_random=False))
def test_sparse_equals_dense(cells, random):
    """Rows have 0 to 7 ratings, in any order of the file."""
    rows = sorted(cells)
    random.shuffle(rows)
    users, items = np.array(rows).T
    values = np.arange(1.0, 13.0)
    dense = np.zeros((4, 7), np.float32)
    dense[users, items] = values
    ids = {"context_ids": range(4), "item_ids": range(7)}
    sparse = ratings.from_triples(users, items, values, **ids)
    np.testing.assert_array_equal(whole_table(sparse.environment), dense)
    np.testing.assert_array_equal(whole_table(ratings.from_matrix(dense).environment), dense)


def environments():
    rng = np.random.default_rng(0)
    users, items = np.nonzero(rng.random((5, 11)) < 0.5)
    eligible = rng.random((5, 11)) < 0.5
    eligible[:, 0] = True
    matrix = rng.normal(size=(5, 11))
    ids = {"context_ids": range(5), "item_ids": range(11), "eligible": eligible}
    return {
        "ratings": ratings.from_triples(users, items, 1 + rng.random(len(users)), **ids),
        "matrix": ratings.from_matrix(matrix, noise_std=2.0, eligible=eligible),
        "noise": ratings.from_matrix(matrix, noise_std=rng.random((5, 11)), relative_noise=0.3),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ratings", "matrix", "noise"])
def test_jit_and_vmap_equal_eager(name):
    environment = environments()[name].environment
    keys = jax.random.split(jax.random.key(1), 8)
    contexts = jnp.arange(8) % 5
    items = jnp.asarray(np.random.default_rng(1).integers(0, 11, (8, 4)).astype(np.int32))

    def both(environment, key, context, items):
        mean = environment.mean_rewards(context, items)
        same = environment.relevance(context, items)
        mask = environment.eligible(context, items)
        return mean, same, environment.sample_rewards(key, context, items), mask

    rows = list(zip(keys, contexts, items, strict=True))[:2]
    eager = [both(environment, *row) for row in rows]
    batched = jax.jit(jax.vmap(both, in_axes=(None, 0, 0, 0)))(environment, keys, contexts, items)
    for i, alone in enumerate(eager):
        row = jax.tree.map(lambda x, i=i: x[i], batched)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), row, alone)
        np.testing.assert_array_equal(row[0], row[1])
    assert (batched[3] is None) == (name == "noise")
    assert all(x.dtype == jnp.float32 for x in batched[:3])


@pytest.mark.parametrize("name", ["ratings", "matrix", "noise"])
def test_rewards_have_the_declared_mean_and_noise(name):
    environment = environments()[name].environment
    context, items, n = jnp.int32(2), jnp.arange(11), 20_000
    keys = jax.random.split(jax.random.key(7), n)
    draws = jax.jit(jax.vmap(environment.sample_rewards, (0, None, None)))(keys, context, items)
    draws = np.asarray(draws, np.float64)
    mean = np.asarray(environment.mean_rewards(context, items), np.float64)
    std = {
        "ratings": lambda: 0.3 * mean,
        "matrix": lambda: np.full(11, 2.0),
        "noise": lambda: np.abs(0.3 * mean + np.asarray(environment.noise_std[2])),
    }[name]()
    # the standard error of a mean is std / sqrt(n), that of a standard deviation std / sqrt(2 n)
    assert np.all(np.abs(draws.mean(0) - mean) <= 5 * std / math.sqrt(n) + 1e-6)
    assert np.all(np.abs(draws.std(0) - std) <= 5 * std / math.sqrt(2 * n) + 1e-6)
    noise = np.corrcoef(draws[:, std > 0].T) - np.eye(int((std > 0).sum()))
    assert np.abs(noise).max() < 5 / math.sqrt(n)


def test_matrix_has_no_noise_by_default():
    environment = ratings.from_matrix(MATRIX).environment
    drawn = environment.sample_rewards(jax.random.key(0), jnp.int32(1), jnp.arange(3))
    np.testing.assert_array_equal(drawn, MATRIX[1].astype(np.float32))


@pytest.mark.slow
def test_ratings_use_no_dense_table():
    n = 200_000
    data = ratings.from_triples(np.arange(n), np.arange(n)[::-1], np.ones(n))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(data.environment))
    assert size < 20 * n  # a table would be 4 * n * n = 160 GB
    found = data.environment.mean_rewards(jnp.int32(5), jnp.array([n - 6, 5]))
    assert found.tolist() == [1.0, 0.0]


@pytest.mark.slow
def test_million_rows_are_read_in_time(tmp_path):
    n, rng = 1_500_000, np.random.default_rng(0)
    pairs = rng.permutation(1400 * 3000)[:n]
    users, items, values = pairs // 3000, pairs % 3000, rng.random(n)
    rest = "100,200,2020-07-05 05:27:48.378,20200705.0,1593898068.378"
    rows = zip(users, items, values, strict=True)
    header = KUAIREC.splitlines()[0]
    file = write(tmp_path, header + "\n" + "\n".join(f"{u},{i},{rest},{v}" for u, i, v in rows))
    start = time.perf_counter()
    data = from_file(file)
    assert time.perf_counter() - start < 30
    assert data.environment.values.shape == (n,)
    assert data.missing_share == pytest.approx(1 - n / (1400 * 3000))
    for row in rng.integers(0, n, 5):
        assert rewards(data, users[row], [items[row]]) == pytest.approx([values[row]], rel=1e-6)


def test_rows_of_different_lengths_are_rejected():
    refusal(
        lambda: ratings.from_matrix([[1.0, 2.0], [3.0]]), "matrix: its rows have different lengths"
    )


def test_bfloat16_matrix_is_accepted():
    data = ratings.from_matrix(jnp.asarray([[1.0, 0.5]], jnp.bfloat16))
    np.testing.assert_array_equal(data.environment.means, [[1.0, 0.5]])


@pytest.mark.parametrize("change", ["context_ids", "item_ids", "numbers"])
def test_fingerprint_covers_ids_and_numbers(change):
    ids = {"context_ids": ["a", "b"], "item_ids": [1, 2, 3]}
    matrix = np.arange(6.0).reshape(2, 3)
    before = ratings.from_matrix(matrix, **ids).fingerprint()
    assert ratings.from_matrix(matrix.copy(), **ids).fingerprint() == before
    if change == "numbers":
        matrix[1, 1] += 1
    else:
        ids[change] = [*ids[change][:-1], "zz" if change == "context_ids" else 9]
    other = ratings.from_matrix(matrix, **ids).fingerprint()
    assert [name for name in before if before[name] != other[name]] == [change]
