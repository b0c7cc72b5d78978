"""Ids and their row numbers: tables of ids, and ranges."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from helpers.data_files import refusal

from rankpg.data.ids import IdMap, UnknownIdError

COUNT = 7


@pytest.fixture
def ids():
    return IdMap.of_range(COUNT, "item")


def test_range_equals_a_table_of_row_numbers(ids):
    table = IdMap(np.arange(COUNT), "item")
    assert len(ids) == len(table)
    np.testing.assert_array_equal(ids.ids, table.ids)
    for wanted in ([3, 0], [[1, 2], [6, 6]], np.array([4], np.uint8)):
        np.testing.assert_array_equal(ids.rows(wanted), table.rows(wanted))
        np.testing.assert_array_equal(ids[wanted], table[wanted])
    np.testing.assert_array_equal(ids.find([3, -1, COUNT]), table.find([3, -1, COUNT]))
    assert ids.one(np.int32(4)) == table.one(4) == 4


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8])
def test_range_keeps_the_integer_type(ids, dtype):
    rows = np.array([5, 1], dtype)
    assert ids.rows(rows).dtype == ids[rows].dtype == dtype


def test_range_keeps_no_table():
    assert IdMap.of_range(10**15).rows([10**14]).tolist() == [10**14]


@pytest.mark.parametrize("outside", [-1, COUNT])
def test_range_rejects_rows_outside(ids, outside):
    refusal(
        lambda: ids.rows([0, outside]), f"item {outside} is unknown", "0 to 6", error=UnknownIdError
    )


@pytest.mark.parametrize("wrong", [[1.0], ["1"], [True], [None]])
def test_range_rejects_other_types(ids, wrong):
    refusal(lambda: ids.rows(wrong), "expected item ids, whole numbers", error=ValueError)


def test_unknown_ids_are_both_key_and_value_errors(ids):
    assert issubclass(UnknownIdError, KeyError)
    assert issubclass(UnknownIdError, ValueError)


def test_data_modules_import_no_jax():
    code = (
        "import importlib.util, pathlib, sys, types\n"
        "root = pathlib.Path(importlib.util.find_spec('rankpg').origin).parent\n"
        "package = types.ModuleType('rankpg'); package.__path__ = [str(root)]\n"
        "sys.modules['rankpg'] = package\n"
        "for file in sorted((root / 'data').glob('*.py')):\n"
        "    importlib.import_module(f'rankpg.data.{file.stem}'.removesuffix('.__init__'))\n"
        "print(sorted({'jax', 'flax', 'optax'} & set(sys.modules)))\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
