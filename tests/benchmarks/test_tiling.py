"""The benchmark of tiles runs whole on a small slide, refuses ways that read other pixels, and keeps its promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("openslide")


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("tiling")


@pytest.fixture(scope="module")
def slides(script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A slide of two by two tiles, and the same as JPEG 2000."""
    work = tmp_path_factory.mktemp("tiling")
    script.write_svs(work / "small.svs", script.synthetic_pixels(520, 530), 240, jpeg2000=False)
    found: tuple[Path, Path] = script.prepared_slides(work / "small.svs", work)
    return found


def test_it_measures_every_way_and_names_what_is_absent(
    script: ModuleType, slides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def peer(path: Path, places: Any, side: int) -> Iterator[np.ndarray]:
        for tile in script.ours(path, places, side):
            yield tile if tile.size == 0 else tile ^ 1

    monkeypatch.setattr(script, "find_spec", lambda name: None if name == "tiatoolbox" else name)
    monkeypatch.setattr(script, "dlup", peer)
    monkeypatch.setattr(script, "histolab", lambda *args: 1 / 0)
    found = script.measure(*slides, 1, 100)
    assert found["ratios"].keys() == {"openslide", "openslide_240", "openslide_256", "openslide_jp2k", "passthrough",
                                      "dlup"}
    assert found["ratios"]["openslide"] == min(found["ratios"][f"openslide_{side}"] for side in (240, 256))
    assert all(value > 0 for value in found["tiles_a_second"].values())
    assert [name.partition(":")[0] for name in found["absent"]] == ["tiatoolbox", "histolab"]
    assert found["grey_levels_apart"] == {"dlup": 1.0}
    script.show({**found, "selection": script.measure_selection(20)})
    assert "passthrough is" in capsys.readouterr().out


def test_openslide_is_not_timed_where_it_reads_other_pixels(
    script: ModuleType, slides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def shifted(path: Path, places: Any, side: int) -> Iterator[np.ndarray]:
        return script.ours(path, [(x + 1, y) for x, y in places], side)  # type: ignore[no-any-return]

    monkeypatch.setattr(script, "openslide", shifted)
    with pytest.raises(AssertionError, match="OpenSlide read other pixels than ours, up to"):
        script.timed_beside_openslide(slides[0], [(0, 0)], 240, 1)


def test_a_slide_without_native_tiles_is_not_passed_off_as_ours(script: ModuleType, tmp_path: Path) -> None:
    import tifffile

    tifffile.imwrite(tmp_path / "a.tif", script.synthetic_pixels(300, 300), photometric="rgb", tile=(64, 64))
    with pytest.raises(AssertionError, match=r"a\.tif has no native tiles: read through OpenSlide"):
        next(script.ours(tmp_path / "a.tif", [], 64))


def test_ratios_compare_within_a_round(script: ModuleType) -> None:
    ratios: dict[str, float] = {}
    speed: dict[str, float] = {}
    script.compare({"ours": [1.0, 2.0, 4.0], "other": [2.0, 4.0, 80.0]}, "_x", ratios, speed, 10)
    assert ratios == {"other_x": 2.0}
    assert speed == {"ours_x": 5.0, "other_x": 2.5}


def test_the_large_slide_opens_with_three_levels_and_tissue_in_its_middle(script: ModuleType, tmp_path: Path) -> None:
    script.write_large(tmp_path / "large.tif", 5120)
    reader = script.open_slide(str(tmp_path / "large.tif"))
    assert [level.width for level in reader.info.levels] == [5120, 1280, 320]
    assert reader.info.backend == "native"
    assert reader.info.mpp.x == pytest.approx(0.5)
    assert np.ptp(reader.read(0, 2400, 2400, 100, 100)) > 50
    assert np.ptp(reader.read(0, 0, 0, 100, 100)) == 0
    reader.close()


@pytest.mark.slow
def test_native_tiles_take_a_fourth_of_openslide_and_passing_on_a_fiftieth_of_encoding(
    script: ModuleType, slides: tuple[Path, Path], tmp_path: Path
) -> None:
    script.write_svs(tmp_path / "slide.svs", script.synthetic_pixels(2220, 2967), 240, jpeg2000=False)
    ratios = script.measure(*script.prepared_slides(tmp_path / "slide.svs", tmp_path), 3, 10_000)["ratios"]
    assert ratios["openslide"] > 4
    assert ratios["openslide_jp2k"] > 0.9
    assert ratios["passthrough"] > 50
