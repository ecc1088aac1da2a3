"""Colour histograms as features: what a learned encoder has to be better than before it counts as having learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sciencessl.data.loader import Decoder, EvaluationStream, make_loader
from sciencessl.registry import load_domain
from sciencessl.samples import Sample
from sciencessl.spec import View, ViewRandom
from sciencessl.store.display import Display, fit_display
from sciencessl.store.reader import Store

COLOUR_HISTOGRAM = "baseline:colour-histogram"
"""How the encoder is asked for wherever a verb takes a RUN."""

BINS = 16
"""Bins of each of red, green and blue: 16 of 256 values each."""

FEATURES = 3 * BINS


def colour_histogram(rgb: np.ndarray) -> np.ndarray:
    """Shares of the pixels of a picture in 16 equal bins of red, then green, then blue.

    Args:
        rgb: (H, W, 3) uint8, at least one pixel.

    Returns:
        (48,) float32, each colour's 16 adding up to 1. Nothing of where a pixel lies enters. Source: ours.
    """
    counts = [np.bincount(rgb[..., colour].ravel() // BINS, minlength=BINS) for colour in range(3)]
    shares: np.ndarray = (np.concatenate(counts) / (rgb.shape[0] * rgb.shape[1])).astype(np.float32)
    return shares


def colour_histograms(
    store: Store,
    index: np.ndarray,
    fitted_on: Store,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """(n, 48) float32 `colour_histogram`s of whole samples as the domain displays them, in the order of `index`.

    8-bit colours are taken as they are; flux goes through the display's one stretch for a store.

    Args:
        store: Of the samples.
        index: (n,) store indices.
        fitted_on: Store that the stretch of flux is fitted on.
        workers: Loader processes.
        progress: Called with (samples done, samples).
    """
    name, fields = store.primary, store.header.fields
    reads = tuple(field for field in (name, f"{name}.mask") if field in fields)
    view = _HistogramView(fit_display(fitted_on), name, reads)
    decoder = Decoder(store, load_domain(store.header.domain).decode)
    parts, done = [np.zeros((0, FEATURES), np.float32)], 0
    for batch in make_loader(EvaluationStream(decoder, index, _Views(view), None, [name]), workers):
        parts.append(batch.views[0][name].flatten(1).to(torch.float32).numpy())
        done += len(batch)
        if progress:
            progress(done, len(index))
    return np.concatenate(parts)


@dataclass(frozen=True)
class _HistogramView:
    """A sample -> its histogram as an image of one pixel with 48 channels; travels to loader processes."""

    display: Display
    name: str
    reads: Sequence[str]

    def __call__(self, sample: Sample, random: ViewRandom) -> list[Sample]:
        values = colour_histogram(self.display(sample))
        return [Sample({self.name: values[None, None]}, index=sample.index)]


@dataclass(frozen=True)
class _Views:
    view: View

    def __call__(self, settings: Any) -> tuple[View, View]:
        return self.view, self.view
