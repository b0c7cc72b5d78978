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
# Train a retriever on what the final list earns: from a table of rewards to candidates, in a minute or two on
# a laptop.

# %%
# Where rankpg is missing (in Colab) it is installed beside the jax that is there, which stays as it is.
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
# A **context** is a user or a query. The retriever hands K of N items to a re-ranker (the *re-ranker*), which
# shows L of them; what those earn is the reward. Here 200 users like 500 items to different degrees. Yours may
# come from a file or a table: see the notebook *Your own data*.

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
print(f"{mean:.1%} ± {half:.1%} of the best list there is (2 seeds, 95 %)")

# %% [markdown]
# `policy_value` is what a list earns on average over contexts. The other columns tell where the rest is lost: in
# the retriever's choice, or in the re-ranker.

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
# What goes to the re-ranker: ten items for each context, best first.

# %%
print(run.candidates([0, 1, 2]))

# %% [markdown]
# ## A re-ranker of your own
#
# Any function that JAX can trace takes the place of the built-in one, which knows the rewards. This one sees half
# of the features, so it is wrong at times. (One that JAX cannot trace, LightGBM or a service: the notebook *Your own
# re-ranker*.)

# %%
half_sighted = jnp.asarray(users[:, :2] @ items[:, :2].T)


def by_half(key, context, candidates):
    return candidates[jnp.argsort(-half_sighted[context, candidates])][:3]


stage = rankpg.rerankers.custom(3, by_half)
plain = rankpg.train(config, data, reranker=stage)
against_mean = rankpg.train(replace(config, advantage="context"), data, reranker=stage)


def value(run):
    """What by_half's first three of a run's candidates earn, mean over contexts."""
    candidates = run.candidates(np.arange(200))
    scores = np.take_along_axis(np.asarray(half_sighted), candidates, axis=1)
    first = np.argsort(-scores, axis=1)[:, :3]
    shown = np.take_along_axis(candidates, first, axis=1)
    return np.take_along_axis(liking, shown, axis=1).sum(axis=1).mean()


for name, trained in (
    ("for the optimal re-ranker", run),
    ("for this one", plain),
    ("for this one, baseline per context", against_mean),
):
    print(f"trained {name:36} earns {value(trained):.2f} under this one")

# %% [markdown]
# The second retriever is the worst. Every reward here is above 0, so being shown is rewarded in itself, and a
# credit-assigned score learns to hand over what this re-ranker would choose, right or wrong. A baseline per context takes
# most of that away; what is left, more steps may mend, and the retriever that was trained for a perfect re-ranker is hard to
# beat where errors are as random as here. Leave the baseline out where the re-ranker can be trusted, use it where it cannot;
# the notebook *Estimators and their variance* derives why.
#
# ## Which estimator?
#
# They differ in the credit that a shown item gets. `v_pg_swr` gives it that of the whole candidate set, the others its own.

# %%
figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
for name in ("v_pg_swr", "top1_pg", "ca_pg_swr"):
    rows = rankpg.train(replace(config, estimator=name), data).metrics
    steps = sorted({row["step"] for row in rows})
    means = [np.mean([r["normalised_value"] for r in rows if r["step"] == step]) for step in steps]
    axis.plot(steps, means, label=name)
axis.set(xlabel="steps", ylabel="share of optimum, mean of 2 seeds", ylim=(0, 1.02))
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# Why they differ is the subject of the notebook *Estimators and their variance*.
