"""Appending: a new version of a sealed store, whose rows come first and are shared, with further rows after them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from sciencessl.data_prep.begin import settings_differences
from sciencessl.data_prep.plan import Plan, make_plan, row_count
from sciencessl.data_prep.source import Input, Item, Labels, Source, Task, is_refused, refused_inputs
from sciencessl.errors import ConfigError, DataError, StoreError
from sciencessl.store import format as zpack
from sciencessl.store.derived import carry_tables, require_space
from sciencessl.store.links import can_link, link_row
from sciencessl.store.reader import Store
from sciencessl.store.seal import required_receipt
from sciencessl.store.writer import Refusal

DUPLICATE = "duplicate-id"
"""Reason of an input whose id the older store has; also what stands in the place of its handle, so it is not opened."""

FEW_ROWS = 2
"""Times as many rows as a store of its own would have, from which on a sentence says so."""


@dataclass(frozen=True)
class WithDuplicates:
    """Reads a task as a source does, and refuses inputs that the older store has. Pickles as what it wraps does."""

    read: Callable[[Task], Iterator[Item]]

    def __call__(self, task: Task) -> Iterator[Item]:
        """Samples and refusals of the inputs of a task."""
        for entry in task.inputs:
            if entry.handle == DUPLICATE:
                yield Refusal(entry.id, DUPLICATE, "the older store has a sample of this id, which stays")
        yield from self.read(replace(task, inputs=tuple(e for e in task.inputs if e.handle != DUPLICATE)))


def append_plan(domain: str, source: Source, old: Store, labels: str) -> tuple[Plan, Source]:
    """The plan of a new version of a store, and the source that fills its new rows.

    Samples keep row, place and index. Inputs whose id the store has, withdrawn ones among them, are refused unread.
    Inputs of many samples, such as slides, are left alone where the store has all of them.

    Args:
        domain: Name of the domain.
        source: What is to be added.
        old: The sealed store.
        labels: Name of the table in which labels are joined: samples of the old store keep those they have.

    Raises:
        StoreError: When domain, source, fields or settings differ from those of the store.
        DataError: When every input is there already, a group would straddle splits, or labels do not go together.
        ConfigError: When labels follow another schema.
    """
    known = {*old.ids}
    source, said_alone = _without_known(source, known, old)
    fresh = [entry for entry in source.inputs if entry.id not in known]
    repeated = [replace(entry, handle=DUPLICATE, expected_bytes=0) for entry in source.inputs if entry.id in known]
    if source.inputs and not fresh:
        raise DataError(f"all {len(repeated):,} inputs have ids that {old.path} has already, such as "
                        f"{repeated[0].id!r}: there is nothing to append.")
    arrays = any(spec.kind == "array" for spec in source.fields.values())
    plan = make_plan(domain, replace(source, inputs=fresh), old.header.places if arrays else None)
    differing = settings_differences(old.header, plan.header)
    if differing or plan.header.config_digest != old.header.config_digest:
        raise StoreError(f"what is appended to {old.path} must be prepared as it was: "
                         f"{'; '.join(differing) or 'its settings differ'}. Pass the same settings, or prepare a store "
                         "of its own.")
    _check_groups(old, fresh)
    first, count = old.header.rows, len(plan.tasks)
    tasks = [Task(first + t.row, (*t.inputs, *repeated[t.row :: count])) for t in plan.tasks]
    header = replace(
        plan.header, rows=first + count, places=old.header.places if arrays else plan.header.places,
        plan_digest=zpack.digest(b"append", old.digest.encode(), plan.header.plan_digest.encode()),
    )
    said = f"appended to {old.path}: its {len(old):,} samples in {first} rows stay as they are"
    again = [f"{len(repeated):,} inputs are there already and are refused as {DUPLICATE}"] if repeated else []
    if count > FEW_ROWS * row_count(len(fresh), len(fresh), sum(entry.expected_bytes for entry in fresh)):
        again.append(f"rows take {old.header.places} samples, as those of the older store do: {count} rows; `store "
                     "shuffle` makes larger ones")
    more = replace(
        source, read=WithDuplicates(source.read), labels=_joined(old, source.labels, labels),
        guessed=(*source.guessed, said, *said_alone, *again),
    )
    return Plan(header, tasks, plan.row_bytes, old), more


def _without_known(source: Source, known: set[str], old: Store) -> tuple[Source, list[str]]:
    """The source without inputs of many samples that are all in the store, and a sentence on these; what the store has
    refused already is not refused once more.

    Raises:
        DataError: When some samples of an input are there and some are not, or nothing is left.
    """
    kept, alone = [], 0
    told = {*zip(*(old.refusals()[name].to_pylist() for name in ("id", "reason")), strict=True)}
    seen = known | {name for name, _ in told}  # what was refused of an input is no reason to read it again
    for entry in _without_told(source.inputs, told):
        there = sum(name in seen for name in entry.ids)
        if entry.ids and 0 < there < len(entry.ids):
            raise DataError(f"{there:,} of the {len(entry.ids):,} samples of {entry.id.partition('#')[0]!r} are in "
                            f"{old.path} already: it was cut otherwise then. Prepare a store of its own.")
        if entry.ids and there:
            alone += 1
        else:
            kept.append(entry)
    if alone and not kept:
        raise DataError(f"all samples of the {alone:,} inputs are in {old.path} already: there is nothing to append.")
    said = [f"{alone:,} inputs are there already, with all of their samples, and are left alone"] if alone else []
    return replace(source, inputs=kept), said


def _without_told(inputs: Sequence[Input], told: set[tuple[str, str]]) -> Iterator[Input]:
    """Inputs that were refused before anything is read, without refusals that the older store lists already."""
    for entry in inputs:
        if not is_refused(entry):
            yield entry
            continue
        yield from refused_inputs([one for one in entry.handle if (one.id, one.reason) not in told])


def _check_groups(old: Store, fresh: Sequence[Input]) -> None:
    """Refuse a group that is in one split there and in another here: what is tested would have been trained on."""
    splits = {str(entry.columns["group"]): entry.split for entry in fresh if "group" in entry.columns}
    names = pa.array(list(splits), pa.string())
    for table in old.row_tables():
        if "group" not in table.column_names:
            continue
        shared = table.filter(pc.is_in(table["group"].cast(pa.string()), value_set=names))
        for group, split in zip(shared["group"].to_pylist(), shared["split"].to_pylist(), strict=True):
            if splits[str(group)] != split:
                raise DataError(
                    f"group {group!r} is in split={split} of {old.path} and in split={splits[str(group)]} of what is "
                    "appended: test results would leak. Correct the split column of the new catalogue."
                )


def _joined(old: Store, new: Labels | None, name: str) -> Labels | None:
    """Labels of both: samples of the old store keep theirs, whatever the new catalogue says of them."""
    if name not in old.tables:
        return new
    table = old.table(name)
    if new is None:
        return Labels(table.data, table.schema, table.note, table.derived_from)
    if None not in (new.schema, table.schema) and new.schema != table.schema:
        raise ConfigError(f"votes of the new catalogue follow another schema than those of {old.path}; choose that one "
                          "with --schema.")
    known = pa.array(old.ids, pa.string())
    added = new.data.filter(pc.invert(pc.is_in(new.data["id"], value_set=known)))
    try:
        both = pa.concat_tables([table.data, added], promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(f"labels of the new catalogue do not go with those of {old.path}: "
                        f"{str(error).splitlines()[0]}. Give the columns one type.") from error
    return Labels(both, table.schema or new.schema, table.note or new.note, table.derived_from)


def keep_rows(old: Store, out: Path, header: zpack.StoreHeader, name: str) -> None:
    """Make the rows of the old store the first of the new one; rows that are there stay. Tables are as they are now.

    Args:
        old: The sealed store.
        out: The new one, begun.
        header: Of the new one.
        name: Table of labels, which is joined elsewhere.

    Raises:
        StoreError: When a receipt of the old store is damaged, or there is no room for copies.
        OSError: As the file system says.
    """
    rows = range(old.header.rows)
    if not can_link(old.path, out):
        require_space(out, sum(required_receipt(old.path, row).payload_bytes for row in rows))
    for row in rows:
        link_row(old.path, out, header, row)
    # Withdrawals name indices, which are the same: the rows of the old store come first.
    carry_tables(old, out, skip=(name,))
