"""Figures, drawn without a display. Colours are told apart by readers with any colour vision (Okabe and Ito)."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from sciencessl.evaluate.results import Row, TransferResult
from sciencessl.store.files import write_atomic

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#777777"


def few_label_figure(result: TransferResult) -> Any:
    """Score against the number of labels, with 95 % bands; random encoders in grey, chance dotted."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 4.8), layout="constrained")
    axes = figure.subplots()
    curves: dict[tuple[str, str], list[Row]] = {}
    for row in result.rows:
        curves.setdefault((row.encoder, row.arm), []).append(row)
    coloured = iter(COLOURS * (len(curves) // len(COLOURS) + 1))
    for (encoder, arm), rows in curves.items():
        rows = sorted(rows, key=lambda row: row.n_labels)
        sizes = [row.n_labels for row in rows]
        colour = GREY if arm == "random" else next(coloured)
        name = f"{encoder}, {arm} (pretraining saw: {rows[0].saw})"
        name = f"{encoder} (no pretraining)" if arm == "scratch" else name
        name = f"random encoders (mean of {rows[0].encoders})" if arm == "random" else name
        axes.plot(sizes, [row.score for row in rows], "o--" if arm == "knn" else "o-", color=colour, label=name, ms=4)
        axes.fill_between(sizes, [row.low for row in rows], [row.high for row in rows], color=colour, alpha=0.15, lw=0)
    axes.axhline(1 / len(result.classes), color="black", lw=0.8, ls=":", label="chance")
    axes.set_xscale("log")
    ticks = sorted({row.n_labels for row in result.rows})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("labels used (number of samples)")
    axes.set_ylabel("balanced accuracy (test)")
    axes.set_title(f"{result.task}: {result.n_test} test samples, 95 % intervals", fontsize=10)
    figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=2)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def png_bytes(figure: Any, dpi: int = 150) -> bytes:
    """The figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def save_figure(figure: Any, path: Path) -> None:
    """Write the figure as PNG."""
    write_atomic(path, png_bytes(figure))
