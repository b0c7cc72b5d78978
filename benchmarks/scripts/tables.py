"""Write the tables of the README and of docs/ from the committed results.

    python -m benchmarks.scripts.tables

A table stands between `<!-- name -->` and `<!-- /name -->`; it is replaced whole. The name
`reproduce/laptop/table2` is the report of `python -m benchmarks reproduce table2`, copied to results/;
`benchmark/cpu/scale` is that of `python -m benchmarks scale --device cpu --out results/benchmark/cpu`, and
`benchmark/laptop/learning` that of `python -m benchmarks hard-problems`, copied as well.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.hard_problems.report import markdown as learnt
from benchmarks.paper.tables import markdown as reproduced
from benchmarks.scripts.common import RESULTS
from benchmarks.speed.report import markdown as measured

ROOT = Path(__file__).parents[2]


def paper_instance(result: dict[str, Any]) -> list[list[str]]:
    """Value by estimator and preset."""
    rows = [["estimator", "K", "preset", "2,000 steps", "20,000 steps", "of the optimum"]]
    for row in sorted(result["rows"].values(), key=lambda r: r["policy_value"]["mean"]):
        value, config = row["policy_value"], row["config"]
        preset, draws = config["preset"], config["draws_per_context"]
        if draws > 1:
            transform, rate = config["advantage"], config["learning_rate"]
            preset = f"{preset}, but {transform} of {draws} and step size {rate:g}"
        rows.append(
            [
                f"`{config['estimator']}`",
                str(config["num_candidates"]),
                preset,
                f"{row['curve']['2000']:.2f}",
                f"{value['mean']:.3f} ± {value['half_width_95']:.3f}",
                f"{value['mean'] / row['optimum']:.1%}",
            ]
        )
    return rows


def sample_efficiency(result: dict[str, Any]) -> list[list[str]]:
    """What was to be reached by when, and what was."""
    rows = [["tuned preset", "steps", "asked", "value", "of the optimum"]]
    for name, row in result["rows"].items():
        for step, goal in row["goals"].items():
            mean, half = row["reached"][step]["mean"], row["reached"][step]["half_width_95"]
            value, share = f"{mean:.3f} ± {half:.3f}", f"{mean / row['optimum']:.1%}"
            rows.append([name, f"{int(step):,}", f"{goal:.2f}", value, share])
    return rows


def sweep(result: dict[str, Any]) -> list[list[str]]:
    """The best settings of every estimator, and the best of each optimizer and transform beside them."""
    rows = [["estimator", "steps", "best settings", "of the optimum", "runners-up"]]
    for estimator, row in result["rows"].items():
        last = row["normalised_value"][str(row["steps"])]
        (best, share), *others = last.items()
        runners_up = "; ".join(f"{name}: {value:.3f}" for name, value in others[:2])
        rows.append([f"`{estimator}`", f"{row['steps']:,}", best, f"{share:.1%}", runners_up])
    return rows


def tower_rates(result: dict[str, Any]) -> list[list[str]]:
    """Share of the optimum by estimator and step size: after the first evaluation, and at the end."""
    cells: list[list[str]] = []
    for estimator, row in result["rows"].items():
        shares = row["normalised_value"]
        for step in (list(next(iter(shares.values())))[1], str(row["steps"])):
            values = (f"{sum(of[step]) / len(of[step]):.1%}" for of in shares.values())
            cells.append([f"`{estimator}`", f"{int(step):,}", *values])
    rates = next(iter(result["rows"].values()))["normalised_value"]
    return [["estimator", "steps", *(f"step size {rate}" for rate in rates)], *cells]


def advantages(result: dict[str, Any]) -> list[list[str]]:
    """Share of the optimum, one row an estimator, one column a transform."""
    cells: dict[str, dict[str, str]] = {}
    for name, row in result["rows"].items():
        estimator, transform = name.split("/")
        share = row["normalised_value"]
        cells.setdefault(estimator, {})[transform] = (
            f"{share['mean']:.3f} ± {share['half_width_95']:.3f}"
        )
    names = list(next(iter(cells.values())))
    body = [[f"`{e}`", *(shares.get(n, "—") for n in names)] for e, shares in cells.items()]
    return [["estimator", *names], *body]


def entropy_bonus(result: dict[str, Any]) -> list[list[str]]:
    """Share of what could be had, one row a re-ranker and score, one column a weight."""
    rows = []
    for name, row in result["rows"].items():
        reranker, estimator, transform = name.split("/")
        shares = row["share_of_limit"].values()
        cells = (f"{share['mean']:.1%} ± {share['half_width_95']:.1%}" for share in shares)
        rows.append([reranker, f"`{estimator}`", transform, *cells])
    weights = next(iter(result["rows"].values()))["share_of_limit"]
    return [["re-ranker", "estimator", "transform", *(f"bonus {w}" for w in weights)], *rows]


def many_candidates(result: dict[str, Any]) -> list[list[str]]:
    """Share of the limit, one row a transform and a weight of the bonus."""
    rows = []
    for name, row in result["rows"].items():
        shares = row["share_of_limit"].values()
        cells = (f"{share['mean']:.1%} ± {share['half_width_95']:.1%}" for share in shares)
        rows.append([*name.split("/"), *cells])
    steps = next(iter(result["rows"].values()))["steps"]
    return [["transform", "bonus", "at the start", f"after {steps:,} steps"], *rows]


def throughput(result: dict[str, Any]) -> list[list[str]]:
    """Steps per second, with the environment and without it."""
    rows = [["estimator", "steps per second", "without the environment"]]
    for name, row in result["rows"].items():
        parts = (row, row["without_environment"])
        rows.append([f"`{name}`", *(f"{part['steps_per_second']:,.4g}" for part in parts)])
    return rows


def exact_inclusion(result: dict[str, Any]) -> list[list[str]]:
    """Milliseconds and temporary memory, and the largest relative error."""
    rows = [["N", "K", "value", "with gradient", "temporary memory", "largest relative error"]]
    for row in result["rows"]:
        worst: dict[str, float] = {}
        for name, error in row.get("largest_relative_error", {}).items():
            dtype = name.split(",")[0]
            worst[dtype] = max(error, worst.get(dtype, 0.0))
        rows.append(
            [
                str(row["num_items"]),
                str(row["num_candidates"]),
                f"{row['seconds']['value']['median'] * 1e3:.1f} ms",
                f"{row['seconds']['gradient']['median'] * 1e3:.1f} ms",
                f"{row['temporary_MiB']['gradient']:.0f} MiB",
                ", ".join(f"{e:.0e} ({d})" for d, e in worst.items()) or "not measured",
            ]
        )
    return rows


def speed(result: dict[str, Any]) -> list[list[str]]:
    """A step of top1_pg at every shape, the others as multiples of it, and its memory."""
    names = ("PyTorch", "plain JAX", "ca_pg", "ca_pg_swr")
    shape = f"B = {result['batch_size']}"
    header = [shape, "retrieval", "`top1_pg`", *names, "limit of the CPU", "temporary memory"]
    rows = [header]
    for name, row in result["shapes"].items():
        ratio, memory = row["ratio_to_top1_pg"], row["top1_pg"]
        rows.append(
            [
                name,
                memory["retrieval"],
                f"{row['seconds_per_step']['top1_pg']['median'] * 1e3:.3g} ms",
                *(f"{ratio[n]:.2f}" if n in ratio else "—" for n in names),
                f"{ratio['limit']:.0%}",
                f"{memory['temporary_mib']:.0f} MiB",
            ]
        )
    return rows


def speed_busy(result: dict[str, Any]) -> list[list[str]]:
    """The same, measured while the machine had other work."""
    return speed(result)


def precision(result: dict[str, Any]) -> list[list[str]]:
    """Value by dtype."""
    rows = [["`ca_pg_swr`, tuned, K = 10", "steps", "value", "of the optimum"]]
    for name, row in result["rows"].items():
        value = row["policy_value"]
        share = f"{value['mean'] / row['optimum']:.1%}"
        figure = f"{value['mean']:.3f} ± {value['half_width_95']:.3f}"
        rows.append([name, f"{row['steps']:,}", figure, share])
    return rows


def retrievals(result: dict[str, Any]) -> list[list[str]]:
    """Milliseconds of dense and streamed."""
    rows = [["N", "K", "dense", "streamed"]]
    for row in result["rows"]:
        times = (f"{row['milliseconds'][name]:.3g}" for name in ("dense", "streamed"))
        rows.append([f"{row['N']:,}", str(row["K"]), *times])
    return rows


def growth(result: dict[str, Any]) -> list[list[str]]:
    """Seconds by N; the exponent stands in the last column."""
    times = result["growth"]["seconds_per_step"]
    body = [*(f"{t['median']:.3g}" for t in times.values()), f"{result['growth']['exponent']:.2f}"]
    return [[*(f"N = {int(n):,}" for n in times), "exponent"], body]


def v_pg_numerics(result: dict[str, Any]) -> list[list[str]]:
    """Draws whose score is not finite, and the gradient's error in the others."""
    rows = [
        [
            "standard deviation of the logits",
            "subtracted: not finite", "subtracted: error of the gradient",
            "summed: not finite", "summed: error of the gradient",
        ]
    ]  # fmt: skip
    for spread, ways in result["rows"].items():
        cells = [spread]
        for way in ("subtracted", "summed"):
            row = ways[way]
            cells += [f"{row['not_finite']:.1%}", f"{row['gradient_error_99']:.0e}"]
        rows.append(cells)
    return rows


