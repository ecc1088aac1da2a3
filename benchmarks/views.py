"""How long BYOL's two training views of decoded 224 px photos take.

    python benchmarks/views.py [--quick] [--json] [--images N] [--rounds N]

Processor milliseconds of both views of a photo, on one thread. Every way does what BYOL does at its probabilities: crop
of 8 to 100 % of the area resized bicubically to 224 px, flip 0.5, colour jitter 0.8, grey 0.2, Gaussian blur with
kernel 23 and sigma 0.1 to 2 in view 1 always and in view 2 at 0.1, solarisation in view 2 at 0.2. All start from pixels
in memory (arrays, PIL images, or tensors, made before the clock starts) and end with uint8 pixels, an array or a
tensor as each has them, not normalised; where a library cannot end so it is said below. Ways take turns, each round is
the same photos with other draws, and a ratio is the median over rounds of their time over ours. Above 1 ours is faster.

Named alternatives:
- `torchvision_v2_pil`: transforms.v2 on PIL images, each operation as documented. Its blur is a convolution with
  23 x 23 weights, and those of a narrow Gaussian are subnormal numbers, with which processors are slow.
- `torchvision_v2_pil_flushed`: the same with `torch.set_flush_denormal(True)`, which takes them for 0.
- `torchvision_v2_pil_imagefilter`: the same with Pillow's own blur, three box blurs in place of a Gaussian, as many
  repositories have it.
- `torchvision_v2_tensor`: transforms.v2 on uint8 tensors.
- `albumentations`: its own operations in a Compose.
- `lightly`: its BYOLTransform, which takes Pillow's blur; ends with float tensors.
- `kornia`: a sequence of its augmentations on a batch of all photos at once, float from uint8 and back within the time.
Only ours draws each view of each sample from a generator of its own, so that it is a function of seed, epoch and
sample; making the generators is within its time. Its jitter has BYOL's formulas (brightness is added, contrast turns
around each channel's mean), the others have torchvision's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageFilter

from sciencessl.data.loader import ViewRandomness
from sciencessl.views.byol import CropSettings, PhotometricSettings, byol_views

SIZE = 224
KERNEL = 23
AREA = CropSettings().area
BYOL = PhotometricSettings()
JITTER = (BYOL.brightness, BYOL.contrast, BYOL.saturation, BYOL.hue)
VIEWS = (0, 1)

Way = Callable[[int], Any]
"""Number of the round -> both views of all photos."""


def photos(count: int) -> list[np.ndarray]:
    """(224, 224, 3) uint8 of smooth noise; no operation's time depends on more than that."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    return [cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC) for image in coarse]


def ours(images: list[np.ndarray]) -> Way:
    """As the loader calls the views of web photos."""
    views = byol_views(SIZE)

    def work(number: int) -> Any:
        return [[view(image, ViewRandomness(0, number, key)(v)) for v, view in enumerate(views)]
                for key, image in enumerate(images)]

    return work


def torchvision_views(blur: Any, last: list[Any]) -> list[Any]:
    """Both views from transforms.v2, with a blur of one's own."""
    from torchvision.transforms import v2

    return [
        v2.Compose([
            v2.RandomResizedCrop(SIZE, AREA, interpolation=v2.InterpolationMode.BICUBIC),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(*JITTER)], BYOL.jitter),
            v2.RandomGrayscale(BYOL.greyscale),
            v2.RandomApply([blur], BYOL.blur[v]),
            *([v2.RandomSolarize(128, BYOL.solarise[v])] if BYOL.solarise[v] else []),
            *last,
        ])
        for v in VIEWS
    ]


def each(views: list[Any], images: list[Any]) -> Way:
    """Photos one by one, as data sets call transforms."""
    return lambda number: [[view(image) for view in views] for image in images]


def torchvision_v2_pil(images: list[np.ndarray]) -> Way:
    """As documented."""
    from torchvision.transforms import v2

    views = torchvision_views(v2.GaussianBlur(KERNEL, BYOL.sigma), [v2.PILToTensor()])
    return each(views, [Image.fromarray(image) for image in images])


def torchvision_v2_pil_flushed(images: list[np.ndarray]) -> Way:
    """Without subnormal numbers."""
    plain = torchvision_v2_pil(images)

    def work(number: int) -> Any:
        torch.set_flush_denormal(True)
        try:
            return plain(number)
        finally:
            torch.set_flush_denormal(False)

    return work


def torchvision_v2_pil_imagefilter(images: list[np.ndarray]) -> Way:
    """With Pillow's blur."""
    from torchvision.transforms import v2

    def blur(image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(random.uniform(*BYOL.sigma)))

    return each(torchvision_views(v2.Lambda(blur), [v2.PILToTensor()]), [Image.fromarray(image) for image in images])


