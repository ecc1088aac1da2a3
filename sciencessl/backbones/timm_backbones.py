"""Encoders by their timm name, freshly initialised or filled from a weight file. Nothing here uses the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from timm.models import adapt_input_conv
from torch import Tensor, nn

from sciencessl.backbones import small_maps
from sciencessl.backbones.input_sizes import check_multiple, resample_positions, size_arguments
from sciencessl.backbones.norms import find_gates, replace_norms
from sciencessl.errors import ConfigError, DataError, RegistryError, did_you_mean
from sciencessl.losses.checks import holds_values
from sciencessl.setting_groups import Norm
from sciencessl.store.remote import first_line

SWITCHED_OFF = 0.01
"""A scale whose values are all the same and no larger is one that an initialiser sets so that a branch starts off."""

SCALES = frozenset({"weight", "gamma", "gamma_1", "gamma_2", "gamma1", "gamma2", "gain", "scale", "lambda_"})
"""What timm calls the scale of a norm or of a residual branch."""


def list_backbones(pattern: str = "*") -> list[str]:
    """Names of the architectures that match a shell pattern such as `regnety*`, in natural order; may be empty."""
    return list(timm.list_models(pattern))


def build_backbone(
    name: str, channels: int, rng_seed: int, pretrained_file: Path | None = None, norm: Norm = "batch",
    output_stride: int = 0, size: int = 0, drop_path: float = 0.0,
) -> nn.Module:
    """A timm encoder without its classifier, on the CPU, in float32, in training mode.

    The module maps (B, channels, H, W) to pooled features (B, F), and F is its attribute `num_features`; `norm_kind` is
    `norm`. An architecture for images of one size (ViT, Swin) is built for `size`, and `input_px` tells it; ViT, DeiT,
    EVA and Swin then take other multiples of their patch as well. Of all others `input_px` is 0.

    The initial weights are a pure function of (name, channels, rng_seed, size): no global generator is read or moved.
    They are timm's own: for residual networks the last batch-norm gamma of each block starts at zero, as in the
    released BYOL code, while the numbers of the BYOL paper used one, which matters for very wide networks
    (deepmind-research, byol/README.md).

    Args:
        name: Architecture as in `list_backbones`, without a weight tag.
        channels: Number of input channels C, at least 1.
        rng_seed: Seed of the initial weights, 0 to 2**64 - 1.
        pretrained_file: State dict of the same architecture, `.safetensors` or a torch file that loads with
            `weights_only=True`. Its classifier is ignored. When it was trained on three channels and C differs, its
            first convolution is adapted (`adapt_channels`); from any other number of channels nothing is guessed.
        norm: `batch` leaves the architecture as it is; the others are for ResNets and RegNets, with the same initial
            weights (`norms.replace_norms`). With `none` and no file, `norms.start_from_data` should follow.
        output_stride: Pixels of the input to one place of the last map: strides beyond it become dilations of the same
            weights. 0 leaves the architecture as it is; what cannot be dilated raises as timm does.
        size: Side of the images in pixels, for an architecture that is built for one size; position embeddings of
            `pretrained_file` are resampled to it as timm does. 0 is the size that timm declares; architectures that
            take any size ignore it.
        drop_path: Probability, in [0, 1), that the last residual branch is left out for a sample in training; earlier
            ones less (timm's `drop_path_rate`). 0 is never, also where timm would by default.

    Raises:
        RegistryError: When timm has no such architecture, or the name asks for weights.
        ConfigError: When `channels` is below 1, or the architecture does not take that norm, size or drop path.
        DataError: When the weight file is missing, unreadable, or of another architecture or channel count.
    """
    check_backbone(name)
    if channels < 1:
        raise ConfigError(f"backbone {name!r}: channels is {channels}; it must be 1 or more, one for each band.")
    more = {"output_stride": output_stride} if output_stride else {}
    sized = size_arguments(name, size)
    model, taken = _create(name, rng_seed, {**sized, "drop_path_rate": drop_path}, in_chans=channels, **more)
    if sized:
        check_multiple(model, name, size, "--views.size")
    if drop_path and "drop_path_rate" not in taken:
        raise ConfigError(
            f"backbone {name!r} does not take drop path {drop_path}: in a {type(model).__name__} of timm's no branch "
            "is left out at random. Set --options.drop_path 0, or choose a ViT, a Swin, a ResNet or a RegNet."
        )
    # VGG, MobileNetV3 and their like pool through a hidden layer that num_features does not count.
    model.num_features = int(getattr(model, "head_hidden_size", None) or model.num_features)
    if norm != "batch":
        _check_norm(model, name, norm)
        model = replace_norms(model, norm, find_gates(model, channels) if norm == "group_ws" else ())
    model.norm_kind, model.input_px = norm, size if sized else 0
    if pretrained_file is not None:
        label = repr(name) if norm == "batch" else f"{name!r} with norm {norm!r}"
        label += f" at {size} pixels" if sized else ""
        _load_weights(model, label, channels, Path(pretrained_file))
    encoder: nn.Module = model
    return small_maps.convert(encoder)


def _create(name: str, rng_seed: int, wanted: dict[str, Any], **more: Any) -> tuple[Any, set[str]]:
    """A model of timm's, and which of the arguments that are wanted its architecture knows; it is built without others.

    Raises:
        ConfigError: When it cannot be built for the size that is wanted.
    """
    wanted = dict(wanted)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        while True:
            # Not torch.manual_seed: it would reseed the accelerators as well, which the fork leaves alone.
            torch.default_generator.manual_seed(rng_seed)
            try:
                return timm.create_model(name, pretrained=False, num_classes=0, **wanted, **more), set(wanted)
            except TypeError as error:
                unknown = [key for key in wanted if f"unexpected keyword argument '{key}'" in str(error)]
                if not unknown:
                    raise
                del wanted[unknown[0]]
            except (AssertionError, RuntimeError, ValueError) as error:
                if "img_size" not in wanted:
                    raise
                raise ConfigError(
                    f"backbone {name!r} cannot be built for images of {wanted['img_size']} pixels "
                    f"({type(error).__name__}: {first_line(error)}). Choose another --views.size or another backbone."
                ) from error


def check_backbone(name: str) -> None:
    """Refuse what is no architecture of timm's.

    Raises:
        RegistryError: With the closest names, or what to do about a weight tag.
    """
    known = timm.list_models()
    if name in known:
        return
    architecture, _, tag = name.partition(".")
    if architecture in known:
        raise RegistryError(
            f"backbone {name!r} asks for the weights {tag!r}, and a backbone is an architecture alone. Give "
            f"--backbone {architecture} and, to start from these weights, --init-from timm:{name}."
        )
    raise RegistryError(
        f"no backbone named {name!r} among the {len(known)} architectures of timm.{did_you_mean(name, known)} "
        f"List them with a pattern: sciencessl backbones '{architecture[:4].lower()}*'."
    )


def _check_norm(model: nn.Module, name: str, norm: Norm) -> None:
    from timm.models.regnet import RegNet
    from timm.models.resnet import ResNet

    kind = type(model).__name__
    if not isinstance(model, (ResNet, RegNet)):
        fault = f"it is a {kind}, and norms are replaced in ResNets and RegNets"
    elif not any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in model.modules()):
        fault = f"this {kind} has no batch norm to replace"
    else:
        return
    raise ConfigError(
        f"backbone {name!r} does not take norm {norm!r}: {fault}. Leave norm at 'batch', which keeps an architecture "
        "as it is, or choose a backbone such as resnet50 or regnety_016."
    )


def _load_weights(model: Any, name: str, channels: int, path: Path) -> None:
    cfg = model.pretrained_cfg
    heads = tuple(f"{layer}." for layer in _as_names(cfg.get("classifier")))
    state = {key: value for key, value in _read_state(path).items() if not key.startswith(heads)}
    own = model.state_dict()
    for key in (f"{layer}.weight" for layer in _as_names(cfg.get("first_conv"))):
        if _is_rgb_kernel(state.get(key), own.get(key)):
            state[key] = adapt_channels(state[key], channels)
    state = resample_positions(model, state)
    _check_state(state, own, name, channels, path)
    model.load_state_dict(state)


def adapt_channels(kernel: Tensor, channels: int) -> Tensor:
    """The first convolution of an encoder of three channels for another number of them.

    For one channel the three are summed. For more they are repeated in turn and scaled by 3 / C, as timm does it; what
    that changes in the sum over channels, unless C is a multiple of three, is then shared out evenly. So the response
    to a grey image stays what it was, and the statistics of the norm behind it stay right for it. Source: timm's rule;
    the correction is ours.

    Args:
        kernel: (O, 3, K, K).
        channels: C, at least 1.

    Returns:
        (O, C, K, K) of the same dtype.
    """
    adapted: Tensor = adapt_input_conv(channels, kernel)
    change = kernel.sum(dim=1, keepdim=True) - adapted.sum(dim=1, keepdim=True)
    return adapted + change / channels


def _as_names(layers: object) -> tuple[str, ...]:
    if isinstance(layers, str):
        return (layers,)
    return tuple(layers) if isinstance(layers, (tuple, list)) else ()


def _is_rgb_kernel(found: Tensor | None, wanted: Tensor | None) -> bool:
    if found is None or wanted is None or found.ndim != 4 or wanted.ndim != 4:
        return False
    return found.shape[1] == 3 and wanted.shape[1] != 3


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise DataError(f"weight file {str(path)!r} does not exist. Give a .safetensors or torch state-dict file.")
    try:
        loaded = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:
        # Any kind: a damaged pickle makes the unpickler fail in whatever way its bytes happen to say. The cause is
        # named, not quoted: torch's own text advises to switch its safety off.
        raise DataError(
            f"weight file {str(path)!r} cannot be read ({type(error).__name__}). It is damaged, or holds more than "
            "plain tensors; such a file could run code and is never opened. Save the state dict as .safetensors."
        ) from error
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise DataError(
            f"weight file {str(path)!r} is not a flat state dict of parameter name -> tensor. "
            "Save `model.state_dict()` alone, not the checkpoint around it."
        )
    return loaded


def _check_state(state: dict[str, Tensor], own: dict[str, Tensor], name: str, channels: int, path: Path) -> None:
    missing = [key for key in own if key not in state]
    unknown = [key for key in state if key not in own]
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    parts = (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
    faults = [f"{len(keys)} {what} (first: {keys[0]})" for what, keys in parts if keys]
    if faults:
        raise DataError(
            f"weight file {str(path)!r} does not fit backbone {name} with {channels} channels: "
            f"{', '.join(faults)}. Give weights of the same architecture, trained on {_either(channels)} channels."
        )


def _either(channels: int) -> str:
    return "3" if channels == 3 else f"3 or {channels}"


def switch_on(module: nn.Module, most: float = SWITCHED_OFF) -> nn.Module:
    """Set to 1 every scale that switches a branch off: all values equal and at most `most`. Returns `module`.

    Scales are the parameters, other than biases, with one axis longer than 1 at most: `weight` of a norm, layer scale,
    gain. With `most` = 0 only norm scales that start at exactly zero are meant, not small layer scales. Weights that
    have no values (`memory.built_without_storage`) stay as they are.
    """
    with torch.no_grad():
        for name, scale in module.named_parameters():
            vector = scale.numel() == max(scale.shape, default=1) and not name.endswith("bias")
            if vector and name.rpartition(".")[2] in SCALES and holds_values(scale) and _is_off(scale, most):
                scale.fill_(1.0)
    return module


def _is_off(scale: Tensor, most: float) -> bool:
    low, high = float(scale.min()), float(scale.max())
    return low == high and abs(high) <= most
