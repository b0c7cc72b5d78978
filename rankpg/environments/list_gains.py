"""Measures of one shown list, as what each of its positions adds: gains [L] whose sum is the measure.

    F(y_1..L) = sum_l gain_l,    gain_l = F(y_1..l) - F(y_1..l-1) up to a constant that depends on L alone

A gain depends on the items at its own position and above, never on those below. All functions are pure, and
may be compiled and mapped. Letters: L positions, T subtopics, D features, G groups. J(l, s) = 1 where the
item at position l covers subtopic s, and c_s(l) = number of items above position l that cover it.

`list_rewards` has the same measures with tables of the whole catalogue, for `with_list_reward`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from rankpg.types import Array, Bool, Float, PRNGKey

__all__ = [
    "alpha_dcg_gains",
    "alpha_ndcg_gains",
    "cosine_distances",
    "coverage_gains",
    "diversity_gains",
    "err_ia_gains",
    "expected_clicks",
    "exposure_share_gains",
    "log_det_gains",
    "rnd_gains",
    "sampled_clicks",
    "subtopic_recall_gains",
    "telescoped",
    "trec_err_ia_gains",
]


def telescoped(values: Float[Array, "L"]) -> Float[Array, "L"]:
    """Differences of the values F(y_1..1), ..., F(y_1..L) of a list's beginnings; the first is F(y_1..1).

    Args:
      values: the measure of the first l items, for l = 1 to L.

    >>> telescoped(jnp.array([1.0, 3.0, 2.5])).tolist()
    [1.0, 2.0, -0.5]
    """
    return jnp.concatenate([values[:1], values[1:] - values[:-1]])


def alpha_dcg_gains(covers: Float[Array, "L T"], alpha: float | int = 0.5) -> Float[Array, "L"]:
    """Discounted gains of subtopics, less each time that a subtopic comes again (Clarke et al. 2008).

        gain_l = sum_s J(l, s) (1 - alpha)^c_s(l) / log2(1 + l)

    Args:
      covers: J, 0 or 1.
      alpha: probability that a reader has had enough of a subtopic after one item of it, from 0 to 1.

    >>> alpha_dcg_gains(jnp.array([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])).round(4).tolist()
    [2.0, 0.3155, 0.0]
    """
    novel = jnp.sum(covers * (1 - alpha) ** _count_above(covers), axis=1)
    return novel / jnp.log2(1 + _ranks(covers))


def alpha_ndcg_gains(
    covers: Float[Array, "L T"], ideal: Float[Array, ""], alpha: float | int = 0.5
) -> Float[Array, "L"]:
    """Gains of alpha-nDCG@L: `alpha_dcg_gains` over the sum that an ideal list has (Clarke et al. 2008).

    The best list is hard to find (it is NP-hard), so `ideal` is that of a list built greedily, as in TREC's
    tool: `list_rewards.greedy_ideal`. The measure may therefore be a little above 1.

    Args:
      covers: J, 0 or 1.
      ideal: alpha-DCG@L of the ideal list; where it is 0, all gains are 0.
      alpha: as for `alpha_dcg_gains`.

    >>> alpha_ndcg_gains(jnp.array([[0.0, 1.0], [1.0, 0.0]]), jnp.array(2.0)).round(4).tolist()
    [0.5, 0.3155]
    """
    return _over(alpha_dcg_gains(covers, alpha), ideal)


def err_ia_gains(satisfies: Float[Array, "L T"], weights: Float[Array, "T"]) -> Float[Array, "L"]:
    """Gains of intent-aware expected reciprocal rank, ERR-IA@L (Chapelle et al. 2011).

        gain_l = 1/l sum_s weights_s R(l, s) prod_{i < l} (1 - R(i, s))

    Args:
      satisfies: R, the probability that an item satisfies a reader who wants a subtopic; for a grade g of at
        most h, (2^g - 1) / 2^h.
      weights: probability of each subtopic; they add up to 1.

    >>> err_ia_gains(jnp.array([[0.5, 0.0], [0.5, 0.5]]), jnp.array([0.5, 0.5])).tolist()
    [0.25, 0.1875]
    """
    return jnp.sum(weights[None] * satisfies * _left_above(satisfies), axis=1) / _ranks(satisfies)


def trec_err_ia_gains(
    covers: Float[Array, "L T"], num_subtopics: Float[Array, ""], alpha: float | int = 0.5
) -> Float[Array, "L"]:
    """Gains of ERR-IA@L as TREC's tool `ndeval` defines it, with grades 0 and 1.

        gain_l = 1/Z 1/l sum_s J(l, s) (1 - alpha)^c_s(l),    Z = S sum_{i <= L} (1 - alpha)^(i-1) / i

    Z belongs to a list of which every item covers all S subtopics. With alpha = 0.5 the gains are those of
    `err_ia_gains` with R = J / 2 and equal weights, up to a factor that depends on L alone.

    Args:
      covers: J, 0 or 1.
      num_subtopics: S, subtopics with at least one relevant item; where it is 0, all gains are 0.
      alpha: as for `alpha_dcg_gains`.

    >>> trec_err_ia_gains(jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array(2.0)).tolist()
    [0.4000000059604645, 0.20000000298023224]
    """
    novel = jnp.sum(covers * (1 - alpha) ** _count_above(covers), axis=1)
    ranks = _ranks(covers)
    most = num_subtopics * jnp.sum((1 - alpha) ** (ranks - 1) / ranks)
    return _over(novel / ranks, most)


def subtopic_recall_gains(
    covers: Float[Array, "L T"], num_subtopics: Float[Array, ""]
) -> Float[Array, "L"]:
    """Gains of subtopic recall, the share of subtopics that the list covers (Zhai et al. 2003).

        gain_l = 1/S sum_s J(l, s) [c_s(l) = 0]

    Args:
      covers: J, 0 or 1.
      num_subtopics: S; where it is 0, all gains are 0.

    >>> subtopic_recall_gains(jnp.array([[1.0, 0.0], [1.0, 1.0]]), jnp.array(2.0)).tolist()
    [0.5, 0.5]
    """
    first = covers * (_count_above(covers) == 0).astype(covers.dtype)
    return _over(jnp.sum(first, axis=1), num_subtopics)


def coverage_gains(
    probabilities: Float[Array, "L T"], weights: Float[Array, "T"]
) -> Float[Array, "L"]:
    """Gains of probabilistic coverage (Agrawal et al. 2009, IA-Select).

        F(y) = sum_s weights_s (1 - prod_l (1 - p(l, s)))
        gain_l = sum_s weights_s p(l, s) prod_{i < l} (1 - p(i, s))

    Args:
      probabilities: p, the probability that an item covers a subtopic.
      weights: worth of each subtopic.

    >>> coverage_gains(jnp.array([[0.5, 0.0], [0.5, 1.0]]), jnp.array([1.0, 2.0])).tolist()
    [0.5, 2.25]
    """
    return jnp.sum(weights[None] * probabilities * _left_above(probabilities), axis=1)


def diversity_gains(distances: Float[Array, "L L"]) -> Float[Array, "L"]:
    """Gains of intra-list diversity, the mean distance of two items of the list (Ziegler et al. 2005).

        F(y) = 2 / (L (L - 1)) sum_{i < j} d(i, j),    gain_l = 2 / (L (L - 1)) sum_{i < l} d(i, l)

    0 for a list of one item.

    Args:
      distances: d, such as `cosine_distances`.

    >>> diversity_gains(jnp.array([[0.0, 1.0, 2.0], [1.0, 0.0, 3.0], [2.0, 3.0, 0.0]])).round(4).tolist()
    [0.0, 0.3333, 1.6667]
    """
    length = distances.shape[0]
    return jnp.sum(jnp.tril(distances, -1), axis=1) / max(length * (length - 1) / 2, 1)


def cosine_distances(features: Float[Array, "L D"]) -> Float[Array, "L L"]:
    """Returns 1 - cos of each pair of rows; a row of zeros has the distance 1 from every row.

    >>> cosine_distances(jnp.array([[2.0, 0.0], [0.0, 1.0]])).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    length = jnp.linalg.norm(features, axis=1, keepdims=True)
    rows = features / jnp.where(length > 0, length, 1)
    return 1 - rows @ rows.T


