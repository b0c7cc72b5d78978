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
# # Quickstart
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/<this repository>/blob/main/notebooks/quickstart.ipynb)
#
# This notebook trains a retriever on the reward of the final list: from a table of rewards to candidates. It takes a minute or
# two on a laptop.

# %%
# In Colab, this installs rankpg and keeps the version of JAX that is there.
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("rankpg") is None:
    import jax

    wanted = ["rankpg[cli] @ git+<this repository>", f"jax=={jax.__version__}"]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *wanted], check=True)

# %%
from dataclasses import replace

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import rankpg
from rankpg._utils.plots import mean_interval

# %% [markdown]
# ## Rewards
#
# A **context** is a user or a query. The retriever selects K of N items, the **candidates**. A **re-ranker** shows L of them, and
# each shown item earns a **reward**. Here, 200 users like 500 items to different degrees. The notebook *Your own data* reads
# rewards from files and tables.

# %%
rng = np.random.default_rng(0)
users, items = rng.normal(size=(200, 4)), rng.normal(size=(500, 4))
liking = np.log1p(np.exp(users @ items.T))  # [contexts, items]
data = rankpg.environments.from_matrix(liking, noise_std=0.5)

# %% [markdown]
# ## Train
#
# Two seeds are trained side by side, in one compiled program.

# %%
config = rankpg.TrainConfig(
    estimator="ca_pg_swr",
    num_candidates=10,
    ranking_length=3,
    num_steps=300,
    eval_every=50,
    seeds=(0, 1),
)
run = rankpg.train(config, data)
mean, half = mean_interval([row["normalised_value"] for row in run.metrics if row["step"] == 300])
print(f"{mean:.1%} ± {half:.1%} of the value of the best list (2 seeds, 95 %)")

# %% [markdown]
# `policy_value` is the expected reward of a list, mean over contexts; `normalised_value` divides it by the value of the best list.
# Other columns say where reward is lost: `candidate_recall` is about the retriever, `reranker_regret` about the re-ranker.

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
for axis, name in zip(axes, ("normalised_value", "candidate_recall"), strict=True):
    for seed in config.seeds:
        own = [row for row in run.metrics if row["seed"] == seed]
        axis.plot([row["step"] for row in own], [row[name] for row in own], label=f"seed {seed}")
    axis.set(xlabel="steps", ylabel=name.replace("_", " "), ylim=(0, 1.02))
axes[0].legend(frameon=False)
plt.show()

# %% [markdown]
# ## Candidates
#
# Ten items per context, best first. They are the input of your re-ranker.

# %%
print(run.candidates([0, 1, 2]))

# %% [markdown]
# ## A re-ranker of your own
#
# The built-in re-ranker knows the rewards. Any function that JAX can trace can replace it. This one uses half of the features, so it
# makes mistakes. (For a re-ranker that JAX cannot trace, such as LightGBM or a service, see the notebook *Your own re-ranker*.)

# %%
half_scores = jnp.asarray(users[:, :2] @ items[:, :2].T)


def by_half(key, context, candidates):
    return candidates[jnp.argsort(-half_scores[context, candidates])][:3]


reranker = rankpg.rerankers.custom(3, by_half)
plain = rankpg.train(config, data, reranker=reranker)
centred = rankpg.train(replace(config, advantage="context"), data, reranker=reranker)


def value(run):
    """Mean reward of the three candidates that `by_half` shows."""
    candidates = run.candidates(np.arange(200))
    scores = np.take_along_axis(np.asarray(half_scores), candidates, axis=1)
    first = np.argsort(-scores, axis=1)[:, :3]
    shown = np.take_along_axis(candidates, first, axis=1)
    return np.take_along_axis(liking, shown, axis=1).sum(axis=1).mean()


for name, trained in (
    ("for the optimal re-ranker", run),
    ("for this one", plain),
    ("for this one, baseline per context", centred),
):
    print(f"trained {name:36} has value {value(trained):.2f} under this re-ranker")

# %% [markdown]
# The second retriever is the worst. Every reward here is above 0, so every shown item is reinforced, and a credit-assigned score
# learns to select what this re-ranker prefers, right or wrong. A baseline per context removes most of that effect, and more steps may
# remove the rest. The retriever that was trained for a perfect re-ranker is hard to beat here, because the errors are random. Omit the
# baseline if you trust the re-ranker, and use it if you do not. The notebook *Estimators and their variance* derives why.
#
# ## Which estimator?
#
# Estimators differ in the credit that a shown item receives: `v_pg_swr` uses the log-probability of the whole candidate set, the
# others that of the item.

# %%
figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
for name in ("v_pg_swr", "top1_pg", "ca_pg_swr"):
    rows = rankpg.train(replace(config, estimator=name), data).metrics
    steps = sorted({row["step"] for row in rows})
    means = [np.mean([r["normalised_value"] for r in rows if r["step"] == step]) for step in steps]
    axis.plot(steps, means, label=name)
axis.set(xlabel="steps", ylabel="normalised value, mean of 2 seeds", ylim=(0, 1.02))
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# The notebook *Estimators and their variance* explains the differences.
