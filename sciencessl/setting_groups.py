"""The nested groups of a run's settings: optimiser, sampling, compute, log. Each checks its own rules."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from sciencessl.errors import ConfigError
from sciencessl.optim.scaling import Hyperparameters, scale_hyperparameters
from sciencessl.optim.schedules import ScalingRule

Precision = Literal["auto", "float32", "bfloat16"]
MemoryFormat = Literal["auto", "contiguous", "channels_last"]
Strategy = Literal["auto", "ddp", "fsdp"]
Checkpointing = Literal["none", "stage", "block"]
LoggerName = Literal["csv", "tensorboard", "comet", "litlogger", "mlflow", "wandb"]
Norm = Literal["batch", "group_ws", "none"]
"""What normalises encoder and heads: see `sciencessl.backbones.norms.replace_norms`."""


def require(holds: bool, name: str, value: Any, rule: str, fix: str) -> None:
    """Refuse a setting that breaks its rule.

    Raises:
        ConfigError: With its name, its value, the rule and what to do.
    """
    if not holds:
        raise ConfigError(f"{name} is {value!r}; it must be {rule}. Fix: {fix}.")


@dataclass(frozen=True)
class OptimConfig:
    """Optimiser and schedule.

    Attributes:
        name: `lars` as in the BYOL paper, `larc` as in SEER, or `adamw` for small batches.
        base_lr: Learning rate for a batch of `reference_batch`; `scaling` makes the peak of it.
        weight_decay: Of weights; biases and norm parameters have none, except with `larc`.
        momentum: Of LARS and LARC; first beta of AdamW.
        warmup: Fraction of the run in which the learning rate rises, 0 to 1.
        final: Where the cosine after the warm-up ends, as a fraction of the peak, 0 to 1: at 1 the rate stays there.
        scaling: `linear`: the peak is base_lr * batch / reference_batch; `sqrt`, for adamw alone: base_lr times the
            square root of that ratio, with weight decay, betas and epsilon scaled too; `none`: base_lr.
        reference_batch: Batch that base_lr, and with `sqrt` weight_decay and momentum, belong to.
    """

    name: Literal["lars", "larc", "adamw"] = "lars"
    base_lr: float = 0.2
    weight_decay: float = 1.5e-6
    momentum: float = 0.9
    warmup: float = 0.01
    final: float = 0.0
    scaling: ScalingRule = "linear"
    reference_batch: int = 256

    def __post_init__(self) -> None:
        rate = self.base_lr
        require(0 < rate < math.inf, "optim.base_lr", rate, "above 0", "the BYOL paper uses 0.2 with lars")
        require(0 <= self.weight_decay < math.inf, "optim.weight_decay", self.weight_decay, "0 or more", "try 1.5e-6")
        require(0 <= self.momentum < 1, "optim.momentum", self.momentum, "in [0, 1)", "the usual value is 0.9")
        require(0 <= self.warmup <= 1, "optim.warmup", self.warmup, "a fraction in [0, 1]", "the usual value is 0.01")
        require(
            0 <= self.final <= 1, "optim.final", self.final, "a fraction in [0, 1]", "BYOL's is 0, 1 is a constant rate"
        )
        require(
            self.scaling != "sqrt" or self.name == "adamw", "optim.scaling", self.scaling,
            f"linear or none with {self.name}", "the square-root rule is Adam's; set optim.name to adamw for it",
        )
        reference = self.reference_batch
        require(reference >= 1, "optim.reference_batch", reference, "1 or more", "256 is the usual one")

    def at_batch(self, batch: int) -> Hyperparameters:
        """Peak learning rate, weight decay, betas and epsilon at a batch, as `scaling` says.

        Raises:
            ConfigError: When one of Adam's betas would leave [0, 1).
        """
        base = Hyperparameters(
            self.reference_batch, self.base_lr, weight_decay=self.weight_decay, betas=(self.momentum, 0.999)
        )
        return scale_hyperparameters(base, batch / self.reference_batch, self.scaling)


@dataclass(frozen=True)
class SamplingConfig:
    """How training samples are drawn. Without any of these, each sample of split=train comes once an epoch.

    Attributes:
        balance: Column of classes, clusters or groups that are to come equally often, or nearer to it than they do.
        exponent: Of the balance, 0 to 1: n samples of a class come n ** (1 - exponent) times, in proportion.
        weights: Column of numbers, 0 or more: how often each sample comes, relative to the others.
        labelled_share: Share of each batch that has a label for the label term, above 0 and below 1; 0: as they come.
        rates: Whole numbers, one a store: 3 1 draws three samples of the first for each of the second. Without them
            several stores are drawn from as if they were one.
    """

    balance: str = ""
    exponent: float = 1.0
    weights: str = ""
    labelled_share: float = 0.0
    rates: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require(
            0 <= self.exponent <= 1, "sampling.exponent", self.exponent, "in [0, 1]",
            "0 leaves classes as they come, 0.5 tempers them, 1 makes them equal",
        )
        require(
            self.exponent == 1 or bool(self.balance), "sampling.exponent", self.exponent, "given with sampling.balance",
            "name the column to balance",
        )
        require(
            not (self.balance and self.weights), "sampling.weights", self.weights,
            f"alone, without sampling.balance {self.balance!r}, since both say how often a sample comes",
            "give one of them, or a column of weights that balances too: each weight over the size of its class",
        )
        require(
            0 <= self.labelled_share < 1, "sampling.labelled_share", self.labelled_share, "0, or above 0 and below 1",
            "try 0.25; 0 lets labelled samples come as they do",
        )
        require(
            all(rate >= 1 for rate in self.rates), "sampling.rates", list(self.rates), "whole numbers of 1 or more",
            "leave a store out of --data that is not to be drawn from",
        )
        require(
            not (self.rates and self.labelled_share), "sampling.rates", list(self.rates),
            f"alone, without sampling.labelled_share {self.labelled_share:g}, since both divide each batch",
            "give the share and no rates; or, where one store holds the labels, rates that give it that share",
        )


@dataclass(frozen=True)
class ComputeConfig:
    """Where and how it is computed. `auto` is measured once, at the start of a new run, and stored resolved.

    Attributes:
        precision: `float32`, `bfloat16` (autocast) or `auto`.
        memory_format: `contiguous`, `channels_last` or `auto`.
        device: `cpu`, `cuda` or `auto`.
        threads: Threads of torch on the CPU; 0 means all cores.
        workers: Loader processes, of each process that trains; -1 means one less than its cores, at least 1, at most 8.
        strategy: How several processes train one network. `ddp`: each has all of it; `fsdp`: each keeps a part of the
            weights, gradients and optimiser state (FSDP2). `auto` is ddp. Weights come out the same.
        sync_bn_ranks: Processes that batch statistics are computed over, neighbours; 0: all, as one process with the
            whole batch would.
        checkpointing: `stage` or `block`: compute the activations of each again in the backward pass instead of
            keeping them. `none`: keep all.
        compile: Compile the stages of the encoder with torch.compile, which takes a minute or more at the start.
    """

    precision: Precision = "auto"
    memory_format: MemoryFormat = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 0
    workers: int = -1
    strategy: Strategy = "auto"
    sync_bn_ranks: int = 0
    checkpointing: Checkpointing = "none"
    compile: bool = False

    def __post_init__(self) -> None:
        require(self.sync_bn_ranks >= 0, "compute.sync_bn_ranks", self.sync_bn_ranks, "0 or more", "0 means all")
        require(self.threads >= 0, "compute.threads", self.threads, "0 or more", "0 means all cores")
        require(self.workers >= -1, "compute.workers", self.workers, "-1 or more", "-1 chooses")


@dataclass(frozen=True)
class LogConfig:
    """How often what is written, in steps, and where to.

    Attributes:
        every: Metrics.
        monitor_every: Collapse monitors, on steps that write metrics.
        checkpoint_every: Checkpoints.
        keep_checkpoints: How many of them are kept, the last ones: more for `sciencessl average --last`.
        loggers: Where metrics go beside `metrics.jsonl`: `csv` and `tensorboard` into the folder `logs` of the run,
            `comet`, `litlogger`, `mlflow` and `wandb` to these services, by Lightning, with their own packages.
    """

    every: int = 10
    monitor_every: int = 50
    checkpoint_every: int = 200
    keep_checkpoints: int = 2
    loggers: tuple[LoggerName, ...] = ("csv", "tensorboard")

    def __post_init__(self) -> None:
        for name in ("every", "monitor_every", "checkpoint_every", "keep_checkpoints"):
            value = getattr(self, name)
            require(value >= 1, f"log.{name}", value, "1 or more", "the default is a good start")
        loggers = list(self.loggers)
        require(len(set(loggers)) == len(loggers), "log.loggers", loggers, "each logger once", "name each once")
