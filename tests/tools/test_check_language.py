"""The word list finds each fault, and leaves honest uses alone."""

import subprocess
import sys
from pathlib import Path

import pytest

from tools.check_language import WORDS, faults_of

ROOT = Path(__file__).resolve().parent.parent.parent


def words(path, text):
    return [fault.word for fault in faults_of(path, text)]


@pytest.mark.parametrize("word", WORDS, ids=lambda word: word.forms)
def test_every_form_of_every_word_is_found(word):
    path = next((p for p in word.only if p != "*"), "docs/page.md").replace("*", "file.md")
    for form in word.forms.split("|"):
        assert words(path, f"Before {form} after.\n")[0] == form.lower()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("def answer_all(): ...\n", "answer"),
        ("class ToldRows: ...\n", "told"),
        ("_TOLD = 1\n", "told"),
        ("x = 1  # as told\n", "told"),
        ("x = f'{1} answers'\n", "answers"),
        ("late_stage = 1\n", "late stage"),
        ("x = 'the late-stage'\n", "late stage"),
        ("LateStage = 1\n", "late stage"),
    ],
)
def test_words_are_found_in_identifiers_strings_and_comments(text, word):
    assert words("rankpg/file.py", text) == [word]


@pytest.mark.parametrize(
    "text",
    [
        "# a file is\n# no tree\n",
        "x = (\n    'a folder that is '\n    'no run'\n)\n",
        "x = (\n    f'a folder that is '\n    f'no run'\n)\n",
    ],
)
def test_phrases_are_found_across_lines(text):
    (fault,) = faults_of("rankpg/file.py", text)
    assert (fault.word, fault.line) == ("is no", text[: text.index("is")].count("\n") + 1)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("rankpg/file.py", "headroom = mushroom = outdoors = 1\n"),
        ("rankpg/file.py", "# amend, recommend, commend\n"),
        ("rankpg/file.py", "# there is no such item, and it is no longer than the others\n"),
        ("rankpg/file.py", "# vectorised, but for loops of one step it is slow\n"),
        ("rankpg/core/file.py", "# sums to K, and sums of rewards\n"),
        ("rankpg/runs/storage/file.py", "content = manifest['sums']\n"),
        ("rankpg/runs/storage/file.py", "FOLDER = 'live'\n"),
        ("rankpg/data/beir.py", "# judged documents\n"),
        ("rankpg/config/file.py", "OLD = {'late_stage': 'reranker'}\n"),
        ("tests/cli/file.py", "text = 'late_stage: noisy'\n"),
        ("rankpg/runs/storage/load.py", "running = metadata['stretch']\n"),
        ("rankpg/online/snapshot.py", "settled = arrays['told']\n"),
        ("docs/index.md", "the late-stage ranker (LSR)\n"),
        ("rankpg/file.py", "directory_listing = 1\n"),
    ],
)
def test_honest_uses_are_left_alone(path, text):
    assert words(path, text) == []


@pytest.mark.parametrize("path", ["rankpg/data/told.py", "tests/test_laboratory.py"])
def test_file_names_are_read(path):
    assert len(words(path, "")) == 1


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('"""What this does."""\n', "docstring 'what'"),
        ('def f():\n    """The same for all."""\n', "docstring 'the same'"),
        ('class A:\n    x: int\n    """of the batch"""\n', "docstring 'of'"),
        (
            'def f(x):\n    """Returns x.\n\n    Args:\n      x: of the batch.\n    """\n',
            "argument 'of'",
        ),
        (
            'def f(x):\n    """Returns x.\n\n    Args:\n      x: as before.\n    """\n',
            "argument 'as'",
        ),
        ('"""As in `sample`."""\n', "docstring 'as'"),
        ('f(help="of the run")\n', "help 'of'"),
        ('x = setting(1, "group", "ratings: what a pair is worth")\n', "help 'what'"),
    ],
)
def test_openings_are_found(text, word):
    assert words("rankpg/file.py", text) == [word]


@pytest.mark.parametrize(
    "text",
    [
        '"""Whatever is left, offset by one."""\n',
        'def f(x):\n    """Returns x.\n\n    Args:\n      x: whether to stop.\n    """\n',
        'def f(x):\n    """Returns x.\n\n    Args:\n      x: as in `sample`.\n    """\n',
        'x = "What else?"\n',
        'class A:\n    def f(self): ...\n    "of the batch"\n',
    ],
)
def test_other_openings_are_left_alone(text):
    assert words("rankpg/file.py", text) == []


def test_flags_are_found_in_the_library_alone():
    text = 'raise ValueError(f"lower --batch-size, or --{name}")\n'
    assert words("rankpg/core/file.py", text) == ["--batch-size", "--{"]
    assert words("benchmarks/speed/file.py", text) == ["--batch-size", "--{"]
    for path in ("rankpg/cli/file.py", "benchmarks/cli.py", "docs/file.md", "tests/file.py"):
        assert words(path, text) == []
    own = 'parser.add_argument("--rounds", type=int)\nparser.add_argument(\n    "--out"\n)\n'
    assert words("benchmarks/scripts/file.py", own) == []
    usage = '"""Sweep.\n\n    python -m benchmarks.scripts.sweep --rounds 3\n"""\n'
    call = 'main(["throughput", "--device", "cpu"])\n'
    assert words("benchmarks/scripts/file.py", usage + call) == []
    assert words("benchmarks/scripts/file.py", usage + text) == ["--batch-size", "--{"]
    assert words("rankpg/file.py", usage + call) == ["--rounds", "--device"]
    assert (
        words("rankpg/file.py", 'flags = "--xla_backend=0"; style = "--"; table = "|---|"\n') == []
    )


def test_findings_are_printed_with_place_and_suggestion(tmp_path):
    text = "x = 1\nanswer = 2\n"
    (fault,) = faults_of("rankpg/file.py", text)
    assert str(fault) == "rankpg/file.py:2: answer: return, returns"


def test_the_command_reads_the_files_it_is_given():
    command = [sys.executable, "tools/check_language.py", "tests/tools", "LICENSE"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert "0 findings" in done.stderr
