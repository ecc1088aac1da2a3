"""What `store dedup` found, for people: lines, and a page with the largest groups and the least certain pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sciencessl.errors import StoreError
from sciencessl.store.confirmed import Links
from sciencessl.store.dedup_samples import PHASH, Samples
from sciencessl.store.files import write_atomic
from sciencessl.store.near_copies import COPIED
from sciencessl.store.remote import beside, local_path
from sciencessl.views.pictures import Picture, save_pixels, tile_picture
from sciencessl.views.sheet import contact_sheet

if TYPE_CHECKING:
    from sciencessl.store.dedup import DedupReport, Groups

PAGE, SHEET = "report.html", "pairs.png"
SHOWN = 24
"""Groups or pairs of each section."""
IN_GROUP = 6
"""Images of a group that are shown."""
TILE = 128
ACROSS = 3
"""Pairs in a row of the sheet."""


def dedup_text(found: DedupReport) -> str:
    """The result in lines: counts, what was not looked at, and what to do."""
    lines = [f"{found.store}: {_whole(found)}", *_lines(found)]
    lines += [f"pairs to look at: {found.report}/{PAGE}"] if found.report else []
    if found.dry_run:
        lines.append("nothing was written")
    elif found.copies and not found.withdrawn:
        lines.append(f"to withdraw the copies: sciencessl store remove {found.store} --where 'duplicate_kept=false' "
                     "--reason duplicate")
    return "\n".join(lines)


def _whole(found: DedupReport) -> str:
    if not found.copies:
        return f"no copies among {found.samples:,} samples"
    done = f"; {found.withdrawn:,} withdrawn now" if found.withdrawn else ""
    return (f"{found.copies:,} of {found.samples:,} samples are copies of others that are kept, in {found.groups:,} "
            f"group{'s' * (found.groups != 1)}{done}")


def _lines(found: DedupReport) -> list[str]:
    lines = ["by level: " + ", ".join(f"{level} {count:,}" for level, count in found.levels.items())]
    if PHASH in found.levels and found.candidates:
        lines.append(f"near hashes: {found.candidates:,} pairs were compared by their pixels, {found.rejected:,} of "
                     f"them are not alike (score {COPIED:g} or less)")
    if found.cosine is not None:
        lines.append(f"embeddings are near above a cosine of {found.cosine:.3f}")
    if found.copies:
        lines.append("sizes of groups: " + ", ".join(f"{count:,} of {size:,}" for size, count in _sizes(found.sizes)))
        lines.append("copies by split: " + ", ".join(f"{name} {count:,}" for name, count in found.splits.items()))
    if found.spanning:
        lines.append(f"warning: {found.spanning:,} group{'s' * (found.spanning != 1)} lie{'s' * (found.spanning == 1)} "
                     "in several splits: a leak until its copies are withdrawn; of these a test sample is kept rather "
                     "than one of val, and that rather than one of train")
    if found.flat:
        lines.append(f"flat: {found.flat:,} samples without contrast, or unreadable, have no perceptual hash")
    return lines + [f"note: {note}" for note in found.notes]


def _sizes(sizes: dict[int, int]) -> list[tuple[int, int]]:
    """The four smallest sizes and the largest."""
    every = sorted(sizes.items())
    return every if len(every) <= 5 else [*every[:4], every[-1]]


@dataclass(frozen=True)
class Strip:
    """Images side by side, and what is below them."""

    picture: Picture
    words: str
    names: str


@dataclass(frozen=True)
class Section:
    """One part of the page."""

    title: str
    words: str
    strips: list[Strip]
    wide: bool = False


def write_page(
    report: DedupReport, samples: Samples, found: Groups, rejected: Links, out: str | Path
) -> str:
    """Write `report.html` (self-contained) and `pairs.png`, the least certain pairs; nothing where nothing was found.

    Args:
        report: What is shown.
        samples: Whose pictures.
        found: Groups.
        rejected: Pairs of near hashes that were looked at and are not alike.
        out: Folder; empty for `NAME.dedup` beside the store.

    Returns:
        The folder, or an empty text.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    import sciencessl

    folder = local_path(out) if str(out) else beside(samples.stores[0].path, ".dedup")
    for name in (PAGE, SHEET):
        (folder / name).unlink(missing_ok=True)
    uncertain, doubted = _uncertain(found), rejected.where(np.argsort(-rejected.score, kind="stable")[:SHOWN])
    if not len(found.number) and not len(doubted):
        return ""
    shown = _Shown(samples, _names(samples, found, doubted))
    sections = [
        _largest(shown, found),
        _pairs(shown, uncertain, "Least certain copies", "Least like the one that is kept, which is on the right."),
        _pairs(shown, doubted, "Not taken for copies", "Near hashes whose pixels are not alike, the most alike first."),
    ]
    environment = Environment(loader=PackageLoader("sciencessl.store"), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    page = environment.get_template("dedup.html.j2").render(
        found=report, lines=[_whole(report), *_lines(report)], sections=[part for part in sections if part.strips],
        version=sciencessl.__version__)
    write_atomic(folder / PAGE, page.encode())
    _write_sheet(shown, [*_listed(uncertain), *_listed(doubted)][: 2 * SHOWN], folder)
    return str(folder)


def _uncertain(found: Groups) -> Links:
    """Copies with the one that is kept, those of the lowest score."""
    known = np.flatnonzero(~np.isnan(found.score) & (found.number != found.keeper))
    known = known[np.argsort(found.score[known], kind="stable")[:SHOWN]]
    return Links(found.number[known], found.keeper[known], found.score[known])


def _listed(links: Links) -> list[tuple[int, int, float]]:
    return list(zip(links.one.tolist(), links.other.tolist(), links.score.tolist(), strict=True))


def _names(samples: Samples, found: Groups, doubted: Links) -> dict[int, str]:
    """Number -> id of all that may be shown."""
    numbers = np.unique(np.concatenate([doubted.one, doubted.other]))
    others = dict(zip(numbers.tolist(), samples.facts(numbers, ["id"])["id"].to_pylist(), strict=True))
    return others | dict(zip(found.number.tolist(), found.ids, strict=True))


def _largest(shown: _Shown, found: Groups) -> Section:
    strips = []
    groups, first, size = np.unique(found.component, return_index=True, return_counts=True)
    for group in np.argsort(-size, kind="stable")[:SHOWN]:
        members = found.number[found.component == groups[group]]
        kept = int(found.keeper[first[group]])
        few = [kept, *members[members != kept][: IN_GROUP - 1].tolist()]
        strips.append(Strip(tile_picture([shown(i) for i in few], TILE, f"group of {shown.names[kept]}"),
                            f"{size[group]:,} samples; kept: {shown.names[kept]}",
                            ", ".join(shown.names[i] for i in few[1:])))
    return Section("Largest groups", f"{len(strips):,} of {len(groups):,} groups, up to {IN_GROUP} images of each; the "
                   "one that is kept comes first.", strips, wide=True)


def _pairs(shown: _Shown, links: Links, title: str, words: str) -> Section:
    return Section(title, words, [
        Strip(tile_picture([shown(one), shown(other)], TILE, f"{shown.names[one]} and {shown.names[other]}"),
              f"score {score:.2f}", f"{shown.names[one]}, {shown.names[other]}")
        for one, other, score in _listed(links)])


def _write_sheet(shown: _Shown, pairs: Sequence[tuple[int, int, float]], folder: Path) -> None:
    if pairs:
        captions = [f"{shown.names[i]}\nscore {score:.2f}" for one, other, score in pairs for i in (one, other)]
        images = [shown(i) for one, other, _ in pairs for i in (one, other)]
        save_pixels(contact_sheet(images, captions, 2 * ACROSS, TILE), folder / SHEET)


@dataclass(frozen=True)
class _Shown:
    """Number -> (H, W, 3) uint8; grey where the pixels cannot be read."""

    samples: Samples
    names: dict[int, str]

    def __call__(self, number: int) -> np.ndarray:
        try:
            return self.samples.picture(number)
        except StoreError:
            return np.full((TILE, TILE, 3), 128, np.uint8)
