"""The leak check of `transfer`: the label pool and what pretraining saw against the test, by names, contents and near
copies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sciencessl.domains.galaxy.tasks import MORPHOLOGY
from sciencessl.errors import DataError, LeakError
from sciencessl.evaluate.leak_check import check_leak
from sciencessl.evaluate.tasks import load_task
from sciencessl.evaluate.tested_on import load_across, load_held_out
from sciencessl.spec import TransferTask
from sciencessl.store.reader import Store

NAMES = [f"g{i:03d}" for i in range(72)]
OTHERS = [f"h{i:03d}" for i in range(30)]
SITES = {name: "abc"[i // 9 % 3] for i, name in enumerate(NAMES)}
BY_GROUP = TransferTask("tissue", "class", unit="group")


def _sites(folder: Path, make_store: Any, **changes: Any) -> Store:
    splits = {name: ("train", "train", "val", "test")[i // 3 % 4] for i, name in enumerate(NAMES)}
    columns = {name: {"site": SITES[name], **changes.get(name, {})} for name in NAMES}
    made: Store = make_store(folder, NAMES, splits=splits, columns=columns)
    return made


@pytest.mark.parametrize(("task", "by"), [(BY_GROUP, "18 by group"), (MORPHOLOGY, "18 by group"),
                                          (TransferTask("t", "class", unit="tile"), "18 by tile .*; 18 by group")])
def test_a_group_with_samples_on_both_sides_is_refused_or_accepted_with_words(
    tmp_path: Path, make_store: Any, task: TransferTask, by: str
) -> None:
    # Splits change every three samples and groups every nine, so that none has test samples alone.
    groups = {name: {"group": f"p{i // 9}", "tile": f"t{i // 9}"} for i, name in enumerate(NAMES)}
    store = _sites(tmp_path / "s", make_store, **groups)
    data = load_task(store, task)
    with pytest.raises(LeakError, match=rf"18 of 18 test samples of .* as samples of the label pool: {by} \(such as g"
                                        r".*The test would leak\. Prepare it with --group COLUMN.*--accept-leak"):
        check_leak(store, data, store)
    words = check_leak(store, data, store, accept=True).pool
    assert words.startswith(f"18 of 18 test samples of {store.path} are the same thing as samples of the label pool: ")
    tiles = {name: {"group": f"p{i // 6}"} for i, name in enumerate(NAMES)}  # whose borders are not those of sites
    shared = _sites(tmp_path / "t", make_store, **tiles)
    with pytest.raises(LeakError, match=r"\d of 27 test samples .*: \d by group \(such as"):
        check_leak(shared, load_held_out(shared, BY_GROUP, "site", "b"), shared)


def test_the_identity_of_the_domain_is_asked_for_too(tmp_path: Path, make_store: Any) -> None:
    columns = {name: {"patient": f"p{i // 9}"} for i, name in enumerate(NAMES)}
    store = make_store(tmp_path / "s", NAMES, domain="pathology", columns=columns)
    with pytest.raises(LeakError, match="by patient"):
        check_leak(store, load_task(store, MORPHOLOGY), store)


def _leak(store: Store, other: Store, task: TransferTask = MORPHOLOGY) -> None:
    check_leak(store, load_across(store, task, other), other)


def test_the_same_sample_by_id_in_both_stores(tmp_path: Path, survey: Store, make_store: Any) -> None:
    pool = [survey.ids[i] for i in survey.split("train").all()]
    with pytest.raises(LeakError, match=r"2 of 32 test samples of .* are the same thing as samples of the label pool "
                                        rf"of .*survey\.zarr: 2 by id \(such as {pool[0]}, {pool[1]}\); 2 by stored"):
        _leak(survey, make_store(tmp_path / "o", [*pool[:2], *OTHERS]))
    # Other pixels under the same id, and samples of split=test, which no fit learns from.
    with pytest.raises(DataError, match=r"1 by id \(such as g\d+\)\. The test would leak"):
        _leak(survey, make_store(tmp_path / "p", [pool[0], *OTHERS], side=44))
    test = [survey.ids[i] for i in survey.split("test").all()]
    _leak(survey, make_store(tmp_path / "q", [*test, *OTHERS]))


def test_the_same_pixels_under_another_id(tmp_path: Path, make_store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {name: {"pixel_hash": f"x{i}", "content_hash": f"y{i}"} for i, name in enumerate(NAMES)}
    hashed = make_store(tmp_path / "b", NAMES, columns=columns)
    again = {name: {"pixel_hash": f"z{i}", "content_hash": f"w{i}"} for i, name in enumerate(OTHERS)}
    clean = make_store(tmp_path / "c", OTHERS, columns=again)
    recoded = make_store(tmp_path / "d", OTHERS, columns=again | {"h004": {"pixel_hash": "x4", "content_hash": "w4"}})
    plain = make_store(tmp_path / "a", NAMES)
    _leak(hashed, clean)
    with pytest.raises(DataError, match=r"1 of 30 test samples .*: 1 by pixel_hash \(such as h004\)\. The test would"):
        _leak(hashed, recoded)
    _leak(plain, clean)
    # Where one store keeps no hashes the bytes are read: here those of one pool sample are those of one test sample.
    payloads, twin = Store.payloads, "h004"

    def copied(self: Store, name: str, index: np.ndarray) -> list[Any]:
        if self.ids[int(index[0])] in (twin, "g001"):
            return [b"the same"]
        return payloads(self, name, index)

    monkeypatch.setattr(Store, "payloads", copied)
    with pytest.raises(DataError, match=r"1 of 30 test samples .*: 1 by stored bytes \(such as h004\)"):
        _leak(plain, clean)
    _leak(hashed, clean)


def test_the_same_group_in_both_stores(tmp_path: Path, make_store: Any) -> None:
    ours = make_store(tmp_path / "a", NAMES, columns={name: {"group": f"p{i // 9}"} for i, name in enumerate(NAMES)})
    theirs = {name: {"group": f"q{i}"} for i, name in enumerate(OTHERS)}
    _leak(ours, make_store(tmp_path / "b", OTHERS, columns=theirs))
    shared = make_store(tmp_path / "c", OTHERS, columns=theirs | {"h003": {"group": "p0"}, "h007": {"group": None}})
    with pytest.raises(DataError, match=r"1 by group \(such as h003\)"):
        _leak(ours, shared)


def test_equal_bytes_are_found_in_one_store(survey: Store) -> None:
    data = load_task(survey, MORPHOLOGY)
    check_leak(survey, data, survey)
    both = replace(data, test=np.append(data.test, data.train[:1]))
    with pytest.raises(DataError, match=r"1 of 49 test samples .* 1 by id .* 1 by stored bytes"):
        check_leak(survey, both, survey)
