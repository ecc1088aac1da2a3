"""MoCo v3: BYOL's networks, and a contrast of the batch in place of its regression. No queue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sciencessl.errors import ConfigError
from sciencessl.losses.contrastive import batch_nce
from sciencessl.losses.regression import cross_view_cosine
from sciencessl.methods.base import Online, PairLoss, deep_mlp
from sciencessl.methods.byol import Byol, ByolOptions


@dataclass(frozen=True)
class MocoV3Options(ByolOptions):
    """Settings of MoCo v3; the defaults are those of the released code.

    Attributes:
        temperature: T of the softmax, above 0; 0.2 in the released recipes for transformers, 1 for ResNet-50.
        frozen_patches: Leave the patch embedding of a transformer as it was drawn, against spikes of the gradient.
        hidden: Width of the hidden layers of projector and predictor.
        out: Width of a projection.
        tau_base: Target momentum at step 0, in [0, 1].
        tau_schedule: `cosine` rises from `tau_base` to 1 over the run, `constant` stays.
        tau_batch: Batch that the momentum belongs to, as for BYOL; the paper's is 4096.
    """

    tau_base: float = 0.99
    temperature: float = 1.0
    frozen_patches: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise ConfigError(
                f"options.temperature is {self.temperature}; it must be above 0. The paper's is 0.2 for transformers."
            )


class MocoV3(Byol):
    """Online encoder, projector and predictor; target encoder and projector, a moving average of the online ones.

    `L = 2 T [ctr(p1, z'2) + ctr(p2, z'1)]` of unit vectors, with the targets of all processes in
    `ctr(p, z') = mean_i -log [exp(p_i z'_i / T) / sum_j exp(p_i z'_j / T)]` (algorithm 1). With micro-batches, the
    negatives of a row are those of its micro-batch. Small views, where there are any, ask for the two targets and are
    none (ours).

    Heads are those of the released code for transformers: a projector of three layers and a predictor of two, a batch
    norm without scale and shift behind the last. Its ResNets have a projector of two, and none behind the predictor.
    The target moves after the optimiser, as BYOL's; the released code moves it at the start of the next step.
    """

    title: ClassVar[str] = "MoCo v3: find the target's projection of the other view among those of the batch"
    paper: ClassVar[str] = "arXiv 2104.02057"
    status: ClassVar[str] = "verified"
    cost: ClassVar[float] = 1.0
    Options: ClassVar[type] = MocoV3Options

    def __init__(self, encoder: nn.Module, options: MocoV3Options, generator: torch.Generator) -> None:
        if options.frozen_patches:
            _patch_projection(encoder).requires_grad_(False)
        super().__init__(encoder, options, generator)

    def heads(self, options: ByolOptions, generator: torch.Generator) -> tuple[nn.Sequential, nn.Sequential]:
        """Projector of three layers, predictor of two."""
        hidden, out = options.hidden, options.out
        projector = deep_mlp([self.features, hidden, hidden, out], generator, self.norm, bias=False, end="standardised")
        return projector, deep_mlp([out, hidden, out], generator, self.norm, bias=False, end="standardised")

    def pair_loss(self, online: Online, targets: Sequence[Tensor]) -> PairLoss:
        """Each target's contrast, the mean over all other views, and both summed; the label scale is the mean negative
        cosine of the same pairs."""
        temperature, first = self.options.temperature, self.ranks.rank * len(targets[0])
        keys = [self.ranks.gather(z) for z in targets]
        contrasts = [
            batch_nce(p, key, temperature, first)
            for own, key in enumerate(keys) for v, p in enumerate(online.predictions) if v != own
        ]
        rows = 2.0 * temperature * len(targets) * torch.stack(contrasts).mean(dim=0)
        return PairLoss(rows.sum(), cross_view_cosine(online.predictions, targets).detach().sum(), len(rows))


def _patch_projection(encoder: nn.Module) -> nn.Module:
    found = [layer for name, layer in encoder.named_modules() if f".{name}".endswith(".patch_embed.proj")]
    if not found:
        raise ConfigError(
            "options.frozen_patches is for encoders with a patch embedding, such as vit_small_patch16_224, and this "
            f"{type(encoder).__name__} has none. Leave it at false."
        )
    projection: nn.Module = found[0]
    return projection
