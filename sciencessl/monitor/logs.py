"""Where the rows of a run go: `metrics.jsonl`, always, and the loggers that were asked for, through Lightning."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sciencessl.errors import MissingExtraError
from sciencessl.setting_groups import LoggerName
from sciencessl.train.folder import CONFIG, LOGS, MetricsFile, read_metrics

if TYPE_CHECKING:
    from lightning.fabric.loggers.logger import Logger

SERVICES: Mapping[str, tuple[str, str]] = {
    "comet": ("CometLogger", "comet_ml"),
    "litlogger": ("LitLogger", "litlogger"),
    "mlflow": ("MLFlowLogger", "mlflow"),
    "wandb": ("WandbLogger", "wandb"),
}
"""Logger -> its class in `lightning.pytorch.loggers`, and the package that it needs."""


def check_loggers(names: Sequence[LoggerName]) -> None:
    """Ask for what is missing before a run begins, not after.

    Raises:
        MissingExtraError: When a logger's package is not installed, or this Lightning has no such logger.
    """
    for name in names:
        package = SERVICES[name][1] if name in SERVICES else "tensorboard" if name == "tensorboard" else ""
        if package and importlib.util.find_spec(package) is None:
            raise MissingExtraError(
                f"log.loggers names {name}, whose package {package} is not installed: `pip install {package}`, or "
                f"leave {name} out. metrics.jsonl in the run folder always has everything."
            )
        if name in SERVICES:
            _service(name)


class Logs:
    """Rows of metrics, written where they belong. Only the first process of a run has one.

    A resumed run goes on from the rows of `metrics.jsonl` up to its checkpoint: the CSV table holds just these and what
    follows, TensorBoard hides what it had after them, and services get a run of their own.

    Args:
        run: Run folder.
        step: Steps taken before.
        loggers: See `LogConfig`.
        tell: Called with a warning, once for each logger that fails; the run goes on without it.
    """

    def __init__(self, run: Path, step: int, loggers: Sequence[LoggerName], tell: Callable[[str], None]) -> None:
        self._file = MetricsFile(run, step)
        self._tell = tell
        self._loggers: dict[str, Logger] = {}
        check_loggers(loggers)
        for name in loggers:
            self._try(name, functools.partial(self._open, name, run, step))

    def write(self, row: Mapping[str, Any]) -> None:
        """Write one row: it is on disk, or handed to the service, when this returns."""
        self._file.write(row)
        for name in list(self._loggers):
            self._try(name, functools.partial(_log, self._loggers[name], row))

    def close(self) -> None:
        """Tell the loggers that nothing follows."""
        for name in list(self._loggers):
            self._try(name, functools.partial(self._loggers[name].finalize, "success"))

    def _try(self, name: str, do: Callable[[], None]) -> None:
        try:
            do()
        except Exception as error:  # a service out of reach can raise anything, and must not end weeks of training
            self._loggers.pop(name, None)
            self._tell(f"logger {name} failed and is left out from here on, metrics.jsonl goes on "
                       f"({type(error).__name__}: {error})")

    def _open(self, name: str, run: Path, step: int) -> None:
        from lightning.fabric.loggers.csv_logs import CSVLogger
        from lightning.fabric.loggers.tensorboard import TensorBoardLogger

        if name == "csv":
            self._loggers[name] = logger = CSVLogger(run, LOGS, "")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that an earlier table is deleted: its rows follow
                for row in read_metrics(run):
                    logger.log_metrics(dict(row), row["step"])
                logger.save()
        elif name == "tensorboard":
            self._loggers[name] = TensorBoardLogger(run, LOGS, "", purge_step=step + 1)
        else:
            kind = _service(name)
            (run / LOGS).mkdir(exist_ok=True)
            own = {"save_dir": str(run / LOGS)} if "save_dir" in inspect.signature(kind).parameters else {}
            self._loggers[name] = logger = kind(**own)
            logger.log_hyperparams(yaml.safe_load((run / CONFIG).read_text(encoding="utf-8")))


def _log(logger: Logger, row: Mapping[str, Any]) -> None:
    logger.log_metrics({name: value for name, value in row.items() if name != "step"}, row["step"])
    logger.save()


def _service(name: str) -> Any:
    from lightning.pytorch import loggers

    kind = getattr(loggers, SERVICES[name][0], None)
    if kind is None:
        raise MissingExtraError(
            f"log.loggers names {name}, but the installed lightning has no {SERVICES[name][0]}; update it, or leave "
            f"{name} out."
        )
    return kind
