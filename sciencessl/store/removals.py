"""`store remove`: withdrawn samples are a table beside the pixels; from then on no reader gives them.

Pixels stay where they are until `store compact` writes a store without them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sciencessl.errors import ConfigError, DataError
from sciencessl.store.conditions import meets, parse_condition
from sciencessl.store.format import SPLITS
from sciencessl.store.lock import only_writer
from sciencessl.store.reader import Store
from sciencessl.store.remote import local_path
from sciencessl.store.tables import REMOVALS, Table, read_table, write_table

SHOWN = 10
"""Unknown ids that an error names."""


@dataclass(frozen=True)
class RemovalReport:
    """What `remove` did, or in a dry run would do.

    Attributes:
        store: The store.
        removed: Samples withdrawn now.
        already: Samples among those named that were withdrawn before; their first reason stays.
        n_removed: Samples withdrawn in all.
        n_samples: Samples left.
        splits: Split -> samples left.
        digest: Of the table `removals`: what runs record. In a dry run that of the table as it is.
        conditions: Condition -> samples that meet it and were not withdrawn before.
        withdrawn: Split -> samples withdrawn now.
        dry_run: Nothing was written.
    """

    store: Path
    removed: int
    already: int
    n_removed: int
    n_samples: int
    splits: Mapping[str, int]
    digest: str
    conditions: Mapping[str, int]
    withdrawn: Mapping[str, int]
    dry_run: bool


def remove(
    store: str | Path, ids: Sequence[str] = (), reason: str = "", file: str | Path = "", where: Sequence[str] = (),
    dry_run: bool = False,
) -> RemovalReport:
    """Withdraw samples from a sealed store. The table `removals` only grows; what is in it already changes nothing.

    Args:
        store: A sealed store.
        ids: Of the samples.
        reason: Why, in words; written beside each. Conditions alone are a reason themselves.
        file: Text file with further ids, one a line; a first line `id` is passed over.
        where: Conditions on columns, such as `pen>0.1`; a sample that meets any of them is withdrawn too.
        dry_run: Count, and write nothing.

    Raises:
        ConfigError: Without ids and conditions, without a reason, or for a condition that cannot be compared.
        DataError: When the store lacks some of the ids: they are named, and nothing is written.
        StoreError: When the store is missing or unsealed, lacks a column, or another process writes it.
    """
    named = bool(ids) or bool(str(file))
    why = reason.strip() or ("" if named or not where else f"where {' or '.join(where)}")
    if not why and not dry_run:
        raise ConfigError("store remove needs a --reason: it stays beside the ids, for whoever asks why they are gone.")
    opened = Store(store)
    wanted = [*ids, *(_read_ids(local_path(file, "--ids"), opened) if str(file) else ())]
    if not wanted and not where:
        raise ConfigError("store remove was given no ids; name some, a file of them with --ids, or --where with "
                          "conditions on columns.")
    met = {each.text: meets(opened, each) for each in map(parse_condition, where)}
    index = np.unique(np.concatenate([_index_of(opened, wanted), *map(np.flatnonzero, met.values())]))
    new = np.setdiff1d(index, opened.removed) if dry_run else _write(opened, index, why)
    return _report(opened, index, new, met, dry_run)


def _write(opened: Store, index: np.ndarray, reason: str) -> np.ndarray:
    """Add samples to the table; returns those that were not in it."""
    return withdraw(opened, index, pa.array(opened.ids, pa.string()).take(pa.array(index)), reason)


def withdraw(opened: Store, index: np.ndarray, ids: pa.Array, reason: str) -> np.ndarray:
    """Add samples to the table `removals`.

    Args:
        opened: A sealed store.
        index: (k,) store indices, ascending, each once.
        ids: Their k ids.
        reason: Why, in words.

    Returns:
        (n,) the indices that were not in it before.

    Raises:
        StoreError: When another process writes the store, or the table is damaged.
    """
    with only_writer(opened.path):  # two at once would lose what one of them wrote
        old = read_table(opened.path, REMOVALS).data if REMOVALS in opened.tables else _table([], [], [])
        new = np.flatnonzero(~np.isin(index, old["index"].to_numpy()))
        if len(new):
            added = _table(ids.take(pa.array(new)), index[new], [reason] * len(new))
            write_table(opened.path, REMOVALS, pa.concat_tables([old, added]).sort_by("index"))
    return np.asarray(index[new])


def _report(
    before: Store, index: np.ndarray, new: np.ndarray, met: Mapping[str, np.ndarray], dry_run: bool
) -> RemovalReport:
    after = before if dry_run else Store(before.path)
    old, gone, of_split = np.setdiff1d(after.removed, new), np.union1d(after.removed, new), before.split_codes()

    def by_split(samples: np.ndarray) -> dict[str, int]:
        return dict(zip(SPLITS, np.bincount(of_split[samples], minlength=len(SPLITS)).tolist(), strict=True))

    left = np.delete(np.arange(len(before)), gone)
    return RemovalReport(
        before.path, len(new), len(index) - len(new), len(gone), len(left), by_split(left), after.removals_digest,
        {text: int(np.delete(found, old).sum()) for text, found in met.items()}, by_split(new), dry_run,
    )


def removal_reasons(table: Table) -> dict[str, int]:
    """Reason -> withdrawn samples, the most frequent first."""
    return dict(Counter(table.data["reason"].to_pylist()).most_common())


def removals_fault(store: Store) -> str:
    """Why the table of withdrawn samples does not fit the rows, in words; empty when it does or there is none.

    Raises:
        StoreError: When the table or a row is damaged.
    """
    if REMOVALS not in store.tables:
        return ""
    data = store.table(REMOVALS).data
    index = data["index"].to_numpy().astype(np.int64)
    if (np.diff(index) <= 0).any() or (index >= len(store)).any():
        return "its indices are not ascending, or beyond the samples"
    first = 0
    for table in store.row_tables():
        here = np.flatnonzero((index >= first) & (index < first + table.num_rows))
        if not data["id"].take(here).equals(table["id"].take(index[here] - first)):
            return "its ids are not those of the samples at its indices"
        first += table.num_rows
    return ""


def _table(ids: object, index: object, reasons: object) -> pa.Table:
    return pa.table({"id": pa.array(ids, pa.string()), "index": pa.array(index, pa.uint64()),
                     "reason": pa.array(reasons, pa.string())})


def _read_ids(path: Path, store: Store) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # an id may hold what else Python takes for line ends
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"--ids {path} cannot be read ({error}); expected a text file with one id a line.") from error
    if lines[0].strip() == "id" and "id" not in store.ids:
        lines = lines[1:]
    # Spaces around an id are most likely not meant, unless the store has such an id.
    meant = {line for line in lines if line != line.strip()}.intersection(store.ids)
    return [line if line in meant else line.strip() for line in lines if line.strip()]


def _index_of(store: Store, ids: Sequence[str]) -> np.ndarray:
    """(k,) int64 store indices of ids, each once, ascending."""
    wanted = pa.array(dict.fromkeys(ids), pa.string())
    found = pc.index_in(wanted, value_set=pa.array(store.ids, pa.string()))
    if found.null_count:
        unknown = wanted.filter(pc.is_null(found)).to_pylist()
        more = f" and {len(unknown) - SHOWN:,} more" if len(unknown) > SHOWN else ""
        raise DataError(
            f"{len(unknown):,} of {len(wanted):,} ids are not in {store.path}: "
            f"{', '.join(map(repr, unknown[:SHOWN]))}{more}. Nothing was removed. Its ids look like "
            f"{', '.join(map(repr, store.ids[:3]))}; correct the list, one id a line, and try again."
        )
    return np.sort(found.to_numpy().astype(np.int64))


def remove_text(found: RemovalReport) -> str:
    """What was done, for people."""
    again = f" ({found.already:,} of those named were withdrawn before)" if found.already else ""
    splits = ", ".join(f"{name} {count:,} of {count + found.splits[name]:,}" for name, count in found.withdrawn.items())
    total = found.removed + found.n_samples
    verb = "would be withdrawn" if found.dry_run else "withdrawn"
    kept = ", ".join(f"{name} {count:,}" for name, count in found.splits.items())
    return "\n".join([
        *(f"{text}: {count:,} samples" for text, count in found.conditions.items()),
        f"{found.removed:,} samples {verb} from {found.store}, of {total:,} ({splits}){again}; "
        f"{found.n_removed:,} in all",
        f"left: {found.n_samples:,} samples ({kept})",
        "nothing was written" if found.dry_run else f"table digest {found.digest}",
    ])
