"""A shuffled store: the same samples in rows that are random draws, whatever memory it took and wherever it was cut."""

from __future__ import annotations

import json
import signal
from collections import Counter, namedtuple
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sciencessl import cli
from sciencessl.data.mixing import Mixing, mixing_score
from sciencessl.data.order import Order
from sciencessl.errors import ConfigError, DataError, StoreError
from sciencessl.store import derived
from sciencessl.store import shuffle as module
from sciencessl.store.reader import Store
from sciencessl.store.removals import remove
from sciencessl.store.shuffle import SCRATCH, shuffle, shuffle_text
from sciencessl.store.verify import verify
from sciencessl.store.writer import Refusal

Make = Callable[..., Store]
SampleFactory = Callable[..., object]
Content = Callable[[Store], dict[str, object]]
SMALL = 1.3e-4
"""GiB: less than all rows of `sorted_store` take together."""


@pytest.fixture(scope="module")
def sorted_store(tmp_path_factory: pytest.TempPathFactory, make: Make, sample: SampleFactory) -> Store:
    """16 rows of 40 samples, four rows of each class, as a survey stores one patch of sky after the other."""
    splits = ("train", "train", "train", "test")
    rows = [[sample(f"r{row}-{i}", splits[i % 4], group=f"c{row // 4}", z=i if row % 2 else i / 2)
             for i in range(40)] for row in range(16)]
    path = tmp_path_factory.mktemp("sorted") / "sorted.zarr"
    return make(path, rows, refused={3: [Refusal("bad", "corrupt", "no end")]})


def test_every_sample_is_there_bit_for_bit(sorted_store: Store, tmp_path: Path, content: Content) -> None:
    found = shuffle(sorted_store.path, tmp_path / "new.zarr", memory_gib=SMALL)
    new = Store(tmp_path / "new.zarr")
    assert found.groups > 1
    assert content(new) == content(sorted_store)
    assert new.rows.schema.field("z").type == sorted_store.rows.schema.field("z").type
    assert new.refusals().equals(sorted_store.refusals())
    assert verify(new.path) == []
    assert not (new.path / SCRATCH).exists()


def _mixing(store: Store) -> Mixing:
    """Of the groups, in batches that come from eight streams: in as many streams as samples anything mixes."""
    index = store.split("train").all()
    return mixing_score(Order(len(index), 0, 120), np.unique(store.column("group")[index], return_inverse=True)[1])


def test_each_row_is_a_random_draw(sorted_store: Store, tmp_path: Path) -> None:
    shuffle(sorted_store.path, tmp_path / "new.zarr")
    new = Store(tmp_path / "new.zarr")
    after = _mixing(new)
    assert _mixing(sorted_store).score > 2
    assert abs(after.score - 1) < 4 * after.error
    rows = np.searchsorted(new.row_first, np.arange(len(new)), side="right") - 1
    classes = new.column("group")
    # 40 samples a row of four equal classes: one that lacks a class has a chance of 4e-5.
    assert all(len(set(classes[rows == row])) == 4 for row in range(new.header.rows))
    sizes = np.bincount(rows)
    assert len(sizes) == 16
    # Binomial: 40 on average, with a deviation of 6.1.
    assert 15 < sizes.min() <= sizes.max() < 65
    assert new.header.places == sizes.max()


def test_the_seed_decides_and_memory_does_not(sorted_store: Store, tmp_path: Path) -> None:
    made = [shuffle(sorted_store.path, tmp_path / f"{n}.zarr", seed, memory)
            for n, (seed, memory) in enumerate(((0, 1.0), (0, SMALL), (1, 1.0)))]
    assert made[0].groups < made[1].groups
    assert made[0].manifest_digest == made[1].manifest_digest != made[2].manifest_digest


def test_a_second_call_writes_nothing_and_a_dry_run_neither(sorted_store: Store, tmp_path: Path) -> None:
    out = tmp_path / "new.zarr"
    planned = shuffle(sorted_store.path, out, dry_run=True)
    assert not out.exists()
    assert "would hold 640 samples in 16 random rows" in shuffle_text(planned)
    first = shuffle(sorted_store.path, out)
    assert (planned.rows, planned.bytes) == (first.rows, first.bytes)
    files = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = shuffle(sorted_store.path, out)
    assert again.nothing_to_do
    assert again.manifest_digest == first.manifest_digest
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == files
    with pytest.raises(StoreError, match="holds something else than what `store shuffle --seed 2` makes of"):
        shuffle(sorted_store.path, out, seed=2)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal here")
