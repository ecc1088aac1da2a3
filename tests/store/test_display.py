"""Pictures of a store by one stretch: the same for each sample, fitted on train without bad pixels."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from sciencessl.cli import run
from sciencessl.data.loader import Decoder
from sciencessl.errors import ConfigError, StoreError
from sciencessl.samples import Sample
from sciencessl.spec import FieldSpec
from sciencessl.store.display import SAMPLES, Display, fit_display
from sciencessl.store.format import StoreHeader
from sciencessl.store.reader import Store
from sciencessl.store.seal import seal
from sciencessl.store.show import TILE, show
from sciencessl.store.writer import PreparedSample, create_store, write_row
from sciencessl.views.display import MISSING
from sciencessl.views.sheet import GAP
from sciencessl.views.stretch import fit_stretch, legacy_stretch

SIDE = 32
NAMES = ("g", "r", "z")


def pixels(split: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    """(3, H, W) flux and mask: a source of brightness `number` / 10 in the middle of noise, a masked hot column."""
    rng = np.random.default_rng(number)
    image = rng.normal(0, 0.01, (3, SIDE, SIDE)).astype(np.float32)
    image[:, 12:20, 12:20] += (number + 1) / 10
    mask = np.zeros(image.shape, np.uint8)
    image[:, :, 3], mask[:, :, 3] = 1e4, 1
    return (image + 500 if split == "test" else image), mask


def build(path: Path, splits: list[str], names: tuple[str, ...] = NAMES) -> Store:
    fields = {
        "image": FieldSpec("array", names, "float32", shape=(SIDE, SIDE)),
        "image.mask": FieldSpec("array", names, "uint8", shape=(SIDE, SIDE), primary=False),
    }
    header = StoreHeader("galaxy", "survey", fields, 1, len(splits), {}, "plan", "config")
    create_store(path, header, 500_000)
    samples = [
        PreparedSample(f"s{i}", split, dict(zip(fields, pixels(split, i), strict=True)), {})
        for i, split in enumerate(splits)
    ]
    write_row(path, header, 0, samples, [], "inputs")
    seal(path, header)
    return Store(path)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return build(tmp_path_factory.mktemp("display") / "flux.zarr", ["train"] * 6 + ["test"] * 2)


def samples_of(store: Store) -> dict[str, Sample]:
    decoded = Decoder(store, "sciencessl.data.decode:decode")(np.arange(len(store)))
    return {store.ids[sample.index]: sample for sample in decoded}


@pytest.mark.parametrize("kind", ["asinh", "linear", "log", "percentile", "lupton"])
def test_the_stretch_is_fitted_on_train_without_masked_pixels(store: Store, kind: str) -> None:
    known = []
    for name in sorted(store.ids, key=store.ids.index):
        number = int(name[1:])
        if number < 6:
            image, mask = pixels("train", number)
            known.append(np.where(mask, np.nan, image).transpose(1, 2, 0))
    found = fit_display(store, kind)
    assert found == Display("galaxy", fit_stretch(known, 3, kind))  # type: ignore[arg-type]
    assert found.stretch is not None
    assert max(found.stretch.scale) < 1.0


def test_brighter_galaxies_are_shown_brighter_by_one_stretch_and_alike_by_their_own(store: Store) -> None:
    samples = samples_of(store)
    steps = {}
    for kind in ("asinh", "per-stamp"):
        shown = fit_display(store, kind)
        faint, bright = (int(shown(samples[name])[15, 15, 0]) for name in ("s0", "s5"))
        steps[kind] = bright - faint
    assert steps["asinh"] > 80
    assert abs(steps["per-stamp"]) < 40


def test_masked_pixels_of_the_sheet_have_a_colour_of_their_own(store: Store) -> None:
    shown = fit_display(store)(samples_of(store)["s1"])
    assert (shown[:, 3] == MISSING).all()
    assert not (np.delete(shown, 3, axis=1) == MISSING).all(axis=2).any()


def test_the_constants_of_the_legacy_viewer_go_by_the_names_of_bands(store: Store, tmp_path: Path) -> None:
    assert fit_display(store, "legacy") == Display("galaxy", legacy_stretch(NAMES))
    with pytest.raises(ConfigError, match="no band of the Legacy Surveys viewer named 'j'"):
        fit_display(build(tmp_path / "a.zarr", ["train"], ("j", "g", "r")), "legacy")


def test_an_unknown_stretch_is_named_and_8_bit_images_are_left_alone(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no stretch named 'lupto'\. Did you mean 'lupton'.*per-stamp"):
        fit_display(store, "lupto")
    header = StoreHeader("galaxy", "images", {"image": FieldSpec("bytes", ("r", "g", "b"))}, 1, 1, {}, "plan", "config")
    create_store(tmp_path / "rgb.zarr", header, 20_000)
    image = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    payload = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
    write_row(tmp_path / "rgb.zarr", header, 0, [PreparedSample("a", "train", {"image": payload}, {})], [], "inputs")
    seal(tmp_path / "rgb.zarr", header)
    for kind in ("asinh", "legacy"):
        shown = fit_display(Store(tmp_path / "rgb.zarr"), kind)
        assert shown.stretch is None
        assert np.array_equal(shown(samples_of(Store(tmp_path / "rgb.zarr"))["a"]), image)


def test_a_store_without_train_is_fitted_on_what_it_has(tmp_path: Path) -> None:
    found = fit_display(build(tmp_path / "a.zarr", ["test"] * 3)).stretch
    assert found is not None
    assert min(found.zero) > 499


def test_few_stamps_are_read_and_damaged_ones_passed_over(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    read = Store.payloads

    def watched(self: Store, name: str, index: np.ndarray) -> list[bytes | np.ndarray]:
        seen.extend(index.tolist())
        if index[0] == 0:
            raise StoreError("damaged")
        return read(self, name, index)

    whole = fit_display(store)
    monkeypatch.setattr(Store, "payloads", watched)
    without = fit_display(store)
    assert len(set(seen)) == 6
    assert whole != without
    seen.clear()
    monkeypatch.setattr("sciencessl.store.display.SAMPLES", 2)
    assert fit_display(store) not in (whole, without)
    assert len(set(seen)) == 2 < SAMPLES


def test_it_travels_to_other_processes(store: Store) -> None:
    shown = fit_display(store, "lupton")
    again = pickle.loads(pickle.dumps(shown))
    sample = samples_of(store)["s2"]
    assert np.array_equal(again(sample), shown(sample))


def test_the_sheet_has_one_stretch_and_another_when_asked(store: Store, tmp_path: Path) -> None:
    def middles(name: str) -> list[int]:
        sheet = cv2.imread(str(tmp_path / name))
        assert sheet is not None
        middle = GAP + TILE // 2
        return [int(sheet[middle, middle + column * (TILE + GAP), 2]) for column in range(2)]

    show(store.path, tmp_path / "fixed.png", n=4, split="train")
    assert abs(np.diff(middles("fixed.png"))[0]) > 15
    assert run(["store", "show", str(store.path), "--stretch", "per-stamp", "--out", str(tmp_path / "own.png")]) == 0
    assert abs(np.diff(middles("own.png"))[0]) < 15
    assert run(["store", "show", str(store.path), "--stretch", "arcsinh", "--out", str(tmp_path / "no.png")]) != 0
    assert not (tmp_path / "no.png").exists()
