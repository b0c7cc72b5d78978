"""What tests of environments from files share."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

from rankpg.data.ids import TableError


def rewards(data, context, items):
    """Mean rewards of a dataset, by ids."""
    row = jnp.asarray(data.context_ids.rows(context))
    return data.environment.mean_rewards(row, jnp.asarray(data.item_ids.rows(items))).tolist()


def refusal(call, *parts, error: type[Exception] = TableError):
    """The one message of the error, on one line, which holds every part."""
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message, message
