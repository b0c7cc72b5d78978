"""The Plackett-Luce policy by brute force: every ordered K-tuple, in float64, in plain NumPy.

This module does not import the library, so it cannot share a mistake with it. Every quantity is the sum that
defines it; every gradient is that sum, differentiated by hand.

    logits    float[M, N], -inf masks an item       quotas    (K_1, ..., K_M), sum K
    tuples    int[P, K], all ordered K-tuples of distinct items, P = N! / (N - K)!
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

Quotas = tuple[int, ...]
Reranker = Callable[[Sequence[int]], np.ndarray]
"""candidates -> float[L, N]: the probability that an item is shown at a position."""


# --- the policy -------------------------------------------------------------------------------------------


def slot_experts(quotas: Quotas) -> list[int]:
    """Expert that fills each slot."""
    return [expert for expert, quota in enumerate(quotas) for _ in range(quota)]


@functools.lru_cache(maxsize=32)
def tuples(num_items: int, num_slots: int) -> np.ndarray:
    """All ordered tuples of distinct items, int[P, K]."""
    return np.array(list(itertools.permutations(range(num_items), num_slots)))


def log_sum(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Log-sum-exp of the entries in `where`, along the last axis."""
    kept = np.where(where, values, -np.inf)
    top = np.max(kept, axis=-1, keepdims=True)
    top = np.where(np.isneginf(top), 0, top)
    with np.errstate(divide="ignore"):
        return np.log(np.sum(np.exp(kept - top), axis=-1)) + top[..., 0]


def log_probs(logits: np.ndarray, quotas: Quotas, chosen: np.ndarray) -> np.ndarray:
    """Log-probability of each of the ordered tuples `chosen`, int[P, K]."""
    total, remaining = np.zeros(len(chosen)), np.ones((len(chosen), logits.shape[1]), bool)
    rows = np.arange(len(chosen))
    for slot, expert in enumerate(slot_experts(quotas)):
        picked = chosen[:, slot]
        own = logits[expert, picked]
        normaliser = np.where(np.isneginf(own), 0, log_sum(logits[expert], remaining))
        total = total + own - normaliser
        remaining[rows, picked] = False
    return total


def log_prob_gradients(logits: np.ndarray, quotas: Quotas, chosen: np.ndarray) -> np.ndarray:
    """Gradient of each tuple's log-probability, float[P, M, N]; 0 for impossible tuples.

    Slot k adds 1 at the pick and subtracts the softmax over the remaining items, in the row of its expert.
    """
    gradient = np.zeros((len(chosen), *logits.shape))
    remaining, rows = np.ones((len(chosen), logits.shape[1]), bool), np.arange(len(chosen))
    for slot, expert in enumerate(slot_experts(quotas)):
        picked = chosen[:, slot]
        log_remaining_mass = log_sum(logits[expert], remaining)
        log_remaining_mass = np.where(np.isneginf(log_remaining_mass), 0, log_remaining_mass)
        gradient[rows, expert, picked] += 1
        gradient[:, expert] -= np.where(
            remaining, np.exp(logits[expert] - log_remaining_mass[:, None]), 0
        )
        remaining[rows, picked] = False
    possible = np.isfinite(log_probs(logits, quotas, chosen))
    return np.where(possible[:, None, None], gradient, 0)


def probabilities(logits: np.ndarray, quotas: Quotas) -> tuple[np.ndarray, np.ndarray]:
    """All ordered tuples and their probabilities."""
    chosen = tuples(logits.shape[1], sum(quotas))
    return chosen, np.exp(log_probs(logits, quotas, chosen))


def swr_log_prob(logits: np.ndarray, quotas: Quotas, chosen: Sequence[int]) -> float:
    """Log-probability with replacement, sum_k log pi_{m(k)}(a_k)."""
    everything = np.ones(logits.shape[1], bool)
    return sum(
        logits[expert, item] - log_sum(logits[expert], everything)
        for expert, item in zip(slot_experts(quotas), chosen, strict=True)
    )


def swr_log_prob_gradient(logits: np.ndarray, quotas: Quotas, chosen: Sequence[int]) -> np.ndarray:
    gradient = np.zeros(logits.shape)
    for expert, item in zip(slot_experts(quotas), chosen, strict=True):
        gradient[expert] -= softmax(logits)[expert]
        gradient[expert, item] += 1
    return gradient


