"""What decoding a large JPEG at 1/2, 1/4 or 1/8 of its size saves, from encoded bytes to views.

    python benchmarks/decode.py [--quick] [--json] [--photos FOLDER]

Processor milliseconds (one thread) a photo of 0.2, 1, 3 and 12 megapixels, quality 90: BYOL's two training views and
the evaluation view of web photos, at 224 and at 96 pixels, from bytes decoded as the loader does and in full. Photos
are noise with the spectrum of photographs, so that entropy coding, which no reduction saves, costs what it costs there;
`--photos` takes real ones, each as it is. `factor` is what the loader divides by: 1 where views need the whole photo,
and below `WORTH_PIXELS`; `left_out` is the ratio over full decoding that a photo below it would have.

Named alternatives: decoding in full; Pillow with `draft()` to the same size; decoding once for each of the two views.
A ratio above 1 means that ours is faster.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from sciencessl.data import decode as decoding
from sciencessl.data.decode import decode, jpeg_size, reduction
from sciencessl.data.loader import ViewRandomness
from sciencessl.domains.web.views import FIELD, WebViews, web_views
from sciencessl.samples import Sample
from sciencessl.spec import FieldSpec, View

RGB = FieldSpec("bytes", ("r", "g", "b"))
PHOTOS = {"0.2MP": (400, 500), "1MP": (866, 1155), "3MP": (1500, 2000), "12MP": (3000, 4000)}
SIZES = (224, 96)
SLOPE = 1.3
"""Amplitude falls as frequency ** -SLOPE: about 3 bits a pixel at quality 90, as cameras write."""


def synthetic_photo(height: int, width: int, rng: np.random.Generator) -> bytes:
    """A JPEG of quality 90 of noise with the spectrum of photographs, its colours alike."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1.0

    def noise(slope: float) -> np.ndarray:
        waves = np.exp(2j * np.pi * rng.random(frequency.shape)) * frequency**-slope
        plane = np.fft.irfft2(waves, s=(height, width))
        scaled: np.ndarray = (plane - plane.mean()) / plane.std()
        return scaled

    light = noise(SLOPE)
    pixels = np.stack([light + 0.3 * noise(SLOPE + 0.2) for _ in range(3)], axis=2)
    image = np.clip(128 + 50 * pixels, 0, 255).astype(np.uint8)
    encoded: bytes = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    return encoded


def photos(quick: bool, folder: Path | None) -> Iterator[tuple[str, bytes]]:
    """Names and JPEGs, one at a time."""
    if folder is not None:
        for path in sorted(folder.rglob("*.jp*g"))[: 3 if quick else 12]:
            yield path.name, path.read_bytes()
        return
    for name, size in PHOTOS.items():
        if not (quick and name == "12MP"):
            yield name, synthetic_photo(*size, np.random.default_rng(0))


