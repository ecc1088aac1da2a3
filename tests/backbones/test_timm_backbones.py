from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.regnet import RegNet, RegNetCfg
from torch import nn

from sciencessl.backbones.timm_backbones import adapt_channels, build_backbone, list_backbones, switch_on
from sciencessl.errors import ConfigError, DataError, RegistryError
from sciencessl.train.memory import built_without_storage, no_storage

WIDTHS = {"regnety_002": 368, "resnet18": 512}


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("name", sorted(WIDTHS))
def test_any_number_of_channels_gives_one_vector_a_sample(name: str, channels: int) -> None:
    model = build_backbone(name, channels, rng_seed=0).eval()
    with torch.no_grad():
        features = model(torch.rand(2, channels, 64, 64))
    assert features.shape == (2, WIDTHS[name])
    assert model.num_features == WIDTHS[name]
    assert torch.isfinite(features).all()


def test_num_features_counts_a_hidden_layer_in_the_head() -> None:
    model = build_backbone("mobilenetv3_small_050", 3, rng_seed=0).eval()
    with torch.no_grad():
        assert model(torch.rand(1, 3, 32, 32)).shape == (1, model.num_features)


def test_features_are_the_mean_of_the_last_map() -> None:
    model = build_backbone("resnet18", 3, rng_seed=1).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        pooled = model.forward_features(images).numpy().mean(axis=(2, 3))
        np.testing.assert_allclose(model(images).numpy(), pooled, rtol=1e-5, atol=1e-7)


def test_the_seed_alone_decides_the_weights() -> None:
    first = build_backbone("regnety_002", 3, rng_seed=7)
    torch.rand(5)
    assert same_weights(first, build_backbone("regnety_002", 3, rng_seed=7))
    assert not same_weights(first, build_backbone("regnety_002", 3, rng_seed=8))


def test_building_leaves_the_global_generators_alone() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    build_backbone("regnety_002", 3, rng_seed=7)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert random.getstate() == before[2]


@pytest.mark.parametrize(("name", "gamma"), [("regnety_002", "conv3.bn.weight"), ("resnet18", "bn2.weight")])
def test_each_residual_block_starts_as_its_shortcut(name: str, gamma: str) -> None:
    last = [value for key, value in build_backbone(name, 3, rng_seed=0).named_parameters() if key.endswith(gamma)]
    assert len(last) >= 8
    assert all(not value.any() for value in last)


def test_branches_of_a_network_without_values_are_left_alone() -> None:
    with built_without_storage(no_storage()):
        switched = switch_on(build_backbone("test_resnet", 3, rng_seed=0), most=0.0)
    plain = build_backbone("test_resnet", 3, rng_seed=0)
    assert [p.shape for p in switched.parameters()] == [p.shape for p in plain.parameters()]


def test_an_unknown_name_suggests_the_closest() -> None:
    with pytest.raises(RegistryError, match=r"no backbone named 'resnet_18'.*Did you mean 'resnet18'\?.*'resn\*'"):
        build_backbone("resnet_18", 3, rng_seed=0)


def test_a_weight_tag_is_refused_rather_than_ignored() -> None:
    words = r"'regnety_002\.pycls_in1k' asks for the weights.*--init-from timm:regnety_002\.pycls_in1k"
    with pytest.raises(RegistryError, match=words):
        build_backbone("regnety_002.pycls_in1k", 3, rng_seed=0)


def test_no_channels_is_an_error() -> None:
    with pytest.raises(ConfigError, match="channels is 0"):
        build_backbone("resnet18", 0, rng_seed=0)


def test_a_pattern_lists_a_family() -> None:
    names = list_backbones("regnety_0*")
    assert "regnety_002" in names
    assert all(name.startswith("regnety_0") for name in names)
    assert list_backbones("no-such-family*") == []
    assert len(list_backbones()) > 500


