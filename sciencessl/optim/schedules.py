"""Schedules as pure functions of the step: target momentum, learning rate, and how epochs become steps."""

from __future__ import annotations

import math
from typing import Literal, get_args

from sciencessl.errors import ConfigError, unknown_name

ScalingRule = Literal["linear", "sqrt", "none"]
SCALING_RULES: tuple[ScalingRule, ...] = get_args(ScalingRule)


def target_momentum(step: int, total: int, base: float, kind: Literal["cosine", "constant"] = "cosine") -> float:
    """Momentum tau of the moving-average target at a step.

    Args:
        step: k, 0 to `total` inclusive.
        total: K, steps of the whole run, 1 or more.
        base: tau at step 0, in [0, 1].
        kind: `cosine`: `1 - (1 - base) * (cos(pi k / K) + 1) / 2`, rising to 1; `constant`: always `base`.

    Raises:
        ConfigError: For a value outside its range or an unknown kind.

    Source: BYOL (arXiv 2006.07733).
    """
    _check_step(step, total)
    if not 0.0 <= base <= 1.0:
        raise ConfigError(f"target momentum: base is {base}; it must be in [0, 1].")
    if kind == "constant":
        return base
    if kind != "cosine":
        raise ConfigError(unknown_name("target momentum schedule", kind, ("cosine", "constant")))
    return 1.0 - (1.0 - base) * (math.cos(math.pi * step / total) + 1.0) / 2.0


def warmup_cosine(step: int, warmup: int, total: int, peak: float, final: float = 0.0) -> float:
    """Learning rate at a step: linear from 0 to `peak`, then half a cosine down to `final * peak`.

    `peak * k / warmup` for k < warmup, then `peak * (f + (1 - f) (1 + cos(pi (k - warmup) / (K - warmup))) / 2)` with
    f = `final`. Where warm-up takes the whole run, the last value is `peak`.

    Args:
        step: k, 0 to `total` inclusive.
        warmup: Steps of warm-up, 0 to `total`.
        total: K, steps of the whole run, 1 or more.
        peak: Highest learning rate, 0 or more.
        final: Last value over the peak, in [0, 1]; 1 stays at the peak.

    Raises:
        ConfigError: For a value outside its range.

    Source: BYOL (arXiv 2006.07733), which ends at 0. SEER ends at 0.001 of its peak (VISSL's settings); its 128GF run
    stayed at the peak (the name of its released checkpoint).
    """
    _check_step(step, total)
    if not 0 <= warmup <= total:
        raise ConfigError(f"schedule: warm-up of {warmup} steps in a run of {total}; it must be 0 to {total}.")
    if not peak >= 0:
        raise ConfigError(f"schedule: peak learning rate is {peak}; it must be 0 or more.")
    if not 0 <= final <= 1:
        raise ConfigError(f"schedule: the final learning rate is {final} of the peak; it must be in [0, 1].")
    if step < warmup:
        return peak * step / warmup
    if warmup == total:
        return peak
    fallen = 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / (total - warmup)))
    return peak * (final + (1.0 - final) * fallen)


def peak_learning_rate(base_lr: float, batch: float, reference: float = 256, rule: ScalingRule = "linear") -> float:
    """The learning rate at a batch, from the one at another batch, by a scaling rule.

    With kappa = batch / reference: `linear` is `kappa * base_lr`, `sqrt` is `sqrt(kappa) * base_lr`, `none` is
    `base_lr`.

    Args:
        base_lr: Learning rate at the reference, 0 or more.
        batch: Samples of a step, 1 or more.
        reference: Samples of a step that `base_lr` belongs to, 1 or more.
        rule: One of the three.

    Raises:
        ConfigError: For a value outside its range or an unknown rule.

    Source: linear, for SGD and LARS: arXiv 1706.02677; BYOL (arXiv 2006.07733) uses reference 256. sqrt, for Adam:
    arXiv 2205.10287, by its abstract.
    """
    if not (batch >= 1 and reference >= 1 and base_lr >= 0):
        raise ConfigError(
            f"learning rate: base_lr {base_lr}, batch {batch}, reference {reference}; base_lr must be 0 or more and "
            "the other two 1 or more."
        )
    if rule not in SCALING_RULES:
        raise ConfigError(unknown_name("scaling rule", rule, SCALING_RULES))
    if rule == "linear":
        return base_lr * batch / reference
    return base_lr * math.sqrt(batch / reference) if rule == "sqrt" else base_lr


def epochs_to_steps(epochs: int, samples: int, batch: int) -> int:
    """Whole steps in a number of epochs: `epochs * samples // batch`. Tickets run on across epochs, so one floor.

    Raises:
        ConfigError: For fewer than 0 epochs, or samples or batch below 1.

    Source: BYOL's released code (byol/byol_experiment.py).
    """
    if epochs < 0 or samples < 1 or batch < 1:
        raise ConfigError(
            f"schedule: {epochs} epochs of {samples} samples in batches of {batch}; epochs must be 0 or more and the "
            "other two 1 or more."
        )
    return epochs * samples // batch


def _check_step(step: int, total: int) -> None:
    if total <= 0:
        raise ConfigError(f"schedule: a run of {total} steps; it must have 1 or more.")
    if not 0 <= step <= total:
        raise ConfigError(f"schedule: step {step} is outside 0 to {total}. Raise max_steps to train for longer.")
