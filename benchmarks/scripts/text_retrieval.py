"""Text retrieval on the Vaswani NPL collection: a retriever trained on 93 queries with relevance labels.

    python -m benchmarks.scripts.text_retrieval --path vaswani_npl.npz

The file is not part of this project. It holds `doc_ids`, `query_ids`, `qrels` (row of the query, row of the
document, relevance), `doc_emb` and `query_emb` (LSA, normalised here to unit length), and TF-IDF vectors as
the parts of a CSR matrix, `tfidf_doc_{data,indices,indptr}` and `tfidf_query_{data,indices,indptr}`.

Nested cross-validation in five folds: every query is a test query once. For each fold, the weight decay and
the number of steps (0 included) are those of the best recall@100 in a cross-validation over the other four
folds; then the retriever is trained on these four. The policy gradients and softmax cross-entropy on the
relevant documents share encoder, initialisation and optimizer. Intervals are over the 93 test queries. A
method that the result already holds is not trained again.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.scripts.common import RESULTS, write
from rankpg import TrainConfig, rerankers
from rankpg._utils.plots import mean_interval
from rankpg.core.numerics import largest
from rankpg.core.sampling import greedy_candidates
from rankpg.environments.from_text import from_text
from rankpg.environments.tabular import Ratings
from rankpg.evaluation.metrics import ndcg, relevant_recall
from rankpg.policy import Policy
from rankpg.training.build import build_learner
from rankpg.training.update import Learner, TrainState, train_chunk
from rankpg.types import Array, Float, record

FOLDS, SHOWN = 5, 10
SETTINGS: dict[str, Any] = {
    "num_candidates": 100, "ranking_length": SHOWN, "context_tower": "adapter",
    "item_tower": "adapter", "hidden": (), "batch_size": 32, "seeds": (0,),
    "optimizer": "adamw", "learning_rate": 1e-3, "temperature": 0.1,
}  # fmt: skip
WEIGHT_DECAYS = (0.0, 10.0)
"""Weight decays to choose from; decay pulls the embeddings towards the given ones."""
CROSS_ENTROPY = "softmax cross-entropy"
START = "given embeddings, cosine (initialisation)"
ARMS = {
    "`ca_pg_swr`": ("ca_pg_swr", "optimal"),
    CROSS_ENTROPY: ("cross-entropy", "optimal"),
    "`ca_pg_swr` under a TF-IDF re-ranker": ("ca_pg_swr", "tfidf"),
    "`v_pg_swr`": ("v_pg_swr", "optimal"),
}
"""name -> estimator or cross-entropy, and the re-ranker in training"""


@record
class Collection(Ratings):
    """Relevance labels, and the TF-IDF scores of a re-ranker that does not see them."""

    tfidf: Float[Array, "num_contexts N"] | None = None


def by_tfidf(environment: Any, context: Any, candidates: Any) -> Any:
    """Returns the TF-IDF scores of the candidates."""
    return environment.tfidf[context, candidates]


RERANKERS: dict[str, Callable[[], Any]] = {
    "optimal": lambda: rerankers.optimal(SHOWN),
    "tfidf": lambda: rerankers.learned(SHOWN, by_tfidf),
    "none": lambda: rerankers.custom(SHOWN, lambda key, context, candidates: candidates[:SHOWN]),
}
"""The optimal re-ranker, a fixed imperfect one, and the retriever's own order."""


