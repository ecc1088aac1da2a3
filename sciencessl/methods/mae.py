"""MAE: reconstruct the pixels of most patches of an image from the few that a ViT is shown. arXiv 2111.06377."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sciencessl.errors import ConfigError
from sciencessl.losses.reconstruction import hidden_cosine, hidden_square_error, normalised, patchify
from sciencessl.methods.base import Method, Online, PairLoss


@dataclass(frozen=True)
class MaeOptions:
    """Settings of MAE; the defaults are the paper's for ViT-Large.

    Attributes:
        mask_ratio: Share of the patches that are hidden, in (0, 1).
        normalised: Whether the pixels of each patch are reconstructed less their mean and over their deviation, which
            the paper finds better for what is learned.
        decoder_width: Features of the decoder, a multiple of 4 and of `decoder_heads`.
        decoder_depth: Blocks of the decoder, 1 or more.
        decoder_heads: Attention heads of a block.
    """

    mask_ratio: float = 0.75
    normalised: bool = True
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16

    def __post_init__(self) -> None:
        if not 0 < self.mask_ratio < 1:
            raise ConfigError(f"options.mask_ratio is {self.mask_ratio}; it must be in (0, 1). The paper's is 0.75.")
        for name in ("decoder_depth", "decoder_heads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"options.{name} is {getattr(self, name)}; it must be 1 or more.")
        step = math.lcm(4, self.decoder_heads)
        if self.decoder_width < 1 or self.decoder_width % step:
            raise ConfigError(
                f"options.decoder_width is {self.decoder_width}; it must be a multiple of {step}: of 4, for sines and "
                f"cosines of rows and columns, and of options.decoder_heads ({self.decoder_heads})."
            )


@dataclass(frozen=True)
class Reconstruction(Online):
    """What the decoder made of the hidden patches of a view.

    Attributes:
        predicted: (B, L, P) values of each patch.
        true: (B, L, P) what they should be, without gradient.
        hidden: (B, L) bool, whether the encoder was not shown a patch.
    """

    predicted: Tensor
    true: Tensor
    hidden: Tensor


class Mae(Method):
    """The encoder sees a quarter of the patches; a light decoder fills in all others, from marks of where they were.

    `L = mean over hidden patches of |d - t|^2 / P`, d the decoder's P values of a patch and t its true ones, less their
    mean and over their deviation. Patches are embedded with their positions; a random quarter of each sample (the first
    of a sort of noise) goes with the class and register tokens through blocks and norm; the decoder gets these tokens
    through a linear layer, one learned vector in each other place, and fixed sines and cosines of row and column, and
    ends in a norm and a linear layer. All of this was read in the released code, and the first weights of the decoder:
    Xavier's for linear layers, N(0, 0.02) for the vector.

    Ours: the encoder stays timm's, whose positions are learned and whose patches are embedded as timm draws them, where
    the released one has fixed sines and Xavier's weights; an encoder that has its norm behind the pooling gives its
    tokens to the decoder through that norm. The representation that label terms read is of the visible patches, pooled
    as the encoder does it; the label term is scaled by the mean cosine of predicted and true patches. Deviations are
    those of the values that the encoder sees: standardised, of any number of channels.

    `cost` counts a quarter of the tokens of one view, and the default decoder, which for each token takes a twelfth of
    the weights of a ViT-Large.

    The recipe's other half belongs to the optimiser and is not set here: AdamW at 0.00015 for 256 images in proportion
    to the batch (4096), betas 0.9 and 0.95, weight decay 0.05 but not on biases and norms, a warm-up of 40 of 800
    epochs; and crops of 0.2 to 1 of the image, mirrored, to the views.
    """

    title: ClassVar[str] = "MAE: reconstruct the pixels of hidden patches from the few that are seen; for ViTs"
    paper: ClassVar[str] = "arXiv 2111.06377"
    status: ClassVar[str] = "verified"
    cost: ClassVar[float] = 0.125
    n_views: ClassVar[int] = 1
    multi_crop: ClassVar[bool] = False
    Options: ClassVar[type] = MaeOptions
    encoder: Any

    def __init__(self, encoder: nn.Module, options: MaeOptions, generator: torch.Generator) -> None:
        super().__init__(encoder, options, generator)
        _check_encoder(encoder)
        height, width = self._patch
        values = height * width * self.encoder.patch_embed.proj.in_channels
        self.entrance = nn.Linear(self.encoder.embed_dim, options.decoder_width, device="meta")
        self.decoder = _decoder(options, values)
        self.hidden_token = nn.Parameter(torch.empty(1, 1, options.decoder_width))
        _draw(nn.ModuleList([self.entrance, self.decoder]), generator)
        nn.init.normal_(self.hidden_token, std=0.02, generator=generator)

    @property
    def _patch(self) -> tuple[int, int]:
        height, width = self.encoder.patch_embed.patch_size
        return int(height), int(width)

    def check_views(self, shapes: Sequence[Sequence[int]]) -> None:
        """One view, of enough patches that some are hidden and some are seen."""
        super().check_views(shapes)
        rows, columns = self._grid(shapes[0][-2:])
        seen = self._seen(rows * columns)
        if not 1 <= seen < rows * columns:
            ratio = f", or another --options.mask_ratio than {self.options.mask_ratio}" if rows * columns > 1 else ""
            raise ConfigError(
                f"views of {shapes[0][-2]} x {shapes[0][-1]} pixels are cut into {rows * columns} patch(es), of which "
                f"MAE would show {seen} and hide the others. Set a larger --views.size{ratio}."
            )

    def _grid(self, sides: Sequence[int]) -> tuple[int, int]:
        height, width = self._patch
        return sides[0] // height, sides[1] // width

    def _seen(self, patches: int) -> int:
        return int(patches * (1.0 - self.options.mask_ratio) + 1e-6)  # 0.9 of 100 are 90

    def online(self, views: Sequence[Tensor]) -> Reconstruction:
        """y of the visible patches of the view, and what the decoder makes of the others."""
        view, encoder = views[0], self.encoder
        tokens = encoder._pos_embed(encoder.patch_embed(view))
        prefix, patches = _apart(tokens, encoder.num_prefix_tokens)
        shuffled, places = _shuffle(patches)
        seen = shuffled[:, : self._seen(patches.shape[1])]
        tokens = encoder.norm(encoder.blocks(encoder.norm_pre(torch.cat([prefix, seen], dim=1))))
        y = encoder.forward_head(tokens, pre_logits=True)
        predicted = self._decode(encoder.fc_norm(tokens), places, self._grid(view.shape[-2:]))
        true = patchify(view.detach(), self._patch)
        true = normalised(true) if self.options.normalised else true
        return Reconstruction([y], [], [], predicted, true, places >= seen.shape[1])

    def _decode(self, tokens: Tensor, places: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, N, F) tokens of the encoder and (B, L) where each patch is among the shuffled -> (B, L, P) values."""
        prefix, seen = _apart(self.entrance(tokens), self.encoder.num_prefix_tokens)
        missing = self.hidden_token.expand(len(seen), places.shape[1] - seen.shape[1], -1)
        whole = _pick(torch.cat([seen, missing], dim=1), places)
        whole = whole + grid_positions(*grid, whole.shape[2], whole.device)
        values: Tensor = self.decoder(torch.cat([prefix, whole], dim=1))
        return values[:, prefix.shape[1] :]

    def pair_loss(self, online: Online, targets: Sequence[Tensor]) -> PairLoss:
        """Mean square error of the hidden patches; the label scale is their mean negative cosine."""
        assert isinstance(online, Reconstruction)
        predicted, true, hidden = online.predicted, online.true, online.hidden
        rows = hidden_square_error(predicted, true, hidden)
        return PairLoss(rows.sum(), -hidden_cosine(predicted.detach(), true, hidden).sum(), len(rows))


