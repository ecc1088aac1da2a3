"""The view settings that domains share, and their rules, checked by name when a domain's settings are built."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sciencessl.errors import ConfigError

Pair = tuple[float, float]


def _pair(value: Any, most: float) -> bool:
    return len(value) == 2 and 0 < value[0] <= value[1] <= most


RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "size": (lambda v: v >= 8, "8 pixels or more; 64 suits a small encoder"),
    "area": (lambda v: _pair(v, 1.0), "two fractions in (0, 1], the smaller first"),
    "large_views": (lambda v: v >= 1, "1 or more; most methods compare 2"),
    "small_views": (lambda v: v >= 0, "0 or more; multi-crop has 4 to 8"),
    "small_size": (lambda v: v >= 8, "8 pixels or more; about half of views.size"),
    "small_area": (lambda v: _pair(v, 1.0), "two fractions in (0, 1], the smaller first"),
    "instances": (lambda v: v >= 0, "0 or more; UniVIP has 4"),
    "instance_size": (lambda v: v >= 8, "8 pixels or more; about half of views.size"),
    "aspect": (lambda v: _pair(v, float("inf")), "two positive numbers, the smaller first"),
    "stain": (lambda v: 0 <= v < 1, "a fraction in [0, 1): 0 for off, 0.05 for light, 0.2 for strong"),
    "stain_p": (lambda v: 0 <= v <= 1, "a probability in [0, 1]"),
    "brightness": (lambda v: 0 <= v <= 1, "a fraction in [0, 1]"),
    "contrast": (lambda v: 0 <= v <= 1, "a fraction in [0, 1]"),
    "saturation": (lambda v: 0 <= v <= 1, "a fraction in [0, 1]"),
    "hue": (lambda v: 0 <= v <= 0.5, "turns in [0, 0.5]"),
    "greyscale": (lambda v: 0 <= v <= 1, "a probability in [0, 1]"),
    "strength": (lambda v: 0 <= v <= 1, "a factor in [0, 1]; 1 is that of the paper"),
    "blur": (lambda v: 0 <= v <= 1, "a probability in [0, 1]"),
    "evaluation_window": (lambda v: 0 < v <= 1, "a fraction in (0, 1]"),
}
"""Name of a setting -> whether a value is allowed, and the rule in words."""


def check_views(settings: Any) -> None:
    """Check every setting of a dataclass whose name has a rule.

    Raises:
        ConfigError: Naming the setting, its value and the rule.
    """
    for entry in dataclasses.fields(settings):
        value = getattr(settings, entry.name)
        if entry.name in RULES and not RULES[entry.name][0](value):
            raise ConfigError(f"views.{entry.name} is {value}; it must be {RULES[entry.name][1]}.")


FURTHER = frozenset({"large_views", "small_views", "small_size", "small_area", "instances", "instance_size"})
"""Settings of the views beside the first one: neither it nor the evaluated view hangs on them."""


@dataclass(frozen=True)
class CropViews:
    """How many views of a sample there are, how large, and how much of it they show; a domain extends it.

    Attributes:
        size: Side of a large view in pixels.
        area: Smallest and largest crop area, as a fraction of the image.
        large_views: Large views of a sample, most often two. Where two have colours of their own, further ones take
            turns.
        small_views: Small views beside the large ones, for multi-crop methods.
        small_size: Side of a small view in pixels.
        small_area: Smallest and largest crop area of small views, as a fraction of the image.
        instances: Crops of objects in the overlap of the two large views, each made twice, after these, in place of
            small views; for UniVIP.
        instance_size: Side of such a crop in pixels.
        plain: No pixel value is changed: views are cropped and mirrored (and turned, where no direction is up), as for
            methods that predict what is masked.

    Raises:
        ConfigError: For a value that breaks its rule in `RULES`, and for instances beside other than two large views.
    """

    size: int = 64
    area: Pair = (0.08, 1.0)
    large_views: int = 2
    small_views: int = 0
    small_size: int = 32
    small_area: Pair = (0.05, 0.14)
    instances: int = 0
    instance_size: int = 32
    plain: bool = False

    def __post_init__(self) -> None:
        check_views(self)
        if self.instances and self.large_views != 2:
            raise ConfigError(
                f"views.instances is {self.instances} and views.large_views {self.large_views}; instances lie in the "
                "overlap of two large views. Set --views.large_views 2, or --views.instances 0."
            )
        if self.instances and self.small_views:
            # Where both are of one size, a method that counts its views would take the ones for the others.
            raise ConfigError(
                f"views.instances is {self.instances} and views.small_views {self.small_views}; no method compares "
                "both. Set --views.small_views 0, or --views.instances 0."
            )
