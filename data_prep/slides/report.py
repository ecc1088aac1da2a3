"""The quality report of slides: what became of each, and what its tiles are like, on one page beside the store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sciencessl.data.decode import decode
from sciencessl.data_prep.slides.overlay import overlay
from sciencessl.data_prep.slides.report_figures import (
    SHOWN_COLUMNS,
    counts_figure,
    quality_figure,
    scale_figure,
    stain_figure,
)
from sciencessl.data_prep.slides.scan import READY, SlideScan, recorded_scan, safe
from sciencessl.data_prep.slides.scanning import STATES_FILE, read_states, slides_folder
from sciencessl.errors import StoreError
from sciencessl.store.files import write_atomic
from sciencessl.store.format import digest
from sciencessl.store.reader import Store
from sciencessl.views.density import GLASS, densities, stain_basis, tissue_share
from sciencessl.views.figures import figure_picture
from sciencessl.views.pictures import Picture, pixel_picture

PAGE = "report.html"
SHOWN_SLIDES = 48
"""Slides that are shown with a picture; all are in the table, up to `LISTED`."""
LISTED = 1000
STAIN_TILES = 8
"""Tiles of a slide whose stain is measured, and slides: `STAIN_SLIDES`."""
STAIN_SLIDES = 400
SOURCE = "slides"


@dataclass(frozen=True)
class _Tiles:
    """Columns of the stored tiles of a store that was cut from slides, N each."""

    slide: np.ndarray
    boxes0: np.ndarray
    passed: np.ndarray

    def of(self, slide: str) -> np.ndarray:
        """Indices of the tiles of a slide."""
        found: np.ndarray = np.flatnonzero(self.slide == slide)
        return found


@dataclass(frozen=True)
class ShownSlide:
    """A slide on the page: its picture and what is below it."""

    slide: str
    words: str
    picture: Picture


def write_slide_report(store_path: Path) -> Path | None:
    """Write `NAME.slides/report.html` with its figures and overlays, unless it is there and says the same.

    Args:
        store_path: A sealed store.

    Returns:
        The page; None for a store that was not cut from slides.
    """
    store = Store(store_path)
    folder = slides_folder(Path(store_path))
    if store.header.source != SOURCE or not (folder / STATES_FILE).is_file():
        return None
    key = digest(store.digest.encode(), (folder / STATES_FILE).read_bytes())
    page = folder / PAGE
    if page.is_file() and key.encode() in page.read_bytes()[-2000:]:
        return page
    write_atomic(page, _page(store, folder, key).encode())
    return page


def _page(store: Store, folder: Path, key: str) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    import sciencessl

    states = read_states(folder)
    scans = {row["slide"]: found for row in states if (found := recorded_scan(folder, row["slide"])) is not None}
    tiles = _tiles(store)
    stored = Counter(tiles.slide.tolist())
    rows = sorted(({**row, "stored": stored[row["slide"]]} for row in states),
                  key=lambda row: (row["state"] == READY, row["state"], row["slide"]))
    environment = Environment(loader=PackageLoader("sciencessl.data_prep.slides"), autoescape=True,
                              undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("slides.html.j2").render(
        name=store.path.name, lines=_lines(store, states, tiles), rows=rows[:LISTED], left_out=len(rows) - LISTED,
        figures=_figures(store, folder, list(scans.values()), tiles, stored),
        shown=_shown(folder, [scans[row["slide"]] for row in rows if row["slide"] in scans], tiles),
        slides=len(rows), key=key, version=sciencessl.__version__, digest=store.digest, ready=READY,
    )


def _tiles(store: Store) -> _Tiles:
    columns = [np.asarray(store.column(name)) for name in ("x_px", "y_px", "field_px_x", "field_px_y")]
    return _Tiles(np.asarray(store.column("slide")).astype(str), np.stack(columns, axis=1).astype(np.float64),
                  np.asarray(store.column("passthrough")).astype(bool))


def _lines(store: Store, states: Sequence[dict[str, str]], tiles: _Tiles) -> list[str]:
    counts = Counter(row["state"] for row in states)
    candidates, kept, taken = (sum(int(row[name]) for row in states) for name in ("candidates", "kept", "taken"))
    refused = Counter(store.refusals()["reason"].to_pylist())
    lost = {reason: n for reason, n in refused.items() if reason not in counts or n != counts[reason]}
    scales = ", ".join(f"{value:g}" for value in sorted({*np.round(np.asarray(store.column("mpp")), 4).tolist()})[:6])
    return [
        f"Slides: {len(states):,}, of which {counts[READY]:,} ready"
        + "".join(f", {n:,} {state}" for state, n in sorted(counts.items()) if state != READY) + ".",
        f"Tiles: {candidates:,} candidates, {kept:,} with enough tissue, {taken:,} taken, {len(tiles.slide):,} stored"
        + (f"; refused while reading: {', '.join(f'{n:,} {reason}' for reason, n in sorted(lost.items()))}" if lost
           else "") + ".",
        f"Scale as stored: {scales} um/px.",
        f"Kept byte for byte: {tiles.passed.mean():.0%} of tiles." if len(tiles.slide) else "No tile is stored.",
    ]


def _figures(
    store: Store, folder: Path, scans: Sequence[SlideScan], tiles: _Tiles, stored: Counter[str]
) -> list[Picture]:
    scales: dict[str, list[float]] = {}
    for scan in scans:
        if scan.mpp is not None:
            scales.setdefault(scan.mpp.origin, []).append((scan.mpp.x + scan.mpp.y) / 2)
    figures = []
    where = folder / "figures"
    if scales:
        mpp = sorted({*np.round(np.asarray(store.column("mpp")), 3).tolist()})[:12]
        figures.append(figure_picture(scale_figure(scales, mpp), where, "scale.png", "pixel scales of slides"))
    if len(tiles.slide):
        counts = [stored[scan.slide] for scan in scans if scan.state == READY]
        figures.append(figure_picture(counts_figure(counts), where, "tiles.png", "tiles of each slide"))
        stain = _stain(store, tiles)
        if stain is not None:
            figures.append(figure_picture(stain, where, "stain.png", "stain of each slide"))
        columns = {name: np.asarray(store.column(name), dtype=np.float64) for name in SHOWN_COLUMNS}
        figures.append(figure_picture(quality_figure(columns), where, "quality.png", "quality of tiles"))
    return figures


def _stain(store: Store, tiles: _Tiles) -> object | None:
    """A point a slide, from a few of its tiles spread over it."""
    names = sorted({*tiles.slide.tolist()})
    names = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, STAIN_SLIDES).astype(int))]
    what = next((name for name in ("site", "vendor") if name in store.columns()), "vendor")
    group = np.asarray(store.column(what)).astype(str)
    points, groups = [], []
    field = store.header.fields[store.primary]
    for name in names:
        own = tiles.of(name)
        chosen = own[np.unique(np.linspace(0, len(own) - 1, STAIN_TILES).astype(int))]
        pixels = []
        for payload in store.payloads(store.primary, chosen):
            try:
                pixels.append(decode(payload, field))
            except StoreError:
                continue  # told by `store verify`
        if pixels:
            points.append(np.mean([_amounts(one) for one in pixels], axis=0))
            groups.append(group[own[0]])
    return stain_figure(np.array(points), groups, what) if points else None


def _amounts(tile: np.ndarray) -> np.ndarray:
    """Mean amounts of haematoxylin and eosin in the tissue of a tile, in natural density, by the fixed H&E basis."""
    density = densities(tile)
    amounts = density.reshape(-1, 3) @ np.linalg.inv(stain_basis())[:, :2]
    weights = tissue_share(density, GLASS * np.log(10)).ravel()
    mean: np.ndarray = np.average(amounts, axis=0, weights=weights if weights.any() else None)
    return mean


def _shown(folder: Path, scans: Sequence[SlideScan], tiles: _Tiles) -> list[ShownSlide]:
    """Slides that went wrong first, then those that are ready, spread over all of them."""
    wrong = [scan for scan in scans if scan.state != READY][: SHOWN_SLIDES // 2]
    good = [scan for scan in scans if scan.state == READY]
    few = np.unique(np.linspace(0, len(good) - 1, SHOWN_SLIDES - len(wrong)).astype(int)).tolist() if good else []
    shown = []
    for scan in (*wrong, *(good[i] for i in few)):
        own = tiles.of(scan.slide)
        kinds = ["native bytes" if passed else "encoded" for passed in tiles.passed[own]]
        drawn = overlay(folder, scan, tiles.boxes0[own], kinds)
        if drawn is not None:
            picture = pixel_picture(drawn, folder / "overlays", f"{safe(scan.slide)}.png", f"slide {scan.slide}")
            shown.append(ShownSlide(scan.slide, _slide_words(scan, len(own)), picture))
    return shown


def _slide_words(scan: SlideScan, stored: int) -> str:
    if scan.state != READY:
        return f"{scan.state}: {scan.detail}"
    assert scan.mpp is not None
    method = scan.tissue.get("method", "")
    limits = ", ".join(f"{name} {value:.3g}" for name, value in scan.tissue.get("thresholds", {}).items()
                       if name == method)
    return (f"{stored:,} tiles of {scan.kept:,} with tissue and {scan.candidates:,} in all; {scan.mpp.x:.4g} um/px "
            f"({scan.mpp.origin}); {scan.tissue.get('share', 0):.0%} tissue by {method}"
            f"{f' ({limits})' if limits else ''}")
