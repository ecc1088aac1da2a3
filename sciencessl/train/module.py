"""The Lightning shell around the step: manual optimisation, one endless iterable, `max_steps`."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import nn

from sciencessl.data.loader import loader_error, make_loader
from sciencessl.errors import RunError
from sciencessl.methods.base import Method
from sciencessl.monitor.logs import Logs
from sciencessl.monitor.probes import OWN_BUFFER, Probes
from sciencessl.monitor.throughput import Progress, Throughput
from sciencessl.monitor.watch import Monitor
from sciencessl.optim.shards import own_parts
from sciencessl.samples import Batch
from sciencessl.setting_groups import LogConfig
from sciencessl.train import checkpoint as ckpt
from sciencessl.train.cost import supervised_rate
from sciencessl.train.plan import Plan, make_stream
from sciencessl.train.ranks import StopVote
from sciencessl.train.state import gather_state, restore_state
from sciencessl.train.step import StepResult, Wrapped, train_step

DIVERGED = (
    "Lower optim.base_lr, or use compute.precision float32, in a new run; the last checkpoint, if there is one, is "
    "from before."
)
UNDERSTOOD = (
    ".*does not have many workers.*",  # the number is chosen by us, or by the user
    ".*isinstance.treespec, LeafSpec.*",  # Lightning's own use of a name that torch moves
    "FSDP2-wrapped module .* returned a view tensor",  # no output is changed in place
)


class Pretraining(LightningModule):
    """Hosts `train_step`; owns nothing but the count of steps taken.

    Args:
        wrapped: What is trained.
        optimizer: Of its parameters.
        log: How often what is written.
        run: Run folder, the same for all ranks.
        about: Steps taken -> what a checkpoint says of itself beside them, of plain values.
        tell: Called with a warning in words, on the first rank.
        probes: Scored and taught on each step's features.
    """

    def __init__(
        self,
        wrapped: Wrapped,
        optimizer: torch.optim.Optimizer,
        log: LogConfig,
        run: Path,
        about: Callable[[int], Mapping[str, Any]],
        tell: Callable[[str], None],
        probes: Probes | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network = wrapped.network
        self.wrapped = wrapped
        self.recipe = wrapped.network.recipe
        self.optimizer = optimizer
        self._log_settings = log
        self._run = run
        self._about = about
        self._tell = tell
        self.probes = probes
        self._saver = ckpt.Saver(run, wrapped.ranks, keep=log.keep_checkpoints)
        self._vote = StopVote(wrapped.ranks)
        self.taken = 0
        self._monitor = Monitor(wrapped.ranks)
        self._saved = -1
        self.stop_requested = False

    @property
    def method(self) -> Method:
        """The method."""
        return self.network.method

    @property
    def modules_saved(self) -> dict[str, nn.Module]:
        """What a checkpoint holds, under names."""
        found: dict[str, nn.Module] = {"method": self.network.method, "terms": self.network.terms}
        return found if self.probes is None else {**found, "probes": self.probes}

    @property
    def own(self) -> list[str]:
        """Names of tensors that each rank has its own of."""
        return [*(f"method.{name}" for name in self.method.own_buffers), f"probes.{OWN_BUFFER}"]

    def restore(self, path: Path, content: ckpt.Content) -> None:
        """Go on from a checkpoint.

        Raises:
            RunError: When it does not fit.
        """
        restore_state(path, content, self.modules_saved, self.optimizer, self.own, self.wrapped.ranks)
        self.taken = self._saved = ckpt.steps_taken(content)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One optimiser over method and label heads."""
        return self.optimizer

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """The step moves what it needs, in the stored dtype."""
        return batch

    def on_train_start(self) -> None:
        """Open what is written during the run."""
        if self.network.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()  # what was measured before the run may have taken more than it
        self._throughput = Throughput(self.wrapped.ranks.world, supervised=supervised_rate(self._run),
                                      cost=self.method.cost)
        if self.wrapped.ranks.first:
            self._logs = Logs(self._run, self.taken, self._log_settings.loggers, self._tell)
            self._progress = Progress(self.recipe.total_steps, self.taken, title="pretrain")

    def cpu(self) -> Self:
        """Stays where it is: Lightning asks at the end, and FSDP2 in the midst of a failed step would fail again."""
        return self

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One optimiser step; numbers are read from the device only where they are logged."""
        self._throughput.begin()
        size = len(batch) // self.recipe.at(self.taken).accumulate
        parts = [batch.slice(start, start + size) for start in range(0, len(batch), size)]
        result = train_step(self.wrapped, self.optimizers(), parts, self.taken)
        self.taken += 1
        if self.probes is not None:
            self.probes.observe(result.online.representations[0], parts[-1], self.wrapped.ranks)
        self._throughput.end(len(batch))
        self._observe(result)
        # All ranks stop after the same step, whichever was asked to.
        stop = self._vote(self.stop_requested)
        if self.taken % self._log_settings.checkpoint_every == 0 or stop:
            self.save(background=not stop)
        if stop:
            self.trainer.should_stop = True

    def _observe(self, result: StepResult) -> None:
        settings = self._log_settings
        last = self.taken == self.recipe.total_steps
        if self.taken % settings.every and not last:
            self._show()
            return
        row: dict[str, Any] = {"step": self.taken, "images": self.recipe.images(self.taken)}
        row |= {name: float(value) for name, value in result.metrics.items()}
        if not math.isfinite(row["loss"]):
            raise self.wrapped.ranks.alike(RunError(f"the loss is {row['loss']} at step {self.taken}. {DIVERGED}"))
        if self.taken % settings.monitor_every == 0 or self.taken == settings.every or last:
            values = self._monitor.read(self.method, result.online, result.targets)
            row |= values
            for words in self._monitor.warnings(values, last):
                self._tell(f"step {self.taken}: {words}")
        row |= {**(self.probes.read() if self.probes is not None else {}), **self._throughput.read()}
        if self.wrapped.ranks.first:
            self._logs.write(row)
        speed = f"{row['images_per_s']:.0f} images/s, {row['data_wait']:.0%} waiting for data"
        self._show(f"loss {row['loss']:.3f}, {speed}")

    def _show(self, note: str = "") -> None:
        if self.wrapped.ranks.first:
            self._progress.update(self.taken, note)

    def save(self, background: bool = False) -> None:
        """Write a checkpoint of the steps taken so far, unless there is one. Every rank must call this.

        The steps taken are the whole state of data and randomness: batches that wait in a loader do not count.

        Args:
            background: Go on while it is written.

        Raises:
            RunError: When a weight is no longer a number: nothing could be continued from it; or when the checkpoint,
                or the one before, could not be written.
        """
        if self.taken == self._saved:
            self._saver.wait()
            return
        parts = own_parts(list(self.network.parameters()))
        finite = torch.stack([part.detach().isfinite().all() for part in parts])
        if self.wrapped.ranks.sum((~finite).sum()):
            raise self.wrapped.ranks.alike(RunError(f"a weight is not finite after step {self.taken}. {DIVERGED}"))
        state = gather_state(self.modules_saved, self.optimizer)
        self._saver.save(state, {"taken": self.taken, **self._about(self.taken)}, self.own, background)
        self._saved = self.taken

    def written(self) -> None:
        """Wait for a checkpoint that is being written."""
        self._saver.wait()

    def on_train_end(self) -> None:
        """Leave the terminal as it was, and loggers closed."""
        if self.wrapped.ranks.first:
            self._progress.close()
            self._logs.close()


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


class OneDevice(SingleDeviceStrategy):
    """Lightning's strategy, but that at the end weights stay on their device, where they are saved and exported.

    On the CPU, parts of weights in shards could not be told to be put together through GPUs.
    """

    def teardown(self) -> None:
        """End what it began."""
        assert self.accelerator is not None
        for part in (self.precision_plugin, self.accelerator, self.checkpoint_io):
            part.teardown()


class _Trainer(Trainer):
    @property
    def received_sigterm(self) -> bool:
        """Never: Lightning would leave after its own step, while other ranks begin the next one."""
        return False


def fit(module: Pretraining, plan: Plan) -> None:
    """Train to the end, or to a signal; the last checkpoint is that of the last step taken.

    Args:
        module: What is trained, from where it stands.
        plan: Its settings and data.

    Raises:
        KeyboardInterrupt: At a second Ctrl-C.
        RunError: When the loss is no number, or a loader process died. Steps taken before are in a checkpoint, where
            one process trains.
        StoreError: When the store is damaged; as above.
    """
    settings = plan.config.run
    loader = make_loader(make_stream(plan, module.taken), settings.compute.workers, device=plan.device)
    with _quiet_lightning(), stop_on_signal(module):
        # To Lightning each process is alone: what they share is in the network, and in our own calls.
        trainer = _Trainer(
            max_steps=settings.steps - module.taken, accelerator=plan.device.type, devices=1,
            strategy=OneDevice(plan.device), plugins=[LightningEnvironment()], logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, inference_mode=False,
            use_distributed_sampler=False,
        )
        try:
            trainer.fit(module, loader)
        except SystemExit:  # what Lightning makes of a second Ctrl-C
            module.written()
            raise KeyboardInterrupt from None
        except Exception as error:
            cause = loader_error(error)
            if plan.ranks.world > 1:  # the others are waiting in the midst of a step
                raise (cause or error) from None
            if cause is None:
                module.written()
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
