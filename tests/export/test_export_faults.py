"""Every operation of an export, a report and a comparison fails in turn."""

from __future__ import annotations

import hashlib
import json
import os

import pytest
from helpers.exports import TOWERS, make_run
from helpers.file_faults import HOW, Killed, each_fault

from rankpg.compare.tables import write_outputs
from rankpg.export import folder as export_folder
from rankpg.export.folder import export
from rankpg.report.page import write

ENABLE_X64 = False

pytestmark = pytest.mark.usefixtures("as_a_user")


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def checked(folder) -> set[str]:
    """Returns the files of an export, after comparing their checksums."""
    checksums = json.loads((folder / "export.json").read_text())["checksums"]
    for name, checksum in checksums.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == checksum
    return {*checksums}


@pytest.mark.slow
@pytest.mark.parametrize("how", HOW)
def test_an_export_is_complete_or_not_there(tmp_path, monkeypatch, how):
    run = make_run(num_experts=1, **TOWERS["ids"])
    parts = export_folder.take_parts(run, None, ("cpu",))
    program = parts.tower.serialize()
    monkeypatch.setattr(export_folder, "take_parts", lambda *_: parts)
    monkeypatch.setattr(type(parts.tower), "serialize", lambda _: program)
    act = lambda path: export(run, path / "export", index="none")  # noqa: E731
    (tmp_path / "start").mkdir()
    outcomes = set()
    for path, where, _ in each_fault(tmp_path, tmp_path / "start", act, [how]):
        there = (path / "export").exists()
        outcomes.add(there)
        if not there:
            act(path)
        assert "items.safetensors" in checked(path / "export"), where
        left = [p.name for p in path.iterdir() if p.name != "export"]
        assert not left or how.startswith("kill"), where
    assert False in outcomes


def test_all_files_of_an_export_have_the_same_permissions(tmp_path):
    run = make_run(num_experts=1, **TOWERS["ids"])
    before = os.umask(0o022)
    try:
        out = export(run, tmp_path / "export", index="none", platforms=("cpu",))
    finally:
        os.umask(before)
    assert {oct(file.stat().st_mode & 0o777) for file in out.iterdir()} == {"0o644"}


def test_a_page_is_replaced_or_not(tmp_path):
    write("before", tmp_path / "start" / "page.html")
    seen = set()
    for path, where, _ in each_fault(
        tmp_path, tmp_path / "start", lambda p: write("after", p / "page.html")
    ):
        seen.add(text := (path / "page.html").read_text())
        assert text in ("before", "after"), where
    assert len(seen) == 2


def test_files_of_a_comparison_are_whole_and_fail_together(tmp_path):
    (tmp_path / "start").mkdir()
    write_outputs(tmp_path / "start", {"found": "before"}, "before", "before")

    def act(path):
        write_outputs(path, {"found": "after"}, "after", "after")

    for path, where, error in each_fault(tmp_path, tmp_path / "start", act):
        found = {
            json.loads((path / "comparison.json").read_text())["found"],
            (path / "comparison.md").read_text().strip(),
            (path / "comparison.html").read_text(),
        }
        assert found <= {"before", "after"}, where
        if error is not None and not isinstance(error, Killed) and "replace" not in where:
            assert found == {"before"}, where
