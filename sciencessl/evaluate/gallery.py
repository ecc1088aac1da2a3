"""The samples in the report: training views, the embedding map, nearest neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sciencessl.data.loader import Decoder, ViewRandomness, apply_view
from sciencessl.evaluate.encoders import compute_embeddings, run_encoder
from sciencessl.evaluate.figures import chosen_for_grid, map_figure, thumbnail_map
from sciencessl.evaluate.maps import embedding_map, nearest_neighbours, spread_over_classes
from sciencessl.evaluate.tasks import find_task
from sciencessl.monitor.throughput import Progress
from sciencessl.samples import Sample
from sciencessl.spec import DomainSpec
from sciencessl.store.display import Display, fit_display
from sciencessl.store.reader import Store
from sciencessl.views.figures import figure_picture
from sciencessl.views.pictures import Picture, pixel_picture, save_pixels, tile_picture
from sciencessl.views.sheet import contact_sheet

VIEW_SAMPLES = 12
SHEET_COLUMNS = 9
"""Of the contact sheet of views; more only where one sample has more."""
QUERIES = 8
NEIGHBOURS = 7
TILE, NEAR_TILE = 88, 104
GRID, THUMBNAIL = 22, 44
TEST_SHARE = 0.25
UNLABELLED = "no class"


@dataclass(frozen=True)
class ViewStrip:
    """One sample: its id, and the original with its training views as one picture."""

    id: str
    picture: Picture


@dataclass(frozen=True)
class NeighbourTile:
    """One neighbour: its id, class, similarity, whether its class is the query's, and its picture."""

    id: str
    label: str
    similarity: float
    same: bool
    picture: Picture


@dataclass(frozen=True)
class NeighbourRow:
    """One query and its neighbours, the most similar first."""

    query: NeighbourTile
    neighbours: tuple[NeighbourTile, ...]


@dataclass(frozen=True)
class EmbeddingSection:
    """Map and neighbours of one encoder.

    Attributes:
        map: The map as points.
        thumbnails: The map as images.
        rows: Neighbours.
        test: Test samples on the map.
        train: Training samples on it, which are the pool of the neighbours too.
        column: The label column that colours it; empty without one.
        agreement: Share of the neighbours of all labelled queries that have the query's class, averaged over classes;
            None without classes.
        chance: That share for neighbours drawn at random from the pool.
        from_test: Whether queries are test samples.
    """

    map: Picture
    thumbnails: Picture
    rows: tuple[NeighbourRow, ...]
    test: int
    train: int
    column: str
    agreement: float | None
    chance: float | None
    from_test: bool


