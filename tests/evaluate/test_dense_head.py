"""Maps of encoders: convolutional ones are dilated, tokens are laid out, and the rest is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sciencessl.backbones.timm_backbones import build_backbone
from sciencessl.errors import ConfigError
from sciencessl.evaluate.dense_head import FcnHead, Segmenter, dilated, feature_map
from tests.evaluate.discs import disc_card


@pytest.mark.parametrize(("backbone", "size", "side"), [
    ("test_resnet", 32, 4), ("regnety_002", 64, 8), ("test_vit", 160, 10), ("densenet121", 64, 2),
])
def test_encoders_give_maps(backbone: str, size: int, side: int) -> None:
    """At stride 8 where they can be dilated, of patches for transformers, else of their own stride."""
    encoder = build_backbone(backbone, 3, 0).eval()
    network = Segmenter(encoder, disc_card(backbone), size, 2, 0, 0).eval()
    assert network(torch.zeros(2, 3, size, size)).shape == (2, 2, side, side)


def test_a_dilated_encoder_keeps_its_weights_and_what_they_mean() -> None:
    """Every fourth place of the finer map is a place of the coarser one."""
    encoder = build_backbone("resnet18", 3, 0).eval()
    wide = dilated(encoder, disc_card("resnet18")).eval()
    own = wide.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in encoder.state_dict().items())
    x = torch.rand(1, 3, 96, 96)
    with torch.inference_mode():
        coarse, fine = feature_map(encoder, x, ""), feature_map(wide, x, "")
    assert (coarse.shape[-1], fine.shape[-1]) == (3, 12)
    assert torch.allclose(coarse, fine[..., ::4, ::4], atol=1e-4)


def test_tokens_go_back_to_where_their_patches_were() -> None:
    encoder = build_backbone("test_vit", 3, 0).eval()
    x = torch.zeros(2, 3, 160, 160)
    x[1, :, 32:48, 64:80] = 3.0  # the patch of row 2, column 4
    with torch.inference_mode():
        found = feature_map(encoder, x, "test_vit")
    assert found.shape == (2, 64, 10, 10)
    change = (found[1] - found[0]).abs().sum(dim=0)
    assert divmod(int(change.argmax()), 10) == (2, 4)


def test_the_head_is_that_of_fully_convolutional_networks() -> None:
    head = FcnHead(96, 3)
    assert [type(layer).__name__ for layer in head] == ["Conv2d", "BatchNorm2d", "ReLU", "Dropout", "Conv2d"]
    assert sum(p.numel() for p in head.parameters()) == 96 * 24 * 9 + 2 * 24 + 24 * 3 + 3


def test_the_head_starts_alike_for_one_seed_and_moves_no_global_generator() -> None:
    encoder = build_backbone("test_resnet", 3, 0)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two, other = (Segmenter(encoder, disc_card(), 32, 2, 0, seed).head for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one[0].weight, two[0].weight)
    assert not torch.equal(one[0].weight, other[0].weight)


def test_what_gives_no_map_says_why() -> None:
    with pytest.raises(ConfigError, match=r"backbone 'flat' gives no map to segment by: .* are NoneType"):
        feature_map(nn.Identity(), torch.zeros(1, 3, 8, 8), "flat")

    class Odd(nn.Module):
        def forward_features(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros(1, 7, 4)

    with pytest.raises(ConfigError, match=r"\(1, 7, 4\), which are no square grid of places"):
        feature_map(Odd(), torch.zeros(1, 3, 8, 8), "odd")
