"""The mathematics of the policy: drawing candidates, their log-probabilities, and the estimators' scores.

Pure, unbatched functions of JAX arrays; use `jax.vmap` for a batch. The files, in the order of the data flow:

    validation.py       rejects arguments of a wrong shape, dtype or value
    numerics.py         logarithms of sums and differences, centring, top-k
    quotas.py           slots of each expert
    sampling.py         candidates by Gumbel-top-k, and greedily
    plackett_luce.py    sparse logits; log-probabilities of ordered candidates
    candidate_set.py    log-probability of candidates without their order
    inclusion_exact.py  P(a in S) by quadrature, for one expert
    inclusion_large.py  P(a in S) for a large catalogue, with an error bound
    inclusion.py        P(a in S): the table of methods
    known_feedback.py   losses on items that are known to be wanted
    exposure.py         P(a is shown at position l), exact and sampled; exact value of a policy
    exposure_fast.py    P(a is shown at position l) for a large catalogue
    expected_list.py    expected gain of wanted items in the final list
    estimators.py       candidates with their statistics; the table of score functions
    theory.py           definitions and theorems of the paper, by enumeration
"""

from rankpg.core.estimators import (
    ESTIMATORS,
    Candidates,
    Estimator,
    Statistics,
    draw_candidates,
    rescore_candidates,
    score,
)
from rankpg.core.inclusion import INCLUSION_METHODS, log_inclusion, log_inclusion_threshold
from rankpg.core.inclusion_large import LargeInclusion, log_inclusion_large
from rankpg.core.plackett_luce import (
    SparseLogits,
    full_logits,
    gather_logits,
    log_prob,
    log_prob_swr,
)
from rankpg.core.quotas import expert_quotas
from rankpg.core.sampling import greedy_candidates, sample_candidates

__all__ = [
    "ESTIMATORS",
    "INCLUSION_METHODS",
    "Candidates",
    "Estimator",
    "LargeInclusion",
    "SparseLogits",
    "Statistics",
    "draw_candidates",
    "expert_quotas",
    "full_logits",
    "gather_logits",
    "greedy_candidates",
    "log_inclusion",
    "log_inclusion_large",
    "log_inclusion_threshold",
    "log_prob",
    "log_prob_swr",
    "rescore_candidates",
    "sample_candidates",
    "score",
]
