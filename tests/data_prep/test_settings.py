"""Settings of prepare: defaults that hold, and each rule with its message."""

from __future__ import annotations

from typing import Any

import pytest

from sciencessl.data_prep.settings import PrepareSettings
from sciencessl.errors import ConfigError


def test_defaults() -> None:
    settings = PrepareSettings()
    found = (settings.test_fraction, settings.val_fraction, settings.jpeg_quality, settings.min_px)
    assert found == (0.2, 0.0, None, 8)
    assert settings.resize_px is None
    assert settings.workers is None


@pytest.mark.parametrize(("values", "message"), [
    ({"test_fraction": 1.0}, "test_fraction is 1.0; it must be 0 or more and below 1"),
    ({"val_fraction": -0.1}, "val_fraction is -0.1"),
    ({"test_fraction": 0.6, "val_fraction": 0.5}, "something is left to train on"),
    ({"split_seed": -1}, "split_seed"),
    ({"jpeg_quality": 0}, "jpeg_quality is 0; it must be 1 to 100"),
    ({"min_px": 0}, "min_px"),
    ({"workers": -1}, "workers is -1; it must be 0 or more"),
    ({"resize_px": 4}, r"resize_px is 4; it must be at least min_px \(8\)"),
    ({"label": "class"}, "label is 'class'; it must be a tuple of columns"),
])
def test_rules(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PrepareSettings(**values)
