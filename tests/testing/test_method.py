"""Every registered method passes the kit, and the kit sees what it is there to see."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sciencessl import registry
from sciencessl.backbones.timm_backbones import build_backbone, switch_on
from sciencessl.methods.base import Online, PairLoss
from sciencessl.methods.byol import Byol, ByolOptions
from sciencessl.methods.labels_only import LabelsOnly
from sciencessl.testing import ConformanceError, check_method
from sciencessl.testing.method_case import SIDE, Case, tiny_encoder

SMALL = ByolOptions(hidden=12, out=5)
WIDTHS = {
    "hidden": 12, "out": 5, "bottleneck": 4, "prototypes": 7, "queue": 12, "frozen_steps": 1, "drop_path": 0.0,
    "decoder_width": 8, "decoder_depth": 1, "decoder_heads": 2, "grid": 3,
}
"""Values of settings that make heads of tens of millions of weights small, for every method that has them."""


def narrow(name: str) -> Any:
    """Small options of a registered method."""
    options = registry.load_method(name).Options
    return options(**{field.name: WIDTHS[field.name] for field in fields(options) if field.name in WIDTHS})


ENCODERS: dict[str, tuple[str, int]] = {"cnn_jepa": ("test_resnet", 96), "mae": ("test_vit", 32)}
"""timm's name of the encoder, and pixels of a view, of methods that need a kind of encoder."""


def case_of(name: str) -> Case:
    """A registered method as the kit checks it."""
    encoder: Callable[[], nn.Module] = tiny_encoder
    side = SIDE
    if name in ENCODERS:
        backbone, side = ENCODERS[name]
        encoder = functools.partial(_switched_on, backbone, side)
    return Case(registry.load_method(name), narrow(name), encoder, side)


def _switched_on(backbone: str, size: int) -> nn.Module:
    """An encoder whose residual branches take part from the start: a gradient that must reach them can."""
    return switch_on(build_backbone(backbone, 3, 0, size=size), most=0.0)


@pytest.mark.parametrize("name", [entry.name for entry in registry.methods()])
def test_registered_methods_conform(name: str) -> None:
    case = case_of(name)
    checked = check_method(name, case.options, case.encoder, case.side)
    assert checked == (
        "class", "construction", "outputs", "gradients", "after_step", "copies", "views", "accumulation", "resume",
        "labels", "draws", "precision", "ranks", "without_values", "monitors",
    )


def test_it_takes_a_class_and_options() -> None:
    assert "resume" in check_method(Byol, SMALL)


@dataclass
class _Loose:
    hidden: int = 12


@dataclass(frozen=True)
class _Bare:
    hidden: int


class _NotFrozen(Byol):
    Options = _Loose


class _NoDefault(Byol):
    Options = _Bare


class _Status(Byol):
    status = "copied"


class _GlobalDraw(Byol):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.noise = nn.Parameter(torch.rand(3))


class _Shape(Byol):
    def online(self, views: Sequence[Tensor]) -> Online:
        found = super().online(views)
        return Online([y[:, :2] for y in found.representations], found.projections, found.predictions)


class _Mean(Byol):
    def pair_loss(self, online: Online, targets: Sequence[Tensor]) -> PairLoss:
        found = super().pair_loss(online, targets)
        return PairLoss(found.total / 8, found.scale / 8, 1)


class _Detached(Byol):
    def online(self, views: Sequence[Tensor]) -> Online:
        found = super().online(views)
        cut = [self.projector(y.detach()) for y in found.representations]
        return Online(found.representations, cut, [self.predictor(z) for z in cut])


class _LiveTarget(Byol):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.target_projector.requires_grad_(True)

    def target(self, views: Sequence[Tensor]) -> list[Tensor]:
        with torch.enable_grad():
            return super().target(views)


class _Remembers(Byol):
    """State that no state_dict knows."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.count = 0

    def after_step(self, step: int, total: int) -> dict[str, float]:
        self.count += 1
        self._updater.update(0.5 if self.count > 1 else 0.9)
        return {}


class _Shares(Byol):
    """A copy that writes to the original."""

    def __deepcopy__(self, memo: Any) -> Any:
        return self


class _Forward(Byol):
    def online(self, views: Sequence[Tensor]) -> Online:
        with torch.no_grad():
            self.predictor[0].weight.mul_(1.01)
        return super().online(views)


class _Logs(Byol):
    def after_step(self, step: int, total: int) -> dict[str, float]:
        super().after_step(step, total)
        return {"tau": torch.tensor(0.5)}  # type: ignore[dict-item]


class _Pairs(LabelsOnly):
    """Says that the encoder follows nothing at all."""

    def target_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        return [(nn.Identity(), self.encoder)]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (nn.Linear, "not made from methods.base.Method"),
        (_NotFrozen, "no frozen dataclass"),
        (_NoDefault, "no default for hidden"),
        (_Status, "status is 'copied'"),
        (_GlobalDraw, "global generator"),
        (_Shape, r"a representation is \(8, 2\), expected \(8, 6\)"),
        (_Mean, "rows is 1, expected 8"),
        (_Detached, "no gradient of the pair loss reaches the encoder"),
        (_LiveTarget, "target"),
        (_Remembers, "goes on differently, in method.encoder"),
        (_Shares, "a step of a deep copy changes the original"),
        (_Forward, "a forward pass moves parameters"),
        (_Logs, "expected floats"),
        (_Pairs, "modules whose weights differ"),
    ],
)
def test_what_breaks_the_contract_is_named(kind: Any, message: str) -> None:
    options = None if kind in (_NotFrozen, _NoDefault, _Pairs) else SMALL
    with pytest.raises(ConformanceError, match=message):
        check_method(kind, options)
