"""The page that compares runs: its measures against brute force, real runs on it, and a browser before it."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from helpers.browser import WIDTHS, look_at

import rankpg
from rankpg import TrainConfig
from rankpg.cli.main import main
from rankpg.data.ids import TableError
from rankpg.environments.from_ratings import from_matrix
from rankpg.errors import ConfigError
from rankpg.evaluation.calibration import reliability
from rankpg.evaluation.exposure import coverage, gini, group_shares, lorenz
from rankpg.evaluation.fairness import MEASURES
from rankpg.report.command import report
from rankpg.report.gather import name_apart
from rankpg.report.groups import group_of_items, read_groups
from rankpg.report.measure import calibrate, count_places, map_items, rank_items
from rankpg.report.pictures import label
from rankpg.runs.loop import training_loop
from rankpg.runs.run import prepare
from rankpg.runs.storage.folder import RunFolder
from rankpg.runs.storage.load import load_run
from rankpg.runs.train import train

ENABLE_X64 = False

pytestmark = pytest.mark.usefixtures("as_a_user")

EVIL = "<img src=x onerror=alert(1)>&'\" $frac{"
"""A run's name: it must stay text, in HTML and in a picture."""
EVIL_GROUP = "<svg onload=alert(2)>&' $\\frac{"
"""A group's name."""


# Exposure


@pytest.mark.parametrize("seed", range(5))
def test_gini_is_the_mean_difference_of_all_pairs_and_the_area_of_the_lorenz_curve(seed):
    counts = np.random.default_rng(seed).geometric(0.3, 9) - 1
    total = sum(abs(a - b) for a in counts for b in counts)
    expected = total / (2 * 9 * counts.sum())
    assert gini(counts) == pytest.approx(expected)
    items, places = lorenz(counts)
    area = sum((places[1:] + places[:-1]) / 2 * np.diff(items))
    assert gini(counts) == pytest.approx(1 - 2 * area)
    assert coverage(counts) == sum(c > 0 for c in counts) / 9


def test_shares_of_groups_add_up():
    shares = group_shares([2, 0, 1, 5], ["b", "a", "a", "c"])
    assert [(s.group, s.items, s.places) for s in shares] == [
        ("a", 0.5, 0.125), ("b", 0.25, 0.25), ("c", 0.25, 0.625),
    ]  # fmt: skip
    assert sum(s.ratio * s.items for s in shares) == pytest.approx(1)


@pytest.mark.parametrize("counts", [[], [1.0, -1.0], [np.nan, 1.0], [[1.0]], [0, 0]])
def test_counts_that_are_none_are_refused(counts):
    with pytest.raises(ValueError, match="counts"):
        gini(counts)


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ([], r"counts has shape \(0,\)"),
        ([1, np.nan], "counts holds nan for item 1"),
        ([1, 2, -3.5], r"counts holds -3\.5 for item 2"),
        ([np.inf], "counts holds inf for item 0"),
    ],
)
def test_a_count_that_is_none_is_named(counts, words):
    for function in (gini, coverage, lorenz):
        with pytest.raises(ValueError, match=words):
            function(counts)


@pytest.mark.parametrize("size", [1e308, 1e-300, 1.0])
def test_shares_do_not_depend_on_the_size_of_counts(size):
    counts = size * np.array([1.0, 0.5, 1.0, 0.0])
    assert gini([size] * 3) == pytest.approx(0)
    assert gini([size, 0]) == gini([5e-324, 0]) == 0.5
    assert gini(counts) == pytest.approx(gini([2, 1, 2, 0]))
    assert lorenz(counts)[1] == pytest.approx(lorenz([2, 1, 2, 0])[1])
    assert group_shares(counts, list("abab"))[0].places == pytest.approx(0.8)


@pytest.mark.parametrize("groups", [["a", None, "b"], [1.0, np.nan, 2.0]])
def test_an_item_without_a_group_is_named(groups):
    with pytest.raises(ValueError, match=r"groups holds (None|nan) for item 1"):
        group_shares([1, 2, 3], groups)


# Fairness


