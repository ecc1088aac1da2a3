"""The two types that travel: a `Sample` between decode and views, a `Batch` from the loader to the step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """One object of a survey, slide or crawl, decoded.

    Attributes:
        fields: Name of the field -> array. An image is (H, W, C), uint8 or float32; C may be any number.
        meta: What else is known of the sample: `channels`, field -> names of its channels.
        id: The user's own identifier, unique in the store.
        index: Position in the store, 0 to N - 1.
    """

    fields: dict[str, np.ndarray]
    meta: dict[str, Any] = field(default_factory=dict)
    id: str = ""
    index: int = -1


@dataclass(frozen=True)
class Batch:
    """What one optimiser step (or one micro-batch of it) learns from.

    Attributes:
        views: One entry a view, each field name -> tensor. Images are (B, C, H, W) in the stored dtype (uint8 or
            float32): `to_input` scales them on the training device.
        labels: Label column or schema name -> tensor of B rows. Counts are (B, A) float32 with all zeros for an
            unlabelled row; classes are (B,) int64 with -1 for an unlabelled row.
        ids: The B identifiers.
        index: (B,) int64 positions in the store.
    """

    views: list[dict[str, Tensor]]
    labels: dict[str, Tensor]
    ids: list[str]
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def slice(self, start: int, stop: int) -> Batch:
        """Rows `start` to `stop` of every tensor, without copying: a micro-batch."""
        part = self._each(lambda tensor: tensor[start:stop])
        return replace(part, ids=self.ids[start:stop], index=self.index[start:stop])

    def pin_memory(self) -> Batch:
        """The same with its tensors in page-locked memory, which a GPU fetches while the host goes on. Torch's loaders
        call this."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, function: Callable[[Tensor], Tensor]) -> Batch:
        views = [{name: function(tensor) for name, tensor in view.items()} for view in self.views]
        return replace(self, views=views, labels={name: function(tensor) for name, tensor in self.labels.items()})