def milliseconds(ways: dict[str, Callable[[int], Any]], repeats: int) -> dict[str, float]:
    """Median processor time of each way, taken in turns."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(repeats + 1):
        for name, work in ways.items():
            began = time.process_time()
            work(number)
            spent[name].append(time.process_time() - began)
    return {name: 1e3 * float(np.median(values[1:])) for name, values in spent.items()}


def drafted(payload: bytes, factor: int) -> np.ndarray:
    """Pillow's decoder, told that an image divided by a factor does."""
    with Image.open(io.BytesIO(payload)) as image:
        if factor > 1:
            image.draft("RGB", (image.width // factor, image.height // factor))
        return np.asarray(image.convert("RGB"))


def once_a_view(view: Any, payload: bytes, least_px: float) -> Callable[[int], Any]:
    """Both training views, each from a decode of its own."""

    def work(number: int) -> list[np.ndarray]:
        random = ViewRandomness(0, number, 0)
        return [pipe(decode(payload, RGB, least_px), random(v)) for v, pipe in enumerate(view.pipelines)]

    return work


def measured(view: View, payload: bytes, repeats: int) -> dict[str, Any]:
    """Times and ratios of one photo and one view."""
    least_px = view.least_px[FIELD]  # type: ignore[attr-defined]

    def viewed(decoder: Callable[[], np.ndarray]) -> Callable[[int], Any]:
        return lambda number: view(Sample({FIELD: decoder()}), ViewRandomness(0, number, 0))

    factor = reduction(payload, least_px)
    ways = {
        "ours": viewed(lambda: decode(payload, RGB, least_px)),
        "full": viewed(lambda: decode(payload, RGB)),
        "pillow_draft": viewed(lambda: drafted(payload, factor)),
        "full_decode_alone": lambda number: decode(payload, RGB),
    }
    if hasattr(view, "pipelines"):
        ways["decode_a_view"] = once_a_view(view, payload, least_px)
    times = milliseconds(ways, repeats)
    ratios = {name: times[name] / times["ours"] for name in ("full", "pillow_draft", "decode_a_view") if name in times}
    return {"factor": factor, "least_px": round(least_px), "ms": times, "ratios": ratios,
            "left_out": left_out(view, payload, repeats) if factor == 1 else None}


def left_out(view: View, payload: bytes, repeats: int) -> float | None:
    """Full over reduced for a photo below `WORTH_PIXELS`, were it decoded at the size its view needs."""
    kept, decoding.WORTH_PIXELS = decoding.WORTH_PIXELS, 0
    try:
        if reduction(payload, view.least_px[FIELD]) > 1:  # type: ignore[attr-defined]
            return float(measured(view, payload, repeats)["ratios"]["full"])
    finally:
        decoding.WORTH_PIXELS = kept
    return None


def header_us(payload: bytes, repeats: int = 200) -> float:
    """Microseconds of reading a photo's size from its header."""
    began = time.process_time()
    for _ in range(repeats):
        jpeg_size(payload)
    return 1e6 * (time.process_time() - began) / repeats


def measure(payload: bytes, repeats: int) -> dict[str, Any]:
    """One photo through the training and evaluation views of both sizes."""
    height, width = jpeg_size(payload) or (0, 0)
    rows: dict[str, Any] = {"megapixels": height * width / 1e6, "bits_a_pixel": 8 * len(payload) / (height * width),
                            "header_us": header_us(payload)}
    for size in SIZES:
        for name, view in zip(("train", "evaluate"), web_views(WebViews(size=size)), strict=True):
            rows[f"{name}_{size}"] = measured(view, payload, repeats)
    return rows


def flat_ratios(absolute: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Every ratio under one name, such as `full_12MP_train_224`."""
    return {
        f"{against}_{photo}_{view}": ratio
        for photo, rows in absolute.items()
        for view, row in rows.items() if isinstance(row, dict)
        for against, ratio in row["ratios"].items()
    }


def show(absolute: dict[str, dict[str, Any]]) -> None:
    """A line for each photo and view."""
    for photo, rows in absolute.items():
        print(f"{photo}: {rows['megapixels']:.1f} megapixels, {rows['bits_a_pixel']:.1f} bits a pixel; "
              f"size read from the header in {rows['header_us']:.1f} us")
        for view, row in rows.items():
            if isinstance(row, dict):
                against = ", ".join(f"{name} {ratio:.2f}" for name, ratio in row["ratios"].items())
                note = f"  (would be {row['left_out']:.2f})" if row["left_out"] else ""
                print(f"  {view:13} 1/{row['factor']}  {row['ms']['ours']:7.2f} ms  times faster than: {against}{note}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="no 12 megapixels, and fewer repeats")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--photos", type=Path, help="folder of JPEGs to measure on instead of synthetic ones")
    options = parser.parse_args()
    cv2.setNumThreads(0)
    repeats = 5 if options.quick else 11
    absolute = {name: measure(payload, repeats) for name, payload in photos(options.quick, options.photos)}
    if not absolute:
        parser.error(f"--photos {options.photos}: no .jpg or .jpeg in it.")
    ratios = flat_ratios(absolute)
    if options.json:
        hardware = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
        print(json.dumps({"name": "decode", "hardware": hardware, "ratios": ratios, "absolute": absolute,
                          "absent": []}))
        return
    show(absolute)
    views = [row for rows in absolute.values() for row in rows.values() if isinstance(row, dict)]
    reduced = [row["ratios"]["full"] for row in views if row["factor"] > 1]
    if reduced:
        print(f"full decoding over ours where it is reduced, geometric mean: {math.exp(np.mean(np.log(reduced))):.2f}")


if __name__ == "__main__":
    main()
