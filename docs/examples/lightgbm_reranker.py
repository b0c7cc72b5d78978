"""A retriever trained under a real LightGBM LambdaMART, beside a softmax retriever on the same clicks.

    python docs/examples/lightgbm_reranker.py                 # as reported in docs/online.md
    python docs/examples/lightgbm_reranker.py --toy           # seconds

Users click items; all anybody sees is the clicks. A LambdaMART is fitted to them and shows L of K candidates.
Two retrievers with the same towers, start, optimizer, batches and number of updates choose these K:

    softmax   cross-entropy: log softmax of every clicked item, as two-tower retrievers are usually trained
    rankpg    policy gradient on the clicks that the list earns which the LambdaMART makes of its candidates,
              with the mean of each context taken off (the LambdaMART errs), and without; from the start,
              and from where softmax ends

All are judged on users whose clicks nobody saw, by the true probability of a click.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import lightgbm
import numpy as np
import optax

import rankpg
from rankpg import TrainConfig, encoders, online
from rankpg._version import versions
from rankpg.runs.run import Run, prepare

SIZES = {"users": 1000, "items": 1000, "held_out": 200, "steps": 1000, "trees": 100, "seeds": 3}
TOY = {"users": 40, "items": 30, "held_out": 10, "steps": 4, "trees": 5, "seeds": 1}
FEATURES, CANDIDATES, SHOWN = 10, 20, 5
COARSE, FINE = 1e-2, 3e-4
"""The step size from the start, and from a retriever that is good already."""


def make_clicks(users: int, items: int, seed: int = 0) -> dict[str, np.ndarray]:
    """What the world is like: features, the true probability of a click, and clicks drawn from it."""
    world = rankpg.environments.generate(jax.random.key(seed), users, items, FEATURES)
    catalogue = jnp.arange(items, dtype=jnp.int32)
    worth = jax.vmap(world.mean_rewards, (0, None))(jnp.arange(users, dtype=jnp.int32), catalogue)
    chance = np.clip((np.asarray(worth) - 1) / 10, 0, 1)
    clicks = np.random.default_rng(seed).uniform(size=chance.shape) < chance
    return {
        "user_features": np.asarray(world.context_features),
        "item_features": np.asarray(world.item_features),
        "chance": chance,
        "clicks": clicks.astype(np.float32),
    }


def pair_features(data: dict[str, np.ndarray], users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """What the LambdaMART sees of a user and an item, [n, 3 F]."""
    user, item = data["user_features"][users], data["item_features"][items]
    return np.concatenate([user, item, user * item], axis=1)


def fit_ranker(
    data: dict[str, np.ndarray], training: np.ndarray, trees: int, seed: int = 0
) -> lightgbm.Booster:
    """A LambdaMART on the clicks of some users: 100 random items each, or all where there are fewer."""
    items = data["clicks"].shape[1]
    choose, each = np.random.default_rng(seed), min(items, 100)
    shown = np.stack([choose.choice(items, each, replace=False) for _ in training])
    rows = np.repeat(training, each), shown.ravel()
    table = lightgbm.Dataset(
        pair_features(data, *rows), data["clicks"][rows], group=np.full(len(training), each)
    )
    options = {"objective": "lambdarank", "num_threads": 1, "verbose": -1, "seed": seed}
    return lightgbm.train(options, table, num_boost_round=trees)


def softmax_retriever(run: Run, data: dict[str, np.ndarray]) -> Run:
    """The same towers from the same start, by cross-entropy on the clicked items of training users."""
    pipeline, optimizer = run.pipeline, optax.adam(COARSE)
    users, items = np.nonzero(data["clicks"][pipeline.training_contexts])
    users = pipeline.training_contexts[users]

    @jax.jit
    def update(params, state, users, items):
        def loss(params):
            logits = pipeline.logits(params, run.environment, users)[:, 0]
            return optax.softmax_cross_entropy_with_integer_labels(logits, items).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    params = jax.tree.map(lambda leaf: leaf[0], run.state.params)
    state, draw = optimizer.init(params), np.random.default_rng(run.config.seeds[0])
    for _ in range(run.config.num_steps):
        batch = draw.integers(len(users), size=run.config.batch_size)
        params, state = update(params, state, jnp.asarray(users[batch]), jnp.asarray(items[batch]))
    params = jax.tree.map(lambda leaf: leaf[None], params)
    run.state = dataclasses.replace(run.state, params=params)
    return run


def evaluator(run: Run, data: dict[str, np.ndarray], rerank, users: np.ndarray) -> dict[str, float]:
    """Recall of the true top K among the candidates, and the clicks to expect of the shown list."""
    candidates, chance = run.candidates(users), data["chance"][users]
    best = np.argsort(-chance, axis=1, kind="stable")[:, :CANDIDATES]
    held = (best[:, :, None] == candidates[:, None, :]).any(axis=2)
    shown = online.answers.best_first(rerank(users, candidates), candidates, SHOWN)
    clicks = np.take_along_axis(chance, shown, axis=1).sum(axis=1)
    return {"candidate_recall": float(held.mean()), "final_reward": float(clicks.mean())}


def one_seed(data: dict[str, np.ndarray], sizes: dict[str, int], seed: int) -> dict[str, dict]:
    """Every arm, from the same start."""
    config = TrainConfig(
        num_candidates=CANDIDATES, ranking_length=SHOWN, held_out_contexts=sizes["held_out"],
        context_tower="features", item_tower="features", num_steps=sizes["steps"],
        eval_every=sizes["steps"], seeds=(seed,), batch_size=128, advantage="context",
        learning_rate=COARSE,
    )  # fmt: skip
    towers = encoders.two_tower(
        sizes["users"], sizes["items"], dim=16, init_scale=0.3, hidden=(64,),
        context_features=jnp.asarray(data["user_features"]),
        item_features=jnp.asarray(data["item_features"]),
    )  # fmt: skip
    clicks = rankpg.environments.from_matrix(data["clicks"])

    def start(**changes) -> Run:
        return prepare(dataclasses.replace(config, **changes), clicks, encoder=towers)

    training = start().pipeline.training_contexts
    users = np.setdiff1d(np.arange(sizes["users"]), training)
    ranker = fit_ranker(data, training, sizes["trees"])

    def rerank(users: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        rows = np.repeat(users, candidates.shape[1]), candidates.ravel()
        return ranker.predict(pair_features(data, *rows)).reshape(candidates.shape)

    judged = {"start": evaluator(start(), data, rerank, users)}
    softmax = softmax_retriever(start(), data)
    judged["softmax"] = evaluator(softmax, data, rerank, users)
    trained = online.train(online.Retriever(start()), online.HostReranker(rerank))
    judged["rankpg"] = evaluator(trained, data, rerank, users)
    trained = online.train(online.Retriever(start(advantage="none")), online.HostReranker(rerank))
    judged["rankpg, no baseline"] = evaluator(trained, data, rerank, users)
    for arm, estimator in (("rankpg", "ca_pg_swr"), ("v_pg_swr", "v_pg_swr")):
        goes_on = start(estimator=estimator, learning_rate=FINE)
        learnt = jax.tree.map(jnp.copy, softmax.state.params)  # a step takes the arrays it is given
        goes_on.state = dataclasses.replace(goes_on.state, params=learnt)
        trained = online.train(online.Retriever(goes_on), online.HostReranker(rerank))
        judged[f"softmax, then {arm}"] = evaluator(trained, data, rerank, users)
    everything = np.broadcast_to(np.arange(sizes["items"]), (len(users), sizes["items"]))
    shown = online.answers.best_first(rerank(users, everything), everything, SHOWN)
    chance = data["chance"][users]
    judged["LambdaMART on all items"] = {
        "candidate_recall": 1.0,
        "final_reward": float(np.take_along_axis(chance, shown, axis=1).sum(axis=1).mean()),
    }
    return judged


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Train and print; answers the means over seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="a size that takes seconds")
    parser.add_argument("--steps", type=int, help="updates")
    parser.add_argument("--out", type=Path, help="a JSON file for the numbers")
    given = parser.parse_args(arguments)
    sizes = dict(TOY if given.toy else SIZES)
    sizes["steps"] = given.steps or sizes["steps"]
    data = make_clicks(sizes["users"], sizes["items"])
    seeds = [one_seed(data, sizes, seed) for seed in range(sizes["seeds"])]
    means = {
        arm: {name: float(np.mean([s[arm][name] for s in seeds])) for name in values}
        for arm, values in seeds[0].items()
    }
    print(f"{'':24} {'recall@' + str(CANDIDATES):>10} {'clicks of ' + str(SHOWN):>12}")
    for arm, values in means.items():
        print(f"{arm:24} {values['candidate_recall']:10.3f} {values['final_reward']:12.3f}")
    if given.out:
        report = {"sizes": sizes, "means": means, "seeds": seeds, "versions": versions()}
        given.out.write_text(json.dumps(report, indent=1) + "\n")
    return means


if __name__ == "__main__":
    main()
