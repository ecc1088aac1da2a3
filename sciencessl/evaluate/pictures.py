"""Figures of the report: written as PNG beside the page, and carried inside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sciencessl.evaluate.plots import png_bytes
from sciencessl.store.files import write_atomic
from sciencessl.views.pictures import Picture, data_uri

DPI = 150


def figure_picture(figure: Any, folder: Path, file: str, alt: str) -> Picture:
    """A matplotlib figure, written to `folder/file` and embedded as PNG."""
    raw = png_bytes(figure, DPI)
    write_atomic(folder / file, raw)
    width, height = (round(side * 100) for side in figure.get_size_inches())
    return Picture(data_uri(raw, "png"), alt, width, height, file)
