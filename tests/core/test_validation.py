"""Argument validation: every bad argument is rejected, and the message names the value at fault."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rankpg
from rankpg.core import validation
from rankpg.core.estimators import check_estimator

INF, NAN = np.inf, np.nan
CANDIDATES, RANKING = jnp.array([0, 2], jnp.int32), jnp.array([2], jnp.int32)


@pytest.fixture(scope="module", autouse=True)
def no_runtime_type_checks():
    """Disables the type checks of the other tests, which a user does not have: they would raise first."""
    try:
        import jaxtyping
    except ModuleNotFoundError:
        yield
    else:
        jaxtyping.config.update("jaxtyping_disable", True)
        yield
        jaxtyping.config.update("jaxtyping_disable", False)


FUNCTIONS = {
    "sample_candidates": lambda f, q: rankpg.sample_candidates(jax.random.key(0), f, q),
    "greedy_candidates": lambda f, q: rankpg.greedy_candidates(f, q),
    "log_prob": lambda f, q: rankpg.log_prob(f, CANDIDATES, q),
    "log_prob_swr": lambda f, q: rankpg.log_prob_swr(f, CANDIDATES, q),
    "log_inclusion": lambda f, q: rankpg.log_inclusion(f, 1, q, "greedy"),
    "log_inclusion_large": lambda f, q: rankpg.log_inclusion_large(f, 1, q),
    "log_inclusion_threshold": lambda f, q: rankpg.log_inclusion_threshold(
        jax.random.key(0), f, 1, q
    ),
    "score": lambda f, q: rankpg.score("ca_pg", f, CANDIDATES, RANKING, q),
}
by_function = pytest.mark.parametrize("call", FUNCTIONS.values(), ids=FUNCTIONS.keys())


def logits(*rows):
    return jnp.asarray(rows, jnp.float32)


FIVE = logits([0.0, 1.0, 2.0, 3.0, 4.0])
TWO_EXPERTS = logits([0.0, 1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 2.0, 3.0, 4.0])

BAD_SHAPES = {  # name: logits, quotas, patterns of the message
    "one dimension": (FIVE[0], (2,), [r"shape \(5,\)", r"\[M, N\]", r"logits\[None, :\]"]),
    "three dimensions": (FIVE[None], (2,), [r"shape \(1, 1, 5\)", "jax.vmap"]),
    "a number": (jnp.float32(1), (2,), [r"shape \(\)"]),
    "integers": (FIVE.astype(jnp.int32), (2,), ["int32", "float"]),
    "booleans": (FIVE > 1, (2,), ["bool", "float"]),
    "K above N": (FIVE, (6,), ["K = 6", "N = 5"]),
    "K above N in sum": (TWO_EXPERTS, (3, 3), [r"\(3, 3\)", "K = 6", "N = 5"]),
    "too many quotas": (FIVE, (1, 1), [r"quotas=\(1, 1\)", "2 experts", "1 row"]),
    "too few quotas": (TWO_EXPERTS, (2,), [r"\(2,\)", "1 expert", "2 row"]),
    "no quotas": (FIVE, (), [r"\(\)", "0 experts"]),
    "a negative quota": (TWO_EXPERTS, (3, -1), [r"\(3, -1\)", "non-negative"]),
    "quotas of zero": (TWO_EXPERTS, (0, 0), [r"\(0, 0\)", "at least 1"]),
    "a list": (FIVE, [2], [r"\[2\]", "tuple of ints"]),
    "a number for quotas": (FIVE, 2, ["quotas=2", "tuple of ints"]),
    "a fraction": (FIVE, (2.0,), [r"\(2.0,\)", "tuple of ints"]),
    "an array": (FIVE, np.array([2]), ["array", "tuple of ints"]),
}
BAD_VALUES = {
    "NaN": (logits([0, NAN, 2, 3, 4]), (2,), [r"logits\[0, 1\] is nan", "-inf"]),
    "+inf": (logits([0, 1, 2, INF, 4]), (2,), [r"logits\[0, 3\] is inf", "finite"]),
    "NaN in the second expert": (
        logits([0, 1, 2, 3, 4], [0, 1, 2, 3, NAN]),
        (1, 1),
        [r"logits\[1, 4\] is nan"],
    ),
    "too many masked": (
        logits([0, -INF, -INF, -INF, -INF]),
        (2,),
        ["expert 0 has 1 eligible", r"\(2,\)", "need 2"],
    ),
    "too many masked for the second": (
        logits([0, 1, 2, 3, 4], [0, -INF, -INF, -INF, -INF]),
        (1, 1),
        ["expert 1 has 1 eligible", r"\(1, 1\)", "need 2"],
    ),
    "all masked": (logits([-INF] * 5), (2,), ["expert 0 has 0 eligible"]),
}


def rejected(call, words) -> str:
    """Asserts that the call raises ValueError with all these patterns; returns the message."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are matched below
        call()
    for word in words:
        assert caught.match(word)
    return str(caught.value)


