"""Item groups from files."""

from __future__ import annotations

import re

import pytest

from rankpg.data.ids import TableError
from rankpg.report.groups import group_of_items, read_groups

ENABLE_X64 = False
pytestmark = pytest.mark.usefixtures("as_a_user")


def test_csv_tsv_and_parquet_give_equal_groups(tmp_path):
    pandas = pytest.importorskip("pandas")
    (tmp_path / "a.csv").write_text('﻿price,group,item_id\n1,"new, and old",7\n\n2,b,x y\n')
    (tmp_path / "a.tsv").write_text("id\tcategory\n7\tnew, and old\nx y\tb\n")
    table = pandas.DataFrame({"whose": ["7", "x y"], "kind": ["new, and old", "b"]})
    table.to_parquet(tmp_path / "a.parquet")
    for name in ("a.csv", "a.tsv", "a.parquet"):
        groups = read_groups(tmp_path / name)
        assert groups == {"7": "new, and old", "x y": "b"}
    assert group_of_items(groups, [7, 8]).tolist() == ["new, and old", "(no group)"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("item,group\n7,a\n8\n", "line 3: 1 fields"),
        ("item,group\n7,a\n7,b\n", "line 3: item '7' is in the group 'b'"),
        ("item,group\n7,\n", "line 2: the group is empty"),
        ("item,group\n,a\n", "line 2: the item id is empty"),
        ("item,group\n", "no rows"),
        ("", "no columns"),
        ("a,b,c\n1,2,3\n", "expected the columns item and group; found 'a', 'b', 'c'"),
        ("item,group\n7,a\udcff\n", "cannot be read"),
    ],
)
def test_errors_name_file_and_line(tmp_path, text, words):
    file = tmp_path / "groups.csv"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(TableError, match=re.escape(words)) as caught:
        read_groups(file)
    assert str(file) in str(caught.value)


def test_groups_without_an_item_of_the_run_are_rejected():
    with pytest.raises(TableError, match="has no item of this run"):
        group_of_items({"a": "x"}, [7, 8])