def grid_positions(rows: int, columns: int, features: int, device: torch.device) -> Tensor:
    """(rows * columns, features) fixed positions: sines and cosines of the row, then of the column, in float32.

    A quarter of the features each is `sin(p w_i)`, `cos(p w_i)` with `w_i = 10000^(-4 i / features)` of p, the row from
    0, and as much of the column.

    Args:
        rows: Of the grid.
        columns: Of the grid.
        features: A multiple of 4.
        device: Of what comes back.

    Source: the sines and cosines of MAE's released code, which has the column first.
    """
    count = features // 4
    rates = 10000.0 ** (-torch.arange(count, dtype=torch.float32, device=device) / count)

    def waves(places: int) -> Tensor:
        angles = torch.arange(places, dtype=torch.float32, device=device).unsqueeze(1) * rates
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    down = waves(rows).unsqueeze(1).expand(-1, columns, -1)
    across = waves(columns).unsqueeze(0).expand(rows, -1, -1)
    return torch.cat([down, across], dim=2).flatten(0, 1)


def _check_encoder(encoder: nn.Module) -> None:
    from timm.layers import PatchEmbed
    from timm.models.vision_transformer import VisionTransformer

    if not isinstance(encoder, VisionTransformer) or not isinstance(encoder.patch_embed, PatchEmbed):
        fault = f"a {type(encoder).__name__} computes with whole images, and would see what is hidden"
    elif encoder.attn_pool is not None:
        fault = "this one pools by attention, which no reconstruction would train"
    else:
        return
    raise ConfigError(
        f"method Mae hides patches from its encoder: {fault}. Choose a plain ViT, such as --backbone "
        "vit_tiny_patch16_224 or deit_small_patch16_224; it is built for the size of the views."
    )


def _decoder(options: MaeOptions, values: int) -> nn.Sequential:
    """Blocks, norm and linear layer, without values yet."""
    from timm.models.vision_transformer import Block

    norm: Any = partial(nn.LayerNorm, eps=1e-6)
    with torch.device("meta"):
        blocks = [Block(options.decoder_width, options.decoder_heads, 4.0, qkv_bias=True, norm_layer=norm)
                  for _ in range(options.decoder_depth)]
        return nn.Sequential(*blocks, norm(options.decoder_width), nn.Linear(options.decoder_width, values))


def _draw(module: nn.Module, generator: torch.Generator) -> None:
    """Give a module without values its first weights: Xavier's for linear layers, 1 for the scale of norms, else 0."""
    module.to_empty(device=torch.get_default_device())
    for layer in module.modules():
        for name, parameter in layer.named_parameters(recurse=False):
            if isinstance(layer, nn.Linear) and name == "weight":
                nn.init.xavier_uniform_(parameter, generator=generator)
            else:
                nn.init.constant_(parameter, 1.0 if name == "weight" else 0.0)


def _apart(tokens: Tensor, prefix: int) -> tuple[Tensor, Tensor]:
    """Class and register tokens, and those of patches."""
    return tokens[:, :prefix], tokens[:, prefix:]


def _shuffle(patches: Tensor) -> tuple[Tensor, Tensor]:
    """(B, L, F) -> the patches of each row in an order of its own, and (B, L) where each of them is in it."""
    order = torch.rand(patches.shape[:2], device=patches.device).argsort(dim=1)
    return _pick(patches, order), order.argsort(dim=1)


def _pick(tokens: Tensor, index: Tensor) -> Tensor:
    """(B, L, F) and (B, N) -> (B, N, F): the tokens of each row at its places."""
    return tokens.gather(1, index.unsqueeze(2).expand(-1, -1, tokens.shape[2]))
