"""The settings of a crawl, checked when they are built."""

from __future__ import annotations

from dataclasses import dataclass

from sciencessl.data_prep.settings import require


@dataclass(frozen=True)
class CrawlSettings:
    """How uncurated images are read, checked and filtered.

    Attributes:
        index_only: Leave images where they lie, in tars or loose files, and store where that is; those that are not
            upright 8-bit RGB or grey JPEG or PNG are converted and stored.
        max_aspect: Largest long side over short side; 0 takes any.
        max_megapixels: Images with more are refused by their header.
        min_entropy: Least entropy of the grey values, 0 to 8 bits.
        min_sharpness: Least standard deviation of the Laplacian of the grey values, see `picture_quality`.
        max_one_colour: Largest share of pixels that have one colour, above 0 to 1.
        srgb: Convert images with an embedded colour profile to sRGB.
        decode_seconds: Processor time after which the decoding of one image is ended and the image refused, above 0; 0
            decodes in the process that prepares, where only a crash is noticed.
        decode_mb: Memory in MiB that decoding one image may take.
        hooks: `MODULE:FUNCTION` or `FILE.py:FUNCTION` that score images, such as for adult content or faces.
        drop: Conditions on columns, such as `nsfw>0.5`: images that meet any are refused.

    Raises:
        ConfigError: For a value outside its range.
    """

    index_only: bool = False
    max_aspect: float = 0.0
    max_megapixels: float = 100.0
    min_entropy: float = 0.0
    min_sharpness: float = 0.0
    max_one_colour: float = 1.0
    srgb: bool = False
    decode_seconds: float = 20.0
    decode_mb: int = 2048
    hooks: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require("max_aspect", self.max_aspect, self.max_aspect == 0 or self.max_aspect >= 1, "0, or 1 or more")
        require("max_megapixels", self.max_megapixels, 0 < self.max_megapixels <= 1000, "above 0 and at most 1000")
        require("min_entropy", self.min_entropy, 0 <= self.min_entropy < 8, "0 to below 8 bits")
        require("min_sharpness", self.min_sharpness, self.min_sharpness >= 0, "0 or more")
        require("max_one_colour", self.max_one_colour, 0 < self.max_one_colour <= 1, "above 0 and at most 1")
        require("decode_seconds", self.decode_seconds, self.decode_seconds >= 0, "0 or more")
        require("decode_mb", self.decode_mb, self.decode_mb >= 256, "256 or more")
        for name in ("hooks", "drop"):
            require(name, repr(getattr(self, name)), not isinstance(getattr(self, name), str), "a tuple of words")