def million_items(result: dict[str, Any]) -> list[list[str]]:
    """Recall and value by step, and the time until then."""
    rows = [["step", "minutes", "recall of the top 10", "times a blind policy's", "of the optimum"]]
    for row in result["curve"]:
        recall = row["candidate_recall"]
        rows.append(
            [
                str(row["step"]),
                f"{row['seconds'] / 60:.1f}",
                f"{recall:.1%}",
                f"{recall / result['recall_of_a_blind_policy']:,.0f}",
                f"{row['normalised_value']:.1%}",
            ]
        )
    return rows


def export_recall(result: dict[str, Any]) -> list[list[str]]:
    """Recall and queries per second by index and effort."""
    depth = result["setting"]["depth"]
    rows = [["index", "effort", f"recall@{depth}", "queries per second", "seconds to build"]]
    for row in result["rows"]:
        rows.append(
            [
                f"{row['index']} ({row['kind']})",
                "—" if row["effort"] is None else str(row["effort"]),
                f"{row['recall']:.4f}",
                f"{row['queries_per_second']:,.4g}",
                f"{row['seconds_to_build']:.3g}",
            ]
        )
    return rows


TEXT_MEASURES = {
    "recall": "recall@100",
    "ndcg none": "NDCG@10, own order",
    "ndcg tfidf": "NDCG@10, TF-IDF re-ranks",
    "ndcg optimal": "NDCG@10, at best",
}


