"""What changes with the batch: hyperparameters that belong to one batch, turned into those of another.

The rules are those of "How to Scale Your EMA" (arXiv 2307.13813) and of what it builds on. Each docstring says which
formula is verified (read in a published text or abstract), which is secondary (read in code or records that cite the
paper), and which is derived here or ours. A base is scaled once: a learning rate that was multiplied by batch / 256
already must not be given.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from sciencessl.errors import ConfigError
from sciencessl.optim.schedules import ScalingRule, peak_learning_rate, target_momentum, warmup_cosine

KAPPA = (1 / 16, 8.0)
"""Least and greatest ratio of batches that a target momentum is scaled by; ours: the paper's own runs reach 6."""
LEAST_MOMENTUM = 0.5
"""Least target momentum that scaling may give: below it the average covers fewer than two updates. Ours."""


@dataclass(frozen=True)
class Hyperparameters:
    """What an optimiser and a moving average are set to at one batch.

    Attributes:
        batch: Samples of an optimiser step, over all ranks and micro-batches.
        learning_rate: Peak, or that of a step.
        tau: Target momentum, in [0, 1]; 1 where nothing is averaged.
        weight_decay: As torch's AdamW and our LARS take it: the step multiplies it by the learning rate.
        betas: Of Adam; the first is also the momentum of LARS.
        eps: Of Adam.
        steps: Optimiser steps of the whole run. Kept as a fraction, so that scaling twice is scaling once.
        warmup: Of them, those in which the learning rate rises.
    """

    batch: float
    learning_rate: float
    tau: float = 1.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    steps: float = 1.0
    warmup: float = 0.0


def scaled_momentum(tau: float, kappa: float) -> float:
    """Target momentum `tau ** kappa` at kappa times the batch: one update does what kappa small ones did.

    Exact for weights that stand still: kappa times `xi <- tau xi + (1 - tau) theta` is
    `xi <- tau^kappa xi + (1 - tau^kappa) theta`. For weights that move it holds to first order in the learning rate.
    `1 - kappa (1 - tau)` is its first order and not used here. A schedule is scaled value by value, at the same
    progress through the run (our reading): tau = 1 stays 1.

    Args:
        tau: At the batch that it belongs to, in [0, 1].
        kappa: New batch over that batch, within `KAPPA` unless nothing changes (kappa or tau is 1).

    Raises:
        ConfigError: For a value outside its range, or a result below `LEAST_MOMENTUM`.

    Source: the EMA scaling rule of arXiv 2307.13813 (verified); its proof covers SGD, not Adam. The bounds are ours.
    """
    if not (0.0 <= tau <= 1.0 and kappa > 0):
        raise ConfigError(f"target momentum: tau {tau} scaled by {kappa}; expected tau in [0, 1] and a ratio above 0.")
    if kappa == 1.0 or tau == 1.0:
        return tau
    if not KAPPA[0] <= kappa <= KAPPA[1]:
        ratio = f"{kappa:g} times" if kappa > 1 else f"1/{1 / kappa:g} of"
        raise ConfigError(
            f"target momentum: the batch is {ratio} the one that tau {tau} belongs to; the rule is trusted from 1/16 "
            f"to {KAPPA[1]:g} times. Give a tau that belongs to a batch nearer to it."
        )
    scaled = float(tau**kappa)
    if scaled < LEAST_MOMENTUM:
        raise ConfigError(
            f"target momentum: tau {tau} becomes {scaled:.3g} at {kappa:g} times its batch, below {LEAST_MOMENTUM}: "
            "the target would average fewer than two updates. Take a smaller batch, or a tau nearer to 1."
        )
    return scaled


def scale_hyperparameters(base: Hyperparameters, kappa: float, rule: ScalingRule) -> Hyperparameters:
    """Hyperparameters at kappa times the batch, for the same epochs. kappa = 1 changes nothing.

    | | linear (SGD, LARS) | sqrt (Adam, AdamW) | none |
    |---|---|---|---|
    | learning rate | kappa eta | sqrt(kappa) eta | eta |
    | tau | tau ^ kappa | same | same |
    | weight decay | wd | sqrt(kappa) wd | wd |
    | betas | as they are | 1 - kappa (1 - beta) | as they are |
    | eps | as it is | eps / sqrt(kappa) | as it is |
    | steps, warm-up | divided by kappa | same | same |

    Weight decay acts as learning rate times decay, and a step at kappa times the batch has to do kappa times as much:
    `eta' wd' = kappa eta wd`. With `none` one leaves it to the caller.

    Args:
        base: What belongs to the smaller or larger batch.
        kappa: New batch over `base.batch`, above 0; may be below 1. For tau see `scaled_momentum`.
        rule: Of the optimiser.

    Raises:
        ConfigError: For a kappa that is not above 0, a beta that would leave [0, 1), or what `scaled_momentum` and
            `peak_learning_rate` refuse.

    Source: table of the EMA scaling rule, arXiv 2307.13813: tau verified; learning rates as in `peak_learning_rate`;
    betas and eps secondary (a training script that cites arXiv 2205.10287); weight decay derived here, to first order,
    and tested against torch's AdamW.
    """
    if not 0 < kappa < math.inf:
        raise ConfigError(f"scaling: the ratio of batches is {kappa}; it must be above 0 and finite.")
    batch = base.batch * kappa
    scaled = dataclasses.replace(
        base,
        batch=batch,
        learning_rate=peak_learning_rate(base.learning_rate, batch, base.batch, rule),
        tau=scaled_momentum(base.tau, kappa),
        steps=base.steps / kappa,
        warmup=base.warmup / kappa,
    )
    if rule != "sqrt" or kappa == 1.0:
        return scaled
    first, second = (_scaled_beta(beta, kappa) for beta in base.betas)
    root = math.sqrt(kappa)
    return dataclasses.replace(
        scaled, betas=(first, second), eps=base.eps / root, weight_decay=base.weight_decay * root
    )


