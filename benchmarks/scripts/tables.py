"""Fills the tables of docs/ from the committed results.

    python -m benchmarks.scripts.tables

A table stands between `<!-- name -->` and `<!-- /name -->` and is replaced as a whole. The name
`reproduce/laptop/table2` is the report of `python -m benchmarks reproduce table2`, copied to
benchmarks/results; `benchmark/cpu/scale` that of `python -m benchmarks scale --device cpu --out
benchmarks/results/benchmark/cpu`; `benchmark/laptop/learning` that of `python -m benchmarks hard-problems`,
copied as well.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.hard_problems.report import markdown as hard_problems_report
from benchmarks.markdown import grid
from benchmarks.paper.tables import markdown as paper_report
from benchmarks.scripts.common import RESULTS
from benchmarks.scripts.predicted_rewards import table as predicted_rewards_table
from benchmarks.speed.report import markdown as speed_report

ROOT = Path(__file__).parents[2]


def paper_instance(result: dict[str, Any]) -> list[list[str]]:
    """Table of the policy value by estimator and preset."""
    rows = [["estimator", "K", "preset", "2,000 steps", "20,000 steps", "of the optimum"]]
    for row in sorted(result["rows"].values(), key=lambda r: r["policy_value"]["mean"]):
        value, config = row["policy_value"], row["config"]
        preset, draws = config["preset"], config["draws_per_context"]
        if draws > 1:
            advantage, rate = config["advantage"], config["learning_rate"]
            preset = f"{preset}, with {advantage} of {draws} and learning rate {rate:g}"
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
    """Table of the goals by step and the values reached."""
    rows = [["tuned preset", "steps", "goal", "value", "of the optimum"]]
    for name, row in result["rows"].items():
        for step, goal in row["goals"].items():
            mean, half = row["reached"][step]["mean"], row["reached"][step]["half_width_95"]
            value, share = f"{mean:.3f} ± {half:.3f}", f"{mean / row['optimum']:.1%}"
            rows.append([name, f"{int(step):,}", f"{goal:.2f}", value, share])
    return rows


def sweep(result: dict[str, Any]) -> list[list[str]]:
    """Table of the best settings of every estimator, with the runners-up."""
    rows = [["estimator", "steps", "best settings", "of the optimum", "runners-up"]]
    for estimator, row in result["rows"].items():
        last = row["normalised_value"][str(row["steps"])]
        (best, share), *others = last.items()
        runners_up = "; ".join(f"{name}: {value:.3f}" for name, value in others[:2])
        rows.append([f"`{estimator}`", f"{row['steps']:,}", best, f"{share:.1%}", runners_up])
    return rows


def tower_rates(result: dict[str, Any]) -> list[list[str]]:
    """Table of the share of the optimum by estimator and learning rate, at the first and last evaluation."""
    cells: list[list[str]] = []
    for estimator, row in result["rows"].items():
        shares = row["normalised_value"]
        for step in (list(next(iter(shares.values())))[1], str(row["steps"])):
            values = (f"{sum(of[step]) / len(of[step]):.1%}" for of in shares.values())
            cells.append([f"`{estimator}`", f"{int(step):,}", *values])
    rates = next(iter(result["rows"].values()))["normalised_value"]
    return [["estimator", "steps", *(f"learning rate {rate}" for rate in rates)], *cells]


def advantages(result: dict[str, Any]) -> list[list[str]]:
    """Table of the share of the optimum: one row per estimator, one column per advantage."""
    cells: dict[str, dict[str, str]] = {}
    for name, row in result["rows"].items():
        estimator, advantage = name.split("/")
        share = row["normalised_value"]
        cells.setdefault(estimator, {})[advantage] = (
            f"{share['mean']:.3f} ± {share['half_width_95']:.3f}"
        )
    names = list(next(iter(cells.values())))
    body = [[f"`{e}`", *(shares.get(n, "—") for n in names)] for e, shares in cells.items()]
    return [["estimator", *names], *body]


def entropy_bonus(result: dict[str, Any]) -> list[list[str]]:
    """Table of the share of the attainable value: one row per re-ranker and score, one column per weight."""
    rows = []
    for name, row in result["rows"].items():
        reranker, estimator, advantage = name.split("/")
        shares = row["share_of_limit"].values()
        cells = (f"{share['mean']:.1%} ± {share['half_width_95']:.1%}" for share in shares)
        rows.append([reranker, f"`{estimator}`", advantage, *cells])
    weights = next(iter(result["rows"].values()))["share_of_limit"]
    return [["re-ranker", "estimator", "advantage", *(f"bonus {w}" for w in weights)], *rows]


def many_candidates(result: dict[str, Any]) -> list[list[str]]:
    """Table of the share of the attainable value: one row per advantage and weight of the bonus."""
    rows = []
    for name, row in result["rows"].items():
        shares = row["share_of_limit"].values()
        cells = (f"{share['mean']:.1%} ± {share['half_width_95']:.1%}" for share in shares)
        rows.append([*name.split("/"), *cells])
    steps = next(iter(result["rows"].values()))["steps"]
    return [["advantage", "bonus", "before training", f"after {steps:,} steps"], *rows]


def throughput(result: dict[str, Any]) -> list[list[str]]:
    """Table of the steps per second, with and without the environment."""
    rows = [["estimator", "steps per second", "without the environment"]]
    for name, row in result["rows"].items():
        parts = (row, row["without_environment"])
        rows.append([f"`{name}`", *(f"{part['steps_per_second']:,.4g}" for part in parts)])
    return rows


def exact_inclusion(result: dict[str, Any]) -> list[list[str]]:
    """Table of milliseconds, temporary memory and the largest relative error."""
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
    """Table of the step of top1_pg by shape, with its memory, and of the others as multiples of it."""
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
    """Table of `speed`, measured while other programs ran on the machine."""
    return speed(result)


def precision(result: dict[str, Any]) -> list[list[str]]:
    """Table of the policy value by dtype."""
    rows = [["`ca_pg_swr`, tuned, K = 10", "steps", "value", "of the optimum"]]
    for name, row in result["rows"].items():
        value = row["policy_value"]
        share = f"{value['mean'] / row['optimum']:.1%}"
        figure = f"{value['mean']:.3f} ± {value['half_width_95']:.3f}"
        rows.append([name, f"{row['steps']:,}", figure, share])
    return rows


def retrievals(result: dict[str, Any]) -> list[list[str]]:
    """Table of milliseconds per step with dense and streamed retrieval."""
    rows = [["N", "K", "dense", "streamed"]]
    for row in result["rows"]:
        times = (f"{row['milliseconds'][name]:.3g}" for name in ("dense", "streamed"))
        rows.append([f"{row['N']:,}", str(row["K"]), *times])
    return rows


def growth(result: dict[str, Any]) -> list[list[str]]:
    """Table of seconds per step by N, with the exponent in the last column."""
    times = result["growth"]["seconds_per_step"]
    body = [*(f"{t['median']:.3g}" for t in times.values()), f"{result['growth']['exponent']:.2f}"]
    return [[*(f"N = {int(n):,}" for n in times), "exponent"], body]


def v_pg_numerics(result: dict[str, Any]) -> list[list[str]]:
    """Table of the share of draws with a non-finite score, and the gradient's error in the others."""
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
    """Table of recall, value and elapsed time by step."""
    rows = [
        [
            "step",
            "minutes",
            "recall of the top 10",
            "multiple of a random policy's",
            "of the optimum",
        ]
    ]
    for row in result["curve"]:
        recall = row["candidate_recall"]
        rows.append(
            [
                str(row["step"]),
                f"{row['seconds'] / 60:.1f}",
                f"{recall:.1%}",
                f"{recall / result['recall_of_a_random_policy']:,.0f}",
                f"{row['normalised_value']:.1%}",
            ]
        )
    return rows


