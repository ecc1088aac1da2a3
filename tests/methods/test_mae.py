"""MAE: what is hidden stays hidden, the decoder puts things where they were, and the loss is that of NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from timm.layers import HybridEmbed
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sciencessl.backbones.timm_backbones import build_backbone
from sciencessl.errors import ConfigError
from sciencessl.losses.reconstruction import patchify, unpatchify
from sciencessl.methods.mae import Mae, MaeOptions, Reconstruction, grid_positions
from tests.methods.tiny import train

PATCH, GRID, WIDTH, ROWS = 4, 4, 8, 6
KINDS: dict[str, dict[str, Any]] = {
    "class token": {},
    "registers": {"reg_tokens": 3},
    "no prefix, norm behind the pool": {"class_token": False, "global_pool": "avg"},
    "positions of patches alone": {"no_embed_class": True, "dynamic_img_size": True},
    "norm before the blocks": {"pre_norm": True},
}


def vit(channels: int = 3, seed: int = 0, **changes: Any) -> VisionTransformer:
    torch.manual_seed(seed)
    shape = {"img_size": PATCH * GRID, "patch_size": PATCH, "embed_dim": WIDTH, "depth": 2, "num_heads": 2}
    encoder = VisionTransformer(in_chans=channels, num_classes=0, **{**shape, **changes})
    for parameter in encoder.parameters():  # class tokens and biases start at zero, where mistakes hide
        nn.init.normal_(parameter, std=0.3)
    return encoder


def build(channels: int = 3, kind: str = "class token", **options: Any) -> Mae:
    small = {"decoder_width": 8, "decoder_depth": 1, "decoder_heads": 2, **options}
    encoder = vit(channels, **KINDS[kind])
    return Mae(encoder, MaeOptions(**small), torch.Generator().manual_seed(0)).double()


def view(channels: int = 3, rows: int = ROWS) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(rows, channels, PATCH * GRID, PATCH * GRID)))


def forward(method: Mae, x: Tensor, seed: int = 1) -> Reconstruction:
    torch.manual_seed(seed)
    return method.online([x])


def test_a_quarter_of_the_patches_of_each_sample_is_seen() -> None:
    hidden = forward(build(), view()).hidden
    assert hidden.shape == (ROWS, GRID**2)
    assert hidden.sum(dim=1).tolist() == [12] * ROWS
    assert len({tuple(row.tolist()) for row in hidden}) > 1
    assert torch.equal(forward(build(), view()).hidden, hidden)
    assert not torch.equal(forward(build(), view(), seed=2).hidden, hidden)


def test_every_patch_is_hidden_equally_often() -> None:
    method, x, count = build(), view(rows=50), 20
    hidden = torch.cat([forward(method, x, seed=seed).hidden for seed in range(count)]).double().mean(dim=0)
    assert float((hidden - 0.75).abs().max()) < 5 * (0.75 * 0.25 / (50 * count)) ** 0.5


@pytest.mark.parametrize(("ratio", "seen"), [(0.75, 4), (0.5, 8), (0.9, 1), (0.6, 6)])
def test_the_number_that_is_seen_is_rounded_down(ratio: float, seen: int) -> None:
    hidden = forward(build(mask_ratio=ratio), view()).hidden
    assert (~hidden).sum(dim=1).tolist() == [seen] * ROWS


def test_no_pixel_of_a_hidden_patch_reaches_what_is_made_of_the_view() -> None:
    method, x = build(), view()
    first = forward(method, x)
    changed = torch.where(first.hidden.unsqueeze(2), 100.0, patchify(x, (PATCH, PATCH)))
    second = forward(method, unpatchify(changed, (PATCH, PATCH), *x.shape[2:]))
    assert torch.equal(first.hidden, second.hidden)
    assert torch.equal(first.representations[0], second.representations[0])
    assert torch.equal(first.predicted, second.predicted)
    # And a seen one does.
    one = patchify(x, (PATCH, PATCH)).clone()
    one[:, 0] += 1.0
    third = forward(method, unpatchify(one, (PATCH, PATCH), *x.shape[2:]))
    same = (third.representations[0] == first.representations[0]).all(dim=1)
    assert torch.equal(same, first.hidden[:, 0])


def test_the_patch_of_a_token_is_the_patch_that_it_is_to_reconstruct() -> None:
    method, x = build(), view(rows=1)
    tokens = method.encoder.patch_embed(x)
    for place in range(GRID**2):
        one = patchify(x, (PATCH, PATCH)).clone()
        one[:, place] += 1.0
        other = method.encoder.patch_embed(unpatchify(one, (PATCH, PATCH), *x.shape[2:]))
        moved = (other - tokens).abs().amax(dim=(0, 2)) > 1e-6
        assert moved.nonzero().flatten().tolist() == [place]


def by_hand(method: Mae, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Representation and predicted values of each sample on its own, its patches in their places from the start."""
    encoder, prefix = method.encoder, method.encoder.num_prefix_tokens
    features, values = [], []
    for row, mask in zip(x, hidden, strict=True):
        tokens = encoder._pos_embed(encoder.patch_embed(row[None]))
        shown = torch.cat([tokens[:, :prefix], tokens[:, prefix:][:, ~mask]], dim=1)
        out = encoder.norm(encoder.blocks(encoder.norm_pre(shown)))
        pooled = out[:, 0] if encoder.global_pool == "token" else out[:, prefix:].mean(dim=1)
        features.append(encoder.fc_norm(pooled))
        latent = method.entrance(encoder.fc_norm(out))
        whole = method.hidden_token.repeat(1, len(mask), 1)
        whole[:, ~mask] = latent[:, prefix:]
        whole = whole + grid_positions(GRID, GRID, whole.shape[2], x.device)
        values.append(method.decoder(torch.cat([latent[:, :prefix], whole], dim=1))[:, prefix:])
    return torch.cat(features), torch.cat(values)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_batch_equals_samples_forwarded_one_by_one_in_place(kind: str) -> None:
    method, x = build(kind=kind), view()
    found = forward(method, x)
    features, values = by_hand(method, x, found.hidden)
    torch.testing.assert_close(found.representations[0], features, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.predicted, values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("normalise", [True, False])
def test_the_loss_equals_numpy(normalise: bool) -> None:
    method, x = build(channels=5, normalised=normalise), view(channels=5)
    found = forward(method, x)
    pair = method.pair_loss(found, [])
    cut = x.numpy().reshape(ROWS, 5, GRID, PATCH, GRID, PATCH).transpose(0, 2, 4, 3, 5, 1).reshape(ROWS, GRID**2, -1)
    if normalise:
        cut = (cut - cut.mean(-1, keepdims=True)) / np.sqrt(cut.var(-1, ddof=1, keepdims=True) + 1e-6)
    predicted, hidden = found.predicted.detach().numpy(), found.hidden.numpy()
    want = ((predicted - cut) ** 2).mean(axis=-1)[hidden].mean()
    assert float(pair.total.detach()) / pair.rows == pytest.approx(want, rel=1e-9)
    cosine = (predicted * cut).sum(-1) / np.linalg.norm(predicted, axis=-1) / np.linalg.norm(cut, axis=-1)
    assert float(pair.scale) / pair.rows == pytest.approx(-cosine[hidden].mean(), rel=1e-9)


def test_predictions_of_what_was_seen_have_exactly_no_gradient() -> None:
    method = build()
    found = forward(method, view())
    found.predicted.retain_grad()
    method.pair_loss(found, []).total.backward()  # type: ignore[no-untyped-call]
    assert found.predicted.grad is not None
    assert torch.equal(found.predicted.grad.ne(0).any(dim=2), found.hidden)
    assert not found.true.requires_grad


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_pair_loss_alone_reaches_every_parameter(kind: str) -> None:
    method = build(kind=kind)
    method.pair_loss(forward(method, view()), []).total.backward()  # type: ignore[no-untyped-call]
    missed = [name for name, p in method.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert not missed


def test_positions_are_sines_and_cosines_of_row_and_column() -> None:
    found = grid_positions(2, 3, 8, torch.device("cpu")).numpy()
    want = [[f(place * 10000.0 ** (-i / 2)) for place in cell for f in (np.sin, np.cos) for i in range(2)]
            for cell in ((r, c) for r in range(2) for c in range(3))]
    np.testing.assert_allclose(found, want, atol=1e-6)
    assert len(np.unique(grid_positions(14, 14, 16, torch.device("cpu")).numpy().round(5), axis=0)) == 196


def test_views_of_another_size_than_the_encoder_has_are_reconstructed_too() -> None:
    method = build(kind="positions of patches alone")
    found = forward(method, view()[:, :, :8])
    assert found.hidden.shape == (ROWS, 8)
    assert found.predicted.shape == (ROWS, 8, 3 * PATCH**2)


def test_it_learns_a_batch() -> None:
    losses = [row["loss"] for row in train(build(), 8, [view()])]
    assert losses[-1] < losses[0]


def test_first_weights_are_those_of_the_released_decoder() -> None:
    method = Mae(vit(), MaeOptions(decoder_width=64), torch.Generator())
    for layer in method.decoder.modules():
        if isinstance(layer, nn.Linear):
            bound = (6 / sum(layer.weight.shape)) ** 0.5
            assert 0.95 * bound < float(layer.weight.detach().abs().max()) < 1.0001 * bound
            assert not bool(layer.bias.any())
        if isinstance(layer, nn.LayerNorm):
            assert bool((layer.weight == 1).all())
            assert layer.eps == 1e-6
    assert float(method.hidden_token.detach().std()) == pytest.approx(0.02, rel=0.4)


def test_the_cost_is_what_a_vit_large_takes() -> None:
    """Operations of a forward pass, three for one with gradient, over the eight that BYOL takes of the encoder."""

    def operations(function: Callable[[], Any]) -> int:
        with FlopCounterMode(display=False) as counter:
            function()
        return int(counter.get_total_flops())

    with torch.device("meta"):
        encoder = VisionTransformer(embed_dim=1024, depth=24, num_heads=16, num_classes=0)
        method, image = Mae(encoder, MaeOptions(), torch.Generator()), torch.empty(1, 3, 224, 224)
        share = 3 * operations(lambda: method.online([image])) / (8 * operations(lambda: encoder(image)))
    assert Mae.cost == pytest.approx(share, rel=0.03)


def test_the_defaults_are_the_papers() -> None:
    defaults = MaeOptions()
    assert (defaults.mask_ratio, defaults.normalised) == (0.75, True)
    assert (defaults.decoder_width, defaults.decoder_depth, defaults.decoder_heads) == (512, 8, 16)


@pytest.mark.parametrize(
    ("encoder", "words"),
    [
        (lambda: build_backbone("test_resnet", 3, 0), "a ResNet computes with whole images"),
        (lambda: SwinTransformer(32, 4, 3, 0, embed_dim=12, depths=(1, 1), num_heads=(1, 2), window_size=4),
         "a SwinTransformer computes with"),
        (lambda: vit(class_token=False, global_pool="map"), "pools by attention, which no reconstruction would train"),
        (lambda: vit(embed_layer=lambda **given: HybridEmbed(
            nn.Conv2d(3, 4, 3, 2, 1), given["img_size"], given["patch_size"], embed_dim=WIDTH)), "would see what is"),
    ],
)
def test_encoders_that_would_see_what_is_hidden_are_refused(encoder: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"method Mae hides patches .*{words}.* --backbone vit_tiny_patch16_224"):
        Mae(encoder(), MaeOptions(), torch.Generator())


def test_views_that_leave_nothing_to_see_or_too_many_of_them_are_refused() -> None:
    method = build()
    method.check_views([(3, 16, 16)])
    with pytest.raises(ConfigError, match=r"views of 4 x 4 pixels are cut into 1 patch.* show 0 .* --views.size\.$"):
        method.check_views([(3, 4, 4)])
    with pytest.raises(ConfigError, match=r"no use for more than 1 view.* --views.large-views 1"):
        method.check_views([(3, 16, 16)] * 2)


@pytest.mark.parametrize(
    "values",
    [{"mask_ratio": 0.0}, {"mask_ratio": 1.0}, {"decoder_depth": 0}, {"decoder_heads": 0}, {"decoder_width": 10},
     {"decoder_width": 0}, {"decoder_width": 12, "decoder_heads": 8}],
)  # fmt: skip
def test_options_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"options\.{next(iter(values))} is .*must be"):
        MaeOptions(**values)
