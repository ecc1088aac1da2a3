"""UniVIP: scenes, their instances, and the transport between instances. Source: arXiv 2203.06965.

The losses and their weights are the paper's, read in what others quote of it; sizes, and that instances have the
colours of the first view, are second hand. Ours: Sinkhorn's settings, masses that are normalised, batch statistics over
all instances of a batch together, and a copy of each instance with colours of its own for the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sciencessl.errors import ConfigError
from sciencessl.losses.linear import uniform_linear
from sciencessl.losses.regression import negative_cosine
from sciencessl.losses.transport import scene_marginals, transport_loss
from sciencessl.methods.base import Online, PairLoss
from sciencessl.methods.byol import Byol, ByolOptions

SCENES = 2
INSTANCES = 4
COMPARED = 5
"""Negative cosines that the loss adds up: two of scenes, two of scenes and instances, one of instances."""


@dataclass(frozen=True)
class UnivipOptions(ByolOptions):
    """Settings of UniVIP; those it shares with BYOL as the reproduction has them.

    Attributes:
        tau_base: Target momentum at step 0, in [0, 1].
        instances: K, instances of each image, in as many views twice over. More than 4 gained nothing (second hand).
        epsilon: Entropy of the transport between instances, above 0; 0.1 is OTA's, UniVIP does not say.
        iterations: Of Sinkhorn, 1 or more; 50 is OTA's.
    """

    tau_base: float = 0.99
    instances: int = INSTANCES
    epsilon: float = 0.1
    iterations: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("instances", "iterations"):
            if getattr(self, name) < 1:
                raise ConfigError(f"options.{name} is {getattr(self, name)}; it must be 1 or more.")
        if not self.epsilon > 0:
            raise ConfigError(f"options.epsilon is {self.epsilon}; it must be above 0. OTA's is 0.1.")


class Univip(Byol):
    """BYOL of two scenes, the scene predicted from all its instances, and each instance matched to itself.

    Views are two scenes, K instances that lie in both, and the same K instances with other colours for the target:
    `--views.instances K`. All instances of a batch share a forward and its batch statistics.

    `cost` is that of K = 4 instances of 96 px and scenes of 224 px: all passes of BYOL on 1 + K / 2 (96 / 224)^2 times
    the pixels. For K instances of other sides it is 1 + K / 2 (instance_size / size)^2: 1.5 for 4 of half the side.
    """

    title: ClassVar[str] = "UniVIP: scenes, the scene from its instances, and instances matched by optimal transport"
    paper: ClassVar[str] = "arXiv 2203.06965"
    status: ClassVar[str] = "reconstructed"
    cost: ClassVar[float] = 1.37
    n_views: ClassVar[int] = SCENES + 2 * INSTANCES
    multi_crop: ClassVar[bool] = False
    Options: ClassVar[type] = UnivipOptions

    def __init__(self, encoder: nn.Module, options: UnivipOptions, generator: torch.Generator) -> None:
        super().__init__(encoder, options, generator)
        bound = (options.instances * options.out) ** -0.5
        joint = uniform_linear(options.instances * options.out, options.out, bound, (-bound, bound), generator)
        self.scene_predictor = nn.Sequential(joint)

    def check_views(self, shapes: Sequence[Sequence[int]]) -> None:
        """Two scenes of one shape and 2 K instances of one shape, and nothing else."""
        count, kinds = self.options.instances, [tuple(shape) for shape in shapes]
        if len(kinds) != SCENES + 2 * count or len(set(kinds[:SCENES])) > 1 or len(set(kinds[SCENES:])) > 1:
            raise ConfigError(
                f"method {type(self).__name__} compares two scenes and {count} instances twice, {SCENES + 2 * count} "
                f"views of each sample, and gets {len(kinds)}. Set --views.instances {count} --views.large_views 2 "
                "--views.small_views 0; --options.instances is how many it compares."
            )

    def online(self, views: Sequence[Tensor]) -> Online:
        """y, z and p of the two scenes and of the first copy of each instance; then one more p, the scene from them."""
        count = self.options.instances
        found = super().online([*views[:SCENES], torch.cat(list(views[SCENES : SCENES + count]))])
        representations, projections, predictions = (
            [*of[:SCENES], *of[SCENES].chunk(count)]
            for of in (found.representations, found.projections, found.predictions)
        )
        whole = self.scene_predictor(torch.cat(predictions[SCENES:], dim=1))
        return Online(representations, projections, [*predictions, whole])

    def target(self, views: Sequence[Tensor]) -> list[Tensor]:
        """z' of the two scenes and of the second copy of each instance."""
        count = self.options.instances
        instances = torch.cat(list(views[SCENES + count : SCENES + 2 * count]))
        found = [self.target_projector(self.target_encoder(view)) for view in (*views[:SCENES], instances)]
        return [*found[:SCENES], *found[SCENES].chunk(count)]

    def pair_loss(self, online: Online, targets: Sequence[Tensor]) -> PairLoss:
        """Scene-scene, scene-instance and instance-instance, added up without weights; the label scale is the mean of
        the five negative cosines in it, the transport counting as one."""
        *predictions, whole = online.predictions
        first, second = predictions[:SCENES]
        slow_first, slow_second, *slow = (target.detach() for target in targets)
        own, other = torch.stack(predictions[SCENES:], dim=1), torch.stack(slow, dim=1)
        scenes = negative_cosine(first, slow_second) + negative_cosine(second, slow_first)
        joint = negative_cosine(whole, slow_first) + negative_cosine(whole, slow_second)
        options = self.options
        instances = transport_loss(
            own, other, scene_marginals(own, [slow_first, slow_second]), scene_marginals(other, [first, second]),
            options.epsilon, options.iterations,
        )
        rows = scenes + joint + instances
        logged = {"scene_cosine": -scenes / 2, "scene_instance_cosine": -joint / 2, "instance_cosine": -instances}
        return PairLoss(
            rows.sum(), rows.detach().sum() / COMPARED, len(rows),
            {name: value.detach().sum() for name, value in logged.items()},
        )
