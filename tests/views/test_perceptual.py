"""The perceptual hash: equal to an independent transform, near for copies, far for other images, zero for flat ones."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.fft import dctn

from sciencessl.errors import DataError
from sciencessl.views.perceptual import FLAT, THUMBNAIL_PX, phash, phashes, thumbnail


def photo(seed: int, height: int = 240, width: int = 320) -> np.ndarray:
    """Smooth coloured noise with structure of all sizes."""
    rng = np.random.default_rng(seed)
    layers = [cv2.resize(rng.normal(size=(side, side, 3)).astype("f4"), (width, height), interpolation=cv2.INTER_CUBIC)
              for side in (3, 6, 12, 24)]
    return np.asarray(np.clip(128 + 30 * np.sum(layers, axis=0), 0, 255).astype(np.uint8))


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    raw = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(raw, cv2.IMREAD_COLOR))


def shrunk(image: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))


def distance(first: np.ndarray, second: np.ndarray) -> int:
    return (phash(first) ^ phash(second)).bit_count()


def test_the_bits_are_the_signs_of_frequencies_1_to_8_of_the_cosine_transform() -> None:
    image = photo(0)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float64)
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA)
    waves = dctn(small, norm="ortho")[1:9, 1:9].ravel()
    assert np.abs(waves).min() > 0.01, "no coefficient is a tie"
    assert phash(image) == sum(1 << (63 - place) for place in np.flatnonzero(waves > 0))


def test_the_first_bit_is_that_of_one_half_wave_each_way() -> None:
    wave = np.cos(np.pi * (np.arange(64) + 0.5) / 64)
    assert phash((128 + 100 * np.outer(wave, wave)).round().astype(np.uint8)) >> 63 == 1
    assert phash((128 - 100 * np.outer(wave, wave)).round().astype(np.uint8)) >> 63 == 0


@pytest.mark.parametrize("quality", [30, 50, 75, 95])
def test_copies_encoded_again_are_near(quality: int) -> None:
    assert max(distance(photo(seed), jpeg(photo(seed), quality)) for seed in range(20)) <= 3


@pytest.mark.parametrize("size", [(160, 120), (300, 300), (100, 75), (64, 64)])
def test_resized_copies_are_near_whatever_their_aspect(size: tuple[int, int]) -> None:
    assert max(distance(photo(seed), shrunk(photo(seed), *size)) for seed in range(20)) <= 3


def test_a_grey_copy_has_the_hash_of_the_coloured_image() -> None:
    grey = cv2.cvtColor(photo(1), cv2.COLOR_RGB2GRAY)
    assert phash(photo(1)) == phash(grey) == phash(grey[..., None])


def test_different_images_are_far_apart() -> None:
    hashes = phashes(photo(seed) for seed in range(60))
    apart = np.bitwise_count(hashes[:, None] ^ hashes)[np.triu_indices(60, 1)]
    assert apart.min() > 10
    assert 28 < apart.mean() < 36


@pytest.mark.parametrize("image", [
    np.full((50, 70, 3), 200, np.uint8), np.zeros((8, 8), np.uint8), np.full((1, 1), 9, np.uint8),
    np.tile(np.linspace(0, 255, 90).astype(np.uint8), (60, 1)),
], ids=["grey", "black", "one-pixel", "gradient-along-one-axis"])
def test_images_without_contrast_have_hash_0(image: np.ndarray) -> None:
    # A defect elsewhere: all blank images are duplicates of each other, and of dark photos.
    assert phash(image) == FLAT == 0


def test_noise_of_one_grey_level_is_no_contrast() -> None:
    noise = np.random.default_rng(0).integers(127, 130, (256, 256)).astype(np.uint8)
    assert phash(noise) == FLAT


def test_a_symmetric_image_has_no_bit_that_rounding_decides() -> None:
    half = photo(3, 64, 64)[:, :, 0]
    image = np.concatenate([half, half[:, ::-1]], axis=1)
    odd = sum(1 << (63 - 8 * down - across) for down in range(8) for across in range(0, 8, 2))
    assert phash(image) != FLAT
    assert phash(image) & odd == 0


def test_many_hashes_are_those_of_the_images_one_by_one() -> None:
    images = [photo(0), photo(1)[:, :, 0], np.zeros((9, 9), np.uint8), photo(2, 20, 500), photo(4, 10, 12)]
    assert phashes(images).dtype == np.uint64
    assert phashes(images).tolist() == [phash(image) for image in images]
    assert phashes([]).shape == (0,)


def test_a_thumbnail_is_the_mean_of_areas() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 96)).astype(np.uint8)
    expected = image.reshape(THUMBNAIL_PX, 2, THUMBNAIL_PX, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(thumbnail(image), expected, atol=1e-3)


@pytest.mark.parametrize(("image", "words"), [
    (np.zeros((4, 4), np.float32), "type float32"),
    (np.zeros((4, 4, 4), np.uint8), r"shape \(4, 4, 4\)"),
    (np.zeros((0, 4, 3), np.uint8), "no pixels"),
])
def test_what_is_no_image_is_refused_in_words(image: np.ndarray, words: str) -> None:
    with pytest.raises(DataError, match=words):
        phash(image)


def test_copies_of_real_photos_are_near_and_other_photos_are_not(shared_data: Path) -> None:
    folder = shared_data / "web" / "near_duplicates"
    names = ("base_images/ukbench00120.jpg", "mixed_images/ukbench00120_resize.jpg", "ukbench00120_gray.jpg",
             "formats_images/ukbench09380.webp", "base_images/ukbench09380.jpg")
    base, resized, grey, webp, other = (
        phash(np.asarray(cv2.imread(str(folder / name), cv2.IMREAD_COLOR_RGB))) for name in names)
    assert max((base ^ resized).bit_count(), (base ^ grey).bit_count(), (webp ^ other).bit_count()) <= 3
    assert (base ^ other).bit_count() > 16
