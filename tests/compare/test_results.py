"""Saved results: what comes back, and what counts as not finished."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rankpg.compare.results import (
    Result,
    Schedule,
    Trial,
    key_of,
    load_result,
    result_file,
    save_result,
)

ENABLE_X64 = False


@pytest.fixture
def result():
    trials = (
        Trial({"l2": 1.0}, None, seconds=1.0, failure="too small"),
        Trial({"l2": 2.0}, 0.5, Schedule(20, 30, 10, True), 2.0),
        Trial({"l2": 3.0}, 0.5, seconds=4.0),
    )
    return Result("ease", trials, {"ndcg@10": np.arange(6.0).reshape(2, 3)}, {"gini@10": 0.2}, 9.0)


def test_a_saved_result_comes_back(result, tmp_path):
    file = result_file(tmp_path, "ease", "abc" * 10)
    save_result(file, result, "key")
    found = load_result(file, "key")
    assert (
        dataclasses.replace(found, values={}).__dict__
        == dataclasses.replace(result, values={}).__dict__
    )
    np.testing.assert_array_equal(found.values["ndcg@10"], result.values["ndcg@10"])
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]  # no partial file


def test_damaged_or_foreign_files_are_not_finished(result, tmp_path):
    file = tmp_path / "ease.npz"
    assert load_result(file, "key") is None
    save_result(file, result, "key")
    assert load_result(file, "other") is None
    content = file.read_bytes()
    for broken in (content[:40], content[:-30], b"", b"nonsense"):
        file.write_bytes(broken)
        assert load_result(file, "key") is None


def test_chosen_is_the_first_of_the_best(result):
    assert result.chosen.settings == {"l2": 2.0}
    assert result.tuning_seconds == 7.0
    np.testing.assert_array_equal(result.users("ndcg@10"), [1.5, 2.5, 3.5])


def test_key_depends_on_parts_and_settings(data, tmp_path):
    own = key_of(data, seeds=(0,))
    later = data.parts._replace(train_ends=data.parts.train_ends - 1)
    others = [
        key_of(data, seeds=(1,)),
        key_of(data, seeds=(0,), trials=2),
        key_of(dataclasses.replace(data, parts=later), seeds=(0,)),
    ]
    assert own == key_of(data, seeds=(0,))
    assert own not in others
    with pytest.raises(ValueError, match="letters"):
        result_file(tmp_path, "../x", own)
