"""Exports that the tests of this folder share."""

from __future__ import annotations

import pytest
from helpers.exports import TOWERS, make_run

from rankpg.export.folder import export


@pytest.fixture(scope="module")
def exported(tmp_path_factory, as_a_user):
    """Returns a run and its export for towers, M and `exact_below`; each is made once."""
    made = {}

    def get(towers="ids", experts=3, exact_below=0):
        key = towers, experts, exact_below
        if key not in made:
            run = make_run(num_experts=experts, **TOWERS[towers])
            folder = tmp_path_factory.mktemp("exports") / "-".join(map(str, key))
            made[key] = run, export(run, folder, exact_below=exact_below)
        return made[key]

    return get
