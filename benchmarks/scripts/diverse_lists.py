"""alpha-nDCG@10 of TREC's diversity judgements, by estimator, behind a re-ranker that sorts by relevance.

    python -m benchmarks.scripts.diverse_lists --qrels qrels.2009 qrels.2010 ... [--num-steps 5000]

Topics are contexts, and the documents that were judged for a topic are its candidates. Judgements are lines
of topic, subtopic, document and judgement, from https://trec.nist.gov/data/webmain.html. The re-ranker shows
the 10 most relevant of K candidates, by the highest grade of a document for any subtopic; equal grades
are in a fixed random order of the documents. It is the same for all methods but the last.

Methods draw equally many lists, --num-steps times the batch: the policy gradient with a baseline per context,
credit-assigned gradients with telescoped gains, `ca_pg_swap` (which evaluates the reward
up to K + 1 times for each draw), a retriever that is trained on relevance alone, and the same one whose
candidates are re-ranked by maximal marginal relevance (MMR; Carbonell and Goldstein 1998),

    argmax of lambda relevance / 5 - (1 - lambda) max over the shown of the cosine of two item embeddings,

with the best lambda of a grid on the measured topics, which favours it. Prints means over 5 seeds with 95 %
intervals, and writes benchmarks/results/diverse_lists.json. A row that the file holds is not measured again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.markdown import grid
from benchmarks.scripts.common import RESULTS, fill_rows
from rankpg import TrainConfig, rerankers, train
from rankpg._utils.plots import mean_interval
from rankpg.environments import from_subtopics
from rankpg.environments.dataset import Dataset
from rankpg.environments.with_list_reward import items_alone
from rankpg.evaluation.metrics import TwoStage, evaluate
from rankpg.runs.run import Run
from rankpg.types import Array, Environment, Float, Int, Reranker

NAME = "diverse_lists"
LENGTH = 10
METHODS: dict[str, tuple[str, str]] = {
    "v_pg, baseline per context": ("v_pg", "context"),
    "ca_pg, telescoped gains": ("ca_pg", "none"),
    "ca_pg, telescoped gains, baseline per context": ("ca_pg", "context"),
    "ca_pg_swr, telescoped gains": ("ca_pg_swr", "none"),
    "ca_pg_swap": ("ca_pg_swap", "none"),
}
"""name -> estimator and advantage."""
LAMBDAS = (0.1, 0.3, 0.5, 0.7, 0.9)
_GRADES = 5.0
"""More than the highest grade and the number that orders equal ones."""


def relevance(
    environment: Environment, context: Int[Array, ""], items: Int[Array, "n"]
) -> Float[Array, "n"]:
    """Highest grade of each document, plus a fixed number below 1 of its own."""
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(0)))(items)
    return environment.relevance(context, items) + jax.vmap(jax.random.uniform)(keys)


def marginal_relevance(
    weight: float,
    embeddings: Float[Array, "N D"],
    num_candidates: int,
    environment: Environment,
) -> Reranker:
    """Shows candidates one after the other by MMR, with the cosines of these rows as similarity."""
    rows = embeddings / jnp.linalg.norm(embeddings, axis=1, keepdims=True)

    def rank(key: Any, context: Any, candidates: Any) -> Any:
        del key
        worth = weight * relevance(environment, context, candidates) / _GRADES
        cosines = rows[candidates] @ rows[candidates].T

        def show(carry: Any, _: None) -> Any:
            closest, left = carry
            score = worth - (1 - weight) * jnp.where(jnp.isneginf(closest), 0, closest)
            best = jnp.argmax(jnp.where(left, score, -jnp.inf))
            return (jnp.maximum(closest, cosines[best]), left.at[best].set(False)), best

        nothing = jnp.full(num_candidates, -jnp.inf), jnp.ones(num_candidates, bool)
        order = jax.lax.scan(show, nothing, None, length=LENGTH)[1]
        return candidates[order]

    return rerankers.custom(LENGTH, rank)


def measure(config: TrainConfig, data: Dataset) -> dict[str, Any]:
    """Trains on the reward of the list and returns its value by seed."""
    run = train(config, data, reranker=rerankers.by_score(LENGTH, relevance))
    return _result(config, _last(run), curve=_curve(run), stopped=run.stopped())


def measure_relevance(config: TrainConfig, data: Dataset) -> dict[str, Any]:
    """Trains on relevance alone, and returns the value of the list with and without MMR."""
    plain = dataclasses.replace(data, environment=items_alone(data.environment))
    run = train(config, plain, reranker=rerankers.by_score(LENGTH, relevance))
    values: dict[str, list[float]] = {"sorted": []}
    for seed in range(len(config.seeds)):
        params = jax.tree.map(lambda leaf, seed=seed: leaf[seed], run.state.params)
        contexts = jnp.arange(data.environment.num_contexts)
        embeddings = run.policy.embeddings(params, plain.environment, contexts[:1]).items[0]
        systems = {"sorted": run.learner.reranker} | {
            f"{weight:g}": marginal_relevance(
                weight, embeddings, config.num_candidates, plain.environment
            )
            for weight in LAMBDAS
        }
        for name, reranker in systems.items():
            system = TwoStage(run.policy, reranker, run.learner.position_weights)
            value = jax.jit(partial(evaluate, system))(
                data.environment, params, contexts, jax.random.key(seed)
            ).policy_value
            values.setdefault(name, []).append(float(value))
    of_mmr = {name: of_seeds for name, of_seeds in values.items() if name != "sorted"}
    best = max(of_mmr, key=lambda name: float(np.mean(of_mmr[name])))
    return _result(config, values["sorted"], stopped=run.stopped()) | {
        "mmr": _value(of_mmr[best]) | {"lambda": float(best), "all": of_mmr}
    }


def _value(of_seeds: list[float]) -> dict[str, Any]:
    mean, half = mean_interval(of_seeds)
    return {"mean": mean, "half_width_95": half, "seeds": of_seeds}


def _result(config: TrainConfig, of_seeds: list[float], **more: Any) -> dict[str, Any]:
    value = _value(of_seeds)
    return {
        "steps": config.num_steps,
        "draws": config.num_steps * config.batch_size,
        "config": config.resolve().to_dict() | {"path": None},
        "policy_value": value,
        "summary": f"{value['mean']:.4f} +- {value['half_width_95'] or 0:.4f}",
        **more,
    }


def _last(run: Run) -> list[float]:
    return [row["policy_value"] for row in run.metrics if row["step"] == run.step]


def _curve(run: Run) -> dict[str, float]:
    steps = sorted({row["step"] for row in run.metrics})
    return {
        str(step): float(np.mean([r["policy_value"] for r in run.metrics if r["step"] == step]))
        for step in steps
    }


def table(rows: dict[str, Any]) -> str:
    """Table of alpha-nDCG@10 by method."""
    cells = [["method", "draws", "alpha-nDCG@10"]]
    for name, row in rows.items():
        values = {name: row["policy_value"]}
        if "mmr" in row:
            values[f"{name}, MMR with lambda {row['mmr']['lambda']:g}"] = row["mmr"]
        for method, value in values.items():
            interval = f"{value['mean']:.4f} ± {value['half_width_95'] or 0:.4f}"
            cells.append([method, f"{row['draws']:,}", interval])
    return grid(cells)


def _joined(files: list[Path]) -> Dataset:
    """Reads files of judgements as one, since no two years share a topic."""
    with tempfile.NamedTemporaryFile("wb", suffix=".qrels") as whole:
        for file in files:
            whole.write(file.read_bytes().rstrip(b"\n") + b"\n")
        whole.flush()
        return from_subtopics(whole.name, list_reward="alpha_ndcg")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--qrels", type=Path, nargs="+", required=True, help="files of judgements by subtopic"
    )
    parser.add_argument("--num-steps", type=int, default=5000, help="training steps [%(default)s]")
    parser.add_argument(
        "--num-candidates", type=int, default=50, help="K, at least 10 [%(default)s]"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="draws a step [%(default)s]")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds [%(default)s]")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="folder of the result [benchmarks/results]"
    )
    arguments = parser.parse_args()
    data = _joined(arguments.qrels)
    base = TrainConfig(
        num_candidates=arguments.num_candidates,
        ranking_length=LENGTH,
        batch_size=arguments.batch_size,
        num_steps=arguments.num_steps,
        eval_every=max(arguments.num_steps // 10, 1),
        seeds=tuple(range(arguments.seeds)),
    )
    measures: dict[str, Any] = {}
    for name, (estimator, advantage) in METHODS.items():
        config = dataclasses.replace(base, estimator=estimator, advantage=advantage)
        measures[name] = partial(measure, config, data)
    config = dataclasses.replace(base, estimator="ca_pg_swr", advantage="none")
    measures["relevance alone, ca_pg_swr"] = partial(measure_relevance, config, data)
    fill_rows(NAME, measures, arguments.num_steps, arguments.out)
    print(table(json.loads((arguments.out / f"{NAME}.json").read_text())["rows"]))


if __name__ == "__main__":
    main()
