"""`prepare`: files -> a sealed store, again and again without doing anything twice."""

from __future__ import annotations

import csv
import importlib
import io
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.compute as pc

from sciencessl.data_prep.begin import begin, is_done, require_unchanged
from sciencessl.data_prep.labels import with_schema
from sciencessl.data_prep.plan import Plan, make_plan
from sciencessl.data_prep.settings import PrepareSettings
from sciencessl.data_prep.source import Labels, Source, Task
from sciencessl.data_prep.write import Progress, write_rows
from sciencessl.errors import ConfigError, SciencesslError
from sciencessl.spec import DomainSpec, LabelSchema
from sciencessl.store.files import clear_os_errors, write_atomic
from sciencessl.store.format import SPLITS
from sciencessl.store.lock import only_writer
from sciencessl.store.reader import Store
from sciencessl.store.seal import read_receipt, seal
from sciencessl.store.tables import read_table, write_table
from sciencessl.store.writer import PreparedSample, Refusal

__all__ = ["PrepareEstimate", "PrepareReport", "PrepareSettings", "prepare"]

LABELS = "labels"
"""Name of the table that holds classes and votes."""
REFUSALS_FILE = "refused.csv"
ESTIMATE_INPUTS = 32


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare` did.

    Attributes:
        out: The store.
        n_samples: Samples stored.
        refused: Reason -> samples that were not stored.
        splits: Split -> samples.
        guessed: Sentences on what columns and folders were taken for.
        rows_written: Rows prepared now.
        rows_kept: Rows that were there already.
        manifest_digest: Digest of what was prepared.
        seconds: Time it took.
        bytes: Payload bytes stored.
        refusals_file: CSV with id, reason and detail of each refusal; None without any.
    """

    out: Path
    n_samples: int
    refused: Mapping[str, int]
    splits: Mapping[str, int]
    guessed: tuple[str, ...]
    rows_written: int
    rows_kept: int
    manifest_digest: str
    seconds: float
    bytes: int
    refusals_file: Path | None = None

    @property
    def nothing_to_do(self) -> bool:
        """Whether every row was there already."""
        return self.rows_written == 0


@dataclass(frozen=True)
class PrepareEstimate:
    """What `prepare` would do, from preparing a few inputs drawn by key.

    Attributes:
        n_samples: Samples planned, refused ones included.
        bytes: Payload bytes, estimated.
        seconds: Time, estimated for the threads of the settings.
        scratch_bytes: Disk space for rows in hand, beside `bytes`: each is written under a temporary name first.
        refused: Reason -> refusals among the inputs tried.
        tried: Inputs tried.
        rows: Rows of the store.
        guessed: Sentences on what columns and folders were taken for.
    """

    n_samples: int
    bytes: int
    seconds: float
    scratch_bytes: int
    refused: Mapping[str, int]
    tried: int
    rows: int
    guessed: tuple[str, ...]


def prepare(
    spec: DomainSpec,
    sources: Sequence[str | Path],
    out: Path,
    settings: PrepareSettings,
    domain_options: object | None = None,
    schema_loader: Callable[[str], LabelSchema] | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> PrepareReport | PrepareEstimate:
    """Turn files into a sealed store, or say what that would take.

    A second call with the same inputs and settings writes nothing; after a kill it goes on, to the same digest. Labels
    are a table beside the pixels: other label columns rewrite the table and no row.

    Args:
        spec: The domain; the first of its sources reads the files.
        sources: What that source takes: folders, files, globs, archives.
        out: Folder of the store; its name usually ends in `.zarr`.
        settings: See `PrepareSettings`.
        domain_options: The domain's `prepare_options`, given to its `after_prepare`.
        schema_loader: Reads a label schema from a file; None when the domain has none.
        dry_run: Estimate from a few inputs and write nothing.
        progress: Called with (samples done, samples in all).

    Raises:
        ConfigError: For settings, columns or schemas that do not exist.
        DataError: For inputs that cannot be used at all; single bad files are refused and counted instead.
        StoreError: For an output that is no store or another one, or that cannot be written.
    """
    started = time.monotonic()
    spec, settings = with_schema(spec, settings, schema_loader)
    source = _open_source(spec, sources, settings)
    try:
        plan = make_plan(spec.name, source)
        if dry_run:
            return _estimate(plan, source, settings.threads)
        with only_writer(Path(out)):
            written = _fill(Path(out), plan, source, settings, progress)
            with clear_os_errors(Path(out)):
                _update_labels(Path(out), source.labels)
            if spec.after_prepare is not None:
                spec.after_prepare(Path(out), domain_options)
            with clear_os_errors(Path(out)):
                return _report(Path(out), source, written, started)
    finally:
        source.close()


def _open_source(spec: DomainSpec, sources: Sequence[str | Path], settings: PrepareSettings) -> Source:
    if not spec.sources:
        raise ConfigError(f"domain {spec.name!r} names no source, so nothing can be prepared for it.")
    module, _, function = next(iter(spec.sources.values())).partition(":")
    make = cast(
        "Callable[[DomainSpec, Sequence[str | Path], PrepareSettings], Source]",
        getattr(importlib.import_module(module), function),
    )
    return make(spec, sources, settings)


def _fill(out: Path, plan: Plan, source: Source, settings: PrepareSettings, progress: Progress | None) -> int:
    """Write the rows that are missing, seal, and return how many were written."""
    with clear_os_errors(out):
        header = begin(out, plan, settings.overwrite)

    def done(task: Task) -> bool:
        return is_done(out, task, header.config_digest, source, settings.verify_inputs)

    if header.sealed:
        require_unchanged(out, plan, done, settings.verify_inputs)
        return 0
    missing = [task for task in plan.tasks if not done(task)]
    left = sum(entry.samples for task in missing for entry in task.inputs)
    write_rows(out, header, missing, source, settings.threads, progress, plan.samples - left, plan.samples)
    with clear_os_errors(out):
        seal(out, header)
    return len(missing)


def _estimate(plan: Plan, source: Source, threads: int) -> PrepareEstimate:
    inputs = [entry for task in plan.tasks for entry in task.inputs][:ESTIMATE_INPUTS]
    # The first file pays for loading decoders, which says nothing of the rest.
    list(source.read(Task(0, inputs[:1])))
    started = time.monotonic()
    items = list(source.read(Task(0, inputs)))
    share = sum(entry.samples for entry in inputs) / plan.samples
    seconds = (time.monotonic() - started) / share / min(threads, len(plan.tasks))
    stored = sum(_payload_bytes(item) for item in items if isinstance(item, PreparedSample))
    rows = len(plan.tasks)
    return PrepareEstimate(
        n_samples=plan.samples, bytes=round(stored / share), seconds=seconds,
        scratch_bytes=round(stored / share / rows * min(threads, rows)),
        refused=dict(Counter(item.reason for item in items if isinstance(item, Refusal))),
        tried=len(inputs), rows=rows, guessed=source.guessed,
    )


def _payload_bytes(sample: PreparedSample) -> int:
    return sum(len(v) if isinstance(v, bytes) else int(v.nbytes) for v in sample.payload.values())


def _update_labels(out: Path, labels: Labels | None) -> None:
    """Write the table of labels for the samples that were stored, unless it is there already as it should be."""
    if labels is None:
        return
    ids = Store(out).ids
    data = labels.data.filter(pc.is_in(labels.data["id"], value_set=pa.array(ids, pa.string())))
    try:
        old = read_table(out, LABELS)
        if old.data.equals(data) and old.schema == labels.schema and old.note == labels.note:
            return
    except SciencesslError:
        pass  # none yet, or damaged: written below
    write_table(out, LABELS, data, labels.schema, note=labels.note)


def _report(out: Path, source: Source, written: int, started: float) -> PrepareReport:
    store = Store(out)
    receipts = [receipt for row in range(store.header.rows) if (receipt := read_receipt(out, row))]
    refused: Counter[str] = Counter()
    for receipt in receipts:
        refused.update(receipt.refused)
    return PrepareReport(
        out=out, n_samples=len(store.present), refused=dict(sorted(refused.items())),
        splits={name: len(store.split(name)) for name in SPLITS}, guessed=source.guessed, rows_written=written,
        rows_kept=store.header.rows - written, manifest_digest=store.digest, seconds=time.monotonic() - started,
        bytes=sum(receipt.payload_bytes for receipt in receipts),
        refusals_file=_write_refusals(store) if refused else None,
    )


def _write_refusals(store: Store) -> Path:
    path = store.path / REFUSALS_FILE
    text = io.StringIO()
    rows = csv.DictWriter(text, ["id", "reason", "detail"], lineterminator="\n")
    rows.writeheader()
    rows.writerows(store.refusals().to_pylist())
    raw = text.getvalue().encode()
    if not path.is_file() or path.read_bytes() != raw:
        write_atomic(path, raw)
    return path
