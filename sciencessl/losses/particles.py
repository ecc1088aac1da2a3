"""MSBReg's three terms: attraction to a centroid, an even spread over dimensions, and a random kick.

Embeddings are particles on the unit sphere. Source: arXiv 2207.03552, whose abstract and a figure's caption name the
terms and what each is for (verified); the equations are reconstructed, as each docstring says.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from sciencessl.errors import ConfigError, unknown_name
from sciencessl.losses.precision import full_precision
from sciencessl.losses.regression import negative_cosine, unit

Centroid = Literal["ema", "cos", "squared"]
CENTROIDS: tuple[Centroid, ...] = get_args(Centroid)

EPSILON = 1e-6
"""Added to squared singular values, whose root has no gradient at 0."""


def centroid_attraction(online: Tensor, targets: Tensor, form: Centroid = "ema") -> Tensor:
    """How far the views of each sample are from where the target network sees its centre.

    With unit vectors z and c the mean of a sample's: `squared` is `|c_o - c_t|^2`, `cos` is `1 - cos(c_o, c_t)`, `ema`
    the mean over views of `2 - 2 cos(z_o, c_t)`. The first two hold the mean alone; `ema` pulls the views together even
    where the centres agree. No gradient reaches the targets.

    Args:
        online: (B, V, D) of any length, any floating dtype.
        targets: (B, W, D) likewise; W may differ from V.
        form: One of the three.

    Returns:
        (B,), 0 or more (`squared` and `ema` at most 4, `cos` at most 2), float32 at least.

    Raises:
        ConfigError: For an unknown form, or shapes that do not fit.

    Source: distance of the centroids: caption of arXiv 2207.03552; `cos` and `ema`: a third-party implementation.
    """
    if form not in CENTROIDS:
        raise ConfigError(unknown_name("centroid form", form, CENTROIDS))
    if online.ndim != 3 or targets.ndim != 3 or online.shape[::2] != targets.shape[::2]:
        raise ConfigError(
            f"centroid: online vectors have shape {tuple(online.shape)} and targets {tuple(targets.shape)}; expected "
            "(B, V, D) and (B, W, D)."
        )
    online, targets = full_precision(online, targets.detach())
    centre = unit(targets).mean(dim=1)
    if form == "ema":
        return (2.0 + 2.0 * negative_cosine(online, centre.unsqueeze(1).expand_as(online))).mean(dim=1)
    own = unit(online).mean(dim=1)
    return (own - centre).square().sum(dim=1) if form == "squared" else 1.0 + negative_cosine(own, centre)


def singular_spread(rows: Tensor, epsilon: float = EPSILON) -> Tensor:
    """How unevenly directions fill the dimensions: `1 - sum_i sigma_i / sqrt(N r)`, with r = min(N, D).

    sigma are the singular values of the N unit rows, whose squares add up to N: the term is 0 where all r are equal,
    and at most 1 - 1 / sqrt(r), where all rows are one. Rotations and the order of rows change nothing.

    From the eigenvalues of the smaller of the two Gram matrices. `epsilon` under the root keeps the gradient finite at
    0, and lowers the value by up to sqrt(epsilon r / N).

    Args:
        rows: (N, D) vectors of any length; all that the spread is of.
        epsilon: 0 or more.

    Returns:
        Scalar, float32 at least, under autocast too. NaN or infinite rows are the caller's to report: they count as
        zeros here, where the solver would end the process's step with an error of its own.

    Source: ours, for the role that the caption of arXiv 2207.03552 gives it.
    """
    (rows,) = full_precision(rows)
    number, width = rows.shape
    with torch.autocast(rows.device.type, enabled=False):
        units = unit(rows)
        gram = units.T @ units if width <= number else units @ units.T
        squares: Tensor = torch.linalg.eigvalsh(torch.nan_to_num(gram, 0.0, 0.0, 0.0)).clamp(min=0.0)
    return 1.0 - (squares + epsilon).sqrt().sum() / math.sqrt(number * min(number, width))


def brownian_kick(online: Tensor, kicks: Tensor) -> Tensor:
    """Mean over views of `cos(z, n)`: its gradient moves all views of a sample against one direction n.

    Its mean over directions is 0: what it adds is noise of a fixed scale that other samples do not share, which the
    attraction takes back where views are linked. Directions must be drawn anew in each step.

    Args:
        online: (B, V, D) of any length.
        kicks: (B, D) of any length, drawn from a normal distribution: one direction for all views of a sample.

    Returns:
        (B,) in [-1, 1], float32 at least.

    Raises:
        ConfigError: When shapes do not fit.

    Source: a third-party implementation of arXiv 2207.03552; one direction a sample, as there.
    """
    if online.ndim != 3 or kicks.shape != online.shape[::2]:
        raise ConfigError(
            f"kick: vectors have shape {tuple(online.shape)} and directions {tuple(kicks.shape)}; expected (B, V, D) "
            "and (B, D)."
        )
    return -negative_cosine(online, kicks.detach().unsqueeze(1).expand_as(online)).mean(dim=1)
