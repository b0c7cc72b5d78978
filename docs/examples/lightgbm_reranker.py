"""Trains a retriever under a LightGBM LambdaMART, and a softmax retriever on the same clicks.

    python docs/examples/lightgbm_reranker.py                 # as reported in docs/online.md
    python docs/examples/lightgbm_reranker.py --toy           # seconds

Only clicks are observed. A LambdaMART is fitted to them; it ranks K candidates and shows the best L. The
candidates come from retrievers with equal towers, initialisation, optimizer, batch and number of updates:

    softmax   cross-entropy on every clicked item, the usual training of a two-tower retriever
    rankpg    policy gradient on the clicks of the list that the LambdaMART shows; with and without a
              baseline per context, from the random initialisation and from the softmax retriever

All retrievers are evaluated on held-out users, by the true probability of a click.
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
from rankpg.online.validation import best_first
from rankpg.runs.run import Run, prepare

SIZES = {"users": 1000, "items": 1000, "held_out": 200, "steps": 1000, "trees": 100, "seeds": 3}
TOY = {"users": 40, "items": 30, "held_out": 10, "steps": 4, "trees": 5, "seeds": 1}
FEATURES, CANDIDATES, SHOWN = 10, 20, 5
COARSE, FINE = 1e-2, 3e-4
"""learning rates for a random initialisation and for fine-tuning"""


def make_clicks(users: int, items: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns features, the true probability of a click, and clicks sampled from it."""
    world = rankpg.environments.generate(jax.random.key(seed), users, items, FEATURES)
    catalogue = jnp.arange(items, dtype=jnp.int32)
    rewards = jax.vmap(world.mean_rewards, (0, None))(jnp.arange(users, dtype=jnp.int32), catalogue)
    chance = np.clip((np.asarray(rewards) - 1) / 10, 0, 1)
    clicks = np.random.default_rng(seed).uniform(size=chance.shape) < chance
    return {
        "user_features": np.asarray(world.context_features),
        "item_features": np.asarray(world.item_features),
        "chance": chance,
        "clicks": clicks.astype(np.float32),
    }


