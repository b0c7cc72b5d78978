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
# # Estimators and their variance
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/<this repository>/blob/main/notebooks/estimators_and_their_variance.ipynb)
#
# This notebook compares the gradients of the nine estimators: bias, variance, and the effect of a baseline. With six items all of
# it can be enumerated, so most numbers here are exact. It takes about a minute on one core.

# %%
# In Colab, this installs rankpg and keeps the version of JAX that is there.
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("rankpg") is None:
    import jax

    wanted = ["rankpg[cli] @ git+<this repository>", f"jax=={jax.__version__}"]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *wanted], check=True)

if (
    importlib.util.find_spec("benchmarks") is None
):  # scripts of the repository, not part of the package
    clone = ["git", "clone", "--quiet", "--depth", "1", "<this repository>", "rankpg-checkout"]
    subprocess.run(clone, check=True)
    sys.path.append("rankpg-checkout")

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from benchmarks import estimator_lab as lab
from rankpg import TrainConfig
from rankpg.runs.run import prepare

NUM_ITEMS, QUOTAS, NUM_CONTEXTS = 6, (2,), 16

# %% [markdown]
# ## All gradients of one problem
#
# A problem is one context with logits, rewards, and a re-ranker that shows one of the K candidates with probability
# softmax(inverse temperature × reward): +∞ is the optimal re-ranker, 0 the uniform one, −∞ the adverse one. By Theorem 3.1, the policy
# gradient is the credit-assigned gradient plus a remainder.

# %%
problem = lab.Problem(
    logits=jnp.array([[0.3, -0.8, 1.2, 0.1]]),
    rewards=jnp.array([0.7, 3.1, 1.2, 2.3]),
    inverse_temperature=jnp.array(jnp.inf),
)
parts = lab.true_gradients(problem, QUOTAS)
for name, gradient in parts._asdict().items():
    print(f"{name:>10}", np.asarray(gradient[0]).round(3))

# %% [markdown]
# ## Bias, variance and direction of every estimator
#
# `bias` is the distance to the policy gradient, `to CA` the distance to the credit-assigned gradient with exact inclusion
# probabilities, `variance` that of one draw. The more peaked the policy (larger logits), the worse are the scores that assume sampling
# with replacement.

# %%
rows = lab.sweep(
    [(NUM_ITEMS, QUOTAS)], scales=(0.3, 1.0, 3.0), num_contexts=NUM_CONTEXTS, num_draws=256
)
print(lab.table([row for row in rows if row["baseline"] == "none"]))

# %%
figure, axes = plt.subplots(2, 4, figsize=(13, 6), sharex=True, layout="constrained")
for column, reranker in enumerate(lab.RERANKERS):
    for name in dict.fromkeys(row["estimator"] for row in rows):
        own = [
            row
            for row in rows
            if (row["reranker"], row["estimator"], row["baseline"]) == (reranker, name, "none")
        ]
        places = range(len(own))
        axes[0, column].plot(places, [row["cosine_to_policy"] for row in own], "o-", label=name)
        axes[1, column].plot(places, [row["variance"] for row in own], "o-", label=name)
    axes[0, column].set(title=f"{reranker} re-ranker", ylim=(-1.05, 1.05))
    axes[1, column].set_xticks(places, [row["scale"] for row in own])
    axes[1, column].set(xlabel="standard deviation of the logits", ylim=0)
axes[0, 0].set_ylabel("cosine with the policy gradient")
axes[1, 0].set_ylabel("variance of one draw")
axes[0, 0].legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# ## What a baseline does
#
# E[(r − b) grad score] = Cov(r, grad score) + (V − b) E[grad score]. For a true log-probability of the draw
# (`v_pg`) the last term is 0. For the log of an inclusion probability it is
# Σₐ P(a shown | a in S) grad P(a in S): it *imitates the re-ranker*. So b = V is neutral, b < V imitates, and b > V does the opposite of
# what the re-ranker prefers.

# %%
names = ("v_pg", "ca_pg_exact", "top1_pg")
split = jax.jit(lambda p: {name: lab.split_update(name, p, QUOTAS) for name in names})
for name, update in split(problem).items():
    covariance, imitation = (np.asarray(x[0]).round(3) for x in update[:2])
    print(f"{name:>12}  covariance {covariance}  imitation {imitation + 0.0}")

# %%
curves = lab.baseline_curves(NUM_ITEMS, QUOTAS, num_contexts=NUM_CONTEXTS)
figure, axes = plt.subplots(1, 4, figsize=(13, 3.4), sharey=True, layout="constrained")
for axis, reranker in zip(axes, lab.RERANKERS, strict=True):
    for name, cosines in curves[reranker].items():
        axis.plot(curves["baseline"], cosines, label=name)
    axis.axvline(1, color="0.6", linestyle="--")
    axis.set(title=f"{reranker} re-ranker", xlabel="baseline / policy value V")
axes[0].set_ylabel("cosine with the policy gradient")
axes[0].legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# The dashed line is a baseline of exactly V. It costs a credit-assigned score little with a good re-ranker, and corrects it with a bad
# one. Just above it, with a good re-ranker, the direction collapses. The mean of a *batch* lies there for every context whose rewards
# are below average.
#
# The consequence without noise: gradient ascent of `top1_pg` along its expected update, with each baseline.

# %%
ascent = lab.ascent_curves(("top1_pg",))
figure, axes = plt.subplots(1, 4, figsize=(13, 3.4), sharey=True, layout="constrained")
for axis, reranker in zip(axes, lab.RERANKERS, strict=True):
    for colour, (baseline, shares) in zip(
        ("C0", "C2", "C3"), ascent[reranker]["top1_pg"].items(), strict=True
    ):
        axis.plot(shares["all"], color=colour, label=f"{baseline}, all contexts")
        axis.plot(shares["poor"], color=colour, linestyle=":", label=f"{baseline}, poorest quarter")
    axis.set(title=f"{reranker} re-ranker", xlabel="steps")
axes[0].set_ylabel("share of the best reward")
axes[0].legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# In short: no baseline for a credit-assigned score if you trust the re-ranker, and a baseline *per context* if you do not. Use the mean
# of the batch only with `v_pg`, whose expected gradient no baseline changes.
#
# ## Any size: independent draws
#
# If nothing can be enumerated, independent draws of the gradient at the same parameters estimate its signal (their inner product) and
# its noise (half their squared distance). This works on any run, trained or not. All estimators see the same draws.

# %%
run = prepare(
    TrainConfig(num_contexts=30, num_items=60, instance_seed=1, num_candidates=5, seeds=(0,))
)
found = lab.gradient_noise(run, num_rounds=8, num_draws=64)
noise = found["noise"]
print(f"{'estimator':>16}  signal             variance          signal/noise  cosine to ca_pg_swr")
reference = found["estimators"].index("ca_pg_swr")
for i, name in enumerate(found["estimators"]):
    print(
        f"{name:>16}  {noise.signal[i]:.4f} ± {noise.signal_error[i]:.4f}"
        f"  {noise.variance[i]:.3f} ± {noise.variance_error[i]:.3f}"
        f"  {noise.signal_to_noise[i]:.4f}  {noise.cosine[i, reference]:.2f}"
    )
