"""What changes with the batch: hyperparameters that belong to one batch, turned into those of another.

The rules are those of "How to Scale Your EMA" (arXiv 2307.13813) and of what it builds on. Each docstring says which
formula is verified (read in a published text or abstract), which is secondary (read in code or records that cite the
paper), and which is derived here or ours. A base is scaled once: a learning rate that was multiplied by batch / 256
already must not be given.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from sciencessl.errors import ConfigError
from sciencessl.optim.schedules import ScalingRule, peak_learning_rate

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


def set_hyperparameters(optimizer: Any, found: Hyperparameters) -> None:
    """Set weight decay, betas and epsilon of an optimiser, where its groups have them; a decay of 0 stays 0.

    Args:
        optimizer: Has `param_groups`.
        found: Of the batch of the next step. Its learning rate is a peak, and not set.
    """
    for group in optimizer.param_groups:
        if group["weight_decay"]:
            group["weight_decay"] = found.weight_decay
        if "betas" in group:
            group["betas"], group["eps"] = found.betas, found.eps


def _scaled_beta(beta: float, kappa: float) -> float:
    scaled = 1.0 - kappa * (1.0 - beta)
    if not 0.0 <= scaled < 1.0:
        raise ConfigError(
            f"square-root scaling: Adam's beta {beta} becomes {scaled:.3g} at {kappa:g} times its batch; it must stay "
            "in [0, 1). Fix: give a learning rate and betas that belong to a batch nearer to it, and name that batch "
            "in optim.reference_batch."
        )
    return scaled
