"""MoCo v2: find the key of the other view, by a slow copy, among the keys of earlier steps."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from sciencessl.errors import ConfigError
from sciencessl.losses.contrastive import info_nce
from sciencessl.losses.regression import negative_cosine
from sciencessl.methods.base import Method, Online, PairLoss, deep_mlp
from sciencessl.methods.byol import Byol, ByolOptions
from sciencessl.methods.queue import Queue
from sciencessl.optim.target import TargetUpdater


@dataclass(frozen=True)
class MocoV2Options(ByolOptions):
    """Settings of MoCo v2; the defaults are the paper's, for a ResNet-50, but for the two directions of the loss.

    Attributes:
        hidden: Width of the hidden layer of the projector; the paper's is that of the representation.
        out: Width of a projection.
        queue: K, keys of earlier steps that are negatives.
        temperature: T of the softmax, above 0.
        symmetric: Both large views ask for the other's key, as in the authors' demonstration on CIFAR-10, which says
            that this is worth twice the epochs. Off, the second view's key alone is asked for: the paper's loss, at
            half the cost.
        tau_base: Momentum of the key encoder, in [0, 1].
        tau_schedule: `constant` stays, `cosine` rises from `tau_base` to 1 over the run.
        tau_batch: Batch that the momentum belongs to, as for BYOL; the paper's is 256.
    """

    hidden: int = 2048
    out: int = 128
    queue: int = 65536
    temperature: float = 0.2
    symmetric: bool = True
    tau_base: float = 0.999
    tau_schedule: Literal["cosine", "constant"] = "constant"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.queue < 1:
            raise ConfigError(f"options.queue is {self.queue}; it must be 1 or more. The paper's is 65536.")
        if not self.temperature > 0:
            raise ConfigError(f"options.temperature is {self.temperature}; it must be above 0. The paper's is 0.2.")


class MocoV2(Byol):
    """Query encoder and projector; key encoder and projector, their moving average; a queue of keys. No predictor.

    `L = mean_B -log [exp(q k / T) / (exp(q k / T) + sum over the queue of exp(q n / T))]`, q the projection of one view
    and k that of another by the key encoder (equation 1), of length 1; a mean over both directions, where the
    demonstration has a sum (ours), or the second view's key alone with `symmetric` off. Small views, where there are
    any, are further queries (ours).

    The key encoder runs in training mode on the statistics of the whole batch, of all processes, as targets do
    everywhere here (ours). The paper shuffles samples between the batch norms of several GPUs instead, so that a query
    cannot know its key by the statistics that both were normalised with. Norms over the whole batch do not quite hide
    that, as the queue's keys are of other batches (its authors in facebookresearch/moco, issue 46). Without batch norm,
    as in transformers or with `--norm group_ws`, there is nothing to hide.
    """

    title: ClassVar[str] = "MoCo v2: find a slow copy's key of the other view among those of earlier steps"
    paper: ClassVar[str] = "arXiv 2003.04297"
    status: ClassVar[str] = "verified"
    cost: ClassVar[float] = 1.0
    Options: ClassVar[type] = MocoV2Options

    def __init__(self, encoder: nn.Module, options: MocoV2Options, generator: torch.Generator) -> None:
        Method.__init__(self, encoder, options, generator)  # BYOL's own would build other heads, and a predictor
        widths = (self.features, options.hidden, options.out)
        self.projector = deep_mlp(widths, generator, None, end="biased")
        self.target_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.target_projector = copy.deepcopy(self.projector).requires_grad_(False)
        self.queue = Queue(options.queue, options.out, generator)
        self._first_batch, self._kappa = 0, 1.0
        self._updater = TargetUpdater(self.target_pairs(), buffers="own")

    def online(self, views: Sequence[Tensor]) -> Online:
        """y and z of every view that asks."""
        asking = views if self.options.symmetric else (views[0], *views[2:])
        representations = [self.encoder(view) for view in asking]
        return Online(representations, [self.projector(y) for y in representations], [])

    def target(self, views: Sequence[Tensor]) -> list[Tensor]:
        """Keys: z' of the two large views, or of the second alone."""
        asked = views[:2] if self.options.symmetric else views[1:2]
        return [self.target_projector(self.target_encoder(view)) for view in asked]

    def pair_loss(self, online: Online, targets: Sequence[Tensor]) -> PairLoss:
        """`info_nce` of each key and each other view that asks, their mean; the label scale is the mean negative cosine
        of the same pairs."""
        # Sample by sample, so that micro-batches and processes fill the queue in one order.
        self.queue.hold(torch.stack(list(targets), dim=1).flatten(0, 1), self.ranks)
        options, queries = self.options, online.projections
        pairs = [
            (q, key) for own, key in enumerate(targets) for v, q in enumerate(queries)
            if not options.symmetric or v != own
        ]
        rows = torch.stack([info_nce(q, key, self.queue.rows, options.temperature) for q, key in pairs]).mean(dim=0)
        cosines = torch.stack([negative_cosine(q.detach(), key) for q, key in pairs]).mean(dim=0)
        return PairLoss(rows.sum(), cosines.sum(), len(rows))

    def after_step(self, step: int, total: int) -> dict[str, float]:
        """Move the key encoder, and the step's keys into the queue."""
        self.queue.advance()
        return super().after_step(step, total)