@pytest.mark.parametrize("after", [14, 60])
def test_a_kill_leaves_what_a_second_call_completes(
    sorted_store: Store, tmp_path: Path, killed: Callable[[int, str], int], after: int
) -> None:
    out = tmp_path / "new.zarr"
    code = (f"from sciencessl.store.shuffle import shuffle; "
            f"shuffle({str(sorted_store.path)!r}, {str(out)!r}, memory_gib={SMALL})")
    assert killed(after, code) == -signal.SIGKILL
    # With other memory than before: what was dealt stays as it was dealt.
    whole = shuffle(sorted_store.path, tmp_path / "whole.zarr").manifest_digest
    assert shuffle(sorted_store.path, out).manifest_digest == whole
    assert verify(out) == []


def test_withdrawn_samples_and_their_labels_stay_behind(survey: Store, tmp_path: Path, content: Content) -> None:
    remove(survey.path, ["a1"], "blurred")
    found = shuffle(survey.path, tmp_path / "new.zarr")
    new = Store(tmp_path / "new.zarr")
    assert (found.n_samples, found.removed, len(new)) == (6, 1, 6)
    assert content(new) == content(Store(survey.path))
    assert new.tables == ["labels"]
    assert new.table("labels").data["id"].to_pylist() == ["c0"]
    assert "without 1 withdrawn ones" in shuffle_text(found)
    remove(survey.path, survey.ids, "all")
    with pytest.raises(DataError, match=r"all samples of .* are withdrawn"):
        shuffle(survey.path, tmp_path / "none.zarr")


def test_rows_that_would_overflow_are_more(
    tmp_path: Path, make: Make, sample: SampleFactory, content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make(tmp_path / "old.zarr", [[sample(f"x{i}", image=bytes(1000)) for i in range(64)]])
    counted = module._count
    tried = []

    def narrow(store: Store, deal: module._Deal) -> module._Deal | None:
        tried.append(deal.rows)
        found = counted(store, deal)
        return found if found is not None and found.samples.max() <= 6 else None

    monkeypatch.setattr(module, "_count", narrow)
    found = shuffle(old.path, tmp_path / "new.zarr")
    assert tried[0] == 16
    assert found.rows == tried[-1] > 16
    assert content(Store(found.out)) == content(old)


def test_what_it_refuses(sorted_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="seed is -1"):
        shuffle(sorted_store.path, tmp_path / "x.zarr", seed=-1)
    with pytest.raises(ConfigError, match=r"memory_gib is 1e-09; rows of up to 0\.0 MiB need .* or more"):
        shuffle(sorted_store.path, tmp_path / "x.zarr", memory_gib=1e-9)
    usage = namedtuple("usage", "total used free")(10, 10, 0)
    monkeypatch.setattr(derived.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StoreError, match=r"needs .* GiB and .* has 0\.00 GiB free"):
        shuffle(sorted_store.path, tmp_path / "x.zarr")


def test_samples_that_were_lost_between_the_passes_are_noticed(
    sorted_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "new.zarr"
    monkeypatch.setattr(module, "finish_derived", _fail)
    monkeypatch.setattr(module.Spill, "clear", lambda _: None)
    with pytest.raises(StoreError, match="cannot write"):
        shuffle(sorted_store.path, out)
    (out / "receipts" / "00000003.json").unlink()
    with pytest.raises(StoreError, match=r"samples of row 3 are missing in \.shuffling, though it was not written"):
        shuffle(sorted_store.path, out)


def test_a_call_after_all_rows_deals_nothing_again(
    sorted_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "new.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(module, "finish_derived", _fail)
        with pytest.raises(StoreError, match="cannot write"):
            shuffle(sorted_store.path, out)
    monkeypatch.setattr(module, "_spill_piece", _fail)
    found = shuffle(sorted_store.path, out)
    assert not found.nothing_to_do
    # A kill between sealing and the end leaves the folder to the next call.
    (out / SCRATCH).mkdir()
    assert shuffle(sorted_store.path, out).nothing_to_do
    assert not (out / SCRATCH).exists()


def _fail(*_: object) -> None:
    raise OSError("no space left")


def test_the_draw_is_even_and_keyed(sorted_store: Store) -> None:
    keys = np.random.default_rng(0).integers(0, 256, (40_000, 16), dtype=np.uint8)
    deal = module._deal(sorted_store, 0)
    rows = deal.row_of(keys)
    counts = np.array([Counter(rows.tolist())[row] for row in range(16)])
    # Chi-square with 15 degrees of freedom: 37.7 is exceeded once in a thousand draws.
    assert ((counts - 2500) ** 2 / 2500).sum() < 37.7
    other = module._deal(sorted_store, 1).row_of(keys)
    assert abs((rows == other).mean() - 1 / 16) < 0.006


def test_the_verb(sorted_store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["store", "shuffle", str(sorted_store.path), "--out", str(tmp_path / "new.zarr"), "--seed", "3"]
    assert cli.run([*words, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 16
    assert cli.run(words) == 0
    assert "640 samples in 16 random rows" in capsys.readouterr().out
