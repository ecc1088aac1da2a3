"""Pair loss plus label loss, the label loss rescaled so that only its weight matters."""

from __future__ import annotations

import torch
from torch import Tensor


def label_coefficient(pair_magnitude: Tensor, label_sum: Tensor, labelled_rows: Tensor, weight: float) -> Tensor:
    """What a sum of label losses is multiplied by in the total: `w * s / |label sum|`, without gradient.

    The number of rows cancels between L_sup and the scale. With `label_sum` summed over all ranks and micro-batches
    the same coefficient serves each of them: rank r adds `coefficient * (its own label sum)`.

    Args:
        pair_magnitude: s, scalar, 0 or more.
        label_sum: Scalar in nats, over all that counts as one step.
        labelled_rows: Scalar, 0 or more.
        weight: w.

    Returns:
        Scalar; 0 without labelled rows, and where the quotient is not finite (label sum 0, infinite or NaN). The
        absolute value keeps a loss that may be negative (a density) descending.

    Source: galaxy hybrid card (arXiv 2206.11927); the guards are ours.
    """
    size = label_sum.detach().abs()
    quotient = weight * pair_magnitude.detach() / size
    usable = (labelled_rows > 0) & torch.isfinite(size) & torch.isfinite(quotient)
    return torch.where(usable, quotient, 0.0)


def hybrid_total(
    pair_loss: Tensor,
    pair_magnitude: Tensor,
    label_sum: Tensor,
    labelled_rows: Tensor,
    weight: float,
    all_label_sum: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`L = L_pair + w * sg(s / L_sup) * L_sup` with `L_sup = label_sum / labelled_rows`.

    Every constant in the label loss cancels: its gradient is `w * s * grad log L_sup`. For cosine losses s is
    |mean negative cosine| *whatever the scale of the loss*: BYOL's 2 - 2 cos goes to 0 as training converges, and s
    taken from it would switch the labels off. Nothing here makes the host wait for a device.

    Args:
        pair_loss: L_pair, scalar.
        pair_magnitude: s, scalar, 0 or more; its gradient is not used.
        label_sum: Scalar in nats, summed over rows (and questions).
        labelled_rows: Scalar, number of rows with a label.
        weight: w, 0 or more.
        all_label_sum: Where `pair_loss` and `label_sum` are one rank's share of their sums: the label sum over all
            ranks, as s and the rows already are. The shares of the total then add up to the total.

    Returns:
        The total, and L_sup without gradient for the log: 0 without labelled rows, not finite where the loss was not.
        Without labelled rows, or with L_sup zero or not finite, the total is exactly `pair_loss` and the gradient
        to `label_sum` exactly 0.

    Source: galaxy hybrid card (arXiv 2206.11927); the guards are ours.
    """
    everything = label_sum.detach() if all_label_sum is None else all_label_sum
    coefficient = label_coefficient(pair_magnitude, everything, labelled_rows, weight)
    finite = torch.where(torch.isfinite(label_sum), label_sum, 0.0)
    mean = torch.where(labelled_rows > 0, everything / labelled_rows.clamp(min=1), 0.0)
    return pair_loss + coefficient * finite, mean