def export_recall(result: dict[str, Any]) -> list[list[str]]:
    """Table of recall and queries per second by index and effort."""
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
    """Table of the means over test queries, with the differences from the initial embeddings."""
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
    """Table of the paired differences between policy gradients and cross-entropy."""
    rows = [["minus softmax cross-entropy", *TEXT_MEASURES.values()]]
    for name, row in result["less_cross_entropy"].items():
        found = (row[measure] for measure in TEXT_MEASURES)
        rows.append([name, *(f"{x['mean']:+.3f} ± {x['half_width_95']:.3f}" for x in found)])
    return rows


def experts_gradients(result: dict[str, Any]) -> list[list[str]]:
    """Table of bias to the credit-assigned and cosine to the policy gradient, by number of experts."""
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
    """Table of the share of the optimum by estimator, experts and step: first and last evaluation."""
    cells: dict[str, dict[str, str]] = {}
    for name, row in result["rows"].items():
        if name.startswith("learning/"):
            _, estimator, experts = name.split("/")
            _, first, *_, last = row["normalised_value"]  # the first one is at step 0
            for step in (first, last):
                share = row["normalised_value"][step]
                value = f"{share['mean']:.1%} ± {share['half_width_95']:.1%}"
                cells.setdefault(estimator, {})[f"{experts}, {int(step):,} steps"] = value
    columns = list(next(iter(cells.values())))
    return [["estimator", *columns], *([f"`{e}`", *row.values()] for e, row in cells.items())]