@by_function
@pytest.mark.parametrize("case", BAD_SHAPES.values(), ids=BAD_SHAPES.keys())
def test_bad_shapes_are_rejected(call, case):
    array, quotas, words = case
    rejected(lambda: call(array, quotas), words)


@by_function
@pytest.mark.parametrize("case", BAD_VALUES.values(), ids=BAD_VALUES.keys())
def test_bad_values_are_rejected(call, case):
    array, quotas, words = case
    rejected(lambda: call(array, quotas), words)


@by_function
def test_shapes_are_checked_under_jit(call):
    rejected(lambda: jax.eval_shape(lambda f: call(f, (6,)), FIVE), ["K = 6", "N = 5"])
    rejected(lambda: jax.eval_shape(lambda f: call(f, (2,)), FIVE[0]), [r"\[M, N\]"])


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(call, id=name, marks=pytest.mark.slow if "inclusion_" in name else ())
        for name, call in FUNCTIONS.items()
    ],
)
def test_traced_values_are_not_checked(call):
    """A traced NaN cannot be rejected, and tracing goes on."""
    jax.eval_shape(lambda f: call(f, (2,)), FIVE * NAN)


def test_masks_of_experts_without_slots_are_accepted():
    array = logits([-INF] * 5, [0, 1, 2, -INF, -INF])
    validation.check_logits(array, (0, 3))
    rejected(lambda: validation.check_logits(array, (1, 2)), ["expert 0 has 0 eligible"])


def test_eligible_items_are_counted_per_expert():
    """Only items that earlier experts may take as well add to the number that an expert needs."""
    halves = logits([0, 0, -INF, -INF], [-INF, -INF, 0, 0])
    validation.check_logits(halves, (2, 2))
    shared = logits([0, 0, -INF, -INF], [-INF, 0, 0, -INF])
    words = ["expert 1 has 2 eligible", "need 3: 1 of them may be taken by earlier experts"]
    rejected(lambda: validation.check_logits(shared, (2, 2)), words)


def test_float32_overflow_is_rejected():
    huge = np.array([[0.0, 1e300]])
    validation.check_logits(huge, (1,))
    jax.config.update("jax_enable_x64", False)
    try:
        rejected(lambda: validation.check_logits(huge, (1,)), [r"logits\[0, 1\] is inf"])
    finally:
        jax.config.update("jax_enable_x64", True)


@pytest.mark.parametrize("estimator", ["v_pg", "v_pg_swr"])
def test_ranked_items_must_be_candidates(estimator):
    outsider = jnp.array([4], jnp.int32)
    rejected(
        lambda: rankpg.score(estimator, FIVE, CANDIDATES, outsider, (2,)),
        ["ranking contains the item 4", "not one of the candidates"],
    )


def test_bools_are_not_counts():
    rejected(lambda: validation.check_logits(FIVE, (True,)), ["quotas=", "tuple of ints"])
    rejected(lambda: rankpg.expert_quotas(True, 1), ["num_candidates=True"])


def test_good_arguments_pass():
    validation.check_logits(FIVE, (5,))
    validation.check_logits(np.asarray(FIVE), (1,))
    validation.check_logits(FIVE.astype(jnp.bfloat16), (np.int64(2),))
    validation.check_items("item", 4, 5, ())
    validation.check_items("candidates", np.array([4, 0]), 5, (2,))


