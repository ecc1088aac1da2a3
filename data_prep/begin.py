"""Beginning, resuming or refusing a store: what lies at the output decides, and nothing foreign is ever deleted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sciencessl.data_prep.plan import Plan, inputs_digest
from sciencessl.data_prep.source import CRASHED, Input, Source, Task
from sciencessl.errors import StoreError
from sciencessl.store import format as zpack
from sciencessl.store.header import read_header
from sciencessl.store.seal import read_receipt, read_sidecar
from sciencessl.store.writer import Refusal, create_store


def is_store(path: Path) -> bool:
    """Whether a folder is a `zpack` store, finished, begun or damaged."""
    try:
        attributes = json.loads((path / "zarr.json").read_bytes())["attributes"]
        return str(attributes["format"]).startswith("zpack/")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def begin(out: Path, plan: Plan, overwrite: bool) -> zpack.StoreHeader:
    """Make the store, or find the one that this plan began.

    Args:
        out: Folder of the store; absent, empty, or a store.
        plan: What is to be prepared.
        overwrite: Delete a store that lies there first, whatever is in it.

    Returns:
        The header found or made; its `sealed` says whether the store is finished.

    Raises:
        StoreError: As `find_begun`.
    """
    header = find_begun(out, plan, overwrite)
    if header is not None and header.sealed:
        return header
    # Laid beside and renamed, renamed and deleted beside: whenever a kill comes, what has the name is a whole store.
    fresh, gone = out.with_name(f".{out.name}.begin"), out.with_name(f".{out.name}.gone")
    _delete(fresh, gone)
    if header is not None and any((out / "receipts").glob("*.json")):
        return header
    out.parent.mkdir(parents=True, exist_ok=True)
    create_store(fresh, plan.header, plan.row_bytes, plan.older.chunk_bytes if plan.older else 0)
    if out.exists():
        out.rename(gone)
    fresh.rename(out)
    _delete(gone)
    return plan.header


def _delete(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def find_begun(out: Path, plan: Plan, overwrite: bool = False) -> zpack.StoreHeader | None:
    """The header of the store that this plan began, finished or not; None where there is none to go on with.

    Raises:
        StoreError: For a folder that is no store, or a store of another plan; says what differs.
    """
    occupied = out.exists() and not (out.is_dir() and not any(out.iterdir()))
    if occupied and not is_store(out):
        raise StoreError(
            f"{out} exists and is no store, so it is left alone. Choose another --out; --overwrite deletes stores only."
        )
    if not occupied or overwrite:
        return None
    header = read_header(out)
    differing = differences(out, header, plan)
    if differing:
        raise StoreError(
            f"{out} was prepared from something else: {'; '.join(differing)}. Choose another --out, or pass "
            "--overwrite to delete it and start anew."
        )
    return header


def differences(out: Path, header: zpack.StoreHeader, plan: Plan) -> list[str]:
    """How a store's plan differs from a new one, in words; empty when it does not."""
    names = ("domain", "source", "plan_digest", "config_digest")
    if all(getattr(header, name) == getattr(plan.header, name) for name in names):
        return []
    found = [*settings_differences(header, plan.header), *_id_differences(out, header, plan)]
    return found or ["paths, sizes, splits, groups or kept columns of some inputs changed"]


def settings_differences(old: zpack.StoreHeader, new: zpack.StoreHeader) -> list[str]:
    """How two stores differ in domain, source, settings and fields, in words; empty when they do not."""
    found = []
    for name in ("domain", "source"):
        was, now = getattr(old, name), getattr(new, name)
        found += [f"{name} {was!r} instead of {now!r}"] if was != now else []
    for name in sorted({*old.settings, *new.settings}):
        was, now = old.settings.get(name), new.settings.get(name)
        found += [f"{name} was {was}, is {now}"] if was != now else []
    if dict(old.fields) != dict(new.fields):
        found.append("fields differ")
    return found


