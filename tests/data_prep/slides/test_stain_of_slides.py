"""`prepare --stain`: each slide is fitted once on its selected tiles, and its tiles are recoloured with that."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sciencessl.data.decode import decode
from sciencessl.data_prep.engine import PrepareReport
from sciencessl.data_prep.stain import StainFit, fit_slide, normalise
from sciencessl.preparation import prepare
from sciencessl.store.reader import Store
from tests.data_prep.slides.tiny_slides import tissue_picture, write_slide

TILES: dict[str, Any] = {"tile_px": 64, "workers": 0, "min_tissue": 0.3, "encoding": "png"}


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One tissue stained weakly and strongly, and one of a single colour."""
    folder = tmp_path_factory.mktemp("stained")
    picture = tissue_picture(448, 384, 0)
    write_slide(folder / "weak.tif", picture, 0.5)
    write_slide(folder / "strong.tif", (255 * (picture / 255.0) ** [1.9, 1.5, 1.6]).astype(np.uint8), 0.5)
    flat = np.full_like(picture, 244)
    flat[64:320, 64:384] = 216, 150, 190
    write_slide(folder / "flat.tif", flat, 0.5)
    return folder


@pytest.fixture(scope="module")
def stores(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, PrepareReport]:
    folder = tmp_path_factory.mktemp("out")
    return {stain: prepare("pathology", [scans], folder / f"{stain}.zarr", {**TILES, "stain": stain})
            for stain in ("none", "macenko", "reinhard")}


def tiles(prepared: PrepareReport) -> dict[str, np.ndarray]:
    store = Store(prepared.out)
    field = store.header.fields["tile"]
    payloads = store.payloads("tile", range(len(store)))
    return {name: decode(bytes(raw), field) for name, raw in zip(store.ids, payloads, strict=True)}


def record(prepared: PrepareReport, slide: str) -> dict[str, Any]:
    folder = prepared.out.with_name(f"{prepared.out.stem}.slides")
    found: dict[str, Any] = json.loads((folder / "scan" / f"{slide}.json").read_text())
    return found


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_tiles_are_recoloured_with_the_one_fit_of_their_slide(stores: dict[str, PrepareReport], method: str) -> None:
    plain, done = tiles(stores["none"]), tiles(stores[method])
    for slide in ("weak", "strong"):
        own = {name: pixels for name, pixels in plain.items() if name.startswith(slide)}
        fit = StainFit.from_dict(record(stores[method], slide)["stain"])
        assert fit == fit_slide(own.values(), method)
        for name, pixels in own.items():
            assert np.array_equal(done[name], normalise(pixels, fit))
    assert "stain" in record(stores["none"], "weak")
    assert record(stores["none"], "weak")["stain"] is None


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_two_stainings_of_one_tissue_come_together(stores: dict[str, PrepareReport], method: str) -> None:
    def apart(of: dict[str, np.ndarray]) -> float:
        pairs = [(pixels, of[name.replace("weak", "strong")]) for name, pixels in of.items() if name.startswith("weak")
                 and name.replace("weak", "strong") in of]
        assert len(pairs) > 5
        return float(np.mean([np.abs(a.astype(int) - b).mean() for a, b in pairs]))

    assert apart(tiles(stores[method])) < 0.5 * apart(tiles(stores["none"]))


def test_a_slide_without_the_stain_ends_in_a_state_and_the_others_go_on(stores: dict[str, PrepareReport]) -> None:
    done = stores["macenko"]
    with (done.out.with_name("macenko.slides") / "slides.csv").open(newline="") as stream:
        states = {row["slide"]: row["state"] for row in csv.DictReader(stream)}
    assert states == {"weak": "ready", "strong": "ready", "flat": "no-stain"}
    (refused,) = Store(done.out).refusals().to_pylist()
    assert (refused["id"], refused["reason"]) == ("flat", "no-stain")
    assert "one colour" in refused["detail"]
    assert "--stain none" in refused["detail"]


def test_quality_is_that_of_the_pixels_as_scanned(stores: dict[str, PrepareReport]) -> None:
    by_store = []
    for stain in ("none", "macenko"):
        store = Store(stores[stain].out)
        by_store.append(dict(zip(store.ids, store.column("background"), strict=True)))
    plain, done = by_store
    assert done == {name: plain[name] for name in done}


def test_nothing_passes_through_and_the_plan_says_so(scans: Path, tmp_path: Path) -> None:
    found = prepare("pathology", [scans / "weak.tif"], tmp_path / "t.zarr",
                    {**TILES, "encoding": "jpeg", "stain": "macenko"})
    assert not any(Store(found.out).column("passthrough"))
    assert "stain: each slide is brought to one staining by macenko" in "\n".join(found.guessed)
    assert "keep their bytes" not in "\n".join(found.guessed)
