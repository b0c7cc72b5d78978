"""The command compare, from a file to the printed table."""

from __future__ import annotations

import pytest

from rankpg.cli.main import main

ENABLE_X64 = False
pytestmark = pytest.mark.usefixtures("as_a_user")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("logs") / "log.csv"
    rows = [
        (u, (u + 3 * i + i * i) % 23, 5 if i % 3 else 2, 100 * i + u)
        for u in range(30)
        for i in range(9)
    ]
    lines = ["who,what,stars,at", *(",".join(map(str, row)) for row in dict.fromkeys(rows))]
    path.write_text("\n".join(lines) + "\n")
    return path


def call(*words):
    return main([str(word) for word in words])


NAMED = ("--columns", "who", "what", "at", "stars")


@pytest.mark.slow
def test_table_and_verdict(file, tmp_path, capsys):
    out = tmp_path / "out"
    words = ("compare", "--path", file, *NAMED, "--positive", ">= 3", "--out", out)
    assert call(*words, "--methods", "popular", "item_knn", "--trials", 1, "--test-share", 0.3) == 0
    said = capsys.readouterr()
    assert "| method | ndcg@10 | recall@100 |" in said.out
    assert " is best in ndcg@10 (" in said.out
    assert str(out / "comparison.html") in said.out
    assert "popular: trial 1 of 1" in said.err
    assert "--positive '>= 3' keeps" in said.err
    assert (out / "comparison.md").read_text().count("| popular |") == 2  # own and final lists


def test_categories_of_items_are_read(file, tmp_path, capsys):
    items = tmp_path / "items.csv"
    items.write_text("item,kind\n" + "".join(f"{i},{i % 3}\n" for i in range(23)))
    words = ("compare", "--path", file, *NAMED, "--items-path", items, "--methods", "popular")
    assert call(*words, "--trials", 1, "--reranker", "none") == 0
    assert "| popular |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ((), ["--path FILE"]),
        (("--path", "FILE", "--methods", "eas"), ["--methods eas;", "item_knn"]),
        (("--path", "FILE", "--trials", "9"), ["--trials 9;", "from 1 to 8"]),
        (("--path", "FILE", "--validation-share", "0"), ["--validation-share 0.1"]),
        (
            ("--path", "FILE", "--split", "none"),
            ["--validation-share 0.1", "no effect with --split none"],
        ),
        (
            ("--path", "FILE", "--test-share", "0"),
            ["--validation-share 0.1", "give --test-share 0.2"],
        ),
        (("--path", "FILE", "--validation-share", "0"), ["validation part of 0 users"]),
    ],
)
def test_errors_name_flags(file, capsys, words, parts):
    given = [file if word == "FILE" else word for word in words]
    named = NAMED if given else ()
    assert call("compare", *given, *named) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    for part in parts:
        assert part in said.splitlines()[-1]
