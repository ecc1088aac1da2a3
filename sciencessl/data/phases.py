"""A batch that grows during a run: from a phase on, each step takes several batches of the order.

The order keeps to the batch that the run begins with. So which sample comes when, what each rank takes of it and how it
is cut into micro-batches do not hang on the phases: a step only takes more of the same sequence, and each sample comes
once an epoch as before. The rule is ours; that a batch may grow is progressive scaling, arXiv 2307.13813.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from sciencessl.errors import ConfigError

Phase = tuple[float, int]
"""An epoch, and the samples of a step from the first step on that begins at it or later."""


@dataclass(frozen=True)
class Phases:
    """How many batches of the order each step takes; as it stands, one.

    Attributes:
        factors: Batches of a step, for each phase.
        first_steps: First step of each phase.
        first_batches: Batches of the order that are taken before it.
    """

    factors: tuple[int, ...] = (1,)
    first_steps: tuple[int, ...] = (0,)
    first_batches: tuple[int, ...] = (0,)

    def factor(self, step: int) -> int:
        """Batches of the order that a step takes."""
        return self.factors[self._phase(step)]

    def before(self, step: int) -> int:
        """Batches of the order that all steps before a step took."""
        phase = self._phase(step)
        return self.first_batches[phase] + (step - self.first_steps[phase]) * self.factors[phase]

    def batches(self, step: int) -> range:
        """Numbers of the batches of the order that a step takes."""
        return range(self.before(step), self.before(step + 1))

    def steps(self, batches: int) -> int:
        """Whole steps in so many batches of the order."""
        phase = bisect_right(self.first_batches, batches) - 1
        return self.first_steps[phase] + (batches - self.first_batches[phase]) // self.factors[phase]

    def _phase(self, step: int) -> int:
        return bisect_right(self.first_steps, step) - 1


ONE = Phases()
"""A batch that stays as it is."""


def check_phases(phases: Sequence[Phase], batch: int) -> None:
    """Refuse phases that are out of order, or whose batch is no multiple of the first.

    Raises:
        ConfigError: Naming the phase.
    """
    epochs = [0.0, *(epoch for epoch, _ in phases)]
    for before, (epoch, size) in zip(epochs, phases, strict=False):
        if not epoch > before:
            raise ConfigError(
                f"phases: a phase from epoch {epoch:g} after one from epoch {before:g}; they have to come in order. "
                f"The run begins with batch={batch}; write phases such as [[10, {2 * batch}], [20, {4 * batch}]]."
            )
        if size < batch or size % batch:
            raise ConfigError(
                f"phases: {size} samples a step from epoch {epoch:g} on; it must be a multiple of batch={batch}, "
                "which the run begins with."
            )


def make_phases(phases: Sequence[Phase], batch: int, epoch_samples: int) -> Phases:
    """Where phases begin, in steps.

    Args:
        phases: As `check_phases` lets them pass; none for a batch that stays.
        batch: That of the order, which the run begins with.
        epoch_samples: Samples of an epoch.

    Raises:
        ConfigError: When no whole step fits between the starts of two phases.
    """
    factors, first_steps, first_batches = [1], [0], [0]
    for epoch, size in phases:
        start = -(-round(epoch * epoch_samples) // batch)
        count = -(-(start - first_batches[-1]) // factors[-1])
        if count < 1:
            raise ConfigError(
                f"phases: no step of {factors[-1] * batch} samples fits before the phase from epoch {epoch:g} on, with "
                f"epochs of {epoch_samples} samples. Let phases begin farther apart."
            )
        first_steps.append(first_steps[-1] + count)
        first_batches.append(first_batches[-1] + count * factors[-1])
        factors.append(size // batch)
    return Phases(tuple(factors), tuple(first_steps), tuple(first_batches))
