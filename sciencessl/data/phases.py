"""A batch that grows during a run: from an epoch on, each step takes several batches of the order.

The order keeps to the batch that the run begins with. So which sample comes when, what each rank takes of it and how it
is cut into micro-batches do not hang on the phases: a step only takes more of the same sequence, and each sample comes
once an epoch as before. The rule is ours; that a batch may grow is progressive scaling, arXiv 2307.13813.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from sciencessl.errors import ConfigError


@dataclass(frozen=True)
class Phases:
    """How many batches of the order each step takes; as it stands, one.

    A phase begins with the first step that begins at its epoch or later.

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


def read_phases(words: Sequence[str], batch: int) -> list[tuple[float, int]]:
    """Epoch and samples of a step of each phase, from words such as `8192@10`: 8192 samples from epoch 10 on.

    Args:
        words: In order; none for a batch that stays.
        batch: Which the run begins with.

    Raises:
        ConfigError: For other words, phases out of order, or a batch that is no multiple of the first.
    """
    found: list[tuple[float, int]] = []
    for word in words:
        match = re.fullmatch(r"(\d+)@(\d+\.?\d*)", str(word))
        if match is None:
            raise ConfigError(
                f"phases has {word!r}; expected BATCH@EPOCH. Fix: write {2 * batch}@10 for {2 * batch} samples a step "
                "from epoch 10 on."
            )
        size, epoch = int(match[1]), float(match[2])
        if epoch <= (found[-1][0] if found else 0.0):
            before = f"epoch {found[-1][0]:g}" if found else "the start"
            raise ConfigError(
                f"phases has {word} after {before}; epochs must be above 0 and rise. Fix: put phases in order, without "
                f"what the run begins with (batch={batch})."
            )
        if not size or size % batch:
            raise ConfigError(
                f"phases has {word}; batches must be multiples of batch={batch}, which the run begins with. Fix: take "
                f"{max(2, size // batch) * batch}@{epoch:g}."
            )
        found.append((epoch, size))
    return found


def make_phases(words: Sequence[str], batch: int, epoch_samples: int) -> Phases:
    """Where phases begin, in steps.

    Args:
        words: As `read_phases` takes them.
        batch: That of the order, which the run begins with.
        epoch_samples: Samples of an epoch.

    Raises:
        ConfigError: As `read_phases`; or when no whole step fits between the starts of two phases.
    """
    factors, first_steps, first_batches = [1], [0], [0]
    for epoch, size in read_phases(words, batch):
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
