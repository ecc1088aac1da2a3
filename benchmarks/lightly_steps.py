"""Steps of the methods that lightly has, for `methods.py`: its own heads, losses and optimisers.

Each follows `training_step` of lightly's own benchmark of the method (benchmarks/imagenet/resnet50/METHOD.py, for MAE
benchmarks/imagenet/vitb16/mae.py with the parts for timm's ViTs, for SimSiam examples/pytorch/simsiam.py), with the
widths, depths and temperatures of our options in place of the paper's. Optimisers are those of these files: lightly's
LARS, torch's SGD (MoCo v2, DINO, SimSiam) or AdamW (MAE), over `get_weight_decay_parameters`. Left out, as they are no
part of ours: its trainer, its logging, its online classifier.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

Step = Callable[[int], object]


@dataclass(frozen=True)
class Task:
    """What a step is made of.

    Attributes:
        encoder: Is trained; (B, C, H, W) -> (B, F).
        features: F.
        options: Ours of the method.
        views: Of one batch.
        steps: Length of the run that schedules think they are in.
        rate: Learning rate.
        autocast: What forward passes and losses run in.
    """

    encoder: nn.Module
    features: int
    options: Any
    views: list[Tensor]
    steps: int
    rate: float
    autocast: Callable[[], AbstractContextManager[Any]]

    def learn(self, loss: Callable[[int], Tensor], optimizer: torch.optim.Optimizer) -> Step:
        """Number of a step -> forward, backward and update."""

        def step(number: int) -> None:
            with self.autocast():
                value = loss(number)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()

        return step


def _groups(modules: Sequence[nn.Module]) -> list[dict[str, Any]]:
    from lightly.models.utils import get_weight_decay_parameters

    decayed, rest = get_weight_decay_parameters(modules)
    return [{"params": decayed}, {"params": rest, "weight_decay": 0.0}]


def _lars(task: Task, *modules: nn.Module) -> torch.optim.Optimizer:
    from lightly.utils.lars import LARS

    found: torch.optim.Optimizer = LARS(_groups(modules), lr=task.rate, momentum=0.9, weight_decay=1e-6)
    return found


def _sgd(task: Task, *modules: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(_groups(modules), lr=task.rate, momentum=0.9, weight_decay=1e-4)


def _frozen(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).requires_grad_(False)


def byol(task: Task) -> Step:
    """BYOL; the momentum moves before the forward passes."""
    from lightly.loss import NegativeCosineSimilarity
    from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
    from lightly.models.utils import update_momentum
    from lightly.utils.scheduler import cosine_schedule

    options, encoder, criterion = task.options, task.encoder, NegativeCosineSimilarity()
    projector = BYOLProjectionHead(task.features, options.hidden, options.out)
    predictor = BYOLPredictionHead(options.out, options.hidden, options.out)
    teacher, teacher_projector = _frozen(encoder), _frozen(projector)

    def loss(number: int) -> Tensor:
        momentum = cosine_schedule(number, task.steps, options.tau_base, 1.0)
        update_momentum(encoder, teacher, m=momentum)
        update_momentum(projector, teacher_projector, m=momentum)
        with torch.no_grad():
            first, second = (teacher_projector(teacher(view).flatten(start_dim=1)) for view in task.views)
        p1, p2 = (predictor(projector(encoder(view).flatten(start_dim=1))) for view in task.views)
        found: Tensor = 2 * criterion(first, p2) + 2 * criterion(second, p1)
        return found

    return task.learn(loss, _lars(task, encoder, projector, predictor))


def _joint(task: Task, head: nn.Module, criterion: Callable[[Tensor, Tensor], Tensor]) -> Step:
    """Both views in one forward pass, a projector, and a loss of two projections."""

    def loss(number: int) -> Tensor:
        first, second = head(task.encoder(torch.cat(task.views)).flatten(start_dim=1)).chunk(2)
        return criterion(first, second)

    return task.learn(loss, _lars(task, task.encoder, head))


def simclr(task: Task) -> Step:
    """SimCLR."""
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead

    options = task.options
    head = SimCLRProjectionHead(task.features, options.hidden, options.out, options.layers)
    return _joint(task, head, NTXentLoss(temperature=options.temperature))


def barlow_twins(task: Task) -> Step:
    """Barlow Twins."""
    from lightly.loss import BarlowTwinsLoss
    from lightly.models.modules import BarlowTwinsProjectionHead

    head = BarlowTwinsProjectionHead(task.features, task.options.hidden, task.options.out)
    return _joint(task, head, BarlowTwinsLoss(lambda_param=task.options.redundancy))


def vicreg(task: Task) -> Step:
    """VICReg, with Barlow Twins' projector as lightly has it."""
    from lightly.loss import VICRegLoss
    from lightly.models.modules import BarlowTwinsProjectionHead

    head = BarlowTwinsProjectionHead(task.features, task.options.hidden, task.options.out)
    return _joint(task, head, VICRegLoss())