def discounted(name: str, ranking: tuple[bool, ...], members: int, total: int, every: int) -> float:
    """The sum without its normaliser, straight from the paper."""
    value = 0.0
    for i in range(every, len(ranking) + 1, every):
        inside, p = sum(ranking[:i]), members / total
        share = inside / i
        if name == "rND":
            distance = abs(share - p)
        elif name == "rKL":
            pairs = ((share, p), (1 - share, 1 - p))
            distance = sum(a * math.log(a / b) for a, b in pairs if a > 0)
        else:
            outside = i - inside
            here = inside / outside if inside and outside else 0
            distance = abs(here - members / (total - members))
        value += distance / math.log2(i)
    return value


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize(
    ("total", "members", "length", "every"),
    [(8, 2, 8, 2), (8, 5, 8, 3), (9, 4, 9, 2), (7, 1, 7, 2), (9, 4, 5, 2), (10, 3, 6, 3), (9, 8, 4, 4)],
)  # fmt: skip
def test_fairness_of_every_order_and_its_largest_value(name, total, members, length, every):
    """The normaliser is the maximum over all orders, found here by trying them all."""
    orders = {
        tuple(i in chosen for i in range(total))[:length]
        for chosen in itertools.combinations(range(total), members)
    }
    rankings = sorted(orders)
    sums = np.array([discounted(name, r, members, total, every) for r in rankings])
    measured = MEASURES[name](np.array(rankings), total, members, every)
    np.testing.assert_allclose(measured, sums / sums.max(), atol=1e-12)
    assert measured.max() == pytest.approx(1)


def test_a_fair_order_measures_less_than_a_random_one_and_that_less_than_a_segregated_one():
    in_group = np.arange(200) < 60
    fair = (np.arange(200) % 10) < 3
    random = in_group[np.random.default_rng(0).permutation(200)]
    for function in MEASURES.values():
        values = [float(function(ranking)) for ranking in (fair, random, in_group)]
        assert values[0] == 0
        assert values[0] < values[1] < values[2] <= 1


@pytest.mark.parametrize(
    ("ranking", "options", "words"),
    [
        (np.ones(12, bool), {}, "12 of 12"),
        (np.zeros(12, bool), {}, "0 of 12"),
        (np.arange(12) < 3, {"every": 1}, "every is 1"),
        (np.arange(12) < 3, {"every": 13}, "every is 13"),
        (np.arange(12), {}, "bool"),
        (np.arange(12) < 3, {"num_items": 5}, "num_items is 5"),
        (np.arange(12) < 3, {"num_in_group": 2}, "holds 3 items"),
        (np.stack([np.arange(12) < 3, np.arange(12) < 4]), {}, "the same items"),
        (np.arange(12) < 3, {"every": 12}, "parity"),
        (np.zeros((0, 20), bool), {}, r"in_group has shape \(0, 20\)"),
    ],
)
def test_a_ranking_that_cannot_be_measured_is_refused(ranking, options, words):
    for function in MEASURES.values():
        with pytest.raises(ValueError, match=words):
            function(ranking, **options)


