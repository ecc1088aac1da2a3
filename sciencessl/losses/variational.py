"""VSSL's terms: the divergence of two Gaussians of diagonal covariance, a sample of one, and their cosine forms.

What is minimised is our definition after the abstract of arXiv 2504.04318; the divergence itself is the closed form.
"""

from __future__ import annotations

from torch import Tensor

from sciencessl.errors import ConfigError
from sciencessl.losses.precision import full_precision
from sciencessl.losses.regression import negative_cosine


def gaussian_divergence(mean: Tensor, log_variance: Tensor, target_mean: Tensor, target_log_variance: Tensor) -> Tensor:
    """`KL(q || p)` of the online Gaussian q and the target's p, in closed form.

    `1/2 sum_k [ln(v_p / v_q) + (v_q + (m_q - m_p)^2) / v_p - 1]`: summed over the D dimensions, not averaged. It has
    the gradients `(m_q - m_p) / v_p` and `(v_q / v_p - 1) / 2` of mean and log-variance; p gets none.

    Args:
        mean: (B, D) of q, any floating dtype.
        log_variance: (B, D) of q.
        target_mean: (B, D) of p.
        target_log_variance: (B, D) of p.

    Returns:
        (B,) in nats, 0 or more, and 0 where both are equal; float32 at least.

    Raises:
        ConfigError: When shapes differ.

    Source: textbook; that q is the online network's: a public review of arXiv 2504.04318.
    """
    tensors = _alike(mean, log_variance, target_mean.detach(), target_log_variance.detach())
    mean, log_variance, target_mean, target_log_variance = tensors
    apart = log_variance - target_log_variance
    distance = (mean - target_mean).square() / target_log_variance.exp()
    # expm1: near p, where this ends, exp - 1 would be rounding.
    return 0.5 * (apart.expm1() - apart + distance).sum(dim=1)


def cosine_divergence(
    mean: Tensor, log_variance: Tensor, target_mean: Tensor, target_log_variance: Tensor, gamma: float
) -> Tensor:
    """`1 - cos(m_q, m_p) + gamma [1 - cos(l_q - mean l_q, l_p - mean l_p)]`, with l the log-variances of a row.

    Nothing holds the size of a variance here. A row of equal variances has cosine 0 with all others. Arguments as for
    `gaussian_divergence`; gamma is 0 or more.

    Returns:
        (B,) in [0, 2 + 2 gamma], float32 at least.

    Raises:
        ConfigError: When shapes differ.

    Source: ours.
    """
    tensors = _alike(mean, log_variance, target_mean.detach(), target_log_variance.detach())
    mean, log_variance, target_mean, target_log_variance = tensors
    spreads = (_centred(log_variance), _centred(target_log_variance))
    return (1.0 + negative_cosine(mean, target_mean)) + gamma * (1.0 + negative_cosine(*spreads))


def _centred(rows: Tensor) -> Tensor:
    return rows - rows.mean(dim=1, keepdim=True)


def reparameterised(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """`m + exp(l / 2) noise`: a sample whose gradient reaches mean and log-variance, for standard normal noise.

    Args:
        mean: (B, D).
        log_variance: (B, D).
        noise: (B, D).

    Returns:
        (B, D), float32 at least.

    Raises:
        ConfigError: When shapes differ.

    Source: textbook.
    """
    mean, log_variance, noise = _alike(mean, log_variance, noise)
    return mean + (0.5 * log_variance).exp() * noise


def squared_error(prediction: Tensor, target: Tensor, deviation: float) -> Tensor:
    """`|prediction - target|^2 / (2 s^2)`: -log N(prediction; target, s^2 I) without its constant D/2 log(2 pi s^2).

    Args:
        prediction: (B, D).
        target: (B, D); it gets no gradient.
        deviation: s, above 0.

    Returns:
        (B,), 0 or more, float32 at least.

    Raises:
        ConfigError: When shapes differ.

    Source: textbook.
    """
    prediction, target = _alike(prediction, target.detach())
    return 0.5 * (prediction - target).square().sum(dim=1) / deviation**2


def _alike(*tensors: Tensor) -> tuple[Tensor, ...]:
    if len({tensor.shape for tensor in tensors}) > 1:
        raise ConfigError(
            f"gaussians: shapes {[tuple(tensor.shape) for tensor in tensors]}; expected one (B, D) for all. Give "
            "predictor and target projector the same output width."
        )
    return full_precision(*tensors)
