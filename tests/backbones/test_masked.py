"""Masked convolution: nothing leaks, no mask changes nothing, and values are those of a slow sparse computation."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from timm.layers import SEModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sciencessl.backbones.late_strides import set_stride
from sciencessl.backbones.masked import convert, keep, kept, masking
from sciencessl.backbones.timm_backbones import build_backbone, switch_on
from sciencessl.errors import ConfigError
from sciencessl.testing.method_ranks import on_ranks
from sciencessl.train import sync_bn
from sciencessl.train.parallel import checkpoint_activations
from sciencessl.train.ranks import ALONE, Ranks

BATCH, SIDE = 3, 32


def encoder(name: str, norm: str = "batch") -> nn.Module:
    """Converted, at a stride of 8, in float64, with shifts that a mask has to take out."""
    built = switch_on(build_backbone(name, 3, 0, norm=norm), most=0.0).double()  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    for layer in built.modules():
        if isinstance(layer, (_BatchNorm, nn.GroupNorm)):
            layer.bias.data.uniform_(-1.0, 1.0, generator=generator)
        if isinstance(layer, _BatchNorm):
            layer.running_mean.uniform_(-1.0, 1.0, generator=generator)
            layer.running_var.uniform_(0.5, 2.0, generator=generator)
    convert(built)
    set_stride(built, 8)
    return built


def view(seed: int = 1) -> Tensor:
    return torch.randn(BATCH, 3, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def mask_of(seed: int = 2) -> Tensor:
    """Of 4 x 4 cells, another number in each image."""
    mask = torch.rand(BATCH, 1, 4, 4, generator=torch.Generator().manual_seed(seed)) < 0.5
    mask[:, :, 0, 0], mask[:, :, 3, 3] = True, False
    return mask


def under(built: nn.Module, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    with masking(mask) as seen:
        y = built(keep(x))
    return y, seen.last_map()


ENCODERS = [("resnet18", "batch"), ("regnety_002", "batch"), ("regnety_002", "group_ws")]


@pytest.mark.parametrize(("name", "norm"), ENCODERS)
def test_masked_pixels_do_not_reach_what_is_kept(name: str, norm: str) -> None:
    built, mask, x = encoder(name, norm), mask_of(), view()
    pixels = nn.functional.interpolate(mask.double(), (SIDE, SIDE)).bool()
    other = torch.where(pixels, x, 100 * view(seed=9))
    for training in (True, False):
        built.train(training)
        with torch.no_grad():
            # In training the first pass moves running statistics, which are not read.
            (y, features), (again, others) = under(built, x, mask), under(built, other, mask)
        assert torch.equal(y, again)
        assert torch.equal(features, others)
        assert not features[(~mask).expand_as(features)].any()
        assert features[mask.expand_as(features)].any()
    assert not torch.allclose(y, built(x))


@pytest.mark.parametrize("name", ["resnet18", "regnety_002"])
def test_masked_pixels_have_no_gradient(name: str) -> None:
    built, mask, x = encoder(name), mask_of(), view().requires_grad_()
    y, features = under(built, x, mask)
    (y.square().sum() + features.square().sum()).backward()
    pixels = nn.functional.interpolate(mask.double(), (SIDE, SIDE)).bool().expand_as(x)
    assert not x.grad[~pixels].any()
    assert x.grad[pixels].any()


@pytest.mark.parametrize(("name", "norm"), ENCODERS)
def test_a_mask_that_keeps_all_changes_nothing(name: str, norm: str) -> None:
    """In evaluation mode to 1e-5, as the card asks, and better; in training too, running statistics included."""
    plain = encoder(name, norm)
    for training in (False, True):
        first, second = copy.deepcopy(plain).train(training), copy.deepcopy(plain).train(training)
        with torch.no_grad():
            y, features = under(first, view(), torch.ones(BATCH, 1, 4, 4, dtype=torch.bool))
            expected = second.forward_features(view())
        torch.testing.assert_close(features, expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(y, expected.mean(dim=(2, 3)), rtol=1e-9, atol=1e-9)
        statistics, others = (torch.cat([y.new_zeros(1), *(b.double().flatten() for b in built.buffers())])
                              for built in (first, second))
        torch.testing.assert_close(statistics, others, rtol=1e-9, atol=1e-9)


def test_without_a_mask_the_encoder_is_what_it_was_bit_for_bit() -> None:
    plain = build_backbone("regnety_002", 3, 0)
    converted = convert(copy.deepcopy(plain))
    x = view().float()
    for mode in (True, False):
        assert torch.equal(plain.train(mode)(x), converted.train(mode)(x))
    assert list(plain.state_dict()) == list(converted.state_dict())
    build_backbone("regnety_002", 3, 5).load_state_dict(converted.state_dict())


# A slow sparse computation: loops over kept places, statistics of gathered ones.


def slow_convolution(x: np.ndarray, active: np.ndarray, layer: nn.Conv2d) -> np.ndarray:
    """x (B, C, H, W) zero where it is masked, active (B, H', W') bool of the output."""
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    around, step = layer.padding[0], layer.stride[0]
    wide = np.pad(x, ((0, 0), (0, 0), (around, around), (around, around)))
    y = np.zeros((len(x), len(weight), *active.shape[1:]))
    taps = weight.shape[2]
    for image, row, column in np.argwhere(active):
        patch = wide[image, :, row * step : row * step + taps, column * step : column * step + taps]
        y[image, :, row, column] = (weight * patch).sum(axis=(1, 2, 3)) + bias
    return y


def slow_norm(x: np.ndarray, active: np.ndarray, layer: nn.BatchNorm2d) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normalised over gathered rows; their mean and unbiased variance."""
    rows = x.transpose(0, 2, 3, 1)[active]
    mean, variance = rows.mean(axis=0), rows.var(axis=0)
    rows = (rows - mean) / np.sqrt(variance + layer.eps) * layer.weight.detach().numpy() + layer.bias.detach().numpy()
    y = np.zeros_like(x).transpose(0, 2, 3, 1)
    y[active] = rows
    return y.transpose(0, 3, 1, 2), mean, variance * len(rows) / (len(rows) - 1)