def text_retrieval(result: dict[str, Any]) -> list[list[str]]:
    """Means over test queries, and how far from the start they are."""
    rows = [["", *TEXT_MEASURES.values()]]
    for name, row in result["rows"].items():
        cells = []
        for measure in TEXT_MEASURES:
            mean, gain = row[measure]["mean"], row[measure]["gain"]
            change = f" ({gain['mean']:+.3f} ± {gain['half_width_95']:.3f})"
            cells.append(f"{mean:.3f}" + (change if gain["half_width_95"] else ""))
        rows.append([name, *cells])
    return rows


def text_differences(result: dict[str, Any]) -> list[list[str]]:
    """Policy gradients less cross-entropy, query by query."""
    rows = [["less softmax cross-entropy", *TEXT_MEASURES.values()]]
    for name, row in result["less_cross_entropy"].items():
        found = (row[measure] for measure in TEXT_MEASURES)
        rows.append([name, *(f"{x['mean']:+.3f} ± {x['half_width_95']:.3f}" for x in found)])
    return rows


def experts_gradients(result: dict[str, Any]) -> list[list[str]]:
    """Bias against the credit-assigned gradient and cosine to the policy gradient, by number of experts."""
    found = {
        name.split("/")[1]: row["gradients"]
        for name, row in result["rows"].items()
        if name.startswith("gradients/")
    }
    rows = [["estimator", *(f"{count}: bias, cosine" for count in found)]]
    names = dict.fromkeys(name for gradients in found.values() for name in gradients)
    for name in names:
        cells = []
        for gradients in found.values():
            row = gradients.get(name)
            cells.append(
                f"{row['bias_to_credit']:.2f}, {row['cosine_to_policy']:.2f}" if row else "—"
            )
        rows.append([f"`{name}`", *cells])
    return rows