def log_det_gains(kernel: Float[Array, "L L"], ridge: float | int = 1e-3) -> Float[Array, "L"]:
    """Gains of the log-determinant of a determinantal point process (Kulesza and Taskar 2012; Chen 2018).

        F(y) = log det(K_y + ridge I),    gain_l = log of the Schur complement of the items above in item l

    The Schur complements are the pivots of the Cholesky factorisation, 2 log of its diagonal. None is below
    `ridge` where K_y is positive semidefinite; one that rounding makes smaller counts as `ridge`, so that two
    equal items have a finite gain.

    Args:
      kernel: K_y of the shown items, positive semidefinite.
      ridge: added to the diagonal, above 0; a gain is at least its logarithm.

    >>> log_det_gains(jnp.array([[1.0, 0.6], [0.6, 1.0]]), ridge=1e-6).round(3).tolist()
    [0.0, -0.446]
    """
    length = kernel.shape[0]

    def eliminate(
        matrix: Float[Array, "L L"], place: Array
    ) -> tuple[Float[Array, "L L"], Float[Array, ""]]:
        pivot = jnp.maximum(matrix[place, place], ridge)
        column = matrix[:, place]
        return matrix - column[:, None] * column[None] / pivot, jnp.log(pivot)

    with_ridge = kernel + ridge * jnp.eye(length, dtype=kernel.dtype)
    return lax.scan(eliminate, with_ridge, jnp.arange(length))[1]


