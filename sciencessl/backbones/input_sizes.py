"""Encoders that are built for one image size: what timm is asked for, which sizes fit, and weights of another size."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn

from sciencessl.errors import ConfigError
from sciencessl.store.remote import first_line

POSITIONS = frozenset({"pos_embed", "relative_position_bias_table"})
"""What timm calls parameters with an entry for each place, or for each distance between two, of an image."""


def size_arguments(name: str, size: int) -> dict[str, Any]:
    """What to ask timm for, so that an encoder of one image size has this one, and takes others beside it if it can.

    Not every architecture knows the last two. Nothing is asked of one that takes any size.
    """
    fixed = bool(getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False))
    return {"img_size": size, "dynamic_img_size": True, "strict_img_size": False} if size and fixed else {}


def check_multiple(encoder: nn.Module, name: str, side: int, setting: str) -> None:
    """Refuse images that are no whole number of patches, where an encoder says how large its patches are.

    Args:
        encoder: Of timm.
        name: Of the architecture.
        side: Of the image in pixels.
        setting: That it comes from, as a flag.

    Raises:
        ConfigError: With the nearest sizes that fit.
    """
    found = getattr(getattr(encoder, "patch_embed", None), "patch_size", 1)
    patch = max(found) if isinstance(found, (tuple, list)) else int(found or 1)
    if side % patch:
        below = side // patch * patch
        nearest = f"{below} or {below + patch}" if below else str(patch)
        raise ConfigError(
            f"backbone {name!r} cuts images into patches of {patch} x {patch} pixels, and {side} is no multiple of "
            f"{patch}. Set {setting} {nearest}."
        )


@torch.no_grad()
def check_shapes(encoder: nn.Module, name: str, shapes: Sequence[Sequence[int]]) -> None:
    """Refuse views that an encoder of one image size cannot take: an empty image of each shape is tried.

    Args:
        encoder: From `build_backbone`, on the CPU; others than those of one size pass as they are.
        name: Of the architecture.
        shapes: (C, H, W) of each view of a sample, those of the large ones first.

    Raises:
        ConfigError: With the setting that helps.
    """
    if not getattr(encoder, "input_px", 0):
        return
    training = encoder.training
    for shape in dict.fromkeys(map(tuple, shapes)):
        small = shape != tuple(shapes[0])
        for side in shape[1:]:
            check_multiple(encoder, name, side, "--views.small-size" if small else "--views.size")
        try:
            encoder.eval()(torch.zeros(1, *shape))
        except Exception as error:  # architectures refuse in many ways; any of them means the same
            advice = "Set --views.small-views 0, or choose a ViT or a Swin" if small else "Choose another --views.size"
            raise ConfigError(
                f"backbone {name!r} is built for images of {encoder.input_px} pixels and cannot take views of "
                f"{' x '.join(map(str, shape[1:]))} ({type(error).__name__}: {first_line(error).rstrip('.')}). "
                f"{advice}."
            ) from error
        finally:
            encoder.train(training)


def resample_positions(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights whose position embeddings are those of the image size of a model, by timm's own rule for it.

    Other tensors stay as they are; so does everything where timm has no rule or it does not apply.

    Args:
        model: Of timm.
        state: Weights of the same architecture at another image size.
    """
    own = model.state_dict()
    moved = [key for key, value in state.items()
             if key.rpartition(".")[2] in POSITIONS and key in own and own[key].shape != value.shape]
    rule = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if not moved or rule is None:
        return dict(state)
    try:
        found = rule(dict(state), model)
    except Exception:  # weights of something else: what does not fit is told by whoever loads them
        return dict(state)
    return {**state, **{key: found[key] for key in moved if key in found}}
