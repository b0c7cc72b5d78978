"""Tags of items: from files and tables, several in a cell or in several rows."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from rankpg.data.ids import IdMap, TableError
from rankpg.data.tags import read_tags

FILMS = {
    "Id": np.array([10, 2, 30, 4]),
    "title": np.array(["A", "B", "C", "D"]),
    "genre": np.array(["Drama|War", "Drama", "War", "Comedy"]),
}
ITEMS = IdMap(np.array([30, 10, 5, 2]))
WANTED = [["genre=War"], ["genre=Drama", "genre=War"], [], ["genre=Drama"]]


def named(tags):
    return [[tags.names[number] for number in row if number >= 0] for row in tags.rows]


def test_cells_with_several_tags():
    tags = read_tags(FILMS, ITEMS)
    assert named(tags) == WANTED
    assert "2 tags of 3 items" in tags.notes[0]


def test_a_file_gives_the_same_tags(tmp_path):
    rows = zip(*FILMS.values(), strict=True)
    text = "\n".join(["Id,title,genre", *(",".join(map(str, row)) for row in rows)])
    (tmp_path / "films.csv").write_text(text)
    assert named(read_tags(tmp_path / "films.csv", ITEMS)) == WANTED


def test_a_packed_file_gives_the_same_tags(tmp_path):
    text = b"item,genre\n1,Drama|War\n2,Drama\n3,War\n"
    path = tmp_path / "films.csv.gz"
    path.write_bytes(gzip.compress(text, mtime=0))
    assert read_tags(path, IdMap([3, 1])).rows.tolist() == [[1, -1], [0, 1]]
    path.write_bytes(gzip.compress(text, mtime=0)[:-9])
    with pytest.raises(TableError, match="cannot be unpacked"):
        read_tags(path, IdMap([3, 1]))
    other = tmp_path / "films.npz.gz"
    other.write_bytes(gzip.compress(text, mtime=0))
    with pytest.raises(TableError, match=r"unknown extension"):
        read_tags(other, IdMap([3, 1]))


def test_one_row_for_each_pair():
    pairs = [
        (i, g) for i, gs in zip(FILMS["Id"], FILMS["genre"], strict=True) for g in gs.split("|")
    ]
    ids, genres = zip(*pairs, strict=True)
    table = {"item": np.array(ids), "genre": np.array(genres)}
    assert named(read_tags(table, ITEMS)) == WANTED


def test_table_without_a_shared_tag_is_refused():
    with pytest.raises(TableError, match="no tag is shared by two items"):
        read_tags(
            {"item": np.array([1, 2]), "title": np.array(["A", "B"])}, IdMap(np.array([1, 2]))
        )


def test_an_item_with_too_many_tags_is_refused():
    many = "|".join(map(str, range(300)))
    table = {"item": np.array([1, 2]), "tag": np.array([many, many])}
    with pytest.raises(TableError, match="item 1 has 300 tags; expected at most 256"):
        read_tags(table, IdMap(np.array([1, 2])))
