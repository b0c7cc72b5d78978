"""The faults that stop a run: their numbers, their remedies, and the checks that meet them."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from rankpg.core.estimators import draw_candidates
from rankpg.training import Fault
from rankpg.training.optimizer import check_rows, first_fault


def test_numbers_are_those_of_saved_states():
    names = ["NONE", "LOGITS", "RANKING", "REWARDS", "LOSS", "GRADIENT", "PARAMETERS"]
    assert [fault.name for fault in Fault] == names
    assert [int(fault) for fault in Fault] == list(range(7))
    assert all(Fault(fault.value) is fault for fault in Fault)


def test_every_fault_has_a_description_and_a_remedy():
    assert len({fault.description for fault in Fault}) == len(Fault)
    assert Fault.NONE.remedy == ""
    for fault in Fault:
        if fault:
            assert fault.description.startswith(("a ", "parameters "))
            assert fault.remedy[0].isupper()
            assert not fault.remedy.endswith(".")


def test_only_faults_of_numbers_suggest_smaller_steps():
    smaller = {fault for fault in Fault if "learning_rate" in fault.remedy}
    assert smaller == {Fault.LOGITS, Fault.LOSS, Fault.GRADIENT, Fault.PARAMETERS}


# check_rows and first_fault.


@pytest.fixture
def candidates(key):
    return draw_candidates(key, jnp.arange(6.0)[None] / 2, (3,), "candidates")


@pytest.mark.slow
def test_check_rows_finds_what_is_wrong(candidates):
    good = candidates.items[:2]
    stranger = next(item for item in range(6) if item not in candidates.items.tolist())
    rewards = jnp.array([1.0, 2.0])
    cases = {
        (True, True, True): (candidates, good, rewards),
        (False, True, True): (candidates.replace(sound=jnp.zeros((), bool)), good, rewards),
        (True, False, True): (candidates, good.at[1].set(stranger), rewards),
        (True, True, False): (candidates, good, rewards.at[0].set(jnp.nan)),
        (True, False, False): (candidates, good[jnp.array([0, 0])], rewards.at[1].set(jnp.inf)),
    }
    for expected, case in cases.items():
        assert tuple(check_rows(*case).tolist()) == expected


@pytest.mark.parametrize(
    ("wrong", "loss", "norm", "fault"),
    [
        ((), 1.0, 1.0, Fault.NONE),
        ((0,), 1.0, 1.0, Fault.LOGITS),
        ((1,), 1.0, 1.0, Fault.RANKING),
        ((2,), np.nan, np.inf, Fault.REWARDS),
        ((0, 1, 2), np.nan, np.nan, Fault.LOGITS),
        ((), np.inf, np.nan, Fault.LOSS),
        ((), 1.0, np.nan, Fault.GRADIENT),
    ],
)
def test_first_fault_takes_the_earliest(wrong, loss, norm, fault):
    rows = np.ones((4, 3), bool)
    for column in wrong:
        rows[2, column] = False
    assert int(first_fault(jnp.asarray(rows), jnp.asarray(loss), jnp.asarray(norm))) == fault