@pytest.fixture(scope="module")
def foreign() -> nn.Module:
    """A three-channel classifier, as weight files from elsewhere hold it."""
    return timm.create_model("resnet18", pretrained=False, num_classes=10)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_weight_file_replaces_the_initial_weights(foreign: nn.Module, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(foreign.state_dict(), path)
    model = build_backbone("resnet18", 3, rng_seed=0, pretrained_file=path)
    expected = {key: value for key, value in foreign.state_dict().items() if not key.startswith("fc.")}
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("channels", [1, 2, 5, 6])
def test_other_channel_counts_keep_the_response_to_grey(foreign: nn.Module, channels: int, tmp_path: Path) -> None:
    save_file(foreign.state_dict(), tmp_path / "rgb.safetensors")
    model: Any = build_backbone("resnet18", channels, rng_seed=0, pretrained_file=tmp_path / "rgb.safetensors")
    rgb = foreign.state_dict()["conv1.weight"].numpy()
    repeated = rgb[:, [i % 3 for i in range(channels)]] * 3 / channels
    lost = rgb.sum(axis=1, keepdims=True) - repeated.sum(axis=1, keepdims=True)
    expected = rgb.sum(axis=1, keepdims=True) if channels == 1 else repeated + lost / channels
    np.testing.assert_allclose(model.state_dict()["conv1.weight"].numpy(), expected, rtol=1e-5, atol=1e-7)
    grey = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    stem: Any = foreign.get_submodule("conv1")
    with torch.inference_mode():
        wanted, found = stem(grey.expand(-1, 3, -1, -1)), model.conv1(grey.expand(-1, channels, -1, -1))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_twice_three_channels_are_the_three_twice(foreign: nn.Module) -> None:
    kernel = foreign.state_dict()["conv1.weight"]
    torch.testing.assert_close(adapt_channels(kernel, 6)[:, :3], kernel / 2)
    assert torch.equal(adapt_channels(kernel, 6)[:, 3:], adapt_channels(kernel, 6)[:, :3])
    assert adapt_channels(kernel.half(), 5).dtype == torch.float16


def test_weights_of_another_architecture_are_refused(foreign: nn.Module, tmp_path: Path) -> None:
    save_file(foreign.state_dict(), tmp_path / "resnet.safetensors")
    with pytest.raises(DataError, match=r"does not fit backbone 'regnety_002' with 3 channels.*missing.*unknown"):
        build_backbone("regnety_002", 3, rng_seed=0, pretrained_file=tmp_path / "resnet.safetensors")


def test_weights_of_another_channel_count_are_refused(tmp_path: Path) -> None:
    save_file(build_backbone("resnet18", 4, rng_seed=0).state_dict(), tmp_path / "four.safetensors")
    with pytest.raises(DataError, match=r"1 of another shape \(first: conv1.weight \(64, 4, 7, 7\) instead of"):
        build_backbone("resnet18", 5, rng_seed=0, pretrained_file=tmp_path / "four.safetensors")


def test_a_pickle_that_could_run_code_is_not_opened(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (marker,)

    torch.save({"weight": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(DataError, match="cannot be read"):
        build_backbone("resnet18", 3, rng_seed=0, pretrained_file=tmp_path / "trap.pt")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.pt", None, "does not exist"),
        ("broken.safetensors", b"not a tensor file", "cannot be read"),
        ("broken.pt", b"not a tensor file", "cannot be read"),
        ("empty.pt", b"", "cannot be read"),
    ],
)
def test_unusable_weight_files_say_why(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        build_backbone("resnet18", 3, rng_seed=0, pretrained_file=tmp_path / name)


def test_a_damaged_pickle_is_an_error_of_ours_whatever_its_bytes_say(tmp_path: Path) -> None:
    path, random = tmp_path / "w.pt", np.random.default_rng(0)
    torch.save({"weight": torch.zeros(3), "bias": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    kinds = set()
    for place in random.integers(0, len(whole), 300):
        raw = bytearray(whole)
        raw[place] ^= 1 << random.integers(8)
        path.write_bytes(raw)
        with pytest.raises(DataError) as caught:
            build_backbone("test_resnet", 3, rng_seed=0, pretrained_file=path)
        kinds.add(type(caught.value.__cause__).__name__)
    assert len(kinds) > 3


def test_a_checkpoint_around_the_weights_is_refused(foreign: nn.Module, tmp_path: Path) -> None:
    torch.save({"state_dict": foreign.state_dict(), "epoch": 3}, tmp_path / "checkpoint.pt")
    with pytest.raises(DataError, match="not a flat state dict"):
        build_backbone("resnet18", 3, rng_seed=0, pretrained_file=tmp_path / "checkpoint.pt")


SEER = {
    "regnety_320": (232, 115.89, 2.53, 232, 20, [232, 696, 1392, 3712], [2, 5, 12, 1], 145.05),
    "regnety_640": (352, 147.48, 2.4, 328, 20, [328, 984, 1968, 4920], [2, 5, 12, 1], 281.38),
    "regnety_1280": (456, 160.83, 2.52, 264, 27, [528, 1056, 2904, 7392], [2, 7, 17, 1], 644.81),
    "regnety_2560": (640, 230.83, 2.53, 373, 27, [746, 1492, 4103, 10444], [2, 7, 17, 1], 1282.60),
    "": (1744, 620.83, 2.52, 1010, 27, [2020, 4040, 11110, 28280], [2, 7, 17, 1], 9352.22),
}
"""timm's name -> initial width, slope, multiplier, group width, depth; widths and blocks of stages, parameters in
millions with 1,000 classes. The last is not in timm; the paper's count of it is 10 billion. Source: SEER (arXiv
2202.08360)."""


@pytest.mark.parametrize("name", sorted(SEER))
def test_regnets_of_seer_have_their_widths_and_parameters(name: str) -> None:
    first, slope, factor, group, depth, widths, blocks, millions = SEER[name]
    steps = np.round(np.log((first + slope * np.arange(depth)) / first) / np.log(factor))
    ideal = np.round(first * factor**steps / 8) * 8
    found, counts = np.unique((np.maximum(np.round(ideal / group), 1) * group).astype(int), return_counts=True)
    assert (found.tolist(), counts.tolist()) == (widths, blocks)
    with torch.device("meta"):
        config = RegNetCfg(depth, first, slope, factor, group, se_ratio=0.25)
        model = timm.create_model(name) if name else RegNet(config)
    stages = [model.get_submodule(f"s{i}") for i in (1, 2, 3, 4)]
    assert [stage.b1.conv3.conv.out_channels for stage in stages] == widths
    assert [len(list(stage.children())) for stage in stages] == blocks
    assert all(stage.b1.conv2.conv.weight.shape[1] == group for stage in stages)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)