def pair_features(data: dict[str, np.ndarray], users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Returns the features of pairs of user and item for the LambdaMART, [n, 3 F]."""
    user, item = data["user_features"][users], data["item_features"][items]
    return np.concatenate([user, item, user * item], axis=1)


def fit_ranker(
    data: dict[str, np.ndarray], training: np.ndarray, trees: int, seed: int = 0
) -> lightgbm.Booster:
    """Fits a LambdaMART to the clicks of the training users on at most 100 random items each."""
    items = data["clicks"].shape[1]
    rng, each = np.random.default_rng(seed), min(items, 100)
    shown = np.stack([rng.choice(items, each, replace=False) for _ in training])
    rows = np.repeat(training, each), shown.ravel()
    table = lightgbm.Dataset(
        pair_features(data, *rows), data["clicks"][rows], group=np.full(len(training), each)
    )
    options = {"objective": "lambdarank", "num_threads": 1, "verbose": -1, "seed": seed}
    return lightgbm.train(options, table, num_boost_round=trees)


def softmax_retriever(run: Run, data: dict[str, np.ndarray]) -> Run:
    """Trains the run's encoder by cross-entropy on the clicked items of the training users."""
    optimizer, training = optax.adam(COARSE), run.learner.sampler.contexts
    users, items = np.nonzero(data["clicks"][training])
    users = training[users]

    @jax.jit
    def update(params, state, users, items):
        def loss(params):
            logits = run.policy.logits(params, run.environment, users)[:, 0]
            return optax.softmax_cross_entropy_with_integer_labels(logits, items).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    params = jax.tree.map(lambda leaf: leaf[0], run.state.params)
    state, rng = optimizer.init(params), np.random.default_rng(run.config.seeds[0])
    for _ in range(run.config.num_steps):
        batch = rng.integers(len(users), size=run.config.batch_size)
        params, state = update(params, state, jnp.asarray(users[batch]), jnp.asarray(items[batch]))
    params = jax.tree.map(lambda leaf: leaf[None], params)
    run.state = dataclasses.replace(run.state, params=params)
    return run


def evaluate(run: Run, data: dict[str, np.ndarray], rerank, users: np.ndarray) -> dict[str, float]:
    """Returns the recall of the true best K items and the expected clicks of the shown list."""
    candidates, chance = run.candidates(users), data["chance"][users]
    best = np.argsort(-chance, axis=1, kind="stable")[:, :CANDIDATES]
    held = (best[:, :, None] == candidates[:, None, :]).any(axis=2)
    shown = best_first(rerank(users, candidates), candidates, SHOWN)
    clicks = np.take_along_axis(chance, shown, axis=1).sum(axis=1)
    return {"candidate_recall": float(held.mean()), "final_reward": float(clicks.mean())}


def one_seed(data: dict[str, np.ndarray], sizes: dict[str, int], seed: int) -> dict[str, dict]:
    """Trains and evaluates every arm for one seed."""
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

    def initial(**changes) -> Run:
        return prepare(dataclasses.replace(config, **changes), clicks, encoder=towers)

    training = initial().learner.sampler.contexts
    users = np.setdiff1d(np.arange(sizes["users"]), training)
    ranker = fit_ranker(data, training, sizes["trees"])

    def rerank(users: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        rows = np.repeat(users, candidates.shape[1]), candidates.ravel()
        return ranker.predict(pair_features(data, *rows)).reshape(candidates.shape)

    results = {"start": evaluate(initial(), data, rerank, users)}
    softmax = softmax_retriever(initial(), data)
    results["softmax"] = evaluate(softmax, data, rerank, users)
    trained = online.train(online.Retriever(initial()), online.HostReranker(rerank))
    results["rankpg"] = evaluate(trained, data, rerank, users)
    trained = online.train(online.Retriever(initial(advantage="none")), online.HostReranker(rerank))
    results["rankpg, no baseline"] = evaluate(trained, data, rerank, users)
    for arm, estimator in (("rankpg", "ca_pg_swr"), ("v_pg_swr", "v_pg_swr")):
        tuned = initial(estimator=estimator, learning_rate=FINE)
        params = jax.tree.map(jnp.copy, softmax.state.params)  # an update donates its arrays
        tuned.state = dataclasses.replace(tuned.state, params=params)
        trained = online.train(online.Retriever(tuned), online.HostReranker(rerank))
        results[f"softmax, then {arm}"] = evaluate(trained, data, rerank, users)
    everything = np.broadcast_to(np.arange(sizes["items"]), (len(users), sizes["items"]))
    shown = best_first(rerank(users, everything), everything, SHOWN)
    chance = data["chance"][users]
    results["LambdaMART on all items"] = {
        "candidate_recall": 1.0,
        "final_reward": float(np.take_along_axis(chance, shown, axis=1).sum(axis=1).mean()),
    }
    return results


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Trains all arms, prints the means over seeds, and returns them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="run a size that takes seconds")
    parser.add_argument("--steps", type=int, help="number of updates")
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    options = parser.parse_args(arguments)
    sizes = dict(TOY if options.toy else SIZES)
    sizes["steps"] = options.steps or sizes["steps"]
    data = make_clicks(sizes["users"], sizes["items"])
    seeds = [one_seed(data, sizes, seed) for seed in range(sizes["seeds"])]
    means = {
        arm: {name: float(np.mean([s[arm][name] for s in seeds])) for name in values}
        for arm, values in seeds[0].items()
    }
    print(f"{'':24} {'recall@' + str(CANDIDATES):>10} {'clicks of ' + str(SHOWN):>12}")
    for arm, values in means.items():
        print(f"{arm:24} {values['candidate_recall']:10.3f} {values['final_reward']:12.3f}")
    if options.out:
        report = {"sizes": sizes, "means": means, "seeds": seeds, "versions": versions()}
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    return means


if __name__ == "__main__":
    main()