def simsiam(task: Task) -> Step:
    """SimSiam."""
    from lightly.loss import NegativeCosineSimilarity
    from lightly.models.modules import SimSiamPredictionHead, SimSiamProjectionHead

    options, criterion = task.options, NegativeCosineSimilarity()
    projector = SimSiamProjectionHead(task.features, options.hidden, options.out)
    predictor = SimSiamPredictionHead(options.out, options.bottleneck, options.out)

    def loss(number: int) -> Tensor:
        z1, z2 = (projector(task.encoder(view).flatten(start_dim=1)) for view in task.views)
        p1, p2 = predictor(z1), predictor(z2)
        found: Tensor = 0.5 * (criterion(z1.detach(), p2) + criterion(z2.detach(), p1))
        return found

    return task.learn(loss, _sgd(task, task.encoder, projector, predictor))


def moco_v2(task: Task) -> Step:
    """MoCo v2, one direction; the key encoder on its own batch statistics, of a shuffled batch."""
    from lightly.loss import NTXentLoss
    from lightly.models.modules import MoCoProjectionHead
    from lightly.models.utils import batch_shuffle, batch_unshuffle, update_momentum

    options, encoder = task.options, task.encoder
    head = MoCoProjectionHead(task.features, options.hidden, options.out)
    key_encoder, key_head = _frozen(encoder), _frozen(head)
    criterion = NTXentLoss(temperature=options.temperature, memory_bank_size=(options.queue, options.out))

    def loss(number: int) -> Tensor:
        queries = head(encoder(task.views[1]).flatten(start_dim=1))
        update_momentum(encoder, key_encoder, m=options.tau_base)
        update_momentum(head, key_head, m=options.tau_base)
        with torch.no_grad():
            shuffled, order = batch_shuffle(task.views[0])
            keys = batch_unshuffle(key_head(key_encoder(shuffled).flatten(start_dim=1)), order)
        found: Tensor = criterion(queries, keys)
        return found

    return task.learn(loss, _sgd(task, encoder, head))


def swav(task: Task) -> Step:
    """SwAV with its queue, from the first step on; a projector of our depth, made of lightly's blocks."""
    from lightly.loss import SwaVLoss
    from lightly.models.modules import SwaVPrototypes
    from lightly.models.modules.heads import ProjectionHead
    from lightly.models.modules.memory_bank import MemoryBankModule

    options, width = task.options, task.options.hidden
    head = ProjectionHead([
        (task.features, width, nn.BatchNorm1d(width), nn.ReLU()), (width, width, nn.BatchNorm1d(width), nn.ReLU()),
        (width, options.out, None, None),
    ])
    prototypes = SwaVPrototypes(options.out, options.prototypes)
    criterion = SwaVLoss(options.temperature, options.iterations, options.epsilon)
    queues = [MemoryBankModule(size=(options.queue, options.out)) for _ in task.views]

    def loss(number: int) -> Tensor:
        prototypes.normalize()
        units = [normalize(head(task.encoder(view).flatten(start_dim=1)), dim=1) for view in task.views]
        with torch.no_grad():
            kept = [queue(unit, update=True)[1].permute(1, 0) for queue, unit in zip(queues, units, strict=True)]
            earlier = [prototypes(rows) for rows in kept]
        found: Tensor = criterion([prototypes(unit) for unit in units], [], earlier)
        return found

    return task.learn(loss, _lars(task, task.encoder, head, prototypes))