def expected_clicks(
    attraction: Float[Array, "L"], continuation: Float[Array, "L"]
) -> Float[Array, "L"]:
    """Expected clicks of a reader who stops: the dependent click model (Guo, Liu and Wang 2009).

    A reader who examines position l clicks with probability a_l. After no click they go on; after a click,
    with probability lambda_l.

        gain_l = a_l prod_{i < l} (1 - a_i (1 - lambda_i))

    With lambda = 0 this is the cascade model (Craswell et al. 2008): F(y) = 1 - prod_l (1 - a_l), the
    probability of a click.

    Args:
      attraction: a.
      continuation: lambda of each position.

    >>> expected_clicks(jnp.array([0.5, 0.5]), jnp.array([0.0, 0.0])).tolist()
    [0.5, 0.25]
    """
    stops = attraction * (1 - continuation)
    return attraction * _left_above(stops[:, None])[:, 0]


def sampled_clicks(
    key: PRNGKey, attraction: Float[Array, "L"], continuation: Float[Array, "L"]
) -> Float[Array, "L"]:
    """Samples the clicks, 0 or 1, of one reader of the dependent click model; see `expected_clicks`.

    Positions below the one where the reader stops have no click.

    >>> sampled_clicks(jax.random.key(0), jnp.array([0.0, 1.0, 1.0]), jnp.zeros(3)).tolist()
    [0.0, 1.0, 0.0]
    """
    click_key, stop_key = jax.random.split(key)
    attracted = jax.random.bernoulli(click_key, attraction)
    goes_on = jax.random.bernoulli(stop_key, continuation)
    stops = (attracted & ~goes_on).astype(attraction.dtype)
    return attracted.astype(attraction.dtype) * _left_above(stops[:, None])[:, 0]


def rnd_gains(
    in_group: Bool[Array, "L"], share: float | int, largest: float | int, every: int = 10
) -> Float[Array, "L"]:
    """Gains of minus rND, the discounted difference of a group's share (Yang and Stoyanovich 2017).

        F(y) = -1/Z sum_{i = s, 2s, ...} | (items of the group among the first i) / i - share | / log2(i)

    Args:
      in_group: membership of the shown items.
      share: S+ / N, the share of the group in the catalogue.
      largest: Z, the largest value of the sum; `list_rewards.rnd` computes it.
      every: s, distance of the cut-offs in positions; from 2 to L.

    Raises:
      ValueError: `every` is below 2, or above the length of the list.

    >>> rnd_gains(jnp.array([True, True, False, False]), 0.5, 0.5, every=2).tolist()
    [0.0, -1.0, 0.0, -0.0]
    """
    length = in_group.shape[0]
    if not 2 <= every <= length:
        raise ValueError(
            f"every={every}; expected a number of positions from 2 to the length of the list, {length}"
        )
    dtype = jnp.zeros(()).dtype
    ranks = jnp.arange(1, length + 1)
    is_cutoff = ranks % every == 0
    ranks = ranks.astype(dtype)
    here = jnp.cumsum(in_group.astype(dtype)) / ranks
    terms = jnp.abs(here - share) / jnp.where(is_cutoff, jnp.log2(ranks), 1)
    return jnp.where(is_cutoff, -terms / largest, 0)


def exposure_share_gains(
    groups: Float[Array, "L G"], targets: Float[Array, "G"]
) -> Float[Array, "L"]:
    """Gains of minus the deviation of the groups' exposure from target shares (Singh and Joachims 2018).

    The exposure of position l is v_l = 1 / log2(1 + l). The deviation is the total variation distance

        F(y_1..l) = -1/2 sum_g | sum_{i <= l} v_i [item i in g] / sum_{i <= l} v_i - target_g |

    which is 0 for the targets, and at worst -1.

    Args:
      groups: 1 at the group of each item, 0 elsewhere.
      targets: share of each group; they add up to 1.

    >>> exposure_share_gains(jnp.eye(2), jnp.array([0.5, 0.5])).round(4).tolist()
    [-0.5, 0.3869]
    """
    exposure = 1 / jnp.log2(1 + _ranks(groups))
    shares = jnp.cumsum(groups * exposure[:, None], axis=0) / jnp.cumsum(exposure)[:, None]
    return telescoped(-jnp.sum(jnp.abs(shares - targets[None]), axis=1) / 2)


def _ranks(rows: Float[Array, "L T"]) -> Float[Array, "L"]:
    return jnp.arange(1, rows.shape[0] + 1, dtype=rows.dtype)


def _count_above(covers: Float[Array, "L T"]) -> Float[Array, "L T"]:
    """c_s(l), the sum of the rows above each row."""
    return jnp.cumsum(covers, axis=0) - covers


def _left_above(probabilities: Float[Array, "L T"]) -> Float[Array, "L T"]:
    """Product of 1 - p over the rows above each row; 1 for the first."""
    left = jnp.cumprod(1 - probabilities, axis=0)
    return jnp.concatenate([jnp.ones_like(left[:1]), left[:-1]])


def _over(gains: Float[Array, "L"], total: Float[Array, ""]) -> Float[Array, "L"]:
    """Gains over a normaliser, and 0 where it is 0."""
    total = total.astype(gains.dtype)
    return jnp.where(total > 0, gains / jnp.where(total > 0, total, 1), 0)
