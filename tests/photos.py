"""Photos that differ, copies of them, and web stores of both: what near copies are looked for in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sciencessl.registry import load_domain
from sciencessl.store.format import StoreHeader
from sciencessl.store.reader import Store
from sciencessl.store.seal import seal
from sciencessl.store.writer import PreparedSample, create_store, write_row
from sciencessl.views.perceptual import phash


def photo(seed: int, side: int = 96) -> np.ndarray:
    """(side, side, 3) uint8 with structure at several scales."""
    rng = np.random.default_rng(seed)
    layers = [cv2.GaussianBlur(rng.normal(size=(side, side, 3)).astype("f4"), (0, 0), side / k) for k in (6, 14, 40)]
    mixed = sum(layer / layer.std() for layer in layers)
    return np.clip(128 + 30 * mixed, 0, 255).astype(np.uint8)


def encoded(image: np.ndarray, quality: int = 90) -> bytes:
    """As JPEG."""
    return bytes(cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


def decoded(raw: bytes) -> np.ndarray:
    """Of an encoded image, in RGB."""
    return np.ascontiguousarray(cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)[..., ::-1])


def grey(image: np.ndarray) -> np.ndarray:
    """Without colour."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def cropped(image: np.ndarray, edge: float = 0.01) -> np.ndarray:
    """Without a share of each side."""
    rows, columns = (round(n * edge) for n in image.shape[:2])
    return image[rows : image.shape[0] - rows, columns : image.shape[1] - columns]


COPIES: Mapping[str, Callable[[np.ndarray], bytes]] = {
    "resized": lambda image: encoded(cv2.resize(image, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)),
    "saved again": lambda image: encoded(image, 50),
    "grey": lambda image: encoded(grey(image)),
    "cropped": lambda image: encoded(cropped(image)),
}
"""Kind of a near copy -> how it is made."""

Entry = tuple[str, str, bytes]


def photo_store(
    path: Path, entries: Sequence[Entry], hashed: bool = True, columns: Mapping[str, Mapping[str, Any]] | None = None,
    source: str = "images",
) -> Store:
    """A sealed web store of one row.

    Args:
        path: Of the store.
        entries: (id, split, encoded image).
        hashed: Whether it has the column `phash` of a crawl.
        columns: Id -> further columns.
        source: What prepared it; keys are of source and id.
    """
    spec = load_domain("web")
    header = StoreHeader("web", source, spec.fields, 1, len(entries), {}, "plan", "config")
    create_store(path, header, sum(len(raw) for _, _, raw in entries))
    samples = []
    for name, split, raw in entries:
        more = dict((columns or {}).get(name, {}))
        if hashed:
            more["phash"] = int(np.uint64(phash(decoded(raw))).view(np.int64))
        samples.append(PreparedSample(name, split, {spec.primary: raw}, more))
    write_row(path, header, 0, samples, [], "inputs")
    seal(path, header)
    return Store(path)
