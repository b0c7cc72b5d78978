"""The environment protocol: its defaults, what it requires, and datasets of environments without ids."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from rankpg.environments import catalogue, from_matrix
from rankpg.environments.dataset import Dataset
from rankpg.environments.edits import remove_items
from rankpg.types import Environment, check_environment

ITEMS = jnp.array([2, 0], jnp.int32)
CONTEXT = jnp.int32(1)


@struct.dataclass
class Table(Environment):
    """States what is required alone; a field that has a default in the protocol comes first."""

    item_features: jax.Array
    means: jax.Array
    num_contexts: int = struct.field(pytree_node=False)

    @property
    def num_items(self):
        return self.means.shape[1]

    def mean_rewards(self, context, items):
        return self.means[context, items]

    def sample_rewards(self, key, context, items):
        return self.means[context, items]


@pytest.fixture
def table():
    return Table(jnp.ones((3, 2)), jnp.arange(6.0).reshape(2, 3), 2)


def test_defaults_of_the_protocol(table):
    check_environment(table)
    assert isinstance(table, Environment)
    np.testing.assert_array_equal(table.relevance(CONTEXT, ITEMS), [5.0, 3.0])
    assert table.eligible(CONTEXT, ITEMS) is None
    assert table.context_features is None
    assert table.item_features.shape == (3, 2)
    assert table.knows_rewards
    assert table.allowed is None
    assert table.whole is table
    assert len(jax.tree.leaves(table)) == 2


def test_inherited_members_are_required():
    class Rewardless(Environment):
        num_contexts = num_items = 3

    with pytest.raises(TypeError, match="mean_rewards"):
        Rewardless()

    @struct.dataclass
    class Countless(Table):
        num_items = property(lambda self: self.missing)

    with pytest.raises(TypeError, match="has no num_items; inherit from"):
        check_environment(Countless(jnp.ones((3, 2)), jnp.ones((2, 3)), 2))


def test_missing_members_are_named():
    with pytest.raises(TypeError, match=r"an int, which has no num_contexts, num_items, mean_rew"):
        check_environment(3)


def test_dataset_of_an_environment_has_row_numbers_for_ids(table):
    data = Dataset.of(table)
    assert data.environment is table
    assert data.ids_are_rows
    assert (len(data.context_ids), len(data.item_ids)) == (2, 3)
    assert Dataset.of(data) is data
    assert not from_matrix(np.eye(3)).ids_are_rows


def test_removed_items_are_members_of_the_environment():
    where = np.array([[True, False, True]])
    data = from_matrix(np.ones((1, 3)), eligible=where)
    less = remove_items(data, np.array([2]), renumber=False).environment
    assert less.allowed.tolist() == [True, True, False]
    assert less.whole is data.environment
    assert less.eligible(jnp.int32(0), jnp.arange(3)).tolist() == [True, False, False]
    assert less.knows_rewards
    closed = remove_items(data, np.array([2]), renumber=True).environment
    assert closed.allowed is None
    assert closed.num_items == 2


def test_environments_of_another_kind_cannot_be_edited(table):
    with pytest.raises(TypeError, match="Table cannot change its items"):
        remove_items(Dataset.of(table), np.array([0]), renumber=True)


def test_a_catalogue_knows_no_rewards():
    world = catalogue(2, 3)
    assert not world.knows_rewards
    assert jnp.isnan(world.relevance(CONTEXT, ITEMS)).all()
