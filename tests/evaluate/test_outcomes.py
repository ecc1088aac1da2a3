"""Scores by groups of test samples, as a transfer gives them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sciencessl.errors import ConfigError
from sciencessl.evaluate.results import TransferResult
from sciencessl.evaluate.transfer import transfer
from sciencessl.store.reader import Store

NAMES = [f"g{i:03d}" for i in range(120)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, make_store: Any) -> Store:
    """Magnitudes, one in five missing and one infinite; sizes of three values; redshifts of a few galaxies only."""
    columns = {
        name: {
            "mag_r": float("inf") if i == 6 else None if i % 5 == 0 else 14.0 + i / 30,
            "size_px": None if i % 10 == 0 else 64 + 32 * (i % 3),
            "redshift": 0.01 * i if i % 12 == 7 else None,
            "note": None,
        }
        for i, name in enumerate(NAMES)
    }
    return make_store(tmp_path_factory.mktemp("by") / "s.zarr", NAMES, columns=columns)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, store: Store, make_run: Any) -> Any:
    folder = tmp_path_factory.mktemp("scored")
    run = make_run(folder / "first", store)
    task = folder / "kinds.yaml"
    task.write_text("column: class\nmetric: accuracy\nbudgets: [all]\n", encoding="utf-8")

    def score(by: str) -> TransferResult:
        found = transfer([run], store.path, folder / "out", task=str(task), arms=("frozen",), by=by)
        assert isinstance(found, TransferResult)
        return found

    return score


def test_a_magnitude_is_cut_into_bins_and_missing_values_are_a_group(store: Store, scored: Any) -> None:
    result = scored("mag_r")
    groups = result.details[0].groups
    test = store.split("test").all()
    values = np.array([store.column("mag_r")[i] for i in test], dtype=np.float64)
    assert len(groups) == 5
    assert groups[-1].group == "missing"
    assert groups[-1].n == int((~np.isfinite(values)).sum()) > 0
    known = np.sort(values[np.isfinite(values)])
    edges = [known[-(-(len(known) - 1) * quarter // 4)] for quarter in (1, 2, 3)]
    assert [line.n for line in groups[:4]] == np.histogram(known, [0, *edges, 99])[0].tolist()
    assert [float(line.group.partition(" ")[0]) for line in groups[1:4]] == pytest.approx(edges, abs=0.05)
    # Accuracy of all is the mean over samples of that of the groups.
    share = sum(line.n * line.score for line in groups) / len(test)
    assert share == pytest.approx(result.rows[0].score)


def test_few_values_are_categories_and_rare_ones_have_no_interval(store: Store, scored: Any) -> None:
    sizes = scored("size_px").details[0].groups
    assert [line.group for line in sizes] == ["128", "64", "96", "missing"]
    assert sum(line.n for line in sizes) == len(store.split("test"))
    redshifts = scored("redshift").details[0].groups
    assert redshifts[-1].group == "missing"
    assert [line.low for line in redshifts[:-1]] == [None] * (len(redshifts) - 1)
    assert all("too few for an interval" in line.note for line in redshifts[:-1])


def test_a_column_without_any_value_or_that_is_not_there(scored: Any) -> None:
    with pytest.raises(ConfigError, match="--by note: groups: no value among"):
        scored("note")
    with pytest.raises(ConfigError, match=r"--by mag: .* has no such column. Did you mean 'mag_r'"):
        scored("mag")
