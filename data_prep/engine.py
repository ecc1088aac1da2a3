"""`prepare`: files -> a sealed store, again and again without doing anything twice."""

from __future__ import annotations

import csv
import importlib
import io
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.compute as pc

from sciencessl.data_prep.append import append_plan, keep_rows
from sciencessl.data_prep.begin import begin, find_begun, require_unchanged
from sciencessl.data_prep.estimate import PrepareEstimate, estimate
from sciencessl.data_prep.labels import with_schema
from sciencessl.data_prep.parts import PartReport, prepare_part, write_missing
from sciencessl.data_prep.plan import Plan, make_plan
from sciencessl.data_prep.settings import PrepareSettings
from sciencessl.data_prep.slurm import ArrayScript, plain_command, write_array
from sciencessl.data_prep.source import Labels, Source
from sciencessl.data_prep.write import Progress
from sciencessl.errors import ConfigError, SciencesslError, unknown_name
from sciencessl.spec import DomainSpec, LabelSchema
from sciencessl.store.derived import require_apart
from sciencessl.store.files import clear_os_errors, write_atomic
from sciencessl.store.format import SPLITS
from sciencessl.store.in_place import write_root
from sciencessl.store.lock import only_writer
from sciencessl.store.reader import Store
from sciencessl.store.remote import local_path
from sciencessl.store.seal import read_receipt, seal
from sciencessl.store.tables import read_table, write_table

__all__ = ["ArrayScript", "PartReport", "PrepareEstimate", "PrepareReport", "PrepareSettings", "prepare"]

LABELS = "labels"
"""Name of the table that holds classes and votes."""
REFUSALS_FILE = "refused.csv"


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
        nothing_to_do: Whether the store was sealed already.
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
    nothing_to_do: bool = False


