"""Real slides by the command line, against OpenSlide and a float reference of its level-0 pixels."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import openslide
import pytest

from sciencessl.cli import run as command
from sciencessl.data.decode import decode
from sciencessl.store.reader import Store

CMU = "CMU-1-Small-Region"


def run(*words: object) -> int:
    """The command line."""
    return command([str(word) for word in words])


def states(folder: Path) -> dict[str, str]:
    with (folder / "slides.csv").open(newline="") as stream:
        return {row["slide"]: row["state"] for row in csv.DictReader(stream)}


def level0(path: Path) -> np.ndarray:
    with openslide.OpenSlide(str(path)) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))


def test_bad_slides_are_named_states_while_the_rest_is_done(shared_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "t.zarr"
    folder = shared_data / "pathology" / "slides"
    assert run("prepare", "pathology", folder, "--out", out, "--tile-px", 240, "--workers", 0) == 3
    found = states(tmp_path / "t.slides")
    assert found == {
        CMU: "ready", "broken": "unreadable", "openslide_python_unreadable": "corrupt", "pathml_smalltif": "not-rgb8",
        "openslide_python_boxes": "strange-mpp", "openslide_python_small": "too-small",
        "highdicom_sm_image": "too-small", "camelyon_multiframe": "too-coarse",
    }
    store = Store(out)
    assert {*store.column("slide")} == {CMU}
    assert {row["id"]: row["reason"] for row in store.refusals().to_pylist()} == {
        name: state for name, state in found.items() if state != "ready"}


def test_all_native_tiles_pass_with_their_scan_byte_for_byte(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "pathology" / "slides" / f"{CMU}.svs"
    out = tmp_path / "t.zarr"
    assert run("prepare", "pathology", path, "--out", out, "--tile-px", 240, "--tissue", "all", "--workers", 0) == 0
    store, pixels, raw = Store(out), level0(path), path.read_bytes()
    assert len(store) == (2220 // 240) * (2967 // 240)
    assert all(store.column("passthrough"))
    field = store.header.fields["tile"]
    x, y = (np.asarray(store.column(name)).astype(int) for name in ("x_px", "y_px"))
    for i, payload in enumerate(store.payloads("tile", range(len(store)))):
        tile = bytes(payload)
        assert np.array_equal(decode(tile, field), pixels[y[i] : y[i] + 240, x[i] : x[i] + 240])
        scan = tile[tile.rindex(b"\xff\xda") : -2]
        assert scan in raw


@pytest.mark.parametrize("mpp", [0.499, 0.998, 0.7])
def test_tiles_are_means_of_level_0_over_their_field(shared_data: Path, tmp_path: Path, mpp: float) -> None:
    path, out = shared_data / "pathology" / "slides" / f"{CMU}.svs", tmp_path / "t.zarr"
    assert run("prepare", "pathology", path, "--out", out, "--tile-px", 96, "--mpp", mpp, "--exact-mpp", "--encoding",
               "png", "--tiles-per-slide", 6, "--workers", 0) == 0
    store, pixels = Store(out), level0(path).astype(np.float64)
    step = mpp / 0.499
    assert np.allclose(np.asarray(store.column("field_px_x")) * 0.499, 96 * mpp, rtol=1e-3)
    field = store.header.fields["tile"]
    for i, payload in enumerate(store.payloads("tile", range(len(store)))):
        x, y = (float(store.column(name)[i]) for name in ("x_px", "y_px"))
        expected = box_means(pixels, x, y, step, 96)
        assert np.abs(decode(bytes(payload), field) - expected).mean() < 2


def box_means(pixels: np.ndarray, x: float, y: float, step: float, side: int) -> np.ndarray:
    """(side, side, 3) means over squares of `step` pixels from (x, y) on, borders by their share: the naive way."""
    out = pixels
    for axis, first in ((0, y), (1, x)):
        weights = np.zeros((side, out.shape[axis]))
        for i in range(side):
            low, high = first + i * step, first + (i + 1) * step
            for j in range(int(low), min(int(np.ceil(high)), out.shape[axis])):
                weights[i, j] = max(min(high, j + 1) - max(low, j), 0)
        weights /= weights.sum(axis=1, keepdims=True)
        out = np.moveaxis(np.tensordot(weights, out, axes=(1, axis)), 0, axis)
    return out
