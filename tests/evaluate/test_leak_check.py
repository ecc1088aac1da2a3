"""The leak check of `transfer`: the label pool and what pretraining saw against the test, by names, contents and near
copies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sciencessl import cli
from sciencessl.domains.galaxy.tasks import MORPHOLOGY
from sciencessl.errors import DataError, LeakError
from sciencessl.evaluate.encoders import run_encoder
from sciencessl.evaluate.leak_check import Leaks, check_leak
from sciencessl.evaluate.results import LeakCheck, read_result
from sciencessl.evaluate.tasks import load_task
from sciencessl.evaluate.tested_on import load_across, load_held_out
from sciencessl.spec import TransferTask
from sciencessl.store.reader import Store
from sciencessl.store.removals import remove
from sciencessl.store.tables import write_table
from sciencessl.train.folder import StoreRecord
from tests.photos import COPIES, encoded, photo, photo_store

NAMES = [f"g{i:03d}" for i in range(72)]
OTHERS = [f"h{i:03d}" for i in range(30)]
SITES = {name: "abc"[i // 9 % 3] for i, name in enumerate(NAMES)}
COLOUR = TransferTask("colour", "class")
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


def _labelled(path: Path, first: int = 0, n: int = 24, test: int = 3, **options: Any) -> Store:
    """Photos of two classes in turn, every `test`-th in split=test."""
    names = [f"p{i:03d}" for i in range(first, first + n)]
    entries = [(name, "test" if i % test == 0 else "train", encoded(photo(first + i))) for i, name in enumerate(names)]
    made = photo_store(path, entries, **options)
    write_table(path, "labels", pa.table({"id": names, "class": ["red" if i % 2 else "blue" for i in range(n)]}))
    return made


def _crawl(path: Path, planted: bool = True, **options: Any) -> Store:
    """Other photos, and copies of the test photos 0, 3, 6 and 9 of `_labelled` under other names."""
    entries = [(f"tar/{i:05d}", "train", encoded(photo(1000 + i))) for i in range(20)]
    copied = {f"tar/copy {kind}": make(photo(3 * n)) for n, (kind, make) in enumerate(COPIES.items())}
    return photo_store(path, entries + [(name, "train", raw) for name, raw in copied.items() if planted], **options)


PLANTED = {f"p{3 * n:03d}": f"tar/copy {kind}" for n, kind in enumerate(COPIES)}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return _labelled(tmp_path_factory.mktemp("labelled") / "labelled.zarr")


@pytest.fixture(scope="module")
def crawl(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return _crawl(tmp_path_factory.mktemp("crawl") / "crawl.zarr", source="crawl")


def _asked(store: Store, run: Path, **options: Any) -> Leaks:
    return check_leak(store, load_task(store, COLOUR), store, runs=[run_encoder(run)], **options)


def _sweep(run: Path, store: Store, out: Path, *more: str) -> list[str]:
    task = out.with_suffix(".yaml")
    task.write_text("name: colour\ncolumn: class\nkind: class\n")
    return ["transfer", str(run), "--data", str(store.path), "--task", str(task), "--labels", "8", "--arms", "frozen",
            "random", "--subsets", "2", "--random-encoders", "1", "--out", str(out), *more]


def test_transfer_refuses_copies_that_pretraining_saw_lists_them_and_goes_on_without(
    tmp_path: Path, crawl: Store, make_run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    labelled = _labelled(tmp_path / "labelled.zarr")
    run, out = make_run(tmp_path / "byol", crawl), tmp_path / "few"
    asked = _sweep(run, labelled, out)
    assert cli.run(asked) == 4
    said = capsys.readouterr().err
    assert (f"error: 4 of 8 test samples of {labelled.path} were seen in pretraining (byol), in {crawl.path}: 4 by "
            "perceptual hash (such as p0") in said
    assert f"The test would leak. Pairs: {out}/leak/report.html, pairs.csv. Withdraw them from the test (" in said
    rows = [line.split(",") for line in (out / "leak/pairs.csv").read_text().splitlines()]
    assert rows[0] == ["test", "what", "store", "sample", "by", "confirmed", "words"]
    assert {row[0]: row[3] for row in rows[1:]} == PLANTED
    assert {*(out / "leak/remove.txt").read_text().split()} == {*PLANTED}
    page = (out / "leak/report.html").read_text()
    assert "LEAK: the test is not new" in page
    assert page.count("<figure>") == 4
    assert cli.run([*asked, "--dry-run"]) == 4
    assert "Pairs:" not in capsys.readouterr().err

    assert cli.run([*asked, "--accept-leak"]) == 0
    found = read_result(out)
    assert {row.arm: row.saw for row in found.rows} == {"frozen": "transductive, leak", "random": "none"}
    mark = found.marks["byol"]
    assert mark.startswith("Test samples were seen in pretraining, without labels. Leak accepted: 4 of 8 test samples")
    pool, trained = found.leaks
    assert pool == LeakCheck("label pool", str(labelled.path), (), 16, 8, 0, 0, {})
    assert trained == LeakCheck("pretraining", str(crawl.path), ("byol",), 24, 8, 4, 4, {"perceptual hash": 4})

    removal = ["store", "remove", str(labelled.path), "--ids", str(out / "leak/remove.txt"), "--reason", "leak"]
    assert cli.run(removal) == 0
    capsys.readouterr()
    assert cli.run(_sweep(run, labelled, tmp_path / "clean")) == 0
    assert ("leak check: no test sample is in the label pool, nor under another name in what pretraining saw (name, "
            "contents and perceptual hash within 7 bits, confirmed by pixels)") in capsys.readouterr().out
    assert read_result(tmp_path / "clean").marks["byol"] == (
        "Neither test samples nor related labels were seen in pretraining. No test image is in what it saw: compared "
        "by name, contents and perceptual hash within 7 bits, confirmed by pixels.")
    assert not (tmp_path / "clean/leak").exists()


def test_stores_without_hashes_are_searched_too(tmp_path: Path, labelled: Store, make_run: Any) -> None:
    crawl = _crawl(tmp_path / "crawl.zarr", hashed=False)
    with pytest.raises(LeakError, match="4 by perceptual hash"):
        _asked(labelled, make_run(tmp_path / "run", crawl))


def test_what_was_withdrawn_before_a_run_is_no_leak_and_what_was_after_is(
    tmp_path: Path, labelled: Store, make_run: Any
) -> None:
    crawl = _crawl(tmp_path / "crawl.zarr", source="crawl")
    before = make_run(tmp_path / "before", crawl)
    remove(crawl.path, [*PLANTED.values()], "copies of test images")
    left = Store(crawl.path)
    record = StoreRecord(str(left.path), left.digest, left.table_digests())
    after = make_run(tmp_path / "after", left, stores=(record,))
    assert _asked(labelled, after).refused == ()
    # What a run has seen it has seen, whatever was withdrawn since.
    with pytest.raises(LeakError, match=r"4 of 8 test samples .* were seen in pretraining \(before\)"):
        _asked(labelled, before)
    both = check_leak(labelled, load_task(labelled, COLOUR), labelled, accept=True,
                      runs=[run_encoder(run) for run in (before, after)])
    assert [(each.what, each.runs, len(each.refused)) for each in both.compared] == [
        ("label pool", (), 0), ("pretraining", ("before",), 4), ("pretraining", ("after",), 0)]


def test_seen_under_its_own_name_is_a_mark_and_no_refusal_but_for_another_store(
    tmp_path: Path, labelled: Store, make_run: Any
) -> None:
    everything = photo_store(tmp_path / "all.zarr", [(f"p{i:03d}", "train", encoded(photo(i))) for i in range(30)])
    run = make_run(tmp_path / "run", everything)
    found = _asked(labelled, run)
    (trained,) = found.compared[1:]
    assert (len(trained.seen.ids), trained.refused) == (8, frozenset())
    other = _labelled(tmp_path / "other.zarr", first=24, n=6)
    data = load_across(labelled, COLOUR, other)
    with pytest.raises(LeakError, match=r"6 of 6 test samples .*other\.zarr were seen in pretraining \(run\), in "
                                        r".*all\.zarr: 6 by name \(such as p0"):
        check_leak(labelled, data, other, runs=[run_encoder(run)])
    # Its own split=train is what a run learns from, and its test is new to it.
    own = _asked(labelled, make_run(tmp_path / "own", labelled))
    assert [len(each.seen.ids) for each in own.compared] == [0, 0]


def test_equal_names_of_different_images_are_no_excuse(tmp_path: Path, labelled: Store, make_run: Any) -> None:
    """A copy of p000 is refused though another image of the crawl has a test sample's name."""
    entries = [("p003", "train", encoded(photo(500))), ("x", "train", COPIES["grey"](photo(0)))]
    crawl = photo_store(tmp_path / "crawl.zarr", entries, source="crawl")
    with pytest.raises(LeakError, match=r"1 of 8 .*: 1 by perceptual hash \(such as p000 and x, score 0\.9"):
        _asked(labelled, make_run(tmp_path / "run", crawl))