def greedy_candidates(logits: np.ndarray, quotas: Quotas, excluded: int | None = None) -> list[int]:
    """Best remaining items by quota, expert after expert; ties go to the lower id."""
    remaining = [item for item in range(logits.shape[1]) if item != excluded]
    picks = []
    for expert in slot_experts(quotas):
        if not remaining:
            break
        best = max(remaining, key=lambda item: (logits[expert, item], -item))
        picks.append(best)
        remaining.remove(best)
    return picks


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


# --- marginal inclusion -----------------------------------------------------------------------------------


def inclusion(logits: np.ndarray, quotas: Quotas) -> np.ndarray:
    """P(a in S) for every item, float[N]."""
    chosen, p = probabilities(logits, quotas)
    return np.array([p[(chosen == item).any(axis=1)].sum() for item in range(logits.shape[1])])


def inclusion_gradients(logits: np.ndarray, quotas: Quotas) -> np.ndarray:
    """Gradient of every P(a in S), float[N, M, N]: sum of P(S) grad log P(S) over the S that contain a."""
    chosen, p = probabilities(logits, quotas)
    weighted = p[:, None, None] * log_prob_gradients(logits, quotas, chosen)
    return np.stack(
        [weighted[(chosen == item).any(axis=1)].sum(axis=0) for item in range(logits.shape[1])]
    )


def greedy_inclusion(logits: np.ndarray, item: int, quotas: Quotas) -> float:
    """Eq. 8, 1 - prod_k (1 - p_k), with the greedy picks of the others."""
    return 1 - np.prod([1 - p for _, _, p, _ in _greedy_slots(logits, item, quotas)])


def greedy_inclusion_gradient(logits: np.ndarray, item: int, quotas: Quotas) -> np.ndarray:
    """Gradient of Eq. 8 with fixed picks."""
    slots = _greedy_slots(logits, item, quotas)
    gradient = np.zeros(logits.shape)
    for k, expert, p, shares in slots:
        others = np.prod([1 - q for j, _, q, _ in slots if j != k])
        gradient[expert] -= others * p * shares
        gradient[expert, item] += others * p
    return gradient


def _greedy_slots(logits: np.ndarray, item: int, quotas: Quotas):
    """Yields, for each slot, its number, expert, p_k, and the softmax over the remaining items."""
    picks = greedy_candidates(logits, quotas, excluded=item)
    slots = []
    for k, expert in enumerate(slot_experts(quotas)):
        remaining = np.array([j not in picks[:k] for j in range(logits.shape[1])])
        log_mass = log_sum(logits[expert], remaining)
        shares = np.where(remaining, np.exp(logits[expert] - log_mass), 0)
        slots.append((k, expert, shares[item], shares))
    return slots


def swr_inclusion(logits: np.ndarray, item: int, quotas: Quotas) -> float:
    return 1 - np.prod((1 - softmax(logits)[:, item]) ** np.array(quotas))


def swr_inclusion_gradient(logits: np.ndarray, item: int, quotas: Quotas) -> np.ndarray:
    pi, counts = softmax(logits), np.array(quotas)
    missed = np.prod((1 - pi[:, item]) ** counts)
    return (missed * counts / (1 - pi[:, item]))[:, None] * _softmax_gradient(pi, item)


def sum_inclusion(logits: np.ndarray, item: int, quotas: Quotas) -> float:
    return float(np.dot(quotas, softmax(logits)[:, item]))


def sum_inclusion_gradient(logits: np.ndarray, item: int, quotas: Quotas) -> np.ndarray:
    return np.array(quotas)[:, None] * _softmax_gradient(softmax(logits), item)


def _softmax_gradient(pi: np.ndarray, item: int) -> np.ndarray:
    """Gradient of pi_m(item), in row m."""
    one = np.arange(pi.shape[1]) == item
    return pi[:, [item]] * (one[None, :] - pi)


# --- the policy gradient ----------------------------------------------------------------------------------


def plackett_luce_reranker(
    relevance: np.ndarray, length: int, temperature: float = 1.0
) -> Reranker:
    """Re-ranker that shows `length` of the candidates, drawn without replacement by relevance."""

    def positions(candidates: Sequence[int]) -> np.ndarray:
        ids = np.asarray(candidates)
        rankings = tuples(len(ids), length)
        p = np.exp(log_probs(relevance[None, ids] / temperature, (length,), rankings))
        shown = np.zeros((length, len(relevance)))
        for position in range(length):
            np.add.at(shown[position], ids[rankings[:, position]], p)
        return shown

    return positions


