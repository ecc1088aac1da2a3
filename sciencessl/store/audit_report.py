"""What an audit found, for people: lines of text, a page with pairs of pictures, and a sheet of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sciencessl.data.loader import Decoder
from sciencessl.errors import StoreError
from sciencessl.registry import load_domain
from sciencessl.store.audit_record import CLEAN, COPY, IDENTITY, LEAK, LOOK_ALIKE, SUSPECT, Audit, Evidence, Pair
from sciencessl.store.copies import FALSE_CONFIRMED
from sciencessl.store.files import write_atomic
from sciencessl.store.reader import Store
from sciencessl.views.pictures import Picture, save_pixels, tile_picture
from sciencessl.views.sheet import contact_sheet

PAGE, SHEET, REMOVE = "report.html", "pairs.png", "remove.txt"
SHOWN = 24
"""Pairs of each piece of evidence on the page; the sheet has as many in all."""
TILE = 128
ACROSS = 3
"""Pairs in a row of the sheet."""


def audit_text(found: Audit) -> str:
    """The result in lines: the verdict, the evidence, the null, and what was not looked at."""
    sides = ", ".join(f"{name} {n:,}" for name, n in found.samples.items())
    lines = [f"{found.store}: {_verdict_words(found)}", f"compared: {sides or 'nothing'}",
             f"groups: {', '.join(found.groups) or 'none'}"]
    lines += [f"{'warning: ' if entry.kind == LOOK_ALIKE else ''}{sentence(entry)}" for entry in found.evidence]
    return "\n".join([*lines, null_sentence(found), *(f"note: {note}" for note in found.notes)])


def sentence(entry: Evidence) -> str:
    """One piece of evidence in words."""
    first = entry.pairs[0]
    example = f"such as {first.test} and {first.pool}"
    if entry.kind == LOOK_ALIKE:
        return (f"{entry.samples:,} samples of {entry.test} look much like samples of {entry.pool}, {example} "
                f"({pair_words(first)}); too little to confirm: look at them.")
    if entry.kind == COPY:
        return (f"{entry.samples:,} samples of {entry.test} are copies of samples of {entry.pool} by their pixels, "
                f"{example} ({pair_words(first)}).")
    values = f" ({entry.values:,} values)" if entry.kind == IDENTITY else ""
    return f"{entry.samples:,} samples of {entry.test} share {entry.by}{values} with {entry.pool}, {example}."


def pair_words(pair: Pair) -> str:
    """What two samples share, or how alike they are and how one lies on the other."""
    if pair.score is None:
        return pair.value or "equal contents"
    return ", ".join(part for part in (f"score {pair.score:.2f}", _moved(pair)) if part)


def _moved(pair: Pair) -> str:
    moved = [f"turned {pair.turn_deg:.0f}°"] if pair.turn_deg else []
    moved += [f"zoomed {pair.zoom:.2f}"] if pair.zoom not in (None, 1) else []
    moved += ["mirrored"] if pair.mirrored else []
    return ", ".join(moved)


def null_sentence(found: Audit) -> str:
    """How alike images of the store are that are no copies, and what follows."""
    null = found.null
    if null is None or found.confirmed_above is None:
        return "pixels: not compared"
    left_out = f"; {null.dropped:,} that score far higher are left out" if null.dropped else ""
    return (f"pixels: {null.pairs:,} random pairs score {null.median:.2f} in the median and {null.largest:.2f} at most"
            f"{left_out}. Copies score above {found.confirmed_above:.2f}, which {FALSE_CONFIRMED:g} of all "
            f"{found.pairs:,} pairs are expected to reach by chance.")


def _verdict_words(found: Audit) -> str:
    return {
        LEAK: "LEAK: sides share samples",
        SUSPECT: "some images look alike across sides; nothing is confirmed",
        CLEAN: "clean: sides share no sample and no group, as far as names, contents and pixels tell",
    }.get(found.verdict, "nothing found, which is not to say that it is clean")


@dataclass(frozen=True)
class ShownPair:
    """A pair on the page: its pictures side by side, and what is below them."""

    picture: Picture
    test: str
    pool: str
    words: str


def write_report(found: Audit, stores: Sequence[Store], folder: Path) -> None:
    """Write `report.html` (self-contained), `pairs.png` (test samples on the left) and, of a leak, `remove.txt`.

    What an earlier audit left in the folder is deleted, also where nothing was found and nothing is written.

    Args:
        found: What is shown.
        stores: The store of the pool, and that of the test samples.
        folder: Made if it is needed.
    """
    for name in (PAGE, SHEET, REMOVE):
        (folder / name).unlink(missing_ok=True)
    if not found.evidence:
        return
    _write_pages(found, stores, folder)
    ids = dict.fromkeys(name for entry in found.confirmed for name in entry.ids)
    if ids:
        write_atomic(folder / REMOVE, "".join(f"{name}\n" for name in ids).encode())


def _write_pages(found: Audit, stores: Sequence[Store], folder: Path) -> None:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    import sciencessl

    shown = [[(pair, _pictures(pair, stores)) for pair in entry.pairs[:SHOWN]] for entry in found.evidence]
    each = max(1, SHOWN // len(shown))
    few = [item for items in shown for item in items[:each]]
    captions = [text for pair, _ in few for text in _captions(pair)]
    save_pixels(contact_sheet([image for _, both in few for image in both], captions, 2 * ACROSS, TILE), folder / SHEET)
    environment = Environment(loader=PackageLoader("sciencessl.store"), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    pairs = [[ShownPair(tile_picture(both, TILE, f"{pair.test} and {pair.pool}"), pair.test, pair.pool,
                        pair_words(pair)) for pair, both in items] for items in shown]
    page = environment.get_template("audit.html.j2").render(
        found=found, text=audit_text(found), sections=list(zip(found.evidence, pairs, strict=True)), sentence=sentence,
        verdict=_verdict_words(found), version=sciencessl.__version__,
    )
    write_atomic(folder / PAGE, page.encode())


def _captions(pair: Pair) -> tuple[str, str]:
    said = pair_words(pair) if pair.score is None else f"score {pair.score:.2f}"
    return f"{pair.test}\n{said}", f"{pair.pool}\n{_moved(pair) or ' '}"


def _pictures(pair: Pair, stores: Sequence[Store]) -> tuple[np.ndarray, np.ndarray]:
    return _picture(stores[1], pair.test_index), _picture(stores[0], pair.pool_index)


def _picture(store: Store, index: int) -> np.ndarray:
    """(H, W, 3) uint8; grey where the pixels cannot be read."""
    domain = load_domain(store.header.domain)
    try:
        return domain.display(Decoder(store, domain.decode)(np.array([index]))[0])
    except StoreError:
        return np.full((TILE, TILE, 3), 128, np.uint8)
