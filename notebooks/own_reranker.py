# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own re-ranker
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/<this repository>/blob/main/notebooks/own_reranker.ipynb)
#
# This notebook trains a retriever under a re-ranker that JAX cannot trace, a LightGBM LambdaMART, and then online, with feedback
# that arrives after the candidates were served. It takes about two minutes on a laptop.

# %%
# In Colab, this installs rankpg and keeps the version of JAX that is there.
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("rankpg") is None:
    import jax

    wanted = ["rankpg[cli,rerank] @ git+<this repository>", f"jax=={jax.__version__}"]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *wanted], check=True)

# %%
import jax
import jax.numpy as jnp
import lightgbm
import matplotlib.pyplot as plt
import numpy as np

import rankpg
from rankpg import online

USERS, ITEMS, HELD_OUT, CANDIDATES, SHOWN = 300, 300, 60, 20, 5

# %% [markdown]
# ## Clicks
#
# Users click items with probabilities that are unknown to the learner. It sees only clicks.

# %%
world = rankpg.environments.generate(jax.random.key(0), USERS, ITEMS, 8)
every_user, every_item = jnp.arange(USERS, dtype=jnp.int32), jnp.arange(ITEMS, dtype=jnp.int32)
worth = jax.vmap(world.mean_rewards, (0, None))(every_user, every_item)
chance = np.clip((np.asarray(worth) - 1) / 10, 0, 1)
clicks = (np.random.default_rng(0).uniform(size=chance.shape) < chance).astype(np.float32)
user_features, item_features = np.asarray(world.context_features), np.asarray(world.item_features)
print(f"{clicks.mean():.1%} of all pairs are clicked")

# %% [markdown]
# ## The re-ranker
#
# `f(context_ids, candidate_ids) -> scores`, in plain Python.

# %%
config = rankpg.TrainConfig(
    num_candidates=CANDIDATES,
    ranking_length=SHOWN,
    held_out_contexts=HELD_OUT,
    context_tower="features",
    item_tower="features",
    batch_size=64,
    num_steps=150,
    eval_every=50,
    seeds=(0,),
)
data = rankpg.environments.from_matrix(
    clicks, context_features=user_features, item_features=item_features
)
retriever = online.Retriever.new(config, data)
training = np.asarray(retriever.run.learner.sampler.contexts)  # the others are held out


def pairs(users, items):
    """Features of a user and an item for the LambdaMART."""
    user, item = user_features[users], item_features[items]
    return np.concatenate([user, item, user * item], axis=1)


choose = np.random.default_rng(1)
shown = np.stack([choose.choice(ITEMS, 100, replace=False) for _ in training])
rows = np.repeat(training, 100), shown.ravel()
table = lightgbm.Dataset(pairs(*rows), clicks[rows], group=np.full(len(training), 100))
options = {"objective": "lambdarank", "num_threads": 1, "verbose": -1}
ranker = lightgbm.train(options, table, num_boost_round=60)


def rerank(users, candidates):
    rows = np.repeat(users, candidates.shape[1]), candidates.ravel()
    return ranker.predict(pairs(*rows)).reshape(candidates.shape)


# %% [markdown]
# ## Train the retriever under it
#
# `online.train` draws candidates, calls the function with a batch, and updates. It can retry, time out, skip failed rows, and overlap
# the call with the computation on the device.

# %%
run = online.train(retriever, online.HostReranker(rerank, retries=2, timeout=60.0))
steps = [row["step"] for row in run.metrics]
figure, axis = plt.subplots(figsize=(5, 3), layout="constrained")
axis.plot(steps, [row["policy_value"] for row in run.metrics], "o-")
axis.set(xlabel="steps", ylabel=f"clicks of {SHOWN} shown, held-out users", ylim=0)
plt.show()

# %% [markdown]
# ## Online learning
#
# A serving system has no simulator. `act` draws candidates with their propensities; `update` takes the shown list and its rewards when
# they are known, in any order, for some rows or all.

# %%
catalogue = online.catalogue(
    USERS, ITEMS, context_features=user_features, item_features=item_features
)
serving = online.Retriever.new(
    rankpg.TrainConfig(
        num_candidates=CANDIDATES, ranking_length=SHOWN, context_tower="features",
        item_tower="features", batch_size=32, seeds=(0,),
    ),
    catalogue,
)  # fmt: skip
visits = np.random.default_rng(2)
earned = []
for _ in range(60):
    users = visits.integers(USERS, size=32)
    drawn = serving.act(users)
    first = online.validation.best_first(rerank(users, drawn.candidates), drawn.candidates, SHOWN)
    reactions = (visits.uniform(size=first.shape) < chance[users[:, None], first]).astype(float)
    serving.update(drawn.token, first, reactions)
    earned.append(reactions.sum(axis=1).mean())
print(
    f"clicks a list, first 20 batches: {np.mean(earned[:20]):.2f}, last 20: {np.mean(earned[-20:]):.2f}"
)

# %% [markdown]
# `log=online.Log(folder)` writes draws, propensities and feedback to Parquet files; `docs/online.md` has the schema.
