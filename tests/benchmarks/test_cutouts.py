"""The benchmark of cutouts runs whole on a few sources, refuses ways that cut other pixels, and keeps its promises."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("astropy")


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("cutouts")


def test_it_measures_every_way_and_names_what_is_absent(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "TILE_PX", 400)
    monkeypatch.setattr(script, "PEERS", ("no_such_peer",))
    monkeypatch.setattr(script, "find_spec", lambda name: None)
    found = script.measure(6, 1, tmp_path)
    assert found["ratios"].keys() == {
        "cutout2d_skycoord", "cutout2d_batched", "cutout2d_skycoord_sip", "cutout2d_skycoord_tpv",
    }  # fmt: skip
    assert found["us_a_source"].keys() == {
        *found["ratios"], "ours", "ours_sip", "ours_tpv", "ours_file", "ours_reprojected",
    }  # fmt: skip
    assert found["flux_error"]["ours_reprojected"] < 0.005
    assert all(value > 0 for value in found["us_a_source"].values())
    assert found["absent"] == ["no_such_peer"]
    script.show(found)


def test_a_way_that_cuts_other_pixels_is_not_timed(script: ModuleType) -> None:
    sky = np.zeros((2, 2))
    with pytest.raises(AssertionError, match="wrong cut other pixels than ours"):
        script.microseconds({"ours": (lambda s: s, sky), "wrong": (lambda s: s + 1, sky)}, 1)


def test_ratios_compare_within_a_round(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"ours": [1.0, 2.0, 4.0], "other": [2.0, 4.0, 80.0]}
    monkeypatch.setattr(script, "microseconds", lambda ways, rounds: seconds)
    ratios: dict[str, float] = {}
    script._compare({}, 3, {}, ratios)
    assert ratios == {"other": 2.0}


@pytest.mark.slow
def test_stamps_take_an_eighth_of_those_of_astropy_on_sky_coordinates(script: ModuleType, tmp_path: Path) -> None:
    ratios = script.measure(500, 3, tmp_path)["ratios"]
    assert min(value for name, value in ratios.items() if name.startswith("cutout2d_skycoord")) >= 8


@pytest.mark.slow
def test_a_survey_goes_through_the_command_line_and_opens_files_for_header_and_pixels_only(
    script: ModuleType, tmp_path: Path
) -> None:
    found = script.measure_survey(True, tmp_path)
    assert found["sources"] == 400
    # Once for the header; once to check and once to map the pixels that all sources of a tile are cut from.
    assert found["workers_1"]["opened"] == 1
    assert found["workers_0"]["opened"] <= 3
    assert found["workers_0"]["peak_mb"] < 1500
