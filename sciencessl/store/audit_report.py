"""What an audit found, for people: lines of text, a page with pairs of pictures, and a sheet of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sciencessl.data.loader import Decoder
from sciencessl.errors import StoreError
from sciencessl.registry import load_domain
from sciencessl.store.audit_record import (
    CLEAN,
    CONTENTS,
    COPY,
    IDENTITY,
    LEAK,
    LOOK_ALIKE,
    OVERLAP,
    PLACE,
    SUSPECT,
    UNCONFIRMED,
    Audit,
    Evidence,
    Pair,
)
from sciencessl.store.copies import FALSE_CONFIRMED
from sciencessl.store.display import Display, fit_display
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
    """The result in lines: the verdict, the evidence, the null, what was not looked at, and what to do."""
    told = [f"{found.store}: {_verdict_words(found)}", *_lines(found)]
    told += [f"pairs: {found.report}/{PAGE}"] if found.report else []
    return "\n".join([*told, *([f"what to do: {advice(found)}"] if found.confirmed else [])])


def _lines(found: Audit) -> list[str]:
    sides = ", ".join(f"{name} {n:,}" for name, n in found.samples.items())
    lines = [f"compared: {sides or 'nothing'}", f"groups: {', '.join(found.groups) or 'none'}"]
    lines += [f"places: {', '.join(found.places)}"] if found.places else []
    lines += [f"{'warning: ' if entry.kind in UNCONFIRMED else ''}{sentence(entry)}" for entry in found.evidence]
    return [*lines, null_sentence(found), *(f"note: {note}" for note in found.notes)]


def sentence(entry: Evidence) -> str:
    """One piece of evidence in words."""
    first = entry.pairs[0]
    many = entry.samples != 1
    whom = f"{entry.samples:,} sample{'s' * many} of {entry.test}"
    copied = "are copies" if many else "is a copy"
    example = f"such as {first.test} and {first.pool}"
    if entry.kind == LOOK_ALIKE:
        return (f"{whom} look{'' if many else 's'} much like samples of {entry.pool}, {example} ({pair_words(first)}); "
                "too little to confirm: look at the pairs.")
    if entry.kind == COPY:
        return (f"{whom} {copied} of samples of {entry.pool} by their {entry.by}, {example} "
                f"({pair_words(first)}).")
    if entry.kind == PLACE:
        return (f"{whom} {'are' if many else 'is'} at the same place as samples of {entry.pool} by {entry.by}, "
                f"{example} ({pair_words(first)}).")
    if entry.kind == OVERLAP:
        return (f"{whom} overlap{'' if many else 's'} samples of {entry.pool}, so that one image shows the centre of "
                f"the other ({entry.by}), {example} ({pair_words(first)}); they are different things.")
    values = f" ({entry.values:,} value{'s' * (entry.values != 1)})" if entry.kind == IDENTITY else ""
    return f"{whom} share{'' if many else 's'} {entry.by}{values} with {entry.pool}, {example}."


def advice(found: Audit) -> str:
    """What to do about a leak."""
    columns = [entry.by for entry in found.confirmed if entry.kind == IDENTITY and entry.by != "id"]
    tested = found.against or found.store
    remove = f"withdraw the test side: `sciencessl store remove {tested} --ids {found.report}/{REMOVE} --reason leak`."
    if found.against:
        return f"To test on the rest, {remove}"
    groups = f"--group {columns[0] if columns else 'COLUMN'}"
    if not columns and any(entry.kind == PLACE for entry in found.confirmed):
        groups += " (or --group-by object, where the source has it)"
    return f"Prepare the store again with {groups}, which keeps what belongs together in one split, or {remove}"


def pair_words(pair: Pair) -> str:
    """What two samples share, or how alike they are and how one lies on the other."""
    if pair.score is None:
        return pair.value or "equal contents"
    return ", ".join(part for part in (f"score {pair.score:.2f}", pair.value, _moved(pair)) if part)


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
        SUSPECT: "some images look alike, or overlap, across sides; no sample is confirmed to be shared",
        CLEAN: "clean: sides share no sample and no group, as far as names, places, contents and pixels tell",
    }.get(found.verdict, "nothing found, which is not to say that it is clean")


@dataclass(frozen=True)
class ShownPair:
    """A pair on the page: its pictures side by side, and what is below them."""

    picture: Picture
    test: str
    pool: str
    words: str


@dataclass(frozen=True)
class Section:
    """One piece of evidence on the page."""

    title: str
    words: str
    pairs: list[ShownPair]


@dataclass(frozen=True)
class Page:
    """What a page with pairs of pictures says.

    Attributes:
        title: Of the page.
        verdict: In words.
        lines: Below it.
        evidence: With the pairs.
        advice: What to do; empty where nothing is confirmed.
        footer: Which stores it is of.
    """

    title: str
    verdict: str
    lines: Sequence[str]
    evidence: Sequence[Evidence]
    advice: str
    footer: str

    @property
    def confirmed(self) -> tuple[Evidence, ...]:
        """The evidence that makes a leak."""
        return tuple(entry for entry in self.evidence if entry.kind not in UNCONFIRMED)


def audit_page(found: Audit) -> Page:
    """The page of an audit."""
    against = f" against {found.against}" if found.against else ""
    digests = f"store {found.manifest_digest}{f', against {found.against_digest}' if found.against else ''}"
    return Page(f"Audit of {found.store}{against}", _verdict_words(found), _lines(found), found.evidence,
                advice(found) if found.confirmed else "", digests)


def write_report(page: Page, stores: Mapping[str, Store], folder: Path) -> None:
    """Write `report.html` (self-contained), `pairs.png` (test samples on the left) and, of a leak, `remove.txt`.

    What an earlier report left in the folder is deleted, also where nothing was found and nothing is written.

    Args:
        page: What is shown.
        stores: Name of a side -> the store that its samples are in.
        folder: Made if it is needed.
    """
    for name in (PAGE, SHEET, REMOVE):
        (folder / name).unlink(missing_ok=True)
    if not page.evidence:
        return
    pictured = {store.path: _Shown(store, fit_display(store)) for store in stores.values()}
    shown = []
    for entry, pairs in zip(page.evidence, shown_pairs(page.evidence), strict=True):
        test, pool = pictured[stores[entry.test].path], pictured[stores[entry.pool].path]
        shown.append([(pair, (test(pair.test_index), pool(pair.pool_index))) for pair in pairs])
    _write_sheet([items for items in shown if items], folder)
    _write_page(page, shown, folder)
    ids = dict.fromkeys(name for entry in page.confirmed for name in entry.ids)
    if ids:
        write_atomic(folder / REMOVE, "".join(f"{name}\n" for name in ids).encode())


def shown_pairs(evidence: Sequence[Evidence]) -> list[list[Pair]]:
    """For each piece of evidence the pairs to show: spread over all that are listed, so the least certain are among
    them; none where another column of contents told the same of the same samples."""
    shown: list[list[Pair]] = []
    for number, entry in enumerate(evidence):
        told = any(entry.kind == CONTENTS == before.kind and before.pool == entry.pool and {*entry.ids} <= {*before.ids}
                   for before in evidence[:number])
        places = np.unique(np.linspace(0, len(entry.pairs) - 1, SHOWN).astype(int))
        shown.append([] if told else [entry.pairs[i] for i in places])
    return shown


Pictured = Sequence[tuple[Pair, tuple[np.ndarray, np.ndarray]]]


def _write_sheet(shown: Sequence[Pictured], folder: Path) -> None:
    each = max(1, SHOWN // len(shown))
    few = [item for items in shown for item in items[:: -(-len(items) // each)]]
    captions = [text for pair, _ in few for text in _captions(pair)]
    save_pixels(contact_sheet([image for _, both in few for image in both], captions, 2 * ACROSS, TILE), folder / SHEET)


def _write_page(page: Page, shown: Sequence[Pictured], folder: Path) -> None:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    import sciencessl

    environment = Environment(loader=PackageLoader("sciencessl.store"), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    sections = [Section(_title(entry), _section_words(entry, len(items)), [
        ShownPair(tile_picture(both, TILE, f"{pair.test} and {pair.pool}"), pair.test, pair.pool, pair_words(pair))
        for pair, both in items
    ]) for entry, items in zip(page.evidence, shown, strict=True)]
    html = environment.get_template("audit.html.j2").render(page=page, sections=sections,
                                                            version=sciencessl.__version__)
    write_atomic(folder / PAGE, html.encode())


def _title(entry: Evidence) -> str:
    what = {COPY: f"Copies by {entry.by}", LOOK_ALIKE: "Look-alikes, not confirmed"}
    return f"{what.get(entry.kind, f'Equal {entry.by}')}: {entry.samples:,} of {entry.test}, with {entry.pool}"


def _section_words(entry: Evidence, shown: int) -> str:
    if not shown:
        return "The same samples as by another column of contents above."
    order = " from the most to the least alike" if entry.kind in (COPY, LOOK_ALIKE) else ""
    order = " from the nearest to the farthest" if entry.kind in (PLACE, OVERLAP) else order
    return f"{shown} of {len(entry.pairs):,} pairs{order}; {entry.test} on the left, {entry.pool} on the right."


def _captions(pair: Pair) -> tuple[str, str]:
    said = pair_words(pair) if pair.score is None else f"score {pair.score:.2f}"
    return f"{pair.test}\n{said}", f"{pair.pool}\n{_moved(pair) or ' '}"


@dataclass(frozen=True)
class _Shown:
    """Index -> (H, W, 3) uint8; grey where the pixels cannot be read."""

    store: Store
    display: Display

    def __call__(self, index: int) -> np.ndarray:
        try:
            return self.display(Decoder(self.store, load_domain(self.store.header.domain).decode)(np.array([index]))[0])
        except StoreError:
            return np.full((TILE, TILE, 3), 128, np.uint8)
