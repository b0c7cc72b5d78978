"""Ids that look alike differ in notes and messages, and blanks that are removed are stated."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.data_files import refusal, write

from rankpg.data.ids import IdMap, UnknownIdError, visible
from rankpg.data.interactions import read_interactions
from rankpg.data.look_alikes import note_of_look_alikes
from rankpg.data.read import read

HIDDEN = ["a\u200bb", "ab\u00a0", "\ufeffab", "a\u00adb", "ab\x7f"]
"""Texts that look like "ab"."""


@pytest.mark.parametrize("odd", HIDDEN)
def test_ids_that_look_alike_are_noted_with_escapes(tmp_path, odd):
    assert visible(odd) == "ab"
    escaped = ascii(odd)
    (note,) = note_of_look_alikes(np.array(["ab", odd, "c"]), "item")
    assert f"'ab' and {escaped}" in note
    known = IdMap(np.array([odd, "c"]), "item")
    with pytest.raises(UnknownIdError) as error:
        known.rows(["ab"])
    assert f"; {escaped} looks like it" in str(error.value)
    with pytest.raises(UnknownIdError) as error:
        IdMap(np.array(["ab", "c"]), "item").rows([odd])
    assert f"unknown item {escaped}" in str(error.value)


def test_ids_of_two_users_of_a_file_are_noted(tmp_path):
    file = write(tmp_path, "user,item,value\nab,x,1\na\u200bb,x,1\n")
    for table in (read(file), read_interactions(file)):
        assert len(table.user_ids) == 2
        assert any("'ab' and 'a\\u200bb'" in note for note in table.notes)


def test_ids_that_differ_visibly_have_no_note():
    assert note_of_look_alikes(np.array(["a b", "ab", "\u00e9", "e", "a\u200bb"][:4]), "user") == ()
    assert note_of_look_alikes(np.array(["a\u200bb", "c"]), "user") == ()
    assert note_of_look_alikes(np.arange(3), "user") == ()
    with pytest.raises(UnknownIdError) as error:
        IdMap(np.array(["ab", "c"]), "item").rows(["d"])
    assert "looks like" not in str(error.value)


def test_removed_blanks_are_stated(tmp_path):
    file = write(tmp_path, "user,item,value\na ,x,1\nb, y,1\n")
    for table in (read(file), read_interactions(file)):
        assert table.user_ids.ids.tolist() == ["a", "b"]
        assert any("1 user ids were removed, such as 'a '" in note for note in table.notes)
        assert any("1 item ids were removed, such as ' y'" in note for note in table.notes)
    clean = write(tmp_path, "user,item,value\na,x,1\n", "clean.csv")
    assert not any("Blanks" in note for note in read(clean).notes)


def test_a_pair_that_removed_blanks_repeat_says_so(tmp_path):
    from rankpg.data.ratings_table import compress

    file = write(tmp_path, "user,item,value\na ,x,1\na,x,2\n")
    stated = "1 user ids were removed, such as 'a '"
    refusal(lambda: compress(read(file), "zero", "error"), "lines 2 and 3", stated)
    refusal(lambda: read_interactions(file, duplicates="error"), "lines 2 and 3", stated)