def test_cut_offs_between_positions_are_refused(monkeypatch):
    """As users have it: without the checks of types that the tests have."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for function in MEASURES.values():
        with pytest.raises(ValueError, match=r"every is 2\.5; expected a whole number"):
            function(np.arange(12) < 3, every=2.5)


# Calibration


def test_reliability_bins_hold_the_truth_and_not_what_is_a_fifth_off():
    """20 bins at 95 %: 3 or more misses of true claims have probability 0.08; false claims miss all."""
    rng = np.random.default_rng(0)
    claimed = rng.uniform(0.05, 0.8, 2000)
    hits = rng.binomial(1000, claimed)
    edges = np.linspace(0.05, 0.8, 21).tolist()
    for factor, missing in ((1.0, range(3)), (1.2, range(18, 22))):
        bins = reliability(claimed * factor, hits, 1000, [e * factor for e in edges])
        outside = sum(not b.low <= b.claimed <= b.high for b in bins)
        assert outside in missing


def test_reliability_has_wilsons_interval_and_leaves_out_what_is_below_the_first_edge():
    (found,) = reliability(np.array([0.5, 1e-5]), np.array([45, 3]), 100)
    z, n, p = 1.959964, 100, 0.45
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert (found.pairs, found.observed) == (1, 0.45)
    assert (found.low, found.high) == pytest.approx((middle - half, middle + half), abs=1e-6)
    with pytest.raises(ValueError, match="hits"):
        reliability(np.array([0.5]), np.array([101]), 100)
    with pytest.raises(ValueError, match="claimed is nan for pair 1"):
        reliability(np.array([0.5, np.nan]), np.array([1, 2]), 100)


# Groups


def test_groups_come_from_csv_tsv_and_parquet_alike(tmp_path):
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
def test_a_groups_file_that_is_wrong_is_named_with_its_line(tmp_path, text, words):
    file = tmp_path / "groups.csv"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(TableError, match=re.escape(words)) as caught:
        read_groups(file)
    assert str(file) in str(caught.value)


def test_groups_of_no_item_of_the_run_are_refused():
    with pytest.raises(TableError, match="names no item of this run"):
        group_of_items({"a": "x"}, [7, 8])


# A trained run


SMALL = {
    "num_contexts": 40, "num_items": 30, "num_candidates": 4, "batch_size": 16,
    "embedding_dim": 4, "seeds": (0, 1), "num_steps": 20, "eval_every": 10,
    "ranking_length": 2, "init_scale": 1.0,
}  # fmt: skip


def folder_of(path: Path, **changes) -> Path:
    """A tiny run in a folder of its own."""
    run, folder = prepare(TrainConfig(**(SMALL | changes))), RunFolder(path)
    folder.open(run)
    for progress in training_loop(run):
        folder.on_progress(run, progress)
    folder.close(run)
    return path


@pytest.fixture(scope="module")
def two_seeds(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("runs") / "two_seeds")


@pytest.fixture(scope="module")
def evil(tmp_path_factory):
    """Another run, one seed, whose folder has a name that is no name."""
    folder = tmp_path_factory.mktemp("runs") / EVIL
    return folder_of(
        folder, seeds=(3,), estimator="top1_pg", num_experts=2, reranker="noisy", num_steps=10
    )


@pytest.fixture(scope="module")
def run(two_seeds):
    return load_run(two_seeds)


@pytest.fixture(scope="module")
def groups_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("groups") / "groups.csv"
    rows = [f"{item},{'new' if item % 3 else EVIL_GROUP}" for item in range(28)]
    file.write_text("\n".join(["item,group", *rows]))
    return file


@pytest.fixture(scope="module")
def page(two_seeds, evil, groups_file, tmp_path_factory):
    """The page of both runs, as the command line writes it."""
    out = tmp_path_factory.mktemp("page") / "deep" / "report.html"
    assert (
        main(["report", str(two_seeds), str(evil), "--groups", str(groups_file), "--out", str(out)])
        == 0
    )
    return out.read_text(encoding="utf-8")


@pytest.mark.slow
def test_places_are_counted_as_the_run_hands_them_over(run):
    found = count_places(run)
    assert found.num_contexts == 40
    for row, seed in enumerate(run.config.seeds):
        candidates = run.candidates(np.arange(40), seed=seed)
        expected = np.bincount(candidates.ravel(), minlength=30)
        np.testing.assert_array_equal(found.candidates[row], expected)
    assert found.shown.sum(axis=1).tolist() == [80, 80]
    assert np.all(found.shown <= found.candidates)  # the optimal re-ranker shows candidates
    rewards = np.stack(
        [
            run.environment.mean_rewards(jnp.int32(c), jnp.arange(30, dtype=jnp.int32))
            for c in range(40)
        ]
    )
    best = np.argsort(-rewards, axis=1)[:, :4]
    np.testing.assert_array_equal(found.best, np.bincount(best.ravel(), minlength=30))


@pytest.mark.slow
def test_the_policys_order_begins_with_its_candidates(run):
    order = rank_items(run, 30)
    assert order.shape == (2, 40, 30)
    assert np.all(np.sort(order, axis=2) == np.arange(30))
    candidates = run.candidates(np.arange(40), seed=1)
    np.testing.assert_array_equal(order[1, :, :4], candidates)


@pytest.mark.slow
def test_draws_are_as_frequent_as_the_exact_probability_says_and_not_as_the_estimator_claims(run):
    """sum of squared z over the pairs has mean n or less; 1.3 n is more than 5 standard deviations above."""
    found = calibrate(run)
    assert found.method == "swr"
    assert found.exact is not None
    assert found.claimed is not None

    def mean_square(claimed):
        sure = (claimed > 0.02) & (claimed < 0.98)
        deviation = np.sqrt(found.num_draws * claimed * (1 - claimed))[sure]
        return np.mean(((found.hits - found.num_draws * claimed)[sure] / deviation) ** 2)

    assert mean_square(found.exact) < 1.3
    assert mean_square(found.claimed) > 3


@pytest.mark.slow
def test_the_map_has_the_variance_of_the_first_two_eigenvectors(run):
    found = map_items(run)
    context = jnp.zeros(1, jnp.int32)
    params = jax.tree.map(lambda leaf: leaf[0], run.state.params)
    table = np.asarray(run.pipeline.encoder.encode(params, run.environment, context).items[0])
    eigenvalues = np.linalg.eigvalsh(np.cov(table.T))[::-1]
    np.testing.assert_allclose(found.explained, eigenvalues[:2] / eigenvalues.sum(), rtol=1e-4)
    np.testing.assert_allclose(found.places.var(axis=0, ddof=1), eigenvalues[:2], rtol=1e-4)
    assert found.items.tolist() == list(range(30))


# The page


class Tags(HTMLParser):
    """What a browser would make of it: tags, attributes, text."""

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


TITLES = (
    "Summary", "Settings that differ", "Learning curves", "Candidate recall", "Regret by stage",
    "Propensity calibration", "Item exposure", "Exposure by group", "Item map",
)  # fmt: skip


@pytest.mark.slow
def test_the_page_has_every_part_of_both_runs(page, run):
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
    assert "one seed, so it has no interval" in seen.text
    assert "no exact probability, which is for one expert" in seen.text


@pytest.mark.slow
def test_nothing_on_the_page_comes_from_elsewhere(page):
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
def test_names_that_are_markup_stay_text(page):
    seen = Tags(page)
    assert EVIL in seen.text
    assert EVIL_GROUP in seen.text
    assert "<img src=x" not in page
    assert "<svg" not in page


@pytest.mark.slow
def test_what_a_file_says_is_text_on_the_page(two_seeds, tmp_path):
    """Metrics and card are anyone's: a reason to stop, a version."""
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
def test_what_runs_lack_is_said_and_the_others_are_shown(two_seeds, tmp_path):
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
    assert "cut: nothing here: the checkpoint" in seen.text
    assert "was trained on an environment that was handed over" in seen.text
    assert "not known: no run card" in seen.text
    assert "No groups were given" in seen.text
    assert seen.count("img") == 4  # what metrics alone can draw
    with pytest.raises(ConfigError, match="none of the runs can be read"):
        report([empty], tmp_path / "other.html")


