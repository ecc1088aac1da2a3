"""What the galaxy domain tells the engine: a contract that holds together."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from sciencessl.domains.galaxy import SPEC
from sciencessl.domains.galaxy.schema import schema_names
from sciencessl.registry import load_domain, resolve
from sciencessl.samples import Sample


def test_the_registry_finds_it() -> None:
    assert load_domain("galaxy") is SPEC
    assert (SPEC.name, SPEC.api) == ("galaxy", 1)
    assert SPEC.title


def test_what_it_names_exists() -> None:
    for target in (SPEC.decode, SPEC.to_input, SPEC.label_loss, *SPEC.sources.values()):
        assert callable(resolve(target))
    names = [column.name for column in SPEC.columns]
    assert len(set(names)) == len(names)
    assert all(column.description for column in SPEC.columns)
    assert {*SPEC.identity, *([SPEC.group] if SPEC.group else [])} <= set(names)


def test_it_travels_to_other_processes() -> None:
    assert pickle.loads(pickle.dumps(SPEC)).name == SPEC.name
    settings = pickle.loads(pickle.dumps(SPEC.train_options()))
    assert settings == SPEC.train_options()


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_display_is_rgb8(channels: int, dtype: str) -> None:
    image = (np.random.default_rng(0).random((12, 10, channels)) * 200).astype(dtype)
    shown = SPEC.display(Sample({SPEC.primary: image}, {}, "a", 0))
    assert shown.shape == (12, 10, 3)
    assert shown.dtype == np.uint8
    if channels == 3 and dtype == "uint8":
        assert np.array_equal(shown, image)


def test_positions_labels_and_schemas() -> None:
    assert {column.name: column.unit for column in SPEC.columns if column.role == "position"} == {
        "ra": "deg", "dec": "deg",
    }  # fmt: skip
    assert set(SPEC.labels) == set(schema_names())
    assert SPEC.fields["image"].scale_unit == "arcsec/px"
    assert SPEC.group == ""
    assert SPEC.after_prepare is not None
