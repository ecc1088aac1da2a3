"""A method in one file: BYOL, and a hinge that keeps every dimension of the projection spread over the batch.

    sciencessl pretrain --method docs/explanation/own_method.py:SpreadByol --data STORE --out RUN --minutes 10
    python -c "from sciencessl.testing import check_method; check_method('docs/explanation/own_method.py:SpreadByol')"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sciencessl.errors import ConfigError
from sciencessl.losses.precision import full_precision
from sciencessl.methods.base import Online, PairLoss
from sciencessl.methods.byol import Byol, ByolOptions


@dataclass(frozen=True)
class SpreadOptions(ByolOptions):
    """Settings of BYOL, and one more.

    Attributes:
        spread: Weight of the hinge, 0 or more.
    """

    spread: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.spread < 0:
            raise ConfigError(f"options.spread is {self.spread}; it must be 0 or more.")


class SpreadByol(Byol):
    """`L = L_BYOL + spread * mean over views and dimensions of max(0, 1 - std_B(z))`."""

    title: ClassVar[str] = "spread BYOL: BYOL, and every dimension of the projection is kept spread over the batch"
    paper: ClassVar[str] = "BYOL: arXiv 2006.07733; the hinge: arXiv 2105.04906, equation 1"
    status: ClassVar[str] = "ours"
    Options: ClassVar[type] = SpreadOptions

    def pair_loss(self, online: Online, targets: Sequence[Tensor]) -> PairLoss:
        """BYOL's, and the hinge: of the whole batch, so it counts once a row of this process."""
        byol = super().pair_loss(online, targets)
        # At least float32, whatever the precision of the run; and the rows of all processes, with their gradient.
        everyone = [self.ranks.gather_learning(z) for z in full_precision(*online.projections)]
        hinge = torch.stack([(1 - (z.var(dim=0) + 1e-4).sqrt()).relu().mean() for z in everyone]).mean()
        total = byol.total + self.options.spread * hinge * byol.rows
        return PairLoss(total, byol.scale, byol.rows, {"hinge": hinge.detach() * byol.rows})
