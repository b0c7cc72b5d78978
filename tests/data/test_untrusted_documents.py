"""Small JSON and YAML files that may come from anyone: bounded, and named when they are beyond a bound."""

from __future__ import annotations

import math

import pytest
import yaml
from helpers.data_files import write

from rankpg._utils.documents import (
    DocumentError,
    SyntaxFault,
    parse_json,
    parse_yaml,
    printable,
    read_json,
)
from rankpg.data.faults import in_one_line
from rankpg.runs.storage.metrics_file import read_metrics

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (BOMB, "aliases"),
        ("a: &a [*a]\n", "itself"),
        ("a: " + "[" * 70 + "]" * 70, "nested too deeply"),
        ("[" * 100_000, "nested too deeply"),
        ("seeds: " + "9" * 5000, "5000 digits"),
        ("num_steps: 1\nnum_steps: 2\n", "line 1: the key 'num_steps' is there twice"),
        ("day: 2020-13-45\n", "not valid YAML"),
        ("a: 1\nlearning_rate: .inf\n", "line 2: a number is not finite: '.inf'"),
        ("a: [-.INF]\n", "not finite"),
        ("a: .NaN\n", "not finite"),
        ("a: 1.0e+400\n", "not finite"),
        ("a: '.inf'\n", ""),
        ("a: !!python/object/apply:os.abort []\n", "not valid YAML"),
        ("a: [1\nb: 2", "line 2: not valid YAML"),
        ("a: \x1b[31m\n", "not valid YAML"),
        ("a: 0b\n", ""),
        (b"\xff\xfe\x00", "not text in UTF-8"),
        ("# " + "x" * 2**24, "larger than"),
    ],
)
def test_yaml_beyond_a_bound_is_named(tmp_path, text, part):
    file = write(tmp_path, text, "config.yaml")
    if part:
        with pytest.raises(DocumentError, match=part) as caught:
            parse_yaml(file, yaml)
        assert str(caught.value).startswith(str(file))
        assert str(caught.value).isprintable()
    else:
        parse_yaml(file, yaml)


def test_yaml_keeps_honest_aliases(tmp_path):
    file = write(tmp_path, "a: &a [1, 2]\nb: *a\nc: {<<: {d: 1}}\n", "config.yaml")
    assert parse_yaml(file, yaml) == {"a": [1, 2], "b": [1, 2], "c": {"d": 1}}


@pytest.mark.parametrize(
    ("text", "error", "part"),
    [
        ("[" * 100_000 + "]" * 100_000, DocumentError, "nested too deeply"),
        ("[" * 65 + "]" * 65, DocumentError, "nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", DocumentError, "5000 digits"),
        ('{"a": 1e400}', DocumentError, "not finite: '1e400'"),
        ('{"a": -Infinity}', DocumentError, "not finite: '-Infinity'"),
        ('{"a": NaN}', DocumentError, "not finite"),
        ('{"a": ', SyntaxFault, "not JSON"),
        ("", SyntaxFault, "not JSON"),
    ],
)
def test_json_beyond_a_bound_is_named(tmp_path, text, error, part):
    with pytest.raises(error, match=part) as caught:
        parse_json(text, "FILE, line 3")
    assert str(caught.value).startswith("FILE, line 3")
    file = write(tmp_path, text, "data.json")
    with pytest.raises(error, match=part) as caught:
        read_json(file)
    assert str(caught.value).startswith(str(file))


def test_json_within_the_bounds_is_read(tmp_path):
    text = '{"a": [1, -2.5, "\\u00e9", null, true], "b": 123456789012345678901234567890}'
    assert read_json(write(tmp_path, text, "x.json"))["a"] == [1, -2.5, "é", None, True]
    with pytest.raises(DocumentError, match="larger than 3 bytes"):
        read_json(write(tmp_path, "[1, 2]", "x.json"), largest=3)


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ('{"step": 5, "seed": 0, "policy_value": Infinity}', "not finite"),
        ('{"step": 5, "seed": 0, "policy_value": 1' + "0" * 400 + "}", "digits"),
        ('{"step": 5, "seed": 0, "policy_value": 1' + "0" * 60 + "}", None),
        ("[" * 100_000, "nested too deeply"),
        ('{"step": 5}', "not a row of metrics"),
        ('{"step": 5, "se', "cut off"),
    ],
)
def test_a_last_row_of_metrics_is_named_or_cut_off(tmp_path, line, part):
    good = '{"step": 0, "seed": 0, "policy_value": 1.0}\n'
    file = write(tmp_path, good + line, "metrics.jsonl")
    if part == "cut off":
        assert [row["step"] for row in read_metrics(file)] == [0]
    elif part is None:
        assert math.isfinite(read_metrics(file)[1]["policy_value"])
    else:
        with pytest.raises(ValueError, match=f"metrics.jsonl, line 2.*{part}"):
            read_metrics(file)


def test_control_characters_are_printed_as_escapes():
    assert printable("a\x1b[31m\u202eb\nc\x9b\ud800") == "a\\x1b[31m\\u202eb\nc\\x9b\\ud800"
    assert printable("plain é") == "plain é"


def test_messages_of_other_libraries_lose_json_and_tracebacks():
    raw = 'no manifest {"errno": 2, "path": "x"}\nTraceback (most recent call last):\n  File "a.py"'
    assert in_one_line(ValueError(raw)) == "no manifest"
    assert in_one_line(ValueError("x" * 1000)) == "x" * 200 + "..."
    assert in_one_line(KeyError()) == "its content has another form than expected"