class Text:
    """The contents of the file, as environments of its queries in any order."""

    def __init__(self, path: Path):
        with np.load(path, allow_pickle=False) as file:
            self.file = {name: file[name] for name in file.files}
        self.tfidf = _products(self.file)
        self.num_queries = len(self.file["query_ids"])

    def ordered(self, order: np.ndarray) -> Collection:
        """Returns an environment of all queries in this order, so that any subset can be trained on first."""
        file = self.file
        query, document, relevance = file["qrels"].T
        data = from_text(
            file["query_ids"][query],
            file["doc_ids"][document],
            relevance,
            query_ids=file["query_ids"][order],
            document_ids=file["doc_ids"],
            query_embeddings=_unit_rows(file["query_emb"])[order],
            document_embeddings=_unit_rows(file["doc_emb"]),
        )
        fields = vars(data.environment)
        return Collection(**fields, tfidf=jnp.asarray(self.tfidf[order]))

    def folds(self, seed: int) -> list[np.ndarray]:
        """Returns the queries of each fold."""
        return np.array_split(np.random.default_rng(seed).permutation(self.num_queries), FOLDS)


def _unit_rows(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def _products(file: dict[str, np.ndarray]) -> np.ndarray:
    """Inner products of the TF-IDF vectors, float32[num_queries, N]."""
    sides = []
    width = 1 + max(file[f"tfidf_{side}_indices"].max() for side in ("query", "doc"))
    for side in ("query", "doc"):
        data, indices, starts = (file[f"tfidf_{side}_{n}"] for n in ("data", "indices", "indptr"))
        dense = np.zeros((len(starts) - 1, width), np.float32)
        dense[np.repeat(np.arange(len(dense)), np.diff(starts)), indices] = data
        sides.append(dense)
    return sides[0] @ sides[1].T


def cross_entropy_chunk(learner: Learner, length: int) -> Any:
    """`train_chunk` for the loss -sum_a relevance(a) log softmax(logits)_a / sum_a relevance(a)."""

    def step(learner, targets, root, state, _):
        environment = learner.environment
        contexts = learner.sampler(jax.random.fold_in(root, state.step), environment)

        def loss(params):
            logits = learner.policy.logits(params, environment, contexts)[:, 0]
            return jnp.mean(optax.softmax_cross_entropy(logits, targets[contexts]))

        gradient = jax.grad(loss)(state.params)
        updates, memory = learner.optimizer.update(gradient, state.optimizer_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return state.replace(params=params, optimizer_state=memory, step=state.step + 1), None

    def chunk(learner, states, roots):
        environment = learner.environment
        contexts = jnp.arange(environment.num_contexts, dtype=jnp.int32)
        catalogue = jnp.arange(environment.num_items, dtype=jnp.int32)
        worth = jax.vmap(environment.mean_rewards, in_axes=(0, None))(contexts, catalogue)
        targets = worth / jnp.sum(worth, axis=1, keepdims=True)

        def one(state, root):
            return jax.lax.scan(partial(step, learner, targets, root), state, length=length)[0]

        return jax.vmap(one)(states, roots), None

    return jax.jit(chunk)


def evaluator(policy: Policy) -> Any:
    """Compiles `evaluate(environment, params)`: recall@K and NDCG@10 of every query, by re-ranker."""

    def evaluate(environment: Collection, params: Any) -> dict[str, Any]:
        contexts = jnp.arange(environment.num_contexts, dtype=jnp.int32)
        catalogue = jnp.arange(environment.num_items, dtype=jnp.int32)

        def one(context, logits):
            worth = environment.mean_rewards(context, catalogue)
            candidates = greedy_candidates(logits, policy.quotas)
            best = largest(worth, SHOWN)[0]
            found = {"recall": relevant_recall(worth, candidates)}
            for name, make in RERANKERS.items():
                shown = make().greedy(jax.random.key(0), environment, context, candidates).items
                found[f"ndcg {name}"] = ndcg(worth[shown], best)
            return found

        return jax.vmap(one)(contexts, policy.logits(params, environment, contexts))

    return jax.jit(evaluate)


class Bench:
    """Trains and tests one method."""

    def __init__(self, text: Text, num_steps: int, every: int):
        self.text, self.num_steps, self.every = text, num_steps, every
        self.evaluate = evaluator(self.learner("cross-entropy", "optimal").policy)

    def learner(self, method: str, reranker: str, decay: float = 0.0) -> Learner:
        config = TrainConfig(
            **SETTINGS,
            estimator="ca_pg_swr" if method == "cross-entropy" else method,
            optimizer_options=(f"weight_decay={decay}",),
        )
        world = self.text.ordered(np.arange(self.text.num_queries))
        return build_learner(config, world, reranker=RERANKERS[reranker]())

    def trainer(self, method: str, reranker: str, decay: float, num_training: int) -> Any:
        """Returns `curve(order, seed, num_steps)`: metrics of every query, in that order, every few steps."""
        learner = self.learner(method, reranker, decay)
        training = np.arange(num_training, dtype=np.int32)
        learner = dataclasses.replace(learner, sampler=learner.sampler._replace(contexts=training))
        make = cross_entropy_chunk if method == "cross-entropy" else train_chunk
        chunk = make(learner, self.every)

        def curve(order: np.ndarray, seed: int, num_steps: int) -> list[dict[str, np.ndarray]]:
            world, root = self.text.ordered(order), jax.random.key(seed)
            ordered = dataclasses.replace(learner, environment=world)
            state: TrainState = jax.tree.map(lambda x: x[None], learner.init(root))
            measured = []
            for step in range(0, num_steps + 1, self.every):
                if step:
                    state, _ = chunk(ordered, state, root[None])
                params = jax.tree.map(lambda x: x[0], state.params)
                measured.append(jax.device_get(self.evaluate(world, params)))
            return measured

        return curve

    def arm(self, method: str, reranker: str, seed: int) -> dict[str, Any]:
        """Returns the test metrics of every query, in the file's order, and the choices per fold."""
        folds = self.text.folds(seed)
        largest = max(map(len, folds))
        validation = self.validate(method, reranker, folds, seed)
        trainers = lru_cache(
            lambda decay: self.trainer(method, reranker, decay, self.text.num_queries - largest)
        )
        queries = {name: np.zeros(self.text.num_queries) for name in self.measures()}
        chosen = []
        for index, test in enumerate(folds):
            means = np.mean(np.concatenate(validation[index], axis=-1), axis=-1)
            decay, place = np.unravel_index(np.argmax(means), means.shape)
            others = np.setdiff1d(np.concatenate(folds), test)
            order = np.concatenate([np.random.default_rng(seed).permutation(others), test])
            steps = int(place) * self.every
            last = trainers(WEIGHT_DECAYS[decay])(order, seed, steps)[-1]
            for name, values in last.items():
                queries[name][test] = values[-len(test) :]
            chosen.append({"weight_decay": WEIGHT_DECAYS[decay], "steps": steps})
        return {"queries": queries, "chosen": chosen}

    def validate(
        self, method: str, reranker: str, folds: list[np.ndarray], seed: int
    ) -> list[list[np.ndarray]]:
        """Returns, for each test fold, recall [decays, evaluations, queries] of every other fold.

        A training without two folds serves both of them: one is the test fold, the other validates.
        """
        num_training = self.text.num_queries - 2 * max(map(len, folds))
        curves = [self.trainer(method, reranker, decay, num_training) for decay in WEIGHT_DECAYS]
        found: list[list[np.ndarray]] = [[] for _ in folds]
        for one, two in itertools.combinations(range(len(folds)), 2):
            rest = np.concatenate([f for i, f in enumerate(folds) if i not in (one, two)])
            order = np.concatenate([rest, folds[one], folds[two]])
            recall = np.array(
                [[m["recall"] for m in curve(order, seed, self.num_steps)] for curve in curves]
            )
            of_two = len(folds[two])
            found[two].append(recall[:, :, len(rest) : -of_two])
            found[one].append(recall[:, :, -of_two:])
        return found

    def measures(self) -> list[str]:
        """Returns the names of the metrics."""
        return ["recall", *(f"ndcg {name}" for name in RERANKERS)]


def interval(values: np.ndarray) -> dict[str, Any]:
    """Mean and half-width of the 95 % interval."""
    mean, half = mean_interval(values)
    return {"mean": mean, "half_width_95": half}


def differences(rows: dict[str, Any]) -> dict[str, Any]:
    """Paired differences between every policy gradient and cross-entropy, over queries."""

    def figures(name: str, measure: str) -> np.ndarray:
        return np.array(rows[name][measure]["queries"])

    return {
        name: {
            measure: interval(figures(name, measure) - figures(CROSS_ENTROPY, measure))
            for measure in rows[name]
            if measure != "chosen"
        }
        for name in ARMS
        if name != CROSS_ENTROPY and {name, CROSS_ENTROPY} <= rows.keys()
    }


def summary(queries: dict[str, np.ndarray], start: dict[str, np.ndarray]) -> dict[str, Any]:
    """Means over queries and differences from the initialisation, with intervals; values of every query."""
    return {
        name: interval(values)
        | {
            "gain": interval(values - start[name]),
            "queries": [round(float(v), 4) for v in values],
        }
        for name, values in queries.items()
    }


def baselines(text: Text, bench: Bench) -> dict[str, dict[str, np.ndarray]]:
    """Metrics without training: given embeddings, as cosines and as inner products, and TF-IDF."""
    world = text.ordered(np.arange(text.num_queries))
    plain = world.replace(  # pyright: ignore[reportAttributeAccessIssue]
        context_features=jnp.asarray(text.file["query_emb"], jnp.float32),
        item_features=jnp.asarray(text.file["doc_emb"], jnp.float32),
    )
    policy = bench.learner("cross-entropy", "optimal").policy
    params = policy.encoder.init(jax.random.key(0))
    lexical = policy.encoder._replace(
        apply=lambda params, contexts, scores: scores[contexts][:, None],
        reads=lambda environment: environment.tfidf,
    )
    return {
        START: bench.evaluate(world, params),
        "given embeddings, inner product": bench.evaluate(plain, params),
        "TF-IDF": evaluator(dataclasses.replace(policy, encoder=lexical))(world, params),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--path", type=Path, required=True, help="location of vaswani_npl.npz")
    parser.add_argument("--seed", type=int, default=0, help="seed of folds and draws [%(default)s]")
    parser.add_argument(
        "--num-steps", type=int, default=160, help="most training steps [%(default)s]"
    )
    parser.add_argument(
        "--every", type=int, default=20, help="steps between evaluations [%(default)s]"
    )
    parser.add_argument(
        "--arms", nargs="+", choices=ARMS, default=list(ARMS), help="methods to train [all]"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="output folder [%(default)s]")
    given = parser.parse_args()
    text = Text(given.path)
    bench = Bench(text, given.num_steps, given.every)
    names = ("seed", "num_steps", "every")
    settings = {name: getattr(given, name) for name in names} | SETTINGS
    settings |= {"weight_decays": WEIGHT_DECAYS, "folds": FOLDS}
    settings = json.loads(json.dumps(settings))  # with the types that JSON returns
    file = given.out / "text_retrieval.json"
    before = json.loads(file.read_text()) if file.exists() else {}
    done = before["rows"] if before.get("settings") == settings else {}
    untrained = {name: jax.device_get(found) for name, found in baselines(text, bench).items()}
    rows: dict[str, Any] = {n: summary(found, untrained[START]) for n, found in untrained.items()}
    for name, arm in ARMS.items():
        if name in done:
            rows[name] = done[name]
        elif name in given.arms:
            found = bench.arm(*arm, seed=given.seed)
            row = summary(found["queries"], untrained[START]) | {"chosen": found["chosen"]}
            rows[name] = row
            print(name, row["recall"]["mean"], row["recall"]["gain"], file=sys.stderr)
        body = {"settings": settings, "rows": rows, "less_cross_entropy": differences(rows)}
        write("text_retrieval", body, given.out)


if __name__ == "__main__":
    main()