def swaps(result: dict[str, Any]) -> list[list[str]]:
    """Table of the variance of one draw's gradient, by re-ranker and reward."""
    names = {"v_pg": "`v_pg`", "v_pg_set": "`v_pg_set`", "ca_pg_swap": "`ca_pg_swap`"}
    rows = [["re-ranker sorts by", "list earns", "K", *names.values(), "`v_pg` / `ca_pg_swap`"]]
    for name, row in result["variance"].items():
        reranker, reward, count = name.split("/")
        cells = (f"{row[n]:.3g}" for n in names)
        ratio = f"{row['v_pg_to_swap']:.1f}"
        sorts = "the reward" if reranker == "aligned" else "a score of its own"
        rows.append([sorts, reward, count.removeprefix("K="), *cells, ratio])
    return rows


def predicted_rewards(result: dict[str, Any]) -> list[list[str]]:
    """Table of the value of estimators that learn through predicted rewards."""
    return predicted_rewards_table(result["rows"])


TABLES = (
    swaps,
    predicted_rewards,
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
"""Tables whose result file has another name."""


def markdown(rows: list[list[str]], versions: dict[str, str]) -> str:
    """Returns a table as markdown, with its hardware and versions."""
    on = f"{versions['machine']}; jax {versions['jax']}, python {versions['python']}"
    return f"{grid(rows)}\n\n*{on}*"


REPORTS = (
    ("reproduce/", paper_report),
    ("benchmark/laptop/learning", hard_problems_report),
    ("benchmark/", speed_report),
)
"""Prefix of a report's name -> the function that writes its table; the first match counts."""


def reports(text: str, results: Path = RESULTS) -> str:
    """Returns the text of a page with the table and picture of every report that it names."""

    def block(found: re.Match[str]) -> str:
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
        r"<!-- ((?:reproduce|benchmark)/\S+) -->(?:.*?<!-- /\1 -->)?", block, text, flags=re.DOTALL
    )


PAGES = ("estimators", "export", "results", "scaling", "settings", "speed", "text")
"""Pages of docs/ with tables."""


def fill(text: str, results: Path = RESULTS) -> str:
    """Returns the text of a page with every table of `TABLES` that it names."""
    for table in TABLES:
        name = table.__name__
        file = results / f"{FILES.get(name, name)}.json"
        if not file.exists():
            continue
        result = json.loads(file.read_text())
        block = f"<!-- {name} -->\n{markdown(table(result), result['versions'])}\n<!-- /{name} -->"
        span = re.compile(rf"<!-- {name} -->(.*?<!-- /{name} -->)?", re.DOTALL)
        text = span.sub(lambda _, block=block: block, text, count=1)
    return text


def main() -> None:
    for document in (*(ROOT / "docs" / f"{page}.md" for page in PAGES), ROOT / "README.md"):
        document.write_text(fill(reports(document.read_text())))


if __name__ == "__main__":
    main()
