"""Matching the instances of an image to themselves: entropic optimal transport between two sets of vectors.

UniVIP (arXiv 2203.06965), its instance-instance term: cost, marginals and loss as the paper's equations have them; how
marginals get equal masses, and what happens when all of them are zero, is ours, since the paper does not say.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sciencessl.errors import ConfigError
from sciencessl.losses.precision import full_precision
from sciencessl.losses.regression import cosines, unit


@torch.no_grad()
def scene_marginals(instances: Tensor, scenes: Sequence[Tensor]) -> Tensor:
    """How much each instance counts: its cosine with the mean of the scenes where that is positive, over their sum.

    `max(o_m . (f_1 + f_2) / 2, 0)` of unit vectors, divided by its sum over m (ours: transport needs equal masses on
    both sides); 1 / K each where no cosine is positive (ours).

    Args:
        instances: (B, K, D), any floating dtype.
        scenes: (B, D) each; those of the other network.

    Returns:
        (B, K) of float32 at least, 0 or more, rows summing to 1; without gradient.

    Source: UniVIP (arXiv 2203.06965).
    """
    instances, *views = full_precision(instances, *scenes)
    mean = torch.stack([unit(view) for view in views]).mean(dim=0)
    weights = (unit(instances) * mean[:, None]).sum(dim=2).clamp(min=0.0)
    total = weights.sum(dim=1, keepdim=True)
    # Where all are zero, a division would be NaN even if it were not chosen.
    some = total > 0
    return torch.where(some, weights / torch.where(some, total, 1.0), 1.0 / weights.shape[1])


@torch.no_grad()
def transport_plan(costs: Tensor, rows: Tensor, columns: Tensor, epsilon: float, iterations: int) -> Tensor:
    """The plan Y that moves the masses `rows` to the masses `columns` at least cost, blurred by an entropy.

    Sinkhorn-Knopp on `M = exp(-C / epsilon)`: from v = 1, in each iteration `u = a / (M^T v)` and then `v = b / (M u)`,
    and `Y = diag(v) M diag(u)`: sums over rows are exact, those over columns as near as the iterations come. In the
    logarithm, so that no cost underflows; a mass of zero moves nothing.

    Args:
        costs: (B, M, N) of any floating dtype.
        rows: (B, M) masses b, 0 or more, each sum 1.
        columns: (B, N) masses a, likewise.
        epsilon: Above 0. Towards 0 the plan is that of exact transport, towards infinity `b a^T`.
        iterations: 1 or more.

    Returns:
        (B, M, N) of float32 at least, 0 or more, each of sum 1; without gradient.

    Raises:
        ConfigError: For an epsilon or a number of iterations outside its range, or masses that do not fit the costs.

    Source: Cuturi 2013 (arXiv 1306.0895), in the order of OTA (arXiv 2103.14259), which UniVIP follows; the logarithm
    is ours.
    """
    shapes = [tuple(tensor.shape) for tensor in (costs, rows, columns)]
    fits = costs.ndim == 3 and shapes[1:] == [shapes[0][:2], (shapes[0][0], shapes[0][2])]
    if not epsilon > 0 or iterations < 1 or not fits:
        raise ConfigError(
            f"transport: epsilon is {epsilon}, iterations {iterations}, and costs, rows and columns are {shapes}; "
            "expected an epsilon above 0, 1 iteration or more, and (B, M, N), (B, M), (B, N)."
        )
    costs, rows, columns = full_precision(costs, rows, columns)
    kernel, b, a = -costs / epsilon, rows.log(), columns.log()
    v = torch.zeros_like(b)
    for _ in range(iterations):
        u = a - (kernel + v[:, :, None]).logsumexp(dim=1)
        v = b - (kernel + u[:, None, :]).logsumexp(dim=2)
    # The last v has rows sum to their masses: said so, no rounding of large logarithms is blown up by an exponential.
    return rows[:, :, None] * (kernel + u[:, None, :]).softmax(dim=2)


def transport_loss(
    online: Tensor, target: Tensor, rows: Tensor, columns: Tensor, epsilon: float, iterations: int
) -> Tensor:
    """`- sum over m, n of cos(o_m, t_n) Y_mn` with the plan Y of the costs `1 - cos`, which is held fixed.

    Gradient reaches `online` alone, through the cosines. With one instance it is one term of BYOL, `-cos(o, t)`.

    Args:
        online: (B, K, D) instances o.
        target: (B, K, D) instances t.
        rows: (B, K) masses of o, each sum 1.
        columns: (B, K) masses of t, likewise.
        epsilon: As in `transport_plan`.
        iterations: As in `transport_plan`.

    Returns:
        (B,) in [-1, 1].

    Source: UniVIP (arXiv 2203.06965).
    """
    likeness = cosines(online, target.detach())
    plan = transport_plan(1.0 - likeness.detach(), rows, columns, epsilon, iterations)
    return -(likeness * plan).sum(dim=(1, 2))
