"""The settings of `prepare`, checked when they are built."""

from __future__ import annotations

from dataclasses import dataclass

from sciencessl.errors import ConfigError


@dataclass(frozen=True)
class PrepareSettings:
    """How files become a store. Names of columns are guessed, and the guess is printed, where they are left empty.

    Attributes:
        catalogue: CSV, Parquet or FITS table; empty finds `catalogue.*` or `manifest.csv` in the source.
        id: Column with unique identifiers, read as text.
        file: Column with file paths, relative to the catalogue's folder.
        label: Columns with classes.
        votes: Columns with vote counts; each must be a column of the schema, or an alias of one.
        group: Column whose values never straddle splits (patient, source tile).
        split: Column with given splits; without one, splits are drawn by a keyed hash of the group.
        schema: Name of a label schema of the domain, or a schema file.
        keep: Catalogue columns carried into the store; `all` carries every one.
        test_fraction: Share of groups drawn for test, 0 to below 1.
        val_fraction: Share of groups drawn for validation, 0 to below 1.
        split_seed: Key of that draw.
        resize_px: Short side after shrinking, in pixels; smaller images stay as they are. None shrinks nothing.
        jpeg_quality: Of JPEG files that have to be encoded again, 1 to 100.
        min_px: Images with a shorter side than this many pixels are refused.
        workers: Processes that prepare rows side by side, one for each core when not given. An input that crashes its
            process is then refused like any other bad one. 0 prepares in this process, one row after the other.
        verify_inputs: Compare contents of inputs with what was stored instead of sizes and times.
        overwrite: Delete a store that lies at the output first.

    Raises:
        ConfigError: For a value outside its range.
    """

    catalogue: str = ""
    id: str = ""
    file: str = ""
    label: tuple[str, ...] = ()
    votes: tuple[str, ...] = ()
    group: str = ""
    split: str = ""
    schema: str = ""
    keep: tuple[str, ...] = ()
    test_fraction: float = 0.2
    val_fraction: float = 0.0
    split_seed: int = 0
    resize_px: int | None = None
    jpeg_quality: int = 95
    min_px: int = 8
    workers: int | None = None
    verify_inputs: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name in ("label", "votes", "keep"):
            _require(name, repr(getattr(self, name)), not isinstance(getattr(self, name), str), "a tuple of columns")
        for name in ("test_fraction", "val_fraction"):
            _require(name, getattr(self, name), 0 <= getattr(self, name) < 1, "0 or more and below 1")
        both = self.test_fraction + self.val_fraction
        _require("test_fraction + val_fraction", both, both < 1, "below 1, so that something is left to train on")
        _require("split_seed", self.split_seed, self.split_seed >= 0, "0 or more")
        _require("jpeg_quality", self.jpeg_quality, 1 <= self.jpeg_quality <= 100, "1 to 100")
        _require("min_px", self.min_px, self.min_px >= 1, "1 or more")
        if self.workers is not None:
            _require("workers", self.workers, self.workers >= 0, "0 or more")
        if self.resize_px is not None:
            _require("resize_px", self.resize_px, self.resize_px >= self.min_px, f"at least min_px ({self.min_px})")


def _require(name: str, value: object, holds: bool, rule: str) -> None:
    if not holds:
        raise ConfigError(f"prepare setting {name} is {value}; it must be {rule}.")
