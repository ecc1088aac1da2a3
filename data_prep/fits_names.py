"""What names of FITS files and of their extensions say: band, kind of plane, and the tile they belong to."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sciencessl.data_prep.listing import stem
from sciencessl.data_prep.sky_tiles import Kind
from sciencessl.errors import ConfigError

WORDS: dict[Kind | Literal["other"], tuple[str, ...]] = {
    # ooi, ood, oow (and opi...): image, data quality and weight of the NOIRLab community pipelines.
    "image": ("image", "images", "img", "sci", "science", "ooi", "opi"),
    "mask": ("mask", "masks", "maskbits", "msk", "dq", "dqmask", "flag", "flags", "bpm", "ood", "opd"),
    "ivar": ("ivar", "invvar", "wht", "wt", "wtmap", "weight", "weights", "oow", "opw"),
    "variance": ("var", "variance"),
    "sigma": ("err", "error", "errors", "rms", "sigma", "std", "stddev", "noise", "uncert"),
    "other": (
        "psf", "psfs", "psfsize", "model", "resid", "residual", "chi2", "nexp", "exptime", "depth", "galdepth",
        "bkg", "background", "segm", "segmentation", "blobs", "blobmodel",
    ),
}  # fmt: skip
"""Words that say what a plane is; `other` planes are left out."""
_IN_PATTERNS: dict[Kind | Literal["other"], str] = {"image": "i", "mask": "d", "ivar": "w"}
_KINDS = {word: kind for kind, words in WORDS.items() for word in words}
_SHORT_KINDS = {letter: kind for kind, letter in _IN_PATTERNS.items()}

BANDS = (
    "fuv", "nuv", "u", "b", "g", "v", "vr", "r", "i", "vis", "z", "zd", "y", "j", "h", "k", "ks",
    "w1", "w2", "w3", "w4",
)  # fmt: skip
"""Names of bands that stand as a word in file names, shortest wavelength first; upper case counts too."""
_SPACE_BAND = re.compile(r"f\d{3,4}(?:w|lp|m|n|x|w2)", re.IGNORECASE)
_SPLIT = re.compile(r"[-_. ]?[^-_. ]+")


def is_band(word: str, known: Sequence[str] = ()) -> bool:
    """Whether a word of a file name is a band: one of `known` as it is written, or a usual name."""
    return word in known or word.lower() in BANDS or _SPACE_BAND.fullmatch(word) is not None


def band_order(band: str, known: Sequence[str] = ()) -> tuple[int, int, str]:
    """Sorts bands: `known` ones in their order, then by wavelength, then by name."""
    if band in known:
        return 0, known.index(band), band
    words = [word for word in words_of(band.lower()) if word in BANDS]
    if words:
        return 1, BANDS.index(words[-1]), band
    # Layers without names count up: band2 comes before band10.
    return 2, int("0" + "".join(letter for letter in band if letter.isdigit())), band


def words_of(name: str) -> list[str]:
    """The words of a name, split at `-`, `_`, `.` and spaces.

    >>> words_of("c4d_140818_ooi_z.N12")
    ['c4d', '140818', 'ooi', 'z', 'N12']
    """
    return [part.lstrip("-_. ") for part in _SPLIT.findall(name)]


def kind_of(words: Sequence[str]) -> Kind | Literal["other", ""]:
    """What the words say that a plane is; a word for anything but an image decides. Empty where none says."""
    found = [_KINDS[word.lower()] for word in words if word.lower() in _KINDS]
    return next((kind for kind in found if kind != "image"), found[0] if found else "")


def without(name: str, words: Sequence[str]) -> str:
    """A name with some of its words taken out, each with the mark before it.

    >>> without("c4d_140818_ooi_z_ls9.N12", ["ooi", "z"])
    'c4d_140818_ls9.N12'
    """
    drop = {word.lower() for word in words}
    kept = [part for part in _SPLIT.findall(name) if part.lstrip("-_. ").lower() not in drop]
    return "".join(kept).strip("-_. ")


def band_words(words: Sequence[str], band: str) -> list[str]:
    """The words of a name that spell the band of its header, whole (`HSC-I`) or by its first part (`r.MP9602`)."""
    spelled = [word.lower() for word in words_of(band)]
    lower = [word.lower() for word in words]
    if any(lower[i : i + len(spelled)] == spelled for i in range(len(lower))):
        return spelled
    return [word for word in spelled[:1] if word in lower]


@dataclass(frozen=True, slots=True)
class FileName:
    """What the name of one file says, before its headers are read.

    Attributes:
        name: Relative to the sources.
        tile: From the pattern; None where tile, band and kind are guessed.
        band: From the pattern, or a word that is a band; empty where there is none.
        kind: From the pattern, or the words; empty where they say nothing.
    """

    name: str
    tile: str | None
    band: str
    kind: Kind | Literal["other", ""]

    def tile_of(self, band: str) -> str:
        """The tile that a plane of `band` in this file belongs to: the name without its words for band and kind.

        A name of which nothing is left, such as `image.fits`, stands for its folder.
        """
        if self.tile is not None:
            return self.tile
        base = stem(posixpath.basename(self.name))
        words = words_of(base)
        drop = [word for word in words if word.lower() in _KINDS]
        drop += band_words(words, band) or ([self.band] if self.band else [])
        return without(base, drop) or posixpath.dirname(self.name) or base


def guess(name: str, known: Sequence[str] = ()) -> FileName:
    """Band and kind from the words of a file name, else from a folder named for a band or kind (`masks/`, `g/`)."""
    words = words_of(stem(posixpath.basename(name)))
    folders = [folder for folder in posixpath.dirname(name).split("/") if folder]
    bands = [word for word in words if is_band(word, known)] or [f for f in folders if is_band(f, known)]
    # Words given as bands come first, then longer ones: in `w1-n-u` the `u` is no band.
    bands.sort(key=lambda word: (word in known, len(word) > 1))
    return FileName(name, None, bands[-1] if bands else "", kind_of(words) or kind_of(folders[-1:]))


def matcher(pattern: str) -> re.Pattern[str]:
    """A pattern such as `c4d_{tile}_oo{kind}_{band}_ls9.fits` as a regular expression for whole relative names.

    Without a `/` it is held against the last part of the name. `{tile}`, `{band}` and `{kind}` stand for one or more
    characters other than `/`, `*` for none or more; a field that comes twice must repeat. The ending `.fits`
    covers `.fits.fz`, `.fits.gz` and `.fits.bz2` too.

    Raises:
        ConfigError: For an unknown field, or a pattern without `{tile}`.
    """
    ending = ".fits" if pattern.lower().endswith(".fits") else ""
    parts = re.split(r"(\{[^{}]*\}|\*)", pattern[: len(pattern) - len(ending)])
    seen: set[str] = set()
    out = []
    for part in parts:
        field = part[1:-1] if part.startswith("{") and part.endswith("}") else ""
        if field and field not in ("tile", "band", "kind"):
            raise ConfigError(f"pattern {pattern!r} has the field {part}; expected {{tile}}, {{band}} and {{kind}}.")
        if field:
            out.append(f"(?P={field})" if field in seen else f"(?P<{field}>[^/]+?)")
            seen.add(field)
        else:
            out.append("[^/]*" if part == "*" else re.escape(part))
    if "tile" not in seen:
        raise ConfigError(f"pattern {pattern!r} has no {{tile}}; write one such as 'tile-{{tile}}-{{band}}.fits'.")
    folders = "" if "/" in pattern else "(?:.*/)?"
    packed = r"\.fits(?:\.fz|\.gz|\.bz2)?" if ending else ""
    return re.compile(folders + "".join(out) + packed, re.IGNORECASE | re.DOTALL)


def matched(name: str, pattern: re.Pattern[str]) -> FileName | None:
    """What a pattern reads from a name; None where it does not match, or its kind is no word for one."""
    found = pattern.fullmatch(name)
    if found is None:
        return None
    fields = found.groupdict()
    word = (fields.get("kind") or "").lower()
    kind = _KINDS.get(word) or _SHORT_KINDS.get(word)
    if word and kind is None:
        return None
    return FileName(name, fields["tile"], fields.get("band") or "", kind or "")
