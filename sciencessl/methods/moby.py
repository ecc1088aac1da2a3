"""MoBY: BYOL's two networks, trained by MoCo's loss with queues of earlier keys; for transformers. arXiv 2105.04553."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from sciencessl.errors import ConfigError
from sciencessl.losses.contrastive import info_nce
from sciencessl.losses.regression import cross_view_cosine
from sciencessl.methods.base import Method, Online, PairLoss, deep_mlp
from sciencessl.methods.byol import Byol, ByolOptions
from sciencessl.methods.dino import without_drop_path
from sciencessl.methods.queue import Queue
from sciencessl.optim.target import TargetUpdater


@dataclass(frozen=True)
class MobyOptions(ByolOptions):
    """Settings of MoBY; the defaults are those of the released configurations.

    Attributes:
        hidden: Width of the hidden layer of projector and predictor.
        out: Width of a projection.
        tau_base: Target momentum at step 0, in [0, 1].
        tau_schedule: As for BYOL.
        tau_batch: As for BYOL; the released momentum belongs to 512.
        temperature: T of the softmax, above 0.
        queue: Keys of earlier steps that are kept for each of the two views, 1 or more.
        drop_path: Stochastic depth of the online encoder, in [0, 1). The target has none.
    """

    tau_base: float = 0.99
    temperature: float = 0.2
    queue: int = 4096
    drop_path: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise ConfigError(f"options.temperature is {self.temperature}; it must be above 0. The paper's is 0.2.")
        if self.queue < 1:
            raise ConfigError(f"options.queue is {self.queue}; it must be 1 or more. The paper's is 4096.")
        if not 0 <= self.drop_path < 1:
            raise ConfigError(f"options.drop_path is {self.drop_path}; it must be in [0, 1). The paper's is 0.2.")


class Moby(Byol):
    """BYOL's encoder, projector and predictor, and its target; each key of the target is found among a queue of others.

    `L = l(p_1, k_2, Q_2) + l(p_2, k_1, Q_1)` with
    `l(p, k, Q) = -log [exp(p k / T) / (exp(p k / T) + sum over n in Q of exp(p n / T))]` of unit vectors: the negatives
    of a key are earlier keys of the same view. A step's own keys enter the queues after it. Heads are Linear -
    BatchNorm - ReLU - Linear with a bias in both layers. Stochastic depth is in the online encoder alone: the target is
    a copy without it. All of this was read in the released code; as there, the loss is not scaled by T.

    There the target moves at the begin of a step k, with the momentum of k; here it does so at the end of the step
    before, by the same weights and momentum. Its queue needs no whole number of batches (ours). Small views, where
    there are any, look for the keys of both large views and are none (ours). Logged is the mean cosine with negatives:
    where it nears that with the keys, T is too low or the queue too old.

    The recipe's other half belongs to the optimiser and is not set here: AdamW at 0.001 for 512 images in proportion to
    the batch, weight decay 0.05 but not on biases and norms, betas 0.9 and 0.999, warm-up of 5 of 300 epochs, a cosine
    down to 0.005 of the peak, and gradients clipped at norm 5.
    """

    title: ClassVar[str] = "MoBY: BYOL's networks, MoCo's loss over queues of keys, and drop path in the online encoder"
    paper: ClassVar[str] = "arXiv 2105.04553"
    status: ClassVar[str] = "verified"
    cost: ClassVar[float] = 1.0
    Options: ClassVar[type] = MobyOptions

    def __init__(self, encoder: nn.Module, options: MobyOptions, generator: torch.Generator) -> None:
        Method.__init__(self, encoder, options, generator)  # BYOL's own heads have no bias in the last layer
        self.projector = deep_mlp((self.features, options.hidden, options.out), generator, self.norm, end="biased")
        self.predictor = deep_mlp((options.out, options.hidden, options.out), generator, self.norm, end="biased")
        self.target_encoder = without_drop_path(copy.deepcopy(encoder)).requires_grad_(False)
        self.target_projector = copy.deepcopy(self.projector).requires_grad_(False)
        self._first_batch, self._kappa = 0, 1.0
        self._updater = TargetUpdater(self.target_pairs(), buffers="own")
        self.queue_1 = Queue(options.queue, options.out, generator)
        self.queue_2 = Queue(options.queue, options.out, generator)

    @property
    def queues(self) -> tuple[Queue, Queue]:
        """Keys of the first view, and of the second."""
        return self.queue_1, self.queue_2

    def momentum(self, step: int, total: int) -> float:
        """That of the step to come, in which the released code moves the target."""
        return super().momentum(step + 1, total)

    def pair_loss(self, online: Online, targets: Sequence[Tensor]) -> PairLoss:
        """Each key found by every other view, their mean, and both keys summed; the label scale is the mean negative
        cosine of predictions and keys."""
        predictions, found, alike = online.predictions, [], []
        for large, (key, queue) in enumerate(zip(targets, self.queues, strict=True)):
            queries = [p for v, p in enumerate(predictions) if v != large]
            losses = [info_nce(p, key, queue.rows, self.options.temperature) for p in queries]
            found.append(torch.stack(losses).mean(dim=0))
            alike += [normalize(p.detach().to(queue.rows), dim=1) @ queue.rows.mean(dim=0) for p in queries]
            queue.hold(key, self.ranks)
        rows = torch.stack(found).sum(dim=0)
        scale = cross_view_cosine(predictions, targets).detach().sum()
        return PairLoss(rows.sum(), scale, len(rows), {"negatives": torch.stack(alike).mean(dim=0).sum()})

    def after_step(self, step: int, total: int) -> dict[str, float]:
        """Move the target, and let the step's keys into the queues."""
        told = super().after_step(step, total)
        for queue in self.queues:
            queue.advance()
        return told