BAD_ITEMS = {
    "past the end": (jnp.array([0, 5], jnp.int32), ["candidates", "item 5", "0 to 4"]),
    "negative": (jnp.array([-1, 2], jnp.int32), ["candidates", "item -1", "0 to 4"]),
    "repeated": (jnp.array([3, 3], jnp.int32), ["candidates", "item 3", "more than once"]),
    "floats": (jnp.array([0.0, 2.0], jnp.float32), ["candidates", "float32", "integer"]),
    "booleans": (jnp.array([True, False]), ["candidates", "bool", "integer"]),
    "too few": (jnp.array([1], jnp.int32), ["candidates", r"shape \(1,\)", r"\[2\]"]),
    "too many": (jnp.array([1, 2, 3], jnp.int32), ["candidates", r"shape \(3,\)", r"\[2\]"]),
    "a matrix": (jnp.array([[1, 2]], jnp.int32), ["candidates", r"shape \(1, 2\)", r"\[2\]"]),
}
ITEM_FUNCTIONS = {
    "log_prob": lambda items: rankpg.log_prob(FIVE, items, (2,)),
    "log_prob_swr": lambda items: rankpg.log_prob_swr(FIVE, items, (2,)),
    "score": lambda items: rankpg.score("v_pg", FIVE, items, RANKING, (2,)),
}


@pytest.mark.parametrize("call", ITEM_FUNCTIONS.values(), ids=ITEM_FUNCTIONS.keys())
@pytest.mark.parametrize("case", BAD_ITEMS.values(), ids=BAD_ITEMS.keys())
def test_bad_candidates_are_rejected(call, case):
    items, words = case
    rejected(lambda: call(items), words)


BAD_RANKINGS = {
    "past the end": (jnp.array([7], jnp.int32), ["ranking", "item 7", "0 to 4"]),
    "repeated": (jnp.array([1, 1], jnp.int32), ["ranking", "item 1", "more than once"]),
    "floats": (jnp.array([1.0], jnp.float32), ["ranking", "float32"]),
    "a number": (jnp.int32(1), ["ranking", r"shape \(\)", r"\[L\]"]),
}


@pytest.mark.parametrize("case", BAD_RANKINGS.values(), ids=BAD_RANKINGS.keys())
def test_bad_rankings_are_rejected(case):
    ranking, words = case
    rejected(lambda: rankpg.score("ca_pg", FIVE, CANDIDATES, ranking, (2,)), words)


BAD_SINGLE_ITEMS = {
    "past the end": (5, ["item contains the item 5", "0 to 4"]),
    "negative": (-1, ["item contains the item -1", "0 to 4"]),
    "a float": (1.5, ["item has dtype float", "integer"]),
    "an array": (jnp.array([1], jnp.int32), [r"item has shape \(1,\)", r"shape \[\]"]),
}


@pytest.mark.parametrize("case", BAD_SINGLE_ITEMS.values(), ids=BAD_SINGLE_ITEMS.keys())
def test_bad_items_are_rejected(case):
    item, words = case
    rejected(lambda: rankpg.log_inclusion(FIVE, item, (2,), "swr"), words)
    rejected(lambda: rankpg.log_inclusion_large(FIVE, item, (2,)), words)
    rejected(lambda: rankpg.log_inclusion_threshold(jax.random.key(0), FIVE, item, (2,)), words)


def test_unknown_method_is_rejected():
    words = ["method='gredy'", "exact, greedy, swr, sum", "log_inclusion_threshold"]
    rejected(lambda: rankpg.log_inclusion(FIVE, 1, (2,), "gredy"), words)
    rejected(lambda: rankpg.log_inclusion(FIVE, 1, (2,), "threshold"), ["'threshold'", "key"])


def test_exact_inclusion_needs_one_expert():
    words = ["'exact'", "M = 1", r"\(1, 1\)", "2", "'greedy'", "log_inclusion_threshold"]
    rejected(lambda: rankpg.log_inclusion(TWO_EXPERTS, 1, (1, 1), "exact"), words)
    rejected(lambda: rankpg.log_inclusion(TWO_EXPERTS, 1, (1, 1)), words)  # the default method
    words = ["log_inclusion_large", "M = 1", r"\(1, 1\)", "2", "log_inclusion_threshold"]
    rejected(lambda: rankpg.log_inclusion_large(TWO_EXPERTS, 1, (1, 1)), words)


