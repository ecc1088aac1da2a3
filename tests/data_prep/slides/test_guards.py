"""Bytes that claim to be huge are refused before they are unpacked, and damage that decoders go on over is told."""

from __future__ import annotations

import os
import struct
import threading
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile

from sciencessl.data.decode import decode
from sciencessl.data_prep.decode import Refused
from sciencessl.data_prep.slides.guards import check_claim, claimed_values, strictly
from sciencessl.data_prep.slides.opening import open_slide
from sciencessl.data_prep.slides.openslide_reader import OpenSlideReader
from sciencessl.spec import FieldSpec

FIELD = FieldSpec("bytes", ("red", "green", "blue"))
JPEG = {"compression": "jpeg", "photometric": "rgb", "compressionargs": {"level": 90}}
HUGE = 40_000


def jpeg(pixels: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".jpg", pixels)[1])


def claiming(data: bytes, side: int) -> bytes:
    """The same JPEG or JPEG 2000 bytes with another size in the header."""
    out = bytearray(data)
    at = data.find(b"\xff\x4f\xff\x51")
    if at >= 0:
        out[at + 8 : at + 16] = struct.pack(">II", side, side)
    else:
        at = data.find(b"\xff\xc0")
        out[at + 5 : at + 9] = struct.pack(">HH", side, side)
    return bytes(out)


def test_claims_are_read_from_headers(image: Any) -> None:
    for data in (jpeg(image(48, 40)), imagecodecs.jpeg2k_encode(image(48, 40)),
                 imagecodecs.jpeg2k_encode(image(48, 40), codecformat="j2k")):  # fmt: skip
        assert claimed_values(data) == 48 * 40 * 3
        check_claim(data, 48, 40)
        with pytest.raises(Refused, match=r"^corrupt: a tile or strip of 48 x 40 px claims to be a far larger image"):
            check_claim(claiming(data, HUGE), 48, 40)
    for data in (b"", b"\xff\xd8", b"LZW", b"\xff\x4f\xff\x51"):
        assert claimed_values(data) == 0


@pytest.mark.parametrize("kind", ["jpeg", "jpeg2000"])
@pytest.mark.parametrize("strips", [False, True])
def test_a_small_file_that_claims_to_be_huge_takes_no_memory(
    tmp_path: Path, image: Any, kind: str, strips: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A defect elsewhere: a few bytes of a header make a decoder take gigabytes, or minutes.
    path = tmp_path / "claim.tif"
    layout: dict[str, Any] = {"rowsperstrip": 16} if strips else {"tile": (64, 64)}
    tifffile.imwrite(path, image(128, 128), photometric="rgb", compression=kind, metadata=None, **layout)
    raw = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        for at, size in zip(tiff.pages[0].dataoffsets, tiff.pages[0].databytecounts, strict=True):
            raw[at : at + size] = claiming(bytes(raw[at : at + size]), HUGE)
    path.write_bytes(raw)
    for name in ("jpeg8_decode", "jpeg2k_decode"):
        monkeypatch.setattr(imagecodecs, name, lambda *given, **named: pytest.fail("was decoded"))
    with pytest.raises(Refused, match=r"^corrupt: "):
        open_slide(str(path))


def test_tiles_too_large_for_memory_are_refused_before_openslide_ends_the_process(tmp_path: Path, image: Any) -> None:
    path = tmp_path / "tiles.tif"
    tifffile.imwrite(path, image(64, 64), tile=(64, 64), metadata=None, **JPEG)
    raw = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        for name in ("TileWidth", "TileLength"):
            at = tiff.pages[0].tags[name].offset
            raw[at + 2 : at + 12] = struct.pack("<HII", 4, 1, 60_000)
    path.write_bytes(raw)
    with pytest.raises(Refused, match=r"^too-large: it claims tiles of 60000 x 60000 px; if that is so, convert it"):
        open_slide(str(path))


def test_sound_bytes_decode_as_everywhere(image: Any) -> None:
    payload = jpeg(image(48, 40))
    assert np.array_equal(strictly(payload, FIELD), decode(payload, FIELD))
    assert strictly(b"no image", FIELD) is None


def test_a_damaged_scan_is_no_image_and_says_nothing(image: Any, capfd: pytest.CaptureFixture[str]) -> None:
    payload = bytearray(jpeg(image(64, 64)))
    cut = bytes(payload[:-400]) + b"\xff\xd9"
    assert decode(cut, FIELD).shape == (64, 64, 3)  # what OpenCV makes of it, with words
    assert "Corrupt JPEG" in capfd.readouterr().err
    for _ in range(2):
        assert strictly(cut, FIELD) is None
        assert strictly(bytes(payload), FIELD) is not None
    assert capfd.readouterr().err == ""
    os.write(2, b"heard\n")
    assert capfd.readouterr().err == "heard\n"


def test_threads_do_not_take_the_words_of_each_other(image: Any) -> None:
    good = jpeg(image(64, 64))
    cut = good[:-400] + b"\xff\xd9"
    wrong: list[str] = []

    def work(payload: bytes, sound: bool) -> None:
        for _ in range(30):
            if (strictly(payload, FIELD) is not None) != sound:
                wrong.append("sound" if sound else "damaged")

    threads = [threading.Thread(target=work, args=case) for case in ((good, True), (cut, False)) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_openslide_refuses_is_refused(tmp_path: Path, write_slide: Any) -> None:
    # A defect elsewhere: a tile with a flipped bit decodes to shifted colours from there on, and nobody hears of it.
    path = tmp_path / "bits.tif"
    write_slide(path, [(640, 640)], **JPEG)
    raw = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    with tifffile.TiffFile(path) as tiff:
        for at, size in zip(tiff.pages[0].dataoffsets, tiff.pages[0].databytecounts, strict=True):
            for _ in range(8 if rng.random() < 0.5 else 0):
                raw[at + int(rng.integers(size // 2, size - 2))] ^= 1 << int(rng.integers(8))
    path.write_bytes(raw)
    reader, judge = open_slide(str(path)), OpenSlideReader(str(path))
    assert reader.info.backend == "native"
    refused = 0
    for y in range(0, 640, 64):
        for x in range(0, 640, 64):
            try:
                expected = judge.read(0, x, y, 64, 64)
            except Refused as refusal:
                refused += 1
                with pytest.raises(Refused, match=refusal.reason):
                    reader.read(0, x, y, 64, 64)
            else:
                assert np.array_equal(reader.read(0, x, y, 64, 64), expected)
    assert refused
    reader.close()
    judge.close()
