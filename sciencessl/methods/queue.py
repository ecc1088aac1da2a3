"""A queue of projections of earlier steps: negatives that cost no forward pass. Source: MoCo (arXiv 1911.05722)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from sciencessl.errors import ConfigError
from sciencessl.train.ranks import ALONE, Ranks


class Queue(nn.Module):
    """The last rows of earlier steps, of length 1, first in and first out.

    Hold the rows of each micro-batch in `pair_loss`, and call `advance` in `after_step`: the micro-batches of a step do
    not see each other's rows, and one that is only surveyed leaves nothing. Any number of rows may enter at a time,
    more than the queue has too: the newest stay.

    Every process has the same queue, the one that a single process would have. All state is the buffer, so a run goes
    on exactly.

    Before the first steps have filled it, the queue holds random unit rows, as in the released code of MoCo.

    Args:
        size: K, rows that are kept, 1 or more.
        width: D.
        generator: Draws the first rows.

    Attributes:
        rows: (K, D) buffer, float32, the newest last. Without gradient; it changes in `advance` alone.

    Raises:
        ConfigError: For a size below 1.
    """

    rows: Tensor

    def __init__(self, size: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        if size < 1:
            raise ConfigError(f"queue: its size is {size}; it must be 1 or more.")
        self.register_buffer("rows", normalize(torch.randn(size, width, generator=generator), dim=1))
        self._held: list[Tensor] = []

    def hold(self, rows: Tensor, ranks: Ranks = ALONE) -> None:
        """Hold (N, D) rows of any length back until the step is done, behind them those of the next ranks; every rank
        must call this. Without gradient (a survey) nothing is held, and nothing said to other ranks."""
        if torch.is_grad_enabled():
            self._held.append(normalize(ranks.gather(rows).to(self.rows), dim=1))

    @torch.no_grad()
    def advance(self) -> None:
        """Let what is held in, in its order, and the oldest rows out; once a step, after the optimiser."""
        if self._held:
            self.rows.copy_(torch.cat([self.rows, *self._held])[-len(self.rows) :])
            self._held = []
