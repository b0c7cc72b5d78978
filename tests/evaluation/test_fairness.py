"""rND, rKL and rRD against enumeration of all rankings."""

from __future__ import annotations

import itertools
import math

import jaxtyping
import numpy as np
import pytest

from rankpg.evaluation.fairness import MEASURES

ENABLE_X64 = False


def discounted(name: str, ranking: tuple[bool, ...], members: int, total: int, every: int) -> float:
    """The sum of the paper without its normaliser."""
    value = 0.0
    for i in range(every, len(ranking) + 1, every):
        inside, p = sum(ranking[:i]), members / total
        share = inside / i
        if name == "rND":
            distance = abs(share - p)
        elif name == "rKL":
            pairs = ((share, p), (1 - share, 1 - p))
            distance = sum(a * math.log(a / b) for a, b in pairs if a > 0)
        else:
            outside = i - inside
            here = inside / outside if inside and outside else 0
            distance = abs(here - members / (total - members))
        value += distance / math.log2(i)
    return value


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize(
    ("total", "members", "length", "every"),
    [(8, 2, 8, 2), (8, 5, 8, 3), (9, 4, 9, 2), (7, 1, 7, 2), (9, 4, 5, 2), (10, 3, 6, 3), (9, 8, 4, 4)],
)  # fmt: skip
def test_fairness_matches_enumeration_of_all_rankings(name, total, members, length, every):
    """The normaliser is the maximum over all rankings."""
    orders = {
        tuple(i in chosen for i in range(total))[:length]
        for chosen in itertools.combinations(range(total), members)
    }
    rankings = sorted(orders)
    totals = np.array([discounted(name, r, members, total, every) for r in rankings])
    measured = MEASURES[name](np.array(rankings), total, members, every)
    np.testing.assert_allclose(measured, totals / totals.max(), atol=1e-12)
    assert measured.max() == pytest.approx(1)


def test_fairness_orders_fair_random_and_segregated_rankings():
    in_group = np.arange(200) < 60
    fair = (np.arange(200) % 10) < 3
    random = in_group[np.random.default_rng(0).permutation(200)]
    for function in MEASURES.values():
        values = [float(function(ranking)) for ranking in (fair, random, in_group)]
        assert values[0] == 0
        assert values[0] < values[1] < values[2] <= 1


@pytest.mark.parametrize(
    ("ranking", "options", "words"),
    [
        (np.ones(12, bool), {}, "12 of 12"),
        (np.zeros(12, bool), {}, "0 of 12"),
        (np.arange(12) < 3, {"every": 1}, "every=1"),
        (np.arange(12) < 3, {"every": 13}, "every=13"),
        (np.arange(12), {}, "bool"),
        (np.arange(12) < 3, {"num_items": 5}, "num_items=5"),
        (np.arange(12) < 3, {"num_in_group": 2}, "holds 3 items"),
        (np.stack([np.arange(12) < 3, np.arange(12) < 4]), {}, "the same items"),
        (np.arange(12) < 3, {"every": 12}, "parity"),
        (np.zeros((0, 20), bool), {}, r"in_group has shape \(0, 20\)"),
    ],
)
def test_invalid_rankings_are_rejected(ranking, options, words):
    for function in MEASURES.values():
        with pytest.raises(ValueError, match=words):
            function(ranking, **options)


def test_fractional_cutoffs_are_rejected(monkeypatch):
    """Run without the type checks of the tests, as for users."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for function in MEASURES.values():
        with pytest.raises(ValueError, match=r"every=2\.5; expected a whole number"):
            function(np.arange(12) < 3, every=2.5)
