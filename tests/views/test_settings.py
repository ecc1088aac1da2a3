"""The shared rules of view settings: bounds included where the rule says so."""

from __future__ import annotations

from dataclasses import make_dataclass
from typing import Any

import pytest

from sciencessl.errors import ConfigError
from sciencessl.views.settings import RULES, check_views

GOOD = {
    "size": [8, 512], "area": [(0.1, 1.0), (1.0, 1.0)], "aspect": [(0.5, 2.0), (1.0, 1.0)], "brightness": [0.0, 1.0],
    "contrast": [0.0, 1.0], "saturation": [0.0, 1.0], "hue": [0.0, 0.5], "greyscale": [0.0, 1.0], "blur": [0.0, 1.0],
    "evaluation_window": [0.01, 1.0], "large_views": [1, 8], "small_views": [0, 8], "small_size": [8, 96],
    "small_area": [(0.05, 0.14)], "instances": [0, 4], "instance_size": [8, 96],
    "stain": [0.0, 0.2], "stain_p": [0.0, 1.0], "strength": [0.0, 1.0],
}  # fmt: skip
BAD = {
    "size": [7, -1], "area": [(0.0, 1.0), (0.5, 0.4), (0.5, 1.1), (0.5,)], "aspect": [(0.0, 1.0), (2.0, 1.0)],
    "brightness": [-0.1, 1.1], "contrast": [-0.1, 1.1], "saturation": [-0.1, 1.1], "hue": [-0.1, 0.6],
    "greyscale": [-0.1, 1.1], "blur": [-0.1, 1.1], "evaluation_window": [0.0, 1.1],
    "large_views": [0], "small_views": [-1], "small_size": [7], "instances": [-1], "instance_size": [7],
    "small_area": [(0.0, 0.1), (0.5, 0.4), (0.5, 1.1)], "stain": [-0.1, 1.0],
    "stain_p": [-0.1, 1.1], "strength": [-0.1, 1.1],
}  # fmt: skip


def settings(name: str, value: Any) -> Any:
    return make_dataclass("Views", [(name, Any), ("other", int)])(value, -1)


def test_every_rule_is_tested() -> None:
    assert set(RULES) == set(GOOD) == set(BAD)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in GOOD.items() for value in values])
def test_good_values_pass(name: str, value: Any) -> None:
    check_views(settings(name, value))


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_bad_values_are_named_with_their_rule(name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as told:
        check_views(settings(name, value))
    assert str(told.value) == f"views.{name} is {value}; it must be {RULES[name][1]}."
