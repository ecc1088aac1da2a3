"""Contact sheets of clusters: what the largest and the smallest of each level show."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sciencessl.curate.balance import Float64, members_of
from sciencessl.curate.hierarchy import Hierarchy
from sciencessl.data.loader import Decoder
from sciencessl.registry import load_domain
from sciencessl.store.display import fit_display
from sciencessl.store.reader import Store
from sciencessl.views.pictures import save_pixels
from sciencessl.views.sheet import contact_sheet

CLUSTERS, MEMBERS, TILE_PX = 5, 8, 112
"""Of the largest clusters and of the smallest, a row each; samples of each at most; and their side."""


def write_sheets(
    folder: Path, store: Store, index: np.ndarray, found: Hierarchy, drawn: Float64, seed: int
) -> tuple[Path, ...]:
    """Write `level-1.png`... with random members of the largest clusters, then of the smallest, a row each.

    Args:
        folder: Where they go.
        store: Of the samples.
        index: (n,) their store indices.
        found: Their clusters.
        drawn: (n,) draws of each in an epoch.
        seed: Other members for another seed.
    """
    for stale in folder.glob("level-*.png"):  # of more levels than there are now
        stale.unlink()
    paths = []
    for level in range(len(found.labels)):
        members = members_of(found.of_points(level), len(found.centroids[level]))
        sizes = np.array([len(own) for own in members])
        order = np.argsort(-sizes, kind="stable")
        shown = order if len(order) <= 2 * CLUSTERS else np.concatenate([order[:CLUSTERS], order[-CLUSTERS:]])
        path = folder / f"level-{level + 1}.png"
        _write_sheet(path, store, index, [(int(k), members[k]) for k in shown], drawn, np.random.default_rng(seed))
        paths.append(path)
    return tuple(paths)


def _write_sheet(
    path: Path, store: Store, index: np.ndarray, clusters: list[tuple[int, np.ndarray]], drawn: Float64,
    rng: np.random.Generator,
) -> None:
    chosen = [np.sort(rng.choice(members, min(MEMBERS, len(members)), replace=False)) for _, members in clusters]
    every = np.unique(np.concatenate(chosen))
    samples = Decoder(store, load_domain(store.header.domain).decode)(index[every])
    display = fit_display(store)
    images = {int(at): display(sample) for at, sample in zip(every, samples, strict=True)}
    blank = np.full((TILE_PX, TILE_PX, 3), 255, np.uint8)
    tiles, captions = [], []
    for (number, members), few in zip(clusters, chosen, strict=True):
        words = f"cluster {number}: {len(members):,}\ndrawn x {drawn[members].mean():.2f}"
        left = MEMBERS - len(few)
        tiles += [images[int(at)] for at in few] + [blank] * left
        captions += [f"{store.ids[int(index[at])]}\n{words}" for at in few] + [""] * left
    save_pixels(contact_sheet(tiles, captions, MEMBERS, TILE_PX), path)
