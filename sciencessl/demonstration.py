"""`demo`: the whole path on a synthetic survey, set of tiles or crawl. All of it runs for real; the data is made."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sciencessl.errors import ConfigError, RunError
from sciencessl.preparation import prepare, report_text
from sciencessl.registry import DEMO_DOMAIN, load_domain
from sciencessl.spec import DomainSpec, TransferTask
from sciencessl.store.remote import local_path

SAMPLES = 1500
MINUTES = 2.5
PER_CLASS = (10, 50)
"""Label budgets of the demo, as far as the synthetic data has so many of each class; all labels come last."""
TEST_FRACTION = {True: 0.2, False: 0.4}
"""Whether samples are drawn one by one -> share of test. Whole patients are few, and intervals need several of them."""
LABEL_WEIGHT = 50.0
"""Of the votes, where the synthetic data has some: in a few hundred small steps the default of 1 hardly moves them."""
SUBSETS = 5
RANDOM_ENCODERS = 3
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
    domain: str = DEMO_DOMAIN,
    out: str | Path = "demo",
    samples: int = SAMPLES,
    minutes: float = MINUTES,
    tell: Callable[[str], None] = print,
) -> DemoResult:
    """Make synthetic data, prepare, pretrain, transfer, report; tells each command, which does the same by itself.

    Args:
        domain: Name of a domain.
        out: Folder; an earlier demo there is replaced.
        samples: Synthetic samples.
        minutes: Length of pretraining.
        tell: Receives lines for people.

    Raises:
        RegistryError: For an unknown domain.
        ConfigError: For a number of samples or minutes that is not positive.
        RunError: When `out` holds anything but an earlier demo.
    """
    from sciencessl.evaluate.report import report
    from sciencessl.evaluate.results import TransferResult
    from sciencessl.evaluate.tables import table_text
    from sciencessl.evaluate.transfer import transfer
    from sciencessl.train.run import RunResult, pretrain

    spec = load_domain(domain)
    _check(spec, samples, minutes)
    folder = _claim(local_path(out))
    raw, store, run = folder / "raw", folder / "store.zarr", folder / "run"
    few = run / "transfer"
    tell(f"1/5 making synthetic data of the {domain} domain in {raw}: {samples} samples and their labels")
    raw = spec.synthetic(raw, np.random.default_rng(0), samples)
    test_fraction = TEST_FRACTION[not spec.group]
    tell(f"2/5 {typed('prepare', domain, raw, '--out', store, '--test-fraction', test_fraction)}")
    tell(_indented(report_text(prepare(domain, [raw], store, {"test_fraction": test_fraction}))))
    budgets = _budgets(store, spec.tasks[0])
    settings = {"minutes": minutes, **_hybrid(store)}
    tell(f"3/5 {typed('pretrain', '--data', store, '--out', run, *_flags(settings))}")
    done = pretrain(store, run, settings=settings, tell=lambda line: tell(_indented(line)))
    tell(_indented(f"{done.steps} steps, {done.seconds:.0f} s" if isinstance(done, RunResult) else ""))
    task = spec.tasks[0].name
    chosen = ("--labels", *budgets, "--subsets", SUBSETS, "--random-encoders", RANDOM_ENCODERS)
    tell(f"4/5 {typed('transfer', run, '--data', store, '--task', task, *chosen, '--out', few)}")
    result = transfer([run], store, few, task, budgets, subsets=SUBSETS, random_encoders=RANDOM_ENCODERS,
                      tell=lambda line: tell(_indented(line)))
    table = table_text(result) if isinstance(result, TransferResult) else ""
    tell(f"\n{table}\n")
    tell(f"5/5 {typed('report', run)}")
    page = report(run)
    tell(f"\nOpen {page.resolve()} in a browser. With other --out folders, the commands above do the same again.")
    return DemoResult(folder, store, run, page, table)


def typed(*words: object) -> str:
    """A command as one would type it in a shell."""
    shown = (f"{word:g}" if isinstance(word, float) else str(word) for word in words)
    return shlex.join(["sciencessl", *shown])


def _hybrid(store: Path) -> dict[str, Any]:
    """Settings that add the label term on every question that the store has votes on; none without votes."""
    from sciencessl.store.reader import Store

    opened = Store(store)
    schemas = [schema for name in opened.tables if (schema := opened.table(name).schema) is not None]
    questions = [question.name for schema in schemas for question in schema.questions]
    return {"label_weight": LABEL_WEIGHT, "labels": questions} if questions else {}


def _flags(settings: Mapping[str, Any]) -> list[object]:
    """Settings as they are typed."""
    words: list[object] = []
    for name, value in settings.items():
        words += [f"--{name.replace('_', '-')}", *(value if isinstance(value, list) else [value])]
    return words


def _budgets(store: Path, task: TransferTask) -> tuple[str, ...]:
    """Label budgets that the store can serve. Raises before minutes of training when it can serve none."""
    from sciencessl.evaluate.tasks import load_task
    from sciencessl.store.reader import Store

    smallest = int(np.bincount(load_task(Store(store), task).train_labels).min())
    return (*(f"{number}/class" for number in PER_CLASS if number <= smallest), "all")


def _check(spec: DomainSpec, samples: int, minutes: float) -> None:
    if samples < 1:
        raise ConfigError(f"--samples is {samples}; it must be 1 or more. The default is {SAMPLES}.")
    if not minutes > 0:
        raise ConfigError(f"--minutes is {minutes:g}; it must be above 0. The default is {MINUTES:g}.")
    if not spec.tasks:
        raise ConfigError(f"domain {spec.name!r} has no few-label task, so there is nothing to demonstrate with it.")


def _indented(text: str) -> str:
    return textwrap.indent(text, "    ")


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