@pytest.mark.parametrize("head", [-1, 2.0, True, "all"])
def test_bad_head_is_rejected(head):
    words = [f"head={head!r}", "whole number of at least 0", "4 K"]
    rejected(lambda: rankpg.log_inclusion_large(FIVE, 1, (2,), head), words)


def test_unknown_estimator_is_rejected():
    message = rejected(
        lambda: rankpg.score("ca-pg", FIVE, CANDIDATES, RANKING, (2,)),
        ["estimator='ca-pg'", "expected one"],
    )
    assert all(name in message for name in rankpg.ESTIMATORS)
    rejected(lambda: check_estimator("", 1), ["''"])


def test_ca_pg_exact_needs_one_expert():
    message = rejected(
        lambda: rankpg.score("ca_pg_exact", TWO_EXPERTS, CANDIDATES, RANKING, (1, 1)),
        ["'ca_pg_exact'", "at most 1 expert", "num_experts=2"],
    )
    others = [name for name, one in rankpg.ESTIMATORS.items() if one.max_experts is None]
    assert set(rankpg.ESTIMATORS) - set(others) == {"ca_pg_exact", "v_pg_set", "value_based"}
    assert all(name in message for name in others)
    assert check_estimator("ca_pg_exact", 1) is rankpg.ESTIMATORS["ca_pg_exact"]


def test_ca_pg_threshold_needs_its_key():
    words = ["'ca_pg_threshold'", "key=", "sample_candidates"]
    rejected(lambda: rankpg.score("ca_pg_threshold", FIVE, CANDIDATES, RANKING, (2,)), words)


@pytest.mark.parametrize(
    ("slots", "experts", "words"),
    [
        (0, 1, "num_candidates=0"),
        (3, 0, "num_experts=0"),
        (-2, 2, "num_candidates=-2"),
        (3.5, 2, "num_candidates=3.5"),
    ],
)
def test_bad_counts_are_rejected(slots, experts, words):
    rejected(lambda: rankpg.expert_quotas(slots, experts), [words, "at least 1"])


def test_numpy_arrays_are_accepted():
    """Logits and ids may be NumPy arrays, as arguments and as constants of a compiled function."""
    array, items = np.asarray(FIVE), np.array([0, 2])
    calls = [
        (rankpg.greedy_candidates, (array, (2,)), (FIVE, (2,))),
        (rankpg.log_prob, (array, items, (2,)), (FIVE, CANDIDATES, (2,))),
        (rankpg.log_inclusion, (array, np.int64(3), (2,), "swr"), (FIVE, 3, (2,), "swr")),
    ]
    pairs = jax.jit(lambda: [(f(*given), f(*usual)) for f, given, usual in calls])()
    for found, expected in pairs:
        np.testing.assert_array_equal(found, expected)


# --- importing --------------------------------------------------------------------------------------------

IMPORT_WITHOUT = """
    import importlib.abc, sys

    MISSING = {"jaxtyping", "beartype", "matplotlib", "pyarrow", "pandas"}

    class Missing(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in MISSING:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Missing())
    import chex, flax.nnx, jax, jax.numpy as jnp, optax  # may bring yaml and rich along
    sys.modules["yaml"] = sys.modules["rich"] = None  # from here on, importing them fails
    import rankpg

    candidates = rankpg.sample_candidates(jax.random.key(0), jnp.zeros((1, 5)), (2,))
    print(candidates.shape, sorted(MISSING & set(sys.modules)))
"""


@pytest.mark.slow
def test_core_imports_without_optional_packages(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(IMPORT_WITHOUT)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, map(os.path.abspath, sys.path))),
        },
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["(2,)", "[]"]


def test_public_names():
    for name in rankpg.__all__:
        assert hasattr(rankpg, name)
    assert list(rankpg.ESTIMATORS) == [
        "v_pg", "v_pg_swr", "ca_pg", "ca_pg_exact", "ca_pg_swr", "top1_pg", "ca_pg_threshold",
        "v_pg_set", "ca_pg_swap", "value_based", "model_guided",
    ]  # fmt: skip
