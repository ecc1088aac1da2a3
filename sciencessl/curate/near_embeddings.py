"""Pairs of samples with near embeddings, by faiss: the last level of `store dedup`.

What is near depends on the encoder: the 0.75 of SSCD is of that network, which was trained to tell copies. So it is
measured on the store how near neighbours are that are no copies. The nearest of many at a distance r > 0 follows a
Weibull law, so that -log(1 - cos) of nearest neighbours follows Gumbel's, which `sciencessl.store.copies.fit_null`
fits; copies lie above what 0.01 of all samples are expected to reach. More than a quarter of copies among the samples
raise it: hashes come first.

An encoder that was not trained for it finds copies that hashes miss (turned, mirrored, cropped), and things that look
alike too: look at the pairs before anything is withdrawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sciencessl.curate.curation import embeddings_card
from sciencessl.curate.points import Directions
from sciencessl.errors import ConfigError, DataError, MissingExtraError
from sciencessl.evaluate.embedded import read_folder
from sciencessl.store.copies import FALSE_CONFIRMED, NULL_IMAGES, fit_null
from sciencessl.store.reader import Store

EXACT = 50_000
"""Samples of which every pair is looked at; of more, those that lie in the same lists."""
PROBED = 16
"""Lists that are searched for each sample."""
TRAINED = 64
"""Samples a list that its centre is computed from."""
BLOCK = 4096
"""Samples that are searched for at a time."""
LEAST_APART = 1e-6
"""Distance 1 - cos below which embeddings are equal."""
SEED = 0


def near_embeddings(
    store: Store, folder: Path, index: np.ndarray, cosine: float | None = None
) -> tuple[float, Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """Pairs of samples whose embeddings, minus the mean of all, have a cosine above a threshold.

    Memory: 4 F bytes a sample up to `EXACT`, and 2 F beyond, with F numbers an embedding.

    Args:
        store: A sealed store.
        folder: That `embed` wrote for it.
        index: (n,) store indices, ascending.
        cosine: The threshold; None measures it.

    Returns:
        The threshold, and blocks (i, j, cosine) of (p,) store indices with i < j, each pair once.

    Raises:
        ConfigError: For a threshold that no cosine is above, or below 0.
        DataError: When embeddings are missing, damaged or of another store; without a threshold, also when there are
            too few to measure it.
        MissingExtraError: When faiss is not installed.
    """
    if cosine is not None and not 0 <= cosine < 1:
        raise ConfigError(f"cosine {cosine:g}; expected 0 to below 1, above which two embeddings count as copies.")
    embeddings_card(folder, store)
    embedded = read_folder(folder, store, index)
    points = Directions(embedded, embedded.centre())  # what all of them share makes nothing near
    found = _index(points)
    threshold = _measured(points, found) if cosine is None else cosine
    return threshold, _pairs(points, found, index, threshold)


def _measured(points: Directions, found: Any) -> float:
    """The cosine that `FALSE_CONFIRMED` of all samples are expected to reach without having a copy."""
    n = points.samples
    drawn = np.sort(np.random.default_rng(SEED).choice(n, min(n, NULL_IMAGES), replace=False))
    cosines, nearest = found.search(points.pick(drawn), 2)
    own = nearest[:, 0] == drawn
    cosine = np.where(own, cosines[:, 1], cosines[:, 0]).astype(np.float64)
    neighbour = np.where(own, nearest[:, 1], nearest[:, 0])
    try:
        null = fit_null(-np.log(np.maximum(1 - cosine, LEAST_APART)), drawn, neighbour)
    except DataError as error:
        raise DataError(f"how near embeddings of no copies are cannot be measured on {n:,} samples ({error}) Give "
                        "--cosine, or leave embeddings out.") from error
    return float(1 - np.exp(-null.threshold(FALSE_CONFIRMED, n)))


def _pairs(
    points: Directions, found: Any, index: np.ndarray, threshold: float
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    for places, values in points.blocks():
        for at in range(0, len(places), BLOCK):
            asked = places[at : at + BLOCK]
            ends, score, other = found.range_search(values[at : at + BLOCK], threshold)
            one = np.repeat(asked, np.diff(ends).astype(np.int64))
            once = one < other
            yield index[one[once]], index[other[once]], score[once].astype(np.float32)


def _index(points: Directions) -> Any:
    """A faiss index of all points by their positions."""
    try:
        import faiss
    except ImportError as error:
        raise MissingExtraError("near embeddings need faiss; install it with: pip install 'sciencessl[web]'") from error
    n, width = points.samples, next(points.blocks())[1].shape[1]
    flat = faiss.IndexFlatIP(width)
    index: Any = faiss.IndexIDMap(flat)
    if n > EXACT:
        lists = int(4 * n**0.5)
        index = faiss.IndexIVFScalarQuantizer(flat, width, lists, faiss.ScalarQuantizer.QT_fp16,
                                              faiss.METRIC_INNER_PRODUCT)
        places = np.random.default_rng(SEED).choice(n, min(n, TRAINED * lists), replace=False)
        index.train(points.pick(np.sort(places)))
        index.nprobe = PROBED
    for places, values in points.blocks():
        index.add_with_ids(values, places)
    return index
