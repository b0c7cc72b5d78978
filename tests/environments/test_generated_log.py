"""The generated log: its law, and that no split of it meets all users at once."""

from __future__ import annotations

import numpy as np
import pytest

from rankpg.environments import generate_log


def genres_in_order(num_users=400, length=30, **settings):
    """Genre of every item, [num_users, length]."""
    log, items = generate_log(num_users=num_users, length=length, **settings)
    genre = np.array([int(name.split()[1]) for name in items["genre"]])
    return genre[log["item"].reshape(num_users, length)]


def test_no_user_takes_an_item_twice():
    log, _ = generate_log(num_users=50, num_items=40, length=30)
    taken = log["item"].reshape(50, 30)
    assert all(len(set(row)) == 30 for row in taken)
    assert (log["timestamp"].reshape(50, 30) == np.arange(30)).all()


def test_tastes_change_at_all_times_alike():
    genres = genres_in_order(num_users=800, num_items=400)
    changes = np.mean(genres[:, 1:] != genres[:, :-1], axis=0)
    assert np.ptp(changes) < 0.15
    assert (
        0.2 < changes.mean() < 0.5
    )  # one in six by taste, others by the popularity of other genres


def test_a_taste_moves_on_to_the_next_genre():
    genres = genres_in_order(num_users=800, num_items=400)
    step = (genres[:, 1:] - genres[:, :-1]) % 8
    counts = np.bincount(step.ravel(), minlength=8)
    assert counts[0] > counts[1] > 1.5 * counts[2:7].max()


def test_the_same_seed_gives_the_same_log():
    one, other, another = (generate_log(num_users=9, seed=seed)[0]["item"] for seed in (3, 3, 4))
    assert (one == other).all()
    assert (one != another).any()


def test_as_many_interactions_as_items_are_refused():
    with pytest.raises(ValueError, match="length=20; expected at least 1 and fewer than"):
        generate_log(num_items=20, length=20)
