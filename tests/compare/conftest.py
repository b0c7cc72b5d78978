"""A small log in which users of four kinds take items of their kind first."""

from __future__ import annotations

import numpy as np
import pytest

from rankpg.compare import trained
from rankpg.environments import from_interactions

NUM_USERS, NUM_ITEMS, LENGTH = 60, 40, 12


def log():
    """Columns of 60 users x 12 of 40 items, in the order of time."""
    draw = np.random.default_rng(0)
    users, items, times = [], [], []
    for user in range(NUM_USERS):
        weights = np.where(np.arange(NUM_ITEMS) % 4 == user % 4, 8.0, 1.0)
        chosen = draw.choice(NUM_ITEMS, LENGTH, replace=False, p=weights / weights.sum())
        users += [user] * LENGTH
        items += chosen.tolist()
        times += range(LENGTH)
    return {"user": users, "item": items, "timestamp": times}


@pytest.fixture(scope="session")
def columns():
    return log()


@pytest.fixture(scope="module")
def data(columns):
    return from_interactions(columns, validation_share=0.1)


@pytest.fixture
def few_steps(monkeypatch):
    monkeypatch.setattr(trained, "LEAST_STEPS", 10)