def _scaled_beta(beta: float, kappa: float) -> float:
    scaled = 1.0 - kappa * (1.0 - beta)
    if not 0.0 <= scaled < 1.0:
        raise ConfigError(
            f"square-root scaling: Adam's beta {beta} becomes {scaled:.3g} at {kappa:g} times its batch; it must stay "
            "in [0, 1). Fix: give a learning rate and betas that belong to a batch nearer to it, and name that batch "
            "in optim.reference_batch."
        )
    return scaled


class Phase(NamedTuple):
    """From an epoch on, steps of so many samples.

    Attributes:
        start_epoch: Where the phase begins, in epochs from the start of the run; 0 for the first.
        batch: Samples of a step.
    """

    start_epoch: float
    batch: int


class PhaseSchedule:
    """Progressive scaling: a run whose batch changes, as a pure function of the step.

    Warm-up, cosine and momentum schedule run in samples seen, so they are where they would be without phases; at each
    step their values are scaled by `batch / base.batch`. A phase begins with the first whole step that starts at its
    epoch or after it. Weights, target, batch statistics and the optimiser's moments go on as they are: only what `at`
    returns changes.

    Args:
        base: At its own batch; `steps` and `warmup` count steps of that batch, `learning_rate` is the peak and `tau`
            the momentum at the start.
        phases: In order; the first starts at epoch 0.
        epoch_samples: Samples of an epoch.
        rule: Of the optimiser.
        tau_schedule: Of `target_momentum`.

    Raises:
        ConfigError: When phases are out of order, hold no whole step or lie beyond the end; or, at the first step of a
            phase or the highest learning rate, for what `scale_hyperparameters` refuses.

    Source: algorithm 1 of arXiv 2307.13813 (its existence is secondary; that nothing else is reset, and progress
    counted in samples, is our reading). The paper reports perturbations at the transitions.
    """

    def __init__(
        self,
        base: Hyperparameters,
        phases: Sequence[Phase],
        epoch_samples: int,
        rule: ScalingRule,
        tau_schedule: Literal["cosine", "constant"] = "cosine",
    ) -> None:
        self.base, self.rule, self.tau_schedule = base, rule, tau_schedule
        self._batches = [phase.batch for phase in phases]
        self._samples, self._steps = _boundaries(phases, epoch_samples, round(base.batch * base.steps))
        for batch in self._batches:
            scale_hyperparameters(base, batch / base.batch, rule)

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self._steps[-1]

    @property
    def samples(self) -> int:
        """Samples of the whole run: less than one step below those of the base."""
        return self._samples[-1]

    def at(self, step: int) -> Hyperparameters:
        """What a step is taken with: its batch, learning rate and tau, and what else the rule changes.

        Args:
            step: 0 to `steps` inclusive; the last is the end of the run.

        Raises:
            ConfigError: For a step outside.
        """
        if not 0 <= step <= self.steps:
            raise ConfigError(f"phases: step {step} is outside 0 to {self.steps}.")
        phase = max(k for k in range(len(self._batches)) if self._steps[k] <= step)
        batch = self._batches[phase]
        seen = self._samples[phase] + (step - self._steps[phase]) * batch
        warmup = min(round(self.base.warmup * self.base.batch), self.samples)
        now = dataclasses.replace(
            self.base,
            learning_rate=warmup_cosine(seen, warmup, self.samples, self.base.learning_rate),
            tau=target_momentum(seen, self.samples, self.base.tau, self.tau_schedule),
        )
        return scale_hyperparameters(now, batch / self.base.batch, self.rule)


def _boundaries(phases: Sequence[Phase], epoch_samples: int, total: int) -> tuple[list[int], list[int]]:
    """Samples and steps before each phase, and those of the whole run."""
    if not phases or phases[0].start_epoch != 0:
        raise ConfigError(f"phases: {list(phases)}; the first has to start at epoch 0.")
    ends = [round(phase.start_epoch * epoch_samples) for phase in phases[1:]]
    samples, steps = [0], [0]
    for phase, end in itertools.zip_longest(phases, ends):
        if phase.batch < 1:
            raise ConfigError(f"phases: a batch of {phase.batch}; it must be 1 or more.")
        left = (total if end is None else min(end, total)) - samples[-1]
        count = left // phase.batch if end is None else -(-left // phase.batch)
        if count < 1:
            raise ConfigError(
                f"phases: no whole step of {phase.batch} samples fits into the phase from epoch {phase.start_epoch:g} "
                f"on; the run has {total / epoch_samples:g} epochs of {epoch_samples} samples. Start phases in order, "
                "farther apart and before the end."
            )
        samples.append(samples[-1] + count * phase.batch)
        steps.append(steps[-1] + count)
    return samples, steps
