"""The data of the tuning and of the final fit, against loops over the rows of the log."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest

from rankpg import ConfigError
from rankpg.compare.stages import Stage, check_parts, final_stage, tuning_stage
from rankpg.environments import from_interactions, from_matrix

ENABLE_X64 = False
SPLITS = ("last", "time", "random", "user")


def rows_by_user(data):
    """The items of each user, in the order of the environment: history, validation, test."""
    starts, sequence = (
        np.asarray(x) for x in (data.environment.row_starts, data.environment.sequence)
    )
    return [sequence[begin:end].tolist() for begin, end in pairwise(starts)]


@pytest.mark.parametrize("split", SPLITS)
def test_seen_and_relevant_items_of_both_stages(columns, split):
    data = from_interactions(columns, validation_share=0.2, split=split)
    parts = data.parts
    for stage, begins, ends in (
        (tuning_stage(data), parts.train_ends, parts.validation_ends),
        (final_stage(data), parts.validation_ends, parts.test_ends),
    ):
        users = []
        for user, items in enumerate(rows_by_user(data)):
            seen = np.zeros(data.environment.num_items)
            seen[items[: begins[user]]] = 1
            np.testing.assert_array_equal(stage.seen[[user]].toarray()[0], seen)
            if ends[user] > begins[user]:
                place = len(users)
                users.append(user)
                first, last = stage.part.relevant[0][place : place + 2]
                assert (
                    stage.part.relevant[1][first:last].tolist() == items[begins[user] : ends[user]]
                )
        assert stage.part.users.tolist() == users
        assert stage.data.parts.validation().width == 1  # no validation part
        assert stage.eligible == data.environment.num_items - max(begins)


def test_values_are_weights(columns):
    values = np.arange(1.0, len(columns["user"]) + 1)
    data = from_interactions({**columns, "rating": values}, validation_share=0.1)
    for stage in (tuning_stage(data), final_stage(data)):
        for user in (0, 7):
            first = 12 * user
            items = columns["item"][first : first + 3]
            found = stage.seen[[user]].toarray()[0][items]
            assert found.tolist() == values[first : first + 3].tolist()


@pytest.mark.parametrize("split", SPLITS)
def test_the_tuning_has_no_test_row(columns, split):
    data = from_interactions(columns, validation_share=0.2, split=split)
    stage = tuning_stage(data)
    for user, (known, every) in enumerate(
        zip(rows_by_user(stage.data), rows_by_user(data), strict=True)
    ):
        assert known == every[: data.parts.validation_ends[user]]
    assert stage.data.parts.test_ends.max() == data.parts.validation_ends.max()


def test_tags_stay(columns):
    tags = {"item": list(range(40)), "genre": [str(i % 4) for i in range(40)]}
    data = from_interactions(columns, items=tags, validation_share=0.1)
    for stage in (tuning_stage(data), final_stage(data)):
        np.testing.assert_array_equal(stage.data.environment.item_tags, data.environment.item_tags)


def test_metrics_of_lists_by_hand(data):
    stage = final_stage(data)
    starts, items = stage.part.relevant
    lists = np.full((len(stage.part.users), 3), -1, np.int32)
    lists[:, 0] = items[starts[:-1]]  # one of the two test items, at the first place
    found = stage.metrics(lists, (3,))
    assert set(np.diff(starts)) == {2}
    np.testing.assert_allclose(found["recall@3"], 0.5)
    np.testing.assert_allclose(found["ndcg@3"], 1 / (1 + 1 / np.log2(3)))
    shown = stage.catalogue(lists, (3,))
    assert shown["coverage@3"] == len(np.unique(lists[:, 0])) / 40
    counts = (stage.seen.toarray() > 0).sum(axis=0)[lists[:, 0]]
    assert shown["novelty@3"] == pytest.approx(np.mean(-np.log2(counts / 60)))


def test_most_users_are_a_fixed_choice(data):
    stage = tuning_stage(data)
    few = Stage.of(stage.data, 7).part.users
    assert len(few) == 7
    assert few.tolist() == Stage.of(stage.data, 7).part.users.tolist()


@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_missing_part_names_its_share(data, part):
    ends = data.parts.train_ends if part == "validation" else data.parts.test_ends
    parts = data.parts._replace(validation_ends=ends)
    with pytest.raises(ConfigError, match=rf"{part} part of 0 users.*{part}_share=0\.[12]"):
        check_parts(dataclasses.replace(data, parts=parts))


def test_other_data_is_refused():
    from rankpg.environments.dataset import Dataset

    data = Dataset.of(from_matrix(np.eye(4)))
    with pytest.raises(ConfigError, match=r"without parts.*from_interactions.*validation_share"):
        check_parts(data)
    check_parts(dataclasses.replace(_two_users(), notes=()))


def _two_users():
    log = {"user": [1] * 5 + [2] * 5, "item": list(range(5)) * 2}
    return from_interactions(log, validation_share=0.2, split="random")
