"""True value and rare items among the candidates by treatment of unobserved pairs, on generated logs.

    python -m benchmarks.scripts.unobserved [--num-steps 600]

Users like popular and rare items alike; a popular item is only shown to more of them. One log holds a rating
of every item that a user was shown, the other one the items that the user liked. Each treatment trains a
policy on the log. Its 10 candidates are new to the user. Measured: the mean true preference of the candidates
(0: of random new items, 1: of the 10 best), and the share of candidates that are rare (the less shown half).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.scripts.common import fill_products, num_steps_given
from rankpg import TrainConfig
from rankpg.environments import from_interactions
from rankpg.environments.dataset import Dataset
from rankpg.runs.run import prepare
from rankpg.training.update import seed_keys, train_chunk

USERS, ITEMS, WIDTH, SHOWN = 300, 60, 3, 10
LOGS = ("ratings", "likes")
GRADIENT = {"advantage": "context", "ranking_length": SHOWN}
TREATMENTS: dict[str, dict[str, Any]] = {
    "zero": GRADIENT,
    "left_out": GRADIENT | {"unobserved": "left_out"},
    "propensity": GRADIENT | {"unobserved": "propensity", "popularity_weight": 1.0},
    "model": GRADIENT | {"unobserved": "model"},
    "softmax": {"objective": "softmax"},
    "softmax, weighted": {"objective": "softmax", "popularity_weight": 1.0},
}


def world(log: str) -> tuple[Dataset, np.ndarray, np.ndarray]:
    """Returns a log, the true preferences float[USERS, ITEMS] from 0 to 1, and bool[ITEMS], the rare half."""
    random = np.random.default_rng(0)
    users, items = (random.normal(size=(n, WIDTH)) for n in (USERS, ITEMS))
    preference = 1 / (1 + np.exp(-1.5 * users @ items.T))
    chance = random.permutation(0.9 * np.arange(1, ITEMS + 1) ** -0.6)
    shown = random.random((USERS, ITEMS)) < chance
    value = np.clip(np.round(1 + 4 * preference + random.normal(scale=0.5, size=shown.shape)), 1, 5)
    if log == "likes":
        shown &= random.random(shown.shape) < preference
        value = np.ones_like(value)
    user, item = np.nonzero(shown)
    order = random.random(len(user))
    columns = {"user": user, "item": item, "value": value[user, item], "timestamp": order}
    data = from_interactions(columns, test_count=1)
    preference = preference[np.ix_(data.context_ids.ids, data.item_ids.ids)]
    return data, preference, (chance < np.median(chance))[data.item_ids.ids]


def measure(log: str, treatment: str, num_steps: int) -> dict[str, Any]:
    """Trains on the log, and compares the candidates of all users with the best and with random ones."""
    data, preference, rare = world(log)
    config = TrainConfig(
        **TREATMENTS[treatment],
        num_candidates=SHOWN, embedding_dim=8, num_steps=num_steps, eval_every=num_steps,
        forward_share=0.5, seeds=(0, 1), learning_rate=1e-2, retrieval="dense",
    )  # fmt: skip
    run = prepare(config, data)
    learner, roots = run.learner, seed_keys(config.seeds, "steps")
    run.state, _ = train_chunk(learner, num_steps)(learner, run.state, roots)
    if sentences := run.stopped():
        raise RuntimeError("; ".join(sentences))
    contexts = jnp.arange(run.environment.num_contexts, dtype=jnp.int32)
    every = jnp.arange(run.environment.num_items, dtype=jnp.int32)
    eligible = jax.jit(jax.vmap(lambda context: run.environment.eligible(context, every)))
    new = np.asarray(eligible(contexts))
    best = np.argsort(-np.where(new, preference, -1), axis=1)[:, :SHOWN]
    low = np.mean([preference[u][new[u]].mean() for u in range(len(new))])
    high = np.take_along_axis(preference, best, 1).mean()
    values, shares = [], []
    for seed in config.seeds:
        found = np.asarray(run.policy.greedy(run.params(seed), run.environment, contexts)[0])
        value = np.take_along_axis(preference, found, 1).mean()
        values.append(float((value - low) / (high - low)))
        shares.append(float(rare[found].mean()))
    row = {"steps": num_steps, "true_value": values, "rare_share": shares}
    row |= {"rare_share_of_best": float(rare[best].mean())}
    row |= {"rare_share_of_random": float(np.mean([rare[mask].mean() for mask in new]))}
    summary = f"true value {np.mean(values):.3f}, rare {np.mean(shares):.3f}"
    return row | {"summary": f"{summary} (best {row['rare_share_of_best']:.3f})"}


def main() -> None:
    fill_products("unobserved", measure, num_steps_given(__doc__, 600), LOGS, tuple(TREATMENTS))


if __name__ == "__main__":
    main()
