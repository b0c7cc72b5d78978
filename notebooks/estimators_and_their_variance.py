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
# Seven scores, one question: how close is the gradient of each to the truth, how noisy is it, and what does a
# baseline do to it? On problems of six items all of it can be enumerated, so most numbers here are exact.
# The notebook takes about a minute on one core.

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
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from benchmarks import estimator_lab as laboratory
from rankpg import TrainConfig
from rankpg.runs.run import prepare

NUM_ITEMS, QUOTAS, NUM_CONTEXTS = 6, (2,), 16

# %% [markdown]
# ## One problem, all gradients
#
# A context has logits, rewards, and a re-ranker that shows one of the K candidates by
# softmax(inverse temperature × reward): +∞ is the optimal re-ranker, 0 a uniform one, −∞ the one that is
# always wrong.
# Theorem 3.1: policy gradient = credit-assigned gradient + a remainder.

# %%
problem = laboratory.Problem(
    logits=jnp.array([[0.3, -0.8, 1.2, 0.1]]),
    rewards=jnp.array([0.7, 3.1, 1.2, 2.3]),
    inverse_temperature=jnp.array(jnp.inf),
)
parts = laboratory.true_gradients(problem, QUOTAS)
for name, gradient in parts._asdict().items():
    print(f"{name:>10}", np.asarray(gradient[0]).round(3))

# %% [markdown]
# ## Bias, variance and direction of every estimator
#
# `bias` is measured from the policy gradient, `to CA` from the credit-assigned gradient with exact inclusion
# probabilities; the variance is that of one draw. The peakier the policy (larger logits), the worse the
# scores that pretend that candidates are drawn with replacement.

# %%
rows = laboratory.sweep(
    [(NUM_ITEMS, QUOTAS)], scales=(0.3, 1.0, 3.0), num_contexts=NUM_CONTEXTS, num_draws=256
)
print(laboratory.table([row for row in rows if row["baseline"] == "none"]))

# %%
figure, axes = plt.subplots(2, 4, figsize=(13, 6), sharex=True, layout="constrained")
for column, stage in enumerate(laboratory.RERANKERS):
    for name in dict.fromkeys(row["estimator"] for row in rows):
        own = [
            row
            for row in rows
            if (row["reranker"], row["estimator"], row["baseline"]) == (stage, name, "none")
        ]
        places = range(len(own))
        axes[0, column].plot(places, [row["cosine_to_policy"] for row in own], "o-", label=name)
        axes[1, column].plot(places, [row["variance"] for row in own], "o-", label=name)
    axes[0, column].set(title=f"{stage} re-ranker", ylim=(-1.05, 1.05))
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
# Σₐ P(a shown | a in S) grad P(a in S): it *imitates the re-ranker*. So b = V is neutral, b < V imitates,
# b > V does the opposite of what the re-ranker prefers.

# %%
names = ("v_pg", "ca_pg_exact", "top1_pg")
split = jax.jit(lambda p: {name: laboratory.split_update(name, p, QUOTAS) for name in names})
for name, update in split(problem).items():
    covariance, imitation = (np.asarray(x[0]).round(3) for x in update[:2])
    print(f"{name:>12}  covariance {covariance}  imitation {imitation + 0.0}")

# %%
curves = laboratory.baseline_curves(NUM_ITEMS, QUOTAS, num_contexts=NUM_CONTEXTS)
figure, axes = plt.subplots(1, 4, figsize=(13, 3.4), sharey=True, layout="constrained")
for axis, stage in zip(axes, laboratory.RERANKERS, strict=True):
    for name, cosines in curves[stage].items():
        axis.plot(curves["baseline"], cosines, label=name)
    axis.axvline(1, color="0.6", linestyle="--")
    axis.set(title=f"{stage} re-ranker", xlabel="baseline / policy value V")
axes[0].set_ylabel("cosine with the policy gradient")
axes[0].legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# Read at the dashed line: a baseline of exactly V costs a credit-assigned score little with a good re-ranker,
# and rescues it from a bad one. Just beyond, with a good re-ranker, the direction collapses. That is where
# the mean of a *batch* puts every context that is poorer than the average.
#
# The consequence, without any noise: `top1_pg` climbs its expected update with each baseline.

# %%
ascent = laboratory.ascent_curves(("top1_pg",))
figure, axes = plt.subplots(1, 4, figsize=(13, 3.4), sharey=True, layout="constrained")
for axis, stage in zip(axes, laboratory.RERANKERS, strict=True):
    for colour, (baseline, shares) in zip(
        ("C0", "C2", "C3"), ascent[stage]["top1_pg"].items(), strict=True
    ):
        axis.plot(shares["all"], color=colour, label=f"{baseline}, all contexts")
        axis.plot(shares["poor"], color=colour, linestyle=":", label=f"{baseline}, poorest quarter")
    axis.set(title=f"{stage} re-ranker", xlabel="steps")
axes[0].set_ylabel("share of the best reward")
axes[0].legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# So: no baseline for a credit-assigned score whose re-ranker can be trusted; a baseline *per context* where
# it cannot; the batch's mean only for `v_pg`, whose expected gradient no baseline changes.
#
# ## At any size: independent draws
#
# Where nothing can be enumerated, independent draws of the gradient at the same parameters tell its signal
# (their inner product) and its noise (half their squared distance). It works on a run of yours, trained or not; all
# estimators see the same draws.

# %%
run = prepare(
    TrainConfig(num_contexts=30, num_items=60, instance_seed=1, num_candidates=5, seeds=(0,))
)
found = laboratory.gradient_noise(run, num_rounds=8, num_draws=64)
noise = found["noise"]
print(f"{'estimator':>16}  signal             variance          signal/noise  cosine to ca_pg_swr")
reference = found["estimators"].index("ca_pg_swr")
for i, name in enumerate(found["estimators"]):
    print(
        f"{name:>16}  {noise.signal[i]:.4f} ± {noise.signal_error[i]:.4f}"
        f"  {noise.variance[i]:.3f} ± {noise.variance_error[i]:.3f}"
        f"  {noise.signal_to_noise[i]:.4f}  {noise.cosine[i, reference]:.2f}"
    )
