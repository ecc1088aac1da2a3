"""The benchmark of the step runs whole on a few small images, and says what is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("byol_step")


@pytest.fixture(scope="module")
def found(script: ModuleType) -> Iterator[Any]:
    """Measured with itself as the only peer, and one that is not installed."""

    def twin(setting: Any) -> Any:
        return script.ours(setting)

    def missing(setting: Any) -> Any:
        import no_such_package  # type: ignore[import-not-found]

        return no_such_package

    setting = script.Setting("resnet10t", 32, 4, hidden=16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "PEERS", (twin, missing))
        patch.setattr(script, "matmul_gflops", lambda: {"float32": 1.0, "bfloat16": 1.0})
        yield script.measure(setting, 1, {"resnet10t": script.efficiency(setting, 1)})


def test_it_measures_every_number_on_a_few_images(script: ModuleType, found: Any, capsys: Any) -> None:
    assert found["name"] == "byol_step"
    assert found["ratios"].keys() == found["absolute"]["processor_ratios"].keys() == {"twin"}
    assert found["absolute"]["step_ms"].keys() == {"ours", "twin"}
    assert 0 < found["absolute"]["efficiency"]["resnet10t"] < 10
    script.show(found)
    assert "resnet10t    efficiency" in capsys.readouterr().out


def test_what_is_missing_is_named_with_the_reason(found: Any) -> None:
    solo_learn, missing = found["absent"]
    assert "requires torch==1.9.1" in solo_learn
    assert missing == "missing: No module named 'no_such_package'"


def test_a_ratio_above_one_means_that_ours_is_faster(script: ModuleType) -> None:
    ours, slower = [[1.0, 1.0], [2.0, 2.0], [4.0, 1.0]], [[2.0, 3.0], [4.0, 6.0], [40.0, 3.0]]
    spent = {"ours": np.array(ours), "slower": np.array(slower)}
    assert script.compared(spent, "ours") == {"slower": [2.0, 3.0]}


def test_efficiency_is_eight_thirds_of_supervised_over_ours(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    spent = {"byol": np.array([[8.0, 4.0]]), "supervised": np.array([[3.0, 1.2]])}
    monkeypatch.setattr(script, "seconds", lambda steps, rounds: spent)
    found = script.efficiency(script.Setting("resnet10t", 32, 2, hidden=16), 1)
    assert found["efficiency"] == pytest.approx(1.0)
    assert found["processor"] == pytest.approx(0.8)
    assert found["images_per_s"] == {"byol": 0.25, "supervised": pytest.approx(2 / 3)}
