"""The Lightning shell around the step: manual optimisation, one endless iterable, `max_steps`."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import nn

from sciencessl.data.loader import loader_error, make_loader
from sciencessl.errors import RunError
from sciencessl.methods.base import Method, Online
from sciencessl.monitor.collapse import gauge
from sciencessl.monitor.throughput import Progress, Throughput
from sciencessl.samples import Batch
from sciencessl.setting_groups import LogConfig, OptimConfig
from sciencessl.train import checkpoint as ckpt
from sciencessl.train.folder import MetricsFile
from sciencessl.train.plan import Plan, build_optimizer, make_stream, memory_layout
from sciencessl.train.step import LabelTerm, Recipe, train_step

DIVERGED = (
    "Lower optim.base_lr, or use compute.precision float32, in a new run; the last checkpoint, if there is one, is "
    "from before."
)
UNDERSTOOD = (
    ".*does not have many workers.*",  # the number is chosen by us, or by the user
    ".*isinstance.treespec, LeafSpec.*",  # Lightning's own use of a name that torch moves
)


class AtomicCheckpointIO(CheckpointIO):
    """Lightning's checkpoints through ours: whole or absent, read without unpickling code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write the checkpoint whole or not at all."""
        ckpt.save_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any | None = None, weights_only: bool | None = None) -> Any:
        """Read a checkpoint.

        Raises:
            RunError: When it is torn, or holds more than plain tensors and values.
        """
        return ckpt.load_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Delete one checkpoint."""
        Path(path).unlink(missing_ok=True)


class Pretraining(LightningModule):
    """Hosts `train_step`; owns nothing but the count of steps taken.

    Args:
        method: The method.
        terms: Label terms.
        recipe: Of the step.
        optim: Optimiser settings.
        log: How often what is written.
        run: Run folder.
        identity: What a checkpoint must agree with to be continued (backbone, method, settings...).
        loader_state: Steps taken -> the state of the loader, of plain values.
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
        loader_state: Callable[[int], list[dict[str, Any]]],
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
        self._loader_state = loader_state
        self._tell = tell
        self.taken = 0
        self._warned = False
        self._saved: Path | None = None
        self.stop_requested = False

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One optimiser over method and label heads."""
        return build_optimizer({"method": self.method, "terms": self.terms}, self._optim, self.recipe.batch)

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
        if not math.isfinite(row["loss"]):
            raise RunError(f"the loss is {row['loss']} at step {self.taken}. {DIVERGED}")
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
        """Write a checkpoint of the steps taken so far, unless there is one.

        Raises:
            RunError: When a weight is no longer a number: nothing could be continued from it.
        """
        if ckpt.checkpoint_path(self._run, self.taken) == self._saved:
            return
        finite = [parameter.detach().isfinite().all() for parameter in self.parameters()]
        if not bool(torch.stack(finite).all()):
            raise RunError(f"a weight is not finite after step {self.taken}. {DIVERGED}")
        self._saved = ckpt.checkpoint_path(self._run, self.taken)
        self.trainer.save_checkpoint(self._saved)
        ckpt.prune(self._run)

    def on_train_end(self) -> None:
        """Leave the terminal as it was."""
        self._progress.close()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The steps taken are the whole state of data and randomness: batches that wait in a loader do not count."""
        checkpoint["sciencessl"] = {
            "schema": ckpt.SCHEMA, "taken": self.taken, "identity": self._identity,
            "loader": self._loader_state(self.taken),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over the count of steps."""
        self.taken = ckpt.steps_taken(checkpoint)


@contextlib.contextmanager
def stop_on_signal(module: Pretraining) -> Iterator[None]:
    """SIGTERM, SIGUSR1 and Ctrl-C end the run after the step in hand, with a checkpoint; a second Ctrl-C at once.

    Only in the main thread: Python lets no other one handle signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def request(number: int, frame: Any) -> None:
        if number == signal.SIGINT and module.stop_requested:
            raise KeyboardInterrupt
        module.stop_requested = True

    before = {number: signal.signal(number, request) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def fit(module: Pretraining, plan: Plan, checkpoint: Path | None, taken: int) -> None:
    """Train to the end, or to a signal; the last checkpoint is that of the last step taken.

    Args:
        module: What is trained.
        plan: Its settings and data.
        checkpoint: Where to go on from.
        taken: Steps before.

    Raises:
        RunError: When the loss is no number, or a loader process died. Steps taken before are in a checkpoint.
        StoreError: When the store is damaged; steps taken before are in a checkpoint.
    """
    settings = plan.config.run
    module.method.to(memory_format=memory_layout(settings.compute.memory_format))
    loader = make_loader(make_stream(plan, taken), settings.compute.workers)
    with _quiet_lightning(), stop_on_signal(module):
        trainer = Trainer(
            max_steps=settings.steps, accelerator=settings.compute.device, devices=1, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            plugins=[AtomicCheckpointIO()], inference_mode=False, use_distributed_sampler=False,
        )
        try:
            trainer.fit(module, loader, ckpt_path=checkpoint)
        except SIGTERMException:
            # Lightning's own answer to the signal, when it came after ours was looked at: the step in hand is done.
            module.stop_requested = True
        except Exception as error:
            cause = loader_error(error)
            if cause is None:
                raise
            _save_if_taken(module)
            if not module.stop_requested:  # a signal to the whole job ends its loaders too
                raise cause from None
        _save_if_taken(module)


def _save_if_taken(module: Pretraining) -> None:
    if module.taken:
        module.save()


@contextlib.contextmanager
def _quiet_lightning() -> Iterator[None]:
    """What Lightning says of hardware, loaders and resuming is about choices that are ours."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for message in UNDERSTOOD:
            warnings.filterwarnings("ignore", message=message)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
