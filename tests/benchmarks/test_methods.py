"""The benchmark of the methods runs whole on a few small images, without lightly too."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from sciencessl import registry

KINDS = ["byol", "labels_only", "mae", "univip"]
"""Usual views, one with a label, another encoder, instances."""


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], ModuleType]) -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")  # as for a script that is run
        yield load_script("methods")


@pytest.fixture(scope="module")
def found(script: ModuleType) -> Iterator[Any]:
    """Measured on tiny encoders, with ours once more as lightly's BYOL, and lightly's MAE missing."""

    def twin(case: Any, encoder: Any) -> Any:
        if case.method == "mae":
            import no_such_package  # type: ignore[import-not-found]

            return no_such_package
        return script.ours(case)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "VITS", {"mae": ("test_vit", 32)})
        patch.setattr(script, "lightly", twin)
        patch.setattr(script, "their_encoder", lambda case: None)
        yield script.measure(script.settings_of(KINDS, "test_resnet", 32, 4), 1)


def test_it_measures_every_number_of_each_method(script: ModuleType, found: Any, capsys: Any) -> None:
    rows = found["absolute"]["methods"]
    assert sorted(rows) == KINDS
    for row in rows.values():
        assert all(np.isfinite(value) and value > 0 for value in row.values())
    assert set(found["absolute"]["encoders"]) == {"test_resnet", "test_vit"}
    script.show(found)
    assert "univip" in capsys.readouterr().out


def test_memory_is_that_of_the_method_over_that_of_byol(found: Any) -> None:
    rows = found["absolute"]["methods"]
    assert rows["byol"]["memory_over_byol"] == 1.0
    assert rows["univip"]["memory_over_byol"] > 1.0 > rows["labels_only"]["memory_over_byol"]
    assert rows["univip"]["peak_bytes"] == pytest.approx(
        rows["univip"]["memory_over_byol"] * rows["byol"]["peak_bytes"]
    )


def test_lightly_is_compared_where_it_has_the_method_and_is_there(found: Any) -> None:
    assert set(found["ratios"]) == {"byol/lightly", "byol/lightly_our_encoder"}
    assert found["absent"] == ["mae/lightly: No module named 'no_such_package'"]


def test_a_ratio_above_one_means_that_ours_is_faster(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MoCo v2 is compared in one direction, its preset has both: each has a time of its own."""
    times = {"ours": 2.0, "byol": 4.0, "lightly": 3.0, "lightly_our_encoder": 1.5, "paired": 1.0}
    monkeypatch.setattr(script, "ours", lambda case: None)
    monkeypatch.setattr(script, "peak", lambda case: 30)
    monkeypatch.setattr(script, "lightly", lambda case, encoder: None)
    monkeypatch.setattr(script, "their_encoder", lambda case: None)
    monkeypatch.setattr(
        script, "seconds", lambda steps, rounds: {name: np.array([[100.0, times[name]]]) for name in steps}
    )
    case = script.Case("test_resnet", 32, 4, method="moco_v2")
    found = script.Found({}, {}, [], {})
    script.measure_method(case, None, 20, 1, found)
    row = found.methods["moco_v2"]
    assert (row["images_per_s"], row["over_byol"], row["memory_over_byol"]) == (2.0, 2.0, 1.5)
    assert found.ratios == {"moco_v2/lightly": 3.0, "moco_v2/lightly_our_encoder": 1.5}


def test_every_method_can_be_laid_out_with_the_options_of_its_preset(script: ModuleType) -> None:
    for entry in registry.methods():
        case = script.Case("test_resnet", 32, 2, method=entry.name)
        assert isinstance(case.options, case.kind.Options)
        assert len(case.views()) == case.kind.n_views
    assert dataclasses.replace(case, method="byol").options.hidden == 1024


def test_a_queue_takes_part_from_the_first_step_on(script: ModuleType) -> None:
    case = script.Case("test_resnet", 32, 2, method="swav")
    assert script.make_method(case).get_extra_state().tolist() == [script.BEGIN, case.options.queue]


def test_a_method_that_does_not_take_the_encoder_is_absent_with_the_reason(script: ModuleType) -> None:
    found = script.Found({}, {}, [], {})
    script.measure_method(script.Case("test_resnet", 32, 2, method="mae"), None, 1, 1, found)
    assert found.methods == {}
    assert found.absent[0].startswith("mae: method Mae hides patches from its encoder")