def test_equal_contents_under_another_name_are_refused(tmp_path: Path, make_run: Any) -> None:
    own = {f"p{i:03d}": {"content_hash": f"c{i}", "pixel_hash": f"x{i}"} for i in range(24)}
    labelled = _labelled(tmp_path / "labelled.zarr", columns=own)
    theirs = {"tar/00000": {"content_hash": "c3", "pixel_hash": "x3"}, "tar/00001": {"content_hash": "y"}}
    crawl = _crawl(tmp_path / "crawl.zarr", planted=False, columns=theirs, source="crawl")
    with pytest.raises(LeakError, match=r"1 of 8 .*: 1 by pixel_hash \(such as p003\); 1 by content_hash"):
        _asked(labelled, make_run(tmp_path / "run", crawl))


def test_a_near_copy_in_the_label_pool_is_refused(tmp_path: Path) -> None:
    store = _labelled(tmp_path / "first.zarr")
    entries = [(f"q{i}", "test", encoded(photo(700 + i))) for i in range(4)]
    other = photo_store(tmp_path / "other.zarr", [*entries, ("copy", "test", COPIES["resized"](photo(1)))])
    write_table(other.path, "labels", pa.table({"id": ["q0", "q1", "q2", "q3", "copy"], "class": ["red", "blue"] * 2 + [
        "red"]}))
    data = load_across(store, COLOUR, other)
    with pytest.raises(LeakError, match=r"1 of 5 test samples of .* of the label pool of .*first\.zarr: 1 by "
                                        r"perceptual hash \(such as copy and p001, score 0\.\d\d, \d bits apart\)\. "
                                        r"The test would leak\. Prepare one store without them"):
        check_leak(store, data, other)


def test_a_training_store_that_is_gone_is_unknown(tmp_path: Path, labelled: Store, crawl: Store, make_run: Any) -> None:
    gone = StoreRecord(str(tmp_path / "gone.zarr"), "abc")
    found = _asked(labelled, make_run(tmp_path / "run", crawl, stores=(gone,)))
    (trained,) = found.compared[1:]
    assert trained.record() == LeakCheck("pretraining", gone.path, ("run",), None, 8, 0, 0, {})
    (line,) = found.lines()
    assert line == f"note: whether pretraining saw test samples is unknown: {gone.path} is gone or has changed"


def test_what_could_not_be_compared_is_said(
    tmp_path: Path, labelled: Store, make_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sciencessl.store.near_copies.MOST_UNHASHED", 10)
    crawl = _crawl(tmp_path / "crawl.zarr", hashed=False)
    found = _asked(labelled, make_run(tmp_path / "run", crawl))
    (line,) = found.lines()
    assert line.startswith(f"note: Near copies were not looked for: {crawl.path} has 24 images and no column")