def view_strips(
    store: Store, domain: DomainSpec, settings: Mapping[str, Any], seed: int, folder: Path
) -> tuple[ViewStrip, ...]:
    """Training samples beside the views that the first epoch of a run with that seed made of them.

    Args:
        store: The training store.
        domain: Its domain.
        settings: The `views` of the run's settings.
        seed: Of the run.
        folder: Where the contact sheet `views.png` is written.
    """
    split = store.split("train")
    positions = np.random.default_rng(seed).choice(len(split), min(VIEW_SAMPLES, len(split)), replace=False)
    index = split.to_store(np.sort(positions))
    make = domain.views(domain.train_options(**_typed(settings)))[0]
    strips, sheet, captions = [], [], []
    display = fit_display(store)
    for sample, key in zip(Decoder(store, domain.decode)(index, make), store.keys(index), strict=True):
        views = apply_view(make, sample, ViewRandomness(seed, 0, int.from_bytes(key.tobytes(), "little")))
        images = [display(shown) for shown in (sample, *views)]
        name = store.ids[sample.index]
        what = " and ".join(f"view {number}" for number in range(1, len(images)))
        strips.append(ViewStrip(name, tile_picture(images, TILE, f"{name}: original, {what}")))
        sheet += images
        captions += [name, *(f"view {number}" for number in range(1, len(images)))]
    each = len(sheet) // max(len(strips), 1)
    columns = each * max(1, SHEET_COLUMNS // max(each, 1))
    save_pixels(contact_sheet(sheet, captions, columns=columns, tile_px=128), folder / "views.png")
    return tuple(strips)


def _typed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Lists as tuples, which is what the frozen settings hold."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}


def class_names(store: Store, domain: DomainSpec, task: str = "") -> tuple[str, np.ndarray]:
    """The label column of a task and (N,) class names, `no class` where the task has none; an empty column without one.

    Args:
        store: A store.
        domain: Its domain.
        task: Name of a task; the first whose column the store has, when empty or unknown.
    """
    present = store.columns()
    usable = [candidate for candidate in domain.tasks if candidate.column in present and candidate.kind == "class"]
    if not usable:
        return "", np.full(len(store), UNLABELLED, dtype=object)
    chosen = find_task(usable, task if task in [t.name for t in usable] else usable[0].name)
    raw = ["" if value is None or value != value else str(value) for value in store.column(chosen.column)]
    mapping = dict(chosen.classes) or {value: value for value in raw if value}
    return chosen.column, np.array([mapping.get(value, UNLABELLED) for value in raw], dtype=object)


def draw_samples(store: Store, samples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random (test, train) store indices, at most `samples` in all: a quarter test, where there are that many."""
    rng = np.random.default_rng(seed)
    test, train = store.split("test").all(), store.split("train").all()
    wanted = min(len(test), max(round(samples * TEST_SHARE), samples - len(train)))
    drawn = rng.choice(test, wanted, replace=False), rng.choice(train, min(len(train), samples - wanted), replace=False)
    return np.sort(drawn[0]), np.sort(drawn[1])


def embedding_section(
    run: Path, store: Store, domain: DomainSpec, task: str, samples: int, folder: Path
) -> EmbeddingSection | None:
    """Embed a few samples, lay them out, look for neighbours; None where the store is too small for it.

    Raises:
        DataError: When the store lacks the encoder's field, or an embedding is not finite.
    """
    test, train = draw_samples(store, samples)
    if len(train) < 2:
        return None
    index = np.concatenate([test, train])
    order = np.argsort(index)  # reading in store order opens each row once
    progress = Progress(len(index), unit="image", title="report: embed")
    found = compute_embeddings(run_encoder(run), store, index[order], 1, partial(_advance, progress))
    progress.close()
    features = np.empty_like(found)
    features[order] = found
    column, names = class_names(store, domain, task)
    labels = names[index]
    looks = _Looks(store, domain, fit_display(store), index, labels, column)
    rows, agreement, chance = _neighbours(looks, features, len(test), folder)
    return EmbeddingSection(
        *_maps(looks, embedding_map(features), folder), rows=rows, test=len(test), train=len(train),
        column=column, agreement=agreement, chance=chance, from_test=len(test) > 0,
    )


def _advance(progress: Progress, done: int, total: int) -> None:
    progress.update(done)


@dataclass(frozen=True)
class _Looks:
    """The embedded samples and how they look; positions below are into `index`."""

    store: Store
    domain: DomainSpec
    display: Display
    index: np.ndarray
    labels: np.ndarray
    column: str

    def images(self, positions: np.ndarray) -> dict[int, np.ndarray]:
        decoder = Decoder(self.store, self.domain.decode)
        wanted = np.unique(positions)
        wanted = wanted[np.argsort(self.index[wanted])]
        samples: list[Sample] = decoder(self.index[wanted])
        return {int(at): self.display(sample) for at, sample in zip(wanted, samples, strict=True)}

    def id(self, position: int) -> str:
        return self.store.ids[int(self.index[position])]


def _maps(looks: _Looks, points: np.ndarray, folder: Path) -> tuple[Picture, Picture]:
    coloured = f" coloured by {looks.column}" if looks.column else ""
    figure = map_figure(points, looks.labels.tolist(), UNLABELLED)
    drawn = figure_picture(
        figure, folder, "map.png", f"Map of {len(points)} embeddings{coloured}"
    )
    chosen = chosen_for_grid(points, GRID)
    images = looks.images(np.array(list(chosen.values())))
    pixels = thumbnail_map({cell: images[at] for cell, at in chosen.items()}, GRID, THUMBNAIL)
    alt = f"The same map as a mosaic of {len(chosen)} samples, each where it lies on the map"
    return drawn, pixel_picture(pixels, folder, "map_images.png", alt)


def _neighbours(
    looks: _Looks, features: np.ndarray, test: int, folder: Path
) -> tuple[tuple[NeighbourRow, ...], float | None, float | None]:
    """Rows, how often the class agrees, and how often it would by chance."""
    candidates = np.arange(test) if test else np.arange(len(features))
    labelled = candidates[looks.labels[candidates] != UNLABELLED]
    candidates = labelled if len(labelled) >= QUERIES else candidates
    queries = candidates[spread_over_classes(looks.labels[candidates], QUERIES, np.random.default_rng(0))]
    pool = np.arange(test, len(features))
    own = queries - test if not test else None
    found = nearest_neighbours(features[queries], features[pool], NEIGHBOURS, own)
    places = pool[found.index]
    images = looks.images(np.concatenate([queries, places.ravel()]))
    share = _agreement(looks, features, candidates, pool, own=not test)
    rows = tuple(
        NeighbourRow(
            _tile(looks, images, int(query), int(query), 1.0),
            tuple(_tile(looks, images, int(query), int(at), float(s)) for at, s in zip(near, similar, strict=True)),
        )
        for query, near, similar in zip(queries, places, found.similarity, strict=True)
    )
    _save_neighbours(rows, images, queries, places, folder)
    return rows, *share


def _tile(looks: _Looks, images: Mapping[int, np.ndarray], query: int, at: int, similarity: float) -> NeighbourTile:
    label = looks.labels[at]
    shown = tile_picture([images[at]], NEAR_TILE, f"{looks.id(at)}, {label}" if looks.column else looks.id(at))
    return NeighbourTile(
        looks.id(at), str(label) if looks.column else "", similarity, bool(label == looks.labels[query]), shown
    )


def _save_neighbours(
    rows: tuple[NeighbourRow, ...], images: Mapping[int, np.ndarray], queries: np.ndarray, places: np.ndarray,
    folder: Path,
) -> None:
    order = np.concatenate([queries[:, None], places], axis=1)
    captions = [
        f"{shown.id}\n{'query' if number == 0 else f'{shown.similarity:.3f}'} {shown.label}"
        for row in rows
        for number, shown in enumerate((row.query, *row.neighbours))
    ]
    sheet = contact_sheet([images[int(at)] for at in order.ravel()], captions, columns=order.shape[1], tile_px=112)
    save_pixels(sheet, folder / "neighbours.png")


def _agreement(
    looks: _Looks, features: np.ndarray, candidates: np.ndarray, pool: np.ndarray, own: bool
) -> tuple[float | None, float | None]:
    """Share of neighbours with the query's class, and that of random ones; each a mean over the queries' classes."""
    queries = candidates[looks.labels[candidates] != UNLABELLED]
    if not looks.column or not len(queries):
        return None, None
    found = nearest_neighbours(features[queries], features[pool], NEIGHBOURS, queries if own else None)
    wanted = looks.labels[queries]
    same = (looks.labels[pool[found.index]] == wanted[:, None]).mean(axis=1)
    classes = sorted(set(wanted.tolist()))
    near = np.mean([same[wanted == name].mean() for name in classes])
    return float(near), float(np.mean([(looks.labels[pool] == name).mean() for name in classes]))
