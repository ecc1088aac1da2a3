"""What all figures have in common: colours told apart by any colour vision (Okabe and Ito), markers, and PNG."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from sciencessl.store.files import write_atomic
from sciencessl.views.pictures import Picture, data_uri

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#777777"
MARKERS = "osD^vPX"
DPI = 150


def marker_of(number: int) -> str:
    """Marker of the curve or class of that number: with its colour of `COLOURS` it is that of no other of 49."""
    return MARKERS[(number + number // len(COLOURS)) % len(MARKERS)]


def png_bytes(figure: Any, dpi: int = DPI) -> bytes:
    """A matplotlib figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def figure_picture(figure: Any, folder: Path, file: str, alt: str) -> Picture:
    """A matplotlib figure, written to `folder/file` and embedded as PNG."""
    raw = png_bytes(figure)
    write_atomic(folder / file, raw)
    width, height = (round(side * 100) for side in figure.get_size_inches())
    return Picture(data_uri(raw, "png"), alt, width, height, file)
