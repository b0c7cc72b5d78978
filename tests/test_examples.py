"""The scripts of docs/examples run, at toy size, with the real parts."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

ENABLE_X64 = False
EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"


pytestmark = pytest.mark.usefixtures("as_scripts_run")


@pytest.mark.slow
def test_a_lambdamart_of_lightgbm(tmp_path, capsys):
    script = runpy.run_path(str(EXAMPLES / "lightgbm_reranker.py"))
    means = script["main"](["--toy", "--out", str(tmp_path / "numbers.json")])
    report = json.loads((tmp_path / "numbers.json").read_text())
    assert report["means"] == means
    assert list(means) == [
        "start", "softmax", "rankpg", "softmax, then rankpg", "LambdaMART on all items",
    ]  # fmt: skip
    data = script["make_clicks"](40, 30)
    ideal = data["chance"].copy()
    ideal.sort(axis=1)
    for arm in means.values():  # no list is worth more than the best five items of every user
        assert 0 < arm["final_reward"] <= ideal[:, -5:].sum(axis=1).max()
        assert (
            20 / 30 - 0.3 < arm["candidate_recall"] <= 1
        )  # 20 of 30 items at random hold two thirds
    assert "recall@20" in capsys.readouterr().out
