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
# A re-ranker that JAX cannot trace, a LightGBM LambdaMART here, trains the retriever through a loop around your
# function; and a system that serves tells rewards later. About two minutes on a laptop.

# %%
# Where rankpg is missing (in Colab) it is installed beside the jax that is there, which stays as it is.
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
# Users click items with a probability that nobody sees; all there is to learn from is clicks.

# %%
world = rankpg.environments.generate(jax.random.key(0), USERS, ITEMS, 8)
every_user, every_item = jnp.arange(USERS, dtype=jnp.int32), jnp.arange(ITEMS, dtype=jnp.int32)
worth = jax.vmap(world.mean_rewards, (0, None))(every_user, every_item)
chance = np.clip((np.asarray(worth) - 1) / 10, 0, 1)
clicks = (np.random.default_rng(0).uniform(size=chance.shape) < chance).astype(np.float32)
user_features, item_features = np.asarray(world.context_features), np.asarray(world.item_features)
print(f"{clicks.mean():.1%} of all pairs are clicked")

# %% [markdown]
# ## The re-ranker that you have
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
training = np.asarray(retriever.run.pipeline.training_contexts)  # the others are held out


def pairs(users, items):
    """What the LambdaMART sees of a user and an item."""
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
# A loop draws candidates, calls the function with a batch, and makes the update. It can retry, time out, skip what fails,
# and overlap the call with the device's work.

# %%
run = online.train(retriever, online.HostReranker(rerank, retries=2, timeout=60.0))
steps = [row["step"] for row in run.metrics]
figure, axis = plt.subplots(figsize=(5, 3), layout="constrained")
axis.plot(steps, [row["policy_value"] for row in run.metrics], "o-")
axis.set(xlabel="steps", ylabel=f"clicks of {SHOWN} shown, held-out users", ylim=0)
plt.show()

# %% [markdown]
# ## Ask and tell
#
# A system that serves has no simulator. It draws candidates with their propensities, shows some, and tells what they
# earned when it is known: in any order, partly or not at all.

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
    first = online.answers.best_first(rerank(users, drawn.candidates), drawn.candidates, SHOWN)
    reactions = (visits.uniform(size=first.shape) < chance[users[:, None], first]).astype(float)
    serving.update(drawn.token, first, reactions)
    earned.append(reactions.sum(axis=1).mean())
print(
    f"clicks a list, first 20 batches: {np.mean(earned[:20]):.2f}, last 20: {np.mean(earned[-20:]):.2f}"
)

# %% [markdown]
# The draws themselves, with candidates, propensities and what was learnt, can be logged to Parquet
# (`log=online.Log(folder)`); the docs say how to read them.