@pytest.mark.slow
def test_a_run_in_memory_without_embeddings_has_everything_else(tmp_path):
    encoder = rankpg.encoders.Encoder(
        init=lambda key: jnp.zeros((6, 1, 12)), apply=lambda params, contexts: params[contexts]
    )
    data = from_matrix(np.random.default_rng(0).uniform(size=(6, 12)))
    config = TrainConfig(num_candidates=2, num_steps=4, eval_every=2, seeds=(0,), batch_size=4)
    trained = train(config, data, encoder=encoder)
    seen = Tags(report([trained], tmp_path / "report.html").read_text())
    assert "its encoder answers logits and no embeddings" in seen.text
    assert "Lorenz curve of the candidates" in seen.text
    assert seen.count("img") == 7


@pytest.mark.slow
def test_a_folder_without_rewards_shows_candidates_and_dashes_for_what_takes_rewards(tmp_path):
    """The re-ranker and the rewards that stand in for those of the run are not on the page."""
    data = from_matrix(np.random.default_rng(0).uniform(size=(20, 30)))
    run, folder = prepare(TrainConfig(**SMALL), data), RunFolder(tmp_path / "kept")
    folder.open(run)
    for progress in training_loop(run):
        folder.on_progress(run, progress)
    folder.close(run)
    again = count_places(load_run(tmp_path / "kept"))
    np.testing.assert_array_equal(again.candidates, count_places(run).candidates)
    assert again.shown is again.best is None
    groups = tmp_path / "groups.csv"
    groups.write_text("item,group\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(30)))
    text = report([tmp_path / "kept", run], tmp_path / "report.html", groups=groups).read_text()
    rows = [re.findall(r"<td.*?>\s*(.*?)\s*</td>", row, re.S) for row in text.split("<tr")]
    of_folder = [row for row in rows if "kept" in "".join(row[:1]) and "–" in row]
    assert [[cell == "–" for cell in row] for row in of_folder] == [
        [False] * 4 + [True] * 4,  # coverage and Gini of what is shown and of the best K
        *[[False] * 4 + [True] * 2 + [False] * 3] * 2,  # of both groups
    ]
    seen = Tags(text)
    assert seen.text.count("kept: what is shown and the best K are not known") == 2
    alone = Tags(report([tmp_path / "kept"], tmp_path / "alone.html").read_text())
    assert "Lorenz curve of what is shown" in seen.text
    assert "Lorenz curve of what is shown" not in alone.text
    assert "Lorenz curve of the candidates" in alone.text


def test_runs_are_told_apart_by_as_much_of_their_folders_as_it_takes(tmp_path):
    paths = [tmp_path / "a" / "x", tmp_path / "b" / "x", tmp_path / "a" / "y"]
    assert name_apart(paths) == ["a/x", "b/x", "a/y"]
    assert name_apart(paths[1:]) == ["x", "y"]


def test_a_label_is_short_and_prints():
    assert label("a\nb\udcff") == "a?b?"
    assert label("_hidden").strip() == "_hidden"
    assert len(label("x" * 99)) <= 30


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{run}/not_there"], "is no folder"),
        (["{run}", "--out", "{run}"], "expected the name of a page"),
        (["{run}", "--out", "report.txt"], "expected the name of a page"),
        (
            ["{run}", "--out", "{run}/RUN.md/page.html"],
            "RUN.md is no folder; choose a page in a folder",
        ),
        (["{run}", "--out", "{run}/RUN.md/deep/page.html"], "RUN.md is no folder"),
        (["{run}", "--groups", "{run}/none.csv"], "no such file"),
        (["{run}", "--groups", "{run}/config.yaml"], "unknown extension"),
    ],
)
def test_what_cannot_be_reported_is_said_before_anything_is_measured(
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
def test_a_missing_library_is_told_with_its_extra(two_seeds, tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=rf"{module}: pip install 'rankpg\[report\]'"):
        report([two_seeds], tmp_path / "report.html")


@pytest.mark.slow
def test_the_page_stands_in_a_real_browser(page, tmp_path):
    pages, asked, console = look_at(page.encode(), tmp_path / "profile")
    assert console == []
    assert set(asked) == {"/", "/page.html"}
    for found, width in zip(pages, WIDTHS, strict=True):
        assert found["title"] == "2 runs compared"
        assert found["tables"] >= 6
        assert len(found["images"]) == 11
        assert min(found["images"]) > 0
        assert (found["scripts"], found["handlers"], found["fetched"]) == (0, 0, [])
        assert found["width"] <= width  # no page that scrolls sideways
        assert EVIL in found["text"]
        assert EVIL_GROUP in found["text"]


def test_the_browser_sees_what_a_bad_page_does(tmp_path):
    """What is looked for above would be found: a request, a message, an empty picture, a page too wide."""
    bad = (
        "<title>bad</title><p style='width: 2000px'>wide</p><img src='data:image/png;base64,AAAA'>"
        "<img src='/pixel.png' onerror='console.error(1)'>"
    )
    pages, asked, console = look_at(bad.encode(), tmp_path / "profile")
    assert "/pixel.png" in asked
    assert pages[0]["images"] == [0, 0]
    assert pages[0]["handlers"] == 1
    assert [name.endswith("/pixel.png") for name in pages[0]["fetched"]] == [True]
    assert pages[0]["width"] > WIDTHS[0]
    assert console
