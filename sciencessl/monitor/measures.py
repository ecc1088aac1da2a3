"""Numbers that say whether representations, predictor and target are alive: pure functions of tensors, on their device.

Each takes rows of any floating dtype, computes in float64 without gradient, and returns a tensor that nothing has read
yet. Spectra go through the smaller Gram matrix; on a GPU torch's eigenvalue routines wait for the device by themselves.

A spectrum of few rows is a biased one: N centred rows show at most N - 1 directions, and the small eigenvalues of a
covariance come out too small until N is several times D. Compare readings of one batch size only, as trends.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

RANKME_EPS = 1e-7
LIDAR_DELTA, LIDAR_EPS = 1e-4, 1e-8
ALPHA_FIRST, ALPHA_LAST = 4, 100
NO_VARIANCE = 1e-12
"""Eigenvalues below this share of the largest are rounding, not spectrum."""
TINY = 1e-300
"""In place of a zero below a fraction bar."""
NO_DIRECTION = 1e-2
"""Directions of the projections below this share of the largest singular value say nothing of the predictor."""


@torch.no_grad()
def embedding_std(rows: Tensor) -> Tensor:
    """Spread of (N, D) rows: mean over dimensions of the standard deviation of l2-normalised rows, times sqrt(D).

    0 when all rows are equal, 1 when they are spread evenly over the sphere; a little above 1 for few rows. Meaningful
    from about 8 rows. Source: SimSiam (arXiv 2011.10566), section 4.1, scaled by sqrt(D).
    """
    unit = normalize(rows.double(), dim=1)
    return unit.std(dim=0).mean() * math.sqrt(unit.shape[1])


@torch.no_grad()
def effective_rank(rows: Tensor) -> Tensor:
    """Directions in use by (N, D) rows: exp of the entropy of the singular values of the l2-normalised, centred rows.

    From 1 to min(N - 1, D); 1 for equal rows. Below about 2 D rows it measures the batch as much as the network.
    Source: Roy and Vetterli, "The effective rank", EUSIPCO 2007; normalising and centring are ours.
    """
    unit = normalize(rows.double(), dim=1)
    return _perplexity(_shares(_singular_values(unit - unit.mean(dim=0))))


@torch.no_grad()
def rankme(rows: Tensor) -> Tensor:
    """RankMe of (N, D) rows: exp(-sum p log p), p = s / |s|_1 + 1e-7, with s the min(N, D) singular values of the rows
    as they are, neither centred nor normalised.

    From 1 to min(N, D), up to the eps. The paper takes 25 600 rows, of the training set, and finds that more change
    little; a batch gives a lower bound that is good for trends. The mean of the rows counts as one direction, a large
    one behind a ReLU. Source: RankMe (arXiv 2210.02885), equations 1 and 2.
    """
    return _perplexity(_shares(_singular_values(rows)) + RANKME_EPS)


@torch.no_grad()
def lidar(first: Tensor, second: Tensor, delta: float = LIDAR_DELTA) -> Tensor:
    """LiDAR: the effective rank of S_w^(-1/2) S_b S_w^(-1/2), where a class is a sample and its members are two views.

    S_b is the covariance of the class means (over N - 1), S_w the mean covariance within classes (over N (q - 1), here
    q = 2) plus `delta` times the identity; p = l / |l|_1 + 1e-8 over the D eigenvalues. Directions count by how well
    they tell samples apart from views, so that noise that both views do not share adds nothing.

    From 1 to min(N - 1, D), up to the eps. With N below D, S_w is `delta` alone in most directions and the value says
    little; the authors ask for N above D and take 10 to 50 views, two are the fewest that define it. Depends on the
    scale of the rows through `delta`. Source: LiDAR (arXiv 2312.04000), section 3.

    Args:
        first: (N, D) rows of one view.
        second: The same samples in the other.
        delta: Above 0.
    """
    first, second = first.double(), second.double()
    samples, features = first.shape
    means = (first + second) / 2
    between = (means - means.mean(dim=0)) / max(samples - 1, 1) ** 0.5
    within = (first - second) / (2 * samples) ** 0.5  # two members are their difference over 2 from their mean
    both = torch.cat([between, within])
    if features > len(both):  # coordinates in the span of the rows: outside of it S_b is 0
        both = torch.linalg.qr(both.T, mode="r").R.T
    between, within = both[:samples], both[samples:]
    scatter = within.T @ within + delta * torch.eye(both.shape[1], dtype=both.dtype, device=both.device)
    root = torch.linalg.cholesky_ex(scatter).L
    # With S_w = L L^T, L^-1 S_b L^-T has the eigenvalues of S_w^(-1/2) S_b S_w^(-1/2).
    values = _singular_values(torch.linalg.solve_triangular(root, between.T, upper=False)).square()
    zeros = values.new_zeros(features - len(values))
    return _perplexity(_shares(torch.cat([values, zeros])) + LIDAR_EPS)


@torch.no_grad()
def alpha_req(rows: Tensor, first: int = ALPHA_FIRST, last: int = ALPHA_LAST) -> Tensor:
    """alpha-ReQ of (N, D) rows: the exponent a of l_i ~ i^-a, for the falling eigenvalues l_i of their covariance.

    Least squares of log l on log i over the ranks `first` to `last`, weighted by 1 / i: even in log i. The paper finds
    the best representations near 1; well above 1 few directions carry all (collapse), well below 1 the spectrum is flat
    (noise). NaN when fewer than two ranks have variance. A spectrum of few rows falls too steeply: wants N well above
    `last`. Source: alpha-ReQ (arXiv 2202.05808); ranks and weights are those of the authors' code, which the paper does
    not state.

    Args:
        rows: (N, D).
        first: Rank, from 1, of the first eigenvalue of the fit; the few before it follow no power law.
        last: Of the last one; there are at most min(N - 1, D).
    """
    rows = rows.double()
    count = min(len(rows) - 1, rows.shape[1])
    spectrum = _singular_values(rows - rows.mean(dim=0)).square()[:count]
    ranks = torch.arange(1, count + 1, dtype=spectrum.dtype, device=spectrum.device)[first - 1 : last]
    chosen = spectrum[first - 1 : last]
    alive = chosen > NO_VARIANCE * spectrum[:1]
    weights = alive / ranks
    weights = weights / weights.sum()
    x, y = ranks.log(), torch.where(alive, chosen, torch.ones_like(chosen)).log()
    x = x - (weights * x).sum()
    return -(weights * x * y).sum() / (weights * x * x).sum()


@torch.no_grad()
def alignment(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared distance of the l2-normalised (N, D) rows of two views: 0 when views agree, 2 when they are
    unrelated, at most 4. Any N: unbiased. Source: Wang and Isola (arXiv 2005.10242), alpha = 2.
    """
    distance = normalize(first.double(), dim=1) - normalize(second.double(), dim=1)
    return distance.square().sum(dim=1).mean()


