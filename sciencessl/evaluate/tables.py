"""The few-label table as text for a terminal and as CSV."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence

from sciencessl.evaluate.results import Row, TransferResult


def table_text(result: TransferResult) -> str:
    """The table as shown on a terminal: resolution first, then scores with intervals, then what pretraining saw."""
    lines = [
        f"task {result.task}: {', '.join(result.classes)}; {result.n_pool} labels to draw from, "
        f"{result.n_test} test samples, unit {result.unit}",
        f"a difference below {result.resolution:.3f} in balanced accuracy cannot be resolved by this test set",
        "",
        *aligned([_HEADER, *[_cells(row) for row in result.rows]]),
        "",
        "balanced accuracy, mean over label subsets [95 % interval over subsets and test units]; this checkpoint only",
    ]
    lines += [f"{name}: {sentence}" for name, sentence in result.marks.items()]
    if result.dropped:
        left = ", ".join(f"{count} {value}" for value, count in result.dropped.items())
        lines.append(f"left out by the task's mapping: {left}")
    lines += sorted({f"{row.budget}: {row.note}" for row in result.rows if row.note})
    return "\n".join(lines)


_HEADER = ("encoder", "arm", "budget", "labels", "score", "minus random", "trials", "pretraining saw")


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.encoder if row.encoders == 1 else f"{row.encoder} (mean of {row.encoders})",
        row.arm,
        row.budget,
        str(row.n_labels),
        f"{row.score:.3f} [{row.low:.3f}, {row.high:.3f}]",
        difference_text(row),
        f"{row.trials:.1f}",
        row.saw,
    )


def difference_text(row: Row) -> str:
    """`+0.083 [+0.051, +0.115]`, with `not resolved` where the interval holds zero."""
    if row.difference is None:
        return ""
    text = f"{row.difference:+.3f} [{row.difference_low:+.3f}, {row.difference_high:+.3f}]"
    return text if row.resolved else f"{text} not resolved"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines with columns two spaces apart."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def table_csv(rows: Sequence[Row]) -> str:
    """All rows with every metric, one line each."""
    out = io.StringIO()
    names = [field.name for field in dataclasses.fields(Row) if field.name != "metrics"]
    metrics = sorted({name for row in rows for name in row.metrics})
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*names, "resolved", *metrics])
    for row in rows:
        values = [getattr(row, name) for name in names]
        writer.writerow([*values, row.resolved, *[row.metrics.get(name, "") for name in metrics]])
    return out.getvalue()
