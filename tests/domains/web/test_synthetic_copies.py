"""Photos in unusual forms are in these forms, and what they show is known."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from sciencessl.data_prep.decode import Canonical, Refused, canonicalise
from sciencessl.domains.web import SPEC
from sciencessl.domains.web.synthetic import draw_photo
from sciencessl.domains.web.synthetic_copies import COPIES, FORMS, jpeg_bytes, rotated, with_segment

PHOTO = draw_photo(2, np.random.default_rng(3)).convert("RGB")


def formed(kind: str) -> Image.Image:
    image = Image.open(io.BytesIO(FORMS[kind][0](PHOTO)))
    image.load()
    return image


def distance(image: Image.Image) -> float:
    """Mean difference from the photo, in values of 0 to 255."""
    return float(np.abs(np.asarray(image.convert("RGB"), int) - np.asarray(PHOTO, int)).mean())


@pytest.mark.parametrize(("kind", "mode", "file"), [
    ("cmyk", "CMYK", "JPEG"), ("palette", "P", "PNG"), ("alpha", "RGBA", "PNG"), ("animation", "P", "GIF"),
    ("banner", "RGB", "JPEG"), ("thumbnail", "RGB", "JPEG"), ("one-colour", "RGB", "JPEG"), ("blurred", "RGB", "JPEG"),
])  # fmt: skip
def test_forms_are_what_their_names_say(kind: str, mode: str, file: str) -> None:
    image = formed(kind)
    assert (image.mode, image.format) == (mode, file)


@pytest.mark.parametrize(("kind", "most"), [("cmyk", 4), ("palette", 8), ("animation", 10)])
def test_forms_show_the_photo(kind: str, most: float) -> None:
    assert distance(formed(kind)) < most


def test_sixteen_bits_are_sixteen_and_lose_nothing_with_the_low_byte() -> None:
    raw = FORMS["16-bit"][0](PHOTO)
    assert raw[24] == 16
    pixels = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    assert pixels.dtype == np.uint16
    assert np.array_equal(pixels[..., ::-1] >> 8, np.asarray(PHOTO))


def test_animations_show_the_photo_first_and_black_last() -> None:
    with Image.open(io.BytesIO(FORMS["animation"][0](PHOTO))) as image:
        assert getattr(image, "n_frames", 1) == 3
        image.seek(2)
        assert np.asarray(image.convert("RGB")).max() == 0


def test_corners_of_a_cut_out_are_seen_through() -> None:
    alpha = np.asarray(formed("alpha"))[..., 3]
    assert alpha[0, 0] == alpha[-1, -1] == 0
    assert alpha[alpha.shape[0] // 2, alpha.shape[1] // 2] == 255
    assert 0.7 < (alpha == 255).mean() < 0.8  # pi / 4


def test_what_filters_refuse_has_what_they_look_for() -> None:
    sharpness = {kind: cv2.Laplacian(np.asarray(formed(kind).convert("L")), cv2.CV_64F).std()
                 for kind in ("blurred", "one-colour", "palette")}
    assert sharpness["one-colour"] < sharpness["blurred"] < 2 < 10 < sharpness["palette"]
    assert np.ptp(np.asarray(formed("one-colour")).reshape(-1, 3), axis=0).max() == 0
    assert formed("banner").size == (400, 20)
    assert formed("thumbnail").size == (24, 18)


@pytest.mark.parametrize(("asked", "value", "reason"), [
    ("max_aspect", 10.0, "too-long"), ("min_px", 32, "too-small"), ("max_one_colour", 0.9, "filtered:one-colour"),
    ("min_sharpness", 2.0, "filtered:blur"),
])  # fmt: skip
def test_filters_refuse_what_was_said_and_no_photo(asked: str, value: float, reason: str) -> None:
    field = SPEC.fields[SPEC.primary]
    options: Any = {asked: value}
    kind = next(kind for kind, (_, filtered) in FORMS.items() if filtered == reason)
    raw = FORMS[kind][0](PHOTO)
    with pytest.raises(Refused) as refused:
        canonicalise(raw, field, Canonical(256, **options))
    assert refused.value.reason == reason
    assert canonicalise(raw, field, Canonical(256)).width
    for other in ("cmyk", "16-bit", "palette", "alpha", "animation"):
        assert canonicalise(FORMS[other][0](PHOTO), field, Canonical(256, **options)).width == PHOTO.width


def test_each_orientation_is_set_right_by_another_turn() -> None:
    """Against the table of EXIF 2.3: where row 0 and column 0 of the stored pixels belong."""
    gradient = np.zeros((40, 60, 3), np.uint8)
    gradient[..., 0] = np.linspace(0, 255, 60)
    gradient[..., 1] = np.linspace(0, 255, 40)[:, None]
    corners = {1: "top left", 2: "top right", 3: "bottom right", 4: "bottom left", 5: "left top", 6: "right top",
               7: "right bottom", 8: "left bottom", 9: "top left", 0: "top left"}  # fmt: skip
    for turned, said in corners.items():
        image = Image.open(io.BytesIO(rotated(Image.fromarray(gradient), turned)))
        assert image.getexif()[0x0112] == turned
        pixels = np.asarray(image)
        red, green = (int(value) for value in pixels[0, 0][:2])
        assert ("left" if red < 60 else "right") in said
        assert ("top" if green < 60 else "bottom") in said
        # Row 0 is the visual side that is named first: along it, only the other colour changes.
        along = pixels[0].astype(int)
        changes = 0 if said.split()[0] in ("top", "bottom") else 1
        assert np.ptp(along[:, changes]) > 180 > 60 > np.ptp(along[:, 1 - changes])


def test_qualities_grey_and_light_are_what_is_changed() -> None:
    jpeg, rng = jpeg_bytes(PHOTO, 92), np.random.default_rng(0)
    assert len(COPIES["near-encoded"](jpeg, rng)) < 0.6 * len(jpeg)
    with Image.open(io.BytesIO(COPIES["near-grey"](jpeg, rng))) as grey:
        assert grey.mode == "L"
    with Image.open(io.BytesIO(COPIES["near-brighter"](jpeg, rng))) as brighter:
        assert 1.02 < np.asarray(brighter, float).mean() / np.asarray(PHOTO, float).mean() < 1.12


def test_segments_change_no_pixel() -> None:
    jpeg = jpeg_bytes(PHOTO, 80)
    more = with_segment(jpeg, 0xFE, b"words")
    assert len(more) == len(jpeg) + 9
    with Image.open(io.BytesIO(more)) as image, Image.open(io.BytesIO(jpeg)) as before:
        assert image.info["comment"] == b"words"
        assert image.tobytes() == before.tobytes()