def experts_learning(result: dict[str, Any]) -> list[list[str]]:
    """Share of the optimum by estimator, experts and step: the first that was judged, and the last."""
    cells: dict[str, dict[str, str]] = {}
    for name, row in result["rows"].items():
        if name.startswith("learning/"):
            _, estimator, experts = name.split("/")
            _, first, *_, last = row["normalised_value"]  # after the start's
            for step in (first, last):
                share = row["normalised_value"][step]
                value = f"{share['mean']:.1%} ± {share['half_width_95']:.1%}"
                cells.setdefault(estimator, {})[f"{experts}, {int(step):,} steps"] = value
    columns = list(next(iter(cells.values())))
    return [["estimator", *columns], *([f"`{e}`", *row.values()] for e, row in cells.items())]


TABLES = (
    experts_gradients,
    experts_learning,
    v_pg_numerics,
    million_items,
    text_retrieval,
    text_differences,
    export_recall,
    retrievals,
    growth,
    speed,
    speed_busy,
    precision,
    paper_instance,
    sample_efficiency,
    sweep,
    tower_rates,
    advantages,
    entropy_bonus,
    many_candidates,
    throughput,
    exact_inclusion,
)


FILES = {
    "growth": "speed",
    "throughput": "benchmark/cpu/throughput",
    "text_differences": "text_retrieval",
    "experts_gradients": "experts",
    "experts_learning": "experts",
}
"""Tables that stand in a file of another name."""


def markdown(rows: list[list[str]], versions: dict[str, str]) -> str:
    """A table, and what it was measured on."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    on = f"{versions['machine']}; jax {versions['jax']}, python {versions['python']}"
    return "\n".join([*lines, "", f"*{on}*"])


REPORTS = (
    ("reproduce/", reproduced),
    ("benchmark/laptop/learning", learnt),
    ("benchmark/", measured),
)
"""How the name of a report begins -> what makes its table; the first that fits."""


def reports(text: str, results: Path = RESULTS) -> str:
    """The text of a page of docs/ with the table and the picture of every report it names."""

    def fill(found: re.Match[str]) -> str:
        name = found.group(1)
        file = results / f"{name}.json"
        if not file.exists():
            return found.group()
        table = next(table for start, table in REPORTS if name.startswith(start))
        parts = [table(json.loads(file.read_text()))]
        if file.with_suffix(".png").exists():
            picture = f"../{results.relative_to(ROOT)}/{name}.png"
            parts.append(f"![{name}]({picture})")
        return "\n\n".join([f"<!-- {name} -->", *parts, f"<!-- /{name} -->"])

    return re.sub(
        r"<!-- ((?:reproduce|benchmark)/\S+) -->(?:.*?<!-- /\1 -->)?", fill, text, flags=re.DOTALL
    )


def main() -> None:
    for page in ("results", "speed"):
        document = ROOT / "docs" / f"{page}.md"
        document.write_text(reports(document.read_text()))
    for document in (
        *(
            ROOT / "docs" / f"{page}.md"
            for page in ("export", "results", "scaling", "settings", "speed", "text")
        ),
        ROOT / "README.md",
    ):
        text = document.read_text()
        for table in TABLES:
            name = table.__name__
            file = RESULTS / f"{FILES.get(name, name)}.json"
            if not file.exists():
                continue
            result = json.loads(file.read_text())
            block = (
                f"<!-- {name} -->\n{markdown(table(result), result['versions'])}\n<!-- /{name} -->"
            )
            span = re.compile(rf"<!-- {name} -->(.*?<!-- /{name} -->)?", re.DOTALL)
            text = span.sub(lambda _, block=block: block, text, count=1)
        document.write_text(text)


if __name__ == "__main__":
    main()
