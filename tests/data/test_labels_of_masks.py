"""Masks of eligible items as tables of pandas: found by label, whatever type of True and False they have."""

from __future__ import annotations

import numpy as np
import pandas
import pytest

from rankpg.environments.catalogue import catalogue
from rankpg.environments.from_ratings import from_triples
from rankpg.runs.recommend import allowed_items

OF_TEXT = from_triples(["x", "y", "y"], ["a", "b", "c"], [1.0, 2.0, 3.0])
OF_NUMBERS = from_triples([7, 8, 8], [0, 1, 10], [1.0, 2.0, 3.0])


@pytest.mark.parametrize("kind", [bool, "boolean"])
def test_a_mask_is_found_by_label(kind):
    series = pandas.Series([True, False, False], index=["c", "a", "b"], dtype=kind)
    assert allowed_items(series, OF_TEXT, ["x", "y"]).tolist() == [False, False, True]
    table = pandas.DataFrame(
        [[True, False, False], [False, True, True]], index=["y", "x"], columns=["c", "a", "b"]
    )
    assert allowed_items(table.astype(kind), OF_TEXT, ["x", "y"]).tolist() == [
        [True, True, False],
        [False, False, True],
    ]


def test_zeros_and_ones_for_every_item_are_not_taken_for_ids():
    with pytest.raises(ValueError, match="all of them 0 or 1"):
        allowed_items(np.array([1, 0, 1]), OF_NUMBERS, [7, 8])
    assert allowed_items([1, 0], OF_NUMBERS, [7, 8]).tolist() == [True, True, False]
    assert allowed_items([10, 0, 1], OF_NUMBERS, [7, 8]).tolist() == [True, True, True]


def test_labels_that_a_catalogue_of_row_numbers_cannot_match_are_refused():
    mask = np.ones((2, 3), bool)
    with pytest.raises(ValueError, match="column labels such as"):
        catalogue(2, 3, eligible=pandas.DataFrame(mask, columns=[2, 0, 1]))
    with pytest.raises(ValueError, match="row labels such as"):
        catalogue(2, 3, eligible=pandas.DataFrame(mask, index=["y", "x"]))
    assert catalogue(2, 3, eligible=pandas.DataFrame(mask)).where is not None
    features = pandas.DataFrame(np.ones((3, 2)), columns=["age", "price"])
    assert catalogue(2, 3, item_features=features).item_features is not None
