"""CNN-JEPA: predict a slow copy's features of the masked cells of an image from those of the others.

One view, no projector, no colour augmentation. Source: arXiv 2408.07514 and its released code.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from sciencessl.backbones import masked
from sciencessl.backbones.late_strides import finest, set_stride
from sciencessl.backbones.norms import replace_norms
from sciencessl.errors import ConfigError
from sciencessl.losses.cells import cell_regression, over_cells
from sciencessl.losses.regression import negative_cosine
from sciencessl.methods.base import Method, Online, PairLoss
from sciencessl.methods.block_masks import mixed_masks
from sciencessl.methods.byol import Byol
from sciencessl.optim.target import TargetUpdater
from sciencessl.setting_groups import Norm

LEAST_GRID = 3
"""Cells a side below which nothing is left to predict from."""
TOKEN_STD = 0.02


@dataclass(frozen=True)
class CnnJepaOptions:
    """Settings of CNN-JEPA; the defaults are the paper's.

    Attributes:
        blocks: Probability that the targets of a batch are blocks, in [0, 1]; else they are scattered cells.
        ratio: Share of the cells that are targets where they are scattered, in (0, 1).
        layers: Layers of the predictor, 1 or more.
        grid: Fewest cells along the shorter side of the grid, 3 or more. Where the last map of the encoder has fewer,
            late strides become dilations (`backbones.late_strides`). Ours: at the paper's 224 pixels and stride 32 the
            grid is 7 x 7 without, and at 32 pixels 4 x 4 with a stride of 8.
        tau_base: Momentum of the target at step 0, in [0, 1].
        tau_schedule: `cosine` rises from `tau_base` to 1 over the run, `constant` stays. The released code sets it once
            an epoch, and this once a step.
    """

    blocks: float = 0.75
    ratio: float = 0.6
    layers: int = 3
    grid: int = 4
    tau_base: float = 0.996
    tau_schedule: Literal["cosine", "constant"] = "cosine"

    def __post_init__(self) -> None:
        if not 0.0 <= self.blocks <= 1.0:
            raise ConfigError(f"options.blocks is {self.blocks}; it is a probability in [0, 1]. The paper's is 0.75.")
        if not 0.0 < self.ratio < 1.0:
            raise ConfigError(f"options.ratio is {self.ratio}; it must be above 0 and below 1. The paper's is 0.6.")
        if self.layers < 1:
            raise ConfigError(f"options.layers is {self.layers}; it must be 1 or more. The paper's is 3.")
        if self.grid < LEAST_GRID:
            raise ConfigError(f"options.grid is {self.grid}; it must be {LEAST_GRID} or more: with fewer cells there "
                              "is nothing to predict from.")
        if not 0.0 <= self.tau_base <= 1.0:
            raise ConfigError(f"options.tau_base is {self.tau_base}; it must be in [0, 1]. The paper's is 0.996.")


@dataclass(frozen=True)
class MaskedOnline(Online):
    """What the loss needs beside the vectors of the view.

    Attributes:
        cells: (B, h, w, C) predicted features, channels last.
        wanted: (B, h, w) bool, True at the cells that are compared.
    """

    cells: Tensor
    wanted: Tensor


class CnnJepa(Byol):
    """Online encoder under a mask (`backbones.masked`), predictor, mask token, and a target encoder on the whole image.

    `L = sum_targets sum_c smoothL1(p^_c - h^_c) / targets`, with the features of a cell scaled to length 1: on the
    non-negative features of a ReLU this is the mean of `1 - cos(p, h)` over target cells, of all rows of all processes.
    Cells that are no targets are the context; in the predictor's input the token stands for the others.

    Images of fewer than `options.grid` strides a side have too coarse a last map to mask. Late strides are then taken
    out while pretraining, in both encoders, by dilation, and not a loss on an earlier map added: so all layers learn
    from one loss, weights are those of the plain architecture, and at the places that it has in common with the finer
    map it computes the same, up to its gates. This is ours, and the price of a finer map is time: where strides are
    taken out a step can take longer than BYOL's, at the architecture's own stride it takes less.

    The representation is the mean over context cells. A cell counts alike whichever image it is of, as in the released
    code; the mean over a micro-batch stands for that over the batch. `wanted` has values that are drawn, so ranks and
    micro-batches draw apart. In evaluation either encoder works without a mask; the target is exported.
    """

    title: ClassVar[str] = "CNN-JEPA: predict the target's features of masked cells from those that are seen"
    paper: ClassVar[str] = "arXiv 2408.07514"
    status: ClassVar[str] = "verified"
    cost: ClassVar[float] = 0.5
    n_views: ClassVar[int] = 1
    multi_crop: ClassVar[bool] = False
    exports: ClassVar[str] = "target_encoder"
    Options: ClassVar[type] = CnnJepaOptions

    def __init__(self, encoder: nn.Module, options: CnnJepaOptions, generator: torch.Generator) -> None:
        Method.__init__(self, masked.convert(encoder), options, generator)  # no heads of BYOL's, and another predictor
        self.predictor = _predictor(self.features, options.layers, generator, self.norm)
        token = torch.empty(1, self.features, 1, 1)
        self.mask_token = nn.Parameter(nn.init.trunc_normal_(token, std=TOKEN_STD, generator=generator))
        self.target_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self._stride = 0  # that the encoders are set to
        self._first_batch, self._kappa = 0, 1.0
        self._updater = TargetUpdater(self.target_pairs(), buffers="own")

    def check_views(self, shapes: Sequence[Sequence[int]]) -> None:
        """Refuse what the base does, and views too small for a grid."""
        super().check_views(shapes)
        self._grid(shapes[0][-2:])

    def _grid(self, sides: Sequence[int]) -> tuple[int, int]:
        """Cells of a view, and the encoders set to a map that has them."""
        stride = finest(self.encoder, min(sides), self.options.grid)
        if (cells := -(-min(sides) // stride)) < self.options.grid:
            enough = (self.options.grid - 1) * stride + 1
            smaller = f", or set --options.grid {cells}" if cells >= LEAST_GRID else ""
            raise ConfigError(
                f"method CnnJepa masks cells of {stride} x {stride} pixels here, the smallest there are, and a view of "
                f"{sides[0]} x {sides[1]} has {cells} of them a side; options.grid asks for {self.options.grid}. Use "
                f"views of {enough} pixels or more{smaller}."
            )
        if stride != self._stride:
            for encoder in (self.encoder, self.target_encoder):
                set_stride(encoder, stride)
            self._stride = stride
        return -(-sides[0] // stride), -(-sides[1] // stride)

    def online(self, views: Sequence[Tensor]) -> MaskedOnline:
        """Mean of the context's features, which stands for y and z; mean of the predicted ones at the targets for p."""
        view, options = views[0], self.options
        grid = self._grid(view.shape[-2:])
        drawn = mixed_masks(len(view), grid, options.blocks, options.ratio, view.device)
        with masked.masking(~drawn) as seen:
            y = self.encoder(masked.keep(view))
            features = seen.last_map()
            kept = cast("Tensor", masked.kept(features))
        context = kept > 0
        cells = self.predictor(torch.where(context, features, self.mask_token.to(features.dtype)))
        wanted = ~context.squeeze(1)
        with torch.no_grad():
            predicted = masked.mean_kept(cells * ~context, 1.0 - kept.to(cells))
        return MaskedOnline([y], [y], [predicted.flatten(1)], cells.permute(0, 2, 3, 1), wanted)

    def target(self, views: Sequence[Tensor]) -> list[Tensor]:
        """Mean of the target's features, and those of all cells as rows, (B, h w C)."""
        self._grid(views[0].shape[-2:])
        with masked.masking() as seen:
            pooled = self.target_encoder(views[0])
        return [pooled, seen.last_map().permute(0, 2, 3, 1).flatten(1)]

    def target_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """The encoders; the predictor has no target."""
        return [(self.target_encoder, self.encoder)]

    def pair_loss(self, online: Online, targets: Sequence[Tensor]) -> PairLoss:
        """Mean over target cells, as a sum over rows; the label scale is that of their negative cosines."""
        found = cast("MaskedOnline", online)
        p, h = found.cells, targets[1].view_as(found.cells)
        # Images have more or fewer targets: each row counts by how many it has of all.
        counts = torch.stack([found.wanted.sum(), found.wanted.new_tensor(len(p), dtype=torch.long)]).double()
        cells, rows = self.ranks.sum(counts).unbind()
        weight = (rows / cells.clamp(min=1.0)).to(torch.promote_types(p.dtype, torch.float32))
        total = weight * over_cells(cell_regression(p, h), found.wanted)
        with torch.no_grad():
            scale = weight * over_cells(negative_cosine(p, h), found.wanted)
        return PairLoss(total, scale, len(p))


def _predictor(width: int, layers: int, generator: torch.Generator, norm: Norm) -> nn.Sequential:
    """Layers of a depthwise 3 x 3 and a 1 x 1 convolution, batch norm and ReLU; the last one ends in ReLU too, as the
    features that it predicts do."""
    stack = nn.Sequential(*(
        nn.Sequential(_convolution(width, 3, width, generator), _convolution(width, 1, 1, generator),
                      nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        for _ in range(layers)
    ))
    return cast("nn.Sequential", replace_norms(stack, norm))


def _convolution(width: int, taps: int, groups: int, generator: torch.Generator) -> nn.Conv2d:
    """Drawn by torch's rule."""
    # Through `meta`, because the default initialisation would draw from the global generator to be overwritten.
    with torch.device("meta"):
        layer = nn.Conv2d(width, width, taps, padding=taps // 2, groups=groups)
    layer = layer.to_empty(device=torch.get_default_device())
    bound = (width // groups * taps * taps) ** -0.5
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
    return layer
