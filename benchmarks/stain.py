"""How long it takes to change the stain of tissue tiles.

    python benchmarks/stain.py [--quick] [--json] [--tiles N] [--rounds N]

Processor milliseconds a tile of 224 px, on one thread; ways take turns, each round is the same synthetic tiles with
other draws, and a ratio is the median over rounds of their time over ours. Above 1 ours is faster.

Jitter of haematoxylin, eosin and DAB, against the batched op in torch:
- `view`: our view, tile after tile, as the loader calls it.
- `skimage`: `rgb2hed`, a factor and a shift for each stain, `hed2rgb`, tile after tile, as most repositories have it.
- `albumentations`: `HEStain` with random preset stains, tile after tile. It changes two stains in other ways than ours.

Normalisation by Macenko's method, against ours with the fit of the slide:
- `fit_each`: ours with a fit of each tile.
- `torchstain_numpy`, `torchstain_torch`: its MacenkoNormalizer, which fits each tile.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import torch

from sciencessl.data_prep.stain import FITS, fit_slide, normalise
from sciencessl.domains.pathology.synthetic import synthetic_tiles
from sciencessl.views.stain import StainJitter
from sciencessl.views.stain_batch import draw_stain_jitter, stain_jitter

SIZE = 224
STRENGTH = 0.05

Way = Callable[[int], Any]
"""Number of the round -> all tiles, changed."""


def tiles(count: int) -> np.ndarray:
    """(N, 224, 224, 3) uint8 of synthetic tissue."""
    with TemporaryDirectory() as folder:
        files = sorted((synthetic_tiles(Path(folder), np.random.default_rng(0), count) / "tiles").glob("*.jpg"))
        images = [cv2.resize(cv2.imread(str(file))[..., ::-1], (SIZE, SIZE)) for file in files]
    return np.ascontiguousarray(images)


def batch(images: np.ndarray) -> Way:
    """All at once."""
    held = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()

    def work(number: int) -> Any:
        return stain_jitter(held, *draw_stain_jitter(len(held), STRENGTH, torch.Generator().manual_seed(number)))

    return work


def view(images: np.ndarray) -> Way:
    """As the loader does."""
    operation = StainJitter(STRENGTH)
    return lambda number: [operation(image=image)["image"] for image in images]


def skimage(images: np.ndarray) -> Way:
    """Colour conversion there and back."""
    from skimage.color import hed2rgb, rgb2hed

    def one(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        factors, shifts = rng.uniform(-STRENGTH, STRENGTH, (2, 3))
        changed: np.ndarray = (255 * hed2rgb(rgb2hed(image) * (1 + factors) + shifts)).astype(np.uint8)
        return changed

    return lambda number: [one(image, np.random.default_rng([number, k])) for k, image in enumerate(images)]


def albumentations(images: np.ndarray) -> Way:
    """Its own operation."""
    import albumentations as package

    operation = package.HEStain(method="random_preset", p=1.0)
    return lambda number: [operation(image=image)["image"] for image in images]


def slide_fit(images: np.ndarray) -> Way:
    """Ours."""
    fit = fit_slide(images, "macenko")
    return lambda number: normalise(images, fit)


def fit_each(images: np.ndarray) -> Way:
    """Ours, as if each tile were a slide."""
    return lambda number: [normalise(image, FITS["macenko"](image.reshape(-1, 3))) for image in images]


def torchstain_numpy(images: np.ndarray) -> Way:
    """Its NumPy backend."""
    return _torchstain("numpy", list(images))


def torchstain_torch(images: np.ndarray) -> Way:
    """Its torch backend."""
    return _torchstain("torch", [torch.from_numpy(image).permute(2, 0, 1) for image in images])


def _torchstain(backend: str, images: list[Any]) -> Way:
    import torchstain

    normaliser = torchstain.normalizers.MacenkoNormalizer(backend=backend)
    return lambda number: [normaliser.normalize(I=image, stains=False)[0] for image in images]


JITTER = (batch, view, skimage, albumentations)
NORMALISE = (slide_fit, fit_each, torchstain_numpy, torchstain_torch)
"""Ours first."""


def milliseconds(makers: tuple[Any, ...], images: np.ndarray, rounds: int) -> dict[str, list[float]]:
    """Processor time of a tile, one value a round, of the ways that are installed; ways take turns."""
    ways: dict[str, Way] = {}
    for make in makers:
        try:
            ways[make.__name__] = make(images)
        except ImportError:
            continue
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, work in ways.items():
            began = time.process_time()
            work(number)
            spent[name].append(1e3 * (time.process_time() - began) / len(images))
    return {name: values[1:] for name, values in spent.items()}


def measure(count: int, rounds: int) -> dict[str, Any]:
    """All ways, in one process on one thread."""
    images = tiles(count)
    spent = {"jitter": milliseconds(JITTER, images, rounds), "normalise": milliseconds(NORMALISE, images, rounds)}
    ratios = {name: float(np.median(np.divide(values, next(iter(times.values())))))
              for times in spent.values() for name, values in list(times.items())[1:]}
    return {
        "name": "stain",
        "hardware": f"{platform.machine()}, one of {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "ratios": ratios,
        "absolute": {"tiles": count, "rounds": rounds,
                     "ms_a_tile": {kind: {name: float(np.median(values)) for name, values in times.items()}
                                   for kind, times in spent.items()}},
        "absent": [make.__name__ for make in (*JITTER, *NORMALISE) if make.__name__ not in
                   {name for times in spent.values() for name in times}],
    }


def show(found: dict[str, Any]) -> None:
    """The same for people."""
    print(f"tiles of {SIZE} px; {found['hardware']}")
    for kind, times in found["absolute"]["ms_a_tile"].items():
        for name, time_ms in times.items():
            against = f"  ours is {found['ratios'][name]:.1f} times as fast" if name in found["ratios"] else "  ours"
            print(f"  {kind:10} {name:18} {time_ms:7.2f} ms a tile{against}")
    print("absent:", ", ".join(found["absent"]) or "none")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="8 tiles and 3 rounds")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--tiles", type=int, default=32, help="tiles (default: 32)")
    parser.add_argument("--rounds", type=int, default=9, help="rounds (default: 9)")
    options = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    found = measure(*((8, 3) if options.quick else (options.tiles, options.rounds)))
    if options.json:
        print(json.dumps(found))
    else:
        show(found)


if __name__ == "__main__":
    main()
