"""An encoder of crops of any size, for tests of methods that compute several crops at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FEATURES = 5


class Encoder(nn.Module):
    """Crops of any size to features; remembers how many it was given at once."""

    num_features = FEATURES

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(FEATURES, 3, 3, 3, generator=generator))
        self.norm = nn.BatchNorm2d(FEATURES)
        self.given: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.given.append(tuple(x.shape))
        y: Tensor = self.norm(nn.functional.conv2d(x, self.weight)).relu().mean(dim=(2, 3))
        return y
