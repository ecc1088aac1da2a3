"""Labels only: the hybrid without its pair loss, so that the three arms of a comparison share one code path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sciencessl.methods.base import Method, Online


@dataclass(frozen=True)
class LabelsOnlyOptions:
    """No settings: what it learns from is `--labels`."""


class LabelsOnly(Method):
    """An encoder and a label head on the first view, trained by the label loss itself.

    The authors' code reaches this arm with a very large label weight (galaxy hybrid card, arXiv 2206.11927); here the
    pair loss is left out, and the label loss is not rescaled.
    """

    title: ClassVar[str] = "labels only: the label loss of the hybrid without a pair loss"
    paper: ClassVar[str] = "arXiv 2206.11927"
    status: ClassVar[str] = "ours"
    cost: ClassVar[float] = 0.375
    n_views: ClassVar[int] = 1
    multi_crop: ClassVar[bool] = False
    Options: ClassVar[type] = LabelsOnlyOptions

    def online(self, views: Sequence[Tensor]) -> Online:
        """y of the first view."""
        return Online([self.encoder(views[0])], [], [])
