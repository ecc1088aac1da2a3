"""The stages of an encoder, by which fine-tuning chooses what to train and how fast."""

from __future__ import annotations

from typing import Any

import numpy as np
from timm.models import group_parameters
from torch import nn

from sciencessl.errors import ConfigError
from sciencessl.optim.groups import adapts


def stage_of(encoder: nn.Module) -> dict[str, int]:
    """Parameter name -> number of its stage, from 0 at the input.

    Stages are timm's own coarse groups (`group_matcher`): the stem, then each stage of a convolutional network or block
    of a transformer. A group of nothing but norms and biases, such as a last norm, belongs to the stage before it. A
    network without such groups is one stage.
    """
    matcher: Any = getattr(encoder, "group_matcher", None)
    if matcher is None:
        return {name: 0 for name, _ in encoder.named_parameters()}
    group: dict[str, int] = group_parameters(encoder, matcher(coarse=True), reverse=True)
    heavy = sorted({group[name] for name, parameter in encoder.named_parameters() if adapts(parameter)})
    return {name: max(0, int(np.searchsorted(heavy, number, side="right")) - 1) for name, number in group.items()}


def check_stages(encoder: nn.Module, stages: int | None) -> None:
    """Refuse more stages than an encoder has.

    Raises:
        ConfigError: With their number.
    """
    count = max(stage_of(encoder).values()) + 1
    if stages is not None and stages > count:
        raise ConfigError(f"stages={stages}, but the encoder has {count}; ask for {count} at most, or for all.")
