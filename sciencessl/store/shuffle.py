"""`store shuffle`: a second pass that deals the samples of all rows into new rows, so that each is a random draw.

Two passes over files on disk. The first reads the rows one after the other and appends each sample to the file of the
group of rows that it is dealt to; the second reads one group after the other and writes its rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from sciencessl.data.order import derive_key, subkey
from sciencessl.errors import ConfigError, DataError, StoreError
from sciencessl.monitor.throughput import Progress
from sciencessl.store import format as zpack
from sciencessl.store.derived import (
    as_samples,
    begin_derived,
    finish_derived,
    require_apart,
    require_space,
    row_refusals,
    writing,
)
from sciencessl.store.reader import Store
from sciencessl.store.remote import local_path
from sciencessl.store.seal import read_receipt
from sciencessl.store.spill import Spill
from sciencessl.store.writer import write_row

SCRATCH = ".shuffling"
"""Folder in the new store for the files between the passes; its dot says that it is no part of the store."""
READ_BYTES = 64 * 2**20
"""Payloads that the first pass reads at a time."""
IN_HAND = 8
"""Copies of a row that the second pass may hold while it writes it, in half of the memory; the group takes the rest."""


@dataclass(frozen=True)
class ShuffleReport:
    """What `shuffle` did, or would do.

    Attributes:
        store: The store that was read.
        out: The shuffled one.
        n_samples: Samples dealt.
        removed: Withdrawn samples, which were left out.
        rows: Rows of the new store.
        groups: Groups of rows that the second pass reads one at a time.
        bytes: Payload bytes to be written.
        scratch_bytes: Space that is needed beside them for a while.
        manifest_digest: Of the new store; empty in a dry run.
        nothing_to_do: Whether the new store was there already.
    """

    store: Path
    out: Path
    n_samples: int
    removed: int
    rows: int
    groups: int
    bytes: int
    scratch_bytes: int
    manifest_digest: str = ""
    nothing_to_do: bool = False


@dataclass(frozen=True)
class _Deal:
    """How the samples fall into rows.

    Attributes:
        key: Of the draw.
        rows: R.
        samples: (R,) samples of each new row.
        bytes: (R,) payload bytes of each, all fields together.
        columns: Types of the samples' own columns, over all rows.
    """

    key: int
    rows: int
    samples: np.ndarray
    bytes: np.ndarray
    columns: pa.Schema

    def row_of(self, keys: np.ndarray) -> np.ndarray:
        """(n,) int64 new row of samples with (n, 16) uint8 keys: a hash keyed by the seed, not their place."""
        drawn = subkey(self.key, np.ascontiguousarray(keys[:, :8]).view("<u8").ravel())
        return ((drawn >> np.uint64(32)) * np.uint64(self.rows) >> np.uint64(32)).astype(np.int64)


def shuffle(
    store: str | Path, out: str | Path, seed: int = 0, memory_gib: float = 2.0, dry_run: bool = False
) -> ShuffleReport:
    """Deal the samples of a store into the rows of a new one by a keyed hash; tables come along.

    The result depends on the store and the seed alone. A second call goes on after a kill: within the second pass row
    by row, within the first from its beginning. Withdrawn samples are left out.

    Args:
        store: A sealed store, which stays as it is.
        out: Folder of the new one. Beside it, for a while, as much space again is needed.
        seed: Other rows for another seed.
        memory_gib: Memory that payloads may take, in GiB: half for a group of rows, half for the row being written.
            Whatever it is, the result is the same.
        dry_run: Count and write nothing.

    Raises:
        ConfigError: For an `out` that is a URL or lies in the store, a seed below 0, or less memory than one row takes.
        DataError: When the store has no samples left.
        StoreError: When something else lies at `out`, the disk is too small, or a row is damaged.
    """
    opened, out = Store(store), local_path(out)
    require_apart(opened.path, out)
    if seed < 0:
        raise ConfigError(f"seed is {seed}; it must be 0 or more.")
    if not len(opened.present):
        raise DataError(f"all samples of {store} are withdrawn: there is nothing to shuffle.")
    deal = _deal(opened, seed)
    groups = _groups(deal, memory_gib)
    total = int(deal.bytes.sum())
    report = ShuffleReport(opened.path, out, len(opened.present), len(opened.removed), deal.rows, groups, total, total)
    if dry_run:
        return report
    header = replace(
        opened.header, rows=deal.rows, places=int(deal.samples.max()), sealed=False, manifest_digest="",
        plan_digest=zpack.digest(b"shuffle", opened.digest.encode(), opened.removals_digest.encode(), b"%d" % seed),
    )
    with writing(out):
        found = begin_derived(opened, out, header, f"store shuffle --seed {seed}", -(-total // deal.rows))
        spill = Spill(out / SCRATCH, header.fields, deal.columns)
        if found.sealed:
            spill.clear()
            return replace(report, manifest_digest=found.manifest_digest, nothing_to_do=True)
        report = replace(report, groups=_first_pass(opened, out, header, deal, groups, spill))
        _second_pass(opened, out, header, deal, report.groups, spill)
        made = finish_derived(opened, out, header)
        # Last: without it, a call after a kill would deal everything once more to find that no row is missing.
        spill.clear()
    return replace(report, manifest_digest=made.digest)


def _deal(store: Store, seed: int) -> _Deal:
    """Look at all sidecars: how many rows, and what falls into each."""
    key, total = derive_key("store shuffle", seed), 0
    columns = pa.schema([])
    for table in store.row_tables():
        names = zpack.user_columns(table.column_names, store.header.fields)
        own = table.select(names).schema.remove_metadata()
        columns = pa.unify_schemas([columns, own], promote_options="permissive")
        total += sum(int(sizes.sum()) for sizes in _sizes(store, table).values())
    n = len(store.present)
    rows = min(max(zpack.MIN_ROWS, -(-total // (zpack.ROW_BYTES // 2)), -(-n // zpack.ROW_SAMPLES)), n)
    while True:
        deal = _count(store, _Deal(key, rows, np.zeros(rows, np.int64), np.zeros(rows, np.int64), columns))
        if deal is not None:
            return deal
        rows += -(-rows // 4)  # a row that chance made too large: so many more are needed


def _count(store: Store, deal: _Deal) -> _Deal | None:
    """The deal with samples and bytes of each row; None where a row holds more of a field than fits."""
    packed = {name: np.zeros(deal.rows, np.int64) for name in store.header.fields}
    samples, first = np.zeros(deal.rows, np.int64), 0
    for table in store.row_tables():
        keep = _present(store, first, table.num_rows)
        row = deal.row_of(_keys(table))[keep]
        samples += np.bincount(row, minlength=deal.rows)
        for name, sizes in _sizes(store, table).items():
            np.add.at(packed[name], row, sizes[keep])
        first += table.num_rows
    fits = all(packed[name].max() <= zpack.ROW_BYTES for name, spec in store.header.fields.items()
               if spec.kind == "bytes")
    return replace(deal, samples=samples, bytes=sum(packed.values(), np.zeros(deal.rows, np.int64))) if fits else None


def _keys(table: pa.Table) -> np.ndarray:
    return np.frombuffer(b"".join(table["key"].to_pylist()), np.uint8).reshape(-1, 16)


def _sizes(store: Store, table: pa.Table) -> dict[str, np.ndarray]:
    """Field -> (n,) int64 bytes of each sample of a row."""
    found = {}
    for name, spec in store.header.fields.items():
        if spec.kind == "bytes":
            found[name] = table[f"{name}.size"].to_numpy().astype(np.int64)
        else:
            item = len(spec.channels) * int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize
            found[name] = np.full(table.num_rows, item, np.int64)
    return found


def _present(store: Store, first: int, count: int) -> np.ndarray:
    """(k,) places of a row whose samples are not withdrawn."""
    gone = store.removed[(store.removed >= first) & (store.removed < first + count)] - first
    return np.setdiff1d(np.arange(count), gone)


def _groups(deal: _Deal, memory_gib: float) -> int:
    half, largest = memory_gib * 2**30 / 2, int(deal.bytes.max())
    if half < IN_HAND * largest:
        raise ConfigError(
            f"memory_gib is {memory_gib:g}; rows of up to {largest / 2**20:.1f} MiB need "
            f"{2 * IN_HAND * largest / 2**30:.2g} or more."
        )
    groups = max(1, -(-int(deal.bytes.sum()) // int(half)))
    while groups < deal.rows and max(part.sum() for part in np.array_split(deal.bytes, groups)) > half:
        groups += 1
    return groups


def _bounds(rows: int, groups: int) -> np.ndarray:
    """(groups + 1,) first row of each group, as `np.array_split` cuts."""
    return np.array([0, *np.cumsum([len(part) for part in np.array_split(np.empty(rows, bool), groups)])])


def _first_pass(
    store: Store, out: Path, header: zpack.StoreHeader, deal: _Deal, groups: int, spill: Spill
) -> int:
    """Append every sample to the file of its group, unless a call before did; returns the number of groups."""
    made_of = {"plan": header.plan_digest, "groups": groups}
    if done := spill.groups(made_of):
        return done
    spill.clear()
    require_space(out, int(deal.bytes.sum()) + max(int(part.sum()) for part in np.array_split(deal.bytes, groups)))
    bounds, first = _bounds(deal.rows, groups), 0
    progress = Progress(store.header.rows, unit="row", title="shuffle: deal")
    for number, table in enumerate(store.row_tables()):
        own = table.select(["id", "split", *zpack.user_columns(table.column_names, header.fields)])
        sizes = sum(_sizes(store, table).values(), np.zeros(table.num_rows, np.int64))
        places, rows = _present(store, first, table.num_rows), deal.row_of(_keys(table))
        for piece in np.split(places, np.flatnonzero(np.diff(np.cumsum(sizes[places]) // READ_BYTES)) + 1):
            if len(piece):
                _spill_piece(store, spill, first, piece, rows[piece], own, bounds)
        first += table.num_rows
        progress.update(number + 1)
    progress.close()
    spill.close(made_of)
    return groups


def _spill_piece(
    store: Store, spill: Spill, first: int, places: np.ndarray, rows: np.ndarray, own: pa.Table, bounds: np.ndarray
) -> None:
    """Deal some samples of a row, which are read at once."""
    start = int(places[0])
    stop = first + int(places[-1]) + 1
    payloads = {name: store.consecutive(name, first + start, stop, as_stored=True) for name in spill.fields}
    group = np.searchsorted(bounds, rows, side="right") - 1
    for number in np.unique(group):
        mine = np.flatnonzero(group == number)
        wanted = (places[mine] - start).tolist()
        taken = {name: [values[place] for place in wanted] for name, values in payloads.items()}
        spill.append(int(number), rows[mine], own.take(pa.array(places[mine])), taken)


def _second_pass(
    store: Store, out: Path, header: zpack.StoreHeader, deal: _Deal, groups: int, spill: Spill
) -> None:
    """Write the rows that are missing, group by group."""
    bounds = _bounds(header.rows, groups)
    progress = Progress(header.rows, unit="row", title="shuffle: write")
    for group in range(groups):
        missing = [row for row in range(bounds[group], bounds[group + 1]) if read_receipt(out, row) is None]
        table = spill.read(group) if missing else None
        for row in missing:
            own, payloads = spill.taken(table, row)
            if own.num_rows != deal.samples[row]:
                raise StoreError(f"{out}: samples of row {row} are missing in {SCRATCH}, though it was not written. "
                                 "Delete the folder and shuffle again.")
            # Refusals have no place among the samples; each old row's go to one new row.
            old = range(row, store.header.rows, header.rows)
            refusals = [entry for number in old for entry in row_refusals(store, number)]
            inputs = zpack.digest(header.plan_digest.encode(), b"%d" % row)
            write_row(out, header, row, as_samples(own, payloads), refusals, inputs)
            progress.update(row + 1)
        spill.drop(group)
    progress.close()


def shuffle_text(found: ShuffleReport) -> str:
    """What was done, or would be, for people."""
    would = "" if found.manifest_digest else "would hold "
    if found.nothing_to_do:
        would = "nothing to do: it holds "
    gone = f", without {found.removed:,} withdrawn ones" if found.removed else ""
    lines = [
        f"{found.out}: {would}{found.n_samples:,} samples in {found.rows} random rows{gone}",
        f"{found.bytes / 2**20:.1f} MiB, and as much again meanwhile; {found.groups} group(s) of rows, one in memory",
    ]
    return "\n".join([*lines, *([f"manifest digest {found.manifest_digest}"] if found.manifest_digest else [])])
