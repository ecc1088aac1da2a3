"""Label images that someone painted, of tiles or of whole slides, as a table of labels of tiles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sciencessl.data_prep.label_images import cut_images, find_images, image_table, numbered_names, tile_image
from sciencessl.data_prep.slide_labels import LabelSettings, RefusedFile, SlideLabels
from sciencessl.errors import DataError
from sciencessl.store.files import read_file
from sciencessl.store.format import digest


def read_mask_labels(
    source: Path, name: str, ids: Sequence[str], slides: Sequence[str], boxes: np.ndarray, sides: Sequence[int],
    classes: Sequence[str],
) -> SlideLabels:
    """Read label images named after samples (`ID.png`) or slides (`SLIDE.png`, of the pixels of level 0).

    Args:
        source: A folder.
        name: Of the column.
        ids: (n) of tiles.
        slides: (n) slide of each; empty where the store does not know.
        boxes: (n, 4) x, y, width, height of each in level-0 pixels; not read without slides.
        sides: (n) pixels along a side of each tile as it is stored; likewise.
        classes: `NUMBER=NAME` of values.

    Returns:
        A row for each tile that has an image, in the order of `ids`.

    Raises:
        ConfigError: When there is no image, or a class has no number.
        DataError: When no image is of a sample or slide or can be read.
    """
    names = numbered_names(LabelSettings(classes=tuple(classes)).names)
    tiles, whole, strange = find_images(source, ids, sorted(set(slides)))
    found: dict[str, bytes] = {}
    refused: list[RefusedFile] = []
    digests: list[str] = []
    of_slide = np.asarray(slides, object)
    for slide, path in whole.items():
        here = np.flatnonzero(of_slide == slide).tolist()
        try:
            images = cut_images(path, boxes[here], [sides[row] for row in here])
            found.update(zip((ids[row] for row in here), images, strict=True))
            digests.append(digest(read_file(path)))
        except DataError as error:
            refused.append(RefusedFile(path.name, "damaged", str(error)))
    for own, path in tiles.items():
        try:
            found[own] = tile_image(path)
            digests.append(digest(read_file(path)))
        except DataError as error:
            refused.append(RefusedFile(path.name, "damaged", str(error)))
    if not found:
        raise DataError(f"not one of the label images of {source} can be used. {refused[0].detail}")
    rows = [own for own in ids if own in found]
    data = image_table(name, rows, [found[own] for own in rows], names)
    said = [f"{len(digests):,} label images, {len(tiles):,} of samples and {len(whole):,} of slides"]
    said += [f"{strange:,} images are of no sample or slide of the store"] if strange else []
    together = digest("".join(sorted(digests)).encode())
    return SlideLabels(data, None, len(rows), f"label images painted (files {together[:12]})", tuple(said),
                       tuple(refused))
