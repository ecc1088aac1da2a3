"""How near embeddings lie to examples, and how far from all others: scores that samples are ranked by.

Both look at directions: embeddings minus their mean, at length 1, as retrieval does. Products of a block of samples
with the examples, or with a sample of the others, give every similarity: the search is exact, in memory that does not
grow with the number of samples.
"""

from __future__ import annotations

import numpy as np

from sciencessl.errors import DataError
from sciencessl.evaluate.embedded import Embedded
from sciencessl.evaluate.knn import row_blocks, unit_rows

NEIGHBOUR = 10
"""Which neighbour a sample's distance is taken to: more than the copies of one object that a survey is likely to hold,
fewer than the members of a class (ours)."""

OTHERS = 20_000
"""Samples that distances are taken to; all where there are no more. Sugiyama & Borgwardt (2013, NeurIPS 26) show that
distances to a small random sample rank outliers as well as those to all."""

DECIMALS = 6
"""Of scores: what rounding of products differs by decides no rank."""


def similarity(embedded: Embedded, examples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosine similarity of each sample to the example that it is most similar to.

    The greatest rather than the mean: examples of one kind may look different, and what is like one of them is like
    the kind.

    Args:
        embedded: Of n samples.
        examples: (q,) positions among them, at least one.

    Returns:
        (n,) similarity in [-1, 1], and (n,) position in `examples` of the one meant.

    Raises:
        DataError: When an embedding is not finite.
    """
    centre = embedded.centre()
    wanted = unit_rows(embedded.pick(examples) - centre)
    score, nearest = np.empty(embedded.samples), np.empty(embedded.samples, dtype=np.int64)
    for place, values in embedded.blocks():
        for rows in row_blocks(len(values), len(wanted)):
            products = np.round(unit_rows(values[rows] - centre) @ wanted.T, DECIMALS)
            nearest[place[rows]] = products.argmax(axis=1)
            score[place[rows]] = products.max(axis=1)
    return score, nearest


def strangeness(embedded: Embedded, others: np.ndarray, objects: np.ndarray, k: int = NEIGHBOUR) -> np.ndarray:
    """Distance of each sample to its k-th nearest neighbour among others, on the unit sphere: 0 to 2.

    Isolation forests, which astronomers often use, cut one feature at a time, and no feature of an embedding means
    anything by itself; they also differ from seed to seed. Source: Ramaswamy et al. (2000, SIGMOD) for the k-th
    distance, Sun et al. (2022, arXiv:2204.06507) for unit vectors of deep features; that the mean is taken off, ours.

    Args:
        embedded: Of n samples.
        others: (m,) positions among them of the samples that neighbours are looked for in.
        objects: (n,) number of the object that each sample shows: no sample is a neighbour of its own object.
        k: As far as there are so many other objects.

    Raises:
        DataError: When an embedding is not finite, or all samples show one object.
    """
    _, of_other = np.unique(objects[others], return_inverse=True)
    k = min(k, len(others) - int(np.bincount(of_other).max()))
    if k < 1:
        raise DataError(f"all {len(others):,} samples show one object: none is stranger than another.")
    centre = embedded.centre()
    known = unit_rows(embedded.pick(others) - centre)
    distance = np.empty(embedded.samples)
    for place, values in embedded.blocks():
        for rows in row_blocks(len(values), len(known)):
            products = unit_rows(values[rows] - centre) @ known.T
            products[objects[place[rows]][:, None] == objects[others]] = -np.inf
            place_of_kth = len(known) - k
            products.partition(place_of_kth, axis=1)
            kth = products[:, place_of_kth].astype(np.float64)
            distance[place[rows]] = np.sqrt(np.maximum(2 - 2 * kth, 0))
    return np.asarray(np.round(distance, DECIMALS))
