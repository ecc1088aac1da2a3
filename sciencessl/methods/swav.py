"""SwAV as SEER runs it: predict the balanced cluster codes of the large crops from all other crops. No target network.

Source: arXiv 2006.09882 (SwAV), arXiv 2103.01988 (SEER) and the released configurations of the latter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from sciencessl.errors import ConfigError
from sciencessl.losses.regression import negative_cosine
from sciencessl.losses.swav import sinkhorn_codes, swapped_prediction
from sciencessl.methods.base import Method, Online, PairLoss, deep_mlp

ASSIGNING = 2
"""Crops that codes are made of: the first two, which are the large ones."""


@dataclass(frozen=True)
class SwavOptions:
    """Settings of SwAV; the defaults are SEER's.

    Attributes:
        hidden: Width of the two hidden layers of the projector.
        out: Width of a projection.
        norm: Batch norm after the hidden layers, as in the SwAV paper; SEER has none.
        prototypes: Number of prototypes.
        temperature: Of the softmax that predicts a code.
        epsilon: Temperature of the codes: the smaller, the nearer to one prototype a sample.
        iterations: Sinkhorn iterations of the codes.
        frozen_steps: Steps from the first one on in which the prototypes stay as they were drawn.
        queue: Projections of earlier steps that codes are balanced with, for each of the two large crops and each
            process; 0 for none. Batches smaller than the number of prototypes need one.
        queue_start: Step from which the queue is filled; it takes part once it is full.
    """

    hidden: int = 8192
    out: int = 256
    norm: bool = False
    prototypes: int = 16000
    temperature: float = 0.1
    epsilon: float = 0.03
    iterations: int = 10
    frozen_steps: int = 313
    queue: int = 0
    queue_start: int = 0

    def __post_init__(self) -> None:
        for name, least in (("hidden", 1), ("out", 1), ("prototypes", 2), ("iterations", 1), ("frozen_steps", 0),
                            ("queue", 0), ("queue_start", 0)):  # fmt: skip
            if getattr(self, name) < least:
                raise ConfigError(f"options.{name} is {getattr(self, name)}; it must be {least} or more.")
        for name, usual in (("temperature", 0.1), ("epsilon", 0.03)):
            if not getattr(self, name) > 0:
                raise ConfigError(f"options.{name} is {getattr(self, name)}; it must be above 0. SEER's is {usual}.")


class Swav(Method):
    """Encoder, projector (SEER's; SwAV's with `norm`), and prototypes of length 1.

    Scores are cosines of projections and prototypes. Codes of the two large crops, balanced over the batch, the queue
    and all processes, are predicted from each other crop of the same sample. The balance is that of a micro-batch
    where a step has several. Crops of one size share a forward and its batch statistics, as in the released code.

    Any number of views of 2 or more, of any sizes. The label term is scaled by the cosine of the large crops, as for
    methods whose loss is one (ours). The queue is that of the SwAV paper, SEER has none; each process has its own.
    """

    title: ClassVar[str] = "SwAV: predict the balanced cluster codes of the large crops from all other crops"
    paper: ClassVar[str] = "arXiv 2006.09882, as run by SEER (arXiv 2103.01988)"
    status: ClassVar[str] = "verified"
    cost: ClassVar[float] = 0.75
    own_buffers: ClassVar[tuple[str, ...]] = ("queue",)
    Options: ClassVar[type] = SwavOptions
    queue: Tensor

    def __init__(self, encoder: nn.Module, options: SwavOptions, generator: torch.Generator) -> None:
        super().__init__(encoder, options, generator)
        widths = (self.features, options.hidden, options.hidden, options.out)
        self.projector = deep_mlp(widths, generator, "batch" if options.norm else None, end="biased")
        drawn = torch.empty(options.prototypes, options.out).uniform_(-1.0, 1.0, generator=generator)
        self.prototypes = nn.Parameter(normalize(drawn, dim=1))
        self.register_buffer("queue", torch.zeros(ASSIGNING, options.queue, options.out))
        self._taken = 0  # steps
        self._queued = 0  # rows that the queue has received
        self._waiting = self.queue[:, :0]

    def online(self, views: Sequence[Tensor]) -> Online:
        """y, the unit vector z and the (B, P) scores of every view; views of one size in one forward."""
        representations: list[Tensor] = []
        for _, group in groupby(views, key=lambda view: view.shape[1:]):
            crops = list(group)
            representations += self.encoder(torch.cat(crops)).split([len(crop) for crop in crops])
        sizes = [len(y) for y in representations]
        projected = self.projector(torch.cat(representations))
        # A score's rounding is divided by epsilon: half precision would be noise in the codes.
        with torch.autocast(projected.device.type, enabled=False):
            unit = normalize(projected.to(self.prototypes.dtype), dim=1)
            scores = linear(unit, self.prototypes)
        return Online(representations, list(unit.split_with_sizes(sizes)), list(scores.split_with_sizes(sizes)))

    def resting(self) -> Sequence[nn.Parameter]:
        """The prototypes while they are frozen."""
        return [self.prototypes] if self._taken < self.options.frozen_steps else []

    def pair_loss(self, online: Online, targets: Sequence[Tensor]) -> PairLoss:
        """Swapped prediction; the label scale is the negative cosine of the two large crops."""
        first, second = (z.detach() for z in online.projections[:ASSIGNING])
        with torch.autocast(first.device.type, enabled=False):
            codes = [self._codes(online.predictions[crop].detach(), crop) for crop in range(ASSIGNING)]
        if torch.is_grad_enabled():  # else the step is only surveyed
            self._keep(torch.stack([first, second]))
        rows = swapped_prediction(online.predictions, codes, self.options.temperature)
        return PairLoss(rows.sum(), negative_cosine(first, second).sum(), len(rows))

    def _codes(self, scores: Tensor, crop: int) -> Tensor:
        earlier = self.queue[crop] if self._queued >= self.options.queue else self.queue[crop, :0]
        everyone = torch.cat([scores, linear(earlier, self.prototypes.detach())])
        return sinkhorn_codes(everyone, self.options.epsilon, self.options.iterations, self.ranks.reduce)[: len(scores)]

    def _keep(self, projections: Tensor) -> None:
        """Hold (2, B, D) back for the queue until the step is done: its micro-batches do not see each other."""
        if self.options.queue and self._taken >= self.options.queue_start:
            waiting = torch.cat([self._waiting.to(projections), projections], dim=1)
            self._waiting = waiting[:, -self.options.queue :]

    @torch.no_grad()
    def after_step(self, step: int, total: int) -> dict[str, float]:
        """Bring prototypes back to length 1, and move the step's projections into the queue, the newest last."""
        if self._taken >= self.options.frozen_steps:
            self.prototypes.copy_(normalize(self.prototypes, dim=1))
        if self._waiting.shape[1]:
            kept = torch.cat([self.queue, self._waiting], dim=1)[:, -self.options.queue :]
            self.queue.copy_(kept)
            self._queued = min(self._queued + self._waiting.shape[1], self.options.queue)
            self._waiting = self._waiting[:, :0]
        self._taken = step + 1
        return {}

    def get_extra_state(self) -> Tensor:
        """Steps taken and rows in the queue: on the host, where reading them waits for no device."""
        return torch.tensor([self._taken, self._queued])

    def set_extra_state(self, state: Tensor) -> None:
        """What `get_extra_state` gave."""
        self._taken, self._queued = state.tolist()
        self._waiting = self.queue[:, :0]
