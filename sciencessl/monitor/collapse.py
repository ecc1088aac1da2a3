"""The collapse gauge: is the representation still spread out? Two numbers and, when they are bad, words."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LOW_STD = 0.1
LOW_RANK = 2.0


@dataclass(frozen=True)
class Gauge:
    """State of a batch of representations.

    Attributes:
        std: Mean over dimensions of the standard deviation of l2-normalised rows, times sqrt(D): 1 for rows spread
            evenly over the sphere, 0 when all are equal.
        effective_rank: exp of the entropy of the normalised singular values of the centred rows, from 1 to
            min(B - 1, D) (Roy and Vetterli 2007).
    """

    std: float
    effective_rank: float

    @property
    def warning(self) -> str:
        """What to tell the user; empty while all is well."""
        if self.std < LOW_STD:
            return (
                f"the representation is collapsing: its spread is {self.std:.3f} of an even one (healthy: above "
                f"{LOW_STD}). Images are becoming indistinguishable. Try a lower optim.base_lr, a larger batch, or "
                "with byol a larger options.tau_base."
            )
        if self.effective_rank < LOW_RANK:
            return (
                f"the representation uses {self.effective_rank:.1f} directions (healthy: above {LOW_RANK:.0f}): it "
                "has collapsed to a line. Try a lower optim.base_lr, or with byol a larger options.tau_base."
            )
        return ""


@torch.no_grad()
def gauge(representations: Tensor) -> Gauge:
    """Measure (B, D) representations, B of 2 or more. Reads the result: call it only on steps that log."""
    rows = torch.nn.functional.normalize(representations.detach().float(), dim=1)
    std = rows.std(dim=0).mean() * rows.shape[1] ** 0.5
    values = torch.linalg.svdvals(rows - rows.mean(dim=0))
    shares = values / values.sum().clamp(min=1e-12)
    entropy = -(shares * shares.clamp(min=1e-12).log()).sum()
    return Gauge(float(std), float(entropy.exp()))
