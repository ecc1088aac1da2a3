"""Log-polar maps: turns, hands and zooms come back as they were made; what is no copy scores low, flat images zero."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from sciencessl.views.polar import (
    ANGLES,
    HARMONICS,
    RINGS,
    SHIFTS,
    STEP,
    align,
    amplitude_centre,
    amplitudes,
    polar_map,
)


def photo(seed: int, side: int = 160) -> np.ndarray:
    """Smooth coloured noise with structure of all orientations."""
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.normal(size=(side, side, 3)).astype("f4"), (0, 0), side / 80)
    return np.clip(128 + 45 * noise / noise.std(), 0, 255).astype(np.uint8)


def turned(image: np.ndarray, deg: float, zoom: float = 1.0) -> np.ndarray:
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), deg, zoom)
    return np.asarray(cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT))


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    raw = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(raw, cv2.IMREAD_COLOR))


QUARTER_TURNS = [(lambda x, k=k, m=m: np.rot90(x[::-1] if m else x, k), 90.0 * k, m) for k in range(4) for m in (0, 1)]


@pytest.mark.parametrize(("change", "turn", "mirrored"), QUARTER_TURNS)
def test_the_eight_symmetries_of_a_square_are_exact(
    change: Callable[[np.ndarray], np.ndarray], turn: float, mirrored: int
) -> None:
    image = photo(0, 128)
    found = align(polar_map(image)[None], polar_map(np.ascontiguousarray(change(image)))[None])
    assert (found.turn_deg[0], found.zoom[0], bool(found.mirrored[0])) == (turn, 1.0, bool(mirrored))
    equal = align(polar_map(image)[None], polar_map(image)[None])
    assert found.score[0] == pytest.approx(equal.score[0], abs=1e-3)
    assert 0.93 < equal.score[0] <= 0.9525  # 1 / (1 + RIDGE / energy)


@pytest.mark.parametrize("deg", [7.0, 33.0, 118.0, 275.0])
@pytest.mark.parametrize("zoom", [1.0, STEP**2, STEP**4])
def test_a_turn_and_a_zoom_come_back_as_they_were_made(deg: float, zoom: float) -> None:
    image = photo(1)
    found = align(polar_map(image)[None], polar_map(jpeg(turned(image, deg, zoom), 70))[None])
    assert found.turn_deg[0] == pytest.approx(deg, abs=0.5 * 360 / ANGLES + 0.1)
    assert found.zoom[0] == pytest.approx(zoom, rel=0.5 * (STEP - 1))
    assert not found.mirrored[0]
    assert found.score[0] > 0.6


def test_aligning_the_other_way_round_gives_the_inverse() -> None:
    one, two = polar_map(photo(2))[None], polar_map(turned(photo(2), 45.0, STEP**3))[None]
    there, back = align(one, two), align(two, one)
    assert there.score[0] == pytest.approx(back.score[0], abs=1e-5)
    assert (there.turn_deg[0] + back.turn_deg[0]) % 360 == 0
    assert there.zoom[0] * back.zoom[0] == pytest.approx(1)


def test_size_grey_aspect_contrast_and_encoding_do_not_matter() -> None:
    image = photo(3, 256)
    grey = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    dimmed = (image * 0.5 + 20).astype(np.uint8)
    copies = [jpeg(image, 50), grey, dimmed, cv2.resize(image, (90, 140), interpolation=cv2.INTER_AREA)]
    maps = np.stack([polar_map(copy) for copy in copies])
    assert (align(np.repeat(polar_map(image)[None], 4, 0), maps).score > 0.85).all()


def test_the_score_is_the_normalised_correlation_at_the_best_place() -> None:
    rng = np.random.default_rng(4)
    one, two = rng.normal(size=(2, RINGS, ANGLES))
    radius = STEP ** np.arange(RINGS)
    radius *= RINGS / radius.sum()
    best = -1.0
    for shift in range(-SHIFTS, SHIFTS + 1):
        a, b = (one[shift:], two[: RINGS - shift]) if shift >= 0 else (one[:shift], two[-shift:])
        ra, rb = (radius[shift:], radius[: RINGS - shift]) if shift >= 0 else (radius[:shift], radius[-shift:])
        weight = np.sqrt(ra * rb)[:, None]
        norm = np.sqrt((weight * a**2).sum() * (weight * b**2).sum()) + 0.05 * ANGLES * weight.sum()
        for hand in (b, np.roll(b[:, ::-1], 1, axis=1)):
            best = max(best, *((weight * a * np.roll(hand, k, axis=1)).sum() / norm for k in range(ANGLES)))
    assert align(one[None], two[None]).score[0] == pytest.approx(best, abs=1e-5)


def test_flat_images_resemble_nothing() -> None:
    flat = np.stack([polar_map(np.full((50, 50, 3), level, np.uint8)) for level in (0, 128)])
    assert not flat.any()
    assert align(flat[:1], flat[1:]).score[0] == 0
    assert align(flat[:1], polar_map(photo(5))[None]).score[0] == 0
    assert not amplitudes(flat, amplitude_centre(flat)).any()


def test_amplitudes_know_neither_turn_nor_hand_and_meet_at_the_zoom() -> None:
    image = photo(6, 128)
    others = np.stack([polar_map(photo(seed, 128)) for seed in range(20, 40)])
    centre = amplitude_centre(others)
    own = amplitudes(polar_map(image)[None], centre)
    assert own.shape == (SHIFTS + 1, 1, (RINGS - SHIFTS) * HARMONICS)
    np.testing.assert_allclose(np.linalg.norm(own, axis=2), 1, atol=1e-6)
    same = amplitudes(polar_map(np.ascontiguousarray(np.rot90(image)[::-1]))[None], centre)
    np.testing.assert_allclose(same, own, atol=1e-3)
    zoomed = amplitudes(polar_map(turned(image, 20, STEP**2))[None], centre)
    unlike = np.max(own[0, 0] @ amplitudes(others, centre)[0].T)
    met = [float(own[0, 0] @ zoomed[shift, 0]) for shift in range(SHIFTS + 1)]
    assert np.argmax(met) == 2
    assert met[2] > 0.7 > unlike
