"""What is refused, and with which words: every message names the value at fault."""

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
from rankpg.core import validation as checks
from rankpg.core.estimators import check_estimator

INF, NAN = np.inf, np.nan
CANDIDATES, RANKING = jnp.array([0, 2], jnp.int32), jnp.array([2], jnp.int32)


@pytest.fixture(scope="module", autouse=True)
def no_shape_checks_at_run_time():
    """What a user calls: the shape checks that the other tests run under would refuse first."""
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

BAD_SHAPES = {  # name: logits, quotas, what the message must say
    "one dimension": (FIVE[0], (2,), [r"shape \(5,\)", r"\[M, N\]", r"logits\[None, :\]"]),
    "three dimensions": (FIVE[None], (2,), [r"shape \(1, 1, 5\)", "jax.vmap"]),
    "a number": (jnp.float32(1), (2,), [r"shape \(\)"]),
    "integers": (FIVE.astype(jnp.int32), (2,), ["int32", "float"]),
    "booleans": (FIVE > 1, (2,), ["bool", "float"]),
    "K above N": (FIVE, (6,), ["K = 6", "N = 5"]),
    "K above N in sum": (TWO_EXPERTS, (3, 3), [r"\(3, 3\)", "K = 6", "N = 5"]),
    "too many quotas": (FIVE, (1, 1), [r"\(1, 1\)", "2 experts", "1 row"]),
    "too few quotas": (TWO_EXPERTS, (2,), [r"\(2,\)", "1 expert", "2 row"]),
    "no quotas": (FIVE, (), [r"\(\)", "0 experts"]),
    "a negative quota": (TWO_EXPERTS, (3, -1), [r"\(3, -1\)", "non-negative"]),
    "quotas of zero": (TWO_EXPERTS, (0, 0), [r"\(0, 0\)", "at least 1"]),
    "a list": (FIVE, [2], [r"\[2\]", "tuple of ints"]),
    "a number for quotas": (FIVE, 2, ["quotas is 2", "tuple of ints"]),
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


def refused(call, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are matched below
        call()
    for word in words:
        assert caught.match(word)
    return str(caught.value)


@by_function
@pytest.mark.parametrize("case", BAD_SHAPES.values(), ids=BAD_SHAPES.keys())
def test_bad_shapes_are_refused(call, case):
    array, quotas, words = case
    refused(lambda: call(array, quotas), words)


@by_function
@pytest.mark.parametrize("case", BAD_VALUES.values(), ids=BAD_VALUES.keys())
def test_bad_values_are_refused(call, case):
    array, quotas, words = case
    refused(lambda: call(array, quotas), words)


@by_function
def test_shapes_are_checked_under_jit(call):
    refused(lambda: jax.eval_shape(lambda f: call(f, (6,)), FIVE), ["K = 6", "N = 5"])
    refused(lambda: jax.eval_shape(lambda f: call(f, (2,)), FIVE[0]), [r"\[M, N\]"])


@by_function
def test_values_are_not_known_under_jit(call):
    """A traced NaN cannot be refused; that must not stop the trace."""
    jax.eval_shape(lambda f: call(f, (2,)), FIVE * NAN)


def test_a_mask_that_an_idle_expert_has_is_no_error():
    array = logits([-INF] * 5, [0, 1, 2, -INF, -INF])
    checks.check_logits(array, (0, 3))
    refused(lambda: checks.check_logits(array, (1, 2)), ["expert 0 has 0 eligible"])


def test_experts_may_own_parts_of_the_catalogue():
    """Nobody else takes what only one of them may take, so each needs its own quota and no more."""
    halves = logits([0, 0, -INF, -INF], [-INF, -INF, 0, 0])
    checks.check_logits(halves, (2, 2))
    shared = logits([0, 0, -INF, -INF], [-INF, 0, 0, -INF])
    words = ["expert 1 has 2 eligible", "need 3: 1 of them may be taken by earlier experts"]
    refused(lambda: checks.check_logits(shared, (2, 2)), words)


def test_what_overflows_in_float32_is_refused_as_what_it_becomes():
    huge = np.array([[0.0, 1e300]])
    checks.check_logits(huge, (1,))
    jax.config.update("jax_enable_x64", False)
    try:
        refused(lambda: checks.check_logits(huge, (1,)), [r"logits\[0, 1\] is inf"])
    finally:
        jax.config.update("jax_enable_x64", True)


@pytest.mark.parametrize("estimator", ["v_pg", "v_pg_swr"])
def test_a_candidate_set_is_scored_for_what_it_can_show(estimator):
    stranger = jnp.array([4], jnp.int32)
    refused(
        lambda: rankpg.score(estimator, FIVE, CANDIDATES, stranger, (2,)),
        ["ranking holds the item 4", "none of the candidates"],
    )


def test_a_truth_value_is_no_count():
    refused(lambda: checks.check_logits(FIVE, (True,)), ["quotas is", "tuple of ints"])
    refused(lambda: rankpg.expert_quotas(True, 1), ["num_candidates is True"])


def test_good_input_passes():
    checks.check_logits(FIVE, (5,))
    checks.check_logits(np.asarray(FIVE), (1,))
    checks.check_logits(FIVE.astype(jnp.bfloat16), (np.int64(2),))
    checks.check_items("item", 4, 5, ())
    checks.check_items("candidates", np.array([4, 0]), 5, (2,))


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
def test_bad_candidates_are_refused(call, case):
    items, words = case
    refused(lambda: call(items), words)


BAD_RANKINGS = {
    "past the end": (jnp.array([7], jnp.int32), ["ranking", "item 7", "0 to 4"]),
    "repeated": (jnp.array([1, 1], jnp.int32), ["ranking", "item 1", "more than once"]),
    "floats": (jnp.array([1.0], jnp.float32), ["ranking", "float32"]),
    "a number": (jnp.int32(1), ["ranking", r"shape \(\)", r"\[L\]"]),
}


@pytest.mark.parametrize("case", BAD_RANKINGS.values(), ids=BAD_RANKINGS.keys())
def test_bad_rankings_are_refused(case):
    ranking, words = case
    refused(lambda: rankpg.score("ca_pg", FIVE, CANDIDATES, ranking, (2,)), words)


BAD_SINGLE_ITEMS = {
    "past the end": (5, ["item holds the item 5", "0 to 4"]),
    "negative": (-1, ["item holds the item -1", "0 to 4"]),
    "a float": (1.5, ["item has dtype float", "integer"]),
    "an array": (jnp.array([1], jnp.int32), [r"item has shape \(1,\)", r"shape \[\]"]),
}


@pytest.mark.parametrize("case", BAD_SINGLE_ITEMS.values(), ids=BAD_SINGLE_ITEMS.keys())
def test_bad_items_are_refused(case):
    item, words = case
    refused(lambda: rankpg.log_inclusion(FIVE, item, (2,), "swr"), words)
    refused(lambda: rankpg.log_inclusion_large(FIVE, item, (2,)), words)
    refused(lambda: rankpg.log_inclusion_threshold(jax.random.key(0), FIVE, item, (2,)), words)


def test_an_unknown_method_is_refused():
    words = ["'gredy'", "exact, greedy, swr, sum", "log_inclusion_threshold"]
    refused(lambda: rankpg.log_inclusion(FIVE, 1, (2,), "gredy"), words)
    refused(lambda: rankpg.log_inclusion(FIVE, 1, (2,), "threshold"), ["'threshold'", "key"])


def test_exact_inclusion_is_refused_for_several_experts():
    words = ["'exact'", "M = 1", r"\(1, 1\)", "2", "'greedy'", "log_inclusion_threshold"]
    refused(lambda: rankpg.log_inclusion(TWO_EXPERTS, 1, (1, 1), "exact"), words)
    refused(lambda: rankpg.log_inclusion(TWO_EXPERTS, 1, (1, 1)), words)  # the default method
    words = ["log_inclusion_large", "M = 1", r"\(1, 1\)", "2", "log_inclusion_threshold"]
    refused(lambda: rankpg.log_inclusion_large(TWO_EXPERTS, 1, (1, 1)), words)


@pytest.mark.parametrize("head", [-1, 2.0, True, "all"])
def test_a_bad_head_is_refused(head):
    words = [f"head is {head!r}", "whole number of at least 0", "4 K"]
    refused(lambda: rankpg.log_inclusion_large(FIVE, 1, (2,), head), words)


def test_an_unknown_estimator_is_refused():
    message = refused(
        lambda: rankpg.score("ca-pg", FIVE, CANDIDATES, RANKING, (2,)), ["'ca-pg'", "expected one"]
    )
    assert all(name in message for name in rankpg.ESTIMATORS)
    refused(lambda: check_estimator("", 1), ["''"])


def test_ca_pg_exact_is_refused_for_several_experts():
    message = refused(
        lambda: rankpg.score("ca_pg_exact", TWO_EXPERTS, CANDIDATES, RANKING, (1, 1)),
        ["'ca_pg_exact'", "at most 1 expert", "num_experts is 2"],
    )
    others = [name for name in rankpg.ESTIMATORS if name != "ca_pg_exact"]
    assert all(name in message for name in others)
    assert check_estimator("ca_pg_exact", 1) is rankpg.ESTIMATORS["ca_pg_exact"]


def test_ca_pg_threshold_is_refused_without_its_key():
    words = ["'ca_pg_threshold'", "key=", "sample_candidates"]
    refused(lambda: rankpg.score("ca_pg_threshold", FIVE, CANDIDATES, RANKING, (2,)), words)


@pytest.mark.parametrize(
    ("slots", "experts", "said"),
    [
        (0, 1, "num_candidates is 0"),
        (3, 0, "num_experts is 0"),
        (-2, 2, "num_candidates is -2"),
        (3.5, 2, "num_candidates is 3.5"),
    ],
)
def test_bad_counts_for_expert_quotas_are_refused(slots, experts, said):
    refused(lambda: rankpg.expert_quotas(slots, experts), [said, "at least 1"])


def test_numpy_arrays_are_accepted():
    """A user's logits and ids are often numpy arrays; nothing about them is wrong."""
    array, items = np.asarray(FIVE), np.array([0, 2])
    same = [
        (rankpg.greedy_candidates, (array, (2,)), (FIVE, (2,))),
        (rankpg.log_prob, (array, items, (2,)), (FIVE, CANDIDATES, (2,))),
        (rankpg.log_inclusion, (array, np.int64(3), (2,), "swr"), (FIVE, 3, (2,), "swr")),
    ]
    for function, given, usual in same:
        np.testing.assert_array_equal(function(*given), function(*usual))


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
def test_the_core_imports_without_optional_packages(tmp_path):
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


def test_the_public_names():
    for name in rankpg.__all__:
        assert hasattr(rankpg, name)
    assert list(rankpg.ESTIMATORS) == [
        "v_pg", "v_pg_swr", "ca_pg", "ca_pg_exact", "ca_pg_swr", "top1_pg", "ca_pg_threshold",
    ]  # fmt: skip