@torch.no_grad()
def uniformity(rows: Tensor) -> Tensor:
    """log of the mean of exp(-2 d^2) over the pairs of different rows, l2-normalised, d their distance.

    0 when all rows are equal, near -4 for rows spread evenly in many dimensions, never below -8. The mean is unbiased
    at any N of 2 or more, its log nearly; noisy below about 64 rows. Source: Wang and Isola (arXiv 2005.10242), t = 2.
    """
    unit = normalize(rows.double(), dim=1)
    squares = unit.square().sum(dim=1)  # 1, or 0 for a row of zeros, which has no direction
    exponents = (4 * (unit @ unit.T) - 2 * squares - 2 * squares[:, None]).fill_diagonal_(-torch.inf)  # -2 d^2
    return exponents.flatten().logsumexp(dim=0) - math.log(len(rows) * (len(rows) - 1))


class PredictorSpectrum(NamedTuple):
    """The predictor as the linear map that comes nearest to it.

    Attributes:
        values: Its singular values, largest first: what it multiplies each direction of the projections with.
        fit: Share of the variance of the predictions that the map explains, 0 to 1.
    """

    values: Tensor
    fit: Tensor


@torch.no_grad()
def predictor_spectrum(projections: Tensor, predictions: Tensor) -> PredictorSpectrum:
    """Spectrum of the least-squares map A of (N, D) projections on (N, P) predictions, both centred.

    One definition for every predictor, ours. For a linear one A is its matrix, on the directions that the batch shows;
    for an MLP it is its linear part there, and `fit` says how much that is. Directions of the projections with less
    than 1 % of the largest singular value are left out: their gain would be noise. With N below D + 2 any predictor is
    fitted without a rest, so `fit` wants N of several D. Closed forms that the spectrum can be held against: DirectPred
    (arXiv 2102.06810), where it is the square root of that of the projections.
    """
    inputs = projections.double() - projections.double().mean(dim=0)
    outputs = predictions.double() - predictions.double().mean(dim=0)
    squares, axes = torch.linalg.eigh(inputs.T @ inputs)
    kept = squares > NO_DIRECTION**2 * squares[-1:]
    inverse = torch.where(kept, 1 / torch.where(kept, squares, torch.ones_like(squares)), torch.zeros_like(squares))
    turned = axes.T @ (inputs.T @ outputs)  # rows: directions of the projections
    values = _singular_values(inverse[:, None] * turned)
    explained = (inverse[:, None] * turned.square()).sum()
    return PredictorSpectrum(values, explained / outputs.square().sum().clamp(min=TINY))


@torch.no_grad()
def spectrum_rank(values: Tensor) -> Tensor:
    """Effective rank of given singular values: exp of the entropy of their shares, from 1 to their number."""
    return _perplexity(_shares(values))


@torch.no_grad()
def relative_distance(tensor: Tensor, reference: Tensor) -> Tensor:
    """|tensor - reference| / |reference|, Frobenius norms: 0 when equal; 0 when both are zero."""
    apart = (tensor.double() - reference.double()).square().sum()
    return (apart / reference.double().square().sum().clamp(min=TINY)).sqrt()


@torch.no_grad()
def mean_cosine(first: Tensor, second: Tensor) -> Tensor:
    """Mean over (N, D) rows of the cosine of the two tensors' rows, -1 to 1. Any N: unbiased."""
    return (normalize(first.double(), dim=1) * normalize(second.double(), dim=1)).sum(dim=1).mean()


def _singular_values(rows: Tensor) -> Tensor:
    """(N, D) -> min(N, D) singular values in float64, largest first. Ones below 1e-8 of the largest are rounding."""
    wide = rows.double()
    gram = wide @ wide.T if len(wide) <= wide.shape[1] else wide.T @ wide
    squares: Tensor = torch.linalg.eigvalsh(gram)
    return squares.clamp(min=0).sqrt().flip(0)


def _shares(values: Tensor) -> Tensor:
    return values / values.sum().clamp(min=1e-12)


def _perplexity(shares: Tensor) -> Tensor:
    entropy: Tensor = torch.special.entr(shares).sum()
    return entropy.exp()
