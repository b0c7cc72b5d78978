"""The card of an export."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from helpers.exports import ITEMS, USERS, K, make_data, make_run, manifest_of

from rankpg import TrainConfig
from rankpg.export.folder import export
from rankpg.runs.run import prepare
from rankpg.runs.train import train

ENABLE_X64 = False
pytestmark = pytest.mark.usefixtures("as_a_user")


def test_card_describes_the_export(exported):
    run, folder = exported()
    text = (folder / "CARD.md").read_text()
    for line in (
        "M = 3, N = 300, D = 10, K = 7", "usearch (hnsw", f"numbers: {run.dataset.fingerprint()['numbers']}",
        "temperature: 0.3", f"jax: {jax.__version__}", "never evaluated", "## Limits",
    ):  # fmt: skip
        assert line in text


def test_card_of_own_data_omits_generator_settings(exported):
    text = (exported()[1] / "CARD.md").read_text()
    assert "- data of your own, 300 items, 12 contexts" in text
    for line in ("environment: synthetic", "num_items: ", "num_contexts: ", "num_features: "):
        assert f"- {line}" not in text


@pytest.mark.slow
def test_card_of_generated_data_has_all_settings(tmp_path):
    run = prepare(TrainConfig(num_contexts=5, num_items=6, num_candidates=2, num_steps=1))
    text = (export(run, tmp_path / "out", index="none") / "CARD.md").read_text()
    assert "of your own" not in text
    assert all(f"- {line}" in text for line in ("environment: synthetic", "num_items: 6"))


@pytest.mark.slow
def test_card_of_changed_catalogue_dates_its_metrics(tmp_path):
    config = TrainConfig(num_candidates=K, num_steps=2, eval_every=2, seeds=(0,))
    run = train(config, make_data()).without_items(ITEMS[:5])
    text = (export(run, tmp_path / "out", index="none") / "CARD.md").read_text()
    assert "N = 295" in text
    assert "- data of your own, 295 items, 12 contexts" in text
    assert f"policy_value: {run.metrics[-1]['policy_value']:.5g}" in text
    assert "the metrics are from training, on the catalogue and the contexts of that time" in text
    assert "do not cover items and contexts that were added or removed" in text


def test_card_mentions_masks(tmp_path):
    data = make_data(eligible=np.random.default_rng(0).uniform(size=(len(USERS), len(ITEMS))) < 0.5)
    folder = export(make_run(data), tmp_path / "out", index="none")
    assert manifest_of(folder)["masks"]
    assert "Training restricted the items of each context" in (folder / "CARD.md").read_text()
