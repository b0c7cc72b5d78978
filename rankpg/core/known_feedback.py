"""Log-probabilities that wanted items are candidates, for objectives on known feedback.

Where feedback is known, the expected reward of the candidates is an exact, differentiable number:

    E[sum of the values of wanted candidates] = sum over wanted items a of v_a * P(a in S)

With one slot, P(a in S) is the softmax probability of a, and the mean of -log P its cross-entropy.
The other wanted items of a context may be masked: then P(a in S) is that among a and the items that are not
wanted, as if the others were already known when a is looked for. All of them share one log-sum-exp.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rankpg.core.inclusion import INCLUSION_METHODS, log_odds
from rankpg.core.numerics import cloglog_inverse, log_add, log_softplus, log_sum_exp
from rankpg.core.plackett_luce import SparseLogits
from rankpg.types import Array, Float, Int, Quotas

__all__ = [
    "SPARSE_METHODS",
    "box_cox",
    "log_inclusion_of_wanted",
    "log_inclusion_of_wanted_dense",
]

SPARSE_METHODS = ("swr", "sum")
"""Methods that need the logits of the wanted items and the log-sum-exp of all others, so any N."""


def log_inclusion_of_wanted(
    sparse: SparseLogits,
    items: Int[Array, "P"],
    several_quotas: Sequence[Quotas],
    *,
    method: str = "swr",
    mask_others: bool = True,
) -> Float[Array, "S P"]:
    """Log P(a in S) of every wanted item for several numbers of candidates.

    With pi_m the share of item a among itself and the items that are left in the catalogue, `swr` is
    1 - prod_m (1 - pi_m)^K_m (Chen et al. 2019), and `sum` is sum_m K_m pi_m.

    Args:
      sparse: lists the items of `items` and no others.
      items: wanted items; repeats are allowed.
      several_quotas: slots of each expert, for each of S numbers of candidates.
      method: a name of `SPARSE_METHODS`.
      mask_others: leave the other wanted items out of the catalogue.

    Raises:
      ValueError: an unknown method.

    >>> from rankpg.core.plackett_luce import gather_logits
    >>> wanted = jnp.array([2, 0])
    >>> sparse = gather_logits(jnp.zeros((1, 4)), wanted)
    >>> masked = log_inclusion_of_wanted(sparse, wanted, [(1,), (2,)])  # among three items
    >>> plain = log_inclusion_of_wanted(sparse, wanted, [(1,)], mask_others=False)  # among four
    >>> jnp.exp(masked).round(4).tolist(), jnp.exp(plain).round(4).tolist()
    ([[0.3333, 0.3333], [0.5556, 0.5556]], [[0.25, 0.25]])
    """
    if method not in SPARSE_METHODS:
        raise ValueError(f"method={method!r}; expected one of {', '.join(SPARSE_METHODS)}")
    logits = sparse.logits[:, sparse.positions(items)]  # [M, P]
    log_others = jnp.broadcast_to(sparse.log_rest[:, None], logits.shape)
    if not mask_others:
        same = sparse.items[None, :] == items[:, None]  # [P, C]
        listed = jnp.where(same[None], -jnp.inf, sparse.logits[:, None, :])
        log_others = log_add(log_others, log_sum_exp(listed))
    if method == "swr":  # -log(1 - pi) is the rate at which an item is drawn
        rates = log_softplus(log_odds(logits, log_others))
    else:
        rates = log_odds(logits, log_add(log_others, logits))  # log pi
    quotas = np.asarray(several_quotas, np.float64)
    log_quotas = np.log(quotas, out=np.full(quotas.shape, -np.inf), where=quotas > 0)
    total = log_sum_exp(jnp.asarray(log_quotas, rates.dtype)[:, :, None] + rates[None], axis=1)
    return cloglog_inverse(total) if method == "swr" else total


def log_inclusion_of_wanted_dense(
    logits: Float[Array, "M N"],
    items: Int[Array, "P"],
    quotas: Quotas,
    *,
    method: str = "exact",
    mask_others: bool = True,
    at_once: int | None = None,
) -> Float[Array, "P"]:
    """Log P(a in S) of every wanted item, by any method, from the logits of the whole catalogue.

    Args:
      logits: f_m(a); -inf masks an item.
      items: wanted items; repeats are allowed.
      quotas: slots of each expert.
      method: exact, greedy, swr or sum, as `inclusion.log_inclusion`.
      mask_others: leave the other wanted items out of the catalogue.
      at_once: number of wanted items whose numbers are in memory together, which are computed again for the
        gradient; None: all of them, kept for the gradient.

    >>> value = log_inclusion_of_wanted_dense(jnp.zeros((1, 5)), jnp.array([3, 1]), (2,))
    >>> jnp.exp(value).round(4).tolist()  # two of the four items that remain
    [0.5, 0.5]
    """
    log_inclusion = INCLUSION_METHODS[method]

    def one(item: Int[Array, ""]) -> Float[Array, ""]:
        if not mask_others:
            return log_inclusion(logits, item, quotas)
        others = logits.at[:, items].set(-jnp.inf)
        return log_inclusion(others.at[:, item].set(logits[:, item]), item, quotas)

    if at_once is None or at_once >= len(items):
        return jax.vmap(one)(items)
    return jax.lax.map(jax.checkpoint(one), items, batch_size=at_once)


def box_cox(log_p: Float[Array, "..."], power: Float[Array, ""] | float) -> Float[Array, "..."]:
    """(p^power - 1) / power: log p at power 0, p - 1 at power 1 (Box & Cox 1964; Zhang & Sabuncu 2018).

    At power 0 every wanted item pulls alike, however improbable; at power 1 an item pulls in proportion to
    the probability that the policy gives it, so that the sum is the expected number of wanted candidates.

    >>> half = jnp.log(jnp.array([0.5]))
    >>> [round(float(box_cox(half, power)[0]), 4) for power in (0.0, 0.5, 1.0)]
    [-0.6931, -0.5858, -0.5]
    """
    power = jnp.asarray(power, log_p.dtype)
    flat = power < 1e-4
    scale = jnp.where(flat, 1, power)
    curved = jnp.expm1(scale * jnp.maximum(log_p, jnp.finfo(log_p.dtype).min)) / scale
    return jnp.where(flat, log_p, curved)
