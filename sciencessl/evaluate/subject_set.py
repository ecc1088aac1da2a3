"""A subject set as Zooniverse's uploaders take it: pictures, and a manifest beside them that names each.

`subjects/manifest.csv` and the pictures lie in one folder, since the uploader of the Lab matches bare file names and
`panoptes subject-set upload-subjects` looks from the manifest on. Metadata whose name begins with `#` is not shown to
volunteers: what a model thinks of a subject must not reach them, nor why it was chosen.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from sciencessl.data.loader import Decoder
from sciencessl.monitor.throughput import Progress
from sciencessl.registry import load_domain
from sciencessl.store.display import fit_display
from sciencessl.store.files import write_atomic
from sciencessl.store.reader import Store
from sciencessl.store.sides import value_text
from sciencessl.views.pictures import save_pixels
from sciencessl.views.sheet import tile

FOLDER = "subjects"
MANIFEST = f"{FOLDER}/manifest.csv"
LARGEST_BYTES = 2**20
"""Of a picture that Zooniverse's uploaders take."""
MISSING = "-"
"""An empty cell: `panoptes` would take one for the name of a file."""
_LONGEST = 100


def file_names(ids: Sequence[str]) -> list[str]:
    """A PNG for each id: the id itself where any file system takes it, otherwise with a digest of it at its end.

    >>> file_names(["g1", "a/b c", "G1"])
    ['g1.png', 'a_b_c-facd05e8.png', 'G1-b0d08a63.png']
    """
    taken: set[str] = set()
    names = []
    for word in ids:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "_", word)[:_LONGEST].lstrip(".-")
        if plain != word or plain.casefold() in taken:
            plain = f"{plain}-{hashlib.blake2b(word.encode(), digest_size=4).hexdigest()}"
        taken.add(plain.casefold())
        names.append(f"{plain}.png")
    return names


def write_pictures(store: Store, index: np.ndarray, out: Path, png_px: int) -> tuple[int, int]:
    """Write the pictures that are not there yet, by the one stretch of the store that `store show` has too.

    Args:
        store: The store.
        index: (n,) store indices.
        out: Folder whose `subjects` they go into, named by `file_names` in this order.
        png_px: Side in pixels; a stamp is enlarged or reduced to it, its aspect kept on white.

    Returns:
        How many were written now, and how many of all are larger than `LARGEST_BYTES`.

    Raises:
        StoreError: When a sample is damaged.
    """
    domain, ids = load_domain(store.header.domain), store.ids
    paths = [out / FOLDER / name for name in file_names([ids[i] for i in index])]
    todo = [position for position, path in enumerate(paths) if not path.is_file()]
    if todo:
        shown, decoder = fit_display(store), Decoder(store, domain.decode)
        progress = Progress(len(todo), unit="picture", title="select")
        for done, position in enumerate(todo, 1):
            (sample,) = decoder(index[position : position + 1])
            save_pixels(tile(shown(sample), png_px), paths[position])
            progress.update(done)
        progress.close()
    return len(todo), sum(path.stat().st_size > LARGEST_BYTES for path in paths)


def write_manifest(out: Path, ids: Sequence[str], metadata: Mapping[str, Sequence[object]]) -> Path:
    """Write `subjects/manifest.csv`: `subject_id`, `filename`, and a column of each metadata.

    Args:
        out: Folder of the set.
        ids: n ids of the store.
        metadata: Name, with `#` in front where volunteers are not to see it -> n values.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["subject_id", "filename", *metadata])
    for name, file, *values in zip(ids, file_names(ids), *metadata.values(), strict=True):
        writer.writerow([name, file, *(_cell(value) for value in values)])
    write_atomic(out / MANIFEST, text.getvalue().encode())
    return out / MANIFEST


def _cell(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, np.float32) else value_text(value) or MISSING


def encoded_bytes(store: Store, index: int, png_px: int) -> int:
    """Bytes of the picture of one sample, for an estimate."""
    shown = fit_display(store)
    (sample,) = Decoder(store, load_domain(store.header.domain).decode)(np.array([index]))
    return len(cv2.imencode(".png", tile(shown(sample), png_px))[1])
