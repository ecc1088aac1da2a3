"""What the galaxy domain tells the engine: a contract that holds together."""

from __future__ import annotations

import csv
import pickle
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from PIL import Image

from sciencessl.domains.galaxy import SPEC
from sciencessl.domains.galaxy.schema import schema_names
from sciencessl.domains.galaxy.synthetic import synthetic_survey
from sciencessl.registry import load_domain, resolve
from sciencessl.samples import Sample
from sciencessl.views.stretch import legacy_stretch


def test_the_registry_finds_it() -> None:
    assert load_domain("galaxy") is SPEC
    assert (SPEC.name, SPEC.api) == ("galaxy", 1)
    assert SPEC.title


def test_what_it_names_exists() -> None:
    for target in (SPEC.decode, SPEC.to_input, SPEC.label_loss, *SPEC.sources.values()):
        assert callable(resolve(target))
    names = [column.name for column in SPEC.columns]
    assert len(set(names)) == len(names)
    assert all(column.description for column in SPEC.columns)
    assert {*SPEC.identity, *([SPEC.group] if SPEC.group else [])} <= set(names)


def test_it_travels_to_other_processes() -> None:
    assert pickle.loads(pickle.dumps(SPEC)).name == SPEC.name
    settings = pickle.loads(pickle.dumps(SPEC.train_options()))
    assert settings == SPEC.train_options()


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_display_is_rgb8(channels: int, dtype: str) -> None:
    image = (np.random.default_rng(0).random((12, 10, channels)) * 200).astype(dtype)
    shown = SPEC.display(Sample({SPEC.primary: image}, {}, "a", 0))
    assert shown.shape == (12, 10, 3)
    assert shown.dtype == np.uint8
    if channels == 3 and dtype == "uint8":
        assert np.array_equal(shown, image)


def test_flux_is_shown_as_the_image_file_of_the_same_galaxy_is(tmp_path: Path) -> None:
    """Same colours, same hand: rows of a tile count from the bottom, those of the stamp's JPEG from the top."""
    survey = synthetic_survey(tmp_path, np.random.default_rng(4), 20)
    bands = [survey / "tiles" / f"tile-000-{band}.fits" for band in "zgr"]
    with (survey / "catalogue.csv").open(encoding="utf-8") as file:
        edge_on = [row for row in list(csv.DictReader(file))[:10] if row["class"] == "edge-on"]  # of the first tile
    row = min(edge_on, key=lambda row: float(row["mag_r"]))
    x, y = np.rint(WCS(fits.getheader(bands[0])).all_world2pix(float(row["ra"]), float(row["dec"]), 0)).astype(int)
    flux = np.stack([fits.getdata(path)[y - 36 : y + 36, x - 36 : x + 36] for path in bands], axis=2)
    meta = {"channels": {"image": ("z", "g", "r")}, "stretch": legacy_stretch(["z", "g", "r"])}
    shown = SPEC.display(Sample({"image": flux.astype(np.float32)}, meta))

    def apart(image: np.ndarray) -> float:
        """Of means of 6 x 6 pixels, which the compression of the file leaves alone."""
        parts = (shown.astype(float) - image).reshape(12, 6, 12, 6, 3).mean(axis=(1, 3))
        return float(np.abs(parts).mean())

    stamp = np.asarray(Image.open(survey / "stamps" / f"{row['id_str']}.jpg"))
    others = [stamp[::-1], stamp[:, ::-1], stamp[..., ::-1], np.rot90(stamp, 2)]
    # The tile has a dead column there, and the file has not.
    assert 3 * apart(stamp) < min(map(apart, others))
    assert apart(stamp) < 2


def test_positions_labels_and_schemas() -> None:
    assert {column.name: column.unit for column in SPEC.columns if column.role == "position"} == {
        "ra": "deg", "dec": "deg",
    }  # fmt: skip
    assert set(SPEC.labels) == set(schema_names())
    assert SPEC.fields["image"].scale_unit == "arcsec/px"
    assert SPEC.group == ""
    assert SPEC.after_prepare is not None
