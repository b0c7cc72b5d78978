"""The estimator lab: bias, variance and direction of every estimator's gradient.

exact.py       exact moments of a gradient on small problems, by enumeration
sweep.py       bias, variance and cosine over problem sizes, re-rankers, temperatures and baselines
baselines.py   the effect of a baseline on the expected update
noise.py       signal and noise of a run's gradient at any size, from independent draws
report.py      writes a table, JSON and pictures
"""

from benchmarks.estimator_lab.baselines import (
    BASELINES,
    UpdateParts,
    expected_ascent,
    split_update,
    update_cosine,
)
from benchmarks.estimator_lab.exact import (
    RERANKERS,
    Moments,
    Problem,
    exact_moments,
    expected_gradients,
    policy_value,
    sampled_moments,
    shown_probabilities,
    true_gradients,
)
from benchmarks.estimator_lab.noise import (
    GradientNoise,
    gradient_noise,
    noise_from_draws,
    noise_of_learners,
)
from benchmarks.estimator_lab.report import (
    ascent_curves,
    baseline_curves,
    noise_rows,
    report,
    table,
)
from benchmarks.estimator_lab.sweep import draw_problems, study, sweep

__all__ = [
    "BASELINES",
    "RERANKERS",
    "GradientNoise",
    "Moments",
    "Problem",
    "UpdateParts",
    "ascent_curves",
    "baseline_curves",
    "draw_problems",
    "exact_moments",
    "expected_ascent",
    "expected_gradients",
    "gradient_noise",
    "noise_from_draws",
    "noise_of_learners",
    "noise_rows",
    "policy_value",
    "report",
    "sampled_moments",
    "shown_probabilities",
    "split_update",
    "study",
    "sweep",
    "table",
    "true_gradients",
    "update_cosine",
]
