"""An encoder that keeps its map, with a small head that tells the class of each place of it."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from sciencessl.backbones.timm_backbones import build_backbone
from sciencessl.errors import ConfigError
from sciencessl.evaluate.finetune import Tuned
from sciencessl.train.folder import ModelCard

STRIDE = 8
"""Pixels of the view to one place of the map, where the architecture can be dilated (Long et al., arXiv 1411.4038, and
Chen et al., arXiv 1606.00915)."""

DROPOUT = 0.1


class FcnHead(nn.Sequential):
    """(B, C, h, w) -> (B, K, h, w) scores: 3 x 3 convolution to C / 4, batch norm, ReLU, dropout, 1 x 1 convolution.

    Source: the head of the fully convolutional networks of common libraries, after arXiv 1411.4038; written anew.
    """

    def __init__(self, channels: int, n_classes: int) -> None:
        hidden = max(1, channels // 4)
        super().__init__(
            nn.Conv2d(channels, hidden, 3, padding=1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU(inplace=True),
            nn.Dropout(DROPOUT), nn.Conv2d(hidden, n_classes, 1),
        )


class Segmenter(Tuned):
    """A copy of an encoder with an `FcnHead` on its last map: (B, C, H, W) -> (B, K, h, w) scores.

    The last strides become dilations where the architecture allows it: the map has a place every `STRIDE` pixels, and
    the weights mean what they meant.

    Args:
        encoder: Copied, so that it stays as it is.
        card: Of the encoder.
        size: Side of its input in pixels.
        n_classes: K.
        stages: As in `finetune.Training`.
        seed: Of the head's first weights.

    Raises:
        ConfigError: When the encoder gives no map, or has fewer stages.
    """

    def __init__(
        self, encoder: nn.Module, card: ModelCard, size: int, n_classes: int, stages: int | None, seed: int
    ) -> None:
        super().__init__(dilated(encoder, card), stages)
        with torch.inference_mode():
            probe = feature_map(self.encoder.eval(), torch.zeros(1, len(card.channels), size, size), card.backbone)
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.default_generator.manual_seed(seed)
            self.head = FcnHead(probe.shape[1], n_classes)
        self.backbone = card.backbone

    def forward(self, x: Tensor) -> Tensor:
        """Scores of each class at each place."""
        scores: Tensor = self.head(feature_map(self.encoder, x, self.backbone).float())
        return scores


def dilated(encoder: nn.Module, card: ModelCard) -> nn.Module:
    """A copy with a map of stride `STRIDE`; of the architecture's own where that cannot be dilated."""
    try:
        wide = build_backbone(card.backbone, len(card.channels), 0, None, card.norm, STRIDE, card.size)
    except (TypeError, AssertionError, NotImplementedError):  # how timm's architectures refuse
        return copy.deepcopy(encoder)
    wide.load_state_dict(encoder.state_dict())
    return wide.to(memory_format=torch.channels_last)


def feature_map(encoder: nn.Module, x: Tensor, name: str) -> Tensor:
    """The last map of an encoder before it is pooled: (B, C, H, W) -> (B, F, h, w).

    Tokens of a transformer are put back to where their patches were.

    Args:
        encoder: Of timm.
        x: Square input.
        name: Of the architecture, for the error.

    Raises:
        ConfigError: When what it gives cannot be laid out as a map.
    """
    forward: Any = getattr(encoder, "forward_features", None)
    found = forward(x) if forward else None
    if isinstance(found, Tensor) and found.ndim == 4:
        return found.permute(0, 3, 1, 2) if getattr(encoder, "output_fmt", "NCHW") == "NHWC" else found
    if isinstance(found, Tensor) and found.ndim == 3:
        tokens = found[:, int(getattr(encoder, "num_prefix_tokens", 0)) :]
        side = math.isqrt(tokens.shape[1])
        if side and side**2 == tokens.shape[1]:
            return tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)
    got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
    raise ConfigError(f"backbone {name!r} gives no map to segment by: its features before pooling are {got}, which are "
                      "no square grid of places. Take a convolutional network, or a transformer whose tokens are "
                      "patches.")
