"""The Lightning shell around the step: manual optimisation, one endless iterable, `max_steps`."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import nn

from sciencessl.config import LogConfig, OptimConfig
from sciencessl.errors import RunError
from sciencessl.methods.base import Method, Online
from sciencessl.monitor.collapse import gauge
from sciencessl.monitor.throughput import Progress, Throughput
from sciencessl.optim.groups import parameter_groups
from sciencessl.optim.lars import LARS
from sciencessl.samples import Batch
from sciencessl.train import checkpoint as ckpt
from sciencessl.train.folder import MetricsFile
from sciencessl.train.step import LabelTerm, Recipe, train_step


def build_optimizer(modules: dict[str, nn.Module], settings: OptimConfig) -> torch.optim.Optimizer:
    """LARS as in the BYOL paper, or AdamW; biases and norms are excluded from decay by the same rule."""
    groups = parameter_groups(modules, settings.weight_decay)
    if settings.name == "lars":
        return LARS(groups, lr=settings.base_lr, momentum=settings.momentum)
    for group in groups:
        group.pop("adapt")
    return torch.optim.AdamW(groups, lr=settings.base_lr, betas=(settings.momentum, 0.999))


class Pretraining(LightningModule):
    """Hosts `train_step`; owns nothing but the count of steps taken.

    Args:
        method: The method.
        terms: Label terms.
        recipe: Of the step.
        optim: Optimiser settings.
        log: How often what is written.
        run: Run folder.
        identity: What a checkpoint must agree with to be continued (store digest, backbone, method...).
        tell: Called with a warning in words.
    """

    def __init__(
        self,
        method: Method,
        terms: Sequence[LabelTerm],
        recipe: Recipe,
        optim: OptimConfig,
        log: LogConfig,
        run: Path,
        identity: dict[str, str],
        tell: Callable[[str], None],
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.method = method
        self.terms = nn.ModuleList(terms)
        self.recipe = recipe
        self._optim = optim
        self._log_settings = log
        self._run = run
        self._identity = identity
        self._tell = tell
        self.taken = 0
        self._warned = False
        self.stop_requested = False

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One optimiser over method and label heads."""
        return build_optimizer({"method": self.method, "terms": self.terms}, self._optim)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """The step moves what it needs, in the stored dtype."""
        return batch

    def on_train_start(self) -> None:
        """Open what is written during the run."""
        self._metrics = MetricsFile(self._run, self.taken)
        self._throughput = Throughput()
        self._progress = Progress(self.recipe.total_steps, self.taken, title="pretrain")

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One optimiser step; numbers are read from the device only where they are logged."""
        self._throughput.begin()
        size = len(batch) // self.recipe.accumulate
        parts = [batch.slice(start, start + size) for start in range(0, len(batch), size)]
        terms = [term for term in self.terms if isinstance(term, LabelTerm)]
        result = train_step(self.method, terms, self.optimizers(), parts, self.recipe, self.taken)
        self.taken += 1
        self._throughput.end(len(batch))
        self._observe(result.metrics, result.online)
        if self.taken % self._log_settings.checkpoint_every == 0 or self.stop_requested:
            self.save()
        if self.stop_requested:
            self.trainer.should_stop = True

    def _observe(self, metrics: dict[str, Any], online: Online) -> None:
        settings = self._log_settings
        last = self.taken == self.recipe.total_steps
        if self.taken % settings.every and not last:
            self._progress.update(self.taken)
            return
        row: dict[str, Any] = {"step": self.taken, "images": self.taken * self.recipe.batch}
        row |= {name: float(value) for name, value in metrics.items()}
        if not row["loss"] - row["loss"] == 0:
            raise RunError(
                f"the loss is {row['loss']} at step {self.taken}. Lower optim.base_lr, or use "
                "--compute.precision float32; the last checkpoint is from before."
            )
        if self.taken % settings.monitor_every == 0 or self.taken == settings.every or last:
            row |= self._gauge(online)
        rate, waited = self._throughput.read()
        self._metrics.write({**row, "images_per_s": round(rate, 1), "data_wait": round(waited, 3)})
        self._progress.update(self.taken, f"loss {row['loss']:.3f}, {rate:.0f} images/s, {waited:.0%} waiting for data")

    def _gauge(self, online: Online) -> dict[str, float]:
        found = gauge(online.representations[0])
        row = {"std": found.std, "effective_rank": found.effective_rank}
        if online.projections:
            projected = gauge(online.projections[0])
            row |= {"projection_std": projected.std, "projection_rank": projected.effective_rank}
        if found.warning and not self._warned:
            self._warned = True
            self._tell(f"step {self.taken}: {found.warning}")
        return row

    def save(self) -> None:
        """Write a checkpoint of the steps taken so far."""
        self.trainer.save_checkpoint(ckpt.checkpoint_path(self._run, self.taken))
        ckpt.prune(self._run)

    def on_train_end(self) -> None:
        """Leave the terminal as it was."""
        self._progress.close()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The steps taken are the whole state of data and randomness."""
        checkpoint["sciencessl"] = {"schema": ckpt.SCHEMA, "taken": self.taken, "identity": self._identity}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over the count of steps.

        Raises:
            RunError: When the checkpoint belongs to other data or another model.
        """
        ours = checkpoint["sciencessl"]
        for name, value in self._identity.items():
            if ours["identity"].get(name) != value:
                raise RunError(
                    f"the checkpoint was made with {name} {ours['identity'].get(name)!r}, this run has {value!r}. "
                    "Resume with what it was made with, or start anew from its weights with --init-from."
                )
        self.taken = int(ours["taken"])


@contextlib.contextmanager
def stop_on_signal(module: Pretraining) -> Iterator[None]:
    """SIGTERM and SIGUSR1 end the run after the step in hand, with a checkpoint. Only in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def request(number: int, frame: Any) -> None:
        module.stop_requested = True

    before = {number: signal.signal(number, request) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
