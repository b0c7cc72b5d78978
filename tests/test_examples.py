"""The scripts of docs/examples run, at toy size, with the real parts."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import jax
import pytest

ENABLE_X64 = False
EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"


@pytest.fixture(autouse=True)
def as_users_have_it(jax_flags):
    """Scripts run without the strict flags of the other tests."""
    before = jax.config.jax_numpy_dtype_promotion, jax.config.jax_numpy_rank_promotion
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    jax.config.update("jax_numpy_rank_promotion", "allow")
    yield
    jax.config.update("jax_numpy_dtype_promotion", before[0])
    jax.config.update("jax_numpy_rank_promotion", before[1])


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