def _id_differences(out: Path, header: zpack.StoreHeader, plan: Plan) -> list[str]:
    old: set[str] = set()
    for row in range(plan.tasks[0].row, header.rows):
        for name in (zpack.rows_file(row), zpack.refused_file(row)):
            if (out / name).is_file():
                old.update(pq.read_table(out / name, columns=["id"])["id"].to_pylist())
    new = {name for task in plan.tasks for entry in task.inputs for name in entry.ids or (entry.id,)}
    # A store that is only begun does not know all of its ids.
    counts = {"added": len(new - old) if header.sealed else 0, "removed": len(old - new)}
    return [f"{count} ids {what}" for what, count in counts.items() if count]


def is_done(out: Path, task: Task, config_digest: str, source: Source, verify_inputs: bool) -> bool:
    """Whether a row is committed and its inputs are what they were: by size and time, or by content.

    A damaged receipt commits nothing.

    Raises:
        StoreError: When contents are to be compared and what the row recorded of them is damaged.
    """
    try:
        receipt = read_receipt(out, task.row)
    except StoreError:
        return False
    if receipt is None or receipt.config_digest != config_digest:
        return False
    if not verify_inputs:
        return receipt.inputs_digest == inputs_digest(task.inputs)
    return _same_content(out, receipt, task, source)


def _same_content(out: Path, receipt: zpack.Receipt, task: Task, source: Source) -> bool:
    rows = read_sidecar(out, receipt, zpack.rows_file(task.row))
    if not {"content_hash", "file"} <= {*rows.column_names}:
        return _same_samples(out, receipt, task, source, rows)
    stored: dict[str, str] = {}
    if rows.num_rows:
        stored = dict(zip(rows["file"].to_pylist(), rows["content_hash"].to_pylist(), strict=True))
    table = read_sidecar(out, receipt, zpack.refused_file(task.row))
    refused = dict(zip(table["id"].to_pylist(), table["reason"].to_pylist(), strict=True))
    return all(
        source.fingerprint(entry) == stored[entry.file] if entry.file in stored
        else _refused_again(source, entry, refused)
        for entry in task.inputs
    )


def _same_samples(out: Path, receipt: zpack.Receipt, task: Task, source: Source, rows: pa.Table) -> bool:
    """Whether reading all inputs of a row gives the samples and refusals that it has."""
    refused = read_sidecar(out, receipt, zpack.refused_file(task.row))
    there = dict(zip(refused["id"].to_pylist(), refused["reason"].to_pylist(), strict=True))
    if rows.num_rows:
        there |= dict(zip(rows["id"].to_pylist(), rows["pixel_hash"].to_pylist(), strict=True))
    now = {item.id: item.reason if isinstance(item, Refusal) else item.columns["pixel_hash"]
           for item in source.read(Task(task.row, task.inputs))}
    return now == there


def _refused_again(source: Source, entry: Input, refused: dict[str, str]) -> bool:
    if refused.get(entry.id) == CRASHED:
        return True  # read here, it would end this process
    items = list(source.read(Task(0, (entry,))))
    return bool(items) and all(isinstance(i, Refusal) and refused.get(i.id) == i.reason for i in items)


def require_unchanged(out: Path, plan: Plan, source: Source, verify_inputs: bool) -> None:
    """Refuse to call a sealed store up to date when its inputs are not what they were.

    Raises:
        StoreError: Naming how many rows and an input of the first.
    """
    config = plan.header.config_digest
    changed = [task for task in plan.tasks if not is_done(out, task, config, source, verify_inputs)]
    if changed:
        how = "other contents" if verify_inputs else "another size or modification time"
        hint = "" if verify_inputs else " If only times changed, --verify-inputs compares contents."
        raise StoreError(
            f"{out} is sealed, but files of {len(changed)} of its {len(plan.tasks)} rows have {how} now (the first row "
            f"holds {changed[0].inputs[0].file!r}).{hint} Choose another --out, or pass --overwrite to start anew."
        )
