"""Linear predictors in closed form: pure functions from the (d, d) statistics of projections to (d, d) predictors.

Rows z are online projections, rows t the target's of the opposite view. `gram` is a mean of outer products z z^T,
`cross` one of z t^T. Predictors that are not symmetric are given as P in p^T = z^T P: a layer's weight is P^T.

All compute in the dtype that they are given; float32 is enough for the numbers of iterations that they accept. None
carries gradient: a predictor is a constant of the step. Statistics that are not finite never raise here: the loss of
such a run tells.

Source: arXiv 2102.06810 and 2110.04947 with their released code for `direct_set` and `direct_copy`; arXiv 2302.04817
for the others. What the papers leave open, and is ours, is said in each.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sciencessl.errors import ConfigError, unknown_name

FLOOR = 1e-4
"""Smallest eigenvalue of a predictor that is set. Source: the released code of arXiv 2102.06810."""
MOST_ITERATIONS = 20
"""Newton-Schulz iterations beyond which float32 is lost: what stands for the inverse root grows as 1.5^n where the gram
matrix has no weight, and its rounding with it. Of rank 5 of 16, 22 are right to 4e-4, 25 are off by 100."""
RidgeOn = Literal["spectral", "raw"]


def direct_set(correlation: Tensor, alpha: float, eps: float) -> Tensor:
    """The predictor with the eigenvectors of F and the eigenvalues `max((s / max s)^alpha + eps, 1e-4)`.

    DirectPred is alpha = 1/2, and alpha = 1 is DirectCopy but for the floor. Eigenvalues of F below 0, which only
    rounding makes, count as 0. A factor of F changes nothing.

    Args:
        correlation: F, (d, d), of which the symmetric part is taken.
        alpha: Above 0.
        eps: Boost of all directions, 0 or more.

    Returns:
        W, (d, d), symmetric and positive definite.

    Source: arXiv 2102.06810 and 2110.04947, as in the released code, whose eigenvalues are of a general solver; ours is
    the symmetric one.
    """
    values, vectors = _eigh(correlation)
    values = values.clamp(min=0.0)
    values = values / values[-1].clamp(min=_tiny(values))
    gains = (values.pow(alpha) + eps).clamp(min=FLOOR)
    return _symmetric((vectors * gains) @ vectors.mT)


def direct_copy(correlation: Tensor, eps: float) -> Tensor:
    """`F / |F|_2 + eps I`, without eigenvectors.

    Args:
        correlation: F, (d, d), of which the symmetric part is taken.
        eps: Boost of all directions, 0 or more.

    Returns:
        W, (d, d), symmetric.

    Source: arXiv 2110.04947. The spectral norm gives eps one meaning at every scale of F, and is ours.
    """
    return ridged(_symmetric(correlation), eps, "spectral")


def regression(gram: Tensor, cross: Tensor) -> Tensor:
    """Least squares of t from z, `(Z^T Z)^-1 Z^T T`: the best linear predictor of a batch, of which the others are
    relatives.

    Directions of `gram` with less than d * (machine epsilon) of its largest eigenvalue are left out (ours): they are
    rounding, and it is the solution of least norm where Z has not the rank d.

    Args:
        gram: (d, d), symmetric.
        cross: (d, d).

    Returns:
        P, (d, d).

    Source: arXiv 2302.04817, where it is the reference that is unstable; the cut is ours.
    """
    values, vectors = _eigh(gram)
    least = values[-1].clamp(min=0.0) * (len(values) * torch.finfo(values.dtype).eps)
    kept = values > least
    inverse = torch.where(kept, 1.0, 0.0) / torch.where(kept, values, 1.0)
    return (vectors * inverse) @ (vectors.mT @ cross)


def neumann(gram: Tensor, cross: Tensor) -> Tensor:
    """`2 Z^T T - Z^T Z Z^T T`: the regression, its inverse replaced by the first terms of the Neumann series.

    Args:
        gram: (d, d), symmetric, with eigenvalues in (0, 2); of means of unit rows its trace is 1.
        cross: (d, d), of the same scale.

    Returns:
        P, (d, d), not symmetric.

    Source: arXiv 2302.04817.
    """
    return 2.0 * cross - gram @ cross


def visser(gram: Tensor, iterations: int, rate: float | None = None) -> Tensor:
    """Square root by `P <- P + rate (gram - P P)` from `P = I / (2 rate)`.

    Directions without weight keep about 1 / (rate * iterations): a ridge by itself.

    Args:
        gram: (d, d), symmetric positive semidefinite.
        iterations: 1 or more.
        rate: Above 0 and below 1 / sqrt(largest eigenvalue), or it diverges; up to half of that it is monotonic. None:
            0.5 / sqrt(trace), which always is (ours: the paper gives no value).

    Returns:
        P, (d, d), symmetric.

    Raises:
        ConfigError: For fewer iterations than 1.

    Source: arXiv 2302.04817.
    """
    check_iterations(iterations)
    gram = _symmetric(gram)
    step = 0.5 * gram.trace().clamp(min=_tiny(gram)).rsqrt() if rate is None else gram.new_full((), rate)
    root = torch.eye(len(gram), dtype=gram.dtype, device=gram.device) / (2.0 * step)
    for _ in range(iterations):
        root = root + step * (gram - root @ root)
    return _symmetric(root)


def newton_schulz(gram: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Square root and its inverse by the coupled Newton-Schulz iteration: three matrix products each, no step size.

    From `A = gram / |gram|_F` and `B = I`: `R = (3 I - B A) / 2`, `A <- A R`, `B <- R B`.

    Args:
        gram: (d, d), symmetric positive semidefinite.
        iterations: 1 to 20. With few of them small eigenvalues are not yet at their root, but below it.

    Returns:
        `sqrt(|gram|_F) A`, which approaches `gram^(1/2)`, and `B / sqrt(|gram|_F)`, which approaches `gram^(-1/2)` and
        stays finite where that is not; both (d, d), symmetric.

    Raises:
        ConfigError: For a number of iterations outside its range.

    Source: arXiv 2302.04817; the limit is ours.
    """
    root, inverse, size = _coupled(gram, iterations)
    return root * size.sqrt(), inverse / size.sqrt()


