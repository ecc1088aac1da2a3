"""Columns of posteriors: how they are called, and what they hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sciencessl.errors import ConfigError
from sciencessl.evaluate.posterior import asked, expected_fractions, mixture_quantiles
from sciencessl.evaluate.vote_calibration import LEVELS
from sciencessl.spec import LabelSchema

FRIENDLY = 0.5
"""Least probability of being asked below which answers are masked for people who want no caveats."""


@dataclass(frozen=True)
class PosteriorSettings:
    """What the columns hold.

    Attributes:
        level: Probability that the interval of an answer holds, in (0, 1).
        dropout_passes: P passes with the head's dropout for each run; 0 is one without.
        seed: Of the dropout.
        concentrations: Also write those of all members.
        friendly: Mask the answers of questions that are more likely not asked.

    Raises:
        ConfigError: For a level outside (0, 1) or negative passes.
    """

    level: float = 0.9
    dropout_passes: int = 0
    seed: int = 0
    concentrations: bool = False
    friendly: bool = False

    def __post_init__(self) -> None:
        if not 0.0 < self.level < 1.0:
            raise ConfigError(f"--level {self.level}: give the probability that intervals hold, such as 0.9 for 90 %.")
        if self.dropout_passes < 0:
            raise ConfigError(f"--dropout-passes {self.dropout_passes}: give 1 or more; 0 leaves dropout out.")

    @property
    def percent(self) -> str:
        """The level as columns spell it: `90pc`."""
        return f"{round(100 * self.level, 6):.9g}pc"

    @property
    def ends(self) -> tuple[float, float]:
        """Probabilities below the lower and the upper end."""
        return (1 - self.level) / 2, (1 + self.level) / 2

    @property
    def levels(self) -> tuple[float, ...]:
        """Whose coverage is counted."""
        return tuple(sorted({*LEVELS, self.level}))

    def columns(self, schema: LabelSchema) -> tuple[str, ...]:
        """Columns that follow `id` and `split`: for each question its own, then three or four of each answer."""
        kinds = ["fraction", f"{self.percent}-lower", f"{self.percent}-upper",
                 *(["concentrations"] if self.concentrations else [])]
        return tuple(name for question in schema.questions for name in (
            f"{question.name}_proportion-asked",
            *(f"{column}_{kind}" for column in question.columns for kind in kinds),
        ))


def posterior_columns(alpha: np.ndarray, schema: LabelSchema, settings: PosteriorSettings) -> dict[str, np.ndarray]:
    """What shards hold of some samples, in the order of `PosteriorSettings.columns`.

    Args:
        alpha: (M, n, A) concentrations.
        schema: Of the A answers.
        settings: What is asked for.

    Returns:
        Column -> (n,) or, of concentrations, (n, M) float32.

    Raises:
        ConfigError, DataError: As `posterior.expected_fractions`.
    """
    often = asked(alpha, schema)
    values = [expected_fractions(alpha, schema.groups), *mixture_quantiles(alpha, schema.groups, settings.ends)]
    if settings.friendly:
        widths = [stop - start for start, stop in schema.groups]
        hidden = np.repeat(often < FRIENDLY, widths, axis=1)
        values = [np.where(hidden, np.nan, value) for value in values]
    stacked = [*values, *([alpha.transpose(1, 2, 0)] if settings.concentrations else [])]
    arrays: list[np.ndarray] = []
    for number, (start, stop) in enumerate(schema.groups):
        arrays.append(often[:, number])
        arrays += [value[:, column] for column in range(start, stop) for value in stacked]
    return {name: array.astype(np.float32) for name, array in zip(settings.columns(schema), arrays, strict=True)}
