"""`store compact`: a new sealed store without the withdrawn samples, which shares all rows that lost none."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sciencessl.errors import ConfigError, DataError
from sciencessl.monitor.throughput import Progress
from sciencessl.store import format as zpack
from sciencessl.store.derived import (
    begin_derived,
    finish_derived,
    require_apart,
    require_space,
    row_refusals,
    row_samples,
    writing,
)
from sciencessl.store.links import can_link, link_row
from sciencessl.store.reader import Store
from sciencessl.store.remote import is_remote, local_path
from sciencessl.store.seal import read_receipt, required_receipt
from sciencessl.store.writer import write_row


@dataclass(frozen=True)
class CompactReport:
    """What `compact` did, or would do.

    Attributes:
        store: The store with withdrawn samples.
        out: The one without.
        n_samples: Samples of the new store.
        removed: Samples left out.
        rows_linked: Rows that lost none: their files are shared, or copied where `links` is false.
        rows_rewritten: Rows that lost some.
        links: Whether the disk lets both stores share files.
        bytes: Payload bytes to be written.
        manifest_digest: Of the new store; empty in a dry run.
        nothing_to_do: Whether the new store was there already.
    """

    store: Path
    out: Path
    n_samples: int
    removed: int
    rows_linked: int
    rows_rewritten: int
    links: bool
    bytes: int
    manifest_digest: str = ""
    nothing_to_do: bool = False


def compact(store: str | Path, out: str | Path, dry_run: bool = False) -> CompactReport:
    """Write a sealed store without the withdrawn samples of another one, which stays as it is.

    Rows that lost nothing are hard-linked (copied to another disk), the others written anew. Tables come along without
    the lines of withdrawn samples. A second call does only what is missing, also after a kill.

    Args:
        store: A sealed store with withdrawn samples.
        out: Folder of the new one.
        dry_run: Count and write nothing.

    Raises:
        ConfigError: For a URL, or an `out` that is the store or lies in it.
        DataError: When no sample is withdrawn, or all of them are.
        StoreError: When something else lies at `out`, there is no room for it, or a row to be written is damaged.
    """
    if is_remote(store):
        raise ConfigError(f"store compact {store}: rows that lost nothing are linked, so it works on a store of this "
                          "machine. Copy the store here, compact it, and copy the new one back.")
    opened, out = Store(store), local_path(out)
    require_apart(opened.path, out)
    removed = opened.removed
    if not len(removed):
        raise DataError(f"{store} has no withdrawn samples, so there is nothing to leave out; see `store remove`.")
    if len(removed) == len(opened):
        raise DataError(f"all {len(removed):,} samples of {store} are withdrawn: nothing would be left.")
    report = _planned(opened, out, removed)
    if dry_run:
        return report
    header = replace(
        opened.header, sealed=False, manifest_digest="",
        plan_digest=zpack.digest(b"compact", opened.digest.encode(), opened.removals_digest.encode()),
    )
    with writing(out):
        found = begin_derived(opened, out, header, "store compact", 0, opened.chunk_bytes)
        if found.sealed:
            return replace(report, manifest_digest=found.manifest_digest, nothing_to_do=True)
        require_space(out, report.bytes)
        progress = Progress(header.rows, unit="row", title="compact")
        for row in range(header.rows):
            _write(opened, out, header, row, removed)
            progress.update(row + 1)
        progress.close()
        made = finish_derived(opened, out, header)
    return replace(report, manifest_digest=made.digest)


def _planned(store: Store, out: Path, removed: np.ndarray) -> CompactReport:
    touched = set(_row_of(store, removed).tolist())
    links = can_link(store.path, out)
    written = [row for row in range(store.header.rows) if row in touched or not links]
    return CompactReport(
        store.path, out, len(store.present), len(removed), store.header.rows - len(touched), len(touched), links,
        sum(required_receipt(store.path, row).payload_bytes for row in written),
    )


def _row_of(store: Store, index: np.ndarray) -> np.ndarray:
    return np.searchsorted(store.row_first, index, side="right") - 1


def _write(store: Store, out: Path, header: zpack.StoreHeader, row: int, removed: np.ndarray) -> None:
    first, stop = store.row_first[row : row + 2]
    gone = removed[(removed >= first) & (removed < stop)] - first
    if not len(gone):
        link_row(store.path, out, header, row)
        return
    inputs = zpack.digest(required_receipt(store.path, row).row_digest.encode(), gone.tobytes())
    receipt = read_receipt(out, row)
    if receipt is None or receipt.inputs_digest != inputs:
        keep = np.setdiff1d(np.arange(stop - first), gone)
        write_row(out, header, row, row_samples(store, row, keep), row_refusals(store, row), inputs)


def compact_text(found: CompactReport) -> str:
    """What was done, or would be, for people."""
    would = "" if found.manifest_digest else "would hold "
    if found.nothing_to_do:
        would = "nothing to do: it holds "
    how = "linked" if found.links else "copied, as the disk is another one"
    lines = [
        f"{found.out}: {would}{found.n_samples:,} samples, without {found.removed:,} withdrawn ones",
        f"{found.rows_linked} rows {how}, {found.rows_rewritten} written anew; {found.bytes / 2**20:.1f} MiB to write",
    ]
    return "\n".join([*lines, *([f"manifest digest {found.manifest_digest}"] if found.manifest_digest else [])])
