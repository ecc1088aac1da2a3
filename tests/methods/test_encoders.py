"""Every registered method with encoders of other kinds than the kit's: it takes a step, or says why it does not."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch

from sciencessl import registry
from sciencessl.backbones.timm_backbones import build_backbone
from sciencessl.errors import ConfigError
from sciencessl.testing.method_case import Training
from tests.testing.test_method import case_of

SIDE = 96
REFUSED = {("mae", "test_resnet"), ("cnn_jepa", "test_vit")}


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("name", [entry.name for entry in registry.methods()])
def test_a_method_learns_with_an_encoder_or_says_what_it_needs(name: str, backbone: str) -> None:
    encoder = functools.partial(build_backbone, backbone, 3, 0, size=SIDE)
    case = dataclasses.replace(case_of(name), encoder=encoder, side=SIDE)
    if (name, backbone) in REFUSED:
        with pytest.raises(ConfigError, match=r"ViT|ResNet"):
            case.make()
        return
    training = Training(case, case.make())
    before = {key: value.clone() for key, value in training.method.encoder.named_parameters()}
    assert torch.as_tensor(training.step()["loss"]).isfinite()
    moved = [key for key, value in training.method.encoder.named_parameters() if not torch.equal(value, before[key])]
    assert len(moved) > len(before) // 2
