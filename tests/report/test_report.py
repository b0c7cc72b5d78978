"""The report page: its sections, its escaping, and its rendering in a real browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.browser import WIDTHS, open_page
from helpers.small_runs import train_into

import rankpg
from rankpg import TrainConfig
from rankpg.cli.main import main
from rankpg.environments.from_ratings import from_matrix
from rankpg.errors import ConfigError
from rankpg.report.command import report
from rankpg.report.gather import short_names
from rankpg.report.measure import measure_exposure
from rankpg.report.pictures import label
from rankpg.runs.storage.load import load_run
from rankpg.runs.train import train

ENABLE_X64 = False
pytestmark = pytest.mark.usefixtures("as_a_user")

MARKUP_NAME = "<img src=x onerror=alert(1)>&'\" $frac{"
"""Name of a run that must stay text, in HTML and in a figure."""
MARKUP_GROUP = "<svg onload=alert(2)>&' $\\frac{"
"""Name of a group that must stay text."""

TITLES = (
    "Summary", "Settings that differ", "Learning curves", "Candidate recall", "Regret by stage",
    "Propensity calibration", "Item exposure", "Exposure by group", "Item map",
)  # fmt: skip


@pytest.fixture(scope="module")
def markup_named(tmp_path_factory):
    """Folder of a run with one seed, whose name is markup."""
    folder = tmp_path_factory.mktemp("runs") / MARKUP_NAME
    train_into(
        folder, seeds=(3,), estimator="top1_pg", num_experts=2, reranker="noisy", num_steps=10
    )
    return folder


@pytest.fixture(scope="module")
def groups_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("groups") / "groups.csv"
    rows = [f"{item},{'new' if item % 3 else MARKUP_GROUP}" for item in range(28)]
    file.write_text("\n".join(["item,group", *rows]))
    return file


@pytest.fixture(scope="module")
def page(two_seeds, markup_named, groups_file, tmp_path_factory):
    """The page of both runs, written by the command line."""
    out = tmp_path_factory.mktemp("page") / "deep" / "report.html"
    assert (
        main(
            [
                "report",
                str(two_seeds),
                str(markup_named),
                "--groups",
                str(groups_file),
                "--out",
                str(out),
            ]
        )
        == 0
    )
    return out.read_text(encoding="utf-8")


class Tags(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


@pytest.mark.slow
def test_page_has_all_sections_of_both_runs(page, run):
    seen = Tags(page)
    for title in TITLES:
        assert title in seen.text
    # learning, two of recall, regret, two of calibration, two Lorenz curves, groups, two maps
    assert seen.count("img") == 11
    assert all(tag.get("alt") for name, tag in seen.tags if name == "img")
    assert seen.count("figcaption") == 11
    last = [row["policy_value"] for row in run.metrics if row["step"] == 20]
    assert f"{np.mean(last):.4g} ± " in seen.text
    assert f"jax {jax.__version__}" in seen.text
    assert "one seed and therefore no interval" in seen.text
    assert "no exact probability; it needs a single expert" in seen.text


@pytest.mark.slow
def test_page_is_self_contained(page):
    seen = Tags(page)
    assert seen.count("script") == 0
    for tag, attributes in seen.tags:
        for name in ("src", "href", "srcset", "data", "action"):
            address = attributes.get(name) or "data:"
            assert address.startswith(("data:", "#")), (tag, address)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
    policy = next(a["content"] for _, a in seen.tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'")


@pytest.mark.slow
def test_markup_in_names_is_escaped(page):
    seen = Tags(page)
    assert MARKUP_NAME in seen.text
    assert MARKUP_GROUP in seen.text
    assert "<img src=x" not in page
    assert "<svg" not in page


@pytest.mark.slow
def test_markup_in_run_files_is_escaped(two_seeds, tmp_path):
    """Metrics and card of a run folder may hold any text."""
    copy = shutil.copytree(two_seeds, tmp_path / "copy")
    shutil.rmtree(copy / "checkpoint")
    rows = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    rows[-1] |= {"stopped_by": "<script>alert(2)</script>", "stopped_at_step": 3}
    (copy / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    card = copy / "RUN.md"
    card.write_text(re.sub("- jax: .*", "- jax: <script>alert(3)</script>", card.read_text()))
    page = report([copy], tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert "seed 1 at step 3: <script>alert(2)</script>" in Tags(page).text
    assert "jax <script>alert(3)</script>" in Tags(page).text


@pytest.mark.slow
def test_page_notes_missing_parts(two_seeds, tmp_path):
    cut, empty, given = (
        shutil.copytree(two_seeds, tmp_path / n) for n in ("cut", "empty", "given")
    )
    files = [file for file in (cut / "checkpoint" / "20").rglob("*") if file.is_file()]
    largest = max(files, key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])
    (empty / "metrics.jsonl").write_text("")
    (given / "data.json").write_text("{}")
    (given / "RUN.md").unlink()
    seen = Tags(report([cut, empty, given], tmp_path / "report.html").read_text())
    assert "empty is left out" in seen.text
    assert "cut: not available: the checkpoint" in seen.text
    assert "was trained on an environment that was passed in Python" in seen.text
    assert "unknown: no run card" in seen.text
    assert "No groups were given" in seen.text
    assert seen.count("img") == 4  # the figures that need only metrics
    with pytest.raises(ConfigError, match="none of the runs can be read"):
        report([empty], tmp_path / "other.html")


@pytest.mark.slow
def test_page_leaves_out_what_it_cannot_read(two_seeds, tmp_path):
    bomb = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
    damage = {
        "bomb": ("config.yaml", "a0: &a0 [x]\n" + bomb),
        "deep": ("config.yaml", "a: " + "[" * 100_000),
        "digits": ("metrics.jsonl", '{"step": 1' + "0" * 5000 + "}\n{}\n"),
        "large": (
            "metrics.jsonl",
            '{"step": 5, "seed": 0, "policy_value": 1' + "0" * 400 + "}\n{}\n",
        ),
    }
    state = {"nested": "[" * 100_000, "number": '{"numbers": ' + "9" * 5000 + "}"}
    runs = [shutil.copytree(two_seeds, tmp_path / name) for name in (*damage, *state)]
    for run in runs[: len(damage)]:
        name, text = damage[run.name]
        (run / name).write_text(text)
    for run in runs[len(damage) :]:
        (run / "data.json").write_text(state[run.name])
    sentences: list[str] = []
    page = report([two_seeds, *runs], tmp_path / "report.html", on_progress=sentences.append)
    seen = Tags(page.read_text())
    assert any("calibration" in sentence for sentence in sentences)
    assert "Error" not in " ".join(sentences)
    for name in damage:
        assert f"{name} is left out" in seen.text
        assert any(f"{name} is left out" in sentence for sentence in sentences)
    for name in state:
        assert f"{name}: not available" in seen.text


@pytest.mark.slow
def test_run_without_embeddings_lacks_only_the_item_map(tmp_path):
    encoder = rankpg.encoders.Encoder(
        init=lambda key: jnp.zeros((6, 1, 12)), apply=lambda params, contexts: params[contexts]
    )
    data = from_matrix(np.random.default_rng(0).uniform(size=(6, 12)))
    config = TrainConfig(num_candidates=2, num_steps=4, eval_every=2, seeds=(0,), batch_size=4)
    trained = train(config, data, encoder=encoder)
    seen = Tags(report([trained], tmp_path / "report.html").read_text())
    assert "the encoder returns logits, so there are no item embeddings" in seen.text
    assert "Lorenz curve of the candidates" in seen.text
    assert seen.count("img") == 7


@pytest.mark.slow
def test_folder_without_rewards_has_dashes(tmp_path):
    """Measures that need rewards or the re-ranker are dashes."""
    data = from_matrix(np.random.default_rng(0).uniform(size=(20, 30)))
    run = train_into(tmp_path / "kept", data)
    again = measure_exposure(load_run(tmp_path / "kept"))
    np.testing.assert_array_equal(again.candidates, measure_exposure(run).candidates)
    assert again.shown is again.best is None
    groups = tmp_path / "groups.csv"
    groups.write_text("item,group\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(30)))
    text = report([tmp_path / "kept", run], tmp_path / "report.html", groups=groups).read_text()
    rows = [re.findall(r"<td.*?>\s*(.*?)\s*</td>", row, re.S) for row in text.split("<tr")]
    of_folder = [row for row in rows if "kept" in "".join(row[:1]) and "–" in row]
    assert [[cell == "–" for cell in row] for row in of_folder] == [
        [False] * 4 + [True] * 5,  # of shown items, of drawn lists and of the best K
        *[[False] * 4 + [True] * 3 + [False] * 3] * 2,  # rows of both groups
    ]
    seen = Tags(text)
    assert seen.text.count("kept: shown items and best K are unknown") == 2
    alone = Tags(report([tmp_path / "kept"], tmp_path / "alone.html").read_text())
    assert "Lorenz curve of the shown items" in seen.text
    assert "Lorenz curve of the shown items" not in alone.text
    assert "Lorenz curve of the candidates" in alone.text


def test_short_names_are_unique(tmp_path):
    paths = [tmp_path / "a" / "x", tmp_path / "b" / "x", tmp_path / "a" / "y"]
    assert short_names(paths) == ["a/x", "b/x", "a/y"]
    assert short_names(paths[1:]) == ["x", "y"]


def test_labels_are_short_and_printable():
    assert label("a\nb\udcff") == "a?b?"
    assert label("_hidden").strip() == "_hidden"
    assert len(label("x" * 99)) <= 30


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{run}/not_there"], "is not a folder"),
        (["{run}", "--out", "{run}"], "expected the name of an HTML file"),
        (["{run}", "--out", "report.txt"], "expected the name of an HTML file"),
        (
            ["{run}", "--out", "{run}/RUN.md/page.html"],
            "RUN.md is not a folder; choose a file in a folder",
        ),
        (["{run}", "--out", "{run}/RUN.md/deep/page.html"], "RUN.md is not a folder"),
        (["{run}", "--groups", "{run}/none.csv"], "no such file"),
        (["{run}", "--groups", "{run}/config.yaml"], "unknown extension"),
    ],
)
def test_invalid_arguments_are_rejected_before_measuring(
    two_seeds, tmp_path, monkeypatch, capsys, arguments, words
):
    monkeypatch.chdir(tmp_path)
    assert main(["report", *(text.format(run=two_seeds) for text in arguments)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "measuring" not in error
    assert not os.listdir(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("module", ["jinja2", "matplotlib"])
def test_missing_library_is_named_with_its_extra(two_seeds, tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=rf"{module}: pip install 'rankpg\[report\]'"):
        report([two_seeds], tmp_path / "report.html")


@pytest.mark.slow
def test_page_renders_in_a_browser(page, tmp_path):
    pages, requests, console = open_page(page.encode(), tmp_path / "profile")
    assert console == []
    assert set(requests) == {"/", "/page.html"}
    for found, width in zip(pages, WIDTHS, strict=True):
        assert found["title"] == "Comparison of 2 runs"
        assert found["tables"] >= 6
        assert len(found["images"]) == 11
        assert min(found["images"]) > 0
        assert (found["scripts"], found["handlers"], found["fetched"]) == (0, 0, [])
        assert found["width"] <= width  # no horizontal scrolling
        assert MARKUP_NAME in found["text"]
        assert MARKUP_GROUP in found["text"]


def test_browser_helper_detects_a_bad_page(tmp_path):
    """Negative control: it finds a request, a message, an empty image and a page that is too wide."""
    bad = (
        "<title>bad</title><p style='width: 2000px'>wide</p><img src='data:image/png;base64,AAAA'>"
        "<img src='/pixel.png' onerror='console.error(1)'>"
    )
    pages, requests, console = open_page(bad.encode(), tmp_path / "profile")
    assert "/pixel.png" in requests
    assert pages[0]["images"] == [0, 0]
    assert pages[0]["handlers"] == 1
    assert [name.endswith("/pixel.png") for name in pages[0]["fetched"]] == [True]
    assert pages[0]["width"] > WIDTHS[0]
    assert console