def torchvision_v2_tensor(images: list[np.ndarray]) -> Way:
    """On uint8 tensors."""
    from torchvision.transforms import v2

    tensors = [torch.from_numpy(image).permute(2, 0, 1).contiguous() for image in images]
    return each(torchvision_views(v2.GaussianBlur(KERNEL, BYOL.sigma), []), tensors)


def albumentations(images: list[np.ndarray]) -> Way:
    """Its own operations."""
    import albumentations as package

    views = [
        package.Compose([
            package.RandomResizedCrop((SIZE, SIZE), AREA, interpolation=cv2.INTER_CUBIC),
            package.HorizontalFlip(),
            package.ColorJitter(*JITTER, p=BYOL.jitter),
            package.ToGray(p=BYOL.greyscale),
            package.GaussianBlur(blur_limit=(KERNEL, KERNEL), sigma_limit=BYOL.sigma, p=BYOL.blur[v]),
            *([package.Solarize((0.5, 0.5), p=BYOL.solarise[v])] if BYOL.solarise[v] else []),
        ])
        for v in VIEWS
    ]
    return lambda number: [[view(image=image)["image"] for view in views] for image in images]


def lightly(images: list[np.ndarray]) -> Way:
    """BYOLTransform at its defaults, which are those of the paper, without normalisation."""
    from lightly.transforms.byol_transform import BYOLTransform, BYOLView1Transform, BYOLView2Transform

    both = BYOLTransform(BYOLView1Transform(SIZE, normalize=None), BYOLView2Transform(SIZE, normalize=None))
    pictures = [Image.fromarray(image) for image in images]
    return lambda number: [both(picture) for picture in pictures]


def kornia(images: list[np.ndarray]) -> Way:
    """On a batch of all photos."""
    import kornia.augmentation as package

    views = [
        package.AugmentationSequential(
            package.RandomResizedCrop((SIZE, SIZE), AREA, resample="bicubic"),
            package.RandomHorizontalFlip(),
            package.ColorJitter(*JITTER, p=BYOL.jitter),
            package.RandomGrayscale(p=BYOL.greyscale),
            package.RandomGaussianBlur((KERNEL, KERNEL), BYOL.sigma, p=BYOL.blur[v]),
            *([package.RandomSolarize(thresholds=(0.5, 0.5), additions=(0.0, 0.0), p=BYOL.solarise[v])]
              if BYOL.solarise[v] else []),
        )
        for v in VIEWS
    ]
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return lambda number: [(view(batch.float() / 255) * 255).round().to(torch.uint8) for view in views]


ALTERNATIVES = (torchvision_v2_pil, torchvision_v2_pil_flushed, torchvision_v2_pil_imagefilter, torchvision_v2_tensor,
                albumentations, lightly, kornia)


def installed(images: list[np.ndarray]) -> dict[str, Way]:
    """Ours, and the alternatives whose packages are here."""
    ways = {"ours": ours(images)}
    for make in ALTERNATIVES:
        try:
            ways[make.__name__] = make(images)
        except ImportError:
            continue
    return ways


def milliseconds(ways: dict[str, Way], rounds: int, images: int) -> dict[str, list[float]]:
    """Processor time of both views of a photo, one value a round; ways take turns."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, work in ways.items():
            began = time.process_time()
            work(number)
            spent[name].append(1e3 * (time.process_time() - began) / images)
    return {name: values[1:] for name, values in spent.items()}


def measure(count: int, rounds: int) -> dict[str, Any]:
    """All ways, in one process on one thread."""
    torch.manual_seed(0)
    random.seed(0)
    ways = installed(photos(count))
    spent = milliseconds(ways, rounds, count)
    return {
        "name": "views",
        "hardware": f"{platform.machine()}, one of {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "ratios": {name: float(np.median(np.divide(times, spent["ours"])))
                   for name, times in spent.items() if name != "ours"},
        "absolute": {"images": count, "rounds": rounds,
                     "ms_both_views": {name: float(np.median(times)) for name, times in spent.items()}},
        "absent": [make.__name__ for make in ALTERNATIVES if make.__name__ not in ways],
    }


def show(found: dict[str, Any]) -> None:
    """The same for people."""
    print(f"both views of a photo of {SIZE} px; {found['hardware']}")
    for name, time_ms in found["absolute"]["ms_both_views"].items():
        against = f"  ours is {found['ratios'][name]:.1f} times faster" if name != "ours" else ""
        print(f"  {name:30} {time_ms:7.2f} ms{against}")
    print("absent:", ", ".join(found["absent"]) or "none")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="8 photos and 3 rounds")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--images", type=int, default=32, help="photos (default: 32)")
    parser.add_argument("--rounds", type=int, default=9, help="rounds (default: 9)")
    options = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    found = measure(*((8, 3) if options.quick else (options.images, options.rounds)))
    if options.json:
        print(json.dumps(found))
    else:
        show(found)


if __name__ == "__main__":
    main()