def optimal_reranker(relevance: np.ndarray, length: int) -> Reranker:
    """Re-ranker that shows the most relevant candidates in order."""

    def positions(candidates: Sequence[int]) -> np.ndarray:
        best = sorted(candidates, key=lambda item: -relevance[item])[:length]
        return (np.arange(len(relevance))[None, :] == np.array(best)[:, None]).astype(float)

    return positions


def shown_weights(logits, quotas: Quotas, reranker: Reranker, alpha: np.ndarray) -> np.ndarray:
    """Weights sum_l alpha_l P(a at position l | S) of every tuple S and item a, float[P, N]."""
    return np.stack([alpha @ reranker(s) for s in tuples(logits.shape[1], sum(quotas))])


def policy_value(logits, quotas: Quotas, reranker: Reranker, rewards, alpha) -> float:
    """Expected reward V = sum_S P(S) sum_l alpha_l E_reranker[r(a_l)]."""
    _, p = probabilities(logits, quotas)
    return float(p @ shown_weights(logits, quotas, reranker, alpha) @ rewards)


def policy_gradient(logits, quotas: Quotas, reranker: Reranker, rewards, alpha) -> np.ndarray:
    """Gradient of V: sum_S P(S) grad log P(S) sum_l alpha_l E_reranker[r(a_l)]."""
    chosen, p = probabilities(logits, quotas)
    earned = shown_weights(logits, quotas, reranker, alpha) @ rewards
    return np.einsum("p,pmn->mn", p * earned, log_prob_gradients(logits, quotas, chosen))


def credit_assigned_gradient(
    logits, quotas: Quotas, reranker: Reranker, rewards, alpha
) -> np.ndarray:
    """Credit-assigned gradient, sum_a q(a) P(a shown) grad log P(a in S)."""
    _, p = probabilities(logits, quotas)
    shown = p @ shown_weights(logits, quotas, reranker, alpha)
    included = inclusion(logits, quotas)
    weight = rewards * shown / np.where(included > 0, included, 1)
    return np.einsum("a,amn->mn", weight, inclusion_gradients(logits, quotas))


# --- statistics -------------------------------------------------------------------------------------------


def chi_square_p_value(drawn: np.ndarray, num_items: int, expected: np.ndarray) -> float:
    """Chi-square p-value of ordered tuples, int[n, K], against the probabilities of `tuples(N, K)`.

    Cells of fewer than 5 expected draws are pooled. An impossible draw has p-value 0.
    """
    chosen = tuples(num_items, drawn.shape[1])
    base = num_items ** np.arange(drawn.shape[1])
    cell = np.full(num_items ** drawn.shape[1], -1)
    cell[chosen @ base] = np.arange(len(chosen))
    seen = cell[drawn @ base]
    if (seen < 0).any():
        return 0.0
    counts, cells = np.bincount(seen, minlength=len(chosen)), len(drawn) * expected
    if counts[expected == 0].sum():
        return 0.0
    counts, cells = _pool(counts, cells)
    return float(stats.chi2.sf(np.sum((counts - cells) ** 2 / cells), len(cells) - 1))


def _pool(counts: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    small = cells < 5
    if not small.any():
        return counts, cells
    counts = np.append(counts[~small], counts[small].sum())
    cells = np.append(cells[~small], cells[small].sum())
    if 0 < cells[-1] < 5:  # the pool is still rare: it joins the rarest other cell
        rarest = np.argmin(cells[:-1])
        counts[rarest] += counts[-1]
        cells[rarest] += cells[-1]
    elif cells[-1] > 0:
        return counts, cells
    return counts[:-1], cells[:-1]


def draws_for_power(
    expected: np.ndarray, alternative: np.ndarray, level: float = 1e-4, power: float = 0.9999
) -> int:
    """Number of draws at which chi-square rejects `alternative` at this level, with this power."""
    possible = expected > 0
    distance = np.sum((alternative - expected)[possible] ** 2 / expected[possible])
    freedom = possible.sum() - 1
    critical = stats.chi2.isf(level, freedom)
    draws = 1000
    while stats.ncx2.sf(critical, freedom, draws * distance) < power:
        draws *= 1.2
    return int(draws)


def standard_errors(samples_mean, samples_mean_square, num_samples: int, truth) -> np.ndarray:
    """Distance of a Monte Carlo mean from the truth in standard errors, per entry; 0 where they are equal."""
    spread = np.sqrt(np.maximum(samples_mean_square - samples_mean**2, 0) / num_samples)
    difference = np.asarray(samples_mean) - truth
    exact = np.isclose(difference, 0, atol=1e-7)
    return np.where(exact, 0, difference / np.where(exact, 1, spread))