def prepare(
    spec: DomainSpec,
    sources: Sequence[str | Path],
    out: Path,
    settings: PrepareSettings,
    domain_options: object | None = None,
    schema_loader: Callable[[str], LabelSchema] | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> PrepareReport | PrepareEstimate | PartReport | ArrayScript:
    """Turn files into a sealed store, or say what that would take.

    A second call with the same inputs and settings writes nothing; after a kill it goes on, to the same digest. Labels
    are a table beside the pixels: other label columns rewrite the table and no row.

    Args:
        spec: The domain; one of its sources reads the files.
        sources: What that source takes: folders, files, globs, archives.
        out: Folder of the store; its name usually ends in `.zarr`.
        settings: See `PrepareSettings`.
        domain_options: The domain's `prepare_options`, given to the source and to its `after_prepare`.
        schema_loader: Reads a label schema from a file; None when the domain has none.
        dry_run: Estimate from a few inputs and write nothing.
        progress: Called with (samples done, samples in all).

    Returns:
        A report of the finished store; an estimate with `dry_run`; what was done of a part; or the script to submit,
        with the engine `slurm` and a store that is not finished.

    Raises:
        ConfigError: For settings, columns or schemas that do not exist.
        DataError: For inputs that cannot be used at all; single bad files are refused and counted instead.
        StoreError: For an output that is no store or another one, or that cannot be written.
    """
    started, out = time.monotonic(), Path(out)
    command = plain_command(spec, sources, out, settings, domain_options) if settings.engine == "slurm" else []
    spec, settings = with_schema(spec, settings, schema_loader)
    source = open_source(spec, sources, settings, domain_options, out)
    try:
        plan, source = _plan(spec, source, settings, out)
        if dry_run:
            return estimate(plan, source, settings)
        if settings.part:
            return prepare_part(out, plan, source, settings, progress)
        finished = _is_finished(out, plan, source.labels, settings.overwrite)
        with _lock(out, finished, domain_options):
            if settings.engine == "slurm" and (array := _lay_array(out, plan, source, settings, command)) is not None:
                return array
            written = _fill(out, plan, source, settings, progress)
            with clear_os_errors(out):
                if not finished:
                    _update_labels(out, source.labels)
                if spec.after_prepare is not None:
                    spec.after_prepare(out, domain_options)
                return _report(out, source, written, started)
    finally:
        source.close()


def _plan(spec: DomainSpec, source: Source, settings: PrepareSettings, out: Path) -> tuple[Plan, Source]:
    if not settings.append_to:
        return make_plan(spec.name, source), source
    older = local_path(settings.append_to, "--append-to")
    old = Store(older)
    require_apart(old.path, out)
    return append_plan(spec.name, source, old, LABELS)


def open_source(
    spec: DomainSpec, sources: Sequence[str | Path], settings: PrepareSettings, options: object | None, out: Path
) -> Source:
    """The chosen source of a domain, its inputs listed and ready to be read.

    Args:
        spec: The domain.
        sources: Folders, files, globs.
        settings: Of every source; `source` chooses.
        options: The domain's own.
        out: The store that is to be: a source may keep what it found out beside it.

    Raises:
        ConfigError: For an unknown source, or as the source says.
        DataError: As the source says.
    """
    if not spec.sources:
        raise ConfigError(f"domain {spec.name!r} names no source, so nothing can be prepared for it.")
    name = settings.source or next(iter(spec.sources))
    if name not in spec.sources:
        raise ConfigError(f"--source: {unknown_name('source', name, spec.sources)}")
    module, _, function = spec.sources[name].partition(":")
    make = cast(
        "Callable[[DomainSpec, Sequence[str | Path], PrepareSettings, object | None, Path], Source]",
        getattr(importlib.import_module(module), function),
    )
    return make(spec, sources, settings, options, out)


def _fill(out: Path, plan: Plan, source: Source, settings: PrepareSettings, progress: Progress | None) -> int | None:
    """Write the rows that are missing, seal, and return how many they were; None where the store was sealed already."""
    with clear_os_errors(out):
        header = begin(out, plan, settings.overwrite)
        if source.root:
            write_root(out, source.root)
    if header.sealed:
        require_unchanged(out, plan, source, settings.verify_inputs)
        return None
    if plan.older is not None:
        with clear_os_errors(out):
            keep_rows(plan.older, out, header, LABELS)
    written = write_missing(out, header, plan.tasks, source, settings, progress)
    with clear_os_errors(out):
        seal(out, header)
    return written


def _is_finished(out: Path, plan: Plan, labels: Labels | None, overwrite: bool) -> bool:
    """Whether the store is sealed and its labels are as they should be."""
    header = find_begun(out, plan, overwrite)
    return header is not None and header.sealed and (labels is None or _missing_labels(out, labels) is None)


def _lock(out: Path, finished: bool, options: object | None) -> AbstractContextManager[None]:
    """None where nothing will be written: several may find out at once that a store is finished, in any folder."""
    nothing_asked = options is None or options == type(options)()
    if finished and (nothing_asked or not os.access(out.parent, os.W_OK)):
        return nullcontext()
    return only_writer(out)


def _lay_array(
    out: Path, plan: Plan, source: Source, settings: PrepareSettings, command: Sequence[str]
) -> ArrayScript | None:
    """Begin the store and write the script of an array; None where the store is finished."""
    with clear_os_errors(out):
        if begin(out, plan, settings.overwrite).sealed:
            return None
        expected = estimate(plan, source, settings)
        return write_array(
            out, command, settings.slurm_options, expected.array_tasks, expected.rows, expected.seconds
        )


def _update_labels(out: Path, labels: Labels | None) -> None:
    """Write the table of labels for the samples that were stored, unless it is there already as it should be."""
    data = None if labels is None else _missing_labels(out, labels)
    if labels is not None and data is not None:
        write_table(out, LABELS, data, labels.schema, labels.derived_from, labels.note)


def _missing_labels(out: Path, labels: Labels) -> pa.Table | None:
    """The labels of the samples that were stored; None where the store has them already."""
    data = labels.data.filter(pc.is_in(labels.data["id"], value_set=pa.array(Store(out).ids, pa.string())))
    try:
        old = read_table(out, LABELS)
    except SciencesslError:
        return data  # none yet, or damaged
    same = old.data.equals(data) and old.schema == labels.schema and old.note == labels.note
    return None if same else data


def _report(out: Path, source: Source, written: int | None, started: float) -> PrepareReport:
    store = Store(out)
    receipts = [receipt for row in range(store.header.rows) if (receipt := read_receipt(out, row))]
    refused: Counter[str] = Counter()
    for receipt in receipts:
        refused.update(receipt.refused)
    return PrepareReport(
        out=out, n_samples=len(store.present), refused=dict(sorted(refused.items())),
        splits={name: len(store.split(name)) for name in SPLITS}, guessed=source.guessed, rows_written=written or 0,
        rows_kept=store.header.rows - (written or 0), manifest_digest=store.digest, seconds=time.monotonic() - started,
        bytes=sum(receipt.payload_bytes for receipt in receipts),
        refusals_file=_write_refusals(store) if refused else None, nothing_to_do=written is None,
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