def slow_gate(x: np.ndarray, active: np.ndarray, layer: SEModule) -> np.ndarray:
    def pointwise(rows: np.ndarray, of: nn.Conv2d) -> np.ndarray:
        return rows @ of.weight.detach().numpy()[:, :, 0, 0].T + of.bias.detach().numpy()

    pooled = np.stack([image[:, where].mean(axis=1) for image, where in zip(x, active, strict=True)])
    gates = 1 / (1 + np.exp(-pointwise(np.maximum(pointwise(pooled, layer.fc1), 0), layer.fc2)))
    return x * gates[:, :, None, None]


def small() -> nn.Sequential:
    torch.manual_seed(0)
    built = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1),
        SEModule(4, rd_channels=2), nn.Conv2d(4, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    ).double()  # fmt: skip
    for layer in (built[1], built[6]):
        nn.init.uniform_(layer.weight, 0.5, 1.5)
        nn.init.uniform_(layer.bias, -1.0, 1.0)
    return convert(built)


def test_it_is_the_slow_sparse_computation() -> None:
    built = small()
    x, mask = view()[:, :, :16, :16], mask_of()
    active = {side: np.repeat(np.repeat(mask[:, 0].numpy(), side // 4, 1), side // 4, 2) for side in (4, 8, 16)}
    a = slow_convolution(x.numpy() * active[16][:, None], active[8], built[0])
    a, mean, variance = slow_norm(a, active[8], built[1])
    a = np.maximum(a, 0)
    wide = np.pad(a, ((0, 0), (0, 0), (1, 1), (1, 1)))
    a = np.max([wide[:, :, i : i + 7 : 2, j : j + 7 : 2] for i in range(3) for j in range(3)], axis=0)
    a = slow_gate(a * active[4][:, None], active[4], built[4])
    a = slow_convolution(a, active[4], built[5])
    a, *_ = slow_norm(a, active[4], built[6])
    a = np.maximum(a, 0)
    pooled = np.stack([image[:, where].mean(axis=1) for image, where in zip(a, active[4], strict=True)])
    y, features = under(built, x, mask)
    np.testing.assert_allclose(features.detach().numpy(), a, rtol=0, atol=1e-12)
    np.testing.assert_allclose(y.detach().numpy(), pooled, rtol=0, atol=1e-12)
    np.testing.assert_allclose(built[1].running_mean, 0.1 * mean, rtol=0, atol=1e-12)
    np.testing.assert_allclose(built[1].running_var, 0.9 + 0.1 * variance, rtol=0, atol=1e-12)
    assert int(built[1].num_batches_tracked) == 1


def test_batch_norm_has_mean_zero_and_variance_one_over_kept_places() -> None:
    norm = convert(nn.Sequential(nn.BatchNorm2d(6, eps=0.0), nn.AdaptiveAvgPool2d(1))).double()
    x, mask = torch.randn(BATCH, 6, 8, 8, dtype=torch.float64) * 3 + 100, mask_of()
    with masking(mask):
        where = kept(x).bool()[:, 0]
        y = norm[0](x)  # not zero where it is masked: statistics are of kept places all the same
    rows = y.permute(0, 2, 3, 1)[where]
    torch.testing.assert_close(rows.mean(dim=0), torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(rows.var(dim=0, correction=0), torch.ones(6, dtype=torch.float64), rtol=0, atol=1e-12)
    assert not y.permute(0, 2, 3, 1)[~where].any()


def test_gradients_of_masked_norms_and_gates_are_those_of_finite_differences() -> None:
    mask = mask_of()
    norms: list[Callable[[], nn.Module]] = [lambda: nn.BatchNorm2d(4), lambda: nn.GroupNorm(2, 4),
                                            lambda: SEModule(4, rd_channels=2)]
    for make in norms:
        torch.manual_seed(0)
        layer = convert(nn.Sequential(make(), nn.AdaptiveAvgPool2d(1))).double()[0]
        x = torch.randn(BATCH, 4, 4, 4, dtype=torch.float64, requires_grad=True)

        def call(x: Tensor, *weights: Tensor, layer: nn.Module = layer) -> Tensor:
            with masking(mask):
                y: Tensor = layer(keep(x))
                return y

        assert torch.autograd.gradcheck(call, (x, *layer.parameters()))


def test_group_norm_is_over_the_kept_places_of_an_image() -> None:
    layer = convert(nn.Sequential(nn.GroupNorm(2, 4, eps=0.0, affine=False), nn.AdaptiveAvgPool2d(1))).double()[0]
    x, mask = torch.randn(BATCH, 4, 4, 4, dtype=torch.float64), mask_of()
    with masking(mask):
        y = layer(keep(x))
    for image, where, found in zip(x.numpy(), mask[:, 0].numpy(), y.numpy(), strict=True):
        for group in (slice(0, 2), slice(2, 4)):
            rows = image[group][:, where]
            np.testing.assert_allclose(found[group][:, where], (rows - rows.mean()) / rows.std(), atol=1e-12)


CUT = 1
"""Images of the first rank."""


def learnt(ranks: Ranks, built: nn.Module) -> dict[str, Tensor]:
    """Gradients, summed over ranks, and state after a masked step on this rank's images."""
    part = slice(0, None) if ranks.world == 1 else (slice(0, CUT), slice(CUT, None))[ranks.rank]
    sync_bn.convert(built, ranks)
    with masking(mask_of()[part]) as seen:
        y = built(keep(view()[part, :, :16, :16]))
    weights = torch.arange(5.0, dtype=torch.float64)
    (y @ weights + seen.last_map().square().sum(dim=(1, 2, 3))).sum().backward()
    gradients = {f"{name} gradient": ranks.sum(parameter.grad.clone()) for name, parameter in built.named_parameters()}
    return {**gradients, **built.state_dict()}


def test_two_processes_with_unequally_many_kept_places_are_one() -> None:
    """Statistics are weighted by counts: the mean of the ranks' means would be another."""
    whole = learnt(ALONE, small())
    towers = [small(), small()]
    assert len({int(mask.sum()) for mask in mask_of()}) > 1
    for part in on_ranks(lambda ranks: learnt(ranks, towers[ranks.rank])):
        for name, value in whole.items():
            torch.testing.assert_close(part[name], value, rtol=1e-10, atol=1e-10)


class Hosted(nn.Module):
    """An encoder as a method holds it."""

    def __init__(self, built: nn.Module) -> None:
        super().__init__()
        self.encoder = built


@pytest.mark.parametrize("by", ["stage", "block"])
def test_activations_that_are_computed_again_meet_the_mask_of_their_pass(by: str) -> None:
    """Two masked passes and a dense one before one backward pass, which is run by another thread."""
    # A defect elsewhere: the mask in a global of a module, which is another one by the time of the second computation.
    plain = encoder("resnet18")
    hosted = Hosted(copy.deepcopy(plain))
    checkpoint_activations(hosted, by)  # type: ignore[arg-type]
    found = []
    for built in (plain, hosted.encoder):
        y, _ = under(built, view(), mask_of())
        z, _ = under(built, view(3), mask_of(4))
        total = y.square().sum() + 2 * z.square().sum() + built(view(5)).square().sum()
        thread = threading.Thread(target=total.backward)
        thread.start()
        thread.join()
        found.append({name: parameter.grad for name, parameter in built.named_parameters()})
    for name, gradient in found[0].items():
        assert torch.equal(found[1][name], gradient), name


def test_masks_of_two_threads_are_apart() -> None:
    built, x = encoder("resnet18").eval(), view()
    meeting, results = threading.Barrier(2), {}

    def run(seed: int) -> None:
        with masking(mask_of(seed)):
            meeting.wait(20)
            results[seed] = built(keep(x))
            meeting.wait(20)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, y in results.items():
        assert torch.equal(y, under(built, x, mask_of(seed))[0])
    assert kept(x) is None


def test_low_precision_keeps_its_dtype_and_its_zeros() -> None:
    built, mask = encoder("regnety_002").float(), mask_of()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, features = under(built, view().float(), mask)
    assert features.dtype == torch.bfloat16
    assert not features[(~mask).expand_as(features)].any()
    y.float().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in built.parameters())


@pytest.mark.parametrize(
    ("name", "norm", "fault"),
    [
        ("vit_tiny_patch16_224", "batch", "its whole is a timm.models.vision_transformer.VisionTransformer"),
        ("convnext_atto", "batch", "its whole is a timm.models.convnext.ConvNeXt"),
        ("ecaresnet26t", "batch", r"its layer1.0.se is a timm.layers.eca.EcaModule"),
        ("skresnet18", "batch", "its layer1.0 is a timm.models.sknet.SelectiveKernelBasic"),
        ("resnet18", "none", "its bn1 is a sciencessl.backbones.norms.ChannelAffine"),
    ],
)
def test_what_is_not_known_to_be_masked_is_refused(name: str, norm: str, fault: str) -> None:
    built = build_backbone(name, 3, 0, norm=norm)  # type: ignore[arg-type]
    kinds = [type(module) for module in built.modules()]
    with pytest.raises(ConfigError, match=rf"cannot be masked: {fault}.*Choose a backbone such as resnet50") as caught:
        convert(built)
    assert "norm batch or group_ws" in str(caught.value)
    assert [type(module) for module in built.modules()] == kinds


def test_layers_of_ones_own_that_are_not_known_are_refused() -> None:
    for extra in (nn.Linear(3, 3), nn.Sigmoid(), nn.LayerNorm(3), SEModule(8, add_maxpool=True)):
        with pytest.raises(ConfigError, match=f"its 1 is a .*{type(extra).__name__}"):
            convert(nn.Sequential(nn.Conv2d(3, 8, 1), extra, nn.AdaptiveAvgPool2d(1)))
    for end in ([], [nn.AdaptiveAvgPool2d(2)], [nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d(1)]):
        with pytest.raises(ConfigError, match="does not end in one mean over all places"):
            convert(nn.Sequential(nn.Conv2d(3, 8, 1), *end))
