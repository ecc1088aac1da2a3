"""`demo`: the whole path on a synthetic survey, set of tiles or crawl. All of it runs for real; the data is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sciencessl.errors import RunError
from sciencessl.preparation import prepare
from sciencessl.registry import load_domain

SAMPLES = 1500
MINUTES = 2.5
MARKER = "sciencessl-demo.txt"


@dataclass(frozen=True)
class DemoResult:
    """Where the demo left things.

    Attributes:
        out: Folder of it all.
        store: The prepared store.
        run: The run folder.
        report: The HTML report.
        table: The few-label table as text.
    """

    out: Path
    store: Path
    run: Path
    report: Path
    table: str


def demo(
    domain: str = "galaxy",
    out: str | Path = "demo",
    samples: int = SAMPLES,
    minutes: float = MINUTES,
    tell: Callable[[str], None] = print,
) -> DemoResult:
    """Make synthetic data, prepare, pretrain, transfer, report.

    Args:
        domain: Name of a domain.
        out: Folder; an earlier demo there is replaced.
        samples: Synthetic samples.
        minutes: Length of pretraining.
        tell: Receives lines for people.

    Raises:
        RunError: When `out` holds anything but an earlier demo.
    """
    from sciencessl.evaluate.report import report
    from sciencessl.evaluate.tables import table_text
    from sciencessl.evaluate.transfer import transfer
    from sciencessl.train.run import pretrain

    spec = load_domain(domain)
    folder = _claim(Path(out))
    tell(f"1/5 synthetic data of the {domain} domain: {samples} samples in {folder / 'raw'}")
    raw = spec.synthetic(folder / "raw", np.random.default_rng(0), samples)
    store, run = folder / "store.zarr", folder / "run"
    tell(f"2/5 sciencessl prepare {domain} {raw} --out {store}")
    report_ = prepare(domain, [raw], store)
    tell(f"    {report_.n_samples} samples stored, {sum(report_.refused.values())} refused")
    tell(f"3/5 sciencessl pretrain --data {store} --out {run} --minutes {minutes:g}")
    pretrain(store, run, settings={"minutes": minutes}, overwrite=True, tell=lambda line: tell(f"    {line}"))
    task = spec.tasks[0].name
    tell(f"4/5 sciencessl transfer {run} --data {store} --task {task} --out {run / 'transfer'}")
    table = table_text(_few_labels(transfer, run, store, task))
    tell(table)
    tell(f"5/5 sciencessl report {run}")
    page = report(run)
    tell(f"report: {page}")
    return DemoResult(folder, store, run, page, table)


def _few_labels(transfer: Callable[..., Any], run: Path, store: Path, task: str) -> Any:
    return transfer([run], store, run / "transfer", task, labels=("10/class", "50/class", "all"), subsets=5,
                    random_encoders=3)


def _claim(folder: Path) -> Path:
    """An empty folder with our marker; only an earlier demo is ever deleted."""
    import shutil

    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARKER).is_file():
            raise RunError(f"{folder} is not empty and holds no earlier demo; choose another --out.")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).write_text("Made by `sciencessl demo`, which may delete this folder.\n", encoding="utf-8")
    return folder
