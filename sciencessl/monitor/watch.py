"""The monitors of a run: from the tensors of a step to plain numbers and, when they are bad, words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sciencessl.methods.base import Method, Online
from sciencessl.monitor import measures
from sciencessl.monitor.collapse import collapse_warnings
from sciencessl.optim.shards import is_sharded, own_parts
from sciencessl.train.ranks import ALONE, Ranks

ROWS = 2048
"""Most rows that a reading is made of: the first ones of each rank. More would cost seconds and change little."""


class Monitor:
    """Reads a step's outputs, and remembers which warnings were told.

    Args:
        ranks: The processes that share the batch. Each calls `read` at the same steps and gets the same values.
    """

    def __init__(self, ranks: Ranks = ALONE) -> None:
        self._ranks = ranks
        self._due: set[str] = set()
        self._told: set[str] = set()

    @torch.no_grad()
    def read(self, method: Method, online: Online, targets: Sequence[Tensor]) -> dict[str, float]:
        """The values of `collapse.MEASURES` that this method has tensors for.

        They are those of the rows of all ranks, which must have equally many; with micro-batches, of the last one.
        Undefined values are left out, and everything below two rows. The device is read once, at the end.

        Args:
            method: Gives the weights of target and online network (`target_pairs`).
            online: Of the step; up to two views are read.
            targets: Of the step.
        """
        gathered, targets = self._gathered(online, list(targets))
        y, z = gathered.representations, gathered.projections
        if len(y[0]) < 2:
            return {}
        found = _spread("", y, rank="effective_rank") | _relations(y)
        limits = {"rank_limit": _limit(y[0])}
        if z:
            found |= _spread("projection_", z, rank="projection_rank")
            limits["projection_rank_limit"] = _limit(z[0])
        found |= _predictor(z, gathered.predictions) | _target_outputs(z, targets) | self._target_weights(method)
        values = torch.stack([value.double() for value in found.values()]).tolist()
        read = {name: value for name, value in zip(found, values, strict=True) if math.isfinite(value)}
        return read | limits

    def warnings(self, values: Mapping[str, float], last: bool = False) -> list[str]:
        """Warnings not told before that two readings in a row call for; one reading is enough when it is the last.

        Networks start with few directions, and leave that state within a few steps.

        Args:
            values: The reading.
            last: No further one follows.
        """
        found = collapse_warnings(values)
        news = {kind for kind in found if last or kind in self._due} - self._told
        self._due = set(found)
        self._told |= news
        return [text for kind, text in found.items() if kind in news]

    def _gathered(self, online: Online, targets: list[Tensor]) -> tuple[Online, list[Tensor]]:
        """Two views at most of each, of all ranks, in one message. Targets beyond the views are for the loss alone."""
        groups = [online.representations, online.projections, online.predictions, targets]
        groups = [group[: min(2, len(online.representations))] for group in groups]
        own = [tensor.detach().flatten(1) for group in groups for tensor in group]
        count = max(ROWS // self._ranks.world, 1)
        own = [tensor[:count].to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in own]
        rows = self._ranks.gather(torch.cat(own, dim=1))
        pieces = iter(rows.split_with_sizes([tensor.shape[1] for tensor in own], dim=1))
        y, z, p, t = ([next(pieces) for _ in group] for group in groups)
        return Online(y, z, p), t

    def _target_weights(self, method: Method) -> dict[str, Tensor]:
        parts = [
            self._squares(target.detach(), online.detach())
            for slow, fast in method.target_pairs()
            for target, online in zip(slow.parameters(), fast.parameters(), strict=True)
        ]
        if not parts:
            return {}
        apart, whole = self._ranks.sum(torch.stack(parts).sum(dim=0)).sqrt().unbind()
        return {"target_distance": apart / whole.clamp(min=measures.TINY)}

    def _squares(self, target: Tensor, online: Tensor) -> Tensor:
        """(2,): |online - target|^2 and |target|^2 of one weight, as this rank's part of a sum over the ranks."""
        ours, theirs = own_parts([online, target])
        squares = torch.stack([(ours - theirs).double().square().sum(), theirs.double().square().sum()])
        return squares if is_sharded(target) else squares / self._ranks.world


def _limit(rows: Tensor) -> float:
    return float(min(len(rows) - 1, rows.shape[1]))


def _spread(prefix: str, views: Sequence[Tensor], rank: str) -> dict[str, Tensor]:
    rows = views[0]
    found = {
        f"{prefix}std": measures.embedding_std(rows), rank: measures.effective_rank(rows),
        f"{prefix}rankme": measures.rankme(rows),
    }
    return found if len(views) < 2 else found | {f"{prefix}lidar": measures.lidar(views[0], views[1])}


def _relations(views: Sequence[Tensor]) -> dict[str, Tensor]:
    found = {"alpha_req": measures.alpha_req(views[0]), "uniformity": measures.uniformity(views[0])}
    return found if len(views) < 2 else found | {"alignment": measures.alignment(views[0], views[1])}


def _predictor(projections: Sequence[Tensor], predictions: Sequence[Tensor]) -> dict[str, Tensor]:
    if not (projections and predictions):
        return {}
    z, p = projections[0], predictions[0]
    spectrum = measures.predictor_spectrum(z, p)
    found = {
        "predictor_rank": measures.spectrum_rank(spectrum.values), "predictor_top": spectrum.values[0],
        "predictor_fit": spectrum.fit,
    }
    return found if z.shape != p.shape else found | {"predictor_distance": measures.relative_distance(p, z)}


def _target_outputs(projections: Sequence[Tensor], targets: Sequence[Tensor]) -> dict[str, Tensor]:
    if not (projections and targets) or projections[0].shape != targets[0].shape:
        return {}
    return {"target_cosine": measures.mean_cosine(projections[0], targets[0])}