def dino(task: Task) -> Step:
    """DINO of two large views; the teacher moves behind the loss, before the update."""
    from lightly.loss import DINOLoss
    from lightly.models.modules import DINOProjectionHead
    from lightly.models.utils import update_momentum
    from lightly.utils.scheduler import cosine_schedule

    options, encoder = task.options, task.encoder
    head = DINOProjectionHead(
        task.features, options.hidden, options.out, options.prototypes, batch_norm=options.norm
    )
    teacher = _frozen(encoder)
    teacher_head = DINOProjectionHead(
        task.features, options.hidden, options.out, options.prototypes, batch_norm=options.norm
    ).requires_grad_(False)  # its weight norm cannot be copied
    teacher_head.load_state_dict(head.state_dict())
    criterion = DINOLoss(options.prototypes, teacher_temp=options.teacher_temperature)

    def loss(number: int) -> Tensor:
        large = torch.cat(task.views)
        with torch.no_grad():
            targets = teacher_head(teacher(large).flatten(start_dim=1))
        found: Tensor = criterion(targets.chunk(2), head(encoder(large).flatten(start_dim=1)).chunk(2), epoch=number)
        momentum = cosine_schedule(number, task.steps, options.tau_base, 1.0)
        update_momentum(encoder, teacher, m=momentum)
        update_momentum(head, teacher_head, m=momentum)
        return found

    return task.learn(loss, _sgd(task, encoder, head))


def mae(task: Task) -> Step:
    """MAE on timm's ViT; pixels as they are, predicted at hidden patches alone."""
    from lightly.models import utils
    from lightly.models.modules.masked_vision_transformer_decoder_timm import MaskedVisionTransformerDecoderTIMM
    from lightly.models.modules.masked_vision_transformer_timm import MaskedVisionTransformerTIMM

    options, vit = task.options, task.encoder
    patches, (side, _) = vit.patch_embed.num_patches, vit.patch_embed.patch_size
    encoder, width = MaskedVisionTransformerTIMM(vit), options.decoder_width
    decoder = MaskedVisionTransformerDecoderTIMM(patches, width, options.decoder_depth, options.decoder_heads)
    entrance, exit_ = nn.Linear(task.features, width), nn.Linear(width, side * side * 3)
    criterion, images = nn.MSELoss(), task.views[0]

    def loss(number: int) -> Tensor:
        size = (len(images), patches + 1)
        keep, hide = utils.random_token_mask(size, options.mask_ratio, device=images.device)
        seen = entrance(encoder.encode(images, idx_keep=keep))
        everything = utils.repeat_token(decoder.mask_token, size)
        decoded = decoder(utils.set_at_index(everything, keep, seen.type_as(everything)))
        predicted = exit_(utils.get_at_index(decoded, hide))
        found: Tensor = criterion(predicted, utils.get_at_index(utils.patchify(images, side), hide - 1))
        return found

    # The first mask token of the encoder is never used, and gets no gradient.
    modules = (encoder, entrance, decoder, exit_)
    return task.learn(loss, torch.optim.AdamW(_groups(modules), lr=task.rate, betas=(0.9, 0.95), weight_decay=0.05))


STEPS: dict[str, Callable[[Task], Step]] = {
    "barlow_twins": barlow_twins, "byol": byol, "dino": dino, "mae": mae, "moco_v2": moco_v2, "simclr": simclr,
    "simsiam": simsiam, "swav": swav, "vicreg": vicreg,
}
"""By our name of the method."""
