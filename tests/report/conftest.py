"""Small trained runs that the tests of this folder share."""

from __future__ import annotations

import pytest
from helpers.small_runs import train_into

from rankpg.runs.storage.load import load_run


@pytest.fixture(scope="module")
def two_seeds(tmp_path_factory):
    """Folder of a run with two seeds."""
    folder = tmp_path_factory.mktemp("runs") / "two_seeds"
    train_into(folder)
    return folder


@pytest.fixture(scope="module")
def run(two_seeds):
    """The run of that folder, loaded."""
    return load_run(two_seeds)