def fourth_root(gram: Tensor, iterations: int) -> Tensor:
    """`newton_schulz` of its own root, each with so many iterations: (d, d), symmetric.

    Raises:
        ConfigError: As `newton_schulz`.

    Source: arXiv 2302.04817.
    """
    return newton_schulz(newton_schulz(gram, iterations)[0], iterations)[0]


def stiefel(gram: Tensor, iterations: int) -> Tensor:
    """`B gram^T / |B|_F` with B from the Newton-Schulz iteration on `gram^T gram`: towards `(G^T G)^(-1/2) G^T`.

    Of a positive semidefinite matrix that limit is a multiple of the projector on its range. Few iterations make it a
    soft one, so that their number is something to tune: with nine, an eigenvalue of 5 % of `sqrt(|gram^T gram|_F)`
    passes with 98 %, one of 1 % with 37 %.

    Args:
        gram: (d, d), symmetric positive semidefinite.
        iterations: 1 to 20.

    Returns:
        P, (d, d), symmetric. A factor of `gram` is one of P.

    Raises:
        ConfigError: For a number of iterations outside its range.

    Source: arXiv 2302.04817.
    """
    unit, size = _unit(_symmetric(gram))
    inverse = _coupled(unit @ unit, iterations)[1]
    return _symmetric(inverse @ unit / torch.linalg.matrix_norm(inverse)) * size


def ridged(predictor: Tensor, alpha: float, on: RidgeOn = "spectral") -> Tensor:
    """`P + alpha I`.

    Args:
        predictor: P, (d, d).
        alpha: 0 or more.
        on: `spectral`: P is divided by its spectral norm before (ours: a predictor is defined up to a factor, and the
            paper's theory has its largest eigenvalue at 1); `raw`: P as it is, the literal reading.

    Returns:
        (d, d); alpha I where P is 0.

    Raises:
        ConfigError: For another `on`.

    Source: arXiv 2302.04817.
    """
    if on not in ("spectral", "raw"):
        raise ConfigError(unknown_name("ridge_on", on, ("spectral", "raw")))
    if on == "spectral":
        predictor = predictor / spectral_norm(predictor).clamp(min=_tiny(predictor))
    return predictor + alpha * torch.eye(len(predictor), dtype=predictor.dtype, device=predictor.device)


def spectral_norm(matrix: Tensor) -> Tensor:
    """The largest singular value of a (d, d) matrix, a scalar; NaN where it is not finite."""
    unit, size = _unit(matrix)
    largest: Tensor = torch.linalg.eigvalsh(_finite(unit.mT @ unit))[-1]
    return largest.clamp(min=0.0).sqrt() * size


def check_iterations(iterations: int, most: int | None = None, name: str = "iterations") -> None:
    """Refuse a number of iterations, by this name, below 1, or above `most`.

    Raises:
        ConfigError: Then.
    """
    if iterations < 1 or (most is not None and iterations > most):
        allowed = "1 or more" if most is None else f"1 to {most}; beyond, float32 is lost. The paper takes 7 or 9"
        raise ConfigError(f"{name} is {iterations}; it must be {allowed}.")


def _coupled(gram: Tensor, iterations: int) -> tuple[Tensor, Tensor, Tensor]:
    """A, B and |gram|_F of the Newton-Schulz iteration."""
    check_iterations(iterations, MOST_ITERATIONS)
    unit, size = _unit(_symmetric(gram))
    norm = torch.linalg.matrix_norm(unit).clamp(min=_tiny(unit))
    root, eye = unit / norm, torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    inverse = eye
    for _ in range(iterations):
        factor = 1.5 * eye - 0.5 * (inverse @ root)
        root, inverse = root @ factor, factor @ inverse
    return _symmetric(root), _symmetric(inverse), norm * size


def _symmetric(matrix: Tensor) -> Tensor:
    return 0.5 * (matrix + matrix.mT)


def _unit(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """With its largest entry at 1, and that entry: squares then neither overflow nor vanish."""
    size = matrix.abs().amax().clamp(min=_tiny(matrix))
    return matrix / size, size


def _eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Ascending eigenvalues and eigenvectors of the symmetric part."""
    values, vectors = torch.linalg.eigh(_finite(_symmetric(matrix)))
    return values, vectors


def _finite(matrix: Tensor) -> Tensor:
    # LAPACK raises on NaN, before the trainer could say that the run has diverged.
    return matrix.nan_to_num(0.0, 0.0, 0.0)


def _tiny(matrix: Tensor) -> float:
    return torch.finfo(matrix.dtype).tiny
