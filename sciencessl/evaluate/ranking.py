"""What `rank` is asked for and finds: as list, contact sheet and text."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sciencessl.data.loader import Decoder
from sciencessl.errors import ConfigError
from sciencessl.evaluate.rediscovery import Rediscovery, rediscovery_lines
from sciencessl.registry import load_domain
from sciencessl.store.display import fit_display
from sciencessl.store.files import write_atomic
from sciencessl.store.reader import Store
from sciencessl.store.sides import value_text
from sciencessl.views.pictures import save_pixels
from sciencessl.views.sheet import contact_sheet

RANKING, LIST, SHEET = "ranking.json", "ranking.csv", "sheet.png"
SHOWN, EXAMPLES, COLUMNS, TILE_PX = 60, 10, 10, 112
"""Most samples and examples on the sheet, tiles in a row, and their side."""
PRINTED = 10
"""Lines on a terminal."""


@dataclass(frozen=True)
class Asked:
    """What is asked for.

    Attributes:
        similar_to: Ids of the examples; empty for the strangest samples.
        anomalies: Whether the strangest samples are asked for.
        n: Samples to list.
        split: `train`, `val`, `test` or `all`: the samples that are ranked. Examples may be of any.
        find: `TASK=CLASS` or `COLUMN=VALUE` that the ranking is judged by; empty for no judgement.
        random_encoders: That it is compared with, of either variant.
        keep: Columns of the store to list too; `all` for every one.

    Raises:
        ConfigError: When not exactly one thing is asked for, or a number is below 1.
    """

    similar_to: tuple[str, ...] = ()
    anomalies: bool = False
    n: int = 100
    split: str = "all"
    find: str = ""
    random_encoders: int = 5
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.similar_to) == self.anomalies:
            both = "both were given" if self.anomalies else "neither was given"
            raise ConfigError(f"rank needs --similar-to ID... or --anomalies, one of them; {both}.")
        for name in ("n", "random_encoders"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be 1 or more.")


@dataclass(frozen=True)
class Listed:
    """One line: the sample, its score (similarity from -1 to 1, or distance from 0 to 2) and the example meant."""

    id: str
    score: float
    nearest: str = ""


@dataclass(frozen=True)
class Ranking:
    """What `rank` found, or would do.

    Attributes:
        out: Folder of list, sheet and embeddings.
        ranked: Samples that were ranked.
        left_out: Why -> samples that show the same thing as an example.
        rows: The first of them, the most similar or strangest first.
        judged: How well a class was found, where that was asked.
        notes: What a reader must know, a sentence each.
        missing: Images to embed, of a dry run: those of random encoders too.
        dry_run: Whether nothing was written, and nothing ranked.
        seconds: Wall time; of a dry run, what embedding would take.
    """

    out: Path
    ranked: int
    left_out: Mapping[str, int]
    rows: tuple[Listed, ...]
    judged: Rediscovery | None
    notes: tuple[str, ...]
    missing: int
    dry_run: bool
    seconds: float


def write_list(
    path: Path, store: Store, index: np.ndarray, rows: Sequence[Listed], kept: Mapping[str, Any]
) -> None:
    """Write `ranking.csv`: rank, id, score, the example meant, ra and dec where there are some, what is kept.

    Args:
        path: Of the file.
        store: Of the samples.
        index: (m,) their store indices, in the order of `rows`.
        rows: One or more.
        kept: Name -> m further values each, as Arrow arrays.
    """
    places = [name for name in ("ra", "dec") if name in store.columns() and name not in kept]
    columns: dict[str, list[Any]] = {str(name): store.column(name)[index].tolist() for name in places}
    columns |= {name: column.to_pylist() for name, column in kept.items()}
    nearest = [] if not rows[0].nearest else ["nearest"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["rank", "id", "score", *nearest, *columns])
    for number, (row, *values) in enumerate(zip(rows, *columns.values(), strict=True), 1):
        own = [row.nearest] if nearest else []
        writer.writerow([number, row.id, f"{row.score:.6f}", *own, *map(value_text, values)])
    write_atomic(path, text.getvalue().encode())


def write_sheet(path: Path, store: Store, examples: np.ndarray, index: np.ndarray, rows: Sequence[Listed]) -> None:
    """Write `sheet.png`: the examples, then the first samples with their scores, by the one stretch of the store.

    Args:
        path: Of the file.
        store: Of the samples.
        examples: (q,) store indices.
        index: (m,) store indices, in the order of `rows`.
        rows: The samples listed.
    """
    examples = examples[:EXAMPLES]
    shown, decoder = fit_display(store), Decoder(store, load_domain(store.header.domain).decode)
    wanted = np.concatenate([examples, index[:SHOWN]])
    images = [shown(decoder(wanted[i : i + 1])[0]) for i in range(len(wanted))]
    captions = [f"{store.ids[i]}\nexample" for i in examples]
    captions += [f"{row.id}\n{row.score:.3f}" for row in rows[:SHOWN]]
    save_pixels(contact_sheet(images, captions, COLUMNS, TILE_PX), path)


def ranking_text(found: Ranking) -> str:
    """What was found, for people."""
    return "\n".join(_lines(found))


def _lines(found: Ranking) -> Iterator[str]:
    left = ", ".join(f"{count:,} {why}" for why, count in found.left_out.items())
    yield f"{found.ranked:,} samples{f'; left out: {left}' if left else ''}"
    if found.dry_run:
        yield from found.notes
        yield f"would embed {found.missing:,} images, about {found.seconds:.0f} s; nothing was written"
        return
    for row in found.rows[:PRINTED]:
        yield f"  {row.score:.3f}  {row.id}{f'  (nearest {row.nearest})' if row.nearest else ''}"
    if len(found.rows) > PRINTED:
        yield f"  and {len(found.rows) - PRINTED:,} more"
    yield from rediscovery_lines(found.judged) if found.judged else ()
    yield from found.notes
    yield f"{found.seconds:.1f} s: {found.out / LIST} and {SHEET}"
