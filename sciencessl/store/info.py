"""`store info`: what a store holds, in one look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sciencessl.data.mixing import BATCH, mixing_score
from sciencessl.data.order import Order
from sciencessl.data.runs import longest_run
from sciencessl.plain import plain
from sciencessl.store import format as zpack
from sciencessl.store.files import sized_files
from sciencessl.store.reader import Store
from sciencessl.store.removals import removal_reasons
from sciencessl.store.tables import REMOVALS

MOST_VALUES = 20
"""A text column with more different values than this is an identifier, not a label."""


def info(path: str | Path) -> dict[str, Any]:
    """Counts, fields, columns, tables and refusals of a sealed store, as plain JSON values.

    Raises:
        StoreError: When it is no store or was never sealed.
    """
    store = Store(path)
    header = store.header
    refused = Counter(store.refusals()["reason"].to_pylist())
    columns = {name: _column(store, name, where) for name, where in store.columns().items()}
    return {
        "path": str(path),
        "format": zpack.FORMAT,
        "domain": header.domain,
        "n_samples": len(store.present),
        "splits": {name: len(store.split(name)) for name in zpack.SPLITS},
        "fields": {name: plain(spec) for name, spec in header.fields.items()},
        "columns": columns,
        "tables": {name: _table(store, name) for name in store.tables},
        "removed": removal_reasons(store.table(REMOVALS)) if REMOVALS in store.tables else {},
        "mixing": _mixing(store, columns),
        "refused": dict(refused),
        "rows": header.rows,
        "bytes": sum(size for _, size in sized_files(store.path)),
        "settings": dict(header.settings),
        "manifest_digest": store.digest,
    }


def _column(store: Store, name: str, where: str) -> dict[str, Any]:
    values = np.delete(store.column(name), store.removed)
    described: dict[str, Any] = {"in": where, "dtype": str(values.dtype)}
    if values.dtype == object:
        present = [str(value) for value in values if value is not None]
        counts = Counter(present)
        described["dtype"] = "text"
        described["missing"] = len(values) - len(present)
        if len(counts) <= MOST_VALUES:
            described["values"] = dict(counts.most_common())
        else:
            described["distinct"] = len(counts)
    elif len(values):
        finite = values[np.isfinite(values.astype(np.float64))]
        described["range"] = [float(finite.min()), float(finite.max())] if finite.size else []
    return described


def _mixing(store: Store, columns: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """How well batches of split=train would mix rows, groups and classes; empty where there are too few samples."""
    split = store.split("train")
    if len(split) < 8:
        return {}
    # A power of two, as runs have: of an odd batch all comes from one stream, which mixes far less.
    batch = min(BATCH, 2 ** ((len(split) // 4).bit_length() - 1))
    order, index = Order(len(split), 0, batch, longest_run(store, batch)), split.all()
    codes = {"row": np.searchsorted(store.row_first, index, side="right")}
    for name, described in columns.items():
        if name == "group" or (name != "split" and len(described.get("values", ())) > 1):
            codes[name] = np.unique(store.column(name)[index].astype(str), return_inverse=True)[1]
    scores = {name: mixing_score(order, found)._asdict() for name, found in codes.items() if np.ptp(found)}
    return {"batch": batch, "scores": scores}


def _table(store: Store, name: str) -> dict[str, Any]:
    table = store.table(name)
    return {
        "rows": table.data.num_rows,
        "columns": table.columns,
        "questions": table.questions,
        "votes": [column for column in table.schema.columns if column in table.columns] if table.schema else [],
        "derived_from": {column: list(parents) for column, parents in table.derived_from.items()},
        "note": table.note,
        "digest": table.digest,
    }


def info_text(found: dict[str, Any]) -> str:
    """The same for people."""
    refused = ", ".join(f"{count} {reason}" for reason, count in found["refused"].items()) or "none"
    lines = [
        f"{found['path']}: {found['n_samples']:,} samples of domain {found['domain']}, "
        f"{found['bytes'] / 2**20:.1f} MiB in {found['rows']} rows",
        "splits:  " + ", ".join(f"{name} {count:,}" for name, count in found["splits"].items() if count),
        f"refused: {refused}",
    ]
    if found["removed"]:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in found["removed"].items())
        lines.append(f"withdrawn: {reasons}; their pixels are still in the store")
    if found["mixing"]:
        scores = [f"{name} {x['score']:.2f} ±{x['error']:.2f}" for name, x in found["mixing"]["scores"].items()]
        lines.append(f"mixing:  {', '.join(scores)} in batches of {found['mixing']['batch']} of split=train "
                     "(1: as by chance; above: alike samples come together)")
    for name, spec in found["fields"].items():
        shape = "x".join(map(str, spec["shape"])) or "any size"
        lines.append(f"field {name}: {spec['kind']}, {spec['dtype']}, channels {'/'.join(spec['channels'])}, {shape}")
    votes = {column for table in found["tables"].values() for column in table["votes"]}
    for name, column in found["columns"].items():
        if name not in votes:
            lines.append(f"  {name} ({column['in']}): {_column_text(column)}")
    for name, table in found["tables"].items():
        asked = f", votes on {', '.join(table['questions'])}" if table["questions"] else ""
        parents = sorted({parent for above in table["derived_from"].values() for parent in above})
        derived = f", derived from {', '.join(parents)}" if parents else ""
        note = f" [{table['note'].partition(':')[0]}]" if table["note"] else ""
        lines.append(f"table {name}: {table['rows']:,} rows{asked}{derived}{note}")
    return "\n".join([*lines, f"manifest digest {found['manifest_digest']}"])


def _column_text(column: dict[str, Any]) -> str:
    if "values" in column:
        return ", ".join(f"{value} {count}" for value, count in column["values"].items()) or "empty"
    if "distinct" in column:
        return f"text, {column['distinct']:,} different"
    if column.get("range"):
        return f"{column['dtype']}, {column['range'][0]:g} to {column['range'][1]:g}"
    return str(column["dtype"])
